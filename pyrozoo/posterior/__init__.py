"""What a fit says: traces, draws, predictions, their export to ArviZ."""
