"""Questions about a video or an image, answered as Qwen2-VL answers them: once, with all of it in view."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.modeling.grammar import FRAMES_PER_SECOND
from livecc_hf.modeling.stream_options import check_number

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor
    from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions

# Formats of pictures; Pillow also opens some videos. JPEG stands for those of phones (MPO), too.
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
    """Answer a question about a video or an image, seen whole.

    What happens is what `processor.apply_chat_template` and `model.generate` do, as with Qwen2-VL: of a video, 2 frames
    a second are seen, or 480 spread over one of more than 240 s. For a question in the middle of a live commentary, see
    `CommentaryStream.answer`.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        shown: the path of a video or picture file, a PIL image, or a video's frames as `push` takes them.
        question: the question.
        reading: a :class:`LoadOptions`: which part of a video is seen, how many frames, and how large.
        max_new_tokens: the answer's longest length in tokens.
        **generation: as of `model.generate`, such as `do_sample`; by default what the model's `generation_config` says.

    Returns:
        The answer; it never ends in the marker that ends a turn of a commentary.

    Raises:
        FileNotFoundError: no such file.
        ValueError: if the question is empty or cannot be asked, the file cannot be read, or the model is in training
            mode.
    """
    import torch

    if model.training:
        raise ValueError("the model is in training mode (dropout is on): call model.eval() first")
    if not processor.checked_text(question).strip():
        raise ValueError(f"the question is {question!r}: expected some text")
    check_number("max_new_tokens", max_new_tokens, from_=1, kind=int)
    part, limits = _part(shown, processor, reading)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": question}]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=limits,
    ).to(model.device)
    ends = {}
    if model.generation_config.eos_token_id is None:
        ends["eos_token_id"] = processor.end_id
    if model.generation_config.pad_token_id is None:
        ends["pad_token_id"] = processor.tokenizer.pad_token_id
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=max_new_tokens, **(ends | generation))
    return processor.decode_answer(said[0, inputs["input_ids"].shape[1] :].tolist())


def is_picture_file(path: str | os.PathLike) -> bool:
    """Return whether a file is a single picture; what moves, such as some GIF and WebP files, is a video."""
    from PIL import Image

    Image.init()
    known = [name for name in _PICTURES if name in Image.OPEN]
    try:
        with Image.open(path, formats=known) as image:
            return image.format == "MPO" or not getattr(image, "is_animated", False)
    except Exception:  # Pillow's readers raise all sorts of things; what reads it as a video says what it is
        return False


def _part(shown: Any, processor: StreamingProcessor, reading: LoadOptions | None) -> tuple[dict[str, Any], dict]:
    """Return what is shown as a part of a message, and what the processor is told about it."""
    from livecc_hf.modeling.frames import as_tensor, is_picture
    from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions, read_picture
    from livecc_hf.video.loading import load_video

    reading, video_processor = reading or LoadOptions(), processor.video_processor
    if isinstance(shown, str | os.PathLike):
        if not _is_address(shown) and not Path(shown).exists():
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
    about = {"do_resize": False, "do_sample_frames": False, "video_metadata": [video.metadata]}
    return {"type": "video", "video": video.frames}, {"videos_kwargs": about}


def _is_address(path: str | os.PathLike) -> bool:
    return os.fspath(path).startswith(("http://", "https://"))
