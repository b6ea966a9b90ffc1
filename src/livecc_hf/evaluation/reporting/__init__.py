"""Scores for people and programs: JSON, Markdown, the Hub's files, and a page."""
