"""Renders commentary for viewing: captions burned into a video, and contact sheets."""
