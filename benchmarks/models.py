"""The models that the benchmarks of streams run, and what they watch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

FIRST_TURN_FRAMES, TURN_FRAMES = 6, 2


@dataclass(frozen=True)
class Case:
    """One model and what it watches.

    Attributes:
        name: of the model.
        turns: of all sides but `reencode`.
        windowed_turns: of the windowed engine.
        reencode_turns: turns, counted from 1, at which everything is read again.
        frame_px: height and width of the video; `None`: the bundled clip.
        max_pixels: most pixels of a resized frame.
        new_tokens: generated in every turn.
        video_s: length of the video, which is repeated.
        bf16: whether the weights are in bfloat16 (else float32).
    """

    name: str
    turns: int
    windowed_turns: int
    reencode_turns: tuple[int, ...] = ()
    frame_px: tuple[int, int] | None = None
    max_pixels: int = 384 * 28 * 28
    new_tokens: int = 10
    video_s: int = 24
    bf16: bool = False


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", 60, 240, (10, 30, 60), max_pixels=84 * 84),
        Case("mid-size", 60, 60, (10, 30, 60), frame_px=(720, 1080), video_s=12),
        Case("livecc-7b", 60, 240, (10,), frame_px=(720, 1080), video_s=12, bf16=True),
    )
}


def small(case: Case) -> Case:
    """Returns the case with few turns and small frames."""
    turns = {"turns": 4, "windowed_turns": 6, "reencode_turns": (3,), "new_tokens": 3, "video_s": 2}
    frames = {} if case.frame_px is None else {"frame_px": (112, 168), "max_pixels": 24 * 28 * 28}
    return replace(case, **turns, **frames)


def build_model(case: Case, processor, device: str, is_small: bool):
    """Returns the model of a case in evaluation mode, in the position scheme ``reference``."""
    import torch

    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_model
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    if case.name == "livecc-tiny":
        return load_model(bundled_model_path(), device=device, dtype="float32", position_scheme="reference")[0]
    torch.manual_seed(0)
    config = random_config(case.name, processor, is_small)
    if not case.bf16:
        return LiveCCForConditionalGeneration(config).to(device).eval()
    from transformers import initialization

    with initialization.no_init_weights():
        model = LiveCCForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    for module in model.modules():  # drawn on the device: the memory here is never touched
        for key, parameter in list(module.named_parameters(recurse=False)):
            drawn = torch.ones(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.ndim > 1:
                drawn.normal_(std=0.02)
            elif key == "bias":
                drawn.zero_()
            module._parameters[key] = torch.nn.Parameter(drawn, requires_grad=False)
    return model.to(device).eval()


def random_config(name: str, processor, is_small: bool):
    """Returns a config of Qwen2-VL's shape: about 130M parameters, or Qwen2-VL-7B's, which is LiveCC-7B's."""
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig

    if name == "livecc-7b":
        shape = (152_064, 3584, 18_944, 28, 28, 4, [16, 24, 24], False)
        vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16}
    else:
        # 78M in the tied embedding and head, 49M in ten layers with Qwen2-VL's proportions, 4M in the vision tower.
        shape = (151_936, 512, 2731, 10, 8, 2, [8, 12, 12], True)
        vision = {"depth": 4, "embed_dim": 256, "num_heads": 4}
    vocabulary, hidden, intermediate, layers, heads, kv_heads, sections, tied = shape
    if is_small:
        vocabulary, hidden, intermediate, layers, heads, kv_heads, sections = 4096, 64, 128, 2, 4, 2, [4, 2, 2]
        vision = {"depth": 2, "embed_dim": 64, "num_heads": 4}
    ids = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 131_072,  # random weights have learned no limit
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
        "bos_token_id": None,
        "eos_token_id": processor.end_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "tie_word_embeddings": tied,
    }
    return LiveCCConfig(
        text_config=text,
        vision_config=vision | {"mlp_ratio": 4, "hidden_size": hidden},
        tie_word_embeddings=tied,
        position_scheme="reference",
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=processor.video_token_id,
        message_end_token_id=processor.end_id,
    )


class Video:
    """The frames of each turn, decoded from a file that is played again and again; with what decoding took."""

    def __init__(self, case: Case, folder: Path):
        import torch

        from livecc_hf.assets import demo_clip_path
        from livecc_hf.modeling.video_reader import iter_chunks

        path = demo_clip_path()
        if case.frame_px is not None:
            from videos import write_moving_video

            path = folder / "video.mp4"
            write_moving_video(path, case.video_s, case.frame_px[1], case.frame_px[0])
        self.decode_s, frames = [], []
        start_s = time.perf_counter()
        for chunk in iter_chunks(path):
            self.decode_s.append(time.perf_counter() - start_s)
            frames.append(chunk.frames)
            if sum(map(len, frames)) >= case.video_s * 2:
                break
            start_s = time.perf_counter()
        self.frames = torch.cat(frames)

    def clip(self, turn: int):
        """Returns the frames of a turn, counted from 0."""
        first, n = (0, FIRST_TURN_FRAMES) if turn == 0 else (FIRST_TURN_FRAMES + TURN_FRAMES * (turn - 1), TURN_FRAMES)
        return self.frames[[index % len(self.frames) for index in range(first, first + n)]]
