"""Image files from strangers: decoded within limits."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")


def decode_image(
    data: bytes, max_px: int, size_px: tuple[int, int] | None = None
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Decode an image file.

    Args:
        data: a JPEG, PNG or WebP file; of an animation, the first image.
        max_px: most pixels; checked before anything is decoded.
        size_px: the (width, height) wanted. An image of another size is scaled into it, with black bars where its
            form differs.

    Returns:
        The image, uint8 (3, H, W), RGB; and the (width, height) that it had.

    Raises:
        ValueError: if it is no such file, is damaged or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"the image has more than {max_px} pixels, which are allowed: send it smaller") from None
    except Exception as error:  # Pillow's readers raise all sorts of things
        raise ValueError(f"the image cannot be read ({_named(error)}): expected a JPEG, PNG or WebP file") from None
    with image:
        if image.width * image.height > max_px:
            raise ValueError(
                f"the image is {image.width}x{image.height}, with {max_px} pixels allowed: send it smaller"
            )
        try:
            ImageOps.exif_transpose(image, in_place=True)
            rgb = image.convert("RGB")
        except Exception as error:
            raise ValueError(f"the image is damaged ({_named(error)}): send it again") from None
    sent_size_px = rgb.size
    if size_px is not None and sent_size_px != size_px:
        rgb = ImageOps.pad(rgb, size_px, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), sent_size_px


def _named(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its text names an object in memory
        return "unknown format"
    return " ".join(str(error).split())[:100] or type(error).__name__
