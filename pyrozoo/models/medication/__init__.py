"""Decoding of medication self-administration: steps with durations and gaps, from frame scores.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "frame_hmm": ("FrameHMM",),
    "model": ("PaperProcess", "StepProcess"),
    "data.datasets": ("watch_sessions",),
    "data.protocols": ("INHALER", "PEN", "PROTOCOLS", "Protocol"),
    "data.readers": ("read",),
    "data.recordings": ("recordings", "separate_steps"),
    "process.segments": ("edit_score", "frame_accuracy", "scores", "segment_f1", "segment_table"),
    "data.simulator": ("DIFFICULTIES", "simulate"),
    "process.evidence": ("FrameChain", "SemiMarkov", "log_evidence"),
    "process.process": ("MarkovChain", "Pairs", "SemiMarkovProcess"),
    "decoding": ("Decoded",),
    "online": ("Alarm", "LiveDecoding"),
    "uses.decoding": ("decode_recordings", "plug_in"),
    "uses.replication": ("replicate",),
    "uses.stream_tables": ("read_performed", "read_segments"),
    "uses.streaming": ("decode_folder",),
}
_MODULES = {"decode": "process.decode", "kernels": "process.kernels", "plots": "uses.plots"}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES, _MODULES)
