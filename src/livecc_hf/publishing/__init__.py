"""Publishes folders on the Hub, with checks before and after the upload."""
