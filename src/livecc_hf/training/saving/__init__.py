"""Writes the results of a run: checkpoints and their identity, cards, pushes."""
