"""Targets of every kind predict, score, compare and check; hidden rows have no effect on a fit."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta

import pyrozoo as zoo
from pyrozoo.contract import densities, targets
from pyrozoo.modeling.guides import auto
from pyrozoo.posterior.traces import Pair

pytestmark = pytest.mark.usefixtures("double_precision")

CUTS, TRIALS = torch.tensor([-0.5, 0.7]), torch.arange(30) % 4 + 1
FAMILIES = {
    "normal": lambda level: dist.Normal(level, 0.5),
    "poisson": lambda level: dist.Poisson(level.exp()),
    "negative binomial": lambda level: dist.NegativeBinomial(3.0, logits=level),
    "binomial": lambda level: dist.Binomial(TRIALS[: len(level)], logits=level),
    "zero-inflated": lambda level: dist.ZeroInflatedPoisson(rate=level.exp(), gate=torch.tensor(0.3)),
    "weibull": lambda level: dist.Weibull(level.exp(), torch.tensor(1.5)),
    "gamma": lambda level: dist.Gamma(2.0, level.exp()),
    "lognormal": lambda level: dist.LogNormal(level, 0.5),
    "exponential": lambda level: dist.Exponential(level.exp()),
    "beta": lambda level: dist.Beta(2.0, 1.0 + level.exp()),
    "logit-normal": lambda level: dist.TransformedDistribution(
        dist.Normal(level, 0.5), [dist.transforms.SigmoidTransform()]
    ),
    "vector": lambda level: dist.MultivariateNormal(torch.stack([level, -level], -1), torch.eye(2)),
    "shares": lambda level: dist.Dirichlet(torch.stack([level.exp(), (-level).exp(), 1 + 0 * level], -1)),
    "votes": lambda level: dist.Multinomial(5, logits=torch.stack([level, -level, 0 * level], -1)),
    "one-hot": lambda level: dist.OneHotCategorical(logits=torch.stack([level, -level, 0 * level], -1)),
    "two answers": lambda level: dist.Bernoulli(logits=torch.stack([level, -level], -1)).to_event(1),
    "ordinal": lambda level: dist.OrderedLogistic(level, CUTS),
    "categorical": lambda level: dist.Categorical(logits=torch.stack([level, -level, 0 * level], -1)),
    "binary": lambda level: dist.Bernoulli(logits=level),
    "binary column": lambda level: dist.Bernoulli(logits=level[:, None]).to_event(1),
}
CLASSES = {"ordinal", "categorical", "binary", "binary column"}
COUNTS = {"poisson", "negative binomial", "binomial", "zero-inflated", "votes", "one-hot", "two answers"}


class Level(zoo.ZooModel):
    """One level for all rows, a covariate, and a target of any family; its hidden rows are masked."""

    def __init__(self, family="normal", priors=None):
        super().__init__()
        self.family = family
        self.set_priors(priors)

    def priors(self):
        return {"a": dist.Normal(0.0, 1.0)}

    def forward(self, x, sizes, y=None, y_labelled=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", FAMILIES[self.family](a + x).mask(y_labelled), obs=y)


def rows(family, n=30):
    """Rows of a family, and which of them are labelled."""
    pyro.set_rng_seed(1)
    x = torch.linspace(-1.0, 1.0, n)
    y = FAMILIES[family](0.3 + x).sample()
    if family in {"ordinal", "categorical"}:
        y = y.long()
    data = zoo.Batch.from_arrays(rows={"x": x, "y": y}, labels={"y": np.ones(n, bool)}, simulated=True)
    return data, np.arange(n) % 3 > 0


def fitted(data, model, guide=AutoDelta, steps=10):
    return zoo.fit(model, auto(guide), data, seed=0, steps=steps, lr=0.05, progress=False)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, double_precision):
    """A family, all rows, the labelled ones, a fit with the others hidden, and its predictive distribution."""
    data, seen = rows(request.param)
    fit = fitted(data.relabel(seen), Level(request.param))
    a = zoo.draw(fit, data, draws=1, predictive=False).groups["posterior"]["a"].item()
    return request.param, data, seen, fit, FAMILIES[request.param](a + data["x"])


def test_hidden_rows_have_no_effect_on_a_fit(case):
    family, data, seen, fit, _ = case
    if family == "binomial":  # the toy reads its numbers of trials by place
        return
    alone = fitted(data.subset(np.flatnonzero(seen)), Level(family))
    point, same = (f.guide.auto.a.item() for f in (fit, alone))
    assert point == pytest.approx(same, abs=1e-9)
    assert fit.guide.auto.a.item() != 0.0


def test_predictions_are_the_moments_of_the_target(case):
    family, data, seen, fit, fn = case
    table = zoo.predict(fit, data.relabel(~seen), draws=200 if family == "logit-normal" else 3)
    if family in CLASSES:
        support = torch.arange(2 if family.startswith("binary") else 3)
        shape = (len(support), 30, *fn.event_shape)
        p = fn.log_prob(support.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape).to(data["y"])).exp()
        np.testing.assert_allclose(table.drop(columns="y.label"), p.T, atol=1e-9)
        return
    names = ["y"] if not fn.event_shape else [f"y[{j}]" for j in range(fn.event_shape[0])]
    columns = {what: table[[f"{name}.{what}" for name in names]].to_numpy() for what in ("mean", "sd")}
    if family == "logit-normal":  # it states no moments
        drawn = fn.sample((4000,))
        error = 5 * drawn.std(0).numpy() / np.sqrt(200)
        assert (np.abs(columns["mean"][:, 0] - drawn.mean(0).numpy()) < error).all()
        return
    np.testing.assert_allclose(columns["mean"], fn.mean.reshape(30, -1), atol=1e-9)
    np.testing.assert_allclose(columns["sd"], fn.variance.sqrt().reshape(30, -1), atol=1e-6)


def test_densities_are_those_of_the_target(case):
    _, data, seen, fit, fn = case
    density = zoo.log_predictive(fit, data.relabel(~seen), draws=3)
    np.testing.assert_allclose(density, fn.log_prob(data["y"])[~seen], atol=1e-9)
    whole = zoo.log_density(fit, data, draws=3, progress=False)
    np.testing.assert_allclose(whole, fn.log_prob(data["y"]), atol=1e-9)
    assert zoo.compare({"a": fit}, data.relabel(~seen), draws=3)["elpd"].item() == pytest.approx(density.sum())


def test_scores_fit_the_kind(case):
    family, data, seen, fit, _ = case
    found = zoo.metrics(fit, data.relabel(~seen), draws=20)
    assert np.isfinite(list(found.values())).all()
    names = {name.removeprefix("y.") for name in found}
    assert ("accuracy" in names) is (family in CLASSES)
    assert ("crps_draws" in names) is (family not in CLASSES)
    assert ("pit_ks" in names) is (family in COUNTS)
    assert ("crps" in names) is (family in {"normal", "vector"})
    if family not in CLASSES:
        u = zoo.pit(fit, data.relabel(~seen), draws=20)
        assert ((u > 0) & (u < 1)).to_numpy().all()
        assert list(zoo.coverage(fit, data.relabel(~seen), draws=20)) == ["nominal", "empirical", "width"]
    if family in COUNTS:
        table = zoo.predict(fit, data, draws=20)
        quantiles = table[[name for name in table if ".q" in name]]
        assert (quantiles == quantiles.round()).to_numpy().all()


def test_predictive_checks_run(case):
    _, data, seen, fit, _ = case
    table = zoo.ppc(fit, data.relabel(seen), draws=5)
    assert np.isfinite(table[["observed", "replicated", "p"]]).to_numpy().all()


# ---------------------------------------------------------------- the contract
def subject(fit, data):
    parts = SimpleNamespace(VARIANTS={"own": type(fit.model)})
    built = lambda: contextlib.nullcontext((fit.model, fit.guide, data))  # noqa: E731
    return SimpleNamespace(built=built, guide="own", variant="own", parts=parts)


def test_the_contract_holds(case):
    _, data, seen, fit, _ = case
    own = subject(fit, data.relabel(seen))
    targets.predicted_moments(own)
    targets.brute_force(own)
    targets.order_of_names(own)
    densities.hidden_labels(own)


class Biased(dist.Normal):
    @property
    def mean(self):
        return self.loc + 1.0


def test_the_contract_finds_predictions_that_are_not_the_moments_of_draws(monkeypatch):
    monkeypatch.setitem(FAMILIES, "normal", lambda level: Biased(level, 0.5))
    data, _ = rows("normal")
    with pytest.raises(AssertionError, match=r"target 'y', row 0: predicted .* a distribution state a wrong mean"):
        targets.predicted_moments(subject(fitted(data, Level()), data))


class Mistaken(Level):
    """Reads the first of its arguments, or has another density at every call."""

    mistake = ""

    def forward(self, x, sizes, y=None, y_labelled=None, row=None, **batch):
        if self.mistake == "order":
            x = x + len(next(iter(batch)))
        if self.mistake == "noise":
            x = x + 0.1 * torch.randn(())
        super().forward(x=x, sizes=sizes, y=y, y_labelled=y_labelled, row=row)


@pytest.mark.parametrize(
    ("mistake", "clause", "words"),
    [
        ("noise", targets.brute_force, r"log_density, row 1: .* value by value"),
        ("order", targets.order_of_names, "the order of names changes model site 'y'"),
    ],
)
def test_the_contract_finds(mistake, clause, words):
    data, seen = rows("normal")
    data = zoo.Batch.from_arrays(
        rows={"x": data["x"], "y": data["y"], "other": data["x"]}, labels={"y": seen}, simulated=True
    )
    fit = fitted(data, Mistaken())
    fit.model.mistake = mistake
    with pytest.raises(AssertionError, match=words):
        clause(subject(fit, data))


def test_the_contract_finds_log_likelihoods_that_are_not_those_of_the_sites(case, monkeypatch):
    _, data, seen, fit, _ = case
    right = Pair.log_likelihood
    monkeypatch.setattr(Pair, "log_likelihood", lambda self: {k: v + 0.1 for k, v in right(self).items()})
    with pytest.raises(AssertionError, match=r"log_likelihood of .y., row \d+: .* value by value"):
        targets.brute_force(subject(fit, data.relabel(seen)))


# ---------------------------------------------------------------- refusals
def test_several_classes_in_one_site_are_refused():
    pyro.set_rng_seed(0)
    FAMILIES["pair"] = lambda level: dist.Categorical(logits=level[:, None, None] * torch.ones(2, 3)).to_event(1)
    try:
        data, _ = rows("pair")
        fit = fitted(data.with_tensors({"y": data["y"].long()}), Level("pair"))
        with pytest.raises(ValueError, match="y: it holds several classes at once; make each of them a target"):
            zoo.predict(fit, data, draws=2)
    finally:
        del FAMILIES["pair"]


# ---------------------------------------------------------------- masks
class Unmasked(Level):
    """Takes the place holders of hidden rows for data."""

    def forward(self, x, sizes, y=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", FAMILIES[self.family](a + x), obs=y)


def test_a_model_that_takes_hidden_rows_for_data_is_refused():
    data, seen = rows("normal")
    with pytest.raises(ValueError, match=r"y: it is hidden in some rows, .* \.mask\(y_labelled\)"):
        fitted(data.relabel(seen), Unmasked())
    fit = fitted(data.subset(np.flatnonzero(seen)), Unmasked())
    assert len(zoo.log_predictive(fit, data.relabel(~seen), draws=2)) == (~seen).sum()


class Around(Level):
    """The mask is around the site."""

    def forward(self, x, sizes, y=None, y_labelled=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row), poutine.mask(mask=y_labelled):
            pyro.sample("y", FAMILIES[self.family](a + x), obs=y)


class Split(Level):
    """Hidden rows are latent (``obs_mask``), from the same distribution in the guide."""

    def forward(self, x, sizes, y=None, y_labelled=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", FAMILIES[self.family](a + x), obs=y, obs_mask=y_labelled)


class Filled(zoo.ZooGuide):
    def __init__(self, model):
        super().__init__(model)
        self.point = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, sizes, y_labelled=None, row=None, **_):
        a = pyro.sample("a", dist.Delta(self.point))
        if isinstance(self.model, Split):
            with self.model.plate("row", sizes=sizes, row=row), poutine.mask(mask=~y_labelled):
                pyro.sample("y_unobserved", FAMILIES[self.model.family](a + x))


@pytest.mark.parametrize("family", ["weibull", "poisson", "categorical"])
def test_all_idioms_of_a_mask_give_the_same_predictions(family):
    data, seen = rows(family)
    fits = [zoo.fit(kind(family), Filled, data.relabel(seen), seed=0, steps=5, lr=0.05, progress=False)
            for kind in (Level, Around, Split)]  # fmt: skip
    assert fits[1].guide.point.item() == pytest.approx(fits[0].guide.point.item(), abs=1e-9)
    for fit in fits:
        fit.guide.point.data.fill_(0.2)
    tables = [zoo.predict(fit, data, draws=3, quantiles=(0.5,)) for fit in fits]
    stated = [column for column in tables[0] if ".p[" in column or ".mean" in column]
    by_hand = FAMILIES[family](0.2 + data["x"]).log_prob(data["y"])[~seen]
    for fit, table in zip(fits, tables, strict=True):
        np.testing.assert_allclose(table[stated], tables[0][stated], atol=1e-9)
        np.testing.assert_allclose(zoo.log_predictive(fit, data.relabel(~seen), draws=2), by_hand, atol=1e-9)


def test_a_hidden_label_has_no_effect_on_plain_svi():
    data, seen = rows("weibull")
    hidden, losses = data.relabel(seen), []
    for batch in (hidden, data.subset(np.flatnonzero(seen))):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            model = Level("weibull")
            svi = pyro.infer.SVI(model, auto(AutoDelta)(model), pyro.optim.Adam({"lr": 0.1}), model.elbo())
            losses.append([svi.step(**batch) for _ in range(3)])
    np.testing.assert_allclose(*losses)


class Logs(Level):
    """Observes the logarithm of what the batch holds."""

    def forward(self, x, sizes, y=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(a + x, 0.5), obs=y.log())


def test_the_truth_is_what_the_model_observes():
    data, _ = rows("lognormal")
    fit = fitted(data, Logs())
    error = zoo.predict(fit, data, draws=2)["y.mean"] - data["y"].log().numpy()
    assert zoo.metrics(fit, data, draws=2)["y.rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    by_hand = dist.Normal(torch.tensor(error.tolist()), 0.5).log_prob(torch.tensor(0.0))
    np.testing.assert_allclose(zoo.log_predictive(fit, data, draws=2), by_hand, atol=1e-9)


# ---------------------------------------------------------------- several targets
class Panel(zoo.ZooModel):
    """Three laboratory values of different kinds, each missing on rows of its own."""

    targets = ("hb", "crp", "grade")

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"a": dist.Normal(0.0, 1.0)}

    def forward(self, x, sizes, row=None, **labs):
        a = pyro.sample("a", self.prior("a"))
        kinds = {"hb": "normal", "crp": "lognormal", "grade": "ordinal"}
        with self.plate("row", sizes=sizes, row=row):
            for lab, family in kinds.items():
                pyro.sample(lab, FAMILIES[family](a + x).mask(labs[f"{lab}_labelled"]), obs=labs[lab])


def test_targets_that_are_missing_one_by_one():
    (data, _), kinds = rows("normal"), {"hb": "normal", "crp": "lognormal", "grade": "ordinal"}
    values = {lab: rows(family)[0]["y"] for lab, family in kinds.items()}
    seen = {lab: np.arange(30) % 3 != k for k, lab in enumerate(kinds)}
    panel = zoo.Batch.from_arrays(rows={"x": data["x"], **values}, labels=seen, simulated=True)
    fit = fitted(panel, Panel())
    a = fit.guide.auto.a.item()
    for lab, family in kinds.items():
        by_hand = FAMILIES[family](a + data["x"]).log_prob(values[lab])[seen[lab]]
        np.testing.assert_allclose(zoo.log_predictive(fit, panel, lab, draws=2), by_hand, atol=1e-9)
    found = {name.split(".")[0] for name in zoo.metrics(fit, panel, draws=5)}
    assert found == set(kinds)


# ---------------------------------------------------------------- censoring
class Censored(zoo.ZooModel):
    """Times of events; of a row that was left before its event, only that the event came after ``left``."""

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"a": dist.Normal(0.0, 1.0)}

    def forward(self, left, sizes, y=None, y_labelled=None, row=None, **_):
        a = pyro.sample("a", self.prior("a"))
        with self.plate("row", sizes=sizes, row=row):
            fn = dist.Exponential(a.exp().expand(left.shape))
            pyro.sample("y", fn.mask(y_labelled), obs=y)
            pyro.factor("still there", torch.where(y_labelled, 0.0, -fn.rate * left))  # log P(y > left)


def test_censored_rows_by_a_mask_and_a_factor():
    rng = np.random.default_rng(0)
    time, end = rng.exponential(1.0, 40), 0.8
    happened = time < end
    data = zoo.Batch.from_arrays(
        rows={"y": np.where(happened, time, 0.0), "left": np.where(happened, 0.0, end)}, labels={"y": happened}
    )
    fit = fitted(data, Censored(), steps=300)
    rate = np.exp(fit.guide.auto.a.item())

    def log_posterior(a):  # rate ~ LogNormal(0, 1); events at rate exp(a), over the time at risk
        return -0.5 * a**2 + happened.sum() * a - np.exp(a) * np.minimum(time, end).sum()

    grid = np.linspace(-2, 2, 4001)
    assert np.log(rate) == pytest.approx(grid[log_posterior(grid).argmax()], abs=0.01)
    np.testing.assert_allclose(zoo.predict(fit, data, draws=2)["y.mean"], 1 / rate, rtol=1e-6)
    whole = zoo.log_density(fit, data, draws=2, progress=False)
    by_hand = np.where(happened, np.log(rate) - rate * time, -rate * end)
    np.testing.assert_allclose(whole, by_hand, atol=1e-9)
