"""Trials as batches: readers, the simulator, data sets by name."""
