"""A language model compares two commentaries, in both orders."""
