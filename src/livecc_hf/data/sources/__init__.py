"""The kinds of data that a recipe can name."""
