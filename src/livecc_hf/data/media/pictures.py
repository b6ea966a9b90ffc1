"""Opens still pictures of samples from paths, bytes or PIL images, upright and at a given size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.modeling.frames import picture_tensor, rgb_picture

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # EXIF's tag
_TURNED = range(5, 9)  # its values for a picture rotated by 90 degrees


def open_picture(picture: Any) -> Image.Image:
    """Open a picture from a path, bytes or a PIL image; it is decoded when it is used, and has to be closed."""
    from PIL import Image

    if isinstance(picture, bytes):
        return Image.open(io.BytesIO(picture))
    return picture.copy() if isinstance(picture, Image.Image) else Image.open(picture)


def picture_size_px(picture: Any) -> tuple[int, int]:
    """Return the width and height of the upright picture, from the file's header."""
    with open_picture(picture) as image:
        has_exif = image.format != "PNG" or "exif" in image.info  # asking any other PNG for EXIF would decode it
        is_turned = has_exif and image.getexif().get(_ORIENTATION, 1) in _TURNED
        return image.size[::-1] if is_turned else image.size


def picture_at(picture: Any, size_px: tuple[int, int]) -> torch.Tensor:
    """Decode a picture to uint8 (3, H, W), upright, at this (width, height)."""
    with open_picture(picture) as image:
        rgb = rgb_picture(image)
    return picture_tensor(rgb if rgb.size == size_px else rgb.resize(size_px))
