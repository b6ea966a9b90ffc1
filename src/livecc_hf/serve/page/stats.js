// Statistics of the commentary: lag and words a second.

const WORDS_OVER_S = 20; // seconds of video over which words are counted
const LAGS = 5; // turns whose median lag is shown

export class Stats {
  constructor() {
    this.clear();
  }

  clear() {
    this.lags = [];
    this.said = []; // {startS, endS, nWords} of the last turns
  }

  /** Add a segment whose words were just shown; `presentedMs` is when its turn's last frame was shown. */
  add(segment) {
    if (segment.presentedMs !== null) this.lags = [...this.lags, (performance.now() - segment.presentedMs) / 1000].slice(-LAGS);
    const last = this.said.at(-1);
    if (last && segment.startS < last.endS - 1e-6) this.said = [];
    const nWords = segment.text ? segment.text.split(/\s+/).length : 0;
    this.said.push({ startS: segment.startS, endS: segment.endS, nWords });
    this.said = this.said.filter((each) => each.startS >= segment.endS - WORDS_OVER_S);
  }

  /** Median of the seconds from a turn's last frame to its words, over the last turns; `null` before the first. */
  get lagS() {
    if (this.lags.length === 0) return null;
    return [...this.lags].sort((a, b) => a - b)[this.lags.length >> 1];
  }

  get wordsPerS() {
    const seconds = this.said.reduce((sum, each) => sum + each.endS - each.startS, 0);
    return seconds ? this.said.reduce((sum, each) => sum + each.nWords, 0) / seconds : null;
  }
}
