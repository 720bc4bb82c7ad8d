"""Semi-supervised multi-task soft sensing (Grimstad, Løvland, Imsland, Gunnerud).

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "model": ("MLVAE", "MTL", "SSLVAE", "SSMTL"),
    "data": ("PRESETS", "draw_labels", "dryer", "simulate"),
    "calibration": ("CalibratedFit", "calibrate"),
    "refinement": ("refine",),
    "generation": ("Generated", "impute", "what_if"),
    "surveillance": ("inject_fault", "monitor"),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
