"""Decodes untrusted image files within limits."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

from livecc_hf.modeling.frames import rgb_picture
from livecc_hf.utils.text import one_line

FORMATS = ("JPEG", "PNG", "WEBP")
# Limits against small files that cost minutes: a progressive JPEG's scan visits every pixel and can be 20 bytes long
# (encoders write about 10 scans), and a header segment of 4 bytes costs several reads in Python.
_MAX_SCANS = 64
_MAX_READS = 10_000
_MAX_REASON = 100  # characters of a decoder's message
_SCAN = b"\xff\xda"  # the start of a scan; in its data each FF is followed by 00


def decode_image(
    data: bytes, max_px: int, size_px: tuple[int, int] | None = None
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Decode an image file.

    Args:
        data: a JPEG, PNG or WebP file; of an animation, the first image is used.
        max_px: maximum number of pixels, checked before decoding.
        size_px: the (width, height) to return. An image of another size is scaled into it, with black bars if its
            aspect ratio differs.

    Returns:
        The RGB image, uint8 (3, H, W), and its original (width, height).

    Raises:
        ValueError: if the file is in another format, damaged, or has too many pixels.
    """
    if data.startswith(b"\xff\xd8") and data.count(_SCAN) > _MAX_SCANS:
        raise ValueError(
            f"the image has {data.count(_SCAN)} scans, with {_MAX_SCANS} allowed: save it as a baseline JPEG"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(_File(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"the image has more than {max_px} pixels, the maximum: send it smaller") from None
    except Exception as error:  # Pillow's readers raise errors of many types
        raise ValueError(f"the image cannot be read ({_reason(error)}): expected a JPEG, PNG or WebP file") from None
    with image:
        if image.width * image.height > max_px:
            raise ValueError(
                f"the image is {image.width}x{image.height}, with {max_px} pixels allowed: send it smaller"
            )
        try:
            rgb = rgb_picture(image)
        except Exception as error:
            raise ValueError(f"the image is damaged ({_reason(error)}): send it again") from None
    sent_size_px = rgb.size
    if size_px is not None and sent_size_px != size_px:
        rgb = ImageOps.pad(rgb, size_px, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), sent_size_px


class FrameFitter:
    """Decodes the frames of a session and scales them to the size of its first frame.

    Args:
        max_px: maximum pixels of a frame.
    """

    def __init__(self, max_px: int):
        self._max_px = max_px
        self._size_px: tuple[int, int] | None = None  # (width, height) of the first frame
        self._sent_size_px: tuple[int, int] | None = None  # original size of the last frame taken
        self._decoded_size_px: tuple[int, int] | None = None  # original size of the last frame decoded

    def decode(self, data: bytes) -> tuple[torch.Tensor, str | None]:
        """Return a frame, uint8 (3, H, W), and a message if its original size has changed, else `None`.

        Raises:
            ValueError: as `decode_image` does.
        """
        image, sent_size_px = decode_image(data, self._max_px, self._size_px)
        self._decoded_size_px = sent_size_px
        if self._size_px is None or sent_size_px in (self._size_px, self._sent_size_px):
            return image, None
        now, first = ("x".join(map(str, size)) for size in (sent_size_px, self._size_px))
        return (
            image,
            f"frames are {now} pixels now; they are scaled to the first size, {first}: connect again to change it",
        )

    def take(self) -> None:
        """Mark the last decoded frame as taken."""
        self._sent_size_px = self._decoded_size_px
        self._size_px = self._size_px or self._decoded_size_px


class _File(io.BytesIO):
    """An in-memory file that limits the number of reads."""

    n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.n_reads += 1
        if self.n_reads > _MAX_READS:
            raise ValueError(f"its header has more than {_MAX_READS} parts")
        return super().read(size)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its message contains a memory address
        return "unknown format"
    return one_line(error, _MAX_REASON)
