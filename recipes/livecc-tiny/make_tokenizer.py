"""Builds livecc-tiny's tokenizer: a byte-level BPE with Qwen2-VL's special tokens and chat template.

    python recipes/livecc-tiny/make_tokenizer.py OUT_FOLDER

Takes a few seconds on one core. It is trained on the narrator's sentences and the chat template;
any other text is encoded as bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from livecc_hf.modeling.backbone import Backbone
from livecc_hf.tiny.narration import QUERY, sentence
from livecc_hf.tiny.scene import COLOURS, SHAPES, VERBS, Event

VOCABULARY_SIZE = 426
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Qwen2's pre-tokenizer, which splits digits and keeps " ..." in one piece.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEFAULT_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}" + DEFAULT_SYSTEM + "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus(labels: Sequence[str] = ()) -> Iterator[str]:
    """Yield every narrator sentence, once and twice in a row, then the template's words and the labels."""
    for verb in VERBS:
        for colour in COLOURS:
            for shape in SHAPES:
                for detail in SHAPES if verb == "hits" else [""]:
                    text = sentence(Event(0.0, verb, colour, shape, detail))
                    yield f"{text} {text} ..."
                    yield f"{text} ..."
    yield from ["system\nYou are a helpful assistant.\nuser\nassistant\n"] * 200
    yield from ["Time=3.0-4.0s", QUERY, "List the objects.", "Red ball rests. ..."] * 200
    yield from [label for label in labels if label] * 200


def build(backbone: Backbone | None = None) -> PreTrainedTokenizerFast:
    """Return the tokenizer, trained deterministically.

    Args:
        backbone: determines whether the chat template adds a system prompt, and which vision labels are in the
            corpus; default: Qwen2-VL's template without labels.
    """
    labels = [] if backbone is None else backbone.vision_labels(1)
    has_system = backbone is None or backbone.system_prompt is not None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(labels), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:],
        chat_template=CHAT_TEMPLATE if has_system else CHAT_TEMPLATE.replace(DEFAULT_SYSTEM, ""),
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_tokenizer.py OUT_FOLDER")
    build().save_pretrained(sys.argv[1])
