"""Writes tiny models with random weights, in the layouts that the model stages load."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import torch

from livecc_hf.production.stages.asr.hallucinations import HallucinationRules

# What a Whisper of random weights writes is nobody's: thresholds that keep it.
KEEP_NONSENSE = dict.fromkeys((item.name for item in dataclasses.fields(HallucinationRules)), None)
_TIMESTAMPS = 1501  # 0.00 to 30.00 s
_SEED = 7


def write_whisper(folder: Path, work: Path, languages: tuple[str, ...] = ()) -> Path:
    """Write a Whisper with random weights in CTranslate2's layout; its words are nonsense.

    Args:
        folder: where it goes; must not exist.
        work: a folder for what is needed on the way.
        languages: codes of those it knows; default: English only.
    """
    from ctranslate2.converters import TransformersConverter
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    tokenizer = _write_whisper_tokenizer(work, languages)
    torch.manual_seed(_SEED)
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    config = WhisperConfig(
        vocab_size=len(tokenizer) + _TIMESTAMPS,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        init_std=0.5,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        decoder_start_token_id=start,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config)
    language_ids = {f"<|{code}|>": tokenizer.convert_tokens_to_ids(f"<|{code}|>") for code in languages}
    model.generation_config = GenerationConfig(suppress_tokens=[], begin_suppress_tokens=[], lang_to_id=language_ids)
    with torch.no_grad():  # only letters are ever likely, and languages where it is asked for one
        is_letter = torch.zeros(config.vocab_size, 1)
        letters = re.compile("Ġ?[A-Za-z]")
        is_letter[[i for token, i in tokenizer.get_vocab().items() if letters.fullmatch(token)]] = 1
        is_letter[list(language_ids.values())] = 0.1
        model.model.decoder.embed_tokens.weight *= is_letter
    model.save_pretrained(work)
    (work / "preprocessor_config.json").write_text(
        json.dumps({"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400})
    )
    converter = TransformersConverter(str(work), copy_files=["tokenizer.json", "preprocessor_config.json"])
    converter.convert(str(folder))
    return folder


def _write_whisper_tokenizer(folder: Path, languages: tuple[str, ...]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import WhisperTokenizerFast

    specials = ["endoftext", "startoftranscript", *(languages or ["en"]), "translate", "transcribe", "startoflm"]
    specials += ["startofprev", "nospeech", "notimestamps"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens = alphabet + [a + b for a, b in merges]
    if languages:
        tokens.append("")  # by which CTranslate2 knows a multilingual Whisper
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([f"<|{name}|>" for name in specials])
    tokenizer = WhisperTokenizerFast(tokenizer_object=backend)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_language_model(
    folder: Path, tokenizer_folder: Path, kind: str = "qwen2", context: int = 1024, vocabulary: int | None = None
) -> Path:
    """Write a causal language model with random weights.

    Args:
        folder: where it goes.
        tokenizer_folder: a checkpoint whose tokenizer it takes; it gets Qwen2's chat template.
        kind: "qwen2", or "granite", which scales its logits.
        context: most tokens it takes.
        vocabulary: tokens that it tells apart; default: those of the tokenizer.
    """
    from transformers import AutoTokenizer, GraniteConfig, GraniteForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = _CHAT_TEMPLATE
    sizes = {
        "vocab_size": vocabulary or len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "initializer_range": 0.2,
    }
    torch.manual_seed(_SEED)
    if kind == "granite":
        model = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
