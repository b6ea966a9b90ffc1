"""Publishes folders on the Hub: checks them, uploads them, and verifies the upload."""
