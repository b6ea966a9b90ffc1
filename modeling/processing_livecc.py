"""The processor: converts text, images and videos to model inputs, and encodes and decodes turns of a stream."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from .configuration_livecc import LiveCCConfig  # first: checks transformers' version # isort: skip
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerBase, Qwen2VLProcessor
from transformers.image_utils import ImageInput, SizeDict
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoInput

from .backbones import BACKBONES, Backbone, backbone_of_patches, check_backbone, find_backbone
from .frames import is_picture, rgb_picture
from .grammar import (
    ANSWER_START,
    CONTINUATION,
    DEFAULT_QUERY,
    FRAMES_PER_SECOND,
    IM_END,
    IM_START,
    LIVECC,
    TURN_FRAMES,
    TURN_JOINT,
    VISION_BLOCK,
    Grammar,
    find_grammar,
    prompt_start,
    question_turn,
    strip_continuation,
    time_label,
    tokenize,
)
from .stream_options import check_number
from .video_file import local_file
from .video_loading import read_picture
from .video_processing_livecc import (
    LiveCCVideoProcessor,
    counts_whole_videos,
    frame_limits,
    is_image_file,
    resize_limits,
)

MAX_FIXED_TEXTS = 4096  # cached tokenizations
_CUT_CHARACTER = re.compile(rf"\N{{REPLACEMENT CHARACTER}}+(?=({re.escape(CONTINUATION)})?\s*$)")
_SOURCE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class StreamingProcessor(Qwen2VLProcessor):
    """A backbone's processor with LiveCC's streaming grammar.

    Args:
        image_processor: the backbone's image processor.
        tokenizer: Qwen2's tokenizer, or another with the same special tokens.
        video_processor: a :class:`LiveCCVideoProcessor`; any other video processor is converted to one.
        chat_template: the backbone's chat template.
        default_query: the query of streams that have none; saved with the processor.
        backbone: name of the model's backbone, saved with the processor; default: the first backbone with the video
            processor's patch size (14 pixels: Qwen2-VL).
        grammar: how a commentary is written as a chat: ``livecc``, or ``streamingvlm`` for StreamingVLM's weights;
            saved with the processor.

    Raises:
        ValueError: if backbone or grammar is unknown, or a part has another patch size than the backbone.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        video_processor: BaseVideoProcessor | None = None,
        chat_template: str | None = None,
        default_query: str = DEFAULT_QUERY,
        backbone: str | None = None,
        grammar: str = LIVECC.name,
        **kwargs: Any,
    ):
        if video_processor is not None and not hasattr(video_processor, "cut"):
            video_processor = _as_livecc(video_processor)
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # generated tokens must follow the prompt, also in a batch
        self.default_query = default_query
        self.backbone = (
            backbone_of_patches(getattr(video_processor, "patch_size", None)) if backbone is None else backbone
        )
        self._check_backbone()
        self.grammar = find_grammar(grammar).name

    def find_grammar(self) -> Grammar:
        """Return the grammar object for this processor's `grammar` name."""
        return find_grammar(self.grammar)

    def find_backbone(self) -> Backbone:
        """Return the backbone object for this processor's `backbone` name."""
        return find_backbone(self.backbone)

    def _check_backbone(self) -> None:
        check_backbone(self.backbone)
        expected = self.find_backbone().patch_size
        for kind, part in (("video", self.video_processor), ("image", self.image_processor)):
            given = getattr(part, "patch_size", expected)
            if given != expected:
                raise ValueError(
                    f"the {kind} processor's patch_size is {given}, but a {self.backbone} has patches of {expected} "
                    f"pixels: load the {kind} processor from the model's own folder"
                )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> StreamingProcessor:
        """As `ProcessorMixin.from_pretrained`, but pixel limits saved for still images do not apply to videos.

        Older checkpoints have only `preprocessor_config.json`, whose 12.8 megapixel limit is meant for images. `size`,
        `min_pixels` and `max_pixels` given here apply to both images and videos, and override the files.

        Raises:
            ValueError: if these limits are not positive numbers, or contradict each other.
        """
        size = dict(kwargs.get("size") or {})
        if size:
            kwargs["size"] = dict(size)  # transformers adds the limits of older files to it
        low = kwargs["min_pixels"] if kwargs.get("min_pixels") is not None else size.get("shortest_edge")
        high = kwargs["max_pixels"] if kwargs.get("max_pixels") is not None else size.get("longest_edge")
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        source = {name: kwargs[name] for name in _SOURCE_OPTIONS if name in kwargs}
        settings, _ = LiveCCVideoProcessor.get_video_processor_dict(pretrained_model_name_or_path, **source)
        if "backbone" not in kwargs:
            processor._follow_model(pretrained_model_name_or_path, source)
        if is_image_file(settings):
            processor.video_processor.size = SizeDict(**frame_limits(processor.find_backbone()))
        if low is not None or high is not None:
            for part in (processor.image_processor, processor.video_processor):
                limits = resize_limits(part, low, high)
                part.size = SizeDict(shortest_edge=limits.shortest_edge, longest_edge=limits.longest_edge)
        return processor

    def _follow_model(self, name: str | os.PathLike, source: dict) -> None:
        """Set the backbone from the folder's `config.json` if the processor was saved without one."""
        try:
            if "backbone" in self.get_processor_dict(name, **source)[0]:
                return
            values, _ = LiveCCConfig.get_config_dict(name, **source)
        except OSError:  # a folder without a model
            return
        backbone = values.get("backbone") or values.get("model_type")
        if backbone in BACKBONES:
            self.backbone = backbone
            self._check_backbone()

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str | list[str]] | None = None,
        videos: VideoInput | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        """As `Qwen2VLProcessor.__call__`, with LiveCC's readers of videos and images.

        Video files are read as in `LiveCCVideoProcessor.preprocess`. Images are turned upright, put on a white
        background, and 16-bit gray is scaled to 8 bits (see `rgb_picture`).

        Raises:
            ValueError: if a text cannot be encoded as UTF-8, such as one with half of a surrogate pair, or an option is
                out of range.
        """
        for options in (kwargs, kwargs.get("images_kwargs") or {}):
            for name in ("min_pixels", "max_pixels"):
                if options.get(name) is not None:
                    check_number(name, options[name], above=0)
            for edge in ("shortest_edge", "longest_edge"):
                if (value := (options.get("size") or {}).get(edge)) is not None:
                    check_number(f"size[{edge!r}]", value, above=0)
        for each in [text] if isinstance(text, str) else text or ():
            if isinstance(each, str):
                _check_encodable(each)
        if text is not None:
            join = self.find_backbone().join_vision
            text = join(text) if isinstance(text, str) else [join(t) if isinstance(t, str) else t for t in text]
        return super().__call__(_as_rgb(images, True), text, _as_rgb(videos, False), *args, **kwargs)

    @property
    def videos_kwargs(self) -> dict[str, Any]:
        """Default keywords of the video processor's call."""
        return {"return_metadata": True} if self.find_backbone().needs_video_metadata else {}

    def _process_videos(self, videos: VideoInput, **kwargs: Any) -> tuple[BatchFeature, list[str]]:
        """As the base class, plus the time inputs of the backbone."""
        processed, replacements = super()._process_videos(videos, **kwargs)
        grids, metadata = processed["video_grid_thw"], processed.get("video_metadata") or []
        known = [one.sampled_fps if getattr(one, "fps", None) else FRAMES_PER_SECOND for one in metadata]
        patches_s = [TURN_FRAMES / fps for fps in known] or [TURN_FRAMES / FRAMES_PER_SECOND] * len(grids)
        processed.update(self.find_backbone().video_inputs(patches_s))
        return processed, replacements

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs: Any) -> str:
        """Return the text that replaces a video's placeholder; see `Backbone.video_text`."""
        grid = video_inputs["video_grid_thw"][video_idx].tolist()
        metadata = video_inputs.get("video_metadata")
        one = metadata[video_idx] if metadata else None
        fps = getattr(one, "fps", None)
        indices = getattr(one, "frames_indices", None) if fps else None
        indices = range(TURN_FRAMES * grid[0]) if indices is None else indices
        times_s = [float(index) / (fps or FRAMES_PER_SECOND) for index in indices]
        return self.find_backbone().video_text(self.video_token, grid, times_s)

    @property
    def end_id(self) -> int:
        """The id of `<|im_end|>`, which ends a turn."""
        return self.tokenizer.convert_tokens_to_ids(IM_END)

    @property
    def continuation_id(self) -> int | None:
        """The id of `` ...`` if the tokenizer has it as one token (Qwen2: 2503), else `None`."""
        ids = self._encode_fixed(CONTINUATION)
        return ids[0] if len(ids) == 1 else None

    @property
    def n_joint_tokens(self) -> int:
        """How many tokens at the start of a turn close the one before it."""
        return len(self._encode_fixed(TURN_JOINT))

    def turn_ids(self, *turn: Any, **keywords: Any) -> list[int]:
        """Return the token ids of :meth:`turn_prompt`; same arguments."""
        return self.turn_prompt(*turn, **keywords)[0]

    def turn_prompt(
        self,
        start_s: float,
        end_s: float,
        n_video_tokens: int,
        query: str = "",
        is_first: bool = False,
        n_patches: int | None = None,
        previous: str = "",
    ) -> tuple[list[int], int]:
        """Return the prompt of a turn, from the end of the previous turn to where the spoken words begin.

        Args:
            start_s: start in seconds from the stream's start.
            end_s: end in seconds from the stream's start.
            n_video_tokens: vision tokens of the turn's frames.
            query: text of the query, if this turn has one.
            is_first: whether this is the stream's first turn, which starts with the system prompt.
            n_patches: frame pairs of the turn; default: those of a full turn from `start_s` to `end_s`.
            previous: what was said before the stream's first turn, if the grammar has a message for it.

        Returns:
            The token ids, and the index of the first one that is evicted together with the turn's vision tokens.

        Raises:
            ValueError: if `query` or `previous` is not a valid text (see :meth:`checked_text`).
        """
        backbone = self.find_backbone()
        opening = TURN_JOINT
        if is_first:
            opening = prompt_start(backbone.system_prompt, self.find_grammar(), self.checked_text(previous))
        n_patches = n_patches or max(round((end_s - start_s) * FRAMES_PER_SECOND / TURN_FRAMES), 1)
        labels = backbone.vision_labels(n_patches, start_s)
        # Special tokens split a text: the parts between them are tokenized separately and can be cached.
        ids = (self._encode if previous else self._encode_fixed)(opening + IM_START)
        ids = ids + self._encode_fixed(f"user\n{time_label(start_s, end_s)}")
        vision_first = len(ids)
        rest = self.checked_text(query) + IM_END + "\n" + ANSWER_START
        for number, label in enumerate(labels, 1):
            ids = ids + (self._encode_fixed(label) if label else [])
            is_last = number == len(labels)
            part = VISION_BLOCK + (rest if is_last else "")
            part_ids = (self._encode if query and is_last else self._encode_fixed)(part)
            at = part_ids.index(self.video_token_id)
            ids = ids + part_ids[:at] + [self.video_token_id] * (n_video_tokens // len(labels)) + part_ids[at + 1 :]
        return ids, vision_first

    def question_ids(self, question: str) -> list[int]:
        """Return the token ids of a question without video, to append to the conversation so far."""
        return self._encode(TURN_JOINT + question_turn(self.checked_text(question)))

    def decode_turn(self, token_ids: Sequence[int]) -> str:
        """Return a turn's spoken text: without special tokens, the final `` ...`` and an incomplete last character."""
        return strip_continuation(self._decode(token_ids))

    def decode_answer(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer; a model trained in turns may end it with `` ...``, which is removed."""
        text = f" {self._decode(token_ids).strip()}"
        while text.endswith(CONTINUATION):
            text = strip_continuation(text)
            text = f" {text}" if text else ""
        return text.strip()

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        # A token limit may cut a character, which leaves replacement characters at the end (and only there).
        return _CUT_CHARACTER.sub("", text)

    def _encode_fixed(self, text: str) -> list[int]:
        """Return the token ids of a text of the grammar, from a cache: all streams have the same texts and times."""
        known = self.__dict__.setdefault("_fixed_ids", {})
        ids = known.get(text)  # another thread may clear it at any time
        if ids is None:
            if len(known) >= MAX_FIXED_TEXTS:
                known.clear()
            ids = known[text] = self._encode(text)
        return ids

    def _encode(self, text: str) -> list[int]:
        return tokenize(self.tokenizer, text)

    def checked_text(self, text: str) -> str:
        """Return `text` unchanged if it may enter a prompt; all texts from users pass through here.

        Raises:
            ValueError: if it is not a string, cannot be encoded as UTF-8 (such as half of an emoji), or contains a
                special token, which would change the structure of the conversation.
        """
        if not isinstance(text, str):
            raise ValueError(f"a text is {text!r:.80}: expected a string")
        _check_encodable(text)
        for token in self.tokenizer.added_tokens_decoder.values() if "<" in text else ():
            if token.content in text:
                raise ValueError(f"the text {text[:80]!r} contains the special token {token.content}: remove it")
        return text


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text {text[:80]!a} holds half of a character ({text[error.start]!a} at {error.start}): expected "
            "text that can be encoded as UTF-8; remove it"
        ) from None


def _as_rgb(media: Any, are_images: bool) -> Any:
    """Convert the PIL images in (nested lists of) media with `rgb_picture`; return other items unchanged.

    Args:
        media: images or videos, as a processor takes them.
        are_images: whether strings are paths of images, which are read if the file exists; else they are videos.
    """
    if isinstance(media, list | tuple):
        return [_as_rgb(item, are_images) for item in media]
    if is_picture(media):
        return rgb_picture(media)
    if isinstance(media, str | os.PathLike):
        media = local_file(media)
    # Not Path.is_file, which raises for the long strings of base64 images.
    if are_images and isinstance(media, str) and os.path.isfile(media):  # noqa: PTH113
        return rgb_picture(read_picture(media))
    return media


def _as_livecc(video_processor: BaseVideoProcessor) -> LiveCCVideoProcessor:
    """Convert a backbone's video processor to a `LiveCCVideoProcessor` with the same settings."""
    settings = video_processor.to_dict()
    if counts_whole_videos(settings | {"video_processor_type": type(video_processor).__name__}):
        settings.pop("size", None)
    settings.pop("video_processor_type", None)
    settings.pop("cap_pixels_per_frame", None)
    return LiveCCVideoProcessor(**settings)


StreamingProcessor.register_for_auto_class()
