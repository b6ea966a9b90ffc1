"""Media that rows name: where their files are, and how they become frames."""
