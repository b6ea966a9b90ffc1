"""Captions: found beside videos, read, cleaned into timed words, and written."""
