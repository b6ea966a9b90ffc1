"""Asks a language model which of two commentaries is better, in both orders."""
