"""Predictions of models that enumerate: exact, because every row decides by itself."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyrozoo as zoo
from pyrozoo.criticism.predictive_density import log_predictive

pytestmark = pytest.mark.usefixtures("double_precision")


class Nothing(zoo.LocalParams, PyroModule):
    def __init__(self, model):
        super().__init__()

    def forward(self, **_):
        pass


def batch(n=30, x=0.75, seed=0):
    rng = np.random.default_rng(seed)
    return zoo.Batch.from_arrays(
        rows={"x": rng.normal(x, 1.0, n), "y": rng.normal(5.0, 1.0, n)}, labels={"y": np.ones(n, bool)}
    )


def fitted(kind, guide=Nothing, data=None):
    return zoo.fit(kind(), guide, batch() if data is None else data, steps=1, lr=1e-9, progress=False)


class OneClass(zoo.ZooModel):
    """A single class behind all rows."""

    enumerated = ("s",)

    def __init__(self, priors=None):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    def forward(self, x, sizes, y=None, labelled=None, row=None, **_):
        s = pyro.sample("s", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        sign = 2.0 * s - 1.0
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("x", dist.Normal(0.75 * sign + self.shift, 1.0), obs=x)
            with pyro.poutine.mask(mask=labelled):
                pyro.sample("y", dist.Normal(5.0 * sign, 1.0), obs=y)


def test_a_class_that_all_rows_share_is_refused():
    with pytest.raises(ValueError, match="s: it is enumerated outside the row plate"):
        fitted(OneClass)


class RowClass(zoo.ZooModel):
    """A class per row, under a second plate dimension that no site uses."""

    plate_dims = {"row": -1, "other": -2}
    enumerated = ("s",)
    targets = ("y", "s")

    def __init__(self, priors=None):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    def forward(self, x, sizes, y=None, labelled=None, row=None, **_):
        with self.plate("row", sizes=sizes, row=row):
            s = pyro.sample("s", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            sign = 2.0 * s - 1.0
            pyro.sample("x", dist.Normal(0.75 * sign + self.shift, 1.0), obs=x)
            with pyro.poutine.mask(mask=labelled):
                pyro.sample("y", dist.Normal(5.0 * sign, 1.0), obs=y)


class RowClassAlone(RowClass):
    plate_dims = {"row": -1}


def test_a_rows_class_is_summed_out_exactly():
    data, fit = batch(), fitted(RowClassAlone)
    p = torch.sigmoid(1.5 * data["x"])  # of the upper class, by Bayes' rule
    table = zoo.predict(fit, data, draws=3)
    assert np.allclose(table["s.p[1]"], p, atol=1e-8)
    assert np.allclose(table["y.mean"], 10 * p - 5, atol=1e-7)
    assert np.allclose(table["y.sd"] ** 2, 1 + 100 * p * (1 - p), atol=1e-6)
    log_p = torch.stack([p.log(), (1 - p).log()]) + dist.Normal(torch.tensor([[5.0], [-5.0]]), 1.0).log_prob(data["y"])
    assert np.allclose(log_predictive(fit, data, draws=2), log_p.logsumexp(0), atol=1e-7)


def test_models_of_two_plate_dimensions_are_summed_out_too():
    data, fit = batch(), fitted(RowClass)
    p = torch.sigmoid(1.5 * data["x"])
    table = zoo.predict(fit, data, draws=3)
    assert np.allclose(table["s.p[1]"], p, atol=1e-8)
    assert np.allclose(table["y.mean"], 10 * p - 5, atol=1e-7)
    log_p = torch.stack([p.log(), (1 - p).log()]) + dist.Normal(torch.tensor([[5.0], [-5.0]]), 1.0).log_prob(data["y"])
    assert np.allclose(log_predictive(fit, data, draws=2), log_p.logsumexp(0), atol=1e-7)


class Covered(zoo.ZooModel):
    """A target that the guide covers, with an enumerated class below it."""

    enumerated = ("s",)
    row_sites = ("y_unobserved",)

    def __init__(self, priors=None):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    def forward(self, x, sizes, y=None, labelled=None, row=None, **_):
        with self.plate("row", sizes=sizes, row=row):
            y = pyro.sample("y", dist.Normal(self.shift, 1.0), obs=y, obs_mask=labelled)
            s = pyro.sample("s", dist.Bernoulli(logits=y), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(s, 1.0), obs=x)


class CoveringGuide(zoo.LocalParams, PyroModule):
    def __init__(self, model):
        super().__init__()
        self._model = (model,)

    def forward(self, x, labelled, sizes, row=None, **_):
        with self._model[0].plate("row", sizes=sizes, row=row), pyro.poutine.mask(mask=~labelled):
            pyro.sample("y_unobserved", dist.Normal(torch.zeros_like(x), 1.0))


def test_the_density_of_a_target_that_the_guide_covers_is_the_guides():
    data = batch()
    fit = fitted(Covered, CoveringGuide, data)
    density = log_predictive(fit, data, draws=2)
    assert np.allclose(density, dist.Normal(0.0, 1.0).log_prob(data["y"]), atol=1e-7)
    assert np.allclose(zoo.predict(fit, data, draws=5)["y.sd"], 1.0, atol=1e-6)


class Bounded(zoo.ZooModel):
    """x ~ Uniform(0, m): most draws of m from its prior rule the data out."""

    targets = ()

    def priors(self):
        return {"m": dist.Exponential(torch.ones(()))}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def forward(self, x, sizes, row=None, **_):
        m = pyro.sample("m", self.prior("m"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("x", dist.Uniform(0.0, m, validate_args=False), obs=x)


class Largest(zoo.LocalParams, PyroModule):
    def __init__(self, model):
        super().__init__()
        self.register_buffer("m", torch.ones(()))

    def solve(self, train):
        self.m = 1.001 * train["x"].max()

    def forward(self, **_):
        pyro.sample("m", dist.Delta(self.m))


def test_a_closed_form_fit_is_judged_by_its_own_values_alone():
    data = zoo.Batch.from_arrays(rows={"x": np.random.default_rng(0).uniform(0, 6, 20)})
    fit = zoo.fit(Bounded(), Largest, data, progress=False)
    assert fit.status == "solved"
    assert np.isfinite(fit.history["elbo"]).all()
