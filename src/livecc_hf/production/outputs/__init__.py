"""Outputs of a run: the dataset folder with its card, the report, and the upload to the Hub."""
