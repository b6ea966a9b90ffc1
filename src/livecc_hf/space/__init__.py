"""A Space on the Hub: its folder, and how the page and Gradio's API share one address there."""
