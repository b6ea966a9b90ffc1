"""Benchmarks: their rows, their prompts, and what is asked of a model."""
