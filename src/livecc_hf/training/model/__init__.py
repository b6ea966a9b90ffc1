"""The model as a run trains it."""
