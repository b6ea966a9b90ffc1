"""Batching: planning which samples share a row, loading them, and collating rows."""
