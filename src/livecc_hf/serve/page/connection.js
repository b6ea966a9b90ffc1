// One WebSocket session; docs/serving.md describes its messages.

const SUBPROTOCOL = "livecc.v1";
const TOKEN_PREFIX = "livecc.bearer.";
const MAX_BUFFERED_BYTES = 1_500_000; // of unsent data, above which frames are dropped

/** Return the WebSocket URL of a path relative to the page. */
export function socketUrl(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/**
 * A session with the server. `on` has callbacks: `started`, `segment`, `answer`, `notice`, `error` and `end` receive the
 * message of that type; `closed` receives `{wasOpen, code, reason, error}`, where `error` is the final error message.
 */
export class Connection {
  constructor(url, token, start, on) {
    this.on = on;
    this.wasOpen = false;
    this.isStarted = false;
    this.isClosing = false;
    this.error = null;
    const protocols = token ? [SUBPROTOCOL, TOKEN_PREFIX + base64url(token)] : [SUBPROTOCOL];
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.wasOpen = true;
      this.say({ type: "start", ...start });
    };
    this.socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    this.socket.onclose = (event) => {
      if (this.isClosing) return;
      const { code, reason } = event;
      on.closed({ wasOpen: this.wasOpen, code, reason, error: this.error });
    };
  }

  hear(message) {
    if (this.isClosing) return;
    if (message.type === "started") this.isStarted = true;
    if (message.type === "error" && message.is_final) this.error = message;
    this.on[message.type]?.(message);
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** Send a frame; return `false` if it was dropped, because the network is too slow or the socket is not open. */
  show(timeS, file) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    if (this.socket.bufferedAmount > MAX_BUFFERED_BYTES) return false;
    const time = new DataView(new ArrayBuffer(8));
    time.setFloat64(0, timeS);
    this.socket.send(new Blob([time, file]));
    return true;
  }

  /** Close without calling `closed`. */
  close() {
    this.isClosing = true;
    this.socket.close(1000);
  }
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
