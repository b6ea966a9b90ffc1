// The words spoken by the browser. Only voices of this machine are used: others would send the words away.

const MAX_WAITING = 2; // utterances: older ones are left out, to stay with the picture
const MAX_OFFERED = 100; // voices: some systems have thousands
const DUCKED = 0.2; // of the video's own volume while the voice speaks

export class Voice {
  constructor(video, speech = window.speechSynthesis) {
    this.video = video;
    this.speech = speech;
    this.isOn = false;
    this.name = null; // of the voice that was chosen
    this.waiting = [];
    this.speaking = null;
    this.volume = null; // of the video, while it is turned down
  }

  /** Return voices of this machine, those of the page's language first. */
  voices(language) {
    const rank = (voice) => (voice.lang.startsWith(language) ? 0 : voice.lang.startsWith("en") ? 1 : 2);
    const own = this.speech ? this.speech.getVoices().filter((voice) => voice.localService) : [];
    return own.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name)).slice(0, MAX_OFFERED);
  }

  /** Call `then` whenever the browser has found more voices; many find them late. */
  onVoices(then) {
    this.speech?.addEventListener?.("voiceschanged", then);
  }

  turn(isOn) {
    this.isOn = isOn;
    if (!isOn) this.stop();
  }

  say(text) {
    if (!this.isOn || !this.speech || !text) return;
    this.waiting.push(text);
    this.waiting = this.waiting.slice(-MAX_WAITING);
    this.next();
  }

  stop() {
    this.waiting = [];
    this.speaking = null;
    this.speech?.cancel();
    this.duck(false);
  }

  next() {
    if (this.speaking) return;
    if (this.waiting.length === 0) {
      this.duck(false);
      return;
    }
    const utterance = new SpeechSynthesisUtterance(this.waiting.join(" "));
    this.waiting = [];
    const voice = this.speech.getVoices().find((each) => each.localService && each.name === this.name);
    if (voice) [utterance.voice, utterance.lang] = [voice, voice.lang];
    utterance.rate = 1.1;
    this.speaking = utterance;
    utterance.onend = utterance.onerror = () => {
      if (this.speaking !== utterance) return;
      this.speaking = null;
      this.next();
    };
    this.duck(true);
    this.speech.speak(utterance);
  }

  /** Set the video's own volume, as the user wants it. */
  setVolume(volume) {
    if (this.volume !== null) this.volume = volume;
    this.video.volume = this.volume === null ? volume : volume * DUCKED;
  }

  duck(isDown) {
    if (isDown && this.volume === null) {
      this.volume = this.video.volume;
      this.video.volume = this.volume * DUCKED;
    } else if (!isDown && this.volume !== null) {
      this.video.volume = this.volume;
      this.volume = null;
    }
  }
}
