"""The stage `active_speaker`: drops clips in which somebody on screen often speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from ....data.media.paths import resolve_media
from ....utils.counts import check_counts
from ....utils.device_errors import is_accelerator_failure, is_out_of_memory
from ....utils.text import counted, one_line
from ...backends.speech_audio import NoAudioError, SpeechAudio, decode_speech
from ...columns import scores_array, with_column
from ...errors import DeviceError
from ...schemas import FACES
from ...watchdog import items_done
from ..base import StageResult, split
from ..model import ModelStage, choose_device, device_option
from .scoring import ScoredTrack, find_tracks, score_tracks, speaking_frames
from .windows import FPS, Pictures, clip_sound, read_pictures, windows_of

_SAMPLED_FRAMES = FPS // 2  # frames per score in the column `faces`, so about two scores per second


class _Loaded(NamedTuple):
    network: Any
    detector: Any


class _Clip(NamedTuple):
    video: str
    start_s: float
    end_s: float


class _Score(NamedTuple):
    """The result for a clip: a ratio and faces, or the reason to drop it."""

    ratio: float = np.nan
    faces: list[dict[str, float]] | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class ActiveSpeaker(ModelStage):
    """Drops clips in which a person on screen often speaks, and fills `speaker_ratio`.

    In windows of a clip, faces are detected in 25 frames per second and tracked while they overlap. A network decides
    from a face's motion and the sound in which frames the face speaks. The ratio is the share of the windows' frames in
    which any face speaks. People who talk to the camera seldom describe what it shows.

    Pictures and sound are aligned on the player's clock. A clip shorter than a window is scored as one short window,
    and a clip without faces has ratio 0.

    Dropped: `active_speaker` (value: the ratio), `no_audio` (no audio stream), `error` (the file does not exist, or
    pictures or sound cannot be decoded).

    Method and threshold are those of the LiveCC paper (arXiv 2504.16030, section 3, SFT data) with Light-ASD;
    docs/data-production.md lists the differences from its published code.
    """

    name: ClassVar[str] = "active_speaker"
    takes: ClassVar[str] = "clips"
    needs_gpu: ClassVar[bool] = True
    batch_rows: ClassVar[int] = 64

    model: str = field(
        default="",
        metadata={
            "help": "Weights of Light-ASD or LR-ASD (.model as published, or .safetensors): a file, a folder, a Hub id "
            "or REPO:FILE; required."
        },
    )
    detector: str = field(
        default="",
        metadata={
            "help": "Face detector: YuNet or SCRFD (.onnx) as a file, a folder or REPO:FILE, or an object detector of "
            "transformers as a folder or Hub id; required."
        },
    )
    max_ratio: float = field(
        default=0.05,
        metadata={"help": "Highest share of frames in which a face speaks. (paper: 0.05)"},
    )
    round_ratio: bool = field(
        default=False,
        metadata={"help": "Round the ratio to two digits first, as the reference does: 0.05 then means below 0.055."},
    )
    window_s: float = field(default=6.0, metadata={"help": "Length of a window in seconds. (reference: 6)"})
    every_s: float = field(
        default=30.0, metadata={"help": "Seconds from one window's start to the next's. (reference: 30)"}
    )
    min_face_px: float = field(
        default=0.0, metadata={"help": "Minimum height of a face, in pixels of the video. (reference: 0)"}
    )
    side_px: int = field(
        default=320,
        metadata={"help": "Longer side of the pictures in which faces are detected. (reference: 288 x 160)"},
    )
    batch: int = field(default=16, metadata={"help": "Faces in a forward pass; lower it if memory runs out."})
    decoders: int = field(default=2, metadata={"help": "Windows decoded in advance."})
    device: str | None = device_option()

    def __post_init__(self):
        for name, what in (
            ("model", "Light-ASD's weights"),
            ("detector", "a face detector, such as YuNet's .onnx file"),
        ):
            if not getattr(self, name):
                raise ValueError(
                    f"active_speaker.{name} is not given: set it to {what}; docs/data-production.md names sources"
                )
        if not 0 <= self.max_ratio <= 1:
            raise ValueError(f"max_ratio is {self.max_ratio}: expected a share from 0 to 1, such as 0.05")
        for name in ("window_s", "every_s"):
            if not 1 / FPS <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: expected seconds, such as 6")
        if self.every_s < self.window_s:
            raise ValueError(f"every_s is {self.every_s}: expected at least window_s, {self.window_s}")
        if not self.min_face_px >= 0:
            raise ValueError(f"min_face_px is {self.min_face_px}: expected pixels, 0 or more")
        if self.side_px < 32:
            raise ValueError(f"side_px is {self.side_px}: expected at least 32")
        check_counts(self, "batch", "decoders")

    def load(self) -> _Loaded:
        """Return the network and the face detector.

        Raises:
            ImportError: if onnxruntime is missing.
            ValueError: if one of them cannot be loaded.
        """
        from .faces import load_detector
        from .weights import load_network

        device = choose_device(self.device)
        return _Loaded(load_network(self.model).to(device), load_detector(self.detector, device))

    def __call__(self, batch: pa.Table) -> StageResult:
        """Score the clips of a batch in `CLIP_SCHEMA`.

        Raises:
            DeviceError: if the accelerator fails, as when its memory runs out.
        """
        if len(batch):
            self.open()  # here, so that a failure to load is not reported as an error of a clip
        clips = [
            _Clip(*row)
            for row in zip(*(batch[name].to_pylist() for name in ("video", "start_s", "end_s")), strict=True)
        ]
        found = []
        for score in self._scores(clips):
            found.append(score)
            items_done()
        ratios = np.array([score.ratio for score in found], np.float64)
        reasons = np.array([score.reason for score in found], dtype=object)
        for i in np.flatnonzero(~np.isnan(ratios)):
            reasons[i] = None if self.passes(ratios[i]) else "active_speaker"
        batch = with_column(batch, "speaker_ratio", scores_array(ratios))
        batch = with_column(batch, "faces", pa.array([score.faces for score in found], FACES))
        return split(self.name, batch, reasons, ratios, [score.detail for score in found])

    def passes(self, ratio: float) -> bool:
        """Return whether a clip with this ratio is kept."""
        return bool((round(float(ratio), 2) if self.round_ratio else ratio) <= self.max_ratio)

    def _scores(self, clips: list[_Clip]) -> Iterator[_Score]:
        """Yield the score of each clip in order, while the next windows are decoded."""
        sounds = _Sounds()
        with ThreadPoolExecutor(self.decoders) as pool:
            windows = ((number, window) for number, clip in enumerate(clips) for window in self._windows(clip))
            pictures = _ahead(pool, lambda item: self._read(clips[item[0]], item[1]), windows, self.decoders)
            for clip in clips:
                yield self._score(clip, (next(pictures) for _ in self._windows(clip)), sounds)

    def _windows(self, clip: _Clip) -> list[tuple[float, int]]:
        try:
            return windows_of(clip.start_s, clip.end_s, self.window_s, self.every_s)
        except (ValueError, TypeError):
            return []

    def _read(self, clip: _Clip, window: tuple[float, int]) -> Pictures | str:
        try:
            return read_pictures(clip.video, clip.start_s + window[0], window[1], self.side_px)
        except Exception as error:  # a broken file must not end the run, whatever error FFmpeg raises
            return one_line(error)

    def _score(self, clip: _Clip, read: Iterator[Pictures | str], sounds: _Sounds) -> _Score:
        """Score a clip; takes all of its windows from `read` even if one fails, so that the next clip gets its own."""
        windows = self._windows(clip)
        if not windows:
            span = f"from {clip.start_s} to {clip.end_s} s"
            return _Score(reason="error", detail=f"the clip runs {span}: expected an end after its start")
        fault, sound, n_spoken, n_frames = sounds.fault(clip.video), None, 0, 0
        faces: list[dict[str, float]] = []
        for (begin_s, _), pictures in zip(windows, read, strict=True):
            if fault is None and isinstance(pictures, str):
                fault = ("error", pictures)
            if fault is not None or isinstance(pictures, str):
                continue
            if sound is None:
                sound = clip_sound(sounds.of(clip.video), clip.start_s, clip.end_s)
            tracks = self._score_window(clip, pictures, sound, round(begin_s * FPS))
            n_spoken += int(speaking_frames(tracks, len(pictures.frames)).sum())
            n_frames += len(pictures.frames)
            faces += _sample_faces(tracks, clip.start_s + begin_s + pictures.first / FPS)
        if fault is not None:
            return _Score(reason=fault[0], detail=fault[1])
        return _Score(
            n_spoken / n_frames, faces, detail=f"{n_spoken} of {n_frames} frames in {counted(len(windows), 'window')}"
        )

    def _score_window(self, clip: _Clip, pictures: Pictures, sound: np.ndarray, first: int) -> list[ScoredTrack]:
        network, detector = self.loaded
        try:
            tracks = find_tracks(pictures, detector, self.min_face_px)
            return score_tracks(network, pictures, tracks, sound, first, self.batch)
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) or is_accelerator_failure(error)):
                raise  # drops the clip
            raise DeviceError(
                f"active speaker detection failed at {clip.video}: {one_line(error)}; if memory ran out, lower "
                f"active_speaker.batch (now {self.batch})"
            ) from error


class _Sounds:
    """The decoded sound of the current video, kept for all its clips."""

    def __init__(self):
        self._video: str | None = None
        self._found: SpeechAudio | tuple[str, str] = ("error", "not read")

    def fault(self, video: str) -> tuple[str, str] | None:
        """Return the reason and detail why a video's sound cannot be decoded; `None` if it can."""
        found = self._read(video)
        return found if isinstance(found, tuple) else None

    def of(self, video: str) -> SpeechAudio:
        """Return a video's sound.

        Raises:
            ValueError: if it cannot be decoded.
        """
        found = self._read(video)
        if isinstance(found, tuple):
            raise ValueError(f"{video}: {found[1]}")
        return found

    def _read(self, video: str) -> SpeechAudio | tuple[str, str]:
        if video != self._video:
            self._video = video
            try:
                self._found = decode_speech(resolve_media(video))
            except NoAudioError as error:
                self._found = ("no_audio", one_line(error))
            except Exception as error:  # a broken file must not end the run
                self._found = ("error", one_line(error))
        return self._found


def _sample_faces(tracks: Iterable[ScoredTrack], start_s: float) -> list[dict[str, float]]:
    """Return two samples per second for each face: its box, and the mean score up to the next sample."""
    found = []
    for track in tracks:
        for at in range(0, len(track.logits), _SAMPLED_FRAMES):
            left, top, right, bottom = track.boxes[at].tolist()
            score = float(track.logits[at : at + _SAMPLED_FRAMES].mean())
            place = {"left": left, "top": top, "right": right, "bottom": bottom}
            found.append({"time_s": start_s + (track.first + at) / FPS, "score": score} | place)
    return sorted(found, key=lambda face: (face["time_s"], face["left"]))


def _ahead(pool: ThreadPoolExecutor, work: Callable, items: Iterable, n: int) -> Iterator[Any]:
    """Yield `work(item)` for each item in order, while up to `n` further items are processed in the pool."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > n:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
