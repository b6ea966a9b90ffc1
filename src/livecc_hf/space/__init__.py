"""Writes a Space for the Hub, and serves the live page and Gradio's API at one address."""
