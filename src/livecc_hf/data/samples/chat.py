"""Encodes conversations about images or videos, or of text only, as training samples."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.modeling.grammar import IM_END, IM_START, VISION_END, VISION_START, prompt_start, tokenize

from ..formats.chat import Conversation
from ..media.clip_frames import round_up_to_pairs
from ..unusable import UnusableSample
from .chat_media import Medium, plan_media
from .sample import IGNORE_INDEX, EncodeOptions, Sample

if TYPE_CHECKING:
    from livecc_hf.modeling.backbone import Backbone
    from livecc_hf.modeling.processing_livecc import StreamingProcessor


def encode_chat(
    conversation: Conversation,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
    allow_urls: bool | Sequence[str] = False,
) -> Sample:
    """Encode a conversation as a training sample; the assistant's messages are supervised.

    Images are resized once: to a part's `resized_height` and `resized_width`, otherwise to the size that the image
    processor chooses within the part's `min_pixels` and `max_pixels` or its own limits. The frames of a video, or of
    its span from `video_start` to `video_end` in seconds as shown by a player, are evenly spaced: `nframes` in total,
    or `fps` (default 2) a second, within `min_frames` (4) and `max_frames` as in qwen-vl-utils, and never more than the
    options allow. A video given as pictures (a list, a folder, or a file of concatenated JPEGs with their end offsets
    in `pos`, as in LiveCC's copy of LLaVA-Hound) is used whole, up to that limit.

    Args:
        conversation: the conversation.
        processor: gives the chat template, limits and tokens.
        options: limits for frames, their pixels and the sample's tokens; conversations are never cut.
        media_root: folder or `hf://` repository to which media paths are relative, and which they must stay in.
        allow_urls: whether to download images from the web, or the hosts allowed for it; see `fetch_file`.

    Returns:
        The sample, without pixels if the conversation has neither images nor videos. Only the assistant's texts and
        their end tokens are supervised.

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames", "too_many_tokens", or "malformed" for text with
            special tokens or a part with invalid values.
        ValueError: if the processor's chat template is not Qwen2-VL's.
    """
    media = plan_media(conversation, processor, options, media_root, allow_urls)
    n_frames = [medium.n_frames for medium in media]
    input_ids, labels, n_words = _tokenise(conversation, processor, media, n_frames)
    n_tokens = _n_expanded_tokens(input_ids, media, processor)
    if options.max_tokens is not None and n_tokens > options.max_tokens:
        raise UnusableSample(
            "too_many_tokens",
            f"the conversation has {n_tokens} tokens, more than max_tokens={options.max_tokens}: conversations are not "
            "cut, so raise the limit or lower max_pixels or max_frames",
        )
    pixels, grids, n_decoded = _pixels_of(media, processor)
    if n_decoded != n_frames:  # a header overstated the number of frames
        input_ids, labels, n_words = _tokenise(conversation, processor, media, n_decoded)
    input_ids, labels = _expand_placeholders(input_ids, labels, _block_tokens(media, grids, processor), processor)
    ids = torch.tensor(input_ids)
    model_inputs = {
        "input_ids": ids,
        "labels": torch.tensor(labels),
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids([ids])[0]),
        **pixels,
    }
    return Sample(model_inputs, n_words=n_words)


def count_chat_tokens(
    conversation: Conversation,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
    allow_urls: bool | Sequence[str] = False,
) -> int:
    """Return the number of tokens of `encode_chat`, from the headers of local media.

    The arguments are those of `encode_chat`. Images on the web are downloaded. The number is too high only if a video's
    header overstates its number of frames.

    Raises:
        UnusableSample: as in `encode_chat` if it is known from the headers, but not for the token limit.
        ValueError: if the processor's chat template is not Qwen2-VL's.
    """
    media = plan_media(conversation, processor, options, media_root, allow_urls)
    n_frames = [medium.n_frames for medium in media]
    return _n_expanded_tokens(_tokenise(conversation, processor, media, n_frames)[0], media, processor)


def _tokenise(
    conversation: Conversation, processor: StreamingProcessor, media: Sequence[Medium], n_frames: Sequence[int]
) -> tuple[list[int], list[int], int]:
    """Return ids with one placeholder per vision block, labels, and the number of supervised words.

    Answers are tokenised separately from the text before them, as at inference.

    Args:
        conversation: the conversation.
        processor: gives the chat template and tokens.
        media: the conversation's images and videos.
        n_frames: number of frames of each medium, 0 for an image.
    """
    pieces, n_words = _pieces(conversation, processor)
    rendered = processor.apply_chat_template(_without_media(conversation), tokenize=False)
    if "".join(text for text, _ in pieces) != rendered:
        raise ValueError(
            f"the processor's chat template renders a conversation as {rendered[:120]!r}...: expected Qwen2-VL's form, "
            f"{''.join(text for text, _ in pieces)[:120]!r}...; use Qwen2-VL's chat template"
        )
    backbone = processor.find_backbone()
    counted = zip(media, n_frames, strict=True)
    videos = (_video_text(processor, medium, n) for medium, n in counted if medium.kind == "video")
    input_ids: list[int] = []
    labels: list[int] = []
    for text, is_supervised in pieces:
        text = re.sub(re.escape(processor.video_token), lambda _: next(videos), backbone.join_vision(text))
        ids = tokenize(processor.tokenizer, text)
        input_ids += ids
        labels += ids if is_supervised else [IGNORE_INDEX] * len(ids)
    return input_ids, labels, n_words


def _pieces(conversation: Conversation, processor: StreamingProcessor) -> tuple[list[tuple[str, bool]], int]:
    """Return pieces of text, whether each is supervised, and the number of supervised words."""
    placeholders = {
        "image": f"{VISION_START}{processor.image_token}{VISION_END}",
        "video": f"{VISION_START}{processor.video_token}{VISION_END}",
    }
    pieces: list[tuple[str, bool]] = []
    n_words = 0
    has_system = conversation.messages[0]["role"] == "system"
    opening = "" if has_system else prompt_start(processor.find_backbone().system_prompt)
    for message in conversation.messages:
        texts = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        try:
            processor.checked_text(texts)
        except ValueError as error:
            raise UnusableSample("malformed", str(error)) from error
        content = "".join(placeholders.get(part["type"]) or part["text"] for part in message["content"])
        opening += f"{IM_START}{message['role']}\n"
        if message["role"] == "assistant":
            pieces += [(opening, False), (content + IM_END, True)]
            opening = "\n"
            n_words += len(texts.split())
        else:
            opening += f"{content}{IM_END}\n"
    return [*pieces, (opening, False)], n_words


def _without_media(conversation: Conversation) -> list[dict[str, Any]]:
    """Return the messages for the chat template, without the media themselves."""
    return [
        {
            "role": message["role"],
            "content": [{key: part[key] for key in ("type", "text") if key in part} for part in message["content"]],
        }
        for message in conversation.messages
    ]


def _video_text(processor: StreamingProcessor, video: Medium, n_frames: int) -> str:
    """Return the prompt text of a video, with one placeholder for each vision block."""
    video_processor, token = processor.video_processor, processor.video_token
    grid = (round_up_to_pairs(n_frames) // 2, video_processor.merge_size, video_processor.merge_size)
    times_s = [video.start_s + n / video.fps for n in range(n_frames)]
    text = processor.find_backbone().video_text(token, grid, times_s)
    return re.sub(f"(?:{re.escape(token)})+", token, text)


def _n_expanded_tokens(input_ids: Sequence[int], media: Sequence[Medium], processor: StreamingProcessor) -> int:
    backbone = processor.find_backbone()
    n_blocks = (_n_blocks(backbone, medium) for medium in media)
    return len(input_ids) + sum(medium.n_tokens - n for medium, n in zip(media, n_blocks, strict=True))


def _n_blocks(backbone: Backbone, medium: Medium) -> int:
    """Return the number of vision blocks of a medium."""
    if medium.kind == "image":
        return 1
    return len(backbone.vision_labels(round_up_to_pairs(medium.n_frames) // 2))


def _block_tokens(media: Sequence[Medium], grids: Sequence[Sequence[int]], processor: StreamingProcessor) -> list[int]:
    """Return the number of tokens of each vision block, in order."""
    backbone = processor.find_backbone()
    n_tokens: list[int] = []
    for medium, grid in zip(media, grids, strict=True):
        is_video = medium.kind == "video"
        merge = (processor.video_processor if is_video else processor.image_processor).merge_size
        blocks = backbone.block_grids(grid) if is_video else [grid]
        n_tokens += [t * (h // merge) * (w // merge) for t, h, w in blocks]
    return n_tokens


def _expand_placeholders(
    input_ids: Sequence[int], labels: Sequence[int], n_block_tokens: Sequence[int], processor: StreamingProcessor
) -> tuple[list[int], list[int]]:
    """Repeat each placeholder by the number of tokens of its vision block; return ids and labels."""
    remaining = iter(n_block_tokens)
    placeholders = (processor.image_token_id, processor.video_token_id)
    ids: list[int] = []
    targets: list[int] = []
    for token, target in zip(input_ids, labels, strict=True):
        n = next(remaining) if token in placeholders else 1
        ids += [token] * n
        targets += [target] * n
    return ids, targets


def _pixels_of(
    media: Sequence[Medium], processor: StreamingProcessor
) -> tuple[dict[str, torch.Tensor], list[list[int]], list[int]]:
    """Decode the media; return the vision tower's inputs, and each medium's grid and number of frames (image: 0)."""
    images, patches, video_grids, patches_s, n_frames = [], [], [], [], []
    video_processor = processor.video_processor
    for medium in media:
        if medium.kind == "image":
            images.append(medium.read())
            n_frames.append(0)
        else:
            frames = medium.read()
            n_frames.append(len(frames))
            video_patches, grid = video_processor.frames_to_patches(frames, do_resize=False)
            patches.append(video_patches)
            video_grids.append(grid)
            patches_s.append(video_processor.temporal_patch_size / medium.fps)
    pixels: dict[str, torch.Tensor] = {}
    grids: dict[str, Iterator[list[int]]] = {"image": iter(()), "video": iter(())}
    if images:
        pixels |= processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        grids["image"] = iter(pixels["image_grid_thw"].tolist())
    if patches:
        pixels |= {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.cat(video_grids)}
        video_inputs = processor.find_backbone().video_inputs(patches_s)
        pixels |= {name: torch.tensor(values) for name, values in video_inputs.items()}
        grids["video"] = iter(pixels["video_grid_thw"].tolist())
    return pixels, [next(grids[medium.kind]) for medium in media], n_frames
