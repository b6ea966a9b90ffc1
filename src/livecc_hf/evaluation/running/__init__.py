"""Runs a benchmark on a model; only this folder and `lmms` load one."""
