// The transcript: segments and answers in order of time, shown as lines that seek to their time.

const MAX_LINE_WORDS = 14;
const MAX_SILENCE_S = 2;

/** Return a time as m:ss or h:mm:ss. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Segments `{startS, endS, text}` in order of time. A new segment replaces earlier ones of the same time. */
export class Record {
  constructor() {
    this.segments = []; // with words
    this.answers = []; // {timeS, question, text}
  }

  /** Add a segment; return whether the list of segments was at most appended to. */
  add(segment) {
    const { segments } = this;
    const isLast = segments.length === 0 || segments.at(-1).endS <= segment.startS + 1e-6;
    if (!isLast) {
      this.segments = segments.filter((each) => each.endS <= segment.startS + 1e-6 || each.startS >= segment.endS - 1e-6);
    }
    const isChanged = this.segments.length !== segments.length;
    if (segment.text) {
      this.segments.push(segment);
      if (!isLast) this.segments.sort((a, b) => a.startS - b.startS);
    }
    return isLast || (!isChanged && !segment.text);
  }

  /** Return the segment of a time, if it has words. */
  at(timeS) {
    let [low, high] = [0, this.segments.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.segments[middle].startS <= timeS) low = middle + 1;
      else high = middle;
    }
    const found = this.segments[low - 1];
    return found && timeS < found.endS ? found : null;
  }

  /** Return the last `maxWords` words before a time. */
  before(timeS, maxWords) {
    const words = [];
    for (let n = this.segments.length - 1; n >= 0 && words.length < maxWords; n -= 1) {
      if (this.segments[n].endS <= timeS + 1e-6) words.unshift(...this.segments[n].text.split(/\s+/));
    }
    return words.slice(-maxWords).join(" ");
  }
}

/** Return segments and answers as lines `{startS, segments}` or `{startS, answer}`, in order of time. */
export function lines({ segments, answers }) {
  const all = [];
  for (const segment of segments) {
    const line = all.at(-1);
    if (line && continues(line.segments, segment)) line.segments.push(segment);
    else all.push({ startS: segment.startS, segments: [segment] });
  }
  for (const answer of answers) all.push({ startS: answer.timeS, answer });
  return all.sort((a, b) => a.startS - b.startS);
}

function continues(segments, segment) {
  const last = segments.at(-1);
  if (segment.startS - last.endS > MAX_SILENCE_S || /[.!?。！？…]["”’)]?$/.test(last.text)) return false;
  return segments.reduce((n, each) => n + each.text.split(/\s+/).length, 0) < MAX_LINE_WORDS;
}

/** Shows a record in a list. `onSeek(timeS)` is called for a clicked line, unless `canSeek` is false. */
export class TranscriptView {
  constructor(list, { onSeek, label }) {
    this.list = list;
    this.onSeek = onSeek;
    this.label = label;
    this.canSeek = true;
    this.record = new Record();
    this.current = null;
    list.addEventListener("click", (event) => {
      const target = event.target.closest("[data-start]");
      if (target && this.canSeek && getSelection().isCollapsed) this.onSeek(Number(target.dataset.start));
    });
  }

  clear() {
    this.record = new Record();
    this.list.replaceChildren();
    this.current = null;
  }

  add(segment) {
    const isAppended = this.record.add(segment);
    if (isAppended && !segment.text) return;
    this.keepingPlace(() => {
      const line = isAppended && this.lastLine;
      if (line && continues(line.segments, segment)) {
        line.segments.push(segment);
        line.words.append(" ", span(segment));
      } else if (isAppended) {
        this.append({ startS: segment.startS, segments: [segment] });
      } else {
        this.render();
      }
    });
  }

  addAnswer(answer) {
    this.record.answers.push(answer);
    this.keepingPlace(() => this.render());
  }

  /** Mark the segment of a time. */
  mark(timeS) {
    const segment = this.record.at(timeS);
    if (segment === this.current) return;
    this.current = segment;
    this.list.querySelector(".now")?.classList.remove("now");
    if (segment) this.list.querySelector(`span[data-start="${segment.startS}"]`)?.classList.add("now");
  }

  render() {
    this.list.replaceChildren();
    this.lastLine = null;
    for (const line of lines(this.record)) this.append(line);
  }

  append(line) {
    const item = document.createElement("li");
    const time = document.createElement("button");
    time.type = "button";
    time.className = "time";
    time.dataset.start = line.startS;
    time.textContent = clock(line.startS);
    time.disabled = !this.canSeek;
    time.setAttribute("aria-label", this.label(clock(line.startS)));
    const words = document.createElement("p");
    item.append(time, words);
    if (line.answer) {
      item.className = "answer";
      const question = document.createElement("strong");
      question.textContent = line.answer.question;
      words.append(question, document.createElement("br"), line.answer.text);
      this.lastLine = null;
    } else {
      line.segments.forEach((segment, n) => words.append(...(n ? [" "] : []), span(segment)));
      this.lastLine = { segments: [...line.segments], words };
    }
    this.list.append(item);
  }

  // The list scrolls to new lines, unless the user has scrolled up.
  keepingPlace(change) {
    const { list } = this;
    const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    change();
    if (follows) list.scrollTop = list.scrollHeight;
  }
}

function span(segment) {
  const element = document.createElement("span");
  element.dataset.start = segment.startS;
  element.dataset.end = segment.endS;
  element.textContent = segment.text;
  return element;
}
