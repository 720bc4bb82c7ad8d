"""A guide that is given is the guide that is used, or an error that says what to give instead."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

import pyrozoo as zoo
from pyrozoo import priors
from pyrozoo.modeling import registry


def tiny(entry, variant=None, **more):
    parts = registry.entry(entry).parts
    data, arguments = parts.tiny(0)
    variant = variant or next(iter(parts.VARIANTS))
    known = parts.VARIANTS[variant].__init__.__code__.co_varnames
    arguments = {k: v for k, v in arguments.items() if k in known}
    return data, zoo.create_model(entry, data, variant=variant, **arguments, **more)


@pytest.mark.parametrize(("entry", "variant"), [("auxvae", None), ("m3sense", "latent"), ("ssmtl", "ssl-vae")])
def test_an_autoguide_with_nothing_to_cover_is_refused_by_name(entry, variant):
    data, model = tiny(entry, variant)
    message = (
        f"no latent of {type(model).__name__} lies outside the {model.rows}s, .* AutoMultivariateNormal could cover"
    )
    with pytest.raises(ValueError, match=message):
        zoo.fit(model, autoguide.AutoMultivariateNormal, data, steps=1, progress=False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("AutoContinuous", "base class.*such as AutoMultivariateNormal"),
        ("AutoGuideList", "opens the plates by itself"),
        ("AutoDiscreteParallel", "discrete latents, which the zoo's models sum out"),
        ("AutoCallable", "give a factory"),
        ("AutoLaplaceApproximation", "would leave out the latents of the rows.*give AutoMultivariateNormal"),
    ],
)
def test_autoguides_that_cannot_work_say_so_in_one_line(kind, message):
    data, model = tiny("ssmtl")
    with pytest.raises(ValueError, match=f"{kind} is no guide for this model: .*{message}") as error:
        zoo.fit(model, getattr(autoguide, kind), data, steps=1, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "guide", [lambda model: autoguide.AutoNormal(model), autoguide.AutoNormal], ids=["factory", "made"]
)
def test_a_bare_autoguide_is_told_to_pass_the_class(guide):
    data, model = tiny("medication")
    guide = guide(model) if isinstance(guide, type) else guide
    with pytest.raises(ValueError, match=r"pass the class, zoo.fit\(model, AutoNormal, data\), or zoo.guides.auto"):
        zoo.fit(model, guide, data, steps=1, progress=False)


class Forgets(zoo.ZooGuide):
    """Samples only the named latents, at their priors."""

    def __init__(self, model, keeps=()):
        super().__init__(model)
        self.keeps = keeps

    def forward(self, **batch):
        for name in self.keeps:
            pyro.sample(name, self.model.prior(name))


@pytest.mark.parametrize(
    ("entry", "forgotten"),
    [
        ("ssmtl", r"\['c', 'y_unobserved', 'z'\]"),
        ("auxvae", r"\['z'\]"),
        ("m3sense", r"\['a_anxiety', 'a_emotion', 'a_stress'\]"),
        ("medication", r"\['duration_mean', 'duration_sd', .*'stick'\]"),
    ],
)
def test_latents_that_a_guide_forgets_are_an_error_with_their_names(entry, forgotten):
    data, model = tiny(entry)
    with pytest.raises(ValueError, match=f"guide: it does not sample {forgotten}"):
        zoo.fit(model, Forgets, data, steps=1, progress=False)


def test_what_the_guide_does_sample_is_not_named():
    data, model = tiny("medication", "frame-hmm")
    with pytest.raises(ValueError, match=r"does not sample \['initial'\]"):
        zoo.fit(model, lambda own: Forgets(own, ("A",)), data, steps=1, progress=False)


def test_the_check_uses_no_random_numbers_and_no_parameters():
    data, model = tiny("medication")
    settings = {"steps": 2, "batch_size": None, "progress": False}
    first, again = (zoo.fit(model, autoguide.AutoNormal, data, **settings) for _ in range(2))
    for own, other in zip(first.guide.parameters(), again.guide.parameters(), strict=True):
        assert torch.equal(own, other)


def test_torch_distributions_as_priors_are_named():
    with pytest.raises(TypeError, match=r"'c': torch.distributions.StudentT; give pyro.distributions.StudentT"):
        tiny("ssmtl", priors={"c": torch.distributions.StudentT(4.0)})


# A family of the same support for every default prior.
OTHERS = {
    "Normal": lambda p: dist.StudentT(5.0, 0.0, 2.0),
    "Beta": lambda p: dist.Beta(2.0, 3.0),
    "Gamma": lambda p: dist.LogNormal(0.0, 1.0),
    "LogNormal": lambda p: dist.Gamma(2.0, 1.0),
    "Dirichlet": lambda p: dist.Dirichlet(torch.full(p.event_shape, 3.0)).to_event(len(p.event_shape) - 1),
}


# What the command line and a run directory hold of them; arguments that are lists have no text.
TEXTS = {
    "Normal": "StudentT(5, 0, 2)",
    "Beta": "Beta(2, 3)",
    "Gamma": "LogNormal(0, 1)",
    "LogNormal": "Gamma(2, 1)",
}


class Learned(torch.nn.Module):
    """A module with a parameter, whose prior is the other family."""

    def __init__(self, other):
        super().__init__()
        self.other, self.weight = other, torch.nn.Parameter(torch.zeros(()))

    def forward(self, *parents):
        return self.other


def base(prior):
    while isinstance(prior, torch.distributions.Independent):
        prior = prior.base_dist
    return prior


every_model = pytest.mark.parametrize(
    ("entry", "variant"),
    [
        ("ssmtl", "ssmtl"),
        ("auxvae", "auxvae"),
        ("m3sense", "latent"),
        ("medication", None),
        ("medication", "frame-hmm"),
    ],
)


@pytest.mark.parametrize("how", ["distribution", "module", "callable"])
@every_model
def test_every_prior_of_every_entry_can_be_swapped(entry, variant, how):
    _, model = tiny(entry, variant)
    defaults = model.priors()
    others = {site: OTHERS[type(base(prior)).__name__](prior) for site, prior in defaults.items()}
    make = {"distribution": lambda other: other, "module": Learned, "callable": lambda other: lambda *parents: other}[
        how
    ]
    _, swapped = tiny(entry, variant, priors={site: make(other) for site, other in others.items()})
    for site, other in others.items():
        prior, value = swapped.prior(site), defaults[site].sample()
        assert prior.event_shape == defaults[site].event_shape
        assert torch.allclose(prior.log_prob(value).sum(), other.log_prob(value).sum()), site


@every_model
def test_every_prior_of_every_entry_can_be_given_as_text_and_as_json(entry, variant):
    _, model = tiny(entry, variant)
    families = {site: type(base(prior)).__name__ for site, prior in model.priors().items()}
    text = {site: priors.parse(TEXTS[family]) for site, family in families.items() if family in TEXTS}
    lists = {site for site, family in families.items() if family not in TEXTS}
    assert lists <= {"A", "initial"}  # Dirichlet
    more = {site: OTHERS["Dirichlet"](model.priors()[site]) for site in lists}
    given = text | more
    _, swapped = tiny(entry, variant, priors=given)
    held = {site: priors.from_json(json.loads(json.dumps(priors.to_json(prior)))) for site, prior in given.items()}
    _, again = tiny(entry, variant, priors=held)
    for site in families:
        prior, back = swapped.prior(site), again.prior(site)
        assert prior.event_shape == back.event_shape == model.prior(site).event_shape
        if not prior.event_shape.numel():  # a site without elements, of a process without such pairs
            continue
        assert type(base(prior)) is type(base(given[site]))
        value = prior.sample()
        assert torch.allclose(back.log_prob(value), prior.log_prob(value)), site


class Line(zoo.ZooModel):
    """y_n ~ N(a + b x_n, 1) with a, b ~ N(0, 1), and a scale s ~ LogNormal(0, 1) that no data inform."""

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(0.0, 1.0), "s": dist.LogNormal(0.0, 1.0)}

    def forward(self, x, y=None, **batch):
        a, b, _ = (pyro.sample(name, self.prior(name)) for name in self.priors())
        with self.plate("row", **batch):
            pyro.sample("y", dist.Normal(a[..., None] + b[..., None] * x, 1.0), obs=y)


@pytest.fixture(scope="module")
def laplace():
    x = torch.linspace(0.0, 2.0, 12)
    data = zoo.Batch.from_arrays(rows={"x": x, "y": 1.0 + 0.5 * x})
    fit = zoo.fit(
        Line(), autoguide.AutoLaplaceApproximation, data, steps=400, lr=0.05, schedule="linear", progress=False
    )
    return fit, data, x


def test_the_laplace_approximation_of_a_normal_posterior_is_the_posterior(laplace):
    fit, data, x = laplace
    design = torch.stack([torch.ones(12), x], 1)
    precision = design.T @ design + torch.eye(2)
    exact, mean = precision.inverse(), precision.inverse() @ design.T @ data["y"]
    guide = fit.guide.auto
    assert torch.allclose(guide.loc[:2], mean, atol=0.01)
    covariance = guide.scale_tril @ guide.scale_tril.T
    assert torch.allclose(covariance[:2, :2], exact, rtol=0.01, atol=1e-4)
    assert covariance[2, 2].item() == pytest.approx(1.0, rel=0.01)  # log s ~ N(0, 1)
    drawn = zoo.draw(fit, data, draws=100, sites=["b"], predictive=False).groups["posterior"]["b"]
    assert drawn.std() == pytest.approx(exact[1, 1].sqrt().item(), rel=0.3)
    assert zoo.khat(fit, per="global", draws=100).item() < 0.5


def test_the_laplace_approximation_is_saved_and_loaded(laplace, tmp_path):
    fit, data, _ = laplace
    back = zoo.load(fit.save(tmp_path / "run"), model=Line())
    assert torch.equal(back.guide.auto.scale_tril, fit.guide.auto.scale_tril)
    ours, theirs = (zoo.draw(one, data, draws=5).groups["posterior"]["a"] for one in (fit, back))
    assert (ours == theirs).all()


class Square(Line):
    """y ~ N(a^2, 0.1^2): between its two roots the log density of a curves upwards."""

    def forward(self, x, y=None, **batch):
        a, *_ = (pyro.sample(name, self.prior(name)) for name in self.priors())
        with self.plate("row", **batch):
            pyro.sample("y", dist.Normal(a[..., None] ** 2, 0.1), obs=y)


def test_the_laplace_approximation_is_refused_at_a_point_that_is_no_maximum():
    data = zoo.Batch.from_arrays(rows={"x": torch.zeros(1), "y": torch.full((1,), 4.0)})
    start = {"a": torch.tensor(0.0), "b": torch.tensor(0.0), "s": torch.tensor(1.0)}
    guide = zoo.guides.auto(autoguide.AutoLaplaceApproximation, init_loc_fn=autoguide.init_to_value(values=start))
    with pytest.raises(ValueError, match="no maximum of the log density"):
        zoo.fit(Square(), guide, data, steps=1, lr=1e-6, progress=False)


def test_the_laplace_approximation_is_refused_of_a_cut_posterior():
    data, model = tiny("medication")
    with pytest.raises(ValueError, match="AutoLaplaceApproximation is no guide for this model: the posterior is cut"):
        zoo.fit(model, autoguide.AutoLaplaceApproximation, data, steps=1, progress=False)
