"""Simulated units that drift: wells that lose pressure while their water cut rises."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....data.batch import Batch
from .simulator import INPUTS, Range, draw_units

OIL = "oil_m3_per_h"


def simulate_drift(
    n_units: int = 20,
    n_days: int = 200,
    every: int = 15,
    *,
    seed: int = 0,
    last: float = 0.25,
    decline: Range = (0.1, 1.0),
    water: Range = (0.0, 4.0),
    u_range: Range = (10.0, 100.0),
    sigma_p: float = 0.3,
    sigma_q: float = 1.0,
) -> tuple[Batch, Batch]:
    """Simulate wells of appendix B over some days, in which they lose pressure and produce more and more water.

    ::

        for unit i = 1..M:   physical parameters as in `simulate`;  a_i ~ U(decline), b_i ~ U(water), w_i ~ N(-2, 1)
          for day t = 1..T:  c3(t) = p_o + (c3 - p_o) exp(-a_i t / 365)              pressure without flow
                             W(t)  = 1 / (1 + exp(-w_i - b_i t / 365))               water cut
                             u(t)  ~ U(u_range), p(t) as in `simulate` with c3(t)
                             y(t)  = (1 - W(t)) Q(t) + N(0, sigma_q^2)               oil

    The pressure p shows the decline; nothing but labels shows the water cut. x = [u, p] is (N, 2), y (N, 1), and
    `Batch.time` the day. ``truth`` holds c3(t) as ``shut_in`` [bar], ``water_cut`` [-] and the noise-free ``oil``
    [m3/h] of each row.

    Args:
        n_units: M, number of wells.
        n_days: T, number of days, one row each.
        every: Days between labels, which are well tests, in the training data.
        seed: Random seed.
        last: Share of the days, the last ones, that are test data, all labelled.
        decline: Range of the relative loss of pressure per year, a.
        water: Range of the rise of the water cut's log odds per year, b.
        u_range: Range of the choke opening [percent].
        sigma_p: Standard deviation of the noise on p [bar].
        sigma_q: Standard deviation of the noise on y [m3/h].

    Returns:
        The training data, labelled on every `every`-th day, and the last days of the same wells.

    Raises:
        ValueError: No day trains or is tested, or no label trains.

    Example:
        >>> from pyrozoo.models.ssmtl import simulate_drift
        >>> train, test = simulate_drift(n_units=3, n_days=40, every=10)
        >>> train.sizes["labelled"], test.n_rows, float(test.time.min())
        (9, 30, 31.0)
        >>> bool((test.truth["water_cut"].reshape(3, -1)[:, -1] >= train.truth["water_cut"].reshape(3, -1)[:, 0]).all())
        True
    """
    tested = round(last * n_days)
    if not 0 < tested < n_days or not 0 < every <= n_days - tested:
        raise ValueError(f"n_days {n_days}, last {last}, every {every}: no day or no label is left to train or to test")
    unit_seed, own, opening, noise = np.random.SeedSequence(seed).spawn(4)
    units = draw_units(n_units, unit_seed)
    rng = np.random.default_rng(own)
    rates = {"decline": rng.uniform(*decline, n_units), "water": rng.uniform(*water, n_units)}
    start = rng.normal(-2.0, 1.0, n_units)
    day = np.arange(1, n_days + 1)
    years = day / 365
    c1, c2, c3, c4, outlet = (units[key][:, None] for key in ("c1", "c2", "c3", "c4", "outlet"))
    shut_in = outlet + (c3 - outlet) * np.exp(-rates["decline"][:, None] * years)
    water_cut = 1 / (1 + np.exp(-start[:, None] - rates["water"][:, None] * years))
    u = np.random.default_rng(opening).uniform(*u_range, (n_units, n_days))
    v2 = (u / 100) ** 2
    p = (shut_in + c1 * c4 * v2) / (1 + c2 * c4 * v2)  # eq. 28 with eq. 27 for Q, solved for p
    oil = (1 - water_cut) * np.sqrt(np.maximum(c2 * v2 * p - c1 * v2, 0.0))  # eq. 27; 0 but for rounding
    errors = np.random.default_rng(noise).standard_normal((2, n_units, n_days))
    x = np.stack([u, p + sigma_p * errors[0]], -1)
    y = oil + sigma_q * errors[1]
    truth = {"shut_in": shut_in, "water_cut": water_cut, "oil": oil}
    kept = slice(0, n_days - tested), slice(n_days - tested, n_days)
    tests = day[kept[0]] % every == 0, np.ones(tested, bool)
    train, test = (
        _batch(x[:, days], y[:, days], day[days], seen, {name: value[:, days] for name, value in truth.items()}, seed)
        for days, seen in zip(kept, tests, strict=True)
    )
    return train, test


def _batch(
    x: np.ndarray, y: np.ndarray, day: np.ndarray, seen: np.ndarray, truth: Mapping[str, np.ndarray], seed: int
) -> Batch:
    """Make a batch from x (M, T, 2), y (M, T), days (T,), labelled days (T,) and truths (M, T)."""
    units, days = y.shape
    return Batch.from_arrays(
        rows={"x": x.reshape(-1, 2), "y": y.reshape(-1, 1)},
        groups={"unit": np.repeat(np.arange(units), days)},
        labels={"y": np.tile(seen, units)},
        dims={"x": ("input",), "y": ("target",)},
        coords={"unit": np.arange(units), "input": list(INPUTS), "target": [OIL]},
        row_coords={"time": np.tile(day.astype(float), units)},
        truth={name: value.ravel() for name, value in truth.items()},
        truth_along=dict.fromkeys(truth, "row"),
        name="simulated-drift",
        simulated=True,
        seed=seed,
    )
