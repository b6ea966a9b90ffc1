"""Execution of stages: units, worker processes and engines."""
