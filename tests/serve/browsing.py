"""Drives the page of a server in headless Chromium, like a user."""

import contextlib
import os
import shutil
import time

from livecc_hf.modeling import StreamOptions

GREEDY = StreamOptions(do_sample=False)
_FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP pages.test 127.0.0.1",
)


def address(served):
    """Return the URL of a server's page."""
    return f"http://127.0.0.1:{served.port}"


def chromium_path():
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium(*flags):
    """Run a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=[*_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def another_chromium(browser, *flags, **environment):
    """Run a second browser next to the first."""
    options = {"executable_path": chromium_path(), "args": [*_FLAGS, *flags], "env": os.environ | environment}
    second = browser.browser_type.launch(**options)
    try:
        yield second
    finally:
        second.close()


class Watcher:
    """A tab with the page.

    Attributes:
        complaints: errors and warnings of the browser's console.
        foreign: requests to other servers.
    """

    def __init__(self, browser, url, path="/", **context):
        self.context = browser.new_context(**{"permissions": ["camera"], "locale": "en-US", **context})
        self.page = self.context.new_page()
        self.complaints, self.foreign = [], []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        own = (url, url.replace("http", "ws"), "blob:", "data:")
        self.page.on("request", lambda r: r.url.startswith(own) or self.foreign.append(r.url))
        self.page.on("websocket", lambda w: w.url.startswith(own) or self.foreign.append(w.url))
        self.page.goto(url + path)
        self.page.wait_for_selector("html[data-ready]", timeout=30_000)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    @property
    def state(self):
        return self.page.get_attribute("#stage", "data-state")

    @property
    def session(self):
        return self.page.get_attribute("#stage", "data-session")

    @property
    def time_s(self):
        return self.page.evaluate("document.getElementById('video').currentTime")

    @property
    def segments(self):
        """The segments of the transcript: (start in seconds, end, words)."""
        return [
            tuple(each)
            for each in self.page.eval_on_selector_all(
                "#transcript span[data-start]",
                "all => all.map(e => [Number(e.dataset.start), Number(e.dataset.end), e.textContent])",
            )
        ]

    @property
    def notice(self):
        return self.page.inner_text("#notice-text") if self.page.is_visible("#notice") else ""

    def click(self, *selectors):
        for selector in selectors:
            self.page.click(selector)

    def wait_for(self, condition, timeout_s=60):
        """Wait until a condition holds, while the browser's events are processed."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, (self.state, self.notice, self.segments, self.complaints)
            self.page.wait_for_timeout(50)

    def wait_for_state(self, *states, timeout_s=60):
        self.wait_for(lambda: self.state in states, timeout_s)

    def go_to(self, time_s):
        """Move the slider, like a user with the mouse."""
        self.page.eval_on_selector(
            "#place", "(e, s) => { e.value = s; e.dispatchEvent(new Event('input', {bubbles: true})); }", time_s
        )

    def saved(self, form, folder):
        """Press a save button, and return the file's name and text."""
        with self.page.expect_download() as download:
            self.click(f"#saves [data-form={form}]")
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path.name, path.read_text()
