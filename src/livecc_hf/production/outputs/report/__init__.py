"""The report of a run: charts, thresholds, and pictures of kept and dropped items."""
