"""Decoding of medication self-administration: steps with durations and gaps, from frame scores.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "model": ("FrameHMM", "PaperProcess", "StepProcess"),
    "evidence": ("FrameChain", "SemiMarkov", "log_evidence"),
    "process": ("MarkovChain", "Pairs", "SemiMarkovProcess"),
    "data": ("recordings", "separate_steps", "watch_sessions"),
    "simulator": ("DIFFICULTIES", "simulate"),
    "readers": ("read",),
    "protocols": ("INHALER", "PEN", "PROTOCOLS", "Protocol"),
    "segments": ("edit_score", "frame_accuracy", "runs", "scores", "segment_f1", "segment_table"),
    "uses": ("Decoded", "decode_recordings", "plug_in", "replicate"),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
