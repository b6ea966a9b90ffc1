"""The stages of data production, each usable alone."""
