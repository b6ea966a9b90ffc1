"""Reads what pages show of files: rows, recipes, names in a folder, the text that the model reads."""

import json
import re
from pathlib import Path

import yaml
from blocks import Block, blocks_of, difference
from media import write_video
from reader_folder import CHECKPOINT, SENTENCES, write_captions
from servers import Servers
from shell import Shell

from livecc_hf.data.samples.commentary import encode_commentary


def run_json(block: Block, folder: Path) -> str:
    """Read the block as what it is: a narrated clip to train on, or a row of a manifest."""
    rows = json.loads(block.text)
    return run_clip(rows, folder) if isinstance(rows, list) else run_manifest_row(rows, folder)


def run_manifest_row(row: dict, folder: Path) -> str:
    """Build a dataset of one row; nothing of it may be malformed, and its captions are read."""
    import pyarrow.parquet as pq

    write_captions(folder / row["captions"])
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        shell.run(
            "livecc data build --config recipes/data/my_videos.yaml --input manifest.jsonl --out out --stages captions"
        )
    [read] = pq.read_table(folder / "out/videos.parquet").to_pylist()
    assert read["title"] == row["title"]
    assert " ".join(word["word"] for word in read["words"]).startswith(SENTENCES[0])
    return ""


def run_clip(messages: list, folder: Path) -> str:
    """Look at the clip as training would."""
    video = next(part for part in messages[0]["content"] if part["type"] == "video")
    length_s = video["video_end"] + 2
    write_video(folder / video["video"], n_frames=int(2 * length_s), fps=2, size_px=(96, 64))
    (folder / "clips.jsonl").write_text(json.dumps(messages) + "\n")
    printed = _inspect("data: [{source: jsonl, path: clips.jsonl}]", folder)
    words = [word for part in messages[1]["content"] for *_, word in part["text_stream"]]
    assert " ".join(words) in printed, printed
    return printed


def run_yaml(block: Block, folder: Path) -> str:
    """Look at samples of the recipe's data, with a file and a dataset in the place of the published ones."""
    recipe = yaml.safe_load(block.text)
    if "stages" in recipe:
        return run_stages(block, folder)
    entries = recipe["data"]
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        for entry in entries:
            if entry["source"] == "dataset":
                shell.run("livecc data build --config recipes/data/my_videos.yaml")
                entry["path"] = "runs/data/my-videos/dataset"
            elif entry["source"] == "jsonl":
                path = folder / entry["path"]
                path.parent.mkdir(exist_ok=True)
                words = [[n, n + 0.5, word] for n, word in enumerate(SENTENCES[0].split())]
                row = {"video": "../videos/a.mp4", "words": words, "video_start": 0, "video_end": len(words)}
                path.write_text((json.dumps(row) + "\n") * 20)
    return _inspect(yaml.safe_dump({"data": entries}), folder)


def run_stages(block: Block, folder: Path) -> str:
    """Build a dataset with the recipe's stages; a stage of one's own is the page's class of that name."""
    written = []
    for module, name in re.findall(r"(\w+):([A-Z]\w*):", block.text):
        [code] = [found.text for found in blocks_of(block.page) if f"class {name}(" in found.text]
        written.append(folder / f"{module}.py")
        written[-1].write_text(code)
    (folder / "stages.yaml").write_text(block.text)
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        shell.run("PYTHONPATH=. livecc data build --config stages.yaml --input my-videos --out out-of-stages")
    assert (folder / "out-of-stages/dataset/README.md").is_file()
    for file in written:
        file.unlink()
    return ""


def _inspect(data: str, folder: Path) -> str:
    (folder / "recipe.yaml").write_text(f"{data}\noutput_dir: out-of-inspection\nmax_length: 16384\n")
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        shell.run("livecc train --config recipe.yaml model_name_or_path=chenjoya/LiveCC-7B-Instruct inspect=2")
    assert "Time=" in shell.printed or " s" in shell.printed, shell.printed
    return shell.printed


def run_files(block: Block, folder: Path) -> str:
    """Make the files that are listed; the input reads them as one video with captions and metadata."""
    from livecc_hf.production.inputs.videos import open_input

    names = [line.split()[0] for line in block.text.splitlines()]
    for path in (folder / Path(names[0]).parent).iterdir():
        path.unlink()
    makers = {".mp4": lambda path: write_video(path, n_frames=4), ".json3": _write_json3, ".json": _write_info}
    for name in names:
        makers[Path(name).suffix](folder / name)
    source = open_input(folder / Path(names[0]).parent)
    rows, dropped = source.read(next(source.units()))
    [row] = rows.to_pylist()
    assert len(dropped) == 0
    assert (Path(row["video"]).name, Path(row["captions"]).name) == tuple(Path(name).name for name in names[:2])
    assert row["title"] == "A match"
    return ""


def _write_json3(path: Path) -> None:
    path.write_text(json.dumps({"events": [{"tStartMs": 0, "dDurationMs": 900, "segs": [{"utf8": "Goal!"}]}]}))


def _write_info(path: Path) -> None:
    path.write_text(json.dumps({"title": "A match", "language": "en", "duration": 1}))


def run_grammar(block: Block, folder: Path) -> str:
    """Compare the text with what the processor makes of a clip with these words and frames; return that."""
    import torch

    from livecc_hf.checkpoints.loading import load_processor

    processor = load_processor(CHECKPOINT)
    spoken, query = (
        re.search(r"assistant\n(.*) \.\.\.<", block.text)[1],
        re.search(r"<\|vision_end\|>(.+?)<", block.text)[1],
    )
    words = [[n / 4, n / 4 + 0.2, word] for n, word in enumerate(spoken.split())]
    before = re.search(r"previous text\n(.*)<", block.text)
    context = {"query": query}
    if before:
        processor.grammar, context["previous"] = "streamingvlm", before[1]
    frames = torch.zeros(sum(map(int, re.findall(r"(\d+) frames", block.text))), 3, 56, 56, dtype=torch.uint8)
    times_s = [n / 2 for n in range(len(frames))]
    inputs = encode_commentary(processor, frames, times_s, words, keep_trailing_silence=True, **context).model_inputs
    text = processor.tokenizer.decode(inputs["input_ids"])
    n_pads = inputs["video_grid_thw"].prod(1) // processor.video_processor.merge_size**2
    for (n_frames, *_), n in zip(inputs["video_grid_thw"].tolist(), n_pads.tolist()):
        text = text.replace("<|video_pad|>" * n, f" {2 * n_frames} frames ", 1)
    assert difference(block.text, text) is None, difference(block.text, text)
    return text
