"""The sequence models that the paper compares with (tables 1 and 3), as variants of the entry."""
