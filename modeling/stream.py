"""Real-time commentary: frames go in, the words that belong to them come out, turn by turn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

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

LARGE_FRAME_PX = 728, 1288  # (H, W): as many tokens a frame as there may be


class StreamFinishedError(RuntimeError):
    """A stream was used after `finish()`."""


class CommentaryStream:
    """One running commentary. Made by `model.start_stream`; streams on one model do not touch each other.

    Attributes:
        options: what to comment on and how to choose words.
        waiting: the frames that wait for their turn.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        options: see :class:`StreamOptions`.
        memory: where its cache is, shared with other streams; it must be evictable, and is taken where the window is
            ``sliding``. Call :meth:`release` at the stream's end.

    Raises:
        ValueError: if the model is in training mode or partly offloaded, the processor is another model's, the options
            contradict each other, or a text holds a control token.
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
        """Forget everything seen and said, and start again with the first query."""
        options, processor, memory = self.options, self._processor, self._memory
        sampler = self._make_sampler(options)
        waiting = FrameQueue(processor.video_processor, options, processor.find_grammar().first_turn_frames)
        # What may fail has been done: nothing is taken before it.
        if memory is None and self._state is not None:
            memory = self._state.cache.memory
        elif memory is None:
            memory = new_kv_cache_pool(self._model, is_evictable=options.window == "sliding")
        self.release()
        self._state = StreamState(cache=KVCache(memory))
        self._sampler, self.waiting = sampler, waiting
        self._query = processor.default_query if options.query is None else options.query
        self._asked = self._query  # becomes the query with the next turn
        self._undelivered: list[CommentarySegment] = []  # completed in a push that failed later
        self._is_finished = False

    def warm_up(self, frame_px: tuple[int, int] = LARGE_FRAME_PX) -> None:
        """Run dummy turns to pay one-time costs (kernel selection, graph capture) before the first frames.

        Args:
            frame_px: height and width of the frames that will come; the default gives as many tokens as there may be.

        Raises:
            ValueError: if the stream has been shown something, or `frame_px` is no size.
        """
        if self.waiting.n_turns or len(self.waiting):
            raise ValueError("warm_up() comes before the first frames; reset() makes the stream begin again")
        frames, asked = gray_frames(self.waiting.turn_frames + 2 * TURN_FRAMES, frame_px), self._asked
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

    @property
    def state(self) -> StreamState:
        """What the model has read and said, as far as it remembers; none after :meth:`release`."""
        if self._state is None:
            raise StreamFinishedError("the stream was released: call reset() to start again, or start a new stream")
        return self._state

    @property
    def max_pixels(self) -> int:
        """How many pixels of a frame are seen at most."""
        return self.waiting.max_pixels

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> list[CommentarySegment]:
        """Show frames and return the turns they complete.

        The first turn takes 6 frames (3 s; 2 in the grammar of StreamingVLM), each later one 2 (1 s); frames beyond a
        full turn wait for the next push.

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
        while self._run_turn():
            pass
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
        """Forget the frames that wait for a turn, as after a failure that would come again; return how many."""
        return self.waiting.drop(len(self.waiting))

    def finish(self) -> list[CommentarySegment]:
        """Say what is left to say and close the stream; return the last turn, or nothing where no frame was waiting.

        An incomplete turn is completed to an even number of frames by repeating its last; it keeps its time label.

        Raises:
            StreamFinishedError: if called twice.
            ContextFullError: as in :meth:`push`.
        """
        self._check_running("finish")
        self._run_turn(is_last=True)
        self._is_finished = True
        return self._deliver()

    def ask(self, query: str) -> None:
        """Change what the commentary is about, from the next turn on.

        Raises:
            StreamFinishedError: after `finish()`.
            ValueError: if the query is empty, holds a special token or cannot be encoded.
        """
        self._check_running("ask")
        self._check_some_text("query", query)  # now, not in the middle of a push
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
        request = self.begin_answer(question, max_new_tokens)
        try:
            generate(self._model, [request])
        except BaseException:
            request.undo()
            raise
        return self.end_answer(request)

    def begin_answer(self, question: str, max_new_tokens: int = 512, in_parts: bool = False) -> TurnRequest:
        """Prepare an answer; arguments and errors as in :meth:`answer`.

        For callers that run it together with the turns of other streams: give it to `generate` until it `is_over`, then
        to :meth:`end_answer`. No turn of this stream may begin before that.

        Args:
            question, max_new_tokens: as there.
            in_parts: whether one call of `generate` adds as many tokens as a turn has, and no more.
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
        """Check what :meth:`answer` is given.

        Raises:
            ValueError: if the question is empty or cannot be asked, or the length is none.
        """
        self._check_some_text("question", question)
        check_number("max_new_tokens", max_new_tokens, from_=1, kind=int)

    def end_answer(self, request: TurnRequest) -> str:
        """Put the stream back to before the question, and return what was answered so far."""
        self.state.restore(request.before)
        return self._processor.decode_answer(request.token_ids) if request.token_ids else ""

    def begin_turn(self, is_last: bool = False) -> TurnRequest | None:
        """Prepare the next turn, of frames that wait.

        Only what has left the window by then is gone after it; end it with :meth:`end_turn` or `TurnRequest.undo`.

        Args:
            is_last: take the frames that wait also where they are too few.

        Returns:
            The turn, or `None` where too few frames wait.
        """
        waiting, options, sampler, processor = self.waiting, self.options, self._sampler, self._processor
        if not (n_frames := waiting.n_ready(is_last)):
            return None
        (start_s, end_s), is_first = waiting.next_span_s, waiting.n_turns == 0
        frames, asked = waiting.peek(n_frames), self._asked  # which may change while the turn is generated
        n_video_tokens = math.prod(processor.video_processor.grid(frames)) // processor.video_processor.merge_size**2
        texts = FirstTexts("" if asked == self._query else asked)
        if is_first:
            texts = first_texts(asked, options.title, options.previous, processor.find_grammar())
        n_patches = len(frames) // TURN_FRAMES
        prompt_ids, vision_first = processor.turn_prompt(
            start_s, end_s, n_video_tokens, texts.query, is_first, n_patches, texts.previous
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
        """Take what was generated in a turn into the stream's state."""
        last = request.token_ids[-1]
        if last not in self._sampler.end_ids:
            self.state.pending_ids = [last]
        self.waiting.take(request.n_frames)
        self._query = request.query
        return request.segment(self.waiting.clock_start_s or 0.0)

    def _run_turn(self, is_last: bool = False) -> bool:
        """Generate the next turn; return whether there was one. On any failure the stream is as before."""
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
        """Return what ends a turn although the model might add to it."""
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
