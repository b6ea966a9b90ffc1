"""Prepares the model of a run: loading, trainable parts, adapters, packed attention."""
