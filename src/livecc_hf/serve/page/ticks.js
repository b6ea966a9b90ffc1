// A worker that ticks twice a second. Browsers slow down the timers of hidden pages, and a page that shares another
// window is usually hidden.
const STEP_MS = 500;
const began = performance.now();
let n = 0;

function tick() {
  postMessage(n);
  n = Math.floor((performance.now() - began) / STEP_MS) + 1;
  setTimeout(tick, began + n * STEP_MS - performance.now());
}

tick();
