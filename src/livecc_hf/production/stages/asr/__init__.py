"""Speech recognition: fills the timed words of videos, without hallucinated words."""

from .stage import Asr as Asr
