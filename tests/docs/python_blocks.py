"""Runs Python blocks; what a block takes for given is given."""

import ast
import builtins
import contextlib
import io
from pathlib import Path

import torch
from blocks import Block
from reader_folder import TINY
from servers import Servers
from stand_ins import TEXTS, replaced


def _given_model():
    from livecc_hf import load_model_and_processor

    return load_model_and_processor(TINY, device="cpu")


def _given_frames(seconds: int) -> tuple[torch.Tensor, list[float]]:
    """Frames of the reader's video, two a second, and their times."""
    from livecc_hf.video.reader import iter_chunks

    chunks = list(iter_chunks("match.mp4"))
    return torch.cat([chunk.frames for chunk in chunks])[: 2 * seconds], [
        time for chunk in chunks for time in chunk.timestamps_s
    ][: 2 * seconds]


# What a block may use without making it, and how it is made.
GIVEN = {
    "model": lambda names: _given_model()[0],
    "processor": lambda names: _given_model()[1],
    "stream": lambda names: names["model"].start_stream(names["processor"]),
    "frames": lambda names: _given_frames(3)[0],
    "timestamps_s": lambda names: _given_frames(3)[1],
    "source": lambda names: _given_frames(8)[0].split(2),
}
_NEEDED = {"stream": ("model", "processor")}


def run_python(block: Block, folder: Path) -> str:
    """Run the block and return what it prints; where it prints at all, it must print something."""
    with Servers(folder) as servers, contextlib.redirect_stdout(io.StringIO()) as out:
        code = servers.filled_in(replaced(block.text, TEXTS))
        exec(compile(code, f"{block.page}:{block.line}", "exec"), names_given_to(code))
    assert out.getvalue() or "print(" not in block.text, f"{block.page}, line {block.line}: nothing was printed"
    return out.getvalue()


def names_given_to(code: str) -> dict:
    """Return what `GIVEN` has of the names that the code uses and does not make."""
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    made = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    names: dict = {"__name__": "__main__"}
    for name in {node.id for node in found} - made:
        for needed in (*_NEEDED.get(name, ()), name):
            if needed in GIVEN and needed not in names and not hasattr(builtins, needed):
                names[needed] = GIVEN[needed](names)
    return names
