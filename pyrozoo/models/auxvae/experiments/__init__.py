"""The experiments of the entry, one file each; `EXPERIMENTS` of `entry` names them."""
