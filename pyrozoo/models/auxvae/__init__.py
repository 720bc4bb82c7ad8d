"""Hand load from gait, beside the walker's own unloaded gait and an enumerated carrying style.

Names are imported on first use, so that the card can be read without torch.
"""

from __future__ import annotations

from ...lazy import names_of

_HOMES = {
    "nets": (),
    "sequence_nets": ("ENCODERS",),
    "model": ("AuxVAE", "LoadOnly", "StyleInGuide"),
    "baselines": ("SequenceNet", "SequenceNetLoadOnly"),
    "guides": ("DeltaGuide", "LowRankGuide", "PaperGuide", "StyleAwareGuide"),
    "data": ("check_disjoint", "participant_folds", "to_batch"),
    "simulator": ("CHANNELS", "Gait", "LOADS_LB", "STYLES", "resample", "simulate"),
    "readers": ("read",),
    "probe": ("ridge_probe",),
    "latent": ("feature_probes", "features", "latent_probes"),
    "runs": ("PAPER_LOSS", "PAPER_SIZES", "SETTINGS"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
