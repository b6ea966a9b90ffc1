"""A `file://` URL is accepted wherever a video or picture file is named."""

import functools
import http.server
import threading
from contextlib import contextmanager

import pytest
import torch
from media import write_video
from PIL import Image

from livecc_hf.cli.main import main
from livecc_hf.data.media.paths import resolve_media
from livecc_hf.evaluation.running.frames import sample_clip
from livecc_hf.evaluation.tasks.questions import FrameRule
from livecc_hf.modeling import video_loading, video_sampling
from livecc_hf.modeling.video_file import local_file
from livecc_hf.questions.asking import answer
from livecc_hf.rendering.overlay import check_output
from livecc_hf.sources import open_source
from livecc_hf.sources.early_check import check_is_video
from livecc_hf.video.loading import load_video
from livecc_hf.video.reader import iter_frames, measure_duration, probe_video

GREEDY = {"do_sample": False, "max_new_tokens": 4}
ASK = ["--greedy", "--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a space and a letter outside ASCII in its name, with a video and a picture."""
    path = tmp_path_factory.mktemp("in side é")
    write_video(path / "a.mp4", n_frames=40, fps=10)
    Image.new("RGB", (64, 64), "red").save(path / "a.png")
    return path


@pytest.fixture(params=["percent-encoded", "as written", "localhost"])
def urls(request, folder):
    """The URLs of the video and the picture."""
    forms = {
        "percent-encoded": lambda path: path.as_uri(),
        "as written": lambda path: f"file://{path}",
        "localhost": lambda path: path.as_uri().replace("file://", "file://localhost"),
    }
    form = forms[request.param]
    return form(folder / "a.mp4"), form(folder / "a.png")


def frames_of(chunks):
    return torch.cat([chunk.frames for chunk in chunks])


def test_readers(urls, folder, processor):
    url, path = urls[0], folder / "a.mp4"
    assert local_file(url) == str(path)
    assert resolve_media(url) == path
    assert probe_video(url) == probe_video(path)
    assert measure_duration(url) == measure_duration(path) == 4
    check_is_video(url)
    for read in (iter_frames, video_sampling.iter_frames):
        assert all(map(torch.equal, *([item.frame for item in read(each)] for each in (url, path))))
    for load in (load_video, video_loading.load_video):
        loaded = [load(each, processor.video_processor) for each in (url, path)]
        assert torch.equal(loaded[0].frames, loaded[1].frames)
    with open_source(url) as source:
        by_url = frames_of(source)
    with open_source(path) as source:
        assert torch.equal(by_url, frames_of(source))


def test_a_copy_may_not_replace_the_video(urls, folder):
    with pytest.raises(ValueError, match="is the video itself"):
        check_output(urls[0], folder / "a.mp4")


def test_questions_and_commentary(urls, folder, make_model, processor):
    model = make_model("mrope")
    for url, name in zip(urls, ("a.mp4", "a.png"), strict=True):
        assert answer(model, processor, url, "What?", **GREEDY) == answer(
            model, processor, folder / name, "What?", **GREEDY
        )
    by_url, by_path = (list(model.stream_generate(processor, each, **GREEDY)) for each in (urls[0], folder / "a.mp4"))
    assert by_url == by_path and len(by_url) == 2


def test_chat_messages(urls, folder, processor):
    def inputs_of(video, image):
        content = [{"type": "video", "video": video}, {"type": "image", "image": image}]
        chat = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return processor.apply_chat_template([{"role": "user", "content": content}], **chat)

    by_url, by_path = inputs_of(*urls), inputs_of(str(folder / "a.mp4"), str(folder / "a.png"))
    assert all(torch.equal(by_url[name], by_path[name]) for name in by_path)


def test_commands(folder, tmp_path, capsys):
    """The name in the URL is the video's name."""
    url = (folder / "a.mp4").as_uri()
    assert main(["commentate", url, "--output", str(tmp_path), "--quiet", *ASK]) == 0
    assert (tmp_path / "a.txt").is_file()
    capsys.readouterr()
    answers = []
    for shown in (url, str(folder / "a.mp4")):
        assert main(["ask", shown, "What?", *ASK]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert main(["commentate", "file:///none.mp4"]) == 2
    assert "no such file: /none.mp4" in capsys.readouterr().err


@contextmanager
def served(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_ask_takes_the_url_of_a_file_on_the_web(folder, capsys):
    (folder / "words.txt").write_text("words and more words\n" * 9)
    with served(folder) as address:
        assert main(["ask", f"{address}/a.mp4", "What?", *ASK]) == 0
        by_url = capsys.readouterr().out
        assert main(["ask", f"{address}/none.mp4?key=secret", "What?"]) == 2
        shown = capsys.readouterr().err.splitlines()[-1]
        assert shown.startswith(f"livecc: error: {address}/none.mp4 cannot be downloaded: HTTP Error 404")
        assert main(["ask", f"{address}/words.txt", "What?"]) == 2
        shown = capsys.readouterr().err.splitlines()[-1]
        assert shown.startswith(f"livecc: error: {address}/words.txt is not a video file")
        assert main(["ask", f"{address}/a.png", "What?", *ASK]) == 0
        by_url += capsys.readouterr().out
    for name in ("a.mp4", "a.png"):
        assert main(["ask", str(folder / name), "What?", *ASK]) == 0
    assert capsys.readouterr().out == by_url


def test_clips_for_benchmarks(urls, folder):
    by_url, by_path = (
        sample_clip(each, None, None, FrameRule(), lambda frames, _: frames) for each in (urls[0], folder / "a.mp4")
    )
    assert torch.equal(by_url.frames, by_path.frames)
