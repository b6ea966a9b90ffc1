"""Writes the tables of docs/performance.md from the recorded results.

    python benchmarks/performance_page.py            # after a benchmark has written its result
    python benchmarks/performance_page.py --check    # exit code 1 where the page says something else

A row is made of one file in benchmarks/results: figure, number of samples, hardware and day are read from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
HEAD = "| what | figure | of how many | hardware | script | measured |\n|---|--:|---|---|---|---|\n"
Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A figure of the page.

    Attributes:
        what: is measured, for a reader.
        file: the result's name without `.json`.
        figure: from the result.
        of: the number of samples, or the standard error, from the result.
    """

    what: str
    file: str
    figure: Callable[[Result], str]
    of: Callable[[Result], str]

    def line(self, results: Path, script: str) -> str:
        """Return the row as a line of a table."""
        result = json.loads((results / f"{self.file}.json").read_text())
        cells = (self.what, self.figure(result), self.of(result), result["hardware"], f"`{script}`")
        return "| " + " | ".join((*cells, result["measured_on"])) + " |\n"


SCRIPTS = {
    "streaming": "streaming/streaming.py",
    "pool": "streaming/pool.py",
    "decoding": "decoding/decoding.py",
    "decoding_live": "decoding/decoding_live.py",
    "training": "training/training.py",
    "other_narrator": "quality/other_narrator.py",
    "interleaving": "quality/interleaving.py",
    "tiny_commentary": "quality/tiny_commentary.py",
    "data": "data/data.py",
    "data_models": "data/model_stages.py",
    "evaluation": "evaluation/shared_vision.py",
}


def _model(name: str, key: str) -> Callable[[Result], str]:
    return lambda r: f"{r['models'][name][key]:.2f}"


def _turns(name: str) -> Callable[[Result], str]:
    return lambda r: f"{r['models'][name]['sides']['engine']['turns']} turns"


def _clips(r: Result) -> str:
    return f"{r['clips']} clips of {r['clip_s']} s"


def _training_samples(name: str) -> Callable[[Result], str]:
    return lambda r: (
        f"{len(r['models'][name]['ours']['all_steps_s'])} runs of "
        f"{len(r['models'][name]['samples']['sample_tokens'])} samples"
    )


TABLES: dict[str, Sequence[Row]] = {
    "streams": (
        Row(
            "a turn against `generate`, livecc-tiny (1.4M parameters)",
            "streaming",
            _model("livecc-tiny", "engine_to_generate"),
            _turns("livecc-tiny"),
        ),
        Row(
            "the same, 131M parameters",
            "streaming",
            _model("mid-size", "engine_to_generate"),
            _turns("mid-size"),
        ),
        Row(
            "the same, 131M parameters, default window, last ten turns",
            "streaming",
            _model("mid-size", "windowed_to_generate_last_turns"),
            lambda r: "10 turns",
        ),
        Row(
            "median time of a turn, livecc-tiny",
            "streaming",
            lambda r: f"{r['models']['livecc-tiny']['sides']['engine']['turn_s']['median']:.3f} s",
            _turns("livecc-tiny"),
        ),
        Row(
            "median time of a turn, 131M parameters",
            "streaming",
            lambda r: f"{r['models']['mid-size']['sides']['engine']['turn_s']['median']:.2f} s",
            _turns("mid-size"),
        ),
        Row(
            "turns a second of 8 streams in a pool against one after the other",
            "pool",
            lambda r: f"{r['throughput']['8']['ratio']:.1f} times",
            lambda r: r["model"],
        ),
        Row(
            "the same, 16 streams",
            "pool",
            lambda r: f"{r['throughput']['16']['ratio']:.1f} times",
            lambda r: r["model"],
        ),
        Row(
            "live streams held without dropping a frame",
            "pool",
            lambda r: f"{r['live_streams_held']}",
            lambda r: f"{r['live'][str(r['live_streams_held'])]['turns']} turns, {r['model']}",
        ),
    ),
    "reading": (
        Row(
            "1080p30 H.264 as x264 makes it, for a live stream, against real time",
            "decoding_live",
            lambda r: f"{r['files']['h264_default']['only_needed']['times_real_time']:.0f} times",
            lambda r: f"{r['rounds']} rounds of 30 s",
        ),
        Row(
            "the same against decoding every frame",
            "decoding_live",
            lambda r: f"{r['files']['h264_default']['wall_ratio']:.1f} times as fast",
            lambda r: f"{r['rounds']} rounds of 30 s",
        ),
        Row(
            "H.264 of key frames only against decoding every frame",
            "decoding_live",
            lambda r: f"{r['files']['h264_intra_only']['wall_ratio']:.1f} times as fast",
            lambda r: f"{r['rounds']} rounds of 30 s",
        ),
        Row(
            "training clips of 30 to 60 s of 720p video, a second and core, by seeking",
            "decoding",
            lambda r: f"{r['seek']['clips_per_s_per_core']:.2f}",
            lambda r: f"{len(r['clips_s'])} clips",
        ),
        Row(
            "the same against reading files from their start",
            "decoding",
            lambda r: f"{r['ratio']:.1f} times as fast",
            lambda r: f"{len(r['clips_s'])} clips",
        ),
    ),
    "training": (
        Row(
            "time of a step against stock Qwen2-VL under `Trainer`, 96M parameters, real vocabulary",
            "training",
            _model("mid-size", "step_time_ratio"),
            _training_samples("mid-size"),
        ),
        Row(
            "memory above the weights, the same",
            "training",
            lambda r: f"{r['models']['mid-size']['memory_ratio']:.3f}",
            _training_samples("mid-size"),
        ),
        Row(
            "time of a step, livecc-tiny",
            "training",
            _model("livecc-tiny", "step_time_ratio"),
            _training_samples("livecc-tiny"),
        ),
        Row(
            "memory above the weights, livecc-tiny (its packed rows are longer)",
            "training",
            lambda r: f"{r['models']['livecc-tiny']['memory_ratio']:.1f}",
            _training_samples("livecc-tiny"),
        ),
    ),
    "quality": (
        Row(
            "livecc-tiny: events told within 3 s (recall)",
            "tiny_commentary",
            lambda r: f"{r['recall']:.3f} ± {r['recall_se']:.3f}",
            _clips,
        ),
        Row(
            "livecc-tiny: told phrases that match an event (precision)",
            "tiny_commentary",
            lambda r: f"{r['precision']:.3f} ± {r['precision_se']:.3f}",
            _clips,
        ),
        Row(
            "livecc-tiny: turns without an event in the last 5 s that stay silent",
            "tiny_commentary",
            lambda r: f"{r['silence']:.3f}",
            lambda r: f"{r['quiet_turns']} turns",
        ),
        Row(
            "livecc-tiny: recall with blanked frames (it must be looking)",
            "tiny_commentary",
            lambda r: f"{r['blanked_recall']:.3f}",
            _clips,
        ),
        Row(
            "livecc-tiny: seconds of work for a second of video, the machine busy",
            "tiny_commentary",
            lambda r: f"{r['real_time_factor']:.3f}",
            _clips,
        ),
        Row(
            "LoRA and head on another narrator's words: events told in the new words",
            "other_narrator",
            lambda r: f"{r['adapter_on']['new_verbs']['recall']:.2f}",
            _clips,
        ),
        Row(
            "the same with the adapter off, in the old words (before: the same)",
            "other_narrator",
            lambda r: f"{r['adapter_off']['old_verbs']['recall']:.2f}",
            _clips,
        ),
        Row(
            "interleaved training, streamed: events told within 3 s",
            "interleaving",
            lambda r: f"{r['ways']['interleaved, streamed']['recall_in_time']:.2f}",
            _clips,
        ),
        Row(
            "captioning the last 20 s every 20 s: events told within 3 s",
            "interleaving",
            lambda r: f"{r['ways']['captioned, last 20 s every 20 s']['recall_in_time']:.2f}",
            _clips,
        ),
    ),
    "data": (
        Row(
            "clips made of a million caption lines, stages without models",
            "data",
            lambda r: f"{r['pipeline']['clips']:,}",
            lambda r: f"{r['manifest']['videos']:,} made-up videos",
        ),
        Row(
            "CPU time of it",
            "data",
            lambda r: f"{r['pipeline']['cpu_s']:.1f} s",
            lambda r: f"{r['manifest']['caption_lines']:,} lines",
        ),
        Row(
            "memory of it, all processes",
            "data",
            lambda r: f"{r['pipeline']['peak_mb'] / 1000:.2f} GB",
            lambda r: f"{r['manifest']['caption_lines']:,} lines",
        ),
        Row(
            "two local workers against one",
            "data",
            lambda r: f"{r['engines']['local_scaling']:.1f} times as fast",
            lambda r: f"{r['engines']['caption_lines']:,} lines",
        ),
        Row(
            "`asr`, Whisper tiny.en: hours of video a core hour",
            "data_models",
            lambda r: f"{r['stages']['asr']['hours_of_video_per_core_hour']:.1f}",
            lambda r: f"one clip of {r['stages']['asr']['clip_s']:.0f} s",
        ),
        Row(
            "`active_speaker`, Light-ASD: hours of video a core hour",
            "data_models",
            lambda r: f"{r['stages']['active_speaker']['hours_of_video_per_core_hour']:.1f}",
            lambda r: f"one clip of {r['stages']['active_speaker']['clip_s']:.0f} s",
        ),
    ),
    "evaluation": (
        Row(
            "questions that share a clip's vision against one pass each, time, 130M parameters",
            "evaluation",
            lambda r: f"{r['time_ratio']:.2f}",
            lambda r: f"{r['rows']} questions, {r['videos']} clips",
        ),
    ),
}


def tables(results: Path = RESULTS) -> dict[str, str]:
    """Return each table's text by its name."""
    return {
        name: HEAD + "".join(row.line(results, f"benchmarks/{SCRIPTS[row.file]}") for row in rows)
        for name, rows in TABLES.items()
    }


def filled_in(page: str, results: Path = RESULTS) -> str:
    """Return the page's text with the tables between their marks made anew.

    Raises:
        ValueError: if a table's marks are missing, or the page has marks of a table that is none.
    """
    made = tables(results)
    marks = re.findall(r"<!-- table (\w+) -->", page)
    if sorted(marks) != sorted(made):
        raise ValueError(f"the page has the tables {sorted(marks)}, the script makes {sorted(made)}")
    for name, text in made.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- /table -->)"
        page, n_found = re.subn(pattern, lambda match, text=text: match[1] + text + match[2], page, flags=re.DOTALL)
        if n_found != 1:
            raise ValueError(f"the table {name} has no end: <!-- /table --> is missing")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page differs")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled_in(page)
    if arguments.check:
        print("up to date" if page == wanted else "differs: run python benchmarks/performance_page.py")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
