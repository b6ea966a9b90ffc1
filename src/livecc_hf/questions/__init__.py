"""Answers questions about a whole video or image."""
