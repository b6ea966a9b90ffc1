// How the commentary keeps up: lag, words a second, dropped frames.

const WORDS_OVER_S = 20;
const LAGS = 5;

export class Stats {
  constructor() {
    this.clear();
  }

  clear() {
    this.lags = [];
    this.said = []; // {startS, endS, nWords}, the last seconds of video
  }

  /** Count a segment whose words are on the screen; `presentedMs`: when its turn's last frame was. */
  add(segment) {
    if (segment.presentedMs !== null) this.lags = [...this.lags, (performance.now() - segment.presentedMs) / 1000].slice(-LAGS);
    const last = this.said.at(-1);
    if (last && segment.startS < last.endS - 1e-6) this.said = [];
    const nWords = segment.text ? segment.text.split(/\s+/).length : 0;
    this.said.push({ startS: segment.startS, endS: segment.endS, nWords });
    this.said = this.said.filter((each) => each.startS >= segment.endS - WORDS_OVER_S);
  }

  /** Seconds from a turn's last frame to its words, in the middle of the last turns; `null` before the first. */
  get lagS() {
    if (this.lags.length === 0) return null;
    return [...this.lags].sort((a, b) => a - b)[this.lags.length >> 1];
  }

  get wordsPerS() {
    const seconds = this.said.reduce((sum, each) => sum + each.endS - each.startS, 0);
    return seconds ? this.said.reduce((sum, each) => sum + each.nWords, 0) / seconds : null;
  }
}
