"""Semi-supervised multi-task soft sensing (Grimstad, Løvland, Imsland, Gunnerud)."""
