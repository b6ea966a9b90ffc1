"""Plans the images and videos of a conversation from their headers, and decodes them later."""

from __future__ import annotations

import base64
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.modeling.grammar import FRAMES_PER_SECOND
from livecc_hf.modeling.video_file import WEB_PREFIXES, VideoReadError, clock_start, find_video_stream, open_video
from livecc_hf.video.reader import iter_frames, measure_duration

from ..formats.chat import Conversation
from ..media.clip_frames import FrameSize, plan_frame_size, round_up_to_pairs
from ..media.paths import find_media, local_path
from ..media.pictures import picture_at, picture_size_px
from ..media.web_files import WebFileError, fetch_file
from ..unusable import UnusableSample
from .sample import EncodeOptions

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

_FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_FALLBACK_FRAME_RATE = 25.0
_MAX_PIXELS = 2**30  # of an image or video after resizing: 3 GB
_MAX_NUMBER = 2**53  # larger values are mistakes, and may not fit a float


@dataclass(frozen=True)
class Medium:
    """An image or video of a conversation that is not decoded yet.

    Attributes:
        kind: "image" or "video".
        n_tokens: number of tokens; an upper bound if a video's header overstates its number of frames.
        read: decodes and resizes an image to uint8 (3, H, W), or a video to uint8 (T, 3, H, W).
        n_frames: number of sampled frames of a video, from its header; 0 for an image.
        fps: sampled frames a second of a video.
        start_s: time of a video's first frame, in seconds as a player shows.
    """

    kind: str
    n_tokens: int
    read: Callable[[], Any]
    n_frames: int = 0
    fps: float = FRAMES_PER_SECOND
    start_s: float = 0.0


@dataclass(frozen=True)
class _Encoder:
    """The processor and options for all media of a conversation."""

    processor: StreamingProcessor
    options: EncodeOptions
    media_root: str | os.PathLike | None
    allow_urls: bool | Sequence[str]


def plan_media(
    conversation: Conversation,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
    allow_urls: bool | Sequence[str] = False,
) -> list[Medium]:
    """Plan a conversation's media, in order, from their headers; images on the web are downloaded.

    Args:
        conversation: the conversation.
        processor: gives the image and video processors.
        options: limits for frames and their pixels.
        media_root: folder or `hf://` repository to which media paths are relative, and which they must stay in.
        allow_urls: whether to download images from the web, or the hosts allowed for it; see `fetch_file`.

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames", or "malformed" for a part with invalid values.
    """
    encoder = _Encoder(processor, options, media_root, allow_urls)
    media = []
    for message in conversation.messages:
        for part in message["content"]:
            if part["type"] == "text":
                continue
            if message["role"] != "user":
                raise UnusableSample("malformed", f"the {message['role']} message has media: only user messages may")
            media.append(_image(part, encoder) if part["type"] == "image" else _video(part, encoder))
    return media


def _image(part: Mapping[str, Any], encoder: _Encoder) -> Medium:
    """Plan an image, which is resized once, with qwen-vl-utils' filter, to the image processor's size."""
    image_processor = encoder.processor.image_processor
    limits = {
        "min_pixels": _pixels(part, "min_pixels") or image_processor.size["shortest_edge"],
        "max_pixels": _pixels(part, "max_pixels") or image_processor.size["longest_edge"],
    }
    if limits["min_pixels"] > limits["max_pixels"]:
        raise UnusableSample("malformed", f"an image's {limits}: expected min_pixels to be at most max_pixels")
    requested = {name: _number(part, name) for name in ("resized_height", "resized_width")}
    image = _image_of(part["image"], encoder.media_root)
    what = _name(part["image"])
    with _explain_media_errors(what):
        image = _downloaded(image, encoder)
        height_px, width_px = _image_size(picture_size_px(image), requested, limits, image_processor)
    _check_memory(part, 1, height_px, width_px)

    def read() -> torch.Tensor:
        with _explain_media_errors(what):
            return picture_at(image, (width_px, height_px))

    merge_px = image_processor.patch_size * image_processor.merge_size
    return Medium("image", height_px * width_px // merge_px**2, read)


def _image_size(
    size_px: tuple[int, int], requested: Mapping[str, Any], limits: Mapping[str, Any], image_processor: Any
) -> tuple[int, int]:
    """Return the height and width of a resized image: as requested, or else within the limits.

    Args:
        size_px: width and height of the image.
        requested: `resized_height` and `resized_width` or `None`; rounded to whole tokens.
        limits: `min_pixels` and `max_pixels`.
        image_processor: gives the patch size.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    factor = image_processor.patch_size * image_processor.merge_size
    height_px, width_px = requested["resized_height"], requested["resized_width"]
    if height_px and width_px:
        return max(round(height_px / factor), 1) * factor, max(round(width_px / factor), 1) * factor
    return smart_resize(size_px[1], size_px[0], factor, **limits)


def _downloaded(image: Any, encoder: _Encoder) -> Any:
    """Return the content of an image given as a URL, and any other image unchanged."""
    if not isinstance(image, str):
        return image
    if image.startswith("data:"):
        return base64.b64decode(image.partition("base64,")[2])
    if not encoder.allow_urls:
        raise UnusableSample(
            "missing_file",
            f"image {image[:120]} is on the web: download it, or set allow_urls: true in the data entry to fetch it "
            "during training",
        )
    return fetch_file(image, encoder.allow_urls)


def _video(part: Mapping[str, Any], encoder: _Encoder) -> Medium:
    """Plan a video's frames.

    This follows qwen-vl-utils' rule for the number of frames, but does not use its code: its readers need decord,
    torchcodec or a removed part of torchvision, and it resizes lists of frames twice, to multiples of 56 and then of
    28 pixels.
    """
    video = part["video"]
    if isinstance(video, Mapping):
        if not video.get("path"):
            raise UnusableSample("malformed", "a video is embedded in the row: write it to a file and give its path")
        video = video["path"]
    if isinstance(video, Sequence) and not isinstance(video, str | bytes):
        return _pictures(part, [_image_of(item, encoder.media_root) for item in video], "a list of frames", encoder)
    if not isinstance(video, str):
        raise UnusableSample("malformed", f"a video is a {type(video).__name__}: expected a path or a list of images")
    if video.startswith(WEB_PREFIXES):
        raise UnusableSample("missing_file", f"video {video} is on the web: download it, or use an hf://datasets/ path")
    folder = _folder(video, encoder.media_root)
    if folder is not None:
        frames = sorted(path for path in folder.iterdir() if path.suffix.lower() in _FRAME_SUFFIXES)
        return _pictures(part, frames, str(folder), encoder)
    path = find_media(video, encoder.media_root)
    if "pos" in part:
        return _pictures(part, _jpegs(path, part["pos"]), str(path), encoder)
    return _video_file(part, path, encoder)


def _video_file(part: Mapping[str, Any], path: Path, encoder: _Encoder) -> Medium:
    start_s, end_s = _number(part, "video_start", allow_zero=True), _number(part, "video_end")
    with _explain_media_errors(str(path)):
        header = _read_header(path, end_s)
    first_s = max(start_s or 0.0, header.start_s)
    until_s = min(header.end_s, math.inf if end_s is None else end_s)
    if until_s <= first_s:
        raise UnusableSample(
            "no_frames",
            f"{path} runs from {header.start_s:g} to {header.end_s:g} s: no frame lies between "
            f"video_start={start_s} and video_end={end_s}",
        )
    total = max(round((until_s - first_s) * header.frame_rate), 1)
    n_frames = _n_frames(part, total, header.frame_rate, encoder.options)
    # Evenly spaced from the first frame to the last, like qwen-vl-utils' linspace over frame indices.
    fps = (n_frames - 1) / (until_s - first_s - 1 / header.frame_rate) if n_frames > 1 else FRAMES_PER_SECOND
    size = _frame_size(part, n_frames, (header.width, header.height), encoder)

    def read() -> torch.Tensor:
        with (
            _explain_media_errors(str(path)),
            closing(iter_frames(path, start_s, end_s, fps, header.origin_s)) as sampled,
        ):
            try:
                # One at a time: hundreds of full-size frames would not fit into a worker's memory.
                return torch.stack([_resize(item.frame, size, encoder) for item in islice(sampled, n_frames)])
            except VideoReadError as error:
                with closing(iter_frames(path)) as others:
                    next(others)  # raises "unreadable_media" if the file has no frame at all
                raise UnusableSample("no_frames", str(error)) from error

    n_tokens = round_up_to_pairs(n_frames) // 2 * size.n_pair_tokens
    return Medium("video", n_tokens, read, n_frames, fps, first_s)


def _pictures(part: Mapping[str, Any], pictures: Sequence[Any], what: str, encoder: _Encoder) -> Medium:
    """Plan a video that is given as single images, which are all resized like the first one."""
    if not pictures:
        raise UnusableSample("no_frames", f"{what} has no pictures: expected files ending in {sorted(_FRAME_SUFFIXES)}")
    limits = len(pictures), _number(part, "nframes") or len(pictures), _most_frames(part, encoder.options)
    n_frames = max(int(min(limits)), 1)
    chosen = [pictures[i] for i in torch.linspace(0, len(pictures) - 1, n_frames).round().long().tolist()]
    with _explain_media_errors(what):
        chosen = [_downloaded(picture, encoder) for picture in chosen]
        size_px = picture_size_px(chosen[0])
    size = _frame_size(part, n_frames, size_px, encoder)

    def read() -> torch.Tensor:
        with _explain_media_errors(what):
            return torch.stack([_resize(picture_at(picture, size_px), size, encoder) for picture in chosen])

    return Medium("video", round_up_to_pairs(n_frames) // 2 * size.n_pair_tokens, read, n_frames)


@dataclass(frozen=True)
class _Header:
    """Properties from the header of a video file.

    Times are in seconds from what a player shows as 0:00, which is `origin_s` on the file's clock. Width and height are
    in pixels as stored, before rotation.
    """

    origin_s: float
    start_s: float
    end_s: float
    frame_rate: float
    width: int
    height: int


def _read_header(path: Path, until_s: float | None) -> _Header:
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        rate = float(stream.average_rate or stream.guessed_rate or _FALLBACK_FRAME_RATE)
        origin = clock_start(container)
        start_s = float((stream.start_time or 0) * stream.time_base - origin)
        # The header's duration is an estimate, which is good enough if the span ends before it.
        end_s = start_s + float((stream.duration or 0) * stream.time_base)
        if until_s is None or until_s > end_s:
            end_s = measure_duration(path)
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width or not height:
            raise VideoReadError("its header has no frame size: it is not a video, or is damaged")
        return _Header(float(origin), start_s, end_s, rate, width, height)


def _n_frames(part: Mapping[str, Any], total: int, frame_rate: float, options: EncodeOptions) -> int:
    """Return the number of frames to sample, an even number if the video has at least two."""
    from qwen_vl_utils.vision_process import FPS_MIN_FRAMES, smart_nframes

    most = min(_most_frames(part, options), total)
    if most < 2:
        return 1
    if (n_frames := _number(part, "nframes")) is not None:
        return max(int(min(n_frames, most)) // 2 * 2, 2)
    rule = {
        "fps": _number(part, "fps") or FRAMES_PER_SECOND,
        "min_frames": _number(part, "min_frames") or FPS_MIN_FRAMES,
        "max_frames": most,
    }
    return smart_nframes(rule, total, frame_rate)


def _most_frames(part: Mapping[str, Any], options: EncodeOptions) -> int:
    return int(min(_number(part, "max_frames") or options.max_frames, options.max_frames))


def _frame_size(part: Mapping[str, Any], n_frames: int, size_px: tuple[int, int], encoder: _Encoder) -> FrameSize:
    """Return the size of frames by the options' limits, the part's or the clip's token budget."""
    options = encoder.options
    min_pixels = options.min_pixels or _pixels(part, "min_pixels")
    max_pixels = options.max_pixels or _pixels(part, "max_pixels")
    if min_pixels and max_pixels and min_pixels > max_pixels:
        raise UnusableSample(
            "malformed", f"video {_name(part['video'])}: min_pixels={min_pixels} is above max_pixels={max_pixels}"
        )
    with _explain_media_errors(_name(part["video"])):
        height_px, width_px, n_even = size_px[1], size_px[0], round_up_to_pairs(n_frames)
        processor = encoder.processor.video_processor
        size = plan_frame_size(height_px, width_px, n_even, processor, min_pixels, max_pixels)
    _check_memory(part, n_even, size.height_px, size.width_px)
    return size


def _check_memory(part: Mapping[str, Any], n_frames: int, height_px: int, width_px: int) -> None:
    """Raise `UnusableSample` if a part of a row asks for so many pixels that they would not fit into memory."""
    if n_frames * height_px * width_px > _MAX_PIXELS:
        what = f"{part['type']} {_name(part[part['type']])}"
        size = f"{n_frames} x {width_px} x {height_px} pixels, more than {_MAX_PIXELS:,} in total"
        raise UnusableSample("malformed", f"{what} would become {size}: lower its limits")


def _resize(frame: torch.Tensor, size: FrameSize, encoder: _Encoder) -> torch.Tensor:
    """Resize a frame (3, H, W) with the video processor."""
    return encoder.processor.video_processor.resized(frame[None], size.min_pixels, size.max_pixels)[0]


def _jpegs(path: Path, ends: Any) -> list[Any]:
    """Split a file of concatenated JPEGs at the byte offsets at which each one ends."""
    if not isinstance(ends, Sequence) or not all(isinstance(end, int) for end in ends) or sorted(ends) != list(ends):
        raise UnusableSample("malformed", f"pos of video {path} is {ends!r:.80}: expected increasing byte offsets")
    with _explain_media_errors(str(path)):
        data = path.read_bytes()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _image_of(value: Any, root: str | os.PathLike | None) -> Any:
    """Return an image of a row as a local `Path`, a URL (`str`), bytes or a PIL image."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith((*WEB_PREFIXES, "data:image")):
        return value
    if isinstance(value, str) and value:
        return find_media(value, root)
    if isinstance(value, bytes) or hasattr(value, "convert"):
        return value
    raise UnusableSample("malformed", f"an image is {value!r:.80}: expected a path, a URL, bytes or a PIL image")


def _folder(path: str, root: str | os.PathLike | None) -> Path | None:
    """Return the path as a local folder, `None` if it is not one."""
    if not path or path.startswith("hf://") or str(root or "").startswith("hf://"):
        return None
    try:
        folder = local_path(path, root)
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error
    return folder if folder.is_dir() else None


def _number(part: Mapping[str, Any], key: str, allow_zero: bool = False) -> float | int | None:
    """Return a number of a part, or `None`; raise `UnusableSample` if it is not positive."""
    value = part.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
    if not is_number or value < 0 or (value == 0 and not allow_zero):
        expected = "a number of seconds, 0 or more" if allow_zero else "a number above 0"
        raise UnusableSample(
            "malformed", f"{key} of {part['type']} {_name(part[part['type']])} is {value!r:.80}: expected {expected}"
        )
    return value


def _pixels(part: Mapping[str, Any], key: str) -> int | None:
    """Return a part's pixel limit as a whole number, or `None` if it is missing."""
    value = _number(part, key)
    return None if value is None else math.ceil(value)


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("path") or "in the row"
    return value[:120] if isinstance(value, str) else "in the row"


@contextmanager
def _explain_media_errors(what: str) -> Iterator[None]:
    """Turn errors from reading the media file `what` into `UnusableSample`."""
    from PIL import Image

    try:
        yield
    except UnusableSample:
        raise
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", str(error)) from error
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        # PIL raises all of these for broken files.
        reason = "missing_file" if isinstance(error, WebFileError) else "unreadable_media"
        raise UnusableSample(reason, f"{what} cannot be read: {' '.join(str(error).split())[:300]}") from error
