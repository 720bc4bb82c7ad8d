"""Decoding of medication self-administration: steps with durations and gaps, from frame scores.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "decode": (),
    "kernels": (),
    "model": ("FrameHMM", "PaperProcess", "StepProcess"),
    "evidence": ("FrameChain", "SemiMarkov", "log_evidence"),
    "process": ("MarkovChain", "Pairs", "SemiMarkovProcess"),
    "data": ("recordings", "separate_steps", "watch_sessions"),
    "simulator": ("DIFFICULTIES", "simulate"),
    "readers": ("read",),
    "protocols": ("INHALER", "PEN", "PROTOCOLS", "Protocol"),
    "segments": ("edit_score", "frame_accuracy", "scores", "segment_f1", "segment_table"),
    "streaming": ("decode_folder", "read_performed", "read_segments"),
    "uses": ("Decoded", "decode_recordings", "plug_in", "replicate"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
