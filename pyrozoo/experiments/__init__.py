"""Experiments with a record: jobs, the runner, the record itself."""

from __future__ import annotations

from ..lazy import names_of

_HOMES = {
    "jobs": ("JobError", "on_cluster", "run_jobs"),
    "record": (
        "PUBLISHED",
        "format_table",
        "mean_se",
        "paired_difference",
        "paired_ratio",
        "read_record",
        "write_record",
    ),
    "running": (
        "PROFILES",
        "Outcome",
        "averages",
        "claim",
        "defaults_of",
        "function_of",
        "run",
        "simulated_data",
        "timing",
    ),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
