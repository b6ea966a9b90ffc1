"""Rows of data sets on disk, in the layouts that are known."""
