"""Still pictures of samples: opened from paths, bytes or PIL images, upright, at the size that is wanted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.modeling.frames import picture_tensor, rgb_picture

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # EXIF's tag
_TURNED = range(5, 9)  # its values for a picture that lies on its side


def open_picture(picture: Any) -> Image.Image:
    """Return a picture that is a path, bytes or a PIL image, to be closed; it is decoded when it is used."""
    from PIL import Image

    if isinstance(picture, bytes):
        return Image.open(io.BytesIO(picture))
    return picture.copy() if isinstance(picture, Image.Image) else Image.open(picture)


def picture_size_px(picture: Any) -> tuple[int, int]:
    """Return width and height of the upright picture, from the header of a file."""
    with open_picture(picture) as image:
        is_said = image.format != "PNG" or "exif" in image.info  # asking a PNG file for what it has not decodes it
        is_turned = is_said and image.getexif().get(_ORIENTATION, 1) in _TURNED
        return image.size[::-1] if is_turned else image.size


def picture_at(picture: Any, size_px: tuple[int, int]) -> torch.Tensor:
    """Decode a picture to uint8 (3, H, W), upright, at this (width, height)."""
    with open_picture(picture) as image:
        rgb = rgb_picture(image)
    return picture_tensor(rgb if rgb.size == size_px else rgb.resize(size_px))
