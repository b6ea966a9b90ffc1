"""Parsers for dataset rows, caption folders and files, in the supported layouts."""
