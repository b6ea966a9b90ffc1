"""A small procedural world of coloured shapes, and its narrator."""
