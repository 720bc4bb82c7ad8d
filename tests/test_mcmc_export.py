"""Pyro's MCMC in the same ArviZ object as a fit."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyrozoo as zoo


class Levels(zoo.ZooModel):
    """c_i ~ N(0, 1), y_n ~ N(c_i, 1): the posterior of c_i is N(sum y / (n + 1), 1 / (n + 1))."""

    plate_dims = {"unit": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"c": dist.Normal(0.0, 1.0)}

    def forward(self, unit, sizes, y=None, labelled=None, **batch):
        with self.plate("unit", sizes=sizes, **batch):
            c = pyro.sample("c", self.prior("c"))
        with self.plate("row", sizes=sizes, **batch):
            pyro.sample("y", dist.Normal(c[unit], 1.0).mask(labelled), obs=y)


@pytest.fixture(scope="module")
def data():
    y = [1.0, 3.0, -1.0, 0.0]
    return zoo.Batch.from_arrays(
        rows={"y": y}, groups={"unit": list("aabb")}, labels={"y": [True, True, True, False]}, dtype=torch.float64
    )


@pytest.fixture(scope="module")
def mcmc(data):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setattr("pyro.infer.mcmc.api.mp.cpu_count", lambda: 1)  # one chain after the other, in this process
        found = MCMC(NUTS(Levels()), num_samples=40, warmup_steps=20, num_chains=2, disable_progbar=True)
    pyro.set_rng_seed(0)
    found.run(**data)
    return found


def test_all_groups_belong_to_the_samples(mcmc, data):
    state = torch.get_rng_state()
    idata = zoo.to_arviz(mcmc, data, prior=True)
    assert torch.equal(torch.get_rng_state(), state)
    c = idata["posterior"]["c"]
    assert c.dims == ("chain", "draw", "unit")
    np.testing.assert_array_equal(c.values, mcmc.get_samples(group_by_chain=True)["c"].numpy())
    assert c["unit"].values.tolist() == ["a", "b"]
    np.testing.assert_allclose(c.mean(("chain", "draw")), [4 / 3, -1 / 2], atol=0.3)
    y = idata["observed_data"]["y"].values
    expected = dist.Normal(torch.tensor(c.values)[..., [0, 0, 1]], 1.0).log_prob(torch.tensor(y))
    np.testing.assert_allclose(idata["log_likelihood"]["y"].values, expected)
    np.testing.assert_allclose(idata["log_prior"]["c"].values, dist.Normal(0.0, 1.0).log_prob(torch.tensor(c.values)))
    joint = idata["log_prior"]["c"].values.sum(-1) + expected.numpy().sum(-1)
    np.testing.assert_allclose(idata["sample_stats"]["lp"].values, joint)
    assert idata["sample_stats"]["diverging"].dtype == bool
    assert "lq" not in idata["sample_stats"]
    assert idata["posterior_predictive"]["y"].sizes == {"chain": 2, "draw": 40, "y_row": 3}
    assert idata["prior"]["c"].sizes == c.sizes
    assert len(np.unique(idata["prior"]["c"].values)) == 160
    assert "r_hat" in zoo.summary(idata, "c")


def test_it_stands_beside_a_guide(mcmc, data):
    guide = zoo.fit(Levels(), zoo.guides.auto(), data, steps=5, progress=False)
    objects = {"NUTS": zoo.to_arviz(mcmc, data), "AutoNormal": zoo.to_arviz(guide, data, draws=20)}
    figure = zoo.plots.forest(objects, "c")
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(dots) == 4  # two units, two models
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["NUTS", "AutoNormal"]


def test_what_cannot_be_converted_is_named(mcmc, data):
    with pytest.raises(TypeError, match="all draws of MCMC are taken"):
        zoo.to_arviz(mcmc, data, draws=10)
    with pytest.raises(TypeError, match="give the data"):
        zoo.to_arviz(mcmc)
    more = zoo.Batch.from_arrays(rows={"y": [0.0] * 3}, groups={"unit": list("abc")}, labels={"y": [True] * 3})
    with pytest.raises(ValueError, match=r"MCMC drew 'c' with the shape \(2,\)"):
        zoo.to_arviz(mcmc, more)
    with pytest.raises(ValueError, match=r"call mcmc\.run"):
        zoo.to_arviz(MCMC(NUTS(Levels()), num_samples=1, disable_progbar=True), data)
    plain = MCMC(NUTS(lambda: pyro.sample("c", dist.Normal(0.0, 1.0))), num_samples=1, disable_progbar=True)
    with pytest.raises(TypeError, match="run it on a model of the zoo"):
        zoo.to_arviz(plain, data)


@pytest.mark.parametrize(("entry", "variant"), [("ssmtl", "ssmtl"), ("auxvae", "auxvae"), ("medication", "frame-hmm")])
@pytest.mark.slow
def test_models_of_the_zoo_with_missing_labels_enumerated_sites_and_recordings(entry, variant):
    from pyrozoo.modeling import registry

    data, arguments = registry.entry(entry).parts.tiny(0)
    family = registry.entry(entry).parts.VARIANTS[variant]
    known = family.__init__.__code__.co_varnames
    model = zoo.create_model(entry, data, variant=variant, **{k: v for k, v in arguments.items() if k in known})
    kernel = NUTS(model, max_tree_depth=2, max_plate_nesting=model.max_plate_nesting)
    found = MCMC(kernel, num_samples=5, warmup_steps=2, disable_progbar=True)
    pyro.set_rng_seed(0)
    found.run(**data)
    idata = zoo.to_arviz(found, data)
    guide = next(iter(zoo.card(entry).guides))
    settings = {} if guide == "closed-form" else {"steps": 1}
    fit = zoo.fit(model, guide, data, progress=False, **settings)
    beside = zoo.to_arviz(fit, data, draws=5)
    for group in ("posterior", "log_likelihood", "observed_data", "posterior_predictive", "log_prior"):
        assert {n: v.dims for n, v in idata[group].data_vars.items()} == {
            n: v.dims for n, v in beside[group].data_vars.items()
        }
