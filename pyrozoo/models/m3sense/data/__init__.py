"""Windows as batches: readers, the simulator, splits."""
