"""Converts frames that users pass (tensors, NumPy arrays, PIL images) to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .grammar import TURN_FRAMES

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

EXPECTED = "a torch.Tensor or NumPy array, uint8 (T, 3, H, W), or a list of PIL images"
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # its values to PIL's `Transpose`
_MAX_16_BIT = 2**16 - 1
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # 16-bit gray; "I" has 32 bits, of which 16 may be used


@dataclass(frozen=True)
class PreparedFrames:
    """Frames at the size the model sees; they are not resized again.

    Attributes:
        pixels: uint8 (T, 3, H, W), RGB; H and W are multiples of the backbone's `factor`, 28 or 32.
        source_px: (height, width) before resizing.
    """

    pixels: torch.Tensor
    source_px: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pixels)

    def expand(self, n_frames: int) -> PreparedFrames:
        """Return a single frame repeated `n_frames` times, without copying memory."""
        return PreparedFrames(self.pixels.expand(n_frames, -1, -1, -1), self.source_px)


def gray_frames(n_frames: int, frame_px: tuple[int, int]) -> torch.Tensor:
    """Return gray frames, uint8 (T, 3, H, W).

    Args:
        n_frames: T.
        frame_px: (H, W).

    Raises:
        ValueError: if `frame_px` is not two positive integers.
    """
    good = isinstance(frame_px, (tuple, list)) and len(frame_px) == 2
    if not good or not all(type(side) is int and side > 0 for side in frame_px):
        raise ValueError(f"frame_px={frame_px!r:.80}: expected height and width in pixels, such as (720, 1280)")
    return torch.full((n_frames, 3, *frame_px), 128, dtype=torch.uint8)


def rgb_picture(picture: Picture) -> Picture:
    """Return a PIL image as upright RGB: EXIF orientation applied, on a white background, 16-bit gray scaled to 8.

    Args:
        picture: a PIL image of any mode.

    Raises:
        ValueError: if values have no known brightness: floating point, or integers of more than 16 bits.
    """
    from PIL import Image

    # Not ImageOps.exif_transpose: it also rewrites the EXIF data, and raises if that is damaged.
    flip = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    picture = picture.copy() if flip is None else picture.transpose(Image.Transpose(flip))
    if picture.mode in _DEEP_MODES:
        picture = picture.convert("I")  # not to "L" at once: Pillow clips at 255
        extrema: Any = picture.getextrema()
        low, high = extrema
        if low < 0 or high > _MAX_16_BIT:
            raise ValueError(
                f"a gray picture has values from {low} to {high}: expected 8 or 16 bits a pixel, 0 to {_MAX_16_BIT}"
            )
        picture = picture.point(lambda value: value * (1 / 256) + 0).convert("L")
        picture.info.pop("transparency", None)  # a 16-bit value
    elif picture.mode == "F":
        raise ValueError("a picture holds floating-point values: expected 8 or 16 bits a pixel; save it as PNG")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        seen = Image.new("RGB", picture.size, "white")
        seen.paste(picture, mask=picture)
        return seen
    seen = picture.convert("RGB")
    seen.info.clear()  # its orientation and transparency have been applied
    return seen


def picture_tensor(picture: Picture) -> torch.Tensor:
    """Return a PIL image as uint8 (3, H, W); see :func:`rgb_picture`."""
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(rgb_picture(picture))


def as_tensor(frames: Any) -> Any:
    """Convert arrays and lists of frames to a tensor; return anything else unchanged.

    Args:
        frames: a NumPy array (T, 3, H, W) or (T, H, W, 3), or a list of PIL images, of arrays (3, H, W) or (H, W, 3),
            or of tensors (3, H, W), all of one size.

    Returns:
        A tensor (T, 3, H, W), or `frames` if it is neither an array nor a list.

    Raises:
        ValueError: if an item of a list is something else, or its size differs from the first item's.
    """
    if is_array(frames):
        return _array_tensor(frames, 4)
    if not isinstance(frames, list | tuple):
        return frames
    items = [_item_tensor(item, number) for number, item in enumerate(frames)]
    for number, item in enumerate(items):
        if item.shape != items[0].shape or item.dtype != items[0].dtype:
            raise ValueError(
                f"frame {number} is {tuple(item.shape)} of {item.dtype}, but frame 0 is {tuple(items[0].shape)} of "
                f"{items[0].dtype}: expected frames of one size in a list"
            )
    return torch.stack(items) if items else torch.empty(0, 3, 1, 1, dtype=torch.uint8)


def frame_batches(video: Any) -> Iterator[torch.Tensor]:
    """Return an iterator over a video's frames, (T, 3, H, W) with small T.

    Args:
        video: a whole video (a tensor (T, 3, H, W), or anything :func:`as_tensor` converts), or an iterable of parts
            of these forms, or of single frames.

    Raises:
        ValueError: if `video` has none of these forms; the items of an iterable are checked on iteration.
    """
    is_whole = isinstance(video, torch.Tensor | PreparedFrames) or is_array(video)
    if isinstance(video, list | tuple) and video:
        is_whole = all(map(_is_single, video))
    if not is_whole and (isinstance(video, str | bytes | bytearray | dict) or not isinstance(video, Iterable)):
        raise ValueError(
            f"the video is of type {type(video).__name__}: expected the path of a file as text, or "
            f"frames: {EXPECTED}, or an iterable of such"
        )
    return _batches([video] if is_whole else ([part] if _is_single(part) else part for part in video))


def _batches(parts: Iterable) -> Iterator[torch.Tensor]:
    for part in parts:
        frames = as_tensor(part)
        if isinstance(frames, torch.Tensor) and frames.ndim == 4:
            yield from frames.split(TURN_FRAMES)
        else:
            yield frames  # the stream reports what is wrong with it


def resize_to(frames: torch.Tensor, size_px: Sequence[int]) -> torch.Tensor:
    """Return frames (..., 3, H, W) resized to (height, width), whatever their shape: bicubic, antialiased."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    return resize(frames, list(size_px), InterpolationMode.BICUBIC, antialias=True)


def is_array(value: Any) -> bool:
    """Return whether a value is a NumPy array."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def is_picture(value: Any) -> bool:
    """Return whether a value is a PIL image."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def _is_single(value: Any) -> bool:
    return is_picture(value) or ((is_array(value) or isinstance(value, torch.Tensor)) and value.ndim == 3)


def _item_tensor(item: Any, number: int) -> torch.Tensor:
    if is_picture(item):
        return picture_tensor(item)
    tensor = _array_tensor(item, 3) if is_array(item) else item
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(
            f"frames are of type list: expected {EXPECTED}, but item {number} is of type {type(item).__name__}"
        )
    return tensor


def _array_tensor(array: Any, n_dims: int) -> torch.Tensor:
    """Copy an array to a tensor with channels first."""
    try:
        tensor = torch.from_numpy(array.copy())
    except TypeError:
        raise ValueError(f"frames are {array.dtype}: expected uint8 with values 0 to 255") from None
    if tensor.ndim == n_dims and tensor.shape[-3] != 3 and tensor.shape[-1] == 3:
        tensor = tensor.movedim(-1, -3).contiguous()
    return tensor
