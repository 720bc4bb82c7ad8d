"""Draws at once: what draws from a fit, beside one draw after the other and Pyro's vectorised Predictive.

README.md of this folder says what the tables hold. All data but the dryer are simulated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Predictive
from pyro.poutine.util import site_is_subsample
from timing import alternate, options, report, summary
from units import CLEAR, _peak

import pyrozoo as zoo
from pyrozoo.inference.copies import isolated
from pyrozoo.models import m3sense, medication, ssmtl
from pyrozoo.posterior import many

CASES = ("ssmtl small", "dryer", "dryer, all rows", "m3sense", "medication")
FUNCTIONS: dict[str, Callable[[zoo.Fit, zoo.Batch, int], Any]] = {
    "to_arviz": lambda fit, data, n: zoo.to_arviz(fit, data, draws=n),
    "draw": lambda fit, data, n: zoo.draw(fit, data, draws=n),
    "prior_predictive": lambda fit, data, n: zoo.prior_predictive(fit, data, draws=n),
    "predict": lambda fit, data, n: zoo.predict(fit, data, draws=n),
    "ppc": lambda fit, data, n: zoo.ppc(fit, data, draws=n),
    "metrics": lambda fit, data, n: zoo.metrics(fit, data, draws=n),
    "coverage": lambda fit, data, n: zoo.coverage(fit, data, draws=n),
    "log_predictive": lambda fit, data, n: zoo.log_predictive(fit, data, draws=n),
    "khat, rows": lambda fit, data, n: zoo.khat(fit, data, draws=n),
    "khat, units": lambda fit, data, n: zoo.khat(fit, data, per="unit", draws=n // 4, inner=10),
    "log_density": lambda fit, data, n: zoo.log_density(fit, data, draws=n, progress=False),
    "latent_report": lambda fit, data, n: zoo.latent_report(fit, data, draws=n),
    "prior_sensitivity": lambda fit, data, n: zoo.prior_sensitivity(fit, data, draws=n, progress=False),
    "sbc": lambda fit, data, n: zoo.sbc(fit.model, "paper", data, "c", simulations=1, draws=n, steps=1),
}
OF_CASE = {
    "ssmtl small": tuple(FUNCTIONS),
    "dryer": ("to_arviz", "predict", "ppc", "log_predictive", "log_density"),
    "dryer, all rows": ("to_arviz", "predict"),
    "m3sense": ("to_arviz", "predict", "log_predictive"),
    "medication": ("to_arviz", "prior_predictive", "predict"),
}


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__, "the functions")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--draws", type=int, default=500, help="draws of to_arviz (default: 500; of others 200)")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    report(given, _tables(given))


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    for case in given.cases:
        fit, data = made(case)
        for name in OF_CASE[case]:
            draws = _draws(case, name, given.draws)
            functions = variants(fit, data, name, draws)
            table = summary(alternate(functions, given.rounds, given.clock), "zoo")
            if name in ("to_arviz", "predict"):
                table["peak_MB"] = [peak_memory_apart(case, name, line, draws) for line in functions]
            yield f"{case}: {name}, {draws} draws of {data.n_rows} {data.rows}s", table


def _draws(case: str, name: str, draws: int) -> int:
    few = max(100, draws * 2 // 5) if name == "prior_sensitivity" else draws * 2 // 5
    own = draws if name in ("to_arviz", "draw") else few
    return max(2, own // 10) if case == "dryer, all rows" else own


def made(case: str) -> tuple[zoo.Fit, zoo.Batch]:
    """A fit, and data to draw for."""
    if case == "ssmtl small":
        train, _ = ssmtl.simulate(n_units=24, n_labelled=5, n_unlabelled=10, n_test=2, seed=0)
        model = zoo.create_model("ssmtl", train, width=50)
        return zoo.fit(model, "paper", train, steps=200, progress=False), train
    if case.startswith("dryer"):
        data = zoo.load_data("ssmtl", "dryer")
        return zoo.load_reference("ssmtl/dryer"), data if "all" in case else data.subset(range(0, data.n_rows, 40))
    if case == "m3sense":
        windows = m3sense.simulate("simulated stress", seed=1, n_subjects=4, n_windows=20, rates={"bvp": 8})
        return zoo.load_reference("m3sense/simulated"), m3sense.standardise(windows)
    train = medication.simulate("pen", n_recordings=20, difficulty="medium", rate=5.0)
    return zoo.fit(zoo.create_model("medication", train), "closed-form", train, progress=False), train


def variants(fit: zoo.Fit, data: zoo.Batch, name: str, draws: int) -> dict[str, Callable[[], Any]]:
    """The function as it is, and one draw after the other; for all groups Pyro's own, too."""
    function = FUNCTIONS[name]

    def one_by_one() -> Any:
        with mock.patch.object(many, "broadcasts", return_value=False):
            return function(fit, data, draws)

    found: dict[str, Callable[[], Any]] = {"zoo": lambda: function(fit, data, draws), "one by one": one_by_one}
    if name == "to_arviz" and not fit.model.enumerated:
        found["Pyro Predictive"] = lambda: with_pyro(fit, data, draws)
    return found


def with_pyro(fit: zoo.Fit, data: zoo.Batch, draws: int) -> dict[str, dict[str, np.ndarray]]:
    """Latents, predictions, and the log densities of all sites by Pyro's tools, all draws in one pass."""
    batch, model, guide = fit.prepare(data), fit.model, fit.guide
    with isolated(0), torch.no_grad():
        latents = Predictive(guide, num_samples=draws, parallel=True)(**batch)
        latents = {name: value for name, value in latents.items() if name not in fit.model.plate_dims}
        held = {"posterior_samples": latents, "num_samples": draws, "parallel": True}
        out = {"posterior": latents, "posterior_predictive": Predictive(poutine.uncondition(model), **held)(**batch)}
        trace = Predictive(model, **held).get_vectorized_trace(**batch)
        out["log"] = {
            name: scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }
    return {group: {name: value.numpy() for name, value in own.items()} for group, own in out.items()}


def peak_memory_apart(case: str, name: str, line: str, draws: int) -> float:
    """As `peak_memory`, in a fresh process: one that has once had much memory does not give all of it back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, case, name, line, draws).result()


def peak_memory(case: str, name: str, line: str, draws: int) -> float:
    """Growth of the process's peak memory [MB] over one call; NaN where there is no /proc."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    fit, data = made(case)
    variants(fit, data, name, max(2, draws // 50) if name != "prior_sensitivity" else 100)[line]()  # imports, compiles
    if not CLEAR.exists():
        return float("nan")
    CLEAR.write_text("5")  # sets the peak back to what is held now
    before = _peak()
    variants(fit, data, name, draws)[line]()
    return _peak() - before


if __name__ == "__main__":
    main()
