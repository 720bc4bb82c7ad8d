"""Tables and arrays as batches: reading, checking, the mapping itself."""
