// Grabs two frames a second from a playing <video> or a live track, each with its media time.

import { PictureEncoder } from "./pictures.js";

export const STEP_S = 0.5;
const TOLERANCE_S = 1e-3;
const MAX_WAITING = 4; // frames being encoded, above which new ones are dropped
const MAX_FRAME_S = 0.1; // a longer step between frames means that the browser skipped some
const SURE_AFTER = 3; // steps between frames after which the frame duration counts as known
const AWAKE_S = 0.1; // how long before the next wanted frame to start watching

/**
 * Grabs frames and passes them to `onFrame(timeS, jpeg, presentedMs)`.
 *
 * Sampling times are multiples of half a second from the first frame. In a file, a sampling time takes the first frame
 * whose display ends at or after it, as the model's own reader does; if the browser skips it, the next frame shown.
 */
export class FrameGrabber {
  constructor(video, { maxPixels, onFrame, onDropped }) {
    this.video = video;
    this.encoder = new PictureEncoder(maxPixels);
    this.onFrame = onFrame;
    this.onDropped = onDropped;
    this.run = null; // state of the current run, from `start` to `stop`
  }

  /** Restart with the next frame. `source` is live or a file; `clock()` returns the time of a live source in seconds. */
  start(source, clock) {
    this.stop();
    const run = { startS: null, nextSlot: 0, frameS: MAX_FRAME_S, nSteps: 0, lastS: null, isOn: true, close: () => {} };
    this.run = run;
    if (source.isLive) followTrack(this, run, source, clock);
    else followFile(this, run);
  }

  stop() {
    if (!this.run) return;
    this.run.isOn = false;
    this.run.close();
    this.run = null;
  }

  /** Encode a picture if its sampling time has none yet. */
  offer(run, picture, width, height, timeS, displayEndS, presentedMs) {
    if (!run.isOn || !width || !height) return;
    run.startS ??= timeS;
    const slot = Math.floor((displayEndS - run.startS + TOLERANCE_S) / STEP_S);
    if (slot < run.nextSlot) return;
    run.nextSlot = slot + 1;
    if (this.encoder.nWaiting >= MAX_WAITING) {
      this.onDropped();
      return;
    }
    const slotS = run.startS + slot * STEP_S;
    this.encoder.encode(picture, width, height).then(
      (file) => run.isOn && this.onFrame(slotS, file, presentedMs),
      () => this.onDropped(),
    );
  }
}

// A file: watch the frames that the browser shows around each sampling time. A pending frame callback makes the page
// render at the screen's rate, so there is none in between.
function followFile(grabber, run) {
  const { video } = grabber;
  let handle = null;
  let timer = null;
  const look = (mediaS, presentedMs) => {
    const shown = currentFrame(video, mediaS);
    if (run.lastS !== null && shown.timeS > run.lastS) {
      run.frameS = Math.min(run.frameS, shown.timeS - run.lastS);
      run.nSteps += 1;
    }
    const lasts = run.nSteps >= SURE_AFTER ? run.frameS : 0;
    if (run.lastS === null || shown.timeS > run.lastS) {
      run.lastS = shown.timeS;
      grabber.offer(run, shown.picture, video.videoWidth, video.videoHeight, shown.timeS, shown.timeS + lasts, presentedMs);
    }
    shown.close();
  };
  const next = () => {
    if (!run.isOn) return;
    const restS = run.nSteps >= SURE_AFTER ? run.startS + run.nextSlot * STEP_S - run.frameS - AWAKE_S - run.lastS : 0;
    if (restS > 0) timer = setTimeout(watch, (restS * 1000) / (video.playbackRate || 1));
    else watch();
  };
  const seen = (mediaS, presentedMs) => {
    if (!run.isOn) return;
    look(mediaS, presentedMs);
    next();
  };
  const watch = () => {
    if (video.requestVideoFrameCallback) {
      handle = video.requestVideoFrameCallback((now, metadata) => seen(metadata.mediaTime, metadata.presentationTime));
    } else {
      handle = requestAnimationFrame((now) => seen(video.currentTime, now));
    }
  };
  run.close = () => {
    clearTimeout(timer);
    if (video.cancelVideoFrameCallback) video.cancelVideoFrameCallback(handle);
    else cancelAnimationFrame(handle);
  };
  if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) look(video.currentTime, performance.now());
  watch();
}

// WebCodecs gives the exact time of the frame that is drawn: when a callback runs, the next frame may be shown already.
function currentFrame(video, mediaS) {
  if (typeof VideoFrame === "function") {
    try {
      const frame = new VideoFrame(video);
      return { picture: frame, timeS: frame.timestamp / 1e6, close: () => frame.close() };
    } catch {
      // such as a protected frame, or one that is not decoded yet
    }
  }
  return { picture: video, timeS: mediaS, close: () => {} };
}

// A live track: sampled by the clock, since a shared screen sends no frames while it does not change.
function followTrack(grabber, run, source, clock) {
  const { video } = grabber;
  const latest = followLatest(source.track, run);
  const ticks = new Worker(new URL("./ticks.js", import.meta.url));
  ticks.onmessage = () => {
    if (!run.isOn || video.paused) return;
    const frame = latest.frame;
    const timeS = clock();
    if (frame) grabber.offer(run, frame, frame.displayWidth, frame.displayHeight, timeS, timeS + 0.1, latest.atMs);
    else if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
      grabber.offer(run, video, video.videoWidth, video.videoHeight, timeS, timeS + 0.1, performance.now());
    }
  };
  run.close = () => {
    ticks.terminate();
    latest.close();
  };
}

// With WebCodecs, frames arrive even while the page is hidden; a <video> shows none then.
function followLatest(track, run) {
  const latest = { frame: null, atMs: 0, close: () => {} };
  if (typeof MediaStreamTrackProcessor !== "function") return latest;
  const copy = track.clone(); // a MediaStreamTrackProcessor consumes the frames of its track
  const reader = new MediaStreamTrackProcessor({ track: copy, maxBufferSize: 1 }).readable.getReader();
  latest.close = () => {
    reader.cancel().catch(() => {});
    copy.stop();
    latest.frame?.close();
    latest.frame = null;
  };
  (async () => {
    while (run.isOn) {
      const { done, value } = await reader.read();
      if (done) break;
      latest.frame?.close();
      latest.frame = run.isOn ? value : (value.close(), null);
      latest.atMs = performance.now();
    }
  })().catch(() => {});
  return latest;
}
