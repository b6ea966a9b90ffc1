"""Measures a decode step of 1, 8 and 24 streams with full windows, and names the kernels that take the time.

    python benchmarks/gpu/decode_step.py [--streams 1 8 24] [--context 7214] [--capacity 8960]

The model has LiveCC-7B's shape with random weights; caches hold random numbers. Each number of streams runs with CUDA
graphs (`graph`) and without (`calls`); both must give the same logits. A turn of one stream is profiled too: eviction,
vision, prefill and ten tokens.
"""

import contextlib
import sys
from collections.abc import Callable
from itertools import count
from statistics import median
from typing import Annotated, Any

import torch
from torch.profiler import profile

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_most, benchmark, holds, times_of
from models import CASES, build_model, greedy_options, never_end, seen_frames, weights_floor

from livecc_hf.acceleration.graph import graphs_disabled
from livecc_hf.modeling.context import TEXT, Span, StreamState
from livecc_hf.modeling.kv_cache import KVCache
from livecc_hf.modeling.model_runner import decode, new_kv_cache_pool

N_STEPS, N_PROFILED, N_KERNELS = 20, 3, 12
MAX_RATIO = 2.0  # of a step of one stream to reading the weights
MAX_DIFFERENCE = 0.2  # of logits in bfloat16, whose spread is several units


def filled_states(model, n_streams: int, n_tokens: int, capacity: int) -> list[StreamState]:
    """Return states of streams that share a KV cache pool, each with `n_tokens` tokens of random keys and values."""
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
    """Return the kernels of a call by device time, longest first; on a CPU the operations by CPU time."""
    kind = device.partition(":")[0]
    with profile() as profiler:
        for _ in range(N_PROFILED):
            run()
    field = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    # On CUDA, operations are listed next to their kernels, with the same time.
    events = [event for event in profiler.key_averages() if event.device_type.name.lower() == kind]
    per_call = [(getattr(event, field) / 1000 / N_PROFILED, event.count / N_PROFILED, event.key) for event in events]
    longest = [{"kernel": name[:100], "ms": ms, "launches": n} for ms, n, name in sorted(per_call, reverse=True)]
    return {"all_ms": sum(ms for ms, *_ in per_call), "longest": longest[:N_KERNELS]}


def figures(run: Callable[[], Any], device: str, n_calls: int) -> dict[str, Any]:
    """Return the time and the kernels of a call."""
    times_ms = [1000 * times_of(run)[0] for _ in range(n_calls)]
    return {"median_ms": median(times_ms), "most_ms": max(times_ms), "kernels": kernels(run, device)}


def measure_steps(model, n_streams: int, device: str, n_tokens: int, capacity: int) -> dict[str, Any]:
    """Measure a step of `n_streams` streams with graphs and without."""
    found: dict[str, Any] = {}
    logits = []
    token_ids = torch.arange(n_streams, device=device) + 10
    states = filled_states(model, n_streams, n_tokens, capacity)
    for way, context in (("graph", contextlib.nullcontext), ("calls", graphs_disabled)):
        with context():
            for state in states:
                state.cache.truncate(n_tokens)
            batch = model.packed_batch([state.cache for state in states], [1] * n_streams)
            faster = model.decode_step and model.decode_step(model, batch.caches, N_STEPS + N_PROFILED + 2)
            positions = (torch.full((n_streams,), n_tokens + i, device=device) for i in count())
            step = lambda batch=batch, faster=faster, positions=positions: decode(  # noqa: E731
                model, batch, token_ids, next(positions), faster
            )
            logits.append(step().float().clone())
            found[way] = figures(step, device, N_STEPS)
    found["largest_difference"] = (logits[0] - logits[1]).abs().max().item()
    kept = states[0].cache.memory.step
    found["graphs"] = 0 if kept is None else len(kept.graphed.graphs)
    return found


@benchmark("decode_step.json", on_cuda=True, small={"streams": [1, 3], "context": 100, "capacity": 512, "turns": 2})
def main(
    run: Run,
    streams: Annotated[tuple[int, ...], "numbers of streams"] = (1, 8, 24),
    context: Annotated[int, "tokens in the cache of each stream"] = 7214,
    capacity: Annotated[int, "tokens that the pool has room for, of each stream"] = 8960,
    turns: Annotated[int, "turns that fill the window before a turn is measured"] = 20,
) -> Measured:
    """Measure steps, and a turn of one stream with a full window."""
    case = CASES["livecc-7b"].small() if run.is_small else CASES["livecc-7b"]
    model, processor = build_model(case, run)
    never_end(model, processor)
    report: dict[str, Any] = {"context": context, "steps": {}, **(weights_floor(model) if run.on_cuda else {})}
    for n in streams:
        report["steps"][n] = found = measure_steps(model, n, run.device, context, capacity)
        graph, calls = found["graph"]["median_ms"], found["calls"]["median_ms"]
        run.tell(f"{n:3} streams: {graph:.2f} ms a step, {calls:.2f} without graphs", report)
    frames, stream = seen_frames(case, 8), model.start_stream(processor, greedy_options(case))
    for turn in range(turns + 1):
        stream.push(frames[:2] if turn else frames[:6])
    report["turn"] = figures(lambda: stream.push(frames[2:4]), run.device, 8)
    run.tell(f"a turn: {report['turn']['median_ms']:.1f} ms")
    steps = list(report["steps"].values())
    same = max(found["largest_difference"] for found in steps) < MAX_DIFFERENCE
    asked = [holds("the same logits with and without graphs", same)]
    if run.on_cuda:
        ratio = steps[0]["graph"]["median_ms"] / 1000 / report["weights_over_bandwidth_s"]
        asked.append(holds("steps are graphs", all(found["graphs"] for found in steps)))
        asked.append(at_most("a step to reading the weights", ratio, MAX_RATIO))
    return report, asked
