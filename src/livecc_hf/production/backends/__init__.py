"""What several stages use: the decoded sound of a video."""
