"""Units as batches: the simulator, data sets by name."""
