"""Sampling and the stream's clock, with real PyAV frames and simulated times."""

from fractions import Fraction

import av
import pytest
from media import number_of, numbered_picture

from livecc_hf.sources.timeline import ArrivedFrame, LiveChunk, LiveFrameSampler, StreamClock


def arrive(number, pts, arrived_s, size_px=(96, 64), rate=10):
    frame = av.VideoFrame.from_ndarray(numbered_picture(number, *size_px), format="rgb24")
    pts = None if pts is None else Fraction(pts).limit_denominator(1000)
    return ArrivedFrame(frame, pts, Fraction(1, rate), arrived_s)


def play(sampler, frames):
    """Return the chunks of frames, given as arguments of `arrive`; `None` is a reconnection."""
    chunks = []
    for frame in frames:
        chunks += sampler.cut() if frame is None else sampler.add(arrive(*frame))
    return chunks


def shown(chunks):
    """Return (time, frame number) of every sampled frame."""
    return [(t, number_of(f)) for chunk in chunks for t, f in zip(chunk.timestamps_s, chunk.frames)]


def live():
    return LiveFrameSampler(StreamClock(is_live=True))


def steady(first, count, pts=0.0, arrived_s=100.0, rate=10):
    return [(first + n, pts + n / rate, arrived_s + n / rate) for n in range(count)]


def test_two_frames_a_second_from_the_first_on():
    chunks = play(live(), steady(0, 31, pts=50))
    # The frame shown just before each half second, as in the file reader.
    assert shown(chunks) == [(0, 0), (0.5, 4), (1, 9), (1.5, 14), (2, 19), (2.5, 24)]
    assert all(isinstance(chunk, LiveChunk) for chunk in chunks)
    assert [chunk.arrived_s for chunk in chunks] == [pytest.approx(t) for t in (100.4, 101.4, 102.4)]


def test_only_sampled_frames_are_converted(monkeypatch):
    from livecc_hf.sources import timeline

    converted = []
    real = timeline.frame_to_rgb
    monkeypatch.setattr(timeline, "frame_to_rgb", lambda *a: converted.append(1) or real(*a))
    play(live(), steady(0, 100))
    assert len(converted) == 20


def test_few_frames_a_second_are_repeated():
    chunks = play(live(), steady(0, 4, rate=1))
    assert shown(chunks) == [(0, 0), (0.5, 0), (1, 0), (1.5, 1), (2, 1), (2.5, 2)]


def test_a_reconnection_continues_by_the_wall_clock_at_a_whole_second():
    sampler = live()
    chunks = play(sampler, [*steady(0, 13), None, *steady(100, 21, pts=9000, arrived_s=107.33)])
    times = [t for t, _ in shown(chunks)]
    # The interrupted second is completed with its last frame; the stream came back at 7.33 s.
    assert shown(chunks)[:4] == [(0, 0), (0.5, 4), (1, 9), (1.5, 9)]
    assert times[4:] == [8, 8.5]
    assert [number for _, number in shown(chunks)[4:]] == [106, 111]


def test_a_pause_of_the_same_connection_is_left_out():
    chunks = play(live(), [*steady(0, 16), *steady(100, 21, pts=9.0, arrived_s=109)])
    assert [t for t, _ in shown(chunks)] == [0, 0.5, 1, 1.5, 9, 9.5, 10, 10.5]


def test_a_recording_repeats_a_picture_that_stays():
    chunks = play(LiveFrameSampler(StreamClock(is_live=False)), [(1, 0, 0), (2, 6, 0.1), (3, 6.1, 0.2)])
    assert [t for t, _ in shown(chunks)] == [n / 2 for n in range(12)]
    assert not any(isinstance(chunk, LiveChunk) for chunk in chunks)


@pytest.mark.parametrize("back_to", [0.0, -95443.7])  # a restart; a wrap of MPEG-TS's 33-bit clock
def test_times_that_go_far_back_continue(back_to):
    sampler = live()
    chunks = play(sampler, [*steady(0, 20, pts=500), *steady(20, 21, pts=back_to, arrived_s=102)])
    assert [t for t, _ in shown(chunks)] == [n / 2 for n in range(8)]
    assert sampler.clock.n_jumps == 1


def test_times_that_jump_ahead_of_the_wall_clock_continue():
    sampler = live()
    chunks = play(sampler, [*steady(0, 20), *steady(20, 21, pts=5000, arrived_s=102)])
    assert [t for t, _ in shown(chunks)] == [n / 2 for n in range(8)]
    assert sampler.clock.n_jumps == 1


@pytest.mark.parametrize("stuck_at", [1.9, 1.5])  # the previous time, or one that makes every frame late
def test_a_clock_that_stands_still_is_replaced_by_the_wall_clock(stuck_at):
    sampler = live()
    frozen = [(number, stuck_at, arrived_s) for number, _, arrived_s in steady(20, 60, arrived_s=102)]
    chunks = play(sampler, [*steady(0, 20), *frozen])
    times = [t for t, _ in shown(chunks)]
    assert times == sorted(set(times))
    assert 5 <= times[-1] <= 8  # the time missed meanwhile may be left out
    assert sampler.clock.n_jumps == 1
    # The next connection's clock is trusted again.
    chunks = play(sampler, [None, *steady(100, 31, pts=70, arrived_s=120.05)])
    assert [number for _, number in shown(chunks)[-4:]] == [109, 114, 119, 124]


def test_a_late_frame_is_skipped():
    sampler = live()
    frames = steady(0, 21)
    chunks = play(sampler, [*frames[:10], (999, 0.3, 100.95), *frames[10:]])
    assert shown(chunks) == [(0, 0), (0.5, 4), (1, 9), (1.5, 14)]
    assert (sampler.clock.n_late_frames, sampler.clock.n_jumps) == (1, 0)


def test_frames_without_times_follow_each_other():
    chunks = play(live(), [(n, None, 100 + n / 10) for n in range(21)])
    assert [t for t, _ in shown(chunks)] == [0, 0.5, 1, 1.5]


def test_another_size_is_resized_to_the_first():
    sampler = live()
    frames = [(*frame, (96, 64) if n < 12 else (192, 160)) for n, frame in enumerate(steady(0, 31))]
    chunks = play(sampler, frames)
    assert {tuple(chunk.frames.shape) for chunk in chunks} == {(2, 3, 64, 96)}
    assert shown(chunks)[-1] == (2.5, 24)
    assert sampler.n_size_changes == 1


def test_the_end_yields_the_rest():
    sampler = live()
    chunks = play(sampler, steady(0, 12))
    chunks += sampler.end()
    assert shown(chunks) == [(0, 0), (0.5, 4), (1, 9)]


def test_a_jump_of_a_recording_that_no_picture_can_fill_is_damage():
    """Otherwise a damaged timestamp would repeat a frame for hours."""
    sampler = LiveFrameSampler(StreamClock(is_live=False))
    far_s = 100_000
    chunks = play(sampler, [*steady(0, 15), *steady(15, 26, pts=far_s + 1.5)])
    assert shown(chunks) == [(n / 2, max(0, 5 * n - 1)) for n in range(8)]
    assert sampler.clock.n_jumps == 1
    sampler = LiveFrameSampler(StreamClock(is_live=False, max_gap_s=20))
    chunks = play(sampler, [*steady(0, 15), *steady(15, 26, pts=19)])
    assert chunks[-1].timestamps_s == [21, 21.5]
