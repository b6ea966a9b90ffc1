"""How narrated clips and conversations become samples: tokens, labels and patches."""
