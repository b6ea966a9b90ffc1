"""Answers questions about a whole video or image, as Qwen2-VL does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.modeling.grammar import FRAMES_PER_SECOND
from livecc_hf.modeling.stream_options import check_number

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor
    from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions

# Formats that are pictures, since Pillow also opens some videos. "JPEG" includes MPO, which phones write.
_PICTURES = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "AVIF")


def answer(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    shown: Any,
    question: str,
    reading: LoadOptions | None = None,
    max_new_tokens: int = 512,
    **generation: Any,
) -> str:
    """Answer a question about a whole video or image.

    Calls `processor.apply_chat_template` and `model.generate`, as for Qwen2-VL. The model sees 2 frames per second of a
    video, or 480 spread evenly over one longer than 240 s. For a question during a live commentary, see
    `CommentaryStream.answer`.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        shown: a video or image file as a path, a `file://` URL or an http(s) URL; a PIL image; or a video's frames as
            `push` takes them.
        question: the question.
        reading: a :class:`LoadOptions`: which part of a video is seen, how many frames, and how large.
        max_new_tokens: maximum length of the answer in tokens.
        **generation: keywords of `model.generate`, such as `do_sample`; default: the model's `generation_config`.

    Returns:
        The answer, without the marker `` ...`` that ends a turn of a commentary.

    Raises:
        FileNotFoundError: no such file.
        OSError: a download failed.
        ValueError: if the question is empty or not a valid text, the file cannot be read, or the model is in training
            mode.
    """
    import torch

    if model.training:
        raise ValueError("the model is in training mode (dropout is on): call model.eval() first")
    if not processor.checked_text(question).strip():
        raise ValueError(f"the question is {question!r}: expected some text")
    check_number("max_new_tokens", max_new_tokens, from_=1, kind=int)
    part, processor_kwargs = _part(shown, processor, reading)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": question}]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=processor_kwargs,
    ).to(model.device)
    ends = {}
    if model.generation_config.eos_token_id is None:
        ends["eos_token_id"] = processor.end_id
    if model.generation_config.pad_token_id is None:
        ends["pad_token_id"] = processor.tokenizer.pad_token_id
    with torch.no_grad():
        output_ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **(ends | generation))
    return processor.decode_answer(output_ids[0, inputs["input_ids"].shape[1] :].tolist())


def is_picture_file(path: str | os.PathLike) -> bool:
    """Return whether a file is a single picture; animated ones (some GIF and WebP files) are videos."""
    from PIL import Image

    Image.init()
    known = [name for name in _PICTURES if name in Image.OPEN]
    try:
        with Image.open(path, formats=known) as image:
            return image.format == "MPO" or not getattr(image, "is_animated", False)
    except Exception:  # Pillow raises many types; the video reader reports the error
        return False


def _part(shown: Any, processor: StreamingProcessor, reading: LoadOptions | None) -> tuple[dict[str, Any], dict]:
    """Return `shown` as a content part of a chat message, and the `processor_kwargs` for it."""
    from livecc_hf.modeling.frames import as_tensor, is_picture
    from livecc_hf.modeling.video_file import WEB_PREFIXES, local_file
    from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions, downloaded, read_picture
    from livecc_hf.video.loading import load_video

    reading, video_processor = reading or LoadOptions(), processor.video_processor
    if not hasattr(reading, "do_resize"):  # not isinstance: it may be remote code's class
        raise ValueError(f"reading is of type {type(reading).__name__}: expected LoadOptions")
    if isinstance(shown, str | os.PathLike):
        shown = local_file(shown)
        if shown.startswith(WEB_PREFIXES):
            with downloaded(shown) as file:
                return _part(file, processor, reading)
        if not Path(shown).exists():
            raise FileNotFoundError(f"no such file: {shown}")
        if not is_picture_file(shown):
            return _video_part(load_video(shown, video_processor, reading))
        shown = read_picture(shown)
    if is_picture(shown):
        from livecc_hf.modeling.video_processing_livecc import resize_limits

        limits = resize_limits(processor.image_processor, reading.min_pixels, reading.max_pixels)
        size = {"shortest_edge": limits.shortest_edge, "longest_edge": limits.longest_edge}
        return {"type": "image", "image": shown}, {"images_kwargs": {"size": size}}
    frames = as_tensor(shown)
    video_processor.check_frames(frames, reading.do_resize)
    if not len(frames):
        raise ValueError("the video is empty (T = 0): expected at least one frame")
    limits = video_processor.clip_limits(len(frames), reading.min_pixels, reading.max_pixels)
    frames = video_processor.resized(frames, limits.shortest_edge, limits.longest_edge, reading.do_resize)
    return _video_part(LoadedVideo(frames, [n / FRAMES_PER_SECOND for n in range(len(frames))]))


def _video_part(video: LoadedVideo) -> tuple[dict[str, Any], dict]:
    options = {"do_resize": False, "do_sample_frames": False, "video_metadata": [video.metadata]}
    return {"type": "video", "video": video.frames}, {"videos_kwargs": options}
