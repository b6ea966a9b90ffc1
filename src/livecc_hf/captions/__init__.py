"""Caption files: matched to videos, read, cleaned into timed words, and written."""
