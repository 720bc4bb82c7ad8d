"""Anxiety, emotion and stress from wrist sensors, by one model for all tasks.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "nets": (),
    "model": ("Generative", "LatentM3Sense", "M3Sense", "Unaligned"),
    "domain": ("DomainGenerative", "domain_probabilities"),
    "guides": ("DeltaGuide", "LowRankGuide", "PaperGuide"),
    "presets": ("MULTITASK", "PAPER_LATENTS", "PAPER_SIZES", "PRESETS", "SINGLE_TASK"),
    "simulator": ("DATASETS_SIMULATED", "Physiology", "simulate", "simulate_all"),
    "recordings": ("Recording", "Recordings"),
    "e4": ("read_e4", "read_nurses", "read_stress_predict"),
    "datasets": ("read_kemocon", "read_verbio", "read_wesad"),
    "windowing": ("filtered", "windows"),
    "batches": ("at_rates", "from_arrays", "merge", "standardise"),
    "window_files": ("read_stress_predict_windows", "read_windows"),
    "splits": ("leave_subjects_out", "split_subjects", "split_windows"),
    "transferring": ("transfer",),
    "aligning": ("Alignment", "alignment"),
    "study": ("read_study",),
    "features": ("BASELINES", "handcrafted"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
