"""Reads the benchmarks' rows and turns them into questions and events for a model."""
