"""Small random trials and models for the tests of auxvae: fast, and without any meaning."""

import numpy as np
import torch

from pyrozoo import Batch, create_model
from pyrozoo.inference.copies import default_dtype, isolated

SIZES = {"z_dim": 3, "channels": (6, 5), "d_model": 4, "heads": 2, "segments": 3, "width": 6, "beta": 1.0,
         "fusion": "cross"}  # fmt: skip
STYLES = ("right hand", "left hand", "side", "anterior")


def trials(n=14, people=3, steps=24, aux_steps=24, channels=5, known="mixed", seed=0, dtype=torch.float64):
    """Random trials; styles known on all ("observed"), none ("hidden") or every other row ("mixed")."""
    rng = np.random.default_rng(seed)
    known = {"observed": np.ones(n, bool), "hidden": np.zeros(n, bool), "mixed": np.arange(n) % 2 == 0}[known]
    return Batch.from_arrays(
        rows={"x": rng.normal(size=(n, steps, channels)), "y": rng.uniform(5, 50, n), "style": rng.integers(4, size=n)},
        groups={"participant": np.array([f"P{i % people}" for i in range(n)])},
        tables={"participant": {"x_aux": rng.normal(size=(people, aux_steps, channels))}},
        labels={"y": np.arange(n) % 5 != 4, "style": known}, dims={"x": ("time", "channel")},
        coords={"participant": np.array([f"P{i}" for i in range(people)]), "style_class": np.array(STYLES)},
        dtype=dtype, name="random", simulated=True,
    )  # fmt: skip


def small_model(data, variant="auxvae", seed=0, **arguments):
    """A model of small networks in double precision, its parameters away from their initial values."""
    with default_dtype(torch.float64), isolated(seed):
        own = {} if variant.startswith("sequence") else SIZES
        model = create_model("auxvae", data, variant=variant, **{**own, **arguments})
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return model.eval()
