"""Runs the stages: units, processes and engines."""
