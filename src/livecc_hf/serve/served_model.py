"""The model of a server, loaded at once or later, and the limits on its clients' options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from livecc_hf.modeling import CommentaryStream, StreamOptions
from livecc_hf.modeling.grammar import tokenize
from livecc_hf.modeling.stream_options import stream_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor
    from livecc_hf.serve.messages import Start
    from livecc_hf.serve.settings import ServeSettings

    Loaded = tuple[LiveCCForConditionalGeneration, StreamingProcessor]


class ServedModel:
    """A model with its processor, and the default options of a server's streams.

    Args:
        loaded: model and processor, if they are loaded already.
        settings: the limits for clients.
        options: default options of streams, which clients may override.
        load: returns model and processor, if they are not loaded yet.
        name: the model's name while it is not loaded.
    """

    def __init__(
        self,
        loaded: Loaded | None,
        settings: ServeSettings,
        options: StreamOptions | None = None,
        load: Callable[[], Loaded] | None = None,
        name: str = "",
    ):
        self.options = options
        self._loaded, self._settings, self._load, self._name = loaded, settings, load, name

    @property
    def is_there(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    @property
    def loads_later(self) -> bool:
        """Whether the model is, or was, loaded by :meth:`load`."""
        return self._load is not None

    @property
    def loaded(self) -> Loaded:
        """Model and processor.

        Raises:
            RuntimeError: if they are not loaded yet.
        """
        if self._loaded is None:
            raise RuntimeError("the model is not loaded yet: call load first")
        return self._loaded

    def load(self) -> None:
        """Load the model unless it is loaded.

        Raises:
            Exception: whatever the loading raises.
        """
        if self._loaded is None and self._load is not None:
            self._loaded = self._load()

    @property
    def name(self) -> str:
        """The model's display name: a Hub id, or a folder's name."""
        path = Path(self._name if self._loaded is None else self._loaded[0].name_or_path)
        for part in path.parts:
            if part.startswith("models--"):  # a folder of the Hub's cache
                return part.removeprefix("models--").replace("--", "/", 1)
        return path.resolve().name if path.is_dir() else str(path)

    def trial_stream(self, start: Start) -> CommentaryStream:
        """Return a stream outside the pool with a client's options, to validate them without taking a slot.

        Raises:
            ValueError: if an option or text is not valid.
        """
        return CommentaryStream(*self.loaded, self.options_of(start))

    def options_of(self, start: Start) -> StreamOptions:
        """Return the options of a client's stream: its own choices, else the server's defaults.

        Raises:
            ValueError: if an option or text is not valid.
        """
        chosen = start.model_dump(include={"query", "title", "previous"}, exclude_none=True)
        self.check_length("\n".join(chosen.values()))
        chosen |= start.options.model_dump(exclude_none=True)
        limit = self._settings.max_new_tokens
        if chosen.get("max_new_tokens", 0) > limit:
            raise ValueError(f"max_new_tokens={chosen['max_new_tokens']}: expected at most {limit} on this server")
        return stream_options(self.options, chosen)

    def check_length(self, text: str, what: str = "query, title and previous text have") -> None:
        """Check the length of a client's text, since every slot of the KV cache is as long as the longest context.

        Args:
            text: the text.
            what: subject of the error's sentence.

        Raises:
            ValueError: if the text has more than `max_text_tokens`.
        """
        _, processor = self.loaded
        n_tokens = len(tokenize(processor.tokenizer, text))
        limit = self._settings.max_text_tokens
        if n_tokens > limit:
            raise ValueError(f"{what} {n_tokens} tokens: expected at most {limit}")
