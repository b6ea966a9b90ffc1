"""Speech recognition: the timed words of a video, without words that nobody said."""

from .stage import Asr as Asr
