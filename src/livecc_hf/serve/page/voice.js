// Speaks the words with the browser's voices. Only local voices are used: others would send the words to a service.

const MAX_WAITING = 2; // texts that wait to be spoken; older ones are dropped, to keep up with the video
const MAX_OFFERED = 100; // voices: some systems have thousands
const DUCKED = 0.2; // of the video's own volume while the voice speaks

export class Voice {
  constructor(video, speech = window.speechSynthesis) {
    this.video = video;
    this.speech = speech;
    this.isOn = false;
    this.name = null; // of the chosen voice
    this.waiting = [];
    this.speaking = null;
    this.volume = null; // the video's own volume while it is turned down
  }

  /** Return the local voices, those of the page's language first. */
  voices(language) {
    const rank = (voice) => (voice.lang.startsWith(language) ? 0 : voice.lang.startsWith("en") ? 1 : 2);
    const own = this.speech ? this.speech.getVoices().filter((voice) => voice.localService) : [];
    return own.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name)).slice(0, MAX_OFFERED);
  }

  /** Call `then` whenever the list of voices changes; many browsers fill it late. */
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
    const local = this.voices(document.documentElement.lang);
    const voice = local.find((each) => each.name === this.name) ?? local[0];
    if (!voice && this.speech.getVoices().length > 0) return this.stop(); // the default voice would not be local
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

  /** Set the video's own volume. */
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
