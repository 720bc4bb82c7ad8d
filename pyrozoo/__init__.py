"""pyrozoo: a model zoo for the probabilistic programming language Pyro.

Names are imported on first use, so that ``import pyrozoo`` and ``list_models()`` stay free of torch.
"""

from __future__ import annotations

from .lazy import names_of

__version__ = "0.1.0"

_HOMES = {
    "registry": (
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
    "batch": ("Batch",),
    "base": ("ZooModel", "LocalParams"),
    "compiling": ("CompiledLoss", "CompileWarning"),
    "fitting": ("Fit", "NonFiniteLoss", "fit"),
    "drawing": ("draw", "predict", "prior_predictive"),
    "arviz_bridge": ("Draws", "load_netcdf", "save_netcdf", "summary", "to_arviz"),
    "diagnostics": ("compare", "coverage", "latent_report", "log_predictive", "metrics", "ppc", "sbc"),
    "importance": ("khat", "log_density"),
    "intervals": ("Conformal", "conformal", "cross_conformal", "fit_folds", "fold_data", "hold_out", "label_folds"),
    "reweighting": ("predict_by_importance",),
    "sensitivity": ("PriorSensitivity", "prior_sensitivity"),
    "io": ("load", "load_reference", "save"),
    "on_disk": ("open_rows", "predict_rows", "write_rows"),
    "jobs": ("JobError", "on_cluster", "run_jobs"),
    "record": ("read_record", "write_record"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
