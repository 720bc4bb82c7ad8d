"""The processes over labels, and exact algorithms on arrays."""
