"""Pictures for people: captions on a video, and frames with their words on one sheet."""
