"""Training data: reads datasets, encodes samples, packs and collates batches."""
