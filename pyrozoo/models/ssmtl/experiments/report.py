"""The report of the dryer experiment: posterior.nc, Pareto k, latent report, predictive checks, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from .... import plots
from ....criticism.importance import khat
from ....criticism.latent import latent_report
from ....criticism.ppc import ppc
from ....criticism.scoring import coverage, metrics
from ....inference.fitted import Fit
from ....posterior.drawing import draw
from ....posterior.export import from_draws, save_netcdf
from ....posterior.predicting import predict
from .runs import dryer_data


def dryer_report(fit: Fit, out: Path, *, batches: int | None = None) -> dict[str, Any]:
    """Write posterior.nc and figures of a fit to the first draw of labels; return the numbers behind them.

    Args:
        fit: The fit, its restarts as runs.
        out: Folder.
        batches: The first so many batches it was fitted to, in a smoke run, which also draws less.
    """
    smoke = batches is not None
    train, full, scored = dryer_data(0, batches=batches)
    test = full.relabel(scored)
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    n = 10 if smoke else 100
    bar = tqdm(total=4, desc="report", unit="part")
    save_netcdf(from_draws(draw(fit, train, draws=n // 2, sites=["c", "y"])), out / "posterior.nc")
    drawn = draw(fit, train, draws=20, sites=["x", "y"], restarts=False)
    bar.update()
    per_row = khat(fit, train, draws=max(n, 25))
    bar.update()
    contexts, states = latent_report(fit, train, "c", draws=5), latent_report(fit, train, "z", draws=5)
    checks = ppc(fit, train, draws=20)
    bar.update()
    intervals = coverage(fit, test, draws=n)
    table = predict(fit, train, draws=n)
    _figures(fit, train, full, drawn, table, contexts, per_row, intervals, figures)
    bar.update()
    bar.close()
    return {
        "metrics": metrics(fit, test, draws=n),
        "khat_rows": _khat_summary(per_row),
        "active_units": {"c": contexts.active, "z": states.active},
        "kl_nats": {"c": contexts.table["kl"].sum(), "z": states.table["kl"].sum()},
        "final_elbo_per_row": [run.final_elbo for run in fit.runs],
        "coverage": intervals.to_dict("records"),
        "ppc": checks.to_dict("records"),
    }


def _khat_summary(values: pd.Series) -> dict[str, float]:
    return {"median": float(values.median()), "share_above_0.7": float((values > 0.7).mean())}


def _figures(
    fit: Fit, train: Any, full: Any, drawn: Any, table: pd.DataFrame, contexts: Any, per_row: pd.Series,
    intervals: pd.DataFrame, folder: Path,
) -> None:  # fmt: skip
    def write(figure: Figure, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110)

    level = {"quantity": "CollectorTankLevel", "unit": "source units"}
    histories = {f"restart {i}": run.history for i, run in enumerate(fit.runs)}
    write(plots.elbo_curves(histories).figure, "elbo")
    unseen = full.relabel(~train.observed("y"))
    write(plots.predicted_vs_observed(table, unseen, **level).figure, "predicted_vs_observed")
    write(plots.unit_lines(table, full, seen=train, **level), "batches")
    write(plots.interval_coverage({"SSMTL": intervals}).figure, "coverage")
    mean_level = pd.Series(full["y"][:, 0].numpy()).groupby(train["unit"].numpy()).mean().to_numpy()
    write(
        plots.latent_map(
            contexts.means.to_numpy(), truth=mean_level, truth_label="mean tank level of the batch", name="c"
        ).figure,
        "contexts",
    )
    write(plots.khat_plot(per_row, "Pareto k per row, given the contexts").figure, "khat_rows")
    write(_ppc_figure(drawn), "ppc")


def _ppc_figure(drawn: Any) -> Figure:
    """Observed against replicated distributions of y and of every input."""
    panels = []
    for site in ("y", "x"):
        names = drawn.coords[drawn.dims[site][-1]]
        observed = drawn.groups["observed_data"][site]
        replicated = drawn.groups["posterior_predictive"][site][0]
        panels += [(str(name), observed[:, j], replicated[:, :, j]) for j, name in enumerate(names)]
    columns = 4
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for ax, (name, observed, replicated) in zip(axes, panels, strict=False):
        seen = np.isfinite(observed)
        plots.ppc_density(observed[seen], replicated[:, seen], label=name, ax=ax)
        handles, labels = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.legend(handles, labels, loc="lower right", fontsize="large")  # one legend: ten would hide the data
    return figure
