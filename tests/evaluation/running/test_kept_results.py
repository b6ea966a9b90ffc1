"""What a run keeps of an earlier one in its folder, and what it refuses to add to."""

import json
import shutil

import pytest
from layouts import write_json
from media import write_video
from safetensors.torch import load_file, save_file

from livecc_hf.assets import bundled_model_path
from livecc_hf.evaluation import RunOptions, run, score
from livecc_hf.evaluation.predictions import Header, RowFile, read_rows
from livecc_hf.evaluation.running.plan import model_revision
from livecc_hf.evaluation.running.run import ModelSource
from livecc_hf.utils.one_run import only_run


def quietly(_):
    pass


def make(folder):
    folder.mkdir()
    return folder


def test_a_run_without_limit_completes_a_trial(benchmark, published_checkpoint, tmp_path):
    annotations, videos, _ = benchmark
    out = tmp_path / "out"
    first = run("videomme", published_checkpoint, videos, out, RunOptions(None, 3, annotations), quietly)
    assert first.n_done == 3
    (scored,) = score(out)  # the headline of a trial is withheld
    assert (scored.figures[0].name, scored.figures[0].value) == ("overall (N = 3 of 6)", None)
    (videos / "data/clip1.mp4").rename(tmp_path / "away.mp4")  # its answers are known
    result = run("videomme", published_checkpoint, videos, out, RunOptions(annotations=annotations), quietly)
    assert (result.n_done, result.failures) == (6, {})
    assert read_rows(out / "videomme.jsonl").header.limit is None
    assert score(out)[0].figures[0].name == "overall"


def test_a_trial_keeps_the_answers_beyond_its_limit(benchmark, published_checkpoint, tmp_path):
    annotations, videos, _ = benchmark
    out = tmp_path / "out"
    run("videomme", published_checkpoint, videos, out, RunOptions(annotations=annotations), quietly)
    before = read_rows(out / "videomme.jsonl").rows
    result = run("videomme", published_checkpoint, videos, out, RunOptions(None, 2, annotations), quietly)
    assert (result.n_rows, result.n_done) == (2, 2)
    assert read_rows(out / "videomme.jsonl").rows == before


def test_results_of_another_run_are_refused(benchmark, published_checkpoint, tmp_path):
    annotations, videos, _ = benchmark
    out = tmp_path / "out"
    run("videomme", published_checkpoint, videos, out, RunOptions(None, 1, annotations), quietly)
    with pytest.raises(ValueError, match=r"protocol: 'livecc' there, 'official' now"):
        run("videomme", published_checkpoint, videos, out, RunOptions("official", 1, annotations), quietly)


def test_a_run_that_was_killed_before_its_first_answer_binds_to_nothing(benchmark, published_checkpoint, tmp_path):
    annotations, videos, _ = benchmark
    RowFile(tmp_path / "out/parts/videomme.0.jsonl", Header("choice", suite="videomme", protocol="livecc")).close()
    options = RunOptions("official", 1, annotations)
    result = run("videomme", published_checkpoint, videos, tmp_path / "out", options, quietly)
    assert (result.n_done, read_rows(result.files[0]).header.protocol) == (1, "official")


def test_a_second_run_in_one_folder_is_refused(benchmark, published_checkpoint, tmp_path):
    annotations, videos, _ = benchmark
    arguments = ("videomme", published_checkpoint, videos, tmp_path / "out", RunOptions(None, 1, annotations), quietly)
    busy = "another run is working in .*out: wait for it, or choose another folder"
    with only_run(make(tmp_path / "out"), "folder"), pytest.raises(ValueError, match=busy):
        run(*arguments)
    assert run(*arguments).n_done == 1


def test_answers_with_other_subtitles_are_refused(benchmark, published_checkpoint, tmp_path):
    annotations, videos, subtitles = benchmark
    arguments = ("videomme-subtitles", published_checkpoint, videos, tmp_path / "out")
    options = RunOptions(None, 1, annotations, subtitles=subtitles)
    run(*arguments, options, quietly)
    assert run(*arguments, options, quietly).n_done == 1
    (subtitles / "clip1.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nOther words\n")
    with pytest.raises(ValueError, match="holds the results of a different run .*'subtitles'"):
        run(*arguments, options, quietly)


@pytest.mark.slow
def test_a_commentary_of_a_4_bit_model_is_refused_for_the_whole_model(tmp_path):
    pytest.importorskip("bitsandbytes")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", n_frames=30, fps=10, size_px=(112, 84))
    event = {"video_id": "a", "event_id": 0, "begin": 0, "end": 3, "event_asr": '[[0, 1, "Go"]]'}
    options = RunOptions(annotations=write_json(tmp_path / "cc.json", [event]))
    arguments = (tmp_path / "videos", tmp_path / "out", options, quietly)
    run("livesports3k-cc", ModelSource(str(bundled_model_path()), "cpu", load_in_4bit=True), *arguments)
    with pytest.raises(ValueError, match="holds the results of a different run .*'load_in_4bit': True"):
        run("livesports3k-cc", ModelSource(str(bundled_model_path()), "cpu"), *arguments)


def test_a_model_that_was_trained_further_has_another_revision(published_checkpoint, tmp_path):
    folder = shutil.copytree(published_checkpoint, tmp_path / "model")
    before = model_revision(folder)
    assert before == model_revision(published_checkpoint)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    assert file.stat().st_size == next(published_checkpoint.glob("*.safetensors")).stat().st_size
    assert model_revision(folder) != before


def test_a_resumed_run_keeps_the_datasets_commit(benchmark, published_checkpoint, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    first, newer = "a" * 40, "b" * 40
    cache = tmp_path / "hub/datasets--stdKonjac--LiveSports-3K"
    rows = json.loads(benchmark[0].read_text())
    rows = [row | {"q_type": "Who", "OCR": 0, "video": f"{row['videoID']}.mp4"} for row in rows]
    (cache / "refs").mkdir(parents=True)
    for commit in (first, newer):
        write_json(cache / f"snapshots/{commit}/LiveSports-3K-QA.json", rows)
    (cache / "refs/main").write_text(first)
    arguments = ("livesports3k-qa", published_checkpoint, benchmark[1], tmp_path / "out")
    run(*arguments, RunOptions(limit=1), quietly)
    (cache / "refs/main").write_text(newer)
    result = run(*arguments, RunOptions(limit=2), quietly)
    assert result.n_done == 2
    assert read_rows(result.files[0]).header.dataset_revision == first
    with pytest.raises(ValueError, match="dataset_revision: 'a+' there, 'b+' now"):
        run(*arguments, RunOptions(dataset_revision=newer), quietly)
