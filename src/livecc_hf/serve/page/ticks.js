// A worker that ticks twice a second. A page that nobody looks at has its own timers slowed down: while a screen is
// shared, that is the usual case.
const STEP_MS = 500;
const began = performance.now();
let n = 0;

function tick() {
  postMessage(n);
  n = Math.floor((performance.now() - began) / STEP_MS) + 1;
  setTimeout(tick, began + n * STEP_MS - performance.now());
}

tick();
