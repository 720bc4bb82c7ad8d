"""What a review of the core found, each by its smallest case."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from scipy.stats import multivariate_normal
from torch import nn

import pyrozoo as zoo
from pyrozoo.criticism.importance import pareto_k
from pyrozoo.modeling.guides import declared
from pyrozoo.models.ssmtl.data.simulator import simulate

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def wells():
    return simulate(n_units=4, n_labelled=3, n_unlabelled=5, n_test=4, seed=1)


def small(train, variant="ssmtl", **arguments):
    return zoo.create_model("ssmtl", train, variant=variant, width=6, depth=1, **arguments)


# ---------------------------------------------------------------- groups
class Offsets(zoo.ZooModel):
    """y = one parameter per group, without a plate of groups."""

    targets = ()

    def __init__(self, priors=None):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(3))
        self.set_priors(priors)

    def forward(self, y, group, sizes, row=None, **_):
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(self.b[group], 0.1), obs=y)


class Nothing(zoo.LocalParams, PyroModule):
    def __init__(self, model):
        super().__init__()

    def forward(self, **_):
        pass


class Declares(zoo.ZooGuide):
    sparse = {"group": ("table",)}

    def __init__(self, model):
        super().__init__(model)
        self.local = Nothing(model)

    def solve(self, train):
        pass

    def forward(self, **_):
        pass


def test_declarations_are_read_from_any_guide():
    model = Offsets()
    plain, auto, own = Nothing(model), AutoNormal(model), Declares(model)
    defaults = {"amortized": (), "support": 0, "sparse": {}, "solve": None, "local": None}
    for guide in (plain, auto, zoo.ZooGuide(model)):
        assert {name: declared(guide, name) for name in defaults} == defaults
    assert declared(own, "sparse") == {"group": ("table",)}
    assert declared(own, "solve") == own.solve
    assert declared(own, "local") is own.local is dict(own.named_children())["local"]
    assert own.model is model
    assert not list(own.parameters())  # those of the model are not the guide's
    plain.amortized = ("group",)
    assert declared(plain, "amortized") == ("group",)
    with pytest.raises(KeyError, match="amortised"):
        declared(own, "amortised")


def test_groups_of_a_model_that_asks_for_their_index_are_aligned_without_a_plate():
    names = np.repeat(["a", "b", "c"], 20)
    data = zoo.Batch.from_arrays(rows={"y": np.repeat([0.0, 5.0, 10.0], 20)}, groups={"group": names})
    fit = zoo.fit(Offsets(), Nothing, data, steps=300, lr=0.1, progress=False)
    part = data.subset(np.flatnonzero(names == "c"))
    prepared = fit.prepare(part)
    assert prepared["group"].unique().tolist() == [2]
    with pytest.raises(KeyError, match="zzz"):
        fit.prepare(zoo.Batch.from_arrays(rows={"y": [0.0]}, groups={"group": ["zzz"]}))


def test_names_that_a_batch_knows_other_things_by_are_refused_in_tables():
    arrays = {"rows": {"x": np.zeros((2, 1))}, "groups": {"unit": ["a", "b"]}, "coords": {"unit": ["a", "b"]}}
    for name in ("unit_weight", "unit_ids", "weight", "sizes"):
        with pytest.raises(ValueError, match="is taken by Batch"):
            zoo.Batch.from_arrays(**arrays, tables={"unit": {name: np.ones(2)}})


def test_columns_are_compared_by_name(wells):
    train, _ = wells
    fit = zoo.fit(small(train), "paper", train, steps=1, progress=False)
    swapped = zoo.Batch.from_arrays(
        rows={"x": train["x"].flip(1)}, groups={"unit": train.group_names("unit")}, dims={"x": ("input",)},
        coords={"input": train.coords["input"][::-1]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="the same columns in the same order"):
        zoo.predict(fit, swapped)


# ---------------------------------------------------------------- importance weights
class Steps(zoo.ZooModel):
    """z of a row, and four steps inside it."""

    plate_dims = {"row": -2, "time": -1}
    targets = ()
    row_sites = ("z",)

    def __init__(self, priors=None):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.set_priors(priors)

    def priors(self):
        return {"z": dist.Normal(torch.zeros(()), 1.0)}

    def plate(self, name, *, sizes, **batch):
        return pyro.plate("time", 4, dim=-1) if name == "time" else super().plate(name, sizes=sizes, **batch)

    def forward(self, y, sizes, row=None, **_):
        with self.plate("row", sizes=sizes, row=row):
            z = pyro.sample("z", self.prior("z"))
            with self.plate("time", sizes=sizes):
                pyro.sample("y", dist.Normal(z * self.w, 1.0), obs=y)


class Exact(zoo.LocalParams, PyroModule):
    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.extra = nn.Parameter(torch.zeros(()))

    def forward(self, y, sizes, row=None, **_):
        with self._model[0].plate("row", sizes=sizes, row=row):
            pyro.sample("z", dist.Normal(y.sum(-1, keepdim=True) / 5 + 0 * self.extra, 5**-0.5))


def test_sites_in_a_plate_inside_the_rows_count_with_their_row():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(20, 1)) + rng.normal(size=(20, 4))
    data = zoo.Batch.from_arrays(rows={"y": y})
    fit = zoo.fit(Steps(), Exact, data, steps=1, lr=1e-12, progress=False)
    exact = multivariate_normal(np.zeros(4), np.eye(4) + 1).logpdf(y)
    np.testing.assert_allclose(zoo.log_density(fit, data, draws=3, progress=False), exact, atol=1e-8)
    assert np.isneginf(zoo.khat(fit, draws=50)).all()


def test_pareto_k_tells_no_tail_from_rounding_and_from_one_weight_that_is_all():
    generator = torch.Generator().manual_seed(0)
    rounding = (-14.5 + 1e-6 * torch.randn(200, generator=generator)).float().double()
    assert pareto_k(rounding) == float("-inf")
    assert pareto_k(2000.0 * torch.randn(400, generator=generator)) > 0.7
    assert 0.3 < pareto_k(torch.distributions.Pareto(1.0, 2.0).sample((5000,)).log()) < 0.7


# ---------------------------------------------------------------- fits
def test_plain_svi_trains_the_networks_of_a_fit_or_says_why_not(wells):
    train, _ = wells
    fit = zoo.fit(small(train, "ssl-vae"), "paper", train, steps=1, progress=False)
    before = [p.detach().clone() for p in fit.guide.parameters()]
    svi = pyro.infer.SVI(fit.model, fit.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    try:
        with pyro.get_param_store().scope():
            svi.step(**train)
    except Exception:  # Pyro's own optimisers cannot hold parameters that a module keeps to itself
        return
    assert any(not torch.equal(a, b) for a, b in zip(before, fit.guide.parameters(), strict=True))


def test_many_groups_fall_back_to_steps_with_all_where_steps_cannot_reach_each(wells, monkeypatch):
    train, _ = wells
    monkeypatch.setattr("pyrozoo.inference.loop.MANY_GROUPS", 2)
    labels = train.relabel(train["unit"].numpy() > 0)
    assert zoo.fit(small(train, "mtl"), "paper", labels, steps=1, progress=False).status == "finished"
    own = zoo.fit(small(train), "paper", train, steps=1, progress=False, optimizer=torch.optim.SGD)
    assert own.status == "finished"


def test_clip_is_positive_and_leaves_a_gradient_that_is_not_finite_to_be_named(wells):
    train, _ = wells
    with pytest.raises(ValueError, match="clip: 0"):
        zoo.fit(small(train), "paper", train, steps=1, clip=0, progress=False)


def test_a_prior_that_was_given_moves_with_its_model(wells):
    train, _ = wells
    model = small(train, priors={"c": dist.StudentT(4.0, 0.0, 1.0)})
    model.to(torch.float32)
    assert model.prior("c").base_dist.loc.dtype == torch.float32
    assert model.prior("c").event_shape == (4,)


def test_a_learned_prior_of_the_wrong_size_is_an_error_at_once(wells):
    from pyrozoo.modeling.priors import LearnedScale

    with pytest.raises(ValueError, match="prior of 'c'"):
        small(wells[0], priors={"c": LearnedScale(3)})


def test_draws_from_the_prior_leave_a_model_as_it_is(wells):
    train, _ = wells
    model = small(train)
    model.decoder.net.insert(1, nn.BatchNorm1d(6))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    zoo.prior_predictive(model, train, draws=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_quantiles_keep_their_names(wells):
    train, test = wells
    fit = zoo.fit(small(train), "paper", train, steps=1, progress=False)
    table = zoo.predict(fit, test, draws=5, quantiles=(0.025, 0.05, 0.975, 0.98))
    assert [c for c in table if c.startswith("y.q")] == ["y.q2.5", "y.q05", "y.q97.5", "y.q98"]


def test_models_without_a_fit_have_no_posterior_to_check(wells):
    train, _ = wells
    with pytest.raises(ValueError, match="against='prior'"):
        zoo.ppc(small(train), train)


# ---------------------------------------------------------------- intervals
def test_labels_of_training_are_refused_also_among_others(wells):
    train, test = wells
    fit = zoo.fit(small(train), "paper", train, steps=1, progress=False)
    rows = np.flatnonzero(train.observed("y"))
    with pytest.raises(ValueError, match="were in training"):
        zoo.conformal(fit, train.subset(rows[:8]), level=0.5)
    assert zoo.conformal(fit, test, level=0.5).n == test.n_rows


def test_folds_that_would_lose_a_group_are_refused():
    data = zoo.Batch.from_arrays(
        rows={"x": np.arange(7.0)[:, None], "y": np.arange(7.0)[:, None]}, labels={"y": np.ones(7, bool)},
        groups={"unit": ["a"] * 6 + ["b"]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="unit 'b': all its rows would be held out"):
        zoo.fold_data(data, 3, inputs=False)
