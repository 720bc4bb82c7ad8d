"""metrics, ppc, posterior and plot: a saved run and data of one's own to scores, checks, draws and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write_text, check_target, replacing
from ..modeling import registry
from .columns import read_like
from .fitting import recordings

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..inference.fitted import Fit

KINDS = ("forest", "posterior", "trace", "rank", "pair", "prior_posterior", "psense", "ppc", "ppc_pit", "loo_pit")
OF_DATA = ("ppc", "ppc_pit", "loo_pit")


def metrics_command(arguments: argparse.Namespace) -> int:
    """Print, or write, the scores of a saved run on data with targets."""
    from ..criticism.scoring import metrics

    fit, data = _fit_and_data(arguments)
    if arguments.by is not None:
        table = metrics(fit, data, by=arguments.by, draws=arguments.draws)
        return _show(arguments, table.to_csv(float_format="%.6g", lineterminator="\n"))
    scores = metrics(fit, data, draws=arguments.draws)
    return _show(arguments, "metric,value\n" + "".join(f"{name},{value:.6g}\n" for name, value in scores.items()))


def ppc_command(arguments: argparse.Namespace) -> int:
    """Print, or write, posterior predictive checks of a saved run."""
    from ..criticism.ppc import ppc

    fit, data = _fit_and_data(arguments)
    table = ppc(fit, data, draws=arguments.draws).drop(columns="model")
    return _show(arguments, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def posterior_command(arguments: argparse.Namespace) -> int:
    """Write draws of all groups as netCDF, which ArviZ reads."""
    from ..posterior.export import save_netcdf

    fit, data = _fit_and_data(arguments)
    save_netcdf(_drawn(arguments, fit, data, prior=True), arguments.out)
    print(f"{arguments.draws} draws in {arguments.out}; read them by arviz.from_netcdf or pyrozoo.load_netcdf")
    return 0


def plot_command(arguments: argparse.Namespace) -> int:
    """Draw a picture of a saved run."""
    from .. import plots

    fit, data = _fit_and_data(arguments)
    coords = {}
    idata = _drawn(arguments, fit, data, prior=arguments.kind == "prior_posterior")
    group = idata["observed_data" if arguments.kind in OF_DATA else "posterior"]
    for text in arguments.coords:
        axis, _, labels = text.partition("=")
        known = {str(label): label for label in group[axis].values.tolist()} if axis in group.coords else {}
        coords[axis] = [known.get(label, label) for label in labels.split(",")]
    try:
        figure = getattr(plots, arguments.kind)(idata, arguments.sites, coords=coords or None)
    except ValueError as error:
        raise ValueError(f"{error} (--site SITE, --coords AXIS=LABEL,LABEL)") from error
    figure = figure.figure if arguments.kind == "psense" else figure
    with replacing(arguments.out) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(arguments.out).suffix.lstrip(".") or "png")
    print(f"{arguments.kind} in {arguments.out}")
    return 0


def _fit_and_data(arguments: argparse.Namespace) -> tuple[Fit, Batch]:
    """The saved run, and data with targets, as the run's own data were read."""
    from ..inference.saving import load

    if arguments.out is not None:
        check_target(arguments.out)
        if Path(arguments.out).is_dir():
            raise ValueError(f"{arguments.out} is a folder; choose a file for --out")
    fit = load(arguments.run)
    return fit, data_of(arguments, fit, arguments.data)


def data_of(arguments: argparse.Namespace, fit: Fit, file: str) -> Batch:
    """A file with targets, read as the data of the run were."""
    name = fit.model.entry[0] if fit.model.entry else None
    if name and hasattr(registry.entry(name).parts, "read"):
        return recordings(arguments, name, file, like=fit.prototype)
    if arguments.rate is not None:
        raise ValueError(f"--rate belongs to recordings; {arguments.run} was fitted to a table")
    if fit.data["columns"] is None:
        raise ValueError(f"{arguments.run} was not fitted to a table; go on in Python, with a Batch")
    return read_like(arguments, fit, file, labels=True)[0]


def _drawn(arguments: argparse.Namespace, fit: Fit, data: Batch, **options: Any) -> Any:
    from ..posterior.drawing import to_arviz

    return to_arviz(fit, data, draws=arguments.draws, sites=arguments.sites, **options)


def _show(arguments: argparse.Namespace, text: str) -> int:
    if arguments.out is None:
        print(text, end="")
    else:
        atomic_write_text(Path(arguments.out), text)
        print(f"{text.count(chr(10)) - 1} lines in {arguments.out}")
    return 0
