"""A faster and more robust video reader with the same sampling rules as `livecc_hf.modeling.video_sampling`."""
