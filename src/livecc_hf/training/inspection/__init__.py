"""Shows training samples in a readable form."""
