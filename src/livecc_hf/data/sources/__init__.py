"""The data sources that a recipe can name."""
