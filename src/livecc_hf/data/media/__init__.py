"""Locates the media files named in dataset rows, and decodes them."""
