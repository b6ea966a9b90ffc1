"""Loads a folder or Hub repository without this package, as most users do. `load_fresh` runs this file as a script.

The only argument is a JSON object: source, revision, kind, full (whether to generate a turn), base, and parent (id of
the process that waits for this one). The last line of standard output is a JSON object with the facts, or the error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


class _Blocked:
    """Import hook that blocks this package, which a repository must not need."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] == "livecc_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load(source: str, revision: str | None, kind: str, full: bool, base: str | None) -> dict[str, str]:
    """Load code, config and processor, and with `full` the weights; return facts about them."""
    from transformers import AutoConfig, AutoProcessor, GenerationMixin
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    trusted = {"revision": revision, "trust_remote_code": True}
    if kind == "generation code":
        GenerationMixin.load_custom_generate(None, source, **trusted)
        return {"class": "generate"}
    config = AutoConfig.from_pretrained(source, **trusted)
    processor = AutoProcessor.from_pretrained(source, **trusted)
    reference = config.auto_map["AutoModelForImageTextToText"]
    cls = get_class_from_dynamic_module(reference, source, revision=revision)
    facts = {"class": cls.__name__, "processor": type(processor).__name__, "scheme": config.position_scheme}
    if full:
        facts["said"] = say(cls, config, processor, source, revision, base)
    return facts


def say(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    processor: ProcessorMixin,
    source: str,
    revision: str | None,
    base: str | None,
) -> str:
    """Load the weights, and return the model's words for three seconds of grey frames."""
    import torch

    if base is None:
        model = cls.from_pretrained(source, revision=revision)
    else:
        from peft import PeftModel

        model = cls.from_pretrained(base, config=config)
        model = PeftModel.from_pretrained(model, source, revision=revision).merge_and_unload()
    frames = torch.full((6, 3, 280, 280), 128, dtype=torch.uint8)
    segments = list(model.eval().stream_generate(processor, frames, do_sample=False, max_new_tokens=16))
    return " ".join(segment.text for segment in segments)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, which alone reads the result."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Load the source in the argument, and print the facts or the error as JSON."""
    arguments = json.loads(sys.argv[1])
    threading.Thread(target=_end_with, args=(arguments.pop("parent"),), daemon=True).start()
    sys.meta_path.insert(0, _Blocked)
    facts: dict[str, str | int | None]
    try:
        facts = {**load(**arguments)}
    except Exception as error:  # the folder's code can raise anything
        text = " ".join(str(error).split()) or type(error).__name__
        facts = {"error": f"{type(error).__name__}: {text}", "errno": getattr(error, "errno", None)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
