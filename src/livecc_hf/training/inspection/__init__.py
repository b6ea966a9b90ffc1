"""Samples as a person reads them."""
