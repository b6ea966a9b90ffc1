"""Makes batches of samples: plans rows, loads and collates them."""
