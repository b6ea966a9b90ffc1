"""Computes figures from files of predictions and verdicts, without loading a model."""
