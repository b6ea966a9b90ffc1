"""Image files from strangers: decoded within limits."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

from livecc_hf.modeling.frames import rgb_picture

FORMATS = ("JPEG", "PNG", "WEBP")
# Small files can cost minutes. A scan of a progressive JPEG file goes over all of its pixels and may take 20 bytes;
# cameras and encoders write about 10. A part of a header takes some reads in Python and may take 4 bytes.
_MAX_SCANS = 64
_MAX_READS = 10_000
_SCAN = b"\xff\xda"  # inside of a scan's own bytes, 00 follows each FF


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
    if data.startswith(b"\xff\xd8") and data.count(_SCAN) > _MAX_SCANS:
        raise ValueError(
            f"the image has {data.count(_SCAN)} scans, with {_MAX_SCANS} allowed: save it as a baseline JPEG"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(_File(data), formats=FORMATS)
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
            rgb = rgb_picture(image)
        except Exception as error:
            raise ValueError(f"the image is damaged ({_named(error)}): send it again") from None
    sent_size_px = rgb.size
    if size_px is not None and sent_size_px != size_px:
        rgb = ImageOps.pad(rgb, size_px, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), sent_size_px


class FrameFitter:
    """Decodes the frames of a session, all in the size of the first that was taken.

    Args:
        max_px: most pixels of a frame.
    """

    def __init__(self, max_px: int):
        self._max_px = max_px
        self._size_px: tuple[int, int] | None = None  # (width, height) of the first frame
        self._sent_size_px: tuple[int, int] | None = None  # of the last that was taken, as it was sent,
        self._decoded_size_px: tuple[int, int] | None = None  # and of the last that was decoded

    def decode(self, data: bytes) -> tuple[torch.Tensor, str | None]:
        """Return a frame, uint8 (3, H, W), and what to say of its size, if that is another now.

        Raises:
            ValueError: as `decode_image` does.
        """
        image, sent_size_px = decode_image(data, self._max_px, self._size_px)
        self._decoded_size_px = sent_size_px
        if self._size_px is None or sent_size_px in (self._size_px, self._sent_size_px):
            return image, None
        now, first = ("x".join(map(str, size)) for size in (sent_size_px, self._size_px))
        return image, f"frames are {now} pixels now, {first} before: they are scaled to that; connect again to change"

    def take(self) -> None:
        """Count the frame that was decoded last as taken."""
        self._sent_size_px = self._decoded_size_px
        self._size_px = self._size_px or self._decoded_size_px


class _File(io.BytesIO):
    """A file in memory that may not be read in too many parts."""

    n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.n_reads += 1
        if self.n_reads > _MAX_READS:
            raise ValueError(f"its header has more than {_MAX_READS} parts")
        return super().read(size)


def _named(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its text names an object in memory
        return "unknown format"
    return " ".join(str(error).split())[:100] or type(error).__name__
