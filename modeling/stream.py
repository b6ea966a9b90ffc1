"""Live commentary: push frames, get the words that belong to them, turn by turn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .context import ContextFullError, StreamState
from .frame_queue import FrameQueue
from .frames import PreparedFrames, gray_frames
from .generation import generate
from .grammar import TURN_FRAMES, FirstTexts, first_texts
from .kv_cache import KVCache, KVCachePool
from .model_runner import check_streamable, make_room, new_kv_cache_pool
from .sampling import Sampler
from .stream_options import StreamOptions, check_number
from .turn import CommentarySegment, TurnRequest

if TYPE_CHECKING:
    from . import interfaces  # this form keeps the file out of a model's folder

LARGE_FRAME_PX = 728, 1288  # (H, W): makes the most tokens per frame, after resizing


class StreamFinishedError(RuntimeError):
    """A stream was used after `finish()`."""


class CommentaryStream:
    """One live commentary, made by `model.start_stream`; streams on one model are independent of each other.

    Attributes:
        options: the stream's options.
        waiting: the frames that wait for their turn.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        options: the stream's options.
        memory: an evictable KV cache pool to share with other streams; used only if the window is ``sliding``. Call
            :meth:`release` at the stream's end.

    Raises:
        ValueError: if the model is in training mode or its embeddings, vision tower or head are offloaded, the
            processor is another model's, the options contradict each other, or a text holds a control token.
    """

    def __init__(
        self,
        model: interfaces.ModelForStreams,
        processor: interfaces.ProcessorForStreams,
        options: StreamOptions,
        memory: KVCachePool | None = None,
    ):
        check_streamable(model, processor, options)
        for text in (options.query, options.title, options.previous):
            processor.checked_text("" if text is None else text)
        self.options = options
        self._memory = memory if options.window == "sliding" else None
        self._state: StreamState | None = None
        self._model, self._processor = model, processor
        self.reset()

    def reset(self) -> None:
        """Drop the whole context and the waiting frames, and start again with the first query."""
        options, processor, memory = self.options, self._processor, self._memory
        sampler = self._make_sampler(options)
        waiting = FrameQueue(processor.video_processor, options, processor.find_grammar().first_turn_frames)
        if memory is None:
            is_evictable = options.window == "sliding"
            memory = self._state.cache.memory if self._state else new_kv_cache_pool(self._model, is_evictable)
        self.release()  # only now: the calls above may fail
        self._state = StreamState(cache=KVCache(memory))
        self._sampler, self.waiting = sampler, waiting
        self._query = processor.default_query if options.query is None else options.query
        self._asked = self._query  # becomes the query with the next turn
        self._undelivered: list[CommentarySegment] = []  # completed, but not yet returned by a push
        self._is_finished = False

    def warm_up(self, frame_px: tuple[int, int] = LARGE_FRAME_PX) -> None:
        """Run dummy turns to pay one-time costs (kernel selection, graph capture) before the first frames.

        Args:
            frame_px: expected (height, width) of the frames; the default makes the most tokens per frame.

        Raises:
            ValueError: if frames have been pushed, or the stream is finished, or `frame_px` is not a size.
        """
        if self.waiting.n_turns or len(self.waiting) or self._is_finished:
            raise ValueError("warm_up() was called after the first frames, or after finish(): call reset() first")
        frames, asked = gray_frames(self.waiting.turn_frames + 2 * TURN_FRAMES, frame_px), self._asked
        try:
            self.push(frames)
        finally:
            self.reset()
            self._asked = asked

    def release(self) -> None:
        """Return the cache's slot to its pool; the stream cannot be used until :meth:`reset`."""
        if self._state is not None:
            self._state.cache.release()
        self._state = None

    @property
    def state(self) -> StreamState:
        """The stream's context; raises `StreamFinishedError` after :meth:`release`."""
        if self._state is None:
            raise StreamFinishedError("the stream was released: call reset() to start again, or start a new stream")
        return self._state

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> list[CommentarySegment]:
        """Add frames and return the turns they complete.

        The first turn takes 6 frames (3 s; 2 in StreamingVLM's grammar), each later one 2 (1 s). Frames that do not
        fill a turn wait for the next push.

        Args:
            frames: RGB at 2 frames per second, any T above 0: uint8 (T, 3, H, W) as a tensor or NumPy array (also
                (T, H, W, 3)), a list of PIL images, or the result of :meth:`prepare`. The frames of a turn have one
                size; it may change between turns.
            timestamps_s: the T sampling times in seconds, not decreasing, at most two in each second; if frames are
                missing, the time labels that the model reads skip whole seconds.

        Returns:
            The completed turns, in order; empty if no turn is complete.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if frames or times are invalid; the stream is unchanged.
            RuntimeError: if the model's scores are not finite.
            ContextFullError: if the next turn does not fit. Its `segments` are the turns completed before, and the
                waiting frames are dropped. After any other failure frames and completed turns wait for the next push
                (or :meth:`discard_waiting`).
        """
        self.feed(frames, timestamps_s)
        while self._run_turn():
            pass
        return self._deliver()

    def feed(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> None:
        """Queue frames without generating turns; arguments and errors as in :meth:`push`.

        For callers that generate turns of several streams together: :meth:`begin_turn`, `generate`, :meth:`end_turn`.
        """
        self._check_running("push")
        self.waiting.add(frames, timestamps_s)

    def prepare(self, frames: Any) -> PreparedFrames:
        """Return frames resized for the model, which :meth:`push` does not resize again; may run in another thread.

        Raises:
            ValueError: if the frames are invalid.
        """
        return self.waiting.prepare(frames)

    def discard_waiting(self) -> int:
        """Drop the waiting frames, for example after a failure that would recur; return how many."""
        return self.waiting.drop(len(self.waiting))

    def finish(self) -> list[CommentarySegment]:
        """Generate a last turn from the waiting frames, if any, close the stream, and return the turn.

        An incomplete turn keeps its time label; an odd number of frames repeats the last one.

        Raises:
            StreamFinishedError: if called twice.
            ContextFullError: as in :meth:`push`.
        """
        self._check_running("finish")
        self._run_turn(is_last=True)
        self._is_finished = True
        return self._deliver()

    def ask(self, query: str) -> None:
        """Change the query from the next turn on.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the query is empty, holds a special token or cannot be encoded.
        """
        self._check_running("ask")
        self._check_some_text("query", query)
        self._asked = query

    def answer(self, question: str, max_new_tokens: int = 512) -> str:
        """Answer a question about the completed turns; the commentary continues as if it had not been asked.

        Args:
            question: the question.
            max_new_tokens: most tokens of the answer.

        Raises:
            ValueError: if no turn is complete yet, or the question is empty, holds a special token or cannot be
                encoded.
            ContextFullError: if question and answer do not fit; the stream is unchanged.
        """
        request = self.begin_answer(question, max_new_tokens)
        try:
            generate(self._model, [request])
        except BaseException:
            request.undo()
            raise
        return self.end_answer(request)

    def begin_answer(self, question: str, max_new_tokens: int = 512, in_parts: bool = False) -> TurnRequest:
        """Prepare an answer; arguments and errors as in :meth:`answer`.

        For callers that generate it together with turns of other streams: pass it to `generate` until it `is_over`,
        then to :meth:`end_answer`. Begin no turn of this stream in between.

        Args:
            question, max_new_tokens: see :meth:`answer`.
            in_parts: whether one call of `generate` adds at most the `max_new_tokens` of a turn.
        """
        if self.waiting.n_turns == 0:
            raise ValueError("nothing has been seen yet: push frames until a first turn is complete, then ask")
        self.check_question(question, max_new_tokens)
        sampler = self._make_sampler(dataclasses.replace(self.options, silence_threshold=None))
        return TurnRequest(
            self.state,
            self._processor,
            sampler,
            self._processor.question_ids(question),
            stop_ids=sampler.end_ids,
            max_new_tokens=max_new_tokens,
            turn=self.waiting.n_turns,
            end_s=self.waiting.end_s,
            max_at_once=sampler.max_new_tokens if in_parts else None,
        )

    def check_question(self, question: str, max_new_tokens: int = 512) -> None:
        """Raise `ValueError` if the arguments of :meth:`answer` are invalid."""
        self._check_some_text("question", question)
        check_number("max_new_tokens", max_new_tokens, from_=1, kind=int)

    def end_answer(self, request: TurnRequest) -> str:
        """Restore the stream to before the question, and return the answer generated so far."""
        self.state.restore(request.before)
        return self._processor.decode_answer(request.token_ids) if request.token_ids else ""

    def begin_turn(self, is_last: bool = False) -> TurnRequest | None:
        """Prepare the next turn from waiting frames; end it with :meth:`end_turn` or `TurnRequest.undo`.

        What has left the window is evicted here, which `undo` does not take back.

        Args:
            is_last: whether to make a turn of too few frames.

        Returns:
            The turn, or `None` if too few frames wait.
        """
        waiting, options, sampler, processor = self.waiting, self.options, self._sampler, self._processor
        if not (n_frames := waiting.n_ready(is_last)):
            return None
        (start_s, end_s), is_first = waiting.next_span_s, waiting.n_turns == 0
        frames, asked = waiting.peek(n_frames), self._asked  # `ask` may change it while the turn is generated
        n_video_tokens = math.prod(processor.video_processor.grid(frames)) // processor.video_processor.merge_size**2
        texts = FirstTexts("" if asked == self._query else asked)
        if is_first:
            texts = first_texts(asked, options.title, options.previous, processor.find_grammar())
        prompt_ids, vision_first = processor.turn_prompt(
            start_s, end_s, n_video_tokens, texts.query, is_first, len(frames) // TURN_FRAMES, texts.previous
        )
        request = TurnRequest(
            self.state,
            processor,
            sampler,
            prompt_ids,
            stop_ids=sampler.end_ids | self._continuation_ids(),
            max_new_tokens=sampler.max_new_tokens,
            turn=waiting.n_turns,
            start_s=start_s,
            end_s=end_s,
            query=asked,
            frames=frames,
            n_frames=n_frames,
            vision_first=vision_first,
            keep_logits=options.output_logits,
        )
        make_room(self._model, request, options)
        self._state = request.state
        return request

    def end_turn(self, request: TurnRequest) -> CommentarySegment:
        """Add a generated turn to the stream's state, and return its result."""
        last = request.token_ids[-1]
        if last not in self._sampler.end_ids:
            self.state.pending_ids = [last]
        self.waiting.take(request.n_frames)
        if request.query != self._query:
            self._query, self.state.query_turn = request.query, request.turn
        return request.segment(self.waiting.clock_start_s or 0.0)

    def _run_turn(self, is_last: bool = False) -> bool:
        """Generate the next turn, and return whether there was one; a failure leaves the stream unchanged."""
        request = self.begin_turn(is_last)
        if request is None:
            return False
        try:
            generate(self._model, [request])
        except BaseException as error:
            request.undo()
            if isinstance(error, ContextFullError):
                error.segments = tuple(self._deliver())
                self.discard_waiting()
            raise
        self._undelivered.append(self.end_turn(request))
        return True

    def _deliver(self) -> list[CommentarySegment]:
        segments, self._undelivered = self._undelivered, []
        return segments

    def _make_sampler(self, options: StreamOptions) -> Sampler:
        processor = self._processor
        return Sampler(options, self._model.generation_config, [processor.end_id], processor.continuation_id)

    def _continuation_ids(self) -> set[int]:
        """Return the ids that end a turn before the model's own end token."""
        stops = self.options.stop_at_continuation
        if stops is None:
            stops = self._model.config.position_scheme != "reference"
        token = self._processor.continuation_id
        return {token} if stops and token is not None else set()

    def _check_some_text(self, name: str, text: str) -> None:
        if not self._processor.checked_text(text).strip():
            raise ValueError(f"the {name} is {text!r}: expected some text")

    def _check_running(self, action: str) -> None:
        if self._is_finished:
            raise StreamFinishedError(f"{action}() after finish(): call reset() to start again, or start a new stream")
