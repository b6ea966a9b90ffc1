"""Evaluates commentaries on the small made-up world, whose events are known."""
