"""Opens images from paths, bytes or PIL images, with their EXIF orientation applied."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.modeling.frames import picture_tensor, rgb_picture

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # EXIF tag
_ROTATED = range(5, 9)  # its values for images rotated by 90 degrees


def open_picture(picture: Any) -> Image.Image:
    """Open an image from a path, bytes or a PIL image; the caller has to close it."""
    from PIL import Image

    if isinstance(picture, bytes):
        return Image.open(io.BytesIO(picture))
    return picture.copy() if isinstance(picture, Image.Image) else Image.open(picture)


def picture_size_px(picture: Any) -> tuple[int, int]:
    """Return the width and height of the upright image, from the file's header."""
    with open_picture(picture) as image:
        has_exif = image.format != "PNG" or "exif" in image.info  # getexif() decodes a PNG without EXIF
        is_rotated = has_exif and image.getexif().get(_ORIENTATION, 1) in _ROTATED
        return image.size[::-1] if is_rotated else image.size


def picture_at(picture: Any, size_px: tuple[int, int]) -> torch.Tensor:
    """Decode an image, upright and resized to (width, height); return uint8 (3, H, W)."""
    with open_picture(picture) as image:
        rgb = rgb_picture(image)
    return picture_tensor(rgb if rgb.size == size_px else rgb.resize(size_px))
