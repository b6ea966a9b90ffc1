// Words over the picture: two rolling lines, like live captions.

const MAX_LINES = 2;
const SHOWN_MS = 5000; // after the last word
const KEPT_S = 5; // of video: how long words of earlier turns stay next to newer ones

export class Captions {
  constructor(box) {
    this.box = box;
    this.text = document.createElement("span"); // inline, so that its background follows the lines
    box.append(this.text);
    this.parts = [];
    this.timer = null;
  }

  /** Append the words of a turn. */
  show(segment) {
    if (!segment.text) return;
    const last = this.parts.at(-1);
    if (last && (segment.startS - last.endS > 2 || segment.startS < last.startS)) this.parts = [];
    this.parts = [...this.parts.filter((part) => segment.startS - part.endS <= KEPT_S), segment];
    this.draw(segment);
    while (this.parts.length > 1 && this.text.getClientRects().length > MAX_LINES) {
      this.parts.shift();
      this.draw(segment);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.clear(), SHOWN_MS);
  }

  /** Show only the words of one turn (or none), while the video is paused. */
  still(segment) {
    this.clear();
    if (!segment) return;
    this.parts = [segment];
    this.draw(null);
  }

  clear() {
    clearTimeout(this.timer);
    this.parts = [];
    this.text.replaceChildren();
  }

  draw(fresh) {
    this.text.replaceChildren();
    for (const part of this.parts) {
      const words = document.createElement("span");
      words.textContent = part.text;
      if (part === fresh) words.className = "fresh";
      if (this.text.firstChild) this.text.append(" ");
      this.text.append(words);
    }
  }
}
