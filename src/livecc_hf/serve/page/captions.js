// Words over the picture, two lines that roll as live captions do.

const MAX_LINES = 2;
const SHOWN_MS = 5000; // after the last word
const KEPT_S = 5; // words of earlier turns stay as long beside newer ones

export class Captions {
  constructor(box) {
    this.box = box;
    this.text = document.createElement("span"); // its ground follows its lines
    box.append(this.text);
    this.parts = [];
    this.timer = null;
  }

  /** Show the words of a turn after those before it. */
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

  /** Show the words of one turn alone, for as long as the picture stands. */
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
