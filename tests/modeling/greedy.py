"""Options of a deterministic and fast stream."""

GREEDY = {
    "do_sample": False,
    "max_new_tokens": 6,
    "repetition_penalty": 1.1,
    "output_logits": True,
    "max_pixels": 50176,
    "stop_at_continuation": False,
}
