"""Speech recognition: the timed words of a video, and what of them nobody said."""

from .stage import Asr as Asr
