"""Real-time commentary: frames go in, the words that belong to them come out, turn by turn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .decoding_livecc import LIVE_MAX_PIXELS, StreamOptions, TokenChooser
from .grammar_livecc import FIRST_TURN_FRAMES, FRAME_STEP_S, TURN_FRAMES, query_text
from .stream_state_livecc import ContextFullError, StreamState, decode, prefill
from .video_processing_livecc import resize_limits

if TYPE_CHECKING:
    from .processing_livecc import StreamingProcessor

_TURN_S = TURN_FRAMES * FRAME_STEP_S


class StreamFinishedError(RuntimeError):
    """A stream was used after `finish()`."""


@dataclass(frozen=True)
class CommentarySegment:
    """What was said in one turn.

    Attributes:
        start_s: start of the turn in seconds: on the clock of the timestamps given to `push`, else from the
            stream's start.
        end_s: end of the turn, on the same clock.
        text: the words; empty where the model kept silent.
        token_ids: every token generated, the one that ended the turn included.
        was_cut: whether `max_new_tokens` ended the turn.
        logits: (tokens, vocabulary) in float32, before penalties; kept with `output_logits=True`.
    """

    start_s: float
    end_s: float
    text: str
    token_ids: tuple[int, ...]
    was_cut: bool = False
    logits: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said."""
        return not self.text


@dataclass(frozen=True)
class _Turn:
    """What the model reads in one turn; times in seconds from the stream's start."""

    n_frames: int
    start_s: float
    end_s: float
    prompt_ids: list[int]
    patches: torch.Tensor
    grid_thw: torch.LongTensor


class CommentaryStream:
    """One running commentary. Made by `model.start_stream`; streams on one model do not touch each other.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        options: what to comment on and how to choose words.

    Raises:
        ValueError: if the model is in training mode, the processor is another model's, the options contradict each
            other, or a text holds a control token.
    """

    def __init__(self, model, processor: StreamingProcessor, options: StreamOptions):
        if model.training:
            raise ValueError("the model is in training mode (dropout is on): call model.eval() before start_stream")
        if not hasattr(processor, "turn_ids"):
            raise ValueError(
                f"the processor is a {type(processor).__name__}: expected a StreamingProcessor, which AutoProcessor "
                "loads from the model's folder with trust_remote_code=True"
            )
        for text in (options.query, options.title, options.previous):
            processor.checked_text(text or "")
        self.options = options
        self._model = model
        self._processor = processor
        limit = resize_limits(processor.video_processor).longest_edge
        max_pixels = options.max_pixels or max(min(LIVE_MAX_PIXELS, limit), options.min_pixels or 0)
        resize_limits(processor.video_processor, options.min_pixels, max_pixels)
        self._frame_options = {
            "min_pixels": options.min_pixels,
            "max_pixels": max_pixels,
            "do_resize": options.do_resize,
        }
        self.reset()

    def reset(self) -> None:
        """Forget everything seen and said, and start again with the first query."""
        options, processor = self.options, self._processor
        self.state = StreamState()
        self._chooser = self._make_chooser(options)
        self._query = processor.default_query if options.query is None else options.query
        self._asked = self._query  # becomes the query with the next turn
        self._next_query: str | None = query_text(self._query, options.title, options.previous)
        self._frames: list[torch.Tensor] = []  # of the turn that is not complete yet, each (3, H, W)
        self._times_s: list[float | None] = []
        self._undelivered: list[CommentarySegment] = []  # completed in a push that failed later
        self._n_turns = 0
        self._next_start_s = 0.0  # of the next turn, from the stream's start
        self._clock_start_s: float | None = None
        self._last_time_s: float | None = None
        self._is_finished = False

    def push(self, frames: torch.Tensor, timestamps_s: Sequence[float] | None = None) -> list[CommentarySegment]:
        """Show frames and return the turns they complete.

        The first turn takes 6 frames (3 s), each later one 2 (1 s); frames beyond a full turn wait for the next push.

        Args:
            frames: uint8 (T, 3, H, W), RGB, at 2 frames per second, any T above 0.
            timestamps_s: the T times at which the frames were sampled, in seconds, not decreasing, two in each
                second; where frames are missing, the time the model reads moves on by whole seconds.

        Returns:
            The completed turns, in order; empty if no turn is complete.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the frames or times have another form; the stream is as before.
            ContextFullError: if the next turn does not fit. Its `segments` are the turns completed before;
                the frames that wait are dropped. After any other failure they wait for the next push, which
                returns what was completed too (or for :meth:`discard_waiting`).
        """
        self._check_running("push")
        frames = self._checked_frames(frames)
        times_s = self._checked_times(timestamps_s, len(frames))
        self._frames += frames.unbind()
        self._times_s += times_s
        try:
            while len(self._frames) >= self._turn_frames:
                self._undelivered.append(self._run_turn(self._turn_frames))
        finally:
            # What waits is copied: the caller may write its next frame into the same memory.
            self._frames = [frame.clone() for frame in self._frames]
        return self._deliver()

    def discard_waiting(self) -> int:
        """Forget the frames that wait for a turn, such as after a failure that would come again.

        Returns:
            How many frames were dropped.
        """
        n_frames = len(self._frames)
        self._drop_frames(n_frames)
        return n_frames

    def finish(self) -> list[CommentarySegment]:
        """Say what is left to say and close the stream.

        An incomplete turn is completed to an even number of frames by repeating its last; it keeps its time label.

        Returns:
            The last turn, or nothing where no frame was waiting.

        Raises:
            StreamFinishedError: if called twice.
            ContextFullError: as in :meth:`push`.
        """
        self._check_running("finish")
        if self._frames:
            self._undelivered.append(self._run_turn(len(self._frames)))
        self._is_finished = True
        return self._deliver()

    def ask(self, query: str) -> None:
        """Change what the commentary is about, from the next turn on.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the query is empty or holds a special token.
        """
        self._check_running("ask")
        if not query.strip():
            raise ValueError(f"the query is {query!r}: expected some text")
        self._processor.checked_text(query)  # now, not in the middle of a push
        if self._n_turns == 0:
            self._next_query = query_text(query, self.options.title, self.options.previous)
        else:
            self._next_query = None if query == self._query else query
        self._asked = query

    @torch.no_grad()
    def answer(self, question: str, max_new_tokens: int = 512) -> str:
        """Answer a question about what was seen so far; the commentary goes on as if it had not been asked.

        Frames of a turn that is not complete yet have not been seen.

        Args:
            question: the question.
            max_new_tokens: the answer's longest length in tokens.

        Raises:
            ValueError: if no turn is complete yet, or the question is empty.
            ContextFullError: if question and answer do not fit; the stream is as before.
        """
        if self._n_turns == 0:
            raise ValueError("nothing has been seen yet: push frames until a first turn is complete, then ask")
        if not question.strip():
            raise ValueError(f"the question is {question!r}: expected some text")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: expected at least 1")
        chooser = self._make_chooser(dataclasses.replace(self.options, silence_threshold=None))
        snapshot = self.state.snapshot()
        try:
            token_ids, _ = self._generate(chooser, self._processor.question_ids(question), max_new_tokens)
        finally:
            self.state.restore(snapshot)
        return self._processor.decode_answer(token_ids)

    @property
    def _turn_frames(self) -> int:
        return FIRST_TURN_FRAMES if self._n_turns == 0 else TURN_FRAMES

    @torch.no_grad()
    def _run_turn(self, n_frames: int) -> CommentarySegment:
        """Show the model the first `n_frames` waiting frames; on any failure the stream is as before."""
        turn = self._begin_turn(n_frames)
        snapshot, drawn = self.state.snapshot(), self._chooser.snapshot()
        try:
            token_ids, logits = self._generate(
                self._chooser, turn.prompt_ids, self._chooser.max_new_tokens, turn.patches, turn.grid_thw
            )
        except BaseException as error:
            self.state.restore(snapshot)
            self._chooser.restore(drawn)
            if isinstance(error, ContextFullError):
                error.segments = tuple(self._deliver())
                self._drop_frames(len(self._frames))
            raise
        return self._end_turn(turn, token_ids, logits)

    def _begin_turn(self, n_frames: int) -> _Turn:
        """Prepare what the model reads for the first `n_frames` waiting frames; changes nothing."""
        frames = torch.stack(self._frames[:n_frames])
        if n_frames % TURN_FRAMES:
            frames = torch.cat([frames, frames[-1:]])
        start_s = self._turn_start_s()
        end_s = start_s + self._turn_frames * FRAME_STEP_S
        video_processor = self._processor.video_processor
        patches, grid_thw = video_processor.frames_to_patches(frames, **self._frame_options)
        prompt_ids = self._processor.turn_ids(
            start_s,
            end_s,
            len(patches) // video_processor.merge_size**2,
            self._next_query or "",
            is_first=self._n_turns == 0,
        )
        return _Turn(n_frames, start_s, end_s, prompt_ids, patches, grid_thw)

    def _end_turn(self, turn: _Turn, token_ids: list[int], logits: torch.Tensor | None) -> CommentarySegment:
        """Take what was generated into the stream's state."""
        was_cut = token_ids[-1] not in self._chooser.end_ids
        if was_cut:
            self.state.pending_ids = [token_ids[-1]]
        self._drop_frames(turn.n_frames)
        self._query, self._next_query = self._asked, None
        self._n_turns += 1
        self._next_start_s = turn.end_s
        offset_s = self._clock_start_s or 0.0
        return CommentarySegment(
            offset_s + turn.start_s,
            offset_s + turn.end_s,
            self._processor.decode_turn(token_ids),
            tuple(token_ids),
            was_cut,
            logits,
        )

    def _make_chooser(self, options: StreamOptions) -> TokenChooser:
        processor = self._processor
        return TokenChooser(options, self._model.generation_config, [processor.end_id], processor.continuation_id)

    def _generate(self, chooser: TokenChooser, prompt_ids, max_new_tokens, patches=None, grid_thw=None):
        """Read a prompt and choose tokens until one ends the turn; the last one chosen is not read."""
        model, state = self._model, self.state
        logits = prefill(model, state, prompt_ids, self._processor.end_id, patches, grid_thw, max_new_tokens)
        n_context = len(state.token_ids)
        context = torch.tensor([state.token_ids + [0] * max_new_tokens], device=logits.device)
        token_ids, kept = [], []
        while True:
            if self.options.output_logits:
                kept.append(logits[0].float().cpu())
            token_id = int(chooser.choose(context[:, :n_context], logits))
            token_ids.append(token_id)
            if token_id in chooser.end_ids or len(token_ids) == max_new_tokens:
                break
            context[0, n_context] = token_id
            n_context += 1
            logits = decode(model, state, token_id)
        return token_ids, torch.stack(kept) if kept else None

    def _turn_start_s(self) -> float:
        """Return where the next turn begins: where the last ended, or later if frames were dropped between."""
        start_s = self._next_start_s
        time_s = self._times_s[0]
        if time_s is None or self._n_turns == 0:
            return start_s
        # Whole turns only: the model learned labels such as 3.0-4.0, never 3.5-4.5.
        dropped = int((time_s - self._clock_start_s - start_s) / _TURN_S + 1e-6)
        return start_s + max(dropped, 0) * _TURN_S

    def _deliver(self) -> list[CommentarySegment]:
        segments, self._undelivered = self._undelivered, []
        return segments

    def _drop_frames(self, n_frames: int) -> None:
        del self._frames[:n_frames], self._times_s[:n_frames]

    def _check_running(self, action: str) -> None:
        if self._is_finished:
            raise StreamFinishedError(f"{action}() after finish(): call reset() to start again, or start a new stream")

    def _checked_frames(self, frames: torch.Tensor) -> torch.Tensor:
        self._processor.video_processor.check_frames(frames, self.options.do_resize)
        if len(frames) == 0:
            raise ValueError("the push is empty (T = 0): expected at least one frame")
        if self._frames and frames.shape[1:] != self._frames[0].shape:
            raise ValueError(
                f"frames are {frames.shape[3]}x{frames.shape[2]} pixels, but the waiting frames of the same turn are "
                f"{self._frames[0].shape[2]}x{self._frames[0].shape[1]}: sizes may change between turns only"
            )
        return frames.to(self._frames[0].device) if self._frames else frames

    def _checked_times(self, timestamps_s: Sequence[float] | None, n_frames: int) -> list[float | None]:
        """Return one time for each frame, checked against what came before."""
        if self._n_turns + len(self._frames) and (timestamps_s is None) != (self._last_time_s is None):
            raise ValueError("timestamps_s was given for some pushes only: give it always or never in one stream")
        if timestamps_s is None:
            return [None] * n_frames
        times_s = [float(t) for t in timestamps_s]
        if len(times_s) != n_frames:
            raise ValueError(f"got {n_frames} frames but {len(times_s)} timestamps: expected one for each frame")
        clock_start_s = times_s[0] if self._clock_start_s is None else self._clock_start_s
        expected_s = clock_start_s + self._next_start_s + len(self._frames) * FRAME_STEP_S
        before_s = self._last_time_s
        for n, time_s in enumerate(times_s):
            if not math.isfinite(time_s):
                raise ValueError(f"timestamp {n} is {time_s}: expected seconds as a finite number")
            if before_s is not None and time_s < before_s:
                raise ValueError(f"timestamps go back from {before_s} s to {time_s} s: expected them in order")
            if time_s < expected_s + n * FRAME_STEP_S - _TURN_S:
                raise ValueError(
                    f"frames come faster than 2 per second: one at {time_s} s, expected not before about "
                    f"{expected_s + n * FRAME_STEP_S} s; take every n-th frame"
                )
            before_s = time_s
        self._clock_start_s, self._last_time_s = clock_start_s, before_s
        return times_s
