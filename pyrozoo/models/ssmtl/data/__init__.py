"""Units as batches: the simulator, data sets by name; tables of a plant before they are fitted."""
