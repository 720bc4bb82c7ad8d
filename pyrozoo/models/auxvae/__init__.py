"""Hand load from gait, beside the walker's own unloaded gait and an enumerated carrying style.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "model": ("AuxVAE", "LoadOnly", "StyleInGuide"),
    "guides": ("DeltaGuide", "LowRankGuide"),
    "local_guide": ("PaperGuide", "StyleAwareGuide"),
    "data.batches": ("check_disjoint", "participant_folds", "to_batch"),
    "data.simulator": ("CHANNELS", "GAITS", "Gait", "LOADS_LB", "STYLES", "resample", "simulate"),
    "data.readers": ("read",),
    "uses.people": ("fit_people_folds",),
    "uses.personal": ("PersonEffect", "learn_person_effect", "personalise"),
    "uses.latent": ("feature_probes", "features", "latent_probes"),
    "baselines.model": ("SequenceNet", "SequenceNetLoadOnly"),
    "experiments.probe": ("departure_probe", "ridge_probe"),
    "experiments.runs": ("DEPARTURE", "PAPER_LOSS", "PAPER_LOSS_LB", "PAPER_SIZES", "SETTINGS"),
    "baselines.sequence_nets": ("ENCODERS",),
}
_MODULES = {"nets": "nets", "sequence_nets": "baselines.sequence_nets"}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES, _MODULES)
