"""Finds clips in which somebody on screen is the one who talks, from faces, their motion and the sound."""
