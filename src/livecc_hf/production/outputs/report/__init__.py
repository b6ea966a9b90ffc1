"""The report of a run: charts, thresholds, and pictures of what was kept and dropped."""
