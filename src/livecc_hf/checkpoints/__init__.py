"""Finds, loads and converts checkpoints, attaches and merges adapters, and writes model cards."""
