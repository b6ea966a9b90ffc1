"""Data production: from videos with captions or speech to narrated training clips."""
