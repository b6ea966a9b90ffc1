"""LiveCC models in lmms-eval: commentary through the stream, questions in one pass."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.running.commentary import Commentator, VideoSpan
from livecc_hf.evaluation.suites import LIVE, LIVECC
from livecc_hf.evaluation.tasks.questions import FrameRule
from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions
from livecc_hf.video.loading import load_video

COMMENTARY = "commentary"  # the setting of `generation_kwargs` by which a task asks for one; its value is the protocol
_SETTINGS = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")


class LiveCC(lmms):
    """A LiveCC model, or a published one of its backbones, as lmms-eval drives it.

    Tasks whose `generation_kwargs` have `commentary` get a live commentary on their video, turn by turn; of others the
    messages go through the chat template, and the answer is generated.

    Args:
        pretrained: folder or Hub id.
        device: such as "cuda:0"; "": this process's GPU where there is one.
        dtype: such as "bfloat16"; "": as the device likes.
        max_pixels: most pixels of a frame; 0: as the processor says.
        batch_size: 1; rows are put one by one.
        **unknown: refused, by name.
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
            raise ValueError(f"batch_size is {batch_size}: livecc is asked row by row, so leave it at 1")
        self._rank, self._world_size, own_device = _place()
        self._model, self._processor, _ = load_model_and_processor(pretrained, device or own_device, dtype or None)
        self._max_pixels = int(max_pixels) or None
        self.device = self._model.device  # where lmms-eval counts the rows of several processes

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
            raise ValueError(f"a commentary is on one video, and the messages hold {len(videos)}")
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
        about_videos: dict[str, Any] = {"do_resize": False, "do_sample_frames": False}
        about_videos |= {"video_metadata": [video.metadata for video in videos]}
        inputs = self._processor.apply_chat_template(
            chat,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            processor_kwargs={"videos_kwargs": about_videos} if videos else {},
        ).to(self._model.device)
        chosen = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
        chosen.setdefault("max_new_tokens", 512)
        if not chosen.get("temperature", 1):
            chosen |= {"do_sample": False}
        if not chosen.get("do_sample"):  # what shapes the dice is of no use then
            chosen = {name: value for name, value in chosen.items() if name not in ("temperature", "top_p", "top_k")}
            chosen["do_sample"] = False
        with torch.inference_mode():
            said = self._model.generate(**inputs, **chosen)
        return self._processor.decode_answer(said[0, inputs["input_ids"].shape[1] :].tolist())

    def _part(self, part: Any, videos: list[LoadedVideo]) -> dict[str, Any]:
        """Return a part of a message as the chat template takes it; videos are read, resized and added to a list."""
        if part.type == "text":
            return {"type": "text", "text": part.text}
        if part.type == "video":
            reading = LoadOptions(start_s=part.start_time, end_s=part.end_time, max_pixels=self._max_pixels)
            videos.append(load_video(part.url, self._processor.video_processor, reading))
            return {"type": "video", "video": videos[-1].frames}
        if part.type == "image":
            return {"type": "image", "image": part.url}
        raise ValueError(f"a message holds {part.type}: livecc sees images and videos, and reads text")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse; scores of options by logits are in `livecc evaluate run`."""
        raise NotImplementedError("livecc generates its answers: choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse; see `generate_until`."""
        raise NotImplementedError("livecc answers in one round: choose a task of output_type generate_until")


def _place() -> tuple[int, int, Any]:
    """Return this process's rank, how many there are, and its device."""
    from accelerate import PartialState

    state = PartialState()
    return state.process_index, state.num_processes, state.device


def _cut(text: str, ends: Any) -> str:
    """Return a text up to the first of the strings that end it."""
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.split(end)[0] if end else text
    return text
