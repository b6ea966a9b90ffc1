"""Live commentary in a Space: the page at /, its WebSocket, and the endpoint /commentate for video files.

Set LIVECC_MODEL to a Hub id or a folder to run another model.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr
import spaces  # before PyTorch, which it patches on ZeroGPU
from gradio import FileData

from livecc_hf import load_model_and_processor
from livecc_hf.space.serving import add_live_page

MODEL = os.environ.get("LIVECC_MODEL", "@MODEL@")

model, processor, _ = load_model_and_processor(MODEL)
server = gr.Server(title="LiveCC")


@server.api(name="commentate", concurrency_limit=1)
@spaces.GPU(duration=120)
def commentate(video: FileData, query: str = "") -> Iterator[dict]:
    """Yield a video's turns as they are generated: `start_s`, `end_s` and `text`, empty if the model is silent."""
    path = cast(dict[str, Any], video)["path"]  # Gradio passes a dictionary
    try:
        for segment in model.stream_generate(processor, path, query=query or None):
            yield {"start_s": float(segment.start_s), "end_s": float(segment.end_s), "text": segment.text}
    except (OSError, ValueError) as error:  # not a video, or damaged; Gradio hides other errors from clients
        message = str(error).replace(path, Path(path).name)
        raise gr.Error(message, print_exception=False) from None


if __name__ == "__main__":
    lifespan = add_live_page(server, model, processor)
    server.launch(ssr_mode=False, app_kwargs={"lifespan": lifespan})
