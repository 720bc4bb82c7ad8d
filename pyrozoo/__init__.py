"""pyrozoo: a model zoo for the probabilistic programming language Pyro.

Names are imported on first use, so that ``import pyrozoo`` and ``list_models()`` stay free of torch.
"""

from __future__ import annotations

from .lazy import names_of

__version__ = "0.2.0"

_HOMES = {
    "modeling.registry": (
        "Card",
        "Site",
        "card",
        "create_guide",
        "create_model",
        "list_models",
        "load_data",
        "register",
        "unregister",
    ),
    "modeling.base": ("LocalParams", "ZooModel"),
    "modeling.guides": ("ZooGuide",),
    "data.batch": ("Batch",),
    "inference.compiling": ("CompiledLoss", "CompileWarning"),
    "inference.fit": ("fit",),
    "inference.fitted": ("Fit",),
    "inference.law": ("PredictiveLaw",),
    "inference.losses": ("NonFiniteLoss",),
    "inference.publishing": ("publish",),
    "inference.saving": ("load", "load_reference", "save"),
    "posterior.drawing": ("draw", "prior_predictive", "to_arviz"),
    "posterior.draws": ("Draws",),
    "posterior.export": ("load_netcdf", "save_netcdf", "summary"),
    "posterior.predicting": ("predict",),
    "posterior.predicting_rows": ("predict_rows",),
    "posterior.streaming": ("Stream", "stream"),
    "criticism.comparing": ("compare",),
    "criticism.comparing_guides": ("GuideComparison", "compare_guides"),
    "reports.build": ("report",),
    "criticism.conformal": ("Conformal", "conformal", "cross_conformal"),
    "criticism.folds": ("fit_folds", "fold_data", "hold_out", "label_folds"),
    "criticism.importance": ("khat", "log_density"),
    "criticism.latent": ("latent_report",),
    "criticism.loo": ("Loo", "loo"),
    "criticism.ppc": ("ppc",),
    "criticism.reweighting": ("predict_by_importance",),
    "criticism.sbc": ("sbc",),
    "criticism.predictive_density": ("log_predictive",),
    "criticism.scoring": ("coverage", "metrics", "pit"),
    "criticism.sensitivity": ("PriorSensitivity", "prior_sensitivity"),
    "store.rows": ("open_rows", "write_rows"),
    "experiments.cross_fitting": ("cross_fitted",),
    "experiments.jobs": ("JobError", "on_cluster", "run_jobs"),
    "experiments.record": ("read_record", "show_versions", "write_record"),
    "experiments.search": ("Preset", "read_preset", "tune"),
}
# What an entry takes as a whole, e.g. `pyrozoo.guides.auto`.
_MODULES = {
    "contract": "contract",
    "experiments": "experiments",
    "guides": "modeling.guides",
    "plots": "plots",
    "priors": "modeling.priors",
    "scores": "criticism.scores",
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES, _MODULES)
