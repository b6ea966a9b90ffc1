"""How samples become batches: planned into rows, collated, loaded."""
