"""Recordings as batches: readers, protocols, the simulator, data sets by name."""
