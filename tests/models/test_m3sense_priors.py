"""m3sense: priors and guides of the user's own, and whose data a window resembles."""

import functools
import inspect

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn
from torch.nn import functional

import pyrozoo as zoo
from pyrozoo.inference.copies import default_dtype, isolated
from pyrozoo.modeling.priors import LearnedScale, Mixture
from pyrozoo.models.m3sense import domain_probabilities
from pyrozoo.models.m3sense.entry import VARIANTS, tiny
from pyrozoo.models.m3sense.local_guide import PaperGuide

TASKS = {"anxiety": 2, "emotion": 2, "stress": 3}
CLASSIC, GENERATIVE = ("m3sense", "latent"), ("generative", "generative-domain")


@pytest.fixture(scope="module")
def data():
    return tiny()[0]


def make(data, variant, **arguments):
    taken = inspect.signature(VARIANTS[variant]).parameters
    sizes = {name: size for name, size in tiny()[1].items() if name in taken}
    return zoo.create_model("m3sense", data, variant=variant, **{**sizes, **arguments})


def fitted(data, variant, guide="paper", **arguments):
    return zoo.fit(make(data, variant, **arguments), guide, data, steps=3, progress=False)


@pytest.fixture(scope="module")
def plain(data):
    """Variant -> objective of a fit with the priors that it has."""
    return functools.cache(lambda variant: objective(fitted(data, variant)))


def objective(fit):
    values = np.asarray(fit.history["elbo"], float)
    assert len(values)
    assert np.isfinite(values).all()
    return values[-1]


# ---------------------------------------------------------------- priors
class ByClass(nn.Module):
    """Class-conditional prior: learned places, wider than the default."""

    def __init__(self, n, size=2):
        super().__init__()
        self.places = nn.Parameter(torch.linspace(-1.0, 1.0, n * size).reshape(n, size))

    def forward(self, y, *_):
        return dist.Normal(self.places[y], 2.0).to_event(1)


def by_class_and_domain(y, d):
    return dist.StudentT(5.0, torch.stack([0.5 * y, 1.0 * d], -1), 1.5).to_event(1)


PRIORS = {
    "wide": lambda: dist.Normal(0.0, 3.0),
    "heavy tails": lambda: dist.StudentT(4.0, 0.0, 1.0),
    "mixture": lambda: Mixture(3, size=2),
    "learned scale": lambda: LearnedScale(2),
}


def corners(first, second):
    """Pairs of which all with one's first or the other's last are run by default, the others by the slow tests."""
    return [
        pytest.param(a, b, marks=[] if a == first[0] or b == second[-1] else [pytest.mark.slow])
        for a in first
        for b in second
    ]


@pytest.mark.parametrize(("prior", "variant"), corners(list(PRIORS), CLASSIC + GENERATIVE))
def test_priors_without_parents_can_be_given_in_every_variant(data, plain, variant, prior):
    fit = fitted(data, variant, priors={"a_stress": PRIORS[prior]()})
    assert objective(fit) != plain(variant)
    learned = fit.model.prior_modules
    if len(learned):  # moved away from where it started
        before, after = PRIORS[prior]().state_dict(), learned["a_stress"].state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("variant", GENERATIVE)
def test_a_prior_can_depend_on_the_class(data, plain, variant):
    fit = fitted(data, variant, priors={"a_stress": ByClass(3)})
    assert objective(fit) != plain(variant)
    assert not torch.equal(fit.model.prior_modules["a_stress"].places, ByClass(3).places)


def test_a_prior_can_depend_on_class_and_domain(data, plain):
    given = {"a_stress": by_class_and_domain, "a_emotion": lambda y, d: dist.Normal(1.0 * d, 2.0).expand((2,))}
    with pytest.raises(ValueError, match="prior of 'a_emotion'"):  # event dimension forgotten
        fitted(data, "generative-domain", priors=given)
    given["a_emotion"] = lambda y, d: dist.Normal(d[..., None].expand(*d.shape, 2).float(), 2.0).to_event(1)
    fit = fitted(data, "generative-domain", priors=given)
    assert objective(fit) != plain("generative-domain")


@pytest.mark.parametrize("guide", ["paper", "lowrank", "delta"])
def test_domains_that_no_prior_reads_add_the_density_of_the_known_ones(data, guide):
    with default_dtype(torch.float64), isolated(0):
        batch = data.to(dtype=torch.float64)
        priors = {f"a_{task}": ByClass(n) for task, n in TASKS.items()}
        model = make(batch, "generative-domain", priors=priors).eval()
        plain = make(batch, "generative", priors=priors).eval()
        model.domain_logits.data += torch.tensor([0.0, 0.5, -1.0])
        plain.load_state_dict(model.state_dict(), strict=False)
        module = zoo.create_guide(model, guide).eval()
        found = []
        for own in (model, plain):
            with isolated(1):
                found.append(own.elbo().loss(own, module, **own.arguments(batch)))
    owners = torch.stack([batch[batch.labels[f"y_{task}"]] for task in TASKS]).sum(1)
    assert owners.sum() < batch.n_rows
    log_rho = torch.log_softmax(model.domain_logits.detach(), -1)
    assert found[1] - found[0] == pytest.approx(float((owners * log_rho).sum()), rel=1e-9)


def test_unsuitable_priors_are_refused_by_name(data):
    for variant in CLASSIC + GENERATIVE:
        for site in ("a_sleep", "y_stress", "domain"):
            with pytest.raises(KeyError, match=rf"unknown prior site.*{site}.*a_anxiety"):
                make(data, variant, priors={site: dist.Normal(0.0, 1.0)})
        with pytest.raises(TypeError, match="prior of 'a_stress': int is neither a distribution nor callable"):
            make(data, variant, priors={"a_stress": 1})
    for variant in CLASSIC:
        for prior in (dist.Normal(torch.zeros(3), 1.0).to_event(1), Mixture(2, size=3), LearnedScale(3)):
            with pytest.raises(
                ValueError, match=r"prior of 'a_stress': event shape \(3,\).*expected event shape \(2,\)"
            ):
                make(data, variant, priors={"a_stress": prior})
        with pytest.raises(ValueError, match="prior of 'a_stress': support"):
            make(data, variant, priors={"a_stress": dist.Gamma(1.0, 1.0)})


@pytest.mark.parametrize("variant", GENERATIVE)
def test_unsuitable_conditional_priors_are_refused_when_they_are_first_called(data, variant):
    for prior in (
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        lambda *_: dist.Normal(torch.zeros(3), 1.0).to_event(1),
    ):
        with pytest.raises(ValueError, match=r"prior of 'a_stress': event shape \(3,\).*expected event shape \(2,\)"):
            fitted(data, variant, priors={"a_stress": prior})
    for prior in (dist.Gamma(1.0, 1.0), lambda *_: dist.Gamma(1.0, 1.0)):
        with pytest.raises(ValueError, match="prior of 'a_stress': support"):
            fitted(data, variant, priors={"a_stress": prior})


# ---------------------------------------------------------------- KL without a closed form
@pytest.mark.parametrize("variant", CLASSIC)
@pytest.mark.parametrize("guide", ["paper", "lowrank"])
@pytest.mark.parametrize("prior", ["wide", pytest.param("mixture", marks=pytest.mark.slow)])
def test_the_objective_has_the_expectation_of_log_q_less_log_p(data, variant, guide, prior):
    gamma, n, many = 0.3, 30, 4000
    with default_dtype(torch.float64), isolated(0), torch.no_grad():
        batch = data.to(dtype=torch.float64)
        model = make(batch, variant, gamma=gamma, priors={"a_stress": PRIORS[prior]()}).eval()
        module = zoo.create_guide(model, guide).eval()
        for parameter in [*model.parameters(), *module.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
        arguments = model.arguments(batch)
        elbo = model.elbo(5)  # the mean of 5 draws, which share the networks of the signals
        found = torch.tensor([elbo.loss(model, module, **arguments) for _ in range(n)])
        by_hand, h = torch.zeros(many), arguments["h"]
        for i, task in enumerate(TASKS):
            q = module.posterior(module.networks[i](h[i]))
            a, known = q.sample((many,)), batch[batch.labels[f"y_{task}"]]
            log_p = dist.Normal(0.0, 1.0).log_prob(a).sum(-1)
            if task == "stress" and prior == "wide":
                log_p = dist.Normal(0.0, 3.0).log_prob(a).sum(-1)
            elif task == "stress":
                own = model.prior_modules["a_stress"]
                parts = dist.Normal(own.locs, own.log_scales.exp()).log_prob(a[..., None, :]).sum(-1)
                log_p = (torch.log_softmax(own.logits, 0) + parts).logsumexp(-1)
            logits = model.classifiers[i](h[i] if variant == "m3sense" else a)[..., known, :]
            truth = batch[f"y_{task}"][known]
            entropy = -functional.log_softmax(logits, -1)[..., torch.arange(len(truth)), truth].sum(-1)
            by_hand = by_hand + entropy + gamma * (q.log_prob(a) - log_p).sum(-1)
    analytic = variant == "m3sense" and prior == "wide" and guide == "paper"
    assert (found.std() < 1e-9) == analytic  # closed forms leave nothing to chance
    error = (found.var() / n + by_hand.var() / many).sqrt()
    assert abs(found.mean() - by_hand.mean()) < 4 * error
    assert error < 0.03 * by_hand.mean()


# ---------------------------------------------------------------- guides
@pytest.mark.parametrize(("guide", "variant"), corners(["paper", "lowrank", "delta"], CLASSIC + GENERATIVE))
def test_every_guide_fits_in_every_variant_with_latents(data, variant, guide):
    fit = fitted(data, variant, guide)
    objective(fit)
    table = zoo.predict(fit, data, draws=3)
    assert np.allclose(table.filter(like="y_stress.p[").sum(axis=1), 1.0, atol=1e-6)


def test_guides_that_do_not_suit_a_variant_are_refused(data):
    objective(fitted(data, "unaligned", "none"))
    with pytest.raises(ValueError, match="guide 'paper' does not suit variant 'unaligned'"):
        fitted(data, "unaligned", "paper")
    for variant in CLASSIC + GENERATIVE:
        with pytest.raises(ValueError, match="guide 'none' does not suit variant"):
            fitted(data, variant, "none")


class Chained(zoo.LocalParams, PyroModule):
    """A user's guide: every latent depends on the one before."""

    def __init__(self, model, spread=0.5):
        super().__init__()
        self._model, self.spread = (model,), spread
        self.nets = nn.ModuleList(nn.Linear(model.out_dim + model.a_dim, model.a_dim) for _ in model.tasks)

    def forward(self, sizes, window=None, h=None, **batch):
        model = self._model[0]
        h = model.encode(**batch) if h is None else h
        with model.plate("window", sizes=sizes, window=window), poutine.scale(scale=model.gamma):
            a = h.new_zeros(h.shape[1], model.a_dim)
            for net, task, own in zip(self.nets, model.tasks, h, strict=True):
                loc = net(torch.cat([own.expand(*a.shape[:-1], own.shape[-1]), a], -1))
                a = pyro.sample(f"a_{task}", dist.Normal(loc, self.spread).to_event(1))


@pytest.mark.parametrize(
    ("variant", "guide"),
    [*((variant, Chained) for variant in CLASSIC + GENERATIVE), ("latent", PaperGuide),
     ("latent", lambda model: Chained(model, spread=0.2))],
)  # fmt: skip
def test_a_users_own_guide_works(data, variant, guide):
    fit = fitted(data, variant, guide)
    objective(fit)
    assert np.isfinite(zoo.predict(fit, data, draws=3).filter(like="y_stress.p[").to_numpy()).all()


# ---------------------------------------------------------------- domains
def distinct(n=160, seed=0):
    """Windows whose levels say which task's data set they are of, labelled in six of ten cases."""
    rng = np.random.default_rng(seed)
    domain, labels = rng.integers(3, size=n), {task: rng.integers(c, size=n) for task, c in TASKS.items()}
    seen = rng.random(n) < 0.6
    level = (
        np.array([[-2.0, 0.0], [0.0, 2.0], [2.0, -2.0]])[domain] + 0.3 * np.choose(domain, [*labels.values()])[:, None]
    )
    return zoo.Batch.from_arrays(
        rows={
            **{m: level[:, [j]] + 0.5 * rng.normal(size=(n, 10)) for j, m in enumerate(("bvp", "eda"))},
            **{f"y_{task}": values for task, values in labels.items()},
        },
        labels={f"y_{task}": seen & (domain == i) for i, task in enumerate(TASKS)}, row_plate="window",
        dims={m: (f"{m}_time",) for m in ("bvp", "eda")}, truth={"domain": domain}, name="distinct", simulated=True,
        coords={f"y_{task}_class": [f"{task} {k}" for k in range(c)] for task, c in TASKS.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    data = distinct()
    model = zoo.create_model(
        "m3sense", data, variant="generative-domain", embedding=8, lstm_layers=1, hidden=(16, 16), head=16, a_dim=3,
        q_hidden=16, dropout=0.0, lstm_dropout=0.0,
    )  # fmt: skip
    # Two starts: from some, a domain stays hidden in the others, at a lower ELBO.
    return zoo.fit(model, "paper", data, epochs=25, lr=2e-2, batch_size=54, restarts=2, progress=False), data


def test_the_domain_of_windows_without_label_is_found(found):
    fit, data = found
    p = domain_probabilities(fit, data, draws=50)
    assert list(p.columns) == list(TASKS)
    assert np.allclose(p.sum(axis=1), 1.0, atol=1e-12)
    hidden = ~np.any([data.observed(f"y_{task}") for task in TASKS], axis=0)
    assert hidden.sum() > 50
    owner, right = data.truth["domain"], p.to_numpy().argmax(1) == data.truth["domain"]
    assert right[hidden].mean() > 0.95
    assert p.to_numpy()[np.arange(len(p)), owner].mean() > 0.6
    # Labels are hidden from it, and the same draws give the same numbers.
    assert p.equals(domain_probabilities(fit, data.hide(), draws=50))


def test_domain_probabilities_are_those_by_hand(found):
    fit, data = found[0], found[1].subset(np.arange(40)).hide()
    model, draws, many = fit.model, 150, 1500
    drawn = zoo.draw(fit, data, draws=draws, predictive=False, restarts=False).groups["posterior"]
    joint = torch.log_softmax(model.domain_logits, -1)
    for i, task in enumerate(TASKS):
        a = torch.as_tensor(drawn[f"a_{task}"][0])[:, :, None, None]  # (S, N, 1, 1, A)
        log_p = dist.Normal(model.places[i][:, None] + model.shifts[i], 1.0).to_event(1).log_prob(a)  # (S, N, C, D)
        joint = joint + (torch.log_softmax(model.class_logits[i], -1)[:, None] + log_p).logsumexp(-2)
    by_hand = joint.softmax(-1).detach().numpy()  # (S, N, D)
    error = by_hand.std(0) * np.sqrt(1 / draws + 1 / many)
    p = domain_probabilities(fit, data, draws=many).to_numpy()
    assert (abs(p - by_hand.mean(0)) < 5 * error + 1e-4).all()
    for k in range(len(TASKS)):  # the zoo's own draws of the domain agree
        share = (drawn["domain"][0] == k).mean(0)
        assert (abs(share - p[:, k]) < 5 * np.sqrt(p[:, k] * (1 - p[:, k]) / draws) + 0.02).all()


def test_a_known_domain_is_drawn_as_it_is(found):
    fit, data = found
    drawn = zoo.draw(fit, data, draws=20, sites=["domain"], predictive=False, restarts=False).groups["posterior"][
        "domain"
    ][0]
    known = np.any([data.observed(f"y_{task}") for task in TASKS], axis=0)
    assert (drawn[:, known] == data.truth["domain"][known]).all()
    assert (drawn[:, ~known] != drawn[0, ~known]).any()


def test_variants_without_domains_have_no_probabilities_of_them(data):
    with pytest.raises(TypeError, match="Generative has no domains; fit variant 'generative-domain'"):
        domain_probabilities(fitted(data, "generative"), data)
