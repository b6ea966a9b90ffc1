"""The page in a browser: screen sharing, and words spoken over a quieter video."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from served import wait_for

pytest.importorskip("playwright", reason="needs playwright")
from browsing import Watcher, address, another_chromium, chromium_path

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="needs chromium")
SPEECH_MODULES = Path("/usr/lib/speech-dispatcher-modules")


@pytest.fixture(scope="module")
def url(served):
    return address(served)


@pytest.mark.slow
def test_a_shared_screen_is_commented_on_until_sharing_ends(watcher, served):
    """The browser shares a fake screen through its own `getDisplayMedia`."""
    before = served.metric("livecc_turns_total")
    watcher.click("#screen")
    watcher.wait_for_state("live")
    track = "document.getElementById('video').srcObject.getVideoTracks()[0]"
    assert watcher.page.evaluate(f"{track}.getSettings().displaySurface") == "monitor"
    watcher.wait_for(lambda: served.metric("livecc_turns_total") >= before + 2)
    assert not watcher.page.is_visible("#place")  # a live source has no slider
    watcher.page.evaluate(f"{track}.dispatchEvent(new Event('ended'))")  # like the browser's own button
    watcher.wait_for_state("finished")


@pytest.mark.parametrize(
    "code, how",
    [
        ("screen_denied", "d.getDisplayMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'))"),
        ("screen_failed", "d.getDisplayMedia = () => Promise.reject(new DOMException('no', 'NotReadableError'))"),
        ("screen_unsupported", "d.getDisplayMedia = undefined"),
    ],
)
def test_a_failed_screen_share_is_reported_in_one_sentence(watcher, code, how):
    watcher.page.evaluate(f"() => {{ const d = navigator.mediaDevices; {how}; }}")
    watcher.click("#screen")
    watcher.wait_for(lambda: watcher.notice)
    assert watcher.page.get_attribute("#notice", "data-code") == code and watcher.state == "idle"


def volume(watcher):
    return watcher.page.evaluate("document.getElementById('video').volume")


def test_a_browser_without_voices_says_so(watcher):
    if watcher.page.evaluate("speechSynthesis.getVoices().length"):
        pytest.skip("this browser has voices")
    watcher.click("#voice")
    watcher.wait_for(lambda: watcher.notice)
    assert watcher.page.get_attribute("#voice", "aria-pressed") == "false"
    assert watcher.page.get_attribute("#notice", "data-code") == "voice_none"


def test_the_volume_is_restored_if_speech_fails(watcher):
    """Speech fails in a browser without voices."""
    heard = watcher.page.evaluate(
        """async () => {
            const { Voice } = await import('./voice.js');
            const video = document.createElement('video');
            video.volume = 0.8;
            const voice = new Voice(video);
            voice.turn(true);
            voice.say('Goal.');
            const during = video.volume;
            const end = performance.now() + 20000;
            while (video.volume !== 0.8 && performance.now() < end) await new Promise((r) => setTimeout(r, 20));
            return [during, video.volume];
        }"""
    )
    assert heard == [pytest.approx(0.16), 0.8]


@pytest.fixture
def speaking_browser(browser, tmp_path):
    """A browser that speaks with espeak-ng, without sound output."""
    daemon = shutil.which("speech-dispatcher")
    if daemon is None or not (SPEECH_MODULES / "sd_espeak-ng").exists():
        pytest.skip("needs speech-dispatcher with espeak-ng")
    (tmp_path / ".libao").write_text("default_driver=null\n")
    config = tmp_path / "config"
    (config / "modules").mkdir(parents=True)
    (config / "modules" / "espeak-ng.conf").touch()
    (config / "speechd.conf").write_text(
        'AudioOutputMethod "libao"\nAddModule "espeak-ng" "sd_espeak-ng" "espeak-ng.conf"\nDefaultModule espeak-ng\n'
    )
    socket = tmp_path / "s"
    places = ["-C", config, "-S", socket, "-P", tmp_path / "pid", "-L", tmp_path]
    process = subprocess.Popen(
        [daemon, "-s", "-t", "0", "-l", "1", *map(str, places)],
        env=os.environ | {"HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(socket.exists, 30)
        address = f"unix_socket:{socket}"
        with another_chromium(browser, "--enable-speech-dispatcher", SPEECHD_ADDRESS=address) as running:
            yield running
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_the_video_is_quieter_while_the_commentary_is_spoken(speaking_browser, url):
    with Watcher(speaking_browser, url) as watcher:
        watcher.wait_for(lambda: watcher.page.evaluate("speechSynthesis.getVoices().length"))
        watcher.page.evaluate(
            """() => {
                window.spoken = [];
                const speak = speechSynthesis.speak;
                speechSynthesis.speak = (utterance) => {
                    const said = { text: utterance.text, voice: utterance.voice?.name, volumes: [] };
                    const note = () => said.volumes.push(document.getElementById('video').volume);
                    for (const name of ['start', 'end', 'error']) utterance.addEventListener(name, note);
                    window.spoken.push(said);
                    speak.call(speechSynthesis, utterance);
                };
            }"""
        )
        watcher.page.evaluate("localStorage.setItem('livecc.voice', 'a voice that was removed')")
        watcher.click("#voice")
        names = watcher.page.eval_on_selector_all("#voices option", "all => all.map(e => e.value)")
        assert watcher.page.get_attribute("#voice", "aria-pressed") == "true" and 0 < len(names) <= 100
        assert watcher.page.input_value("#voices") == names[0]
        watcher.click("#clip")
        spoken = lambda: watcher.page.evaluate("window.spoken.filter((each) => each.volumes.length === 2)")  # noqa: E731
        watcher.wait_for(lambda: len(spoken()) >= 2)
        said = spoken()
        assert all(each["voice"] == names[0] and each["volumes"][0] == pytest.approx(0.2) for each in said)
        words = " ".join(text for _, _, text in watcher.segments)
        assert words.startswith(said[0]["text"])
        watcher.click("#voice")
        watcher.wait_for(lambda: volume(watcher) == 1)
        assert watcher.complaints == [] and watcher.foreign == []
