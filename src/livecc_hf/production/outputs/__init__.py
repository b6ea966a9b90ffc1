"""What a run leaves: the dataset folder, its files, card and report."""
