"""The scores after a question that has a pass of its own."""

import torch


def separately(model, processor, frames, text, answer_prefix):
    """The inputs and the scores after a question, as anybody asks a model of transformers: processor, then forward."""
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) + answer_prefix
    as_they_are = {"do_resize": False, "do_sample_frames": False}
    inputs = processor(text=[prompt], videos=[frames], return_tensors="pt", **as_they_are)
    with torch.no_grad():
        return inputs, model(**inputs).logits[0, -1]
