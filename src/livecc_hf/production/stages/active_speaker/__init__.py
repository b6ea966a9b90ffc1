"""Active speakers: clips in which somebody on screen does the talking, found by faces, their motion and the sound."""
