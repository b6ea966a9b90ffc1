"""Contact sheets: the places of frames, words and the legend."""

import numpy as np
import pytest
import torch

from livecc_hf.rendering.contact_sheet import (
    _NOTE_COLOUR,
    _TEXT_COLOUR,
    _TIME_COLOUR,
    SheetCell,
    SheetLegend,
    SheetSection,
    contact_sheet,
    contact_sheet_of_sections,
)

BLUE = (10, 20, 200)


def cell(**options):
    frame = torch.tensor(BLUE, dtype=torch.uint8).view(3, 1, 1).expand(3, 100, 220)
    return SheetCell(frame, **options)


def rows_with(sheet, colour):
    """The rows of the sheet in which a pixel has the colour."""
    return np.flatnonzero((np.asarray(sheet) == colour).all(-1).any(1))


def test_the_legend_names_each_colour_above_the_frames():
    legend = SheetLegend("the time", "what is said", "what happens")
    sheet = contact_sheet([cell(text="Goal!", note="a goal")] * 3, legend=legend)
    plain = contact_sheet([cell(text="Goal!", note="a goal")] * 3)
    frames = rows_with(sheet, BLUE)
    added = sheet.height - plain.height
    assert added > 0
    assert frames.min() == rows_with(plain, BLUE).min() + added
    for colour in (_TIME_COLOUR, _TEXT_COLOUR, _NOTE_COLOUR):
        rows = rows_with(sheet, colour)
        assert (rows < frames.min()).any() and (rows > frames.max()).any()
        assert (rows_with(plain, colour) > rows_with(plain, BLUE).max()).all()
    below = np.asarray(sheet)[added:]
    assert (below[frames.min() - added :] == np.asarray(plain)[frames.min() - added :]).all()


def test_missing_lines_are_not_in_the_legend():
    sheet = contact_sheet([cell(text="Goal!")] * 3, legend=SheetLegend(text="what is said"))
    top = rows_with(sheet, BLUE).min()
    assert not (rows_with(sheet, _NOTE_COLOUR) < top).any()
    assert (rows_with(sheet, _TEXT_COLOUR) < top).any()


def test_a_narrow_sheet_has_the_legend_on_several_lines():
    legend = SheetLegend("the time of the frame", "what the model says", "what truly happens")
    wide, narrow = (contact_sheet([cell()] * n, legend=legend) for n in (4, 1))
    assert rows_with(narrow, BLUE).min() > rows_with(wide, BLUE).min()


def test_sections_have_one_legend():
    sections = [SheetSection("first", [cell()]), SheetSection("second", [cell()])]
    legend = SheetLegend("the time", "words", "note")
    with_legend, without = (contact_sheet_of_sections(sections, legend=given) for given in (legend, None))
    assert 0 < with_legend.height - without.height < 60


def test_invalid_sheets_are_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        contact_sheet([])
    with pytest.raises(ValueError, match="columns=0: expected at least 1"):
        contact_sheet([cell()], columns=0)
