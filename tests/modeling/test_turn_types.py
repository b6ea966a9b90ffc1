"""How many types a reader must know to follow one turn, counted while one runs."""

import sys

from livecc_hf.modeling import StreamOptions

MOST = 15
PACKAGE = "livecc_hf.modeling"


class CrossedTypes:
    """Records the names of the package's classes whose methods run or whose objects are made.

    A method counts for the class of its object, so that one inherited is of the class at hand. Copies and named tuples
    are made by the standard library; they count as well.
    """

    def __init__(self):
        self.names = set()

    def __enter__(self):
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _note(self, frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_argcount:
            return
        first = frame.f_locals.get(code.co_varnames[0])
        owner = first if isinstance(first, type) else type(first)
        if not owner.__module__.startswith(f"{PACKAGE}."):
            return
        is_copied = code.co_name in ("copy", "deepcopy") and frame.f_globals.get("__name__") == "copy"
        is_made = code.co_name in ("__init__", "__new__", "_make", "__post_init__")
        if is_copied or is_made or _is_method(owner, frame):
            self.names.add(owner.__name__)


def _is_method(owner, frame):
    """Whether a Python frame runs code of a class of the package."""
    if not frame.f_globals.get("__name__", "").startswith(f"{PACKAGE}."):
        return False
    for each in owner.__mro__:
        found = vars(each).get(frame.f_code.co_name)
        for function in (found, getattr(found, "fget", None), getattr(found, "__func__", None)):
            function = getattr(function, "__wrapped__", function)
            if getattr(function, "__code__", None) is frame.f_code:
                return True
    return False


def test_a_turn_uses_at_most_15_classes(load_frames, make_model, processor):
    frames = load_frames("live_cc")[:20, :, :84, :112]
    options = StreamOptions(max_pixels=9408, min_pixels=784, vision_window_s=3, text_window=40, text_sink=0, seed=1)
    stream = make_model("mrope").start_stream(processor, options)
    stream.push(frames[:18])
    n_evicted = stream.state.n_evicted
    with CrossedTypes() as crossed:
        [segment] = stream.push(frames[18:])
    assert segment.token_ids and stream.state.n_evicted > n_evicted > 0
    assert {"CommentaryStream", "StreamState", "KVCache", "CommentarySegment"} <= crossed.names  # they are found
    assert len(crossed.names) <= MOST, "\n".join(sorted(crossed.names))
