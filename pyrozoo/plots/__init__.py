"""Pictures of fits, predictions and checks, the same under every version of ArviZ.

``forest``, ``posterior``, ``trace``, ``rank``, ``pair``, ``prior_posterior``, ``ppc``, ``ppc_pit``, ``loo_pit`` and
``psense`` take an ArviZ object, as `pyrozoo.to_arviz` makes it, with the same arguments: ``var_names`` and ``coords``
choose what is shown, ``interval`` ("eti" or "hdi") and ``width`` the interval, which the title states, ``group`` the
group, ``figsize`` the size in inches. ``forest``, ``posterior``, ``ppc_pit`` and ``loo_pit`` also take several objects
by the names of their models. They return the figure.

The others take what the zoo returns as it is: the tables of `predict`, `coverage`, `khat` or `compare`, and the Batch
that was predicted; arrays of your own do as well. They draw into ``ax`` or into a figure of their own, and return the
axes (`unit_lines`, which needs several, the figure).

Nothing touches pyplot: save with ``forest(idata).savefig("forest.png")`` or
``elbo_curves(...).figure.savefig("elbo.png")``, and show in a notebook by leaving the figure on a cell's last line.
"""

from __future__ import annotations

from ..lazy import names_of

_HOMES = {
    "checks": ("compare", "guides", "khat", "psense"),
    "draws": ("forest", "pair", "posterior", "prior_posterior", "rank", "trace"),
    "latent": ("latent_map",),
    "predictive": ("loo_pit", "ppc", "ppc_pit"),
    "predictions": ("interval_coverage", "predicted_vs_observed", "reliability", "unit_lines"),
    "style": ("BLACK", "BLUE", "COLOURS", "GREEN", "GREY", "ORANGE", "PINK", "SKY", "VERMILION"),
    "training": ("elbo_curves",),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
