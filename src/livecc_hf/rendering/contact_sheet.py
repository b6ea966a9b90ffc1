"""Draws a commentary as one picture: a grid of frames, each with its time and words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image

_BACKGROUND = (24, 26, 31)
_BAND = (44, 48, 58)
_TIME_COLOUR = (150, 158, 172)
_NOTE_COLOUR = (126, 184, 140)
_TEXT_COLOUR = (240, 241, 244)
_MARGIN_PX = 10
_LINE_PX = 18
_FONT_PX = 14
_TALLEST = 1.5  # maximum height of a frame on the sheet, relative to the cell width
_NEAREST_BELOW_PX = 160  # frames below this width are enlarged without interpolation, so that pixels stay visible

_Line = tuple[str, tuple[int, int, int]]


@dataclass(frozen=True)
class SheetCell:
    """One frame of the sheet.

    Attributes:
        frame: uint8 (3, H, W), RGB.
        time_s: when it is shown, in seconds.
        text: the words under it; empty for silence.
        note: text in another colour under the words, such as the ground truth.
        label: replaces the time, for a frame without one.
    """

    frame: torch.Tensor
    time_s: float = 0.0
    text: str = ""
    note: str = ""
    label: str = ""


@dataclass(frozen=True)
class SheetSection:
    """A part of a sheet with a title band.

    Attributes:
        title: first line of the band.
        cells: the frames in order; may be empty.
        text: further lines of the band.
    """

    title: str
    cells: Sequence[SheetCell] = field(default=(), repr=False)
    text: str = ""


@dataclass(frozen=True)
class SheetLegend:
    """Explanations of the lines under the frames, drawn at the top in the lines' colours; empty ones are left out.

    Attributes:
        time: explains the times.
        text: explains the words.
        note: explains the notes.
    """

    time: str = "when the frame is shown"
    text: str = ""
    note: str = ""


def contact_sheet(
    cells: Sequence[SheetCell], columns: int = 5, cell_width_px: int = 220, legend: SheetLegend | None = None
) -> Image.Image:
    """Draw the cells row by row.

    Args:
        cells: the frames in order.
        columns: frames in a row.
        cell_width_px: width of a frame on the sheet; its height follows its own shape.
        legend: explanations at the top.

    Returns:
        An RGB `PIL.Image.Image`.

    Raises:
        ValueError: if there is nothing to draw, or `columns` or `cell_width_px` is below 1.
    """
    if not cells:
        raise ValueError("got no cells: a contact sheet needs at least one frame")
    return contact_sheet_of_sections([SheetSection("", cells)], min(columns, len(cells)), cell_width_px, legend)


def contact_sheet_of_sections(
    sections: Sequence[SheetSection],
    columns: int = 8,
    cell_width_px: int = 220,
    legend: SheetLegend | None = None,
) -> Image.Image:
    """Draw sections one below the other, each a band with its title and then its cells row by row.

    Args:
        sections: the parts in order; a section without a title has no band.
        columns: frames in a row.
        cell_width_px: width of a frame on the sheet; its height follows its own shape.
        legend: explanations at the top.

    Returns:
        An RGB `PIL.Image.Image`.

    Raises:
        ValueError: if there is nothing to draw, or `columns` or `cell_width_px` is below 1.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not sections:
        raise ValueError("got no sections: a contact sheet needs at least one")
    for name, value in (("columns", columns), ("cell_width_px", cell_width_px)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    font = ImageFont.load_default(size=_FONT_PX)
    width_px = columns * (cell_width_px + _MARGIN_PX) + _MARGIN_PX
    bands = [_band_lines(section, width_px) for section in sections]
    rows = [[s.cells[i : i + columns] for i in range(0, len(s.cells), columns)] for s in sections]
    entries = _legend_places(legend, font, width_px)
    legend_px = (max(y for _, (_, y) in entries) + _LINE_PX + _MARGIN_PX // 2) if entries else 0
    height_px = _MARGIN_PX + legend_px + sum(_band_height_px(band) for band in bands)
    height_px += sum(_row_height_px(row, cell_width_px) for part in rows for row in part)
    sheet = Image.new("RGB", (width_px, height_px), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for line, (x, y) in entries:
        _draw_lines(draw, font, (x, y + _MARGIN_PX), [line])
    y = _MARGIN_PX + legend_px
    for band, part in zip(bands, rows, strict=True):
        if band:
            draw.rectangle((0, y - _MARGIN_PX // 2, width_px, y + len(band) * _LINE_PX + 2), fill=_BAND)
            _draw_lines(draw, font, (_MARGIN_PX, y), band)
            y += _band_height_px(band)
        for row in part:
            for column, cell in enumerate(row):
                x = _MARGIN_PX + column * (cell_width_px + _MARGIN_PX)
                picture = _picture(cell, cell_width_px)
                sheet.paste(picture, (x, y))
                _draw_lines(draw, font, (x, y + picture.height + 2), _caption(cell, cell_width_px))
            y += _row_height_px(row, cell_width_px)
    return sheet


def _legend_places(legend: SheetLegend | None, font, width_px: int) -> list[tuple[_Line, tuple[int, int]]]:
    """Return each entry with its (x, y): side by side, wrapped to a new line at the edge of the sheet."""
    if legend is None:
        return []
    x, y, places = _MARGIN_PX, 0, []
    for text, colour in ((legend.time, _TIME_COLOUR), (legend.text, _TEXT_COLOUR), (legend.note, _NOTE_COLOUR)):
        length_px = round(font.getlength(text))
        if x > _MARGIN_PX and x + length_px > width_px - _MARGIN_PX:
            x, y = _MARGIN_PX, y + _LINE_PX
        if text:
            places.append(((text, colour), (x, y)))
            x += length_px + 3 * _MARGIN_PX
    return places


def _draw_lines(draw, font, at: tuple[int, int], lines: Sequence[_Line]) -> None:
    x, y = at
    for line, colour in lines:
        draw.text((x, y), line, font=font, fill=colour)
        y += _LINE_PX


def _picture(cell: SheetCell, width_px: int) -> Image.Image:
    """Return the frame resized to fit the cell; small frames are enlarged with visible pixels."""
    from PIL import Image

    picture = Image.fromarray(cell.frame.permute(1, 2, 0).contiguous().cpu().numpy())
    resample = Image.Resampling.NEAREST if picture.width < _NEAREST_BELOW_PX else Image.Resampling.BICUBIC
    return picture.resize(_frame_size_px(cell, width_px), resample)


def _frame_size_px(cell: SheetCell, width_px: int) -> tuple[int, int]:
    height, width = cell.frame.shape[1:]
    scale = min(width_px / width, _TALLEST * width_px / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _row_height_px(row: Sequence[SheetCell], width_px: int) -> int:
    frame_px = max(_frame_size_px(cell, width_px)[1] for cell in row)
    return frame_px + _LINE_PX * max(len(_caption(cell, width_px)) for cell in row) + _MARGIN_PX


def _band_height_px(band: Sequence[_Line]) -> int:
    return len(band) * _LINE_PX + _MARGIN_PX if band else 0


def _caption(cell: SheetCell, width_px: int) -> list[_Line]:
    label = cell.label or f"{cell.time_s:.1f} s"
    parts = ((label, _TIME_COLOUR), (cell.text, _TEXT_COLOUR), (cell.note, _NOTE_COLOUR))
    return [(line, colour) for text, colour in parts for line in _wrapped(text, width_px)]


def _band_lines(section: SheetSection, width_px: int) -> list[_Line]:
    return [(line, _TEXT_COLOUR) for line in _wrapped(section.title, width_px)] + [
        (line, _TIME_COLOUR) for text in section.text.splitlines() for line in _wrapped(text, width_px)
    ]


def _wrapped(text: str, width_px: int) -> list[str]:
    return textwrap.wrap(text, max(8, int(width_px / (_FONT_PX * 0.56))))
