"""The paper's simulated choke-and-pipe units (appendix B)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ....data.batch import Batch

Range = tuple[float, float]


INPUTS = ("choke_opening_percent", "pressure_bar")


TARGET = "flow_m3_per_h"


_PA_PER_BAR = 1e5


_SECONDS_PER_HOUR = 3600.0


# Unlabelled (u, p) identify c3, the outlet pressure c1/c2 and the ratio of pipe to choke friction c2*c4 of a unit, but
# not its scale of flow 1/sqrt(c4): that is known only through how c2 and c4 vary between units. The less the valve
# area varies, the more c2*c4 tells about c4, and the more unlabelled rows help to predict the flow.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "same-valve": MappingProxyType({"valve_area": (4e-4, 6e-4)}),  # one valve model: unlabelled rows help much
        "any-valve": MappingProxyType({"valve_area": (3e-4, 8e-4)}),  # unlabelled rows help little
    }
)


def simulate(
    n_units: int = 50,
    n_labelled: int = 5,
    n_unlabelled: int = 100,
    n_test: int = 100,
    *,
    seed: int = 0,
    u_range: Range = (10.0, 100.0),
    sigma_p: float = 0.3,
    sigma_q: float = 1.0,
    height: Range = (1500.0, 3000.0),
    diameter: Range = (0.08, 0.15),
    friction: Range = (0.015, 0.03),
    density: Range = (750.0, 900.0),
    valve_area: Range = (4e-4, 6e-4),
    shut_in: Range = (60.0, 150.0),
    outlet: Range = (5.0, 30.0),
    dtype: torch.dtype | None = None,
    name: str = "simulated",
) -> tuple[Batch, Batch]:
    """Simulate units of single-phase flow up a vertical pipe and through a choke valve (appendix B, Algorithm 2).

    ::

        for unit i = 1..M:   draw the physical parameters, each uniform on its range;  c1..c4 from them
          for row j:         u    ~ U(u_range)                                       line 5
                             mu_p = (c3 + c1 c4 v^2) / (1 + c2 c4 v^2),  v = u/100   line 6: eq. 27, 28
                             p    ~ N(mu_p, sigma_p^2)                               line 7
                             mu_Q = sqrt(-c1 v^2 + c2 v^2 mu_p)                      line 8: eq. 27
                             Q    ~ N(mu_Q, sigma_q^2)                               line 9

    x = [u, p] has shape (N, 2), y = [Q] shape (N, 1); N = M (n_labelled + n_unlabelled) in train, M n_test in test.
    Units of measure: u in percent, p in bar, Q in m3/h. ``truth`` holds the physical parameters by argument name and
    ``c1`` [(m3/h)^2], ``c2`` [(m3/h)^2 / bar], ``c3`` [bar], ``c4`` [bar / (m3/h)^2] of each unit, shape (M,), and the
    noise-free ``flow`` mu_Q [m3/h] of each row, shape (N,). Rows are sorted by unit, labelled ones first.

    Units, labelled, unlabelled and test rows are drawn from separate random streams. With the same seed, changing the
    number of rows of one kind changes no other kind, and a smaller number gives the first rows of a larger one: the
    data with 5 and with 100 unlabelled rows share units, labels and test rows.

    Differences from the paper, which gives no distribution of the parameters and no noise: ranges and noise are ours;
    parameters are drawn per unit, as its text says, not once as its algorithm prints; u is bounded below by default,
    because the percentage error is dominated by rows with a nearly closed choke otherwise.

    Args:
        n_units: M, number of units.
        n_labelled: Labelled training rows of each unit.
        n_unlabelled: Unlabelled training rows of each unit.
        n_test: Test rows of each unit.
        seed: Random seed for all random streams.
        u_range: Range of the choke opening u [percent], within 0..100 (the paper: 0, 100).
        sigma_p: Standard deviation of the noise on p [bar].
        sigma_q: Standard deviation of the noise on Q [m3/h].
        height: Range of the height of the pipe, h [m].
        diameter: Range of the diameter of the pipe, D [m].
        friction: Range of the Darcy friction coefficient f_D [-].
        density: Range of the density of the fluid, rho [kg/m3].
        valve_area: Range of C, the effective flow area of the open valve including its discharge coefficient [m2].
        shut_in: Range of c3 = p_r - rho g h [bar], the pressure at the valve without flow; drawn directly, not
            computed from p_r.
        outlet: Range of p_o [bar], the pressure behind the valve.
        dtype: Floating type of the tensors; torch's default for None.
        name: Name of the data set, stored in ``info``.

    Returns:
        The training data, and test data of the same units in the same order with every row labelled.

    Raises:
        ValueError: An impossible number, range or noise; the message names the argument.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=3, n_labelled=2, n_unlabelled=10, n_test=5)
        >>> train.sizes["row"], train.sizes["labelled"], test.sizes["labelled"]
        (36, 6, 15)
        >>> train.columns("x"), train.columns("y")
        (['choke_opening_percent', 'pressure_bar'], ['flow_m3_per_h'])
        >>> train.truth["shut_in"].shape  # bar, of each unit
        (3,)
    """
    ranges = {
        "height": height, "diameter": diameter, "friction": friction, "density": density,
        "valve_area": valve_area, "shut_in": shut_in, "outlet": outlet,
    }  # fmt: skip
    _check_counts(n_units, n_labelled, n_unlabelled, n_test)
    _check_process(ranges, u_range, {"sigma_p": sigma_p, "sigma_q": sigma_q})
    unit_seed, *row_seeds = np.random.SeedSequence(seed).spawn(4)
    units = _draw_units(n_units, ranges, unit_seed)
    labelled, unlabelled, test = (
        _draw_rows(n, units, u_range, sigma_p, sigma_q, row_seed)
        for n, row_seed in zip((n_labelled, n_unlabelled, n_test), row_seeds, strict=True)
    )
    observed = np.arange(n_labelled + n_unlabelled) < n_labelled
    info = {"name": name, "simulated": True, "seed": seed}
    return (
        _to_batch(np.concatenate([labelled, unlabelled], axis=1), observed, units, dtype, info),
        _to_batch(test, np.ones(n_test, bool), units, dtype, info),
    )


def draw_units(n_units: int, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
    """Draw the parameters of each unit, (M,) each, from the default ranges of `simulate`, and compute c1..c4."""
    given = inspect.signature(simulate).parameters
    names = ("height", "diameter", "friction", "density", "valve_area", "shut_in", "outlet")
    return _draw_units(n_units, {name: given[name].default for name in names}, seed)


def _draw_units(n_units: int, ranges: Mapping[str, Range], seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
    """Draw the physical parameters of each unit, (M,) each, and compute c1..c4 of eq. 27 and 28 from them."""
    share = np.random.default_rng(seed).random((n_units, len(ranges)))
    units = {key: low + (high - low) * share[:, k] for k, (key, (low, high)) in enumerate(ranges.items())}
    area = units["valve_area"] * _SECONDS_PER_HOUR  # a flow in m3/h per flow speed in m/s
    c2 = 2 * area**2 / units["density"] * _PA_PER_BAR  # eq. 25 squared
    loss = (
        units["friction"] * 8 * units["density"] * units["height"] / (np.pi**2 * units["diameter"] ** 5)
    )  # eq. 26, Pa/(m3/s)^2
    c4 = loss / _SECONDS_PER_HOUR**2 / _PA_PER_BAR
    return units | {"c1": c2 * units["outlet"], "c2": c2, "c3": units["shut_in"], "c4": c4}


def _draw_rows(
    n: int,
    units: Mapping[str, np.ndarray],
    u_range: Range,
    sigma_p: float,
    sigma_q: float,
    seed: np.random.SeedSequence,
) -> np.ndarray:
    """Draw `n` rows of each unit (Algorithm 2, lines 5 to 9): u, p, Q and the noise-free Q, shape (M, n, 4)."""
    # Arrays are drawn with rows first, and openings and noise from separate streams: the first rows then do not depend
    # on the number of rows.
    opening_rng, noise_rng = (np.random.default_rng(child) for child in seed.spawn(2))
    c1, c2, c3, c4 = (units[key] for key in ("c1", "c2", "c3", "c4"))
    u = opening_rng.uniform(*u_range, size=(n, len(c1)))
    noise_p, noise_q = np.moveaxis(noise_rng.standard_normal((n, len(c1), 2)), -1, 0)
    v2 = (u / 100) ** 2
    p = (c3 + c1 * c4 * v2) / (1 + c2 * c4 * v2)  # eq. 28 with eq. 27 for Q, solved for p
    flow = np.sqrt(-c1 * v2 + c2 * v2 * p)  # eq. 27
    return np.stack([u, p + sigma_p * noise_p, flow + sigma_q * noise_q, flow], axis=-1).swapaxes(0, 1)


def _to_batch(
    rows: np.ndarray,
    observed: np.ndarray,
    units: Mapping[str, np.ndarray],
    dtype: torch.dtype | None,
    info: Mapping[str, Any],
) -> Batch:
    """Make a batch from rows (M, n, 4); `observed`, (n,), says which of the n rows of every unit are labelled."""
    n_units, n, _ = rows.shape
    flat = rows.reshape(n_units * n, 4)
    return Batch.from_arrays(
        rows={"x": flat[:, :2], "y": flat[:, 2:3]},
        groups={"unit": np.repeat(np.arange(n_units), n)},
        labels={"y": np.tile(observed, n_units)},
        dims={"x": ("input",), "y": ("target",)},
        coords={"unit": np.arange(n_units), "input": list(INPUTS), "target": [TARGET]},
        truth={**units, "flow": flat[:, 3]},
        truth_along={**dict.fromkeys(units, "unit"), "flow": "row"},
        dtype=dtype,
        **info,
    )


def _check_counts(n_units: int, n_labelled: int, n_unlabelled: int, n_test: int) -> None:
    for name, value, least in (
        ("n_units", n_units, 1),
        ("n_labelled", n_labelled, 0),
        ("n_unlabelled", n_unlabelled, 0),
        ("n_test", n_test, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: {value} is less than {least}")
    if n_labelled + n_unlabelled < 1:
        raise ValueError("n_labelled, n_unlabelled: both are 0; a unit needs at least one training row")


def _check_process(ranges: Mapping[str, Range], u_range: Range, noise: Mapping[str, float]) -> None:
    for name, (low, high) in ranges.items():
        if not 0 < low <= high < np.inf:
            raise ValueError(f"{name}: ({low}, {high}) is not an ascending range of positive numbers")
    if not 0 <= u_range[0] < u_range[1] <= 100:
        raise ValueError(f"u_range: {u_range} is not an ascending range within 0..100 percent")
    lowest, highest = ranges["shut_in"][0], ranges["outlet"][1]
    if lowest <= highest:
        raise ValueError(
            f"shut_in: its lower end, {lowest} bar, is not above the upper end of outlet, {highest} bar; a unit with "
            "less pressure than its outlet has no flow (the root in equation 27 is not real)"
        )
    for name, sigma in noise.items():
        if not 0 <= sigma < np.inf:
            raise ValueError(f"{name}: {sigma} is not a standard deviation (finite, 0 or more)")
