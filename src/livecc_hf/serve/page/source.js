// Video sources: a camera, a shared screen, or a file.

/** A source that cannot be opened or played; `code` names a text of words_*.js. */
export class SourceError extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/** Return a source with `kind`, `name`, `isLive` (it cannot be sought in), `attach(video)` and `close()`. */
export async function openCamera() {
  const devices = mediaDevices("camera_needs_https");
  if (!devices.getUserMedia) throw new SourceError("camera_unsupported");
  const wanted = { video: { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "environment" }, audio: false };
  try {
    return live("camera", await devices.getUserMedia(wanted));
  } catch (error) {
    throw new SourceError(CAMERA_ERRORS[error.name] ?? "camera_failed", { reason: error.message });
  }
}

export async function openScreen() {
  const devices = mediaDevices("screen_needs_https");
  if (!devices.getDisplayMedia) throw new SourceError("screen_unsupported");
  try {
    return live("screen", await devices.getDisplayMedia({ video: { frameRate: { ideal: 10 } }, audio: false }));
  } catch (error) {
    throw new SourceError(error.name === "NotAllowedError" ? "screen_denied" : "screen_failed", { reason: error.message });
  }
}

export function openFile(file) {
  return recorded(file.name, URL.createObjectURL(file), (url) => URL.revokeObjectURL(url));
}

export function openClip(url) {
  return recorded(new URL(url, document.baseURI).pathname.split("/").pop(), url, () => {});
}

const CAMERA_ERRORS = {
  NotAllowedError: "camera_denied",
  SecurityError: "camera_denied",
  NotFoundError: "camera_missing",
  OverconstrainedError: "camera_missing",
  NotReadableError: "camera_busy",
  AbortError: "camera_busy",
};

// Browsers hide cameras from pages loaded over plain http, except from this computer.
function mediaDevices(codeWithout) {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    throw new SourceError(codeWithout, { address: `https://${location.host}${location.pathname}` });
  }
  return navigator.mediaDevices;
}

function live(kind, stream) {
  const [track] = stream.getVideoTracks();
  const source = {
    kind,
    name: kind,
    isLive: true,
    track,
    onEnded: null, // called when the user stops sharing or the camera is unplugged
    attach(video) {
      video.srcObject = stream;
    },
    close() {
      for (const each of stream.getTracks()) each.stop();
    },
  };
  track.addEventListener("ended", () => source.onEnded?.());
  return source;
}

function recorded(name, url, release) {
  return {
    kind: "file",
    name,
    isLive: false,
    attach(video) {
      video.src = url;
    },
    close() {
      release(url);
    },
  };
}
