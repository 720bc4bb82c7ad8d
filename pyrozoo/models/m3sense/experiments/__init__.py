"""The experiments of the entry, one file each; `reproduce` lists them."""
