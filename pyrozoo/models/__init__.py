"""The entries of the zoo: one folder is one paper."""
