// Shows one message at a time, and the dialog that asks for a token.

import { element, memory } from "./dom.js";
import { has, t } from "./i18n.js";

const MILD_MS = 7000;

export class Messages {
  constructor({ onRetry }) {
    this.timer = null;
    this.shown = null;
    element("dismiss").onclick = () => this.clear();
    element("retry").onclick = onRetry;
  }

  /** Show a text by its name. `untilMs`: time of the next attempt; `isMild`: the message disappears after a while. */
  show(code, values = {}, { untilMs = null, isMild = false, fallback = "" } = {}) {
    clearInterval(this.timer);
    this.shown = { code, values, options: { untilMs, isMild, fallback } };
    const draw = () => {
      const text = has(code) ? t(code, values).replace(" ()", "") : fallback || code;
      const left = untilMs === null ? null : Math.ceil((untilMs - performance.now()) / 1000);
      const again = left === null ? "" : ` ${left > 0 ? t("again_in", { n: left }) : t("again_now")}`;
      element("notice-text").textContent = text + again;
    };
    draw();
    element("notice").dataset.code = code;
    element("notice").classList.toggle("is-mild", isMild);
    element("retry").hidden = untilMs === null;
    element("notice").hidden = false;
    if (untilMs !== null) this.timer = setInterval(draw, 1000);
    else if (isMild) this.timer = setTimeout(() => this.clear(), MILD_MS);
  }

  clear() {
    clearInterval(this.timer);
    this.shown = null;
    element("notice").hidden = true;
  }

  /** Show the current message in the current language. */
  redraw() {
    if (this.shown) this.show(this.shown.code, this.shown.values, this.shown.options);
  }
}

/** Ask for a token; resolves to the token, or to `null` if the user cancels. */
export function askForToken(isWrong) {
  const dialog = element("token-dialog");
  element("token-wrong").textContent = isWrong ? t("token_wrong") : "";
  element("token").value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const end = (token) => {
      dialog.close();
      resolve(token);
    };
    element("token-form").onsubmit = (event) => {
      event.preventDefault();
      const token = element("token").value.trim();
      memory.set("token", token, "sessionStorage");
      end(token);
    };
    element("token-cancel").onclick = () => end(null);
    dialog.oncancel = () => end(null); // the Escape key; the event `close` may come after the dialog was opened again
  });
}
