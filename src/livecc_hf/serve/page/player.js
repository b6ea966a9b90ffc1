// Controls the <video>, which plays while the user wants it to play and nothing holds it back.

import { SourceError } from "./source.js";

const SETTLED_MS = 250; // after the last of several seeks, until `sought`

/** `on` has callbacks: `play`, `pause`, `seeking`, `sought`, `ended`, `broken`, and `changed` for any change. */
export class Player {
  constructor(video) {
    this.video = video;
    this.on = {};
    this.source = null;
    this.isWanted = false; // whether the user wants it to play
    this.isHeld = false;
    this.isQuiet = false; // whether the current seek is the page's own
    this.beganMs = 0;
    this.settling = null;
    const listen = (name, then) => video.addEventListener(name, then);
    listen("seeking", () => this.isQuiet || this.seeking());
    listen("seeked", () => this.isQuiet || this.settle());
    listen("ended", () => {
      this.isWanted = false;
      this.on.ended?.();
    });
    listen("error", () => this.source && this.isReady && this.on.broken?.(unplayable(video)));
    // Pauses by the browser, such as by a headset's button or a locked phone.
    listen("pause", () => this.isHeld || video.ended || !this.isWanted || this.pause());
    for (const name of ["play", "pause", "timeupdate", "durationchange", "volumechange", "seeking", "seeked", "ended"]) {
      listen(name, () => this.on.changed?.());
    }
  }

  get isLive() {
    return this.source?.isLive ?? false;
  }

  /** In seconds: the current time of a file, or the time since a live source was opened. */
  get timeS() {
    return this.isLive ? (performance.now() - this.beganMs) / 1000 : this.video.currentTime;
  }

  /** Show a source's first picture. */
  async open(source) {
    this.close();
    this.source = source;
    this.isReady = false;
    const { video } = this;
    const loaded = new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(unplayable(video));
    });
    source.attach(video);
    if (source.isLive) video.play().catch(() => {});
    try {
      await loaded;
    } finally {
      video.onloadeddata = video.onerror = null;
    }
    if (this.source !== source) return;
    if (!video.videoWidth) throw new SourceError("video_without_pictures", { name: source.name });
    this.isReady = true;
    this.beganMs = performance.now();
    if (source.isLive) source.onEnded = () => this.on.ended?.();
  }

  close() {
    clearTimeout(this.settling);
    const { source, video } = this;
    [this.source, this.isWanted, this.isHeld, this.isReady] = [null, false, false, false];
    this.isQuiet = false; // a seek that is still in progress never ends
    if (!source) return;
    video.pause();
    video.removeAttribute("src");
    video.srcObject = null;
    video.load();
    source.close();
  }

  play() {
    this.isWanted = true;
    this.on.play?.();
    this.apply();
  }

  pause() {
    this.isWanted = false;
    this.on.pause?.();
    this.apply();
  }

  toggle() {
    if (this.isWanted) this.pause();
    else this.play();
  }

  /** Hold a file back until the server is ready for its frames; a live source cannot wait. */
  hold(isHeld) {
    this.isHeld = isHeld && !this.isLive;
    this.apply();
  }

  apply() {
    const { video } = this;
    this.on.changed?.();
    if (!this.source) return;
    if (!this.isWanted || this.isHeld) video.pause();
    else {
      video.play().catch((error) => {
        if (error.name === "NotAllowedError") this.pause(); // the browser requires a click first
      });
    }
  }

  /** Seek on behalf of the user. */
  seek(timeS) {
    if (this.isLive || !this.source) return;
    const end = Number.isFinite(this.video.duration) ? this.video.duration : timeS;
    this.video.currentTime = Math.min(Math.max(0, timeS), end);
  }

  /** Seek on behalf of the page, without `seeking` and `sought`; resolves when the frame is shown. */
  async goTo(timeS) {
    const { video } = this;
    if (this.isLive || Math.abs(video.currentTime - timeS) < 0.05) return;
    this.isQuiet = true;
    const there = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
    video.currentTime = timeS;
    await there;
    this.isQuiet = false;
  }

  seeking() {
    clearTimeout(this.settling);
    this.on.seeking?.();
  }

  settle() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.source && this.on.sought?.(), SETTLED_MS);
  }
}

function unplayable(video) {
  const reason = video.error?.message ?? "";
  return new SourceError(video.error?.code === MediaError.MEDIA_ERR_DECODE ? "video_damaged" : "video_unplayable", { reason });
}
