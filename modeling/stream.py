"""Real-time commentary: frames go in, the words that belong to them come out, turn by turn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .answer import Answer
from .backbone import Backbone
from .context import ContextFullError, StreamState
from .frame_queue import FrameQueue
from .frames import PreparedFrames, gray_frames
from .generation import TurnRequest, generate
from .grammar import FIRST_TURN_FRAMES, PIXELS_PER_TOKEN, TURN_FRAMES, query_text
from .interfaces import ModelForStreams, ProcessorForStreams
from .kv_cache import KVCache, KVCachePool
from .model_runner import PrefillInput, new_kv_cache_pool, reprefill
from .sampling import Sampler
from .stream_options import LIVE_MAX_PIXELS, StreamOptions, check_number
from .video_processing_livecc import resize_limits
from .window import REPREFILL_S

LARGE_FRAME_PX = 728, 1288  # (H, W): as many tokens a frame as there may be


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
class Turn:
    """A turn of a stream that is ready to be generated.

    Attributes:
        n_frames: waiting frames that it takes.
        start_s, end_s: when it is, in seconds from the stream's start.
        request: what `generate` takes.
        asked: the query that counts from this turn on.
        before: what undoes it.
    """

    n_frames: int
    start_s: float
    end_s: float
    request: TurnRequest
    asked: str
    before: tuple


class CommentaryStream:
    """One running commentary. Made by `model.start_stream`; streams on one model do not touch each other.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        options: what to comment on and how to choose words.
        memory: where its cache is, shared with other streams; it must be evictable, and is taken where the window is
            ``sliding``. Call :meth:`release` at the stream's end.

    Raises:
        ValueError: if the model is in training mode or partly offloaded, the processor is another model's, the options
            contradict each other, or a text holds a control token.
    """

    def __init__(
        self,
        model: ModelForStreams,
        processor: ProcessorForStreams,
        options: StreamOptions,
        memory: KVCachePool | None = None,
    ):
        if model.training:
            raise ValueError("the model is in training mode (dropout is on): call model.eval() before start_stream")
        _check_placed(model)
        if not hasattr(processor, "turn_ids"):
            raise ValueError(
                f"the processor is a {type(processor).__name__}: expected a StreamingProcessor, which AutoProcessor "
                "loads from the model's folder with trust_remote_code=True"
            )
        self._backbone = _checked_backbone(model, processor, options)
        for text in (options.query, options.title, options.previous):
            processor.checked_text("" if text is None else text)
        self.options = options
        self._window = options.make_window()
        self._memory = memory if self._window.kind == "sliding" else None
        self._state: StreamState | None = None
        self._model = model
        self._processor = processor
        live = LIVE_MAX_PIXELS * processor.video_processor.pixels_per_token // PIXELS_PER_TOKEN
        limit = resize_limits(processor.video_processor).longest_edge
        max_pixels = options.max_pixels or max(min(live, limit), options.min_pixels or 0)
        resize_limits(processor.video_processor, options.min_pixels, max_pixels)
        self._max_pixels = max_pixels
        self._frame_options = {
            "min_pixels": options.min_pixels,
            "max_pixels": max_pixels,
            "do_resize": options.do_resize,
        }
        self.reset()

    def reset(self) -> None:
        """Forget everything seen and said, and start again with the first query."""
        options, processor = self.options, self._processor
        sampler = self._make_sampler(options)  # may fail; nothing is taken before it
        memory = self._memory
        if memory is None and self._state is not None:
            memory = self._state.cache.memory
        elif memory is None:
            memory = new_kv_cache_pool(self._model, is_evictable=self._window.kind == "sliding")
        self.release()
        self._state = StreamState(KVCache(memory))
        self._sampler = sampler
        self._query = processor.default_query if options.query is None else options.query
        self._asked = self._query  # becomes the query with the next turn
        self.waiting = FrameQueue(processor.video_processor, self._frame_options)
        self._undelivered: list[CommentarySegment] = []  # completed in a push that failed later
        self._is_finished = False

    def warm_up(self, frame_px: tuple[int, int] = LARGE_FRAME_PX) -> None:
        """Say some turns about nothing and forget them, so that the first words do not wait for what happens once.

        On CUDA libraries are set up, and the step of decoding is captured.

        Args:
            frame_px: height and width of the frames that will come; the default gives as many tokens as there may be.

        Raises:
            ValueError: if the stream has been shown something, or `frame_px` is no size.
        """
        if self.waiting.n_turns or len(self.waiting):
            raise ValueError("warm_up() comes before the first frames; reset() makes the stream begin again")
        asked = self._asked
        frames = gray_frames(FIRST_TURN_FRAMES + 2 * TURN_FRAMES, frame_px)
        try:
            self.push(frames)
        finally:
            self.reset()
            self._asked = asked

    def release(self) -> None:
        """Give the memory of the cache back; the stream is over until :meth:`reset`."""
        if self._state is not None:
            self._state.cache.release()
        self._state = None

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> list[CommentarySegment]:
        """Show frames and return the turns they complete.

        The first turn takes 6 frames (3 s), each later one 2 (1 s); frames beyond a full turn wait for the next push.

        Args:
            frames: RGB at 2 frames per second, any T above 0: uint8 (T, 3, H, W) as a tensor or NumPy array (also
                (T, H, W, 3)), a list of PIL images, or what :meth:`prepare` returned.
            timestamps_s: the T times at which the frames were sampled, in seconds, not decreasing, two in each
                second; where frames are missing, the time the model reads moves on by whole seconds.

        Returns:
            The completed turns, in order; empty if no turn is complete.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the frames or times have another form; the stream is as before.
            RuntimeError: if the model's scores are not finite.
            ContextFullError: if the next turn does not fit. Its `segments` are the turns completed before;
                the frames that wait are dropped. After any other failure they wait for the next push, which
                returns what was completed too (or for :meth:`discard_waiting`).
        """
        self.feed(frames, timestamps_s)
        while (turn := self.begin_turn()) is not None:
            self._undelivered.append(self._run_turn(turn))
        return self._deliver()

    def feed(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> None:
        """Let frames wait for their turns without generating any; arguments and errors as in :meth:`push`.

        For callers that run the turns of several streams together: :meth:`begin_turn`, `generate`, :meth:`end_turn`.
        """
        self._check_running("push")
        self.waiting.add(frames, timestamps_s)

    def prepare(self, frames: Any) -> PreparedFrames:
        """Return frames in the size in which the model sees them; a push takes them as they are then.

        For sources that read ahead: may be called from another thread.

        Raises:
            ValueError: if the frames have another form.
        """
        return self.waiting.prepare(frames)

    def discard_waiting(self) -> int:
        """Forget the frames that wait for a turn, such as after a failure that would come again.

        Returns:
            How many frames were dropped.
        """
        n_frames = len(self.waiting)
        self.waiting.drop(n_frames)
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
        if (turn := self.begin_turn(is_last=True)) is not None:
            self._undelivered.append(self._run_turn(turn))
        self._is_finished = True
        return self._deliver()

    def ask(self, query: str) -> None:
        """Change what the commentary is about, from the next turn on.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the query is empty, holds a special token or cannot be encoded.
        """
        self._check_running("ask")
        if not self._processor.checked_text(query).strip():  # now, not in the middle of a push
            raise ValueError(f"the query is {query!r}: expected some text")
        self._asked = query

    @torch.no_grad()
    def answer(self, question: str, max_new_tokens: int = 512) -> str:
        """Answer a question about what was seen so far; the commentary goes on as if it had not been asked.

        Frames of a turn that is not complete yet have not been seen.

        Args:
            question: the question.
            max_new_tokens: the answer's longest length in tokens.

        Raises:
            ValueError: if no turn is complete yet, or the question is empty or cannot be asked.
            ContextFullError: if question and answer do not fit; the stream is as before.
        """
        answer = self.begin_answer(question, max_new_tokens)
        try:
            request = answer.next_request()
            generate(self._model, [request])
        except BaseException:
            self._restore(answer.before)
            raise
        answer.take(request)
        return self.end_answer(answer)

    def begin_answer(self, question: str, max_new_tokens: int = 512) -> Answer:
        """Prepare an answer; arguments and errors as in :meth:`answer`.

        For callers that run it together with the turns of other streams, a few tokens at a time. No turn of this stream
        may begin before :meth:`end_answer`.
        """
        if self.waiting.n_turns == 0:
            raise ValueError("nothing has been seen yet: push frames until a first turn is complete, then ask")
        self.check_question(question, max_new_tokens)
        sampler = self._make_sampler(dataclasses.replace(self.options, silence_threshold=None))
        return Answer(
            self._prefill_input(self._processor.question_ids(question), self.waiting.end_s, max_new_tokens), sampler
        )

    def check_question(self, question: str, max_new_tokens: int = 512) -> None:
        """Check what :meth:`answer` is given.

        Raises:
            ValueError: if the question is empty or cannot be asked, or the length is none.
        """
        if not self._processor.checked_text(question).strip():
            raise ValueError(f"the question is {question!r}: expected some text")
        if max_new_tokens is None:
            raise ValueError("max_new_tokens=None: expected a whole number at least 1")
        check_number("max_new_tokens", max_new_tokens, from_=1, kind=int)

    def undo_answer(self, answer: Answer) -> None:
        """Put the stream back to before the part of an answer that failed; its next request repeats that part."""
        self._restore(answer.undo())

    def end_answer(self, answer: Answer) -> str:
        """Put the stream back to before the question, and return what was answered so far."""
        self.state.restore(answer.before)
        return self._processor.decode_answer(answer.token_ids) if answer.token_ids else ""

    @property
    def state(self) -> StreamState:
        """What the model has read and said, as far as it remembers.

        Raises:
            StreamFinishedError: after :meth:`release`.
        """
        if self._state is None:
            raise StreamFinishedError("the stream was released: call reset() to start again, or start a new stream")
        return self._state

    @property
    def max_pixels(self) -> int:
        """How many pixels of a frame are seen at most."""
        return self._max_pixels

    @property
    def turn_tokens(self) -> int:
        """How many tokens a turn has at most."""
        return self._sampler.max_new_tokens

    def begin_turn(self, is_last: bool = False) -> Turn | None:
        """Prepare the next turn, of frames that wait.

        Only what has left the window by then is gone after it; end it with :meth:`end_turn` or :meth:`undo_turn`.

        Args:
            is_last: take the frames that wait also where they are too few.

        Returns:
            The turn, or `None` where too few frames wait.
        """
        n_frames = self.waiting.turn_frames
        if len(self.waiting) < n_frames:
            if not is_last or not len(self.waiting):
                return None
            n_frames = len(self.waiting)
        start_s, end_s = self.waiting.next_span_s
        video_processor = self._processor.video_processor
        frames = self.waiting.peek(n_frames)
        n_video_tokens = math.prod(video_processor.grid(frames)) // video_processor.merge_size**2
        is_first = self.waiting.n_turns == 0
        asked = self._asked  # may change while the turn is generated
        if is_first:
            query = query_text(asked, self.options.title, self.options.previous)
        else:
            query = "" if asked == self._query else asked
        prompt = self._processor.turn_prompt(
            start_s, end_s, n_video_tokens, query, is_first, n_patches=len(frames) // TURN_FRAMES
        )
        prompt_ids = prompt.token_ids
        sampler = self._sampler
        if is_first and self._window.kind == "sliding":  # memory that grew would be copied, on CUDA captured again too
            n_vision = n_video_tokens * TURN_FRAMES // len(frames) + 2
            n_text = len(prompt_ids) - n_video_tokens + sampler.max_new_tokens
            self.state.cache.memory.expect(self._window.expected_tokens(len(prompt_ids), n_vision, n_text))
        self._evict(start_s, end_s, len(prompt_ids) + sampler.max_new_tokens)
        prefill_input = self._prefill_input(prompt_ids, end_s, sampler.max_new_tokens, frames, prompt.vision_first)
        stop_ids = sampler.end_ids | self._continuation_ids()
        request = TurnRequest(prefill_input, sampler, stop_ids, sampler.max_new_tokens, self.options.output_logits)
        return Turn(n_frames, start_s, end_s, request, asked, (self.state.snapshot(), sampler.snapshot()))

    def end_turn(self, turn: Turn) -> CommentarySegment:
        """Take what was generated in a turn into the stream's state."""
        request = turn.request
        last = request.token_ids[-1]
        if last not in self._sampler.end_ids:
            self.state.pending_ids = [last]
        self.waiting.take(turn.n_frames)
        self._query = turn.asked
        offset_s = self.waiting.clock_start_s or 0.0
        return CommentarySegment(
            offset_s + turn.start_s,
            offset_s + turn.end_s,
            self._processor.decode_turn(request.token_ids),
            tuple(request.token_ids),
            last not in request.stop_ids,
            torch.stack(request.logits) if request.logits else None,
        )

    def undo_turn(self, turn: Turn) -> None:
        """Put the stream back to where it was before a turn that failed; its frames wait."""
        state, sampler_snapshot = turn.before
        self._restore(state)
        self._sampler.restore(sampler_snapshot)

    def _restore(self, snapshot: tuple) -> None:
        """Go back to before what failed; nothing of it is left in memory."""
        self.state.restore(snapshot)
        cache = self.state.cache
        cache.memory.clear_slot(cache.slot, cache.length)

    def _run_turn(self, turn: Turn) -> CommentarySegment:
        """Generate a turn; on any failure the stream is as before."""
        try:
            generate(self._model, [turn.request])
        except BaseException as error:
            self.undo_turn(turn)
            if isinstance(error, ContextFullError):
                error.segments = tuple(self._deliver())
                self.discard_waiting()
            raise
        return self.end_turn(turn)

    def _prefill_input(self, token_ids, end_s, n_new_tokens, frames=None, vision_first=None) -> PrefillInput:
        return PrefillInput(
            self.state,
            token_ids,
            self.waiting.n_turns,
            end_s,
            self._processor.end_id,
            n_closing=0 if self.waiting.n_turns == 0 else self._processor.n_joint_tokens,
            frames=frames,
            video_processor=self._processor.video_processor,
            n_new_tokens=n_new_tokens,
            vision_first=vision_first,
        )

    def _evict(self, start_s: float, end_s: float, n_tokens: int) -> None:
        """Drop from the context what a turn of `n_tokens` from `start_s` to `end_s` must not see any more."""
        window, state = self._window, self.state
        limit = self._model.config.text_config.max_position_embeddings
        if window.kind == "sliding":
            inv_freq = self._backbone.shift_frequencies(self._model.model.language_model)
            state.evict(window.kept(state.spans, end_s), inv_freq)
        elif window.kind == "reprefill" and (
            end_s - state.seen_from_s > REPREFILL_S
            or state.positions.next_position + len(state.pending_ids) + n_tokens > limit
        ):
            self._state = reprefill(self._model, state, window.kept_as_text(state.spans), self._processor.end_id)
            self._state.seen_from_s = start_s

    def _make_sampler(self, options: StreamOptions) -> Sampler:
        processor = self._processor
        return Sampler(options, self._model.generation_config, [processor.end_id], processor.continuation_id)

    def _continuation_ids(self) -> set[int]:
        """Return what ends a turn although the model might add to it."""
        stops = self.options.stop_at_continuation
        if stops is None:
            stops = self._model.config.position_scheme != "reference"
        token = self._processor.continuation_id
        return {token} if stops and token is not None else set()

    def _deliver(self) -> list[CommentarySegment]:
        segments, self._undelivered = self._undelivered, []
        return segments

    def _check_running(self, action: str) -> None:
        if self._is_finished:
            raise StreamFinishedError(f"{action}() after finish(): call reset() to start again, or start a new stream")


def _checked_backbone(model: ModelForStreams, processor: ProcessorForStreams, options: StreamOptions) -> Backbone:
    """Return a model's backbone.

    Raises:
        ValueError: if the processor is of another one, or the window asks it to forget what it cannot.
    """
    backbone = model.config.find_backbone()
    if processor.backbone != backbone.name:
        raise ValueError(
            f"the processor is made for {processor.backbone}, but the model is a {backbone.name}: load the processor "
            "from the model's own folder"
        )
    if options.window == "sliding" and not backbone.can_forget:
        raise ValueError(f"a {backbone.name} cannot forget a span of its context: use window='reprefill'")
    return backbone


def _check_placed(model: ModelForStreams) -> None:
    """Refuse a model whose embeddings, vision tower or head were offloaded; decoder layers may be."""
    parts = {"embeddings": model.get_input_embeddings(), "vision tower": model.model.visual, "head": model.lm_head}
    for name, part in parts.items():
        if any(parameter.is_meta for parameter in part.parameters()):
            raise ValueError(
                f"the model's {name} is offloaded to the CPU or the disk, from where no stream runs: load it on a "
                "device, such as with device_map={'': 0}, and in 4-bit if it does not fit"
            )
