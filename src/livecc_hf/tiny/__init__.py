"""A small procedural world of coloured shapes, its narrator, and what measures a commentary of it."""
