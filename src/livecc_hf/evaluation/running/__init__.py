"""Runs a benchmark on a model; the other folders need none."""
