"""Real-time commentary: frames go in, the words that belong to them come out, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from .decoding_livecc import LIVE_MAX_PIXELS, StreamOptions, TokenChooser, stream_options
from .grammar_livecc import FIRST_TURN_FRAMES, FRAME_STEP_S, TURN_FRAMES, query_text
from .stream_state_livecc import ContextFullError, StreamState, decode, prefill
from .video_processing_livecc import resize_limits
from .video_reader_livecc import iter_chunks


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


class CommentaryStream:
    """One running commentary. Made by `model.start_stream`; streams on one model do not touch each other.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        options: what to comment on and how to choose words.

    Raises:
        ValueError: if the model is in training mode, or the options contradict each other.
    """

    def __init__(self, model, processor, options: StreamOptions):
        if model.training:
            raise ValueError("the model is in training mode (dropout is on): call model.eval() before start_stream")
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
        self._chooser = TokenChooser(
            options, self._model.generation_config, [processor.end_id], processor.continuation_id, self._model.device
        )
        self._query = processor.default_query if options.query is None else options.query
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
            timestamps_s: the T times at which the frames were sampled, in seconds, not decreasing; a gap of half a
                second or more (dropped frames) moves the time the model reads.

        Returns:
            The completed turns, in order; empty if no turn is complete.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the frames or times have another form; the stream is as before.
            ContextFullError: if the next turn does not fit. Its `segments` are the turns completed before;
                the frames that wait are dropped. After any other failure they wait for the next push, which
                returns what was completed too.
        """
        self._check_running("push")
        frames = self._checked_frames(frames)
        times_s = self._checked_times(timestamps_s, len(frames))
        self._frames += frames.unbind()
        self._times_s += times_s
        while len(self._frames) >= self._turn_frames:
            self._undelivered.append(self._run_turn(self._turn_frames))
        return self._deliver()

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
            if len(self._frames) % TURN_FRAMES:
                self._frames.append(self._frames[-1])
                self._times_s.append(self._times_s[-1])
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
        self._processor.question_ids(query)  # refuses special tokens now, not in the middle of a push
        if query == self._query:
            return
        self._query = query
        if self._n_turns == 0:
            self._next_query = query_text(query, self.options.title, self.options.previous)
        else:
            self._next_query = query

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
        snapshot = self.state.snapshot()
        try:
            token_ids, _ = self._generate(self._processor.question_ids(question), max_new_tokens)
        finally:
            self.state.restore(snapshot)
        return self._processor.decode_turn(token_ids)

    @property
    def _turn_frames(self) -> int:
        return FIRST_TURN_FRAMES if self._n_turns == 0 else TURN_FRAMES

    @torch.no_grad()
    def _run_turn(self, n_frames: int) -> CommentarySegment:
        """Show the model the first `n_frames` waiting frames; on any failure the stream is as before."""
        start_s = self._turn_start_s()
        end_s = start_s + self._turn_frames * FRAME_STEP_S
        patches, grid = self._processor.video_processor.frames_to_patches(
            torch.stack(self._frames[:n_frames]), **self._frame_options
        )
        prompt = self._processor.turn_ids(
            start_s,
            end_s,
            len(patches) // self._processor.video_processor.merge_size**2,
            self._next_query or "",
            is_first=self._n_turns == 0,
        )
        snapshot = self.state.snapshot()
        try:
            token_ids, logits = self._generate(prompt, self._chooser.max_new_tokens, patches, grid)
        except BaseException as error:
            self.state.restore(snapshot)
            if isinstance(error, ContextFullError):
                error.segments = tuple(self._deliver())
                self._drop_frames(len(self._frames))
            raise
        was_cut = token_ids[-1] not in self._chooser.end_ids
        if was_cut:
            self.state.pending_ids = [token_ids[-1]]
        self._drop_frames(n_frames)
        self._next_query = None
        self._n_turns += 1
        self._next_start_s = end_s
        offset_s = self._clock_start_s or 0.0
        text = self._processor.decode_turn(token_ids)
        return CommentarySegment(offset_s + start_s, offset_s + end_s, text, tuple(token_ids), was_cut, logits)

    def _generate(self, prompt_ids, max_new_tokens, patches=None, grid=None):
        """Read a prompt and choose tokens until one ends the turn; the last one chosen is not read."""
        chooser, model, state = self._chooser, self._model, self.state
        end_id = self._processor.end_id
        logits = prefill(model, state, prompt_ids, end_id, patches, grid, n_new_tokens=max_new_tokens)
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
        dropped = int((time_s - self._clock_start_s - start_s) / FRAME_STEP_S + 1e-6)
        return start_s + max(dropped, 0) * FRAME_STEP_S

    def _deliver(self) -> list[CommentarySegment]:
        segments, self._undelivered = self._undelivered, []
        return segments

    def _drop_frames(self, n_frames: int) -> None:
        del self._frames[:n_frames], self._times_s[:n_frames]

    def _check_running(self, action: str) -> None:
        if self._is_finished:
            raise StreamFinishedError(f"{action}() after finish(): call reset() to start again, or start a new stream")

    def _checked_frames(self, frames: torch.Tensor) -> torch.Tensor:
        if not isinstance(frames, torch.Tensor):
            raise ValueError(f"frames are of type {type(frames).__name__}: expected a torch.Tensor, uint8 (T, 3, H, W)")
        if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape[2:]:
            raise ValueError(f"frames have shape {tuple(frames.shape)}: expected (T, 3, H, W)")
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are {frames.dtype}: expected torch.uint8 with values 0 to 255")
        if len(frames) == 0:
            raise ValueError("the push is empty (T = 0): expected at least one frame")
        if self._frames and frames.shape[1:] != self._frames[0].shape:
            raise ValueError(
                f"frames are {frames.shape[3]}x{frames.shape[2]} pixels, but the waiting frames of the same turn are "
                f"{self._frames[0].shape[2]}x{self._frames[0].shape[1]}: sizes may change between turns only"
            )
        if not self.options.do_resize:
            self._processor.video_processor.check_unresized(frames)
        return frames

    def _checked_times(self, timestamps_s: Sequence[float] | None, n_frames: int) -> list[float | None]:
        """Return one time for each frame, checked against what came before."""
        if self._n_turns + len(self._frames) and (timestamps_s is None) != (self._last_time_s is None):
            raise ValueError("timestamps_s was given for some pushes only: give it always or never in one stream")
        if timestamps_s is None:
            return [None] * n_frames
        times_s = [float(t) for t in timestamps_s]
        if len(times_s) != n_frames:
            raise ValueError(f"got {n_frames} frames but {len(times_s)} timestamps: expected one for each frame")
        for before_s, after_s in zip([self._last_time_s, *times_s], times_s):
            if not (before_s is None or after_s >= before_s):
                raise ValueError(f"timestamps go back from {before_s} s to {after_s} s: expected them in order")
        if self._clock_start_s is None:
            self._clock_start_s = times_s[0]
        self._last_time_s = times_s[-1]
        return times_s


class StreamingMixin:
    """The streaming methods of `LiveCCForConditionalGeneration`."""

    def start_stream(self, processor, options: StreamOptions | None = None, **keywords) -> CommentaryStream:
        """Start a commentary.

        Args:
            processor: the model's `StreamingProcessor`.
            options: a :class:`StreamOptions`; keywords of the same names are laid over it.
            **keywords: `query`, `title`, `previous`, `do_sample`, `temperature`, `top_p`, `top_k`,
                `repetition_penalty`, `max_new_tokens`, `silence_threshold`, `seed`, `output_logits`,
                `min_pixels`, `max_pixels`, `do_resize`: see :class:`StreamOptions`.

        Raises:
            ValueError: if an option is unknown or out of range, or the model is in training mode.
        """
        return CommentaryStream(self, processor, stream_options(options, keywords))

    def stream_generate(
        self,
        processor,
        video: str | os.PathLike | Iterable[torch.Tensor],
        start_s: float | None = None,
        end_s: float | None = None,
        options: StreamOptions | None = None,
        **keywords,
    ) -> Iterator[CommentarySegment]:
        """Comment on a whole video, segment by segment, while it is read.

        Args:
            processor: the model's `StreamingProcessor`.
            video: a file that PyAV reads, or an iterable of uint8 (T, 3, H, W) frames at 2 per second.
            start_s: where in the file to start, in seconds of its own clock.
            end_s: where in the file to stop.
            options: a :class:`StreamOptions`; keywords of the same names are laid over it.
            **keywords: as in :meth:`start_stream`.

        Yields:
            One :class:`CommentarySegment` a turn, silent ones included; times on the file's clock.
        """
        stream = self.start_stream(processor, options, **keywords)
        if isinstance(video, str | os.PathLike):
            chunks = ((c.frames, c.timestamps_s) for c in iter_chunks(video, start_s=start_s, end_s=end_s))
        elif start_s is not None or end_s is not None:
            raise ValueError("start_s and end_s need a file: cut the frames before passing them")
        else:
            chunks = ((frames, None) for frames in video)
        for frames, times_s in chunks:
            yield from stream.push(frames, times_s)
        yield from stream.finish()
