"""Measures reading one token of 1, 8 and 24 streams whose window is full, and names the kernels that take the time.

    python benchmarks/gpu/decode_step.py [--streams 1 8 24] [--context 7214] [--capacity 8960]

The model has LiveCC-7B's shape with random weights; caches hold random numbers. Each number of streams is measured
twice: as it runs (`graph`), and with graphs turned off (`calls`); both must give the same logits. A turn of one stream
is profiled too: eviction, vision, prefill and ten tokens. Kernels are summed over a step or a turn.
`--small` runs the same code with a tiny model on any device.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "streaming"))
from harness import at_most, finish, has_cuda, holds, keep, parser, slug, surroundings
from models import CASES, build_model, bundled_processor, never_end, small, weights_floor
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


def timed_ms(run: Callable[[], Any], device: str) -> float:
    """Return how long a call takes, work on the device included."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    began_s = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began_s)


def kernels(run: Callable[[], Any], device: str, n_calls: int) -> dict[str, Any]:
    """Return where the time of a call goes on the device (on a CPU: in operations), the longest first."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(n_calls):
            run()
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    # On CUDA operations are listed with the time of their kernels, beside the kernels.
    events = [event for event in profiler.key_averages() if event.device_type.name.lower() == device]
    found = sorted(((getattr(event, field), event.count, event.key) for event in events), reverse=True)
    listed = [
        {"kernel": name[:100], "ms": us / 1000 / n_calls, "launches": count / n_calls}
        for us, count, name in found[:N_KERNELS]
    ]
    return {"all_ms": sum(us for us, _, _ in found) / 1000 / n_calls, "longest": listed}


def measure_steps(model, n_streams: int, device: str, n_tokens: int, capacity: int) -> dict[str, Any]:
    """Measure a step of so many streams both ways."""
    import torch

    from livecc_hf.acceleration.graph import graphs_disabled
    from livecc_hf.modeling.attention import PackedBatch
    from livecc_hf.modeling.model_runner import decode

    found: dict[str, Any] = {}
    logits = {}
    token_ids = torch.arange(n_streams, device=device) + 10
    states = filled_states(model, n_streams, n_tokens, capacity)
    for way, context in (("graph", contextlib.nullcontext), ("calls", graphs_disabled)):
        with context():
            for state in states:
                state.cache.truncate(n_tokens)
            batch = PackedBatch([state.cache for state in states], [1] * n_streams)
            faster = model.decode_step and model.decode_step(model, batch.caches, N_STEPS + N_PROFILED + 2)
            positions, done = torch.full((n_streams,), n_tokens, device=device), iter(range(1000))
            step = lambda batch=batch, faster=faster, positions=positions, done=done: decode(  # noqa: E731
                model, batch, token_ids, positions + next(done), faster
            )
            first_ms = timed_ms(lambda way=way, step=step: logits.update({way: step().float()}), device)
            times = [timed_ms(step, device) for _ in range(N_STEPS)]
            found[way] = {"first_ms": first_ms, "median_ms": statistics.median(times), "most_ms": max(times)}
            found[way]["kernels"] = kernels(step, device, N_PROFILED)
    found["largest_difference"] = (logits["graph"] - logits["calls"]).abs().max().item()
    kept = states[0].cache.memory.step
    found["graphs"] = 0 if kept is None else len(kept.graphed.graphs)
    return found


def measure_turn(model, processor, case, device: str, n_turns: int) -> dict[str, Any]:
    """Measure a turn of one stream whose window is full."""
    frames = make_frames(case, 8)
    stream = model.start_stream(processor, options_of(case))
    stream.push(frames[:6])
    for _ in range(n_turns):
        stream.push(frames[:2])
    times = [timed_ms(lambda: stream.push(frames[2:4]), device) for _ in range(8)]
    profiled = kernels(lambda: stream.push(frames[4:6]), device, N_PROFILED)
    return {"median_ms": statistics.median(times), "most_ms": max(times), "kernels": profiled}


def main(argv: list[str] | None = None) -> int:
    """Measure and write; 1 where a target is missed or no CUDA device is there."""
    made = parser(__doc__)
    made.add_argument("--streams", type=int, nargs="+", default=[1, 8, 24])
    made.add_argument("--context", type=int, default=7214, help="tokens that each stream holds")
    made.add_argument("--capacity", type=int, default=8960, help="tokens for which there is memory")
    arguments = made.parse_args(argv)
    import torch

    if not has_cuda(arguments):
        return 1
    device, case = "cuda" if torch.cuda.is_available() else "cpu", CASES["livecc-7b"]
    n_turns = 20
    if arguments.small:
        case, n_turns = small(case), 2
        arguments.streams, arguments.context, arguments.capacity = [1, 3], 100, 512
    processor = bundled_processor()
    model = build_model(case, processor, device, arguments.small)
    never_end(model, processor)
    report: dict[str, Any] = surroundings(device) | {"context": arguments.context, "steps": {}}
    if device == "cuda":
        report |= weights_floor(model)
    for n in arguments.streams:
        report["steps"][n] = found = measure_steps(model, n, device, arguments.context, arguments.capacity)
        keep(arguments, report)
        graph, calls = found["graph"]["median_ms"], found["calls"]["median_ms"]
        print(f"{n:3} streams: {graph:.2f} ms a step, {calls:.2f} without graphs", flush=True)
    report["turn"] = measure_turn(model, processor, case, device, n_turns)
    print(f"a turn: {report['turn']['median_ms']:.1f} ms", flush=True)
    differences = [found["largest_difference"] for found in report["steps"].values()]
    asked = [holds("the same logits with and without graphs", max(differences) < MAX_DIFFERENCE)]
    if device == "cuda":
        asked.append(holds("steps are graphs", all(found["graphs"] for found in report["steps"].values())))
        ratio = report["steps"][arguments.streams[0]]["graph"]["median_ms"] / 1000 / report["weights_over_bandwidth_s"]
        asked.append(at_most("a step to reading the weights", ratio, MAX_RATIO))
    return finish(arguments, report, asked, f"decode_step-{slug(report['device'])}.json")


if __name__ == "__main__":
    sys.exit(main())
