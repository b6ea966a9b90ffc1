"""Reading video files where it pays to be fast and to get past damage; the rules are those of `livecc_hf.modeling`."""
