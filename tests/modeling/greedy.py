"""Options by which a stream says the same each time, at a size that is fast."""

GREEDY = {
    "do_sample": False,
    "max_new_tokens": 6,
    "repetition_penalty": 1.1,
    "output_logits": True,
    "max_pixels": 50176,
    "stop_at_continuation": False,
}
