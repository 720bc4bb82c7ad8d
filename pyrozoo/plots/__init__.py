"""The pictures that ArviZ does not have, drawn with matplotlib only."""
