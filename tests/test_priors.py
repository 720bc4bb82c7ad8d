import json
from pathlib import Path

import contract.entry_events as entry_events
import contract.entry_mixture as entry_mixture
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import nn

import pyrozoo as zoo
from pyrozoo import priors
from pyrozoo.modeling.guides import auto
from pyrozoo.modeling.priors import LearnedScale, Mixture
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.posterior.drawing import prior_predictive


@pytest.fixture(scope="module")
def data():
    return simulate(n_units=3, n_labelled=2, n_unlabelled=2, n_test=1)[0]


def make(data, **prior):
    return zoo.create_model("ssmtl", data, c_dim=2, z_dim=3, width=4, depth=1, priors=prior)


# ---------------------------------------------------------------- from text
@pytest.mark.parametrize(
    ("text", "family", "arguments"),
    [
        ("Normal(0, 2)", dist.Normal, {"loc": 0.0, "scale": 2.0}),
        (" StudentT(4, 0, 1.5) ", dist.StudentT, {"df": 4.0, "loc": 0.0, "scale": 1.5}),
        ("Normal(loc=-1e-1, scale=2)", dist.Normal, {"loc": -0.1, "scale": 2.0}),
        ("Laplace(+1, scale=2)", dist.Laplace, {"loc": 1.0, "scale": 2.0}),
        ("Gamma(2, rate=3)", dist.Gamma, {"concentration": 2.0, "rate": 3.0}),
    ],
)
def test_text_is_read_as_a_distribution_of_numbers(text, family, arguments):
    prior = priors.parse(text)
    assert type(prior) is family
    for name, value in arguments.items():
        torch.testing.assert_close(getattr(prior, name), torch.tensor(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Normal",
        "Normal(0, 1",
        "Normal(0, x)",
        "Normal(0, 'one')",
        "Normal(0, '1')",
        "Normal([0], 1)",
        "Normal(0, 1e999)",
        f"Normal(0, 1{'0' * 400})",
        f"Normal({'-' * 100_000}1, 1)",
        "(" * 5_000,
        "\0",
        "Normal(0, 1, **{'scale': 2})",
        "Normal(*[0, 1])",
        "Normal(0, 1); Normal(0, 2)",
        "dist.Normal(0, 1)",
        "(lambda: 1)(2)",
        "__import__('os').system('x')",
        '__import__("os").system("touch x")',
        "Normal(__import__('os').getpid(), 1)",
        "Normal(0, scale=open('x', 'w'))",
        "[Normal(0, 1) for _ in range(3)]",
        "Normal(0, (1).__class__.__base__)",
    ],
)
def test_text_that_is_not_a_call_with_numbers_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"prior .* is not a distribution with numbers as arguments; write it like"):
        priors.parse(text)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["Norml", "eval", "torch", "__import__", "Distribution", "enable_validation"])
def test_only_distributions_of_pyro_are_called(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a distribution of pyro.distributions"):
        priors.parse(f"{name}(0, 1)")
    with pytest.raises(ValueError, match=f"'{name}' is not a distribution of pyro.distributions"):
        priors.from_json({"name": name, "arguments": {"loc": 0.0}, "event_dims": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Normal(0)", "prior Normal: .*'scale'"),
        ("Normal(0, -1)", "prior Normal: .*scale"),
        ("Normal(0, 1, 2)", r"prior Normal: its arguments are \['loc', 'scale'\]"),
        ("Normal(0, -1, validate_args=0)", r"prior Normal: its arguments are \['loc', 'scale'\]"),
        ("Normal(mean=0, scale=1)", r"prior Normal: its arguments are \['loc', 'scale'\]"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        priors.parse(text)


@pytest.mark.parametrize("name", sorted(name for name in dir(dist) if name[0].isupper()))
def test_every_name_in_pyro_is_a_distribution_or_a_value_error(name):
    for count in range(5):
        text = f"{name}({', '.join(['0.5'] * count)})"
        try:
            assert isinstance(priors.parse(text), TorchDistributionMixin)
        except ValueError as error:
            if name not in str(error):
                raise


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.one_of(st.text(), st.from_regex(r"[A-Z][a-zA-Z]{0,8}\([-0-9a-z=_, .'\[\]]{0,20}\)")))
def test_any_text_is_a_distribution_or_a_value_error(text):
    try:
        assert isinstance(priors.parse(text), TorchDistributionMixin)
    except ValueError as error:
        if "distribution" not in str(error) and "prior" not in str(error):
            raise


# ---------------------------------------------------------------- to and from JSON
LEARNABLE = dist.Normal(nn.Parameter(torch.zeros(())), 1.0)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.1, 2.0),
        dist.StudentT(4.0, 0.0, 1.0).expand([3]).to_event(1),
        dist.Normal(torch.randn(2, 3), 1.0).to_event(2),
        dist.Laplace(torch.tensor([0.1, 0.2]), 1.0),
        dist.Gamma(2.0, 3.0),
        dist.Bernoulli(0.3),
        dist.Categorical(logits=torch.tensor([0.1, 0.7])),
        dist.Dirichlet(torch.tensor([0.5, 1.5])),
        dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_a_prior_comes_back_from_json_with_the_same_density_also_after_use(prior):
    value = prior.sample()
    density = prior.log_prob(value)  # torch caches what it computes on the way in the distribution
    back = priors.from_json(json.loads(json.dumps(priors.to_json(prior))))
    assert type(back) is type(prior)
    assert (back.batch_shape, back.event_shape) == (prior.batch_shape, prior.event_shape)
    torch.testing.assert_close(back.log_prob(value), density)


@pytest.mark.parametrize(
    "prior",
    [
        LEARNABLE,
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [torch.distributions.transforms.ExpTransform()]),
        dist.Normal(0.0, 1.0).mask(False),
        torch.distributions.Normal(0.0, 1.0),
        nn.Linear(1, 1),
        lambda: dist.Normal(0.0, 1.0),
        "Normal(0, 1)",
        3.0,
    ],
    ids=["learnable", "transformed", "masked", "not of pyro", "module", "function", "text", "number"],
)
def test_what_json_cannot_hold_is_none(prior):
    assert priors.to_json(prior) is None


# ---------------------------------------------------------------- into a model
def test_a_scalar_prior_is_broadcast_to_the_sites_event(data):
    prior = make(data, c=dist.StudentT(4.0, 0.0, 1.0)).prior("c")
    assert prior.event_shape == (2,)
    assert prior.batch_shape == ()
    value = torch.tensor([0.3, -0.4])
    torch.testing.assert_close(prior.log_prob(value), dist.StudentT(4.0, 0.0, 1.0).log_prob(value).sum())


def test_a_prior_replaces_only_its_own_site(data):
    model = make(data, z=dist.Laplace(0.0, 2.0))
    default = make(data)
    value = torch.tensor([0.1, 0.2])
    torch.testing.assert_close(model.prior("c").log_prob(value), default.prior("c").log_prob(value))
    z = torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(model.prior("z").log_prob(z), dist.Laplace(0.0, 2.0).log_prob(z).sum())


def test_an_unknown_site_is_an_error_that_lists_the_sites(data):
    with pytest.raises(KeyError, match=r"unknown prior site\(s\) \['d'\]; this model has \['c', 'z'\]"):
        make(data, d=dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (dist.Normal(torch.zeros(3), 1.0).to_event(1), r"prior of 'c': event shape \(3,\).*expected event shape \(2"),
        (dist.Normal(torch.zeros(2), 1.0), r"prior of 'c': event shape \(\) with batch shape \(2,\).*\.to_event\(\)"),
        (dist.Normal(torch.zeros(5, 2), 1.0).to_event(1), r"prior of 'c': .*batch shape \(5,\)"),
        (dist.Gamma(2.0, 1.0), r"prior of 'c': support .*GreaterThan.*, expected .*Real"),
        (dist.Uniform(0.0, 1.0), r"prior of 'c': support .*Interval"),
        (dist.Poisson(1.0), r"prior of 'c': support"),
    ],
)
def test_wrong_shape_or_support_is_an_error_at_once(data, prior, message):
    with pytest.raises(ValueError, match=message):
        make(data, c=prior)


def test_what_is_no_prior_is_an_error(data):
    with pytest.raises(TypeError, match="prior of 'c': str is neither a distribution nor callable"):
        make(data, c="Normal(0, 1)")


def test_a_multivariate_prior_of_the_right_shape_is_accepted(data):
    prior = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    assert make(data, c=prior).prior("c").event_shape == (2,)


class Learnable(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


class LearnablePyro(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


@pytest.mark.parametrize("kind", [Learnable, LearnablePyro])
def test_a_learnable_prior_is_trained_and_the_one_given_is_not_touched(data, kind):
    given = kind()
    model = make(data, c=given)
    loss = model.elbo().differentiable_loss(model, zoo.create_guide(model, "paper"), **data)
    loss.backward()
    assert torch.isfinite(given.loc.grad).all()
    assert given.loc.grad.any()

    fit = zoo.fit(model, "paper", data, steps=5, lr=0.1, progress=False)
    assert fit.model.prior_modules["c"].loc.all()
    assert not given.loc.any()
    again = zoo.fit(model, "paper", data, steps=5, lr=0.1, progress=False)
    assert torch.equal(again.model.prior_modules["c"].loc, fit.model.prior_modules["c"].loc)


def test_what_a_callable_returns_is_checked_when_it_is_used(data):
    model = make(data, c=lambda: dist.Gamma(1.0, 1.0))
    with pytest.raises(ValueError, match="prior of 'c': support"):
        model.prior("c")
    assert make(data, c=lambda: dist.StudentT(4.0, 0.0, 1.0)).prior("c").event_shape == (2,)


# ---------------------------------------------------------------- priors that learn
LEARNED = {
    "one scale": lambda: LearnedScale(),
    "a scale each": lambda: LearnedScale(2, dist.StudentT(4.0, 0.0, 2.0)),
    "mixture": lambda: Mixture(3, 2, spread=0.5, seed=1),
    "mixture of each dimension": lambda: Mixture(2),
}


def test_a_learned_scale_starts_at_its_base():
    value = torch.randn(5, 2)
    found, base = LearnedScale(2, dist.StudentT(4.0, 0.5, 2.0))(), dist.StudentT(4.0, 0.5, 2.0)
    torch.testing.assert_close(found.log_prob(value), base.log_prob(value).sum(-1))
    module = LearnedScale(2)
    with torch.no_grad():
        module.log_scale += torch.tensor([0.0, 1.0])
    torch.testing.assert_close(module().stddev, torch.tensor([1.0, np.e]))


def test_a_mixture_is_the_sum_of_its_populations_and_starts_apart():
    module = Mixture(3, 2, spread=0.5, seed=1)
    with torch.no_grad():
        module.logits += torch.tensor([0.0, 1.0, 2.0])
        module.log_scales += 0.3
    value = torch.randn(5, 2)
    parts = dist.Normal(module.locs, module.log_scales.exp()).log_prob(value[:, None]).sum(-1)
    torch.testing.assert_close(module().log_prob(value), (parts + module.logits.log_softmax(0)).logsumexp(-1))
    torch.testing.assert_close(module.locs.std(0, unbiased=False), torch.full((2,), 0.5))
    torch.testing.assert_close(module.locs.mean(0), torch.zeros(2))
    assert torch.equal(Mixture(3, 2, seed=1).locs, Mixture(3, 2, seed=1).locs)
    assert not torch.equal(Mixture(3, 2, seed=1).locs, Mixture(3, 2, seed=2).locs)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("guide", ["paper", "amortized", "normal"])
def test_learned_priors_get_gradients_under_every_guide_minibatches_and_particles(data, kind, guide):
    fit = zoo.fit(
        make(data, c=LEARNED[kind]()), guide, data, steps=3, lr=0.01, particles=2,
        batch_size={"labelled": 2, "unlabelled": 2}, progress=False,
    )  # fmt: skip
    start = dict(LEARNED[kind]().named_parameters())
    for name, value in fit.model.prior_modules["c"].named_parameters():
        assert torch.isfinite(value).all()
        assert (value != start[name]).all(), name
    assert np.isfinite(zoo.draw(fit, data, draws=2, prior=True).groups["prior"]["c"]).all()


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_priors_are_saved_and_loaded_without_being_given_again(data, kind, tmp_path):
    fit = zoo.fit(make(data, c=LEARNED[kind]()), "paper", data, steps=3, lr=0.1, restarts=2, progress=False)
    back = zoo.load(fit.save(tmp_path / "run"))
    assert type(back.model.prior_modules["c"]) is type(fit.model.prior_modules["c"])
    value = torch.randn(2)
    for run, again in zip(fit.runs, back.runs, strict=True):
        assert torch.equal(run.model.prior("c").log_prob(value), again.model.prior("c").log_prob(value))
    ours, theirs = (zoo.draw(f, data, draws=2, prior=True).groups for f in (fit, back))
    np.testing.assert_array_equal(ours["prior"]["c"], theirs["prior"]["c"])
    fresh = back.model.fresh().prior_modules["c"].state_dict()  # starts from what was learned, as the fit's own does
    assert all(torch.equal(v, fresh[name]) for name, v in back.model.prior_modules["c"].state_dict().items())


def test_every_copy_starts_from_the_module_given(data):
    given = LearnedScale(2)
    with torch.no_grad():
        given.log_scale += 0.7
    fit = zoo.fit(make(data, c=given), "paper", data, steps=1, lr=0.0, lr_groups={}, restarts=2, progress=False)
    assert all(torch.equal(run.model.prior_modules["c"].log_scale, given.log_scale) for run in fit.runs)
    assert given.log_scale.grad is None


def test_learned_priors_of_a_group_plate_beside_enumerated_classes():
    data, _ = entry_mixture.tiny()
    for prior in (LearnedScale(), Mixture(2)):
        model = entry_mixture.Mixture(**entry_mixture.Mixture.sizes_from(data), priors={"b": prior})
        for guide in entry_mixture.GUIDES.values():
            fit = zoo.fit(model, guide, data, steps=3, lr=0.1, particles=2, batch_size=5, progress=False)
            for name, value in fit.model.prior_modules["b"].named_parameters():
                assert (value != dict(prior.named_parameters())[name]).all()
            assert prior_predictive(fit, data, draws=2).groups["prior"]["b"].shape == (1, 2, 3)


def test_a_learned_prior_of_another_support_is_refused():
    with pytest.raises(ValueError, match="prior of 'rate': support"):
        entry_events.Events(priors={"rate": LearnedScale(3)})


@pytest.mark.parametrize(
    ("make_prior", "message"),
    [
        (lambda: LearnedScale(base=dist.Gamma(1.0, 1.0)), "Gamma has no scale to change"),
        (lambda: LearnedScale(base=dist.LogNormal(0.0, 1.0)), "LogNormal"),
        (lambda: LearnedScale(base=dist.Normal(torch.zeros(2), 1.0)), "is not a scalar distribution of numbers"),
        (lambda: LearnedScale(base=LEARNABLE), "is not a scalar distribution of numbers"),
        (lambda: Mixture(1), "components: 1; a mixture has at least 2"),
    ],
)
def test_a_learned_prior_that_makes_no_sense_is_refused(make_prior, message):
    with pytest.raises(ValueError, match=message):
        make_prior()


class Levels(zoo.ZooModel):
    """b_g from the prior, y_gn ~ N(b_g, 0.5^2); the marginal likelihood of a normal prior is known."""

    plate_dims = {"group": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"b": dist.Normal(0.0, 1.0)}

    def forward(self, y, group, sizes, row=None, **_):
        with self.plate("group", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(b[..., group], 0.5), obs=y)


def levels(b, seed, n=4):
    group = np.repeat(np.arange(len(b)), n)
    y = b[group] + 0.5 * np.random.default_rng(seed).normal(size=len(group))
    return zoo.Batch.from_arrays(rows={"y": y}, groups={"group": group}, name="levels", simulated=True)


def learned(prior, data, batch_size=None):
    settings = {"steps": 400, "lr": 5e-2, "schedule": "linear", "particles": 4, "progress": False}
    settings |= {} if batch_size is None else {"batch_size": batch_size}
    return zoo.fit(Levels(priors={"b": prior}), auto(init_scale=0.3), data, **settings).model.prior("b")


@pytest.mark.parametrize(
    ("tau", "batch_size"), [(0.3, None), pytest.param(3.0, None, marks=pytest.mark.slow), (3.0, 80)]
)
def test_a_scale_shrinks_or_grows_to_that_of_maximum_marginal_likelihood(tau, batch_size):
    data = levels(tau * np.random.default_rng(100).normal(size=40), 100)
    means = data["y"].reshape(40, 4).mean(1).numpy()
    exact = np.sqrt((means**2).mean() - 0.5**2 / 4)  # means ~ N(0, tau^2 + 0.5^2 / 4)
    assert learned(LearnedScale(), data, batch_size).scale.item() == pytest.approx(exact, rel=0.07)


@pytest.mark.parametrize("seed", [100, pytest.param(101, marks=pytest.mark.slow)])
def test_a_mixture_finds_two_populations(seed):
    rng = np.random.default_rng(seed)
    second = rng.random(60) < 0.3
    data = levels(np.where(second, 2.0, -2.0) + 0.4 * rng.normal(size=60), seed)
    found = learned(Mixture(2), data)
    normals, order = found.component_distribution, found.component_distribution.loc.argsort().tolist()
    np.testing.assert_allclose(normals.loc.detach()[order], [-2.0, 2.0], atol=0.3)
    np.testing.assert_allclose(normals.scale.detach(), 0.4, atol=0.2)
    np.testing.assert_allclose(found.mixture_distribution.probs.detach()[order[1]], second.mean(), atol=0.02)
