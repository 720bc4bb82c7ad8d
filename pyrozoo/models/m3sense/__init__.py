"""Anxiety, emotion and stress from wrist sensors, by one model for all tasks.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "generative": ("DomainGenerative", "Generative"),
    "model": ("LatentM3Sense", "M3Sense", "Unaligned"),
    "guides": ("DeltaGuide", "LowRankGuide"),
    "local_guide": ("PaperGuide",),
    "data.arrays": ("from_arrays",),
    "data.batches": ("at_rates", "detrended", "merge", "standardise"),
    "data.e4": ("read_e4", "read_e4_folder", "read_nurses"),
    "data.features": ("handcrafted", "with_features"),
    "data.folders": ("read_study",),
    "data.labelling": ("label_by_table", "label_by_tags"),
    "data.live": ("samples_of",),
    "data.kemocon": ("read_kemocon",),
    "data.physiology": ("Physiology",),
    "data.recordings": ("Recording", "Recordings"),
    "data.simulator": ("DATASETS_SIMULATED", "simulate", "simulate_all"),
    "data.splits": ("leave_subjects_out", "split_subjects", "split_windows"),
    "data.stress_predict": ("read_stress_predict",),
    "data.verbio": ("read_verbio",),
    "data.wesad": ("read_wesad", "read_wesad_protocol"),
    "data.window_files": ("read_stress_predict_windows", "read_windows", "write_windows"),
    "data.windowing": ("filtered", "windows"),
    "uses.aligning": ("Alignment", "alignment"),
    "uses.domain": ("domain_probabilities",),
    "uses.exporting": ("Program", "to_program"),
    "uses.transferring": ("only_task", "transfer"),
    "experiments.baselines": ("BASELINES",),
    "experiments.presets": ("MULTITASK", "PAPER_LATENTS", "PAPER_SIZES", "PRESETS", "SINGLE_TASK"),
}
_MODULES = {"nets": "nets"}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES, _MODULES)
