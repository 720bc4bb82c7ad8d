"""Semi-supervised multi-task soft sensing (Grimstad, Løvland, Imsland, Gunnerud).

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "model": ("MLVAE", "MTL", "SSLVAE", "SSMTL"),
    "data.datasets": ("draw_labels", "dryer"),
    "data.drifting": ("simulate_drift",),
    "data.plant": ("carry_forward", "fill_gaps", "steady_means"),
    "data.simulator": ("PRESETS", "simulate"),
    "uses.calibration": ("CalibratedFit", "calibrate"),
    "uses.generation": ("Generated", "impute", "what_if"),
    "uses.joining": ("join",),
    "uses.refinement": ("refine",),
    "uses.surveillance": ("inject_fault", "monitor"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
