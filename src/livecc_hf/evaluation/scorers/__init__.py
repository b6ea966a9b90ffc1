"""Figures from files of predictions and verdicts. Nothing here loads a model."""
