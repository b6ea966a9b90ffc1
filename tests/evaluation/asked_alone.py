"""The scores after a question that has a pass of its own."""

import torch


def separately(model, processor, frames, text, answer_prefix):
    """The scores after a question, by the chat template and one pass of its own."""
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) + answer_prefix
    patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
    prompt = prompt.replace("<|video_pad|>", "<|video_pad|>" * (int(grid.prod()) // 4))
    ids = processor.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids)),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
    }
    with torch.no_grad():
        return inputs, model(**inputs).logits[0, -1]
