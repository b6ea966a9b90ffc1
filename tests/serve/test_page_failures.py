"""The page in a browser, on livecc-tiny: a missing token, server, camera or model, and other failures."""

import pytest
from served import serving, wait_for

pytest.importorskip("playwright", reason="needs playwright")
from browsing import GREEDY, Watcher, address, chromium_path

from livecc_hf.serve.server import listen

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="needs chromium")


def test_the_page_asks_for_the_token(browser, tiny, free_port):
    with (
        serving(*tiny, GREEDY, token="a secret, ü") as served,
        Watcher(browser, address(served)) as watcher,
    ):
        watcher.click("#clip")
        watcher.wait_for_state("token")
        watcher.page.fill("#token", "wrong")
        watcher.page.keyboard.press("Enter")
        watcher.wait_for(lambda: watcher.page.inner_text("#token-wrong") != "")
        watcher.page.fill("#token", "a secret, ü")
        watcher.page.keyboard.press("Enter")
        watcher.wait_for_state("live")
        assert not watcher.page.is_visible("#token-dialog")


@pytest.fixture
def free_port():
    with listen("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def test_a_server_that_goes_away_and_comes_back(browser, tiny, free_port):
    with after_first_words(browser, tiny, free_port) as watcher:
        watcher.wait_for_state("waiting")
        said = watcher.segments
        assert said
        watcher.wait_for(lambda: "does not answer" in watcher.notice)
        watcher.wait_for(lambda: watcher.time_s == said[-1][1])  # the video waits there, so that no frame is missed
        with serving(*tiny, GREEDY, listener=listen("127.0.0.1", free_port)):
            watcher.wait_for_state("live")
            watcher.wait_for(lambda: len(watcher.segments) > len(said))
            assert watcher.segments[: len(said)] == said and watcher.notice == ""
            watcher.click("#close")
            wait_for(lambda: not watcher.page.is_visible("#video"))


def after_first_words(browser, tiny, port):
    """A watcher whose server was stopped after the first words."""
    with serving(*tiny, GREEDY, listener=listen("127.0.0.1", port)) as served:
        watcher = Watcher(browser, address(served))
        watcher.click("#clip")
        watcher.wait_for(lambda: watcher.segments)
    return watcher


def test_a_full_server_is_reported(browser, tiny):
    with (
        serving(*tiny, GREEDY, max_sessions=1) as served,
        Watcher(browser, address(served)) as first,
        Watcher(browser, address(served)) as second,
    ):
        first.click("#camera")
        first.wait_for(lambda: len(served.service.pool) == 1)
        second.click("#clip")
        second.wait_for_state("waiting")
        assert "The server is full" in second.notice and "Trying again" in second.notice
        first.click("#close")
        second.click("#retry")
        second.wait_for_state("live")


def test_a_loading_or_failed_model_is_reported(watcher, served):
    service = served.service
    service.state = "starting"
    try:
        watcher.click("#clip")
        watcher.wait_for(lambda: "still loading" in watcher.notice)
        service.state = "ready"
        watcher.wait_for_state("live")
        watcher.wait_for(lambda: len(service.pool) == 1)
    finally:
        service.state = "ready"
    watcher.complaints.clear()  # the browser's own messages about refused connections


@pytest.mark.slow
def test_a_paused_page_keeps_its_place_and_is_answered(browser, tiny):
    with (
        serving(*tiny, GREEDY, max_messages_per_s=60.0, idle_timeout_s=2.0) as served,
        Watcher(browser, address(served)) as watcher,
    ):
        watcher.click("#clip")
        watcher.wait_for(lambda: watcher.segments)
        session = watcher.session
        watcher.page.keyboard.press("k")
        watcher.page.wait_for_timeout(5000)
        assert watcher.state == "live" and watcher.page.inner_text("#state") == "Paused"
        watcher.page.fill("#question", "What is there?")
        watcher.click("#question-form button")
        watcher.wait_for(lambda: watcher.page.query_selector("#transcript .answer"))
        n_said = len(watcher.segments)
        watcher.click("#play")
        watcher.wait_for(lambda: len(watcher.segments) > n_said)
        assert watcher.session == session and watcher.notice == "" and watcher.complaints == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failed_model_is_reported(browser, tiny, monkeypatch):
    class Panic(BaseException):
        """A BaseException, such as panics of Rust libraries."""

    def panics(*args):
        raise Panic("at line 7")

    with serving(*tiny, GREEDY) as served, Watcher(browser, address(served)) as watcher:
        watcher.click("#clip")
        watcher.wait_for(lambda: len(served.service.pool.streams) == 1)
        monkeypatch.setattr(served.service.pool.streams[0]._stream, "end_turn", panics)
        watcher.wait_for(lambda: "The model has stopped working" in watcher.notice)
        assert "Panic: at line 7" in watcher.notice


def test_unplayable_videos_are_reported(watcher, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    watcher.page.set_input_files("#file-input", broken)
    watcher.wait_for(lambda: "cannot play this file" in watcher.notice)
    assert watcher.state == "idle" and watcher.page.is_visible("#welcome")


@pytest.mark.parametrize(
    "code, name",
    [("camera_denied", "NotAllowedError"), ("camera_missing", "NotFoundError"), ("camera_busy", "NotReadableError")],
)
def test_a_missing_camera_is_reported_in_one_sentence(watcher, code, name):
    watcher.page.evaluate(
        "name => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', name)); }", name
    )
    watcher.click("#camera")
    watcher.wait_for(lambda: watcher.notice)
    assert watcher.page.get_attribute("#notice", "data-code") == code and watcher.state == "idle"


def test_a_camera_over_plain_http_is_reported_in_one_sentence(browser, tiny, free_port):
    url = f"http://pages.test:{free_port}"
    listener = listen("127.0.0.1", free_port)
    with (
        serving(*tiny, GREEDY, listener=listener, allowed_origins=(url,)),
        Watcher(browser, url, permissions=[]) as watcher,
    ):
        watcher.click("#camera")
        watcher.wait_for(lambda: watcher.notice)
        assert "https" in watcher.notice and watcher.state == "idle"
        watcher.click("#screen")
        watcher.wait_for(lambda: watcher.page.get_attribute("#notice", "data-code") == "screen_needs_https")
        assert watcher.state == "idle"
        watcher.click("#clip")  # files need no permission
        watcher.wait_for_state("live")
        assert watcher.complaints == []
