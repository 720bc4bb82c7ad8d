"""What models are made of: the base class, priors, guides, the registry of entries."""
