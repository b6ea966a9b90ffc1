"""Finds the media files that rows name, and decodes their frames."""
