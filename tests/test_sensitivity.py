"""Prior sensitivity against conjugate models, where the posterior under every prior is known."""

import contract.entry_events as entry_events
import contract.entry_mixture as entry_mixture
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from pyro.nn import PyroModule
from scipy.stats import norm

import pyrozoo as zoo
from pyrozoo import Batch, LocalParams, ZooModel
from pyrozoo.criticism.sensitivity import _sensitivity, _shift, _Weighed, cjs_distance, prior_sensitivity, smoothed
from pyrozoo.modeling.guides import auto
from pyrozoo.models.ssmtl.entry import tiny

pytestmark = pytest.mark.usefixtures("double_precision")

LOC, SCALE, NOISE = 0.5, 1.2, 0.7


class Levels(ZooModel):
    """b ~ N(0.5, 1.2^2), one per group, or one in all, or one per component of y; y_n ~ N(b, 0.7^2)."""

    plate_dims = {"group": -1, "row": -1}

    def __init__(self, along="group", priors=None):
        super().__init__()
        self.along = along
        if along == "part":
            self.plate_dims = {"part": -1, "row": -1}
        self.set_priors(priors)

    def priors(self):
        return {"b": dist.Normal(LOC, SCALE)}

    def plate(self, name, *, sizes, **batch):
        return pyro.plate("part", 2, dim=-1) if name == "part" else super().plate(name, sizes=sizes, **batch)

    def forward(self, y, labelled, group, sizes, row=None, **_):
        if self.along:
            with self.plate(self.along, sizes=sizes):
                b = pyro.sample("b", self.prior("b"))
        else:
            b = pyro.sample("b", self.prior("b"))
        mean = b[..., group, None] if self.along == "group" else b[..., None, :] if self.along else b.expand(1, 1)
        with self.plate("row", sizes=sizes, row=row), poutine.mask(mask=labelled):
            pyro.sample("y", dist.Normal(mean, NOISE).expand(y.shape).to_event(1), obs=y)


class Exact(LocalParams, PyroModule):
    """The exact posterior of `Levels`."""

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        for name in ("mean", "sd"):
            self.register_buffer(name, torch.zeros({"group": 3, "part": 2, "": ()}[model.along]))

    def solve(self, train):
        seen = train["labelled"].double()
        y = train["y"] * seen[:, None]
        if self._model[0].along == "group":
            n, total = (torch.zeros(3).index_add(0, train["group"], v) for v in (seen, y[:, 0]))
        else:
            n, total = seen.sum(), y.sum(0) if self._model[0].along else y.sum()
        precision = 1 / SCALE**2 + n / NOISE**2
        self.mean.copy_((LOC / SCALE**2 + total / NOISE**2) / precision), self.sd.copy_(precision**-0.5)

    def forward(self, sizes, **_):
        along = self._model[0].along
        if along:
            with self._model[0].plate(along, sizes=sizes):
                pyro.sample("b", dist.Normal(self.mean, self.sd))
        else:
            pyro.sample("b", dist.Normal(self.mean, self.sd))


def levels(width=1):
    """Twelve rows in three groups, of which the last has no label; two more rows for prediction in each."""
    rng = np.random.default_rng(100)
    group, names = np.arange(12) % 3, np.array(["a", "b", "empty"])
    y = np.array([2.0, -1.0, 0.0])[group, None] + NOISE * rng.normal(size=(12, width))
    return Batch.from_arrays(
        rows={"y": y}, groups={"group": names[group]}, labels={"y": (group < 2) & (np.arange(12) < 6)},
        coords={"group": names}, name="levels", simulated=True,
    )  # fmt: skip


def fitted(along):
    data = levels(2 if along == "part" else 1)
    return zoo.fit(Levels(along), Exact, data), data


def changed(mean, sd, prior):
    """Posterior mean and sd (normal prior N(0.5, 1.2^2) exchanged for another normal one)."""
    precision = 1 / sd**2 - 1 / SCALE**2 + 1 / prior[1] ** 2
    return (mean / sd**2 - LOC / SCALE**2 + prior[0] / prior[1] ** 2) / precision, precision**-0.5


NORMAL = {  # every changed prior is a normal again
    "power 0.5": (LOC, SCALE * 2**0.5),
    "power 2": (LOC, SCALE / 2**0.5),
    "scale 1.5": (LOC, SCALE * 1.5),
    "other": (1.0, 1.0),
}


@pytest.mark.parametrize("along", ["group", "part", ""])
def test_conjugate_posteriors_under_every_prior(along):
    fit, data = fitted(along)
    found = prior_sensitivity(
        fit, data, "b", scales=[1.5], priors={"other": dist.Normal(1.0, 1.0)}, draws=300, progress=False
    )
    mean, sd = np.atleast_1d(fit.guide.mean.numpy()), np.atleast_1d(fit.guide.sd.numpy())
    for label, prior in NORMAL.items():
        exact = changed(mean, sd, prior)
        part = found.latents[found.latents["prior"] == label]
        assert part["reliable"].all(), part
        # The shift is known much better than the mean, of which both share the sampling error.
        np.testing.assert_array_less(abs(part["shift"] - (exact[0] - mean) / sd), 5 * part["shift_se"] + 1e-3)
        np.testing.assert_allclose(part["sd"] / part["base_sd"], exact[1] / sd, rtol=0.15)
        rows = found.predictions[found.predictions["prior"] == label]
        place = data["group"].numpy() if along == "group" else np.tile(np.arange(len(mean)), data.n_rows)
        np.testing.assert_array_less(abs(rows["shift"] - (exact[0] - mean)[place]), 5 * rows["shift_se"] + 1e-3)
        predictive = np.sqrt(exact[1] ** 2 + NOISE**2)[place]
        np.testing.assert_allclose(rows["sd"], predictive, rtol=0.15)
        np.testing.assert_allclose(rows["shift_sd"], rows["shift"] / rows["base_sd"])
    assert found.latents["factor"].isna().sum() == len(mean)


def test_standard_errors_are_those_of_repetition():
    values = torch.randn(300, 400, 1, generator=torch.Generator().manual_seed(0)) + 1.0  # 400 repetitions
    weights = (-0.5 * values**2).softmax(0)
    for spread in (None, values.std(0, unbiased=False)):
        shift, error = _shift(weights, values, spread)
        assert shift.mean().item() == pytest.approx(-0.5, abs=0.01)  # N(1, 1) times exp(-x^2 / 2) is N(1/2, 1/2)
        assert shift.std().item() == pytest.approx(error.mean().item(), rel=0.1)


def test_positions_and_rows_keep_their_names():
    fit, data = fitted("group")
    found = prior_sensitivity(fit, data.subset([0, 4, 5]), "b", draws=100, progress=False)
    assert found.index.index.tolist() == ["a", "b", "empty"]
    assert found.latents["group"].tolist() == ["a", "b", "empty"] * 2
    assert found.predictions.query("prior == 'power 2'")["row"].tolist() == [0, 1, 2]
    first = found.predictions.query("prior == 'power 2'")["khat"].tolist()
    assert len(set(first)) == 3  # each row has the weights of its own group


def test_a_prior_out_of_reach_is_flagged():
    fit, data = fitted("group")
    found = prior_sensitivity(fit, data, "b", factors=[], priors={"far": dist.Normal(LOC, 20 * SCALE)}, progress=False)
    part = found.latents.set_index("group")
    # Without data q is the prior, and the density ratio to a prior 20 times as wide has a Pareto tail near 1.
    assert part["reliable"].tolist() == [True, True, False]
    assert (found.predictions["reliable"] == (data["group"].numpy() < 2)).all()


def test_smoothed_weights_of_exact_quantiles_give_the_exact_moments():
    values = torch.as_tensor(norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    weights, k = smoothed((-(values**2) / 2)[:, None])  # N(0, 1) becomes N(0, 1 / 2)
    assert k[0] < 0
    assert weights.sum().item() == pytest.approx(1.0)
    assert (weights[:, 0] * values).sum().item() == pytest.approx(0.0, abs=1e-3)
    assert (weights[:, 0] * values**2).sum().item() == pytest.approx(0.5, rel=1e-3)


def test_smoothing_tames_a_heavy_tail_and_leaves_the_rest():
    generator = torch.Generator().manual_seed(0)
    ratios = 0.6 * -torch.rand(2000, generator=generator).log()  # Pareto tail 0.6, mean 2.5
    errors = {"raw": [], "smoothed": []}
    for part in ratios.reshape(20, 100):
        weights, _ = smoothed(part[:, None])
        raw = part.exp() / part.exp().sum()
        errors["raw"].append(raw.max().item()), errors["smoothed"].append(weights.max().item())
        kept = part.argsort()[:80]
        torch.testing.assert_close(weights[kept, 0] / weights[kept[-1], 0], raw[kept] / raw[kept[-1]])
    assert np.std(errors["smoothed"]) < np.std(errors["raw"])
    weights, k = smoothed(torch.zeros(100, 1))
    torch.testing.assert_close(weights, torch.full((100, 1), 0.01))
    assert k[0] == float("-inf")


def test_distance_of_two_normals_is_the_integral():
    values = np.sort(norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    weights = norm.pdf(values, 0.3, 0.9) / norm.pdf(values)
    found = cjs_distance(torch.as_tensor(values)[:, None], torch.as_tensor(weights / weights.sum())[:, None]).item()
    grid = np.linspace(values[0], values[-1], 200_001)

    def distance(p, q):
        total = (p * np.log2(2 * p / (p + q)) + q * np.log2(2 * q / (p + q))).mean()
        return np.sqrt(total / (p + q).mean())

    p, q = norm.cdf(grid), norm.cdf(grid, 0.3, 0.9)
    exact = max(distance(p, q), distance(norm.sf(grid), norm.sf(grid, 0.3, 0.9)))
    assert found == pytest.approx(exact, rel=2e-3)
    uniform = torch.full((100, 1), 0.01)
    assert cjs_distance(torch.randn(100, 1), uniform).item() == pytest.approx(0.0, abs=1e-7)


def test_index_is_the_derivative_of_the_distance():
    mean, sd = 1.0, 0.5
    values = torch.as_tensor(mean + sd * norm.ppf((np.arange(300) + 0.5) / 300))[:, None]
    total = 0.0
    for power in (1.01, 1 / 1.01):
        ratios = dist.Normal(*changed(mean, sd, (LOC, SCALE * power**-0.5))).log_prob(values)
        total += cjs_distance(values, (ratios - dist.Normal(mean, sd).log_prob(values)).softmax(0)).item()
    weighed = _Weighed("", values[:, :, None], {"": dist.Normal(LOC, SCALE).log_prob(values)})
    assert _sensitivity(weighed).item() == pytest.approx(total / (2 * np.log2(1.01)), rel=1e-9)


def test_index_tells_where_there_are_data():
    fit, data = fitted("group")
    index = prior_sensitivity(fit, data, "b", draws=100, progress=False).index[0]
    assert index["empty"] > max(index["a"], index["b"])
    assert index["empty"] > 0.05


def test_a_gamma_prior_to_a_power_is_a_gamma():
    data, _ = entry_events.tiny()
    fit = zoo.fit(entry_events.Events(), entry_events.Conjugate, data)
    found = prior_sensitivity(fit, data, "rate", factors=[1.5], draws=300, progress=False)
    shape, rate = fit.guide.a.numpy(), fit.guide.b.numpy()
    sd = np.sqrt(shape) / rate
    exact = ((shape + 0.5) / (rate + 0.5) - shape / rate) / sd  # Gamma(2, 1)^1.5 is Gamma(2.5, 1.5)
    np.testing.assert_array_less(abs(found.latents["shift"] - exact), 5 * found.latents["shift_se"] + 1e-3)
    assert found.predictions.empty  # this model predicts nothing
    flat = prior_sensitivity(fit, data, "share", draws=100, progress=False)  # its prior is flat
    assert abs(flat.latents["shift"]).max() < 1e-9
    assert flat.index.to_numpy().max() < 1e-5


def test_classes_of_an_enumerated_target_move_with_the_level_of_their_group():
    data, _ = entry_mixture.tiny()
    model = entry_mixture.Mixture(**entry_mixture.Mixture.sizes_from(data))
    fit = zoo.fit(model, entry_mixture.MeanField, data, steps=20, progress=False)
    found = prior_sensitivity(fit, data, "b", scales=[2.0], draws=100, progress=False)
    assert found.predictions["component"].unique().tolist() == ["low", "high"]
    shares = found.predictions.groupby(["prior", "row"])[["base_mean", "mean", "shift"]].sum()
    np.testing.assert_allclose(shares["mean"], 1.0)
    np.testing.assert_allclose(shares["shift"], 0.0, atol=1e-12)
    with pytest.raises(KeyError, match=r"'k' is no latent with a prior that the guide samples; there are \['b'\]"):
        prior_sensitivity(fit, data, "k", progress=False)


@pytest.fixture(scope="module")
def ssmtl():
    data, arguments = tiny(0)
    return zoo.fit(zoo.create_model("ssmtl", data, **arguments), "paper", data, steps=30, progress=False), data


@pytest.mark.parametrize(("site", "positions"), [("c", 3), ("z", 30)])
def test_contexts_and_row_states(ssmtl, site, positions):
    fit, data = ssmtl
    state = torch.get_rng_state()
    found = prior_sensitivity(fit, data, site, draws=100, scales=[2.0], factors=[0.25, 2.0], progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    size = {"c": 2, "z": 5}[site]
    assert len(found.latents) == 3 * positions * size
    assert len(found.predictions) == 3 * data.n_rows
    assert found.predictions["component"].unique().tolist() == ["flow_m3_per_h"]
    by_prior = found.latents.set_index("prior")  # the standard normal to the power 1/4 is N(0, 2^2)
    np.testing.assert_allclose(by_prior.loc["power 0.25", "mean"], by_prior.loc["scale 2", "mean"], rtol=1e-3)
    if site == "z":
        return
    again = prior_sensitivity(fit, data, site, draws=100, scales=[2.0], factors=[0.25, 2.0], progress=False)
    pd.testing.assert_frame_equal(again.latents, found.latents, check_exact=True)
    pd.testing.assert_frame_equal(again.predictions, found.predictions, check_exact=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"site": "d"}, KeyError, r"'d' is no latent with a prior that the guide samples; there are \['c', 'z'\]"),
        ({"factors": [0.0]}, ValueError, "power 0.0: a factor is a positive number"),
        ({"scales": [np.inf]}, ValueError, "scale inf: a factor is a positive number"),
        ({"factors": []}, ValueError, "nothing to change: give factors, scales or priors"),
        ({"draws": 50}, ValueError, "draws: 50 are too few to weigh"),
        ({"priors": {"wide": "Normal(0, 2)"}}, TypeError, "prior 'wide': str is no distribution"),
        ({"priors": {"power 2": dist.Normal(0.0, 2.0)}}, ValueError, "prior 'power 2': the name is taken"),
        ({"priors": {"g": dist.Gamma(1.0, 1.0)}}, ValueError, "prior of 'c': support"),
        ({"priors": {"g": dist.Normal(torch.zeros(3), 1.0).to_event(1)}}, ValueError, "prior of 'c': event shape"),
    ],
)
def test_bad_arguments_are_named(ssmtl, options, error, message):
    with pytest.raises(error, match=message):
        prior_sensitivity(*ssmtl, **{"draws": 100, "progress": False, **options})


def test_what_has_no_scale_or_no_spread_is_refused(ssmtl):
    data, _ = entry_events.tiny()
    fit = zoo.fit(entry_events.Events(), entry_events.Conjugate, data)
    with pytest.raises(ValueError, match="Gamma has no scale to change"):
        prior_sensitivity(fit, data, "rate", scales=[2.0], draws=100, progress=False)
    levels_at_a_point = zoo.fit(Levels("group"), auto(AutoDelta), levels(), steps=1, progress=False)
    with pytest.raises(ValueError, match="holds 'b' at a point"):
        prior_sensitivity(levels_at_a_point, levels(), "b", draws=100, progress=False)
