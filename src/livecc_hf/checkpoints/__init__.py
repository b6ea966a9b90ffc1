"""Checkpoints: found, loaded, converted, adapted and merged."""
