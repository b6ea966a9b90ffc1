"""Finds clips in which somebody on screen speaks, from the motion of faces and the sound."""
