"""What a run writes: checkpoints and their identity, cards, pushes."""
