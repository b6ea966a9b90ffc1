"""Schemas of the tables that pass from stage to stage: one row per video, then one row per clip.

They are Arrow tables, so that stages process whole columns and processes exchange tables cheaply.
Times are float64 seconds from the moment that a player shows as 0:00.
"""

from __future__ import annotations

import pyarrow as pa

from ..captions.arrow import WORDS

SUBTITLES = "subtitles"  # optional extra column of `VIDEO_SCHEMA`: inline captions, as lines

# Tracked faces, two samples per second: time, score (above 0: the face speaks), and box, as fractions of the picture's
# width and height.
FACES = pa.list_(
    pa.struct(
        [("time_s", pa.float64()), ("score", pa.float32())]
        + [(side, pa.float32()) for side in ("left", "top", "right", "bottom")]
    )
)

VIDEO_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique in a run
        ("video", pa.string()),  # path or URL, as the input names it
        ("captions", pa.string()),  # path of the caption file, or null
        ("title", pa.string()),
        ("category", pa.string()),
        ("language", pa.string()),  # declared by the input, such as "en" or "en-US"
        ("duration_s", pa.float64()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("words", WORDS),  # null until captions are read or speech is recognised
        ("language_score", pa.float64()),  # null until stage `language`; a clip has its video's score
    ]
)

CLIP_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the video's id, "#", number of the clip
        ("video", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("words", WORDS),
        ("previous", pa.string()),  # all that was said in the video before the clip
        ("language_score", pa.float64()),  # null until a stage fills it, like the columns below
        ("text_loss", pa.float64()),
        ("p_talking_head", pa.float64()),
        ("speaker_ratio", pa.float64()),
        ("faces", FACES),  # for the report
        ("query", pa.string()),
    ]
)

DROPPED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),  # an identifier, counted in the report; "error": the stage failed on this item
        ("value", pa.float64()),  # the number that was compared with a threshold, or null
        ("detail", pa.string()),  # text for the user: the error, or what was found
        ("hours", pa.float64()),  # of video
        ("text", pa.string()),  # the first words, for samples in the report
        ("start_s", pa.float64()),  # of a clip; null for videos, like the columns below
        ("end_s", pa.float64()),
        ("words", WORDS),  # the first words with their times
        ("faces", FACES),
    ]
)


def words_array(words_of_rows: list[list[tuple[float, float, str]] | None]) -> pa.Array:
    """Return a column of words from `(start_s, end_s, word)` triples per row; slow, meant for few words."""
    rows = [
        None if words is None else [dict(zip(("start_s", "end_s", "word"), word, strict=True)) for word in words]
        for words in words_of_rows
    ]
    return pa.array(rows, WORDS)
