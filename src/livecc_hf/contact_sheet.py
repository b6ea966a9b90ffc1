"""One picture of a commentary: frames in a grid, each with its time and the words spoken over it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image

_BACKGROUND = (24, 26, 31)
_TIME_COLOUR = (150, 158, 172)
_NOTE_COLOUR = (126, 184, 140)
_TEXT_COLOUR = (240, 241, 244)
_MARGIN_PX = 10
_LINE_PX = 18
_FONT_PX = 14


@dataclass(frozen=True)
class SheetCell:
    """One frame of the sheet.

    Attributes:
        frame: uint8 (3, H, W), RGB.
        time_s: when it is shown, in seconds.
        text: the words under it; empty for silence.
        note: a second line in another colour, such as what really happened.
    """

    frame: torch.Tensor
    time_s: float
    text: str = ""
    note: str = ""


def contact_sheet(cells: Sequence[SheetCell], columns: int = 5, cell_width_px: int = 220) -> Image.Image:
    """Draw the cells row by row.

    Args:
        cells: the frames in order.
        columns: frames in a row.
        cell_width_px: width of a frame on the sheet; heights follow the first frame's shape.

    Returns:
        An RGB `PIL.Image.Image`.

    Raises:
        ValueError: if there is nothing to draw.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not cells:
        raise ValueError("got no cells: a contact sheet needs at least one frame")
    font = ImageFont.load_default(size=_FONT_PX)
    height, width = cells[0].frame.shape[1:]
    frame_px = (cell_width_px, round(cell_width_px * height / width))
    chars = max(8, int(cell_width_px / (_FONT_PX * 0.56)))
    captions = [
        [(line, _TEXT_COLOUR) for line in textwrap.wrap(cell.text, chars)]
        + [(line, _NOTE_COLOUR) for line in textwrap.wrap(cell.note, chars)]
        for cell in cells
    ]
    row_starts = range(0, len(cells), columns)
    row_heights = [
        frame_px[1] + _LINE_PX * (1 + max(map(len, captions[i : i + columns]))) + _MARGIN_PX for i in row_starts
    ]
    columns = min(columns, len(cells))
    size = (columns * (cell_width_px + _MARGIN_PX) + _MARGIN_PX, sum(row_heights) + _MARGIN_PX)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (cell, lines) in enumerate(zip(cells, captions, strict=True)):
        row, column = divmod(i, columns)
        x = _MARGIN_PX + column * (cell_width_px + _MARGIN_PX)
        y = _MARGIN_PX + sum(row_heights[:row])
        picture = Image.fromarray(cell.frame.permute(1, 2, 0).contiguous().cpu().numpy())
        sheet.paste(picture.resize(frame_px), (x, y))
        y += frame_px[1] + 2
        for line, colour in [(f"{cell.time_s:.1f} s", _TIME_COLOUR), *lines]:
            draw.text((x, y), line, font=font, fill=colour)
            y += _LINE_PX
    return sheet
