"""LiveCC's modeling code: exactly the files that a model repository carries, importable as `livecc_hf.modeling`.

Importing this package makes the `livecc` model type known to transformers' auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
)

from .configuration_livecc import POSITION_SCHEMES, LiveCCConfig
from .context import ContextFullError
from .modeling_livecc import LiveCCForConditionalGeneration, LiveCCModel
from .processing_livecc import CommentarySample, StreamingProcessor
from .stream import CommentarySegment, CommentaryStream, StreamFinishedError
from .stream_options import StreamOptions
from .video_processing_livecc import LiveCCVideoProcessor

AutoConfig.register("livecc", LiveCCConfig, exist_ok=True)
AutoModel.register(LiveCCConfig, LiveCCForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(LiveCCConfig, LiveCCForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(LiveCCConfig, LiveCCForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LiveCCConfig, StreamingProcessor, exist_ok=True)
AutoVideoProcessor.register(LiveCCConfig, LiveCCVideoProcessor, exist_ok=True)

__all__ = [
    "POSITION_SCHEMES",
    "CommentarySample",
    "CommentarySegment",
    "CommentaryStream",
    "ContextFullError",
    "LiveCCConfig",
    "LiveCCForConditionalGeneration",
    "LiveCCModel",
    "LiveCCVideoProcessor",
    "StreamFinishedError",
    "StreamOptions",
    "StreamingProcessor",
]
