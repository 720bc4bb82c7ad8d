"""From a model and data to a fit: settings, the loop, losses, minibatches, compiling, several processes, saving."""
