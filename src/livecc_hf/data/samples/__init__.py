"""Encodes narrated clips and conversations as samples: tokens, labels and patches."""
