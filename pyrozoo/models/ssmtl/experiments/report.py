"""The report of the dryer experiment: posterior.nc, Pareto k, latent report, predictive checks, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.figure import Figure, SubFigure
from tqdm import tqdm

from ....criticism.importance import khat
from ....criticism.latent import latent_report
from ....criticism.ppc import ppc
from ....criticism.scoring import coverage, metrics
from ....inference.fitted import Fit
from ....plots.checks import khat as khat_plot
from ....plots.latent import latent_map
from ....plots.predictions import interval_coverage, predicted_vs_observed, unit_lines
from ....plots.predictive import ppc as ppc_plot
from ....plots.training import elbo_curves
from ....posterior.drawing import draw
from ....posterior.export import from_draws, save_netcdf
from ....posterior.predicting import predict
from ....reports.build import report
from .runs import dryer_data


def dryer_report(fit: Fit, out: Path, *, batches: int | None = None) -> dict[str, Any]:
    """Write posterior.nc, figures and the page of `pyrozoo.report` of a fit to the first draw of labels.

    Args:
        fit: A cross-fitted fit.
        out: Folder for posterior.nc, the figures and report.html.
        batches: Number of batches it was fitted to, in a smoke run, which takes fewer draws and makes no page; None
            means all.

    Returns:
        The numbers behind posterior.nc and the figures.
    """
    smoke = batches is not None
    train, full, scored = dryer_data(0, batches=batches, time=True)
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
    intervals, own = coverage(fit, test, draws=n), coverage(fit, test, draws=n, restart=0)
    table = predict(fit, train, draws=n)
    _figures(fit, train, full, drawn, table, contexts, per_row, {"cross-fitted": intervals, "one fit": own}, figures)
    bar.update()
    bar.close()
    if not smoke:
        report(fit, train, test, out=out / "report.html", draws=n)
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
    intervals: dict[str, pd.DataFrame], folder: Path,
) -> None:  # fmt: skip
    def write(figure: Figure | SubFigure, name: str) -> None:
        cast(Figure, figure).savefig(folder / f"{name}.png", dpi=110)

    level: dict[str, Any] = {"quantity": "CollectorTankLevel", "unit": "source units"}
    histories = {f"restart {i}": run.history for i, run in enumerate(fit.runs)}
    write(elbo_curves(histories).figure, "elbo")
    unseen = full.relabel(~train.observed("y"))
    write(predicted_vs_observed(table, unseen, **level).figure, "predicted_vs_observed")
    write(unit_lines(table, full, seen=train, **level), "batches")
    write(interval_coverage({f"SSMTL, {kind}": table for kind, table in intervals.items()}).figure, "coverage")
    mean_level = pd.Series(full["y"][:, 0].numpy()).groupby(train["unit"].numpy()).mean().to_numpy()
    write(
        latent_map(
            contexts.means.to_numpy(), truth=mean_level, truth_label="mean tank level of the batch", name="c"
        ).figure,
        "contexts",
    )
    write(khat_plot(per_row, "Pareto k per row, given the contexts").figure, "khat_rows")
    write(ppc_plot(from_draws(drawn)), "ppc")
