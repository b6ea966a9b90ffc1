"""Measures the page of `livecc serve`: from a frame's presentation to its words on the screen.

    python benchmarks/serving/page.py [--pages 1 4 8] [--output FILE]

Pages in one headless Chromium play the bundled clip, and livecc-tiny comments over loopback. The overhead is the time
from the browser's presentation of a turn's last frame to its painting of the words, minus the engine's time (the
server's `turn_s`, from when the model had that frame to the words). Its parts: `grab` (draw, encode and send the
picture), `decode` (in the server), `paint`, `network` (the rest: WebSocket and event loops, both ways). Pages start
evenly over a turn, as viewers do. Browser and server share the machine.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import CannotMeasureError, Measured, Run, at_most, benchmark, rounded, spread

MAX_OVERHEAD_P95_MS = 60.0
_TURN_S = 1.0
_LIMIT_S = 180
_NOTE = """() => {
    window.turns = [];
    document.getElementById('stage').addEventListener('livecc:segment', ({ detail }) => {
        requestAnimationFrame(() => setTimeout(() => {  // after the frame with the words was painted
            if (detail.presentedMs === null) return;
            window.turns.push({
                overhead: performance.now() - detail.presentedMs - detail.turnS * 1000,
                engine: detail.turnS * 1000,
                grab: detail.sentMs - detail.presentedMs,
                decode: (detail.latencyS - detail.turnS) * 1000,
                network: detail.heardMs - detail.sentMs - detail.latencyS * 1000,
                paint: performance.now() - detail.heardMs,
            });
        }));
    });
}"""


@contextlib.contextmanager
def server(n_clients: int) -> Iterator[str]:
    """Run `livecc serve` with livecc-tiny in its own process; yield its address."""
    command = [sys.executable, "-m", "livecc_hf.cli.main", "serve", "--port", "0", "--greedy"]
    process = subprocess.Popen([*command, "--max-sessions", str(n_clients)], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if found := re.search(r"listening on ws://([^/\s]+)", line):
                yield f"http://{found[1]}"
                return
        raise CannotMeasureError("livecc serve did not start")
    finally:
        process.terminate()
        process.wait(30)


def measure(browser: Any, url: str, n_pages: int) -> dict[str, Any]:
    """Return the times of turns on `n_pages` pages at once, in milliseconds."""
    pages = [browser.new_page() for _ in range(n_pages)]
    for page in pages:
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        page.evaluate(_NOTE)
    began_s = time.monotonic()
    for number, page in enumerate(pages):
        time.sleep(max(0.0, began_s + number * _TURN_S / n_pages - time.monotonic()))
        page.evaluate("document.getElementById('clip').click()")
    for page in pages:
        page.wait_for_selector("#stage[data-state=finished]", timeout=1000 * _LIMIT_S)
    turns = [turn for page in pages for turn in page.evaluate("window.turns")]
    dropped = sum(int(page.inner_text("#dropped")) for page in pages)
    for page in pages:
        page.close()
    found = {"pages": n_pages, "turns": len(turns), "dropped_frames": dropped}
    return found | {f"{name}_ms": spread([turn[name] for turn in turns]) for name in turns[0]}


@benchmark("page.json", "torch", "transformers", small={"pages": [1]})
def main(run: Run, pages: Annotated[tuple[int, ...], "numbers of pages at once"] = (1, 4, 8)) -> Measured:
    """Measure all numbers of pages."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise CannotMeasureError("chromium is not installed")
    from playwright.sync_api import sync_playwright

    flags, results = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"], []
    with server(max(pages)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for n in pages:
            results.append(measure(browser, url, n))
            run.tell(f"{n} pages: {rounded(results[-1]['overhead_ms'])}")
        report = {"model": "livecc-tiny", "chromium": browser.version, "results": results}
    return report, [
        at_most(f"{found['pages']} pages: overhead at p95, ms", found["overhead_ms"]["p95"], MAX_OVERHEAD_P95_MS)
        for found in results
    ]
