// What went wrong, said in words: one message at a time, and the dialog that asks for a token.

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

  /** Show the text of a name. `untilMs`: when it is tried again; `isMild`: it goes away of itself. */
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

  /** Say the same in the language that is chosen now. */
  redraw() {
    if (this.shown) this.show(this.shown.code, this.shown.values, this.shown.options);
  }
}

/** Ask for a token; resolves with it, or with `null` if the user does not give one. */
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
    dialog.oncancel = () => end(null); // the Escape key; `close` comes late, when the dialog may be open again
  });
}
