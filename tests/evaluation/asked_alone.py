"""Logits of a question that is asked in a separate forward pass."""

import torch


def separately(model, processor, frames, text, answer_prefix):
    """Return the inputs and the next token's logits, as any transformers model gives them: processor, forward."""
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) + answer_prefix
    as_they_are = {"do_resize": False, "do_sample_frames": False}
    inputs = processor(text=[prompt], videos=[frames], return_tensors="pt", **as_they_are)
    with torch.no_grad():
        return inputs, model(**inputs).logits[0, -1]
