"""Writes the demo's held-out clip and its ground-truth events.

    python recipes/livecc-tiny/make_demo_clip.py OUT_FOLDER

Takes seconds. It chooses the held-out clip with the most kinds of events, without running a model.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from livecc_hf.evaluation.tiny.commentary import held_out_seed
from livecc_hf.tiny.narration import sentence
from livecc_hf.tiny.rendering import write_video
from livecc_hf.tiny.world import simulate

DURATION_S = 24
FIRST, N_CANDIDATES = 1000, 400  # disjoint from the benchmark's clips


def main() -> None:
    """Choose the clip; write ``clip.mp4`` and ``events.json``."""
    if len(sys.argv) != 2:
        sys.exit("usage: make_demo_clip.py OUT_FOLDER")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    seeds = [held_out_seed(FIRST + index) for index in range(N_CANDIDATES)]
    scenes = {seed: simulate(seed, DURATION_S) for seed in seeds}
    best = max(seeds, key=lambda seed: (len({e.verb for e in scenes[seed].events}), -len(scenes[seed].events)))
    scene = scenes[best]
    write_video(scene, out / "clip.mp4")
    events = [asdict(event) | {"sentence": sentence(event)} for event in scene.events]
    content = {"seed": best, "duration_s": DURATION_S, "events": events}
    (out / "events.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"seed {best}: {len(events)} events of {len({e.verb for e in scene.events})} kinds")


if __name__ == "__main__":
    main()
