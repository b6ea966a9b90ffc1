// The buttons below the picture, and the keyboard shortcuts.

import { element, memory, setIcon } from "./dom.js";
import { t } from "./i18n.js";
import { clock } from "./transcript.js";

const STEP_S = 5;

export class Controls {
  constructor(player, { voice, captions }) {
    this.player = player;
    this.voice = voice;
    this.captions = captions;
    const { video } = player;
    const place = element("place");
    element("play").onclick = () => player.toggle();
    video.onclick = () => player.toggle();
    place.oninput = () => player.seek(Number(place.value));
    element("mute").onclick = () => (video.muted = !video.muted);
    element("volume").oninput = (event) => voice.setVolume(Number(event.target.value));
    element("captions-on").onclick = () => this.toggleCaptions();
    element("fullscreen").onclick = () => this.toggleFullscreen();
    element("fullscreen").hidden = !document.fullscreenEnabled;
    document.addEventListener("keydown", (event) => this.key(event));
    if (memory.get("captions") === "off") this.toggleCaptions();
  }

  /** Redraw the controls from the player's state. */
  draw() {
    const { player } = this;
    const { video } = player;
    const button = element("play");
    const name = player.isWanted ? "pause" : "play";
    setIcon(button, name);
    label(button, t(name));
    const duration = Number.isFinite(video.duration) ? video.duration : 0;
    const now = clock(player.timeS);
    element("clock").textContent = player.isLive ? now : `${now} / ${clock(duration)}`;
    const place = element("place");
    place.max = duration || 1;
    place.value = video.currentTime;
    place.setAttribute("aria-valuetext", now);
    setIcon(element("mute"), video.muted ? "silent" : "sound");
    label(element("mute"), t(video.muted ? "unmute" : "mute"));
    element("stage").classList.toggle("is-live", player.isLive);
  }

  toggleCaptions() {
    const button = element("captions-on");
    const isOn = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", isOn);
    this.captions.box.classList.toggle("off", !isOn);
    memory.set("captions", isOn ? "on" : "off");
  }

  toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else element("stage").requestFullscreen().catch(() => {});
  }

  key(event) {
    const isTyping = event.target.closest("input:not([type=range]), select, textarea, dialog");
    const isMoving = event.target.id === "volume" && event.key.startsWith("Arrow");
    if (isTyping || isMoving || event.ctrlKey || event.metaKey || event.altKey || !this.player.source) return;
    const isOnButton = event.target.closest("button");
    const { player } = this;
    const does = {
      " ": isOnButton ? null : () => player.toggle(),
      k: () => player.toggle(),
      ArrowLeft: () => player.seek(player.timeS - STEP_S),
      ArrowRight: () => player.seek(player.timeS + STEP_S),
      m: () => element("mute").click(),
      c: () => this.toggleCaptions(),
      f: () => document.fullscreenEnabled && this.toggleFullscreen(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  }
}

function label(button, text) {
  button.setAttribute("aria-label", text);
  button.title = text;
}
