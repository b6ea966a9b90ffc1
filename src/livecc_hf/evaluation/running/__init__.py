"""Puts a benchmark to a model: this is the part that needs one."""
