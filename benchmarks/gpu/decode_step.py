"""Measures reading one token of 1, 8 and 24 streams whose window is full, and names the kernels that take the time.

    python benchmarks/gpu/decode_step.py [--streams 1 8 24] [--context 7214] [--capacity 8960]

The model has LiveCC-7B's shape with random weights; caches hold random numbers. Each number of streams is measured
twice: as it runs (`graph`), and with graphs turned off (`calls`); both must give the same logits. A turn of one stream
is profiled too: eviction, vision, prefill and ten tokens. Kernels are summed over a step or a turn.
`--small` runs the same code with a tiny model on any device.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "streaming"))
from harness import Measured, Run, at_most, benchmark, holds, times_of
from models import CASES, build_model, bundled_processor, never_end, weights_floor
from pool import make_frames, options_of

N_STEPS, N_PROFILED, N_KERNELS = 20, 3, 12
MAX_RATIO = 2.0  # of a step of one stream to reading the weights
MAX_DIFFERENCE = 0.2  # of logits in bfloat16, whose spread is several units


def filled_states(model, n_streams: int, n_tokens: int, capacity: int) -> list:
    """Return the states of streams that share memory and hold so many tokens of random numbers."""
    import torch

    from livecc_hf.modeling.context import TEXT, Span, StreamState
    from livecc_hf.modeling.kv_cache import KVCache
    from livecc_hf.modeling.model_runner import new_kv_cache_pool

    config = model.config.text_config
    shape = 1, config.num_key_value_heads, 1, config.hidden_size // config.num_attention_heads
    like = torch.zeros(shape, dtype=model.dtype, device=model.device)
    memory = new_kv_cache_pool(model, is_evictable=True, n_expected=n_streams)
    memory.expect(capacity)
    states = [StreamState(cache=KVCache(memory)) for _ in range(n_streams)]
    for layer in range(config.num_hidden_layers):
        for held in memory.reserve(layer, n_tokens + 1, like)[:2]:
            held.normal_()
    for state in states:
        state.cache.length = state.next_position = n_tokens
        state.token_ids, state.spans = [1] * n_tokens, [Span(TEXT, 0, 0.0, n_tokens, n_tokens)]
    return states


def kernels(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """Return where the time of a call goes on the device (on a CPU: in operations), the longest first."""
    from torch.profiler import ProfilerActivity, profile

    kind = device.partition(":")[0]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kind == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(N_PROFILED):
            run()
    field = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    # On CUDA operations are listed with the time of their kernels, beside the kernels.
    events = [event for event in profiler.key_averages() if event.device_type.name.lower() == kind]
    found = sorted(((getattr(event, field), event.count, event.key) for event in events), reverse=True)
    listed = [
        {"kernel": name[:100], "ms": us / 1000 / N_PROFILED, "launches": n / N_PROFILED}
        for us, n, name in found[:N_KERNELS]
    ]
    return {"all_ms": sum(us for us, *_ in found) / 1000 / N_PROFILED, "longest": listed}


def figures(run: Callable[[], Any], device: str, n_calls: int) -> dict[str, Any]:
    """Return what a call takes, and its kernels."""
    times_ms = [1000 * times_of(run)[0] for _ in range(n_calls)]
    return {"median_ms": median(times_ms), "most_ms": max(times_ms), "kernels": kernels(run, device)}


def measure_steps(model, n_streams: int, device: str, n_tokens: int, capacity: int) -> dict[str, Any]:
    """Measure a step of so many streams both ways."""
    import torch

    from livecc_hf.acceleration.graph import graphs_disabled
    from livecc_hf.modeling.attention import PackedBatch
    from livecc_hf.modeling.model_runner import decode

    found: dict[str, Any] = {}
    logits = []
    token_ids = torch.arange(n_streams, device=device) + 10
    states = filled_states(model, n_streams, n_tokens, capacity)
    for way, context in (("graph", contextlib.nullcontext), ("calls", graphs_disabled)):
        with context():
            for state in states:
                state.cache.truncate(n_tokens)
            batch = PackedBatch([state.cache for state in states], [1] * n_streams)
            faster = model.decode_step and model.decode_step(model, batch.caches, N_STEPS + N_PROFILED + 2)
            places = (torch.full((n_streams,), n_tokens + i, device=device) for i in count())
            step = lambda batch=batch, faster=faster, places=places: decode(  # noqa: E731
                model, batch, token_ids, next(places), faster
            )
            first_s, _, first = times_of(step)
            logits.append(first.float().clone())
            found[way] = {"first_ms": 1000 * first_s} | figures(step, device, N_STEPS)
    found["largest_difference"] = (logits[0] - logits[1]).abs().max().item()
    kept = states[0].cache.memory.step
    found["graphs"] = 0 if kept is None else len(kept.graphed.graphs)
    return found


@benchmark("decode_step.json", on_cuda=True, small={"streams": [1, 3], "context": 100, "capacity": 512, "turns": 2})
def main(
    run: Run,
    streams: Annotated[list[int], "numbers of streams"] = (1, 8, 24),
    context: Annotated[int, "tokens that each stream holds"] = 7214,
    capacity: Annotated[int, "tokens for which there is memory"] = 8960,
    turns: Annotated[int, "turns that fill the window of the stream whose turn is measured"] = 20,
) -> Measured:
    """Measure steps, and a turn of one stream whose window is full."""
    case = CASES["livecc-7b"].small() if run.is_small else CASES["livecc-7b"]
    processor, is_cuda = bundled_processor(), run.device.startswith("cuda")
    model = build_model(case, processor, run.device, run.is_small)
    never_end(model, processor)
    report: dict[str, Any] = {"context": context, "steps": {}, **(weights_floor(model) if is_cuda else {})}
    for n in streams:
        report["steps"][n] = found = measure_steps(model, n, run.device, context, capacity)
        run.keep(report)
        graph, calls = found["graph"]["median_ms"], found["calls"]["median_ms"]
        print(f"{n:3} streams: {graph:.2f} ms a step, {calls:.2f} without graphs", flush=True)
    frames, stream = make_frames(case, 8), model.start_stream(processor, options_of(case))
    for turn in range(turns + 1):
        stream.push(frames[:2] if turn else frames[:6])
    report["turn"] = figures(lambda: stream.push(frames[2:4]), run.device, 8)
    print(f"a turn: {report['turn']['median_ms']:.1f} ms", flush=True)
    steps = list(report["steps"].values())
    same = max(found["largest_difference"] for found in steps) < MAX_DIFFERENCE
    asked = [holds("the same logits with and without graphs", same)]
    if is_cuda:
        ratio = steps[0]["graph"]["median_ms"] / 1000 / report["weights_over_bandwidth_s"]
        asked.append(holds("steps are graphs", all(found["graphs"] for found in steps)))
        asked.append(at_most("a step to reading the weights", ratio, MAX_RATIO))
    return report, asked


if __name__ == "__main__":
    sys.exit(main())
