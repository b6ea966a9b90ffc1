// Sends a player's frames to the server and receives its words, across pauses, seeks and broken connections.

import { diagnose } from "./config.js";
import { Connection, socketUrl } from "./connection.js";
import { FrameGrabber, STEP_S } from "./frames.js";

const PATH = "v1/commentary";
const LAST_PICTURE_MS = 120; // time for the browser to deliver a file's last frame
const WAITS_S = [0.5, 1, 2, 4, 8, 15];
const FULL_WAIT_S = 5;
const LOADING_WAIT_S = 1;
const PREVIOUS_WORDS = 60;
const UNCLEAR = new Set(["not_ready", "generation_failed", "stopping"]); // /health gives the reason
// Errors that would end the next session too.
const FATAL = new Set(["bad_start", "too_many_errors"]);

/**
 * `state` is `idle`, `connecting`, `live`, `waiting` (to connect again), `asleep` (paused without a session),
 * `finished`, `token` (one is needed) or `failed`. `on` has functions: `state(state, details)`, `segment(segment)`,
 * `answer(answer)`, `notice(code, message)` and `counted()`, after a change of `nDropped`.
 */
export class Commentator {
  constructor(player, on) {
    this.player = player;
    this.on = on;
    this.state = "idle";
    this.query = "";
    this.token = "";
    this.maxPixels = 384 * 28 * 28;
    this.previousOf = () => ""; // (timeS, maxWords) => the last words before a time
    this.connection = null;
    this.timer = null;
    this.shown = []; // sent frames without words yet: {timeS, presentedMs, sentMs}
    this.asked = new Map(); // unanswered questions: id => the player's time in seconds
    this.nAsked = 0;
    this.run = 0; // number of the session, to ignore results of an earlier one
    this.nFailures = 0;
    this.placeS = 0; // end of the last turn with words
    this.nDroppedBefore = this.nDroppedThere = this.nDroppedHere = 0;
    this.grabber = null;
    player.on = {
      ...player.on,
      play: () => ["asleep", "finished"].includes(this.state) && this.begin(),
      pause: () => {
        this.holdPlace();
        player.on.stopped?.();
      },
      seeking: () => this.state !== "idle" && this.leave(),
      sought: () => this.state !== "idle" && this.sought(),
      ended: () => this.finish(),
    };
  }

  get nDropped() {
    return this.nDroppedBefore + this.nDroppedThere + this.nDroppedHere;
  }

  /** Comment on the player's source, from its current time. */
  open() {
    this.nDroppedBefore = this.nDroppedThere = this.nDroppedHere = 0;
    this.nFailures = 0;
    this.begin();
  }

  close() {
    this.leave();
    this.setState("idle");
  }

  /** Change the query: in the current session if there is one, else in the next. */
  ask(query) {
    this.query = query;
    if (this.connection?.isStarted) this.connection.say({ type: "ask", query });
  }

  /** Ask a question next to the commentary; return whether there is a session to ask. */
  question(text) {
    if (!this.connection?.isStarted) return false;
    this.nAsked += 1;
    this.asked.set(this.nAsked, this.player.timeS);
    this.connection.say({ type: "question", question: text, id: this.nAsked });
    return true;
  }

  /** Retry now instead of after the wait. */
  retry() {
    this.nFailures = 0;
    this.begin(true);
  }

  // Start of a session.

  async begin(isAgain = false) {
    this.leave();
    const { player } = this;
    const run = this.run;
    player.hold(true);
    this.setState("connecting");
    if (isAgain) await player.goTo(this.placeS);
    if (run !== this.run) return;
    this.placeS = player.timeS;
    const start = this.query ? { query: this.query } : {};
    const previous = isAgain ? this.previousOf(this.placeS, PREVIOUS_WORDS) : "";
    if (previous) start.previous = previous;
    this.connection = new Connection(socketUrl(PATH), this.token, start, {
      started: (message) => this.started(message),
      segment: (message) => this.heard(message),
      answer: (message) => this.answered(message),
      notice: ({ code, message }) => this.on.notice(code, message),
      error: (message) => {
        if (message.is_final) return;
        this.asked.delete(message.id);
        this.on.notice(message.code, message.message);
      },
      closed: (how) => this.closed(how),
    });
  }

  leave() {
    this.run += 1;
    clearTimeout(this.timer);
    this.grabber?.stop();
    this.connection?.close();
    this.connection = null;
    this.asked.clear();
    this.nDroppedBefore += this.nDroppedThere;
    this.nDroppedThere = 0;
  }

  sought() {
    if (this.player.isWanted) this.begin();
    else this.sleep();
  }

  sleep() {
    this.leave();
    this.player.hold(false);
    this.setState("asleep");
  }

  started({ session, max_pixels: maxPixels, max_pause_s: maxPauseS }) {
    const { connection, player } = this;
    this.maxPixels = maxPixels ?? this.maxPixels;
    this.canPause = maxPauseS !== undefined;
    this.shown = [];
    this.grabber = new FrameGrabber(player.video, {
      maxPixels: this.maxPixels,
      onFrame: (timeS, file, presentedMs) => {
        this.shown.push({ timeS, presentedMs, sentMs: performance.now() });
        if (!connection.show(timeS, file)) this.dropped();
        if (!player.isWanted) this.holdPlace(); // this frame has ended the pause on the server
      },
      onDropped: () => this.dropped(),
    });
    this.grabber.start(player.source, () => player.timeS);
    player.hold(false);
    this.setState("live", { session });
  }

  /** Tell the server that the video is paused, so that it keeps the session open. */
  holdPlace() {
    if (this.connection?.isStarted && this.canPause) this.connection.say({ type: "pause" });
  }

  dropped() {
    this.nDroppedHere += 1;
    this.on.counted();
  }

  heard(message) {
    this.nFailures = 0;
    this.placeS = message.end_s;
    this.nDroppedThere = message.n_dropped_frames;
    const heardMs = performance.now();
    let last = { presentedMs: null, sentMs: null };
    while (this.shown.length && this.shown[0].timeS < message.end_s - STEP_S / 2) last = this.shown.shift();
    this.on.segment({
      presentedMs: last.presentedMs,
      sentMs: last.sentMs,
      heardMs,
      startS: message.start_s,
      endS: message.end_s,
      text: message.text,
      latencyS: message.latency_s,
      turnS: message.turn_s,
    });
    this.on.counted();
  }

  answered({ id, question, text }) {
    const timeS = this.asked.get(id) ?? this.player.timeS;
    this.asked.delete(id);
    this.on.answer({ timeS, question, text });
  }

  // End of a session.

  async finish() {
    if (this.state !== "live") return;
    const { connection, grabber } = this;
    await new Promise((resolve) => setTimeout(resolve, LAST_PICTURE_MS));
    await grabber.encoder.last;
    connection.say({ type: "finish" });
  }

  async closed({ wasOpen, code, reason, error }) {
    const what = error?.code ?? reason.split(":")[0];
    const run = ++this.run;
    this.grabber?.stop();
    this.connection = null;
    if (code === 1000) return this.setState("finished");
    if (what === "idle" && !this.player.isWanted) return this.sleep();
    if (FATAL.has(what)) {
      this.player.hold(true);
      return this.setState("failed", { code: what, reason: error?.message });
    }
    this.player.hold(true);
    if (error && !UNCLEAR.has(what)) return this.wait(what, error.message);
    const found = await diagnose(this.token); // the browser does not tell why the connection was refused
    if (run !== this.run) return;
    if (found.code.startsWith("token")) return this.setState("token", found);
    if (found.code !== "refused") return this.wait(found.code, found.reason);
    this.wait(error ? what : wasOpen ? "broken" : "refused", error?.message);
  }

  wait(code, reason) {
    const seconds = {
      full: FULL_WAIT_S,
      full_for_address: FULL_WAIT_S,
      loading: LOADING_WAIT_S,
      session_too_long: 0,
      idle: 0,
    }[code] ?? WAITS_S[Math.min(this.nFailures, WAITS_S.length - 1)];
    this.nFailures += 1;
    this.setState("waiting", { code, reason, seconds, untilMs: performance.now() + seconds * 1000 });
    this.timer = setTimeout(() => this.begin(true), seconds * 1000);
  }

  setState(state, details = {}) {
    this.state = state;
    this.on.state(state, details);
  }
}
