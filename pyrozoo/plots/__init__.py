"""The few pictures that ArviZ does not have, drawn with matplotlib only.

Every function takes what the zoo returns as it is: the tables of `predict`, `coverage`, `khat` or `compare`, and the
Batch that was predicted; arrays of your own do as well. It draws into ``ax`` or into a figure of its own, and returns
the axes (`unit_lines`, which needs several, the figure). Nothing touches pyplot: save with
``elbo_curves(...).figure.savefig("elbo.png")``, and show in a notebook by leaving ``.figure`` on a cell's last line.
"""

from __future__ import annotations

from ..lazy import names_of

_HOMES = {
    "checks": ("compare_plot", "khat_plot", "ppc_density", "prior_shifts"),
    "latent": ("latent_map",),
    "predictions": ("interval_coverage", "predicted_vs_observed", "reliability", "unit_lines"),
    "style": ("BLACK", "BLUE", "COLOURS", "GREEN", "GREY", "ORANGE", "PINK", "SKY", "VERMILION"),
    "training": ("elbo_curves",),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
