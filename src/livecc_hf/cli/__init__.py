"""The command line, `livecc`."""
