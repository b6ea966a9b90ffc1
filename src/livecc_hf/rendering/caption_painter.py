"""Draws caption text onto pictures: wrapped, outlined, on a darkened band, readable at any size."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MIN_FONT_PX = 12
_FONT_SHARE = 1 / 16  # of the picture's shorter side
_MAX_HEIGHT_SHARE = 0.4  # of the picture's height, for all lines
_WIDTH_SHARE = 0.92  # of the picture's width, for the longest line
_LINE_HEIGHT = 1.25  # of the font size
_TEXT_RGB = (255, 255, 255)
_OUTLINE_RGB = (0, 0, 0)
_BAND_ALPHA = 110  # of 255
# System fonts, tried in order, since Pillow's built-in font has few letters beyond English ones.
_SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")


@dataclass(frozen=True)
class CaptionStyle:
    """How captions look."""

    font: str | Path | None = field(default=None, metadata={"help": "a TrueType or OpenType font file"})
    font_scale: float = field(default=1.0, metadata={"help": "size of the letters, relative to the default"})

    def __post_init__(self):
        if not 0.2 <= self.font_scale <= 5:
            raise ValueError(f"font_scale={self.font_scale}: expected a number from 0.2 to 5")
        _load_font(self.font, _MIN_FONT_PX)


class CaptionPainter:
    """Draws captions at the bottom of pictures of one size; caches the last caption.

    Args:
        size_px: (width, height) of the pictures.
        style: how the captions look.

    Raises:
        ValueError: if the style's font file cannot be used.
    """

    def __init__(self, size_px: tuple[int, int], style: CaptionStyle | None = None):
        self.size_px = size_px
        self.style = style or CaptionStyle()
        self._text = ""
        self._band: tuple[int, np.ndarray, np.ndarray] | None = None

    def draw(self, picture: np.ndarray, text: str) -> None:
        """Draw `text` onto `picture`, uint8 (height, width, 3), in place; nothing if `text` is empty."""
        text = " ".join(text.split())
        if text != self._text:
            self._text = text
            self._band = self._render(text) if text else None
        if self._band is None:
            return
        top, colour, transparency = self._band
        rows = picture[top : top + len(colour)]
        rows[...] = colour + (rows * transparency >> 8).astype(np.uint8)

    def _render(self, text: str) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the band's top row, its premultiplied colour, and its transparency from 0 to 256.

        Returns:
            The row; uint8 (band height, width, 3), colour times opacity; uint16 (band height, width, 1).
        """
        width, height = self.size_px
        font, lines = self._fit(text)
        line_px = round(font.size * _LINE_HEIGHT)
        pad_px = max(2, round(font.size * 0.3))
        band_px = min(height, line_px * len(lines) + 2 * pad_px)
        band = Image.new("RGBA", (width, band_px), (0, 0, 0, _BAND_ALPHA))
        draw = ImageDraw.Draw(band)
        outline_px = max(1, round(font.size / 12))
        for number, line in enumerate(lines):
            middle = (width / 2, pad_px + line_px * (number + 0.5))
            draw.text(middle, line, _TEXT_RGB, font, anchor="mm", stroke_width=outline_px, stroke_fill=_OUTLINE_RGB)
        layer = np.asarray(band).astype(np.uint16)
        opacity = layer[..., 3:] + (layer[..., 3:] > 127)  # 0 to 256
        top = height - band_px - min(round(height * 0.04), height - band_px)
        return top, (layer[..., :3] * opacity >> 8).astype(np.uint8), 256 - opacity

    def _fit(self, text: str) -> tuple[ImageFont.FreeTypeFont, list[str]]:
        """Return the largest font in which the text fits, and its lines; text that is too long is cut at the start."""
        width, height = self.size_px
        room_px = width * _WIDTH_SHARE
        usual_px = max(_MIN_FONT_PX, round(min(width, height) * _FONT_SHARE * self.style.font_scale))
        for size_px in range(usual_px, _MIN_FONT_PX - 1, -1):
            font = _load_font(self.style.font, size_px)
            lines = wrap(text, font, room_px)
            n_max = max(1, int(height * _MAX_HEIGHT_SHARE / (size_px * _LINE_HEIGHT)))
            if len(lines) <= n_max:
                break
        if len(lines) > n_max:
            lines = lines[-n_max:]
            lines[0] = "\N{HORIZONTAL ELLIPSIS} " + lines[0]
        return font, lines


def wrap(text: str, font: ImageFont.FreeTypeFont, room_px: float) -> list[str]:
    """Break text into lines of at most `room_px`, between words if possible, else within them."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= room_px:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > room_px and len(line) > 1:
            n_fitting = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) <= room_px), 1)
            lines.append(line[:n_fitting])
            line = line[n_fitting:]
    return [*lines, line] if line else lines


@lru_cache(maxsize=64)
def _load_font(path: str | Path | None, size_px: int) -> ImageFont.FreeTypeFont:
    if path is None:
        name = _system_font()
        if name:
            return ImageFont.truetype(name, size_px)
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size_px))  # with a size, it returns this class
    try:
        return ImageFont.truetype(str(path), size_px)
    except OSError as error:
        raise ValueError(f"font {path} cannot be used: expected a TrueType or OpenType file") from error


@lru_cache(maxsize=1)
def _system_font() -> str | None:
    for name in _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            ImageFont.truetype(name, _MIN_FONT_PX)
            return name
    return None
