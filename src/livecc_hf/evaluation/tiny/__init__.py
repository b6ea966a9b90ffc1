"""Evaluates commentaries on the synthetic world of livecc-tiny, whose events are known."""
