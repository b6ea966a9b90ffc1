"""LiveCC models in lmms-eval: commentary is streamed, questions are answered by `generate`."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.distributed import process_state
from livecc_hf.evaluation.running.commentary import Commentator, VideoSpan
from livecc_hf.evaluation.suites import LIVE, LIVECC
from livecc_hf.evaluation.tasks.questions import FrameRule
from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions
from livecc_hf.video.loading import load_video

COMMENTARY = (
    "commentary"  # key of `generation_kwargs` with which a task asks for a commentary; the value is the protocol
)
_SETTINGS = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")


class LiveCC(lmms):
    """A LiveCC model, or a published model of one of its backbones, for lmms-eval.

    If a task's `generation_kwargs` have `commentary`, the model comments live on the video, turn by turn. For other
    tasks, the messages are formatted with the chat template and the answer is generated.

    Args:
        pretrained: folder or Hub id.
        device: such as "cuda:0"; default: this process's GPU, or the CPU.
        dtype: such as "bfloat16"; default: float32 on a CPU, the checkpoint's own elsewhere.
        max_pixels: largest number of pixels of a frame; 0 for the processor's setting.
        batch_size: must be 1 or "auto".
        **unknown: refused with an error that names them.

    Raises:
        ValueError: if there are unknown arguments, or `batch_size` is not 1.
        ModelLoadError: if the model cannot be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str = "",
        dtype: str = "",
        max_pixels: int = 0,
        batch_size: int | str = 1,
        **unknown: Any,
    ):
        super().__init__()
        unknown = {name: value for name, value in unknown.items() if value is not None}
        if unknown:
            raise ValueError(
                f"model_args has {', '.join(unknown)}: livecc takes pretrained, device, dtype and max_pixels"
            )
        if str(batch_size) not in ("1", "auto"):
            raise ValueError(f"batch_size is {batch_size}: livecc answers row by row, so leave it at 1")
        LoadOptions(max_pixels=int(max_pixels) or None)  # checks it
        state = process_state()
        self._rank, self._world_size, own_device = state.process_index, state.num_processes, state.device
        self._model, self._processor, _ = load_model_and_processor(pretrained, device or own_device, dtype or None)
        self._max_pixels = int(max_pixels) or None
        self.device = self._model.device  # lmms-eval gathers the row counts of several processes on it

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the commentary or answer to each request."""
        texts = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Model Responding"):
            context, doc_to_messages, settings, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            messages = ChatMessages(messages=doc_to_messages(doc))
            settings = dict(settings)
            protocol = settings.pop(COMMENTARY, None)
            text = self._answer(messages, settings) if protocol is None else self._comment(messages, protocol, settings)
            texts.append(_cut(text, settings.get("until") or ()))
            self.cache_hook.add_partial("generate_until", (context, request.args[2]), texts[-1])
        return texts

    def _comment(self, messages: ChatMessages, protocol: str, settings: dict[str, Any]) -> str:
        if protocol not in (LIVE, LIVECC):
            raise ValueError(f"generation_kwargs: {COMMENTARY} is {protocol!r}: expected {LIVE} or {LIVECC}")
        parts = [part for message in messages.messages for part in message.content]
        videos = [part for part in parts if part.type == "video"]
        if len(videos) != 1:
            raise ValueError(f"the messages hold {len(videos)} videos: a commentary needs exactly one")
        query = "".join(part.text for part in parts if part.type == "text")
        options = {name: settings[name] for name in ("repetition_penalty",) if name in settings}
        commentator = Commentator(self._model, self._processor, protocol, options=options)
        clip = VideoSpan(videos[0].url, videos[0].start_time, videos[0].end_time, query)
        return commentator.comment_clip(clip, FrameRule(max_pixels=self._max_pixels)).text

    def _answer(self, messages: ChatMessages, settings: dict[str, Any]) -> str:
        import torch

        videos: list[LoadedVideo] = []
        chat = [
            {"role": message.role, "content": [self._part(part, videos) for part in message.content]}
            for message in messages.messages
        ]
        videos_kwargs: dict[str, Any] = {"do_resize": False, "do_sample_frames": False}
        videos_kwargs |= {"video_metadata": [video.metadata for video in videos]}
        inputs = self._processor.apply_chat_template(
            chat,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            processor_kwargs={"videos_kwargs": videos_kwargs} if videos else {},
        ).to(self._model.device)
        options = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
        options.setdefault("max_new_tokens", 512)
        if not options.get("do_sample") or not options.get("temperature", 1):
            # Greedy decoding: `generate` warns about sampling options.
            options = {name: value for name, value in options.items() if name not in ("temperature", "top_p", "top_k")}
            options["do_sample"] = False
        with torch.inference_mode():
            output_ids = self._model.generate(**inputs, **options)
        return self._processor.decode_answer(output_ids[0, inputs["input_ids"].shape[1] :].tolist())

    def _part(self, part: Any, videos: list[LoadedVideo]) -> dict[str, Any]:
        """Return a message part for the chat template; a video is read, resized and appended to `videos`."""
        if part.type == "text":
            return {"type": "text", "text": part.text}
        if part.type == "video":
            reading = LoadOptions(start_s=part.start_time, end_s=part.end_time, max_pixels=self._max_pixels)
            videos.append(load_video(part.url, self._processor.video_processor, reading))
            return {"type": "video", "video": videos[-1].frames}
        if part.type == "image":
            return {"type": "image", "image": part.url}
        raise ValueError(f"a message holds a part of type {part.type!r}: livecc takes text, image and video")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Raise `NotImplementedError`; `livecc evaluate run` scores options by their logits."""
        raise NotImplementedError("livecc generates its answers: choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Raise `NotImplementedError`; only `generate_until` is supported."""
        raise NotImplementedError("livecc answers in one round: choose a task of output_type generate_until")


def _cut(text: str, ends: Any) -> str:
    """Return the text before the first occurrence of a stop string."""
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.split(end)[0] if end else text
    return text
