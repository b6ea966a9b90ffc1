"""Narrated video: where clips and their words come from."""
