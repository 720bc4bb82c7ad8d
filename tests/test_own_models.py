"""Models as a stranger writes them, in every ordinary idiom of Pyro: right numbers, or one clear refusal."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex
from torch.nn.utils.rnn import pad_sequence

import pyrozoo as zoo
from pyrozoo.modeling.guides import auto
from pyrozoo.models.ssmtl.guides import GUIDES
from pyrozoo.models.ssmtl.model import SSMTL

pytestmark = pytest.mark.usefixtures("double_precision")


def log_normal(x, mean):
    return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)


def log_sum(values):
    return float(np.logaddexp.reduce(list(values)))


def fitted(model, data, guide=AutoDelta, steps=20):
    return zoo.fit(model, auto(guide), data, seed=0, steps=steps, lr=0.05, progress=False)


def point(fit, data, site):
    """The value at which an AutoDelta holds a site."""
    return zoo.draw(fit, data, draws=1, predictive=False).groups["posterior"][site][0, 0]


# ---------------------------------------------------------------- a masked target
class Offsets(zoo.ZooModel):
    """A mean per unit; the target's mask in one of the idioms."""

    plate_dims = {"unit": -1, "row": -1}

    def __init__(self, idiom="none", family="normal", priors=None):
        super().__init__()
        self.idiom, self.family = idiom, family
        self.set_priors(priors)

    def priors(self):
        return {"c": dist.Normal(0.0, 1.0)}

    def forward(self, unit, sizes, y=None, y_labelled=None, row=None, **_):
        with self.plate("unit", sizes=sizes):
            c = pyro.sample("c", self.prior("c"))
        level = c[..., unit]
        seen = torch.ones_like(level, dtype=torch.bool) if y_labelled is None else y_labelled
        with self.plate("row", sizes=sizes, row=row):
            fn = dist.Bernoulli(logits=level) if self.family == "bernoulli" else dist.Normal(level, 1.0)
            if self.family == "vector":
                fn, seen = dist.Normal(level[..., None], 1.0), seen[..., None]
            if self.idiom == "distribution":
                fn = fn.mask(seen)
            if self.family == "vector":
                fn, seen = fn.to_event(1), seen[..., 0]
            with poutine.mask(mask=seen if self.idiom == "poutine" else True):
                pyro.sample("y", fn, obs=y)


def offsets_data(family="normal", n=60):
    rng = np.random.default_rng(0)
    unit = np.arange(n) % 3
    y = rng.normal(unit - 1.0, 1.0)
    y = (y > 0).astype(float) if family == "bernoulli" else y[:, None] if family == "vector" else y
    whole = zoo.Batch.from_arrays(rows={"y": y}, groups={"unit": unit}, labels={"y": np.ones(n, bool)}, simulated=True)
    return whole, rng.random(n) < 0.7


@pytest.mark.parametrize("family", ["normal", "bernoulli", "vector"])
def test_a_mask_in_the_distribution_or_around_it_changes_no_prediction(family):
    data, seen = offsets_data(family)
    train, test = data.relabel(seen), data.relabel(~seen)
    fits = {idiom: fitted(Offsets(idiom, family), train) for idiom in ("distribution", "poutine")}
    fits["rows left out"] = fitted(Offsets("none", family), data.subset(np.flatnonzero(seen)))
    tables = {name: zoo.predict(fit, test, draws=5) for name, fit in fits.items()}
    densities = {name: zoo.log_predictive(fit, test, draws=5) for name, fit in fits.items()}
    scores = {name: zoo.metrics(fit, test, draws=5) for name, fit in fits.items()}
    c = point(fits["poutine"], data, "c")[np.arange(60) % 3][~seen]
    y = data["y"].numpy().reshape(-1)[~seen]
    by_hand = -np.logaddexp(0, np.where(y == 1, -c, c)) if family == "bernoulli" else log_normal(y, c)
    for name in fits:
        np.testing.assert_allclose(tables[name], tables["poutine"], atol=1e-6)
        np.testing.assert_allclose(densities[name], by_hand, atol=1e-6)
        assert scores[name] == pytest.approx(scores["poutine"], abs=1e-6)
    elpd = zoo.compare(fits, test, draws=5)["elpd"]
    np.testing.assert_allclose(elpd, by_hand.sum(), atol=1e-5)


@pytest.mark.parametrize("idiom", ["distribution", "poutine"])
def test_an_unobserved_entry_has_no_log_likelihood(idiom):
    data, seen = offsets_data()
    drawn = zoo.draw(fitted(Offsets(idiom), data.relabel(seen)), data.relabel(seen), draws=2).groups
    assert (np.isnan(drawn["log_likelihood"]["y"][0, 0]) == ~seen).all()
    assert (np.isnan(drawn["observed_data"]["y"]) == ~seen).all()


class RowClass(zoo.ZooModel):
    """A class per row, and a target that depends on it, without any mask."""

    enumerated = ("s",)

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(1.0, 0.1)}

    def forward(self, x, sizes, y=None, row=None, **_):
        m = pyro.sample("m", self.prior("m"))
        with self.plate("row", sizes=sizes, row=row):
            s = pyro.sample("s", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(m * (2.0 * s - 1), 1.0), obs=x)
            pyro.sample("y", dist.Normal(5.0 * s, 1.0), obs=y)


def test_a_hidden_target_without_a_mask_says_nothing_of_its_rows_class():
    rng = np.random.default_rng(0)
    data = zoo.Batch.from_arrays(
        rows={"x": rng.normal(size=8), "y": rng.normal(2, 2, size=8)}, labels={"y": np.ones(8, bool)}
    )
    fit = fitted(RowClass(), data)
    p = torch.sigmoid(2 * float(point(fit, data, "m")) * data["x"])
    np.testing.assert_allclose(zoo.predict(fit, data, draws=2)["y.mean"], 5 * p, atol=1e-9)
    expected = torch.stack([(1 - p).log(), p.log()]) + log_normal(data["y"], torch.tensor([[0.0], [5.0]]))
    np.testing.assert_allclose(zoo.log_predictive(fit, data, draws=2), expected.logsumexp(0), atol=1e-9)


# ---------------------------------------------------------------- states of pyro.markov
STEPS, FIRST, MOVES = 4, np.array([0.6, 0.4]), np.array([[0.9, 0.1], [0.3, 0.7]])


class Chain(zoo.ZooModel):
    """A hidden Markov chain along each row, of unequal lengths, and a target that its last state decides."""

    rows = "sequence"
    plate_dims = {"sequence": -1}
    enumerated = tuple(f"z_{t}" for t in range(STEPS))
    targets = ("z_3", "y")
    dims = {"mu": ("state",)}

    def __init__(self, masked="emissions", priors=None):
        super().__init__()
        self.masked = masked
        self.set_priors(priors)

    def priors(self):
        return {"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1)}

    def forward(self, x, long, sizes, y=None, y_labelled=None, sequence=None, **_):
        mu, z = pyro.sample("mu", self.prior("mu")), None
        first, moves = torch.as_tensor(FIRST), torch.as_tensor(MOVES)
        with self.plate("sequence", sizes=sizes, sequence=sequence):
            for t in pyro.markov(range(STEPS)):
                fn = dist.Categorical(first if z is None else moves[z])
                fn = fn.mask(t < long) if self.masked == "distributions" else fn
                with poutine.mask(mask=t < long if self.masked == "both" else True):
                    z = pyro.sample(f"z_{t}", fn, infer={"enumerate": "parallel"})
                with poutine.mask(mask=t < long):
                    pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z], 1.0), obs=x[:, t])
                if t == STEPS - 1:
                    pyro.sample("y", dist.Normal(3.0 * z, 1.0).mask(y_labelled), obs=y)


def chains(n=5, copies=1):
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(n, STEPS)), "long": 2 + np.arange(n) % 3, "y": rng.normal(1.0, 1.0, n)}
    rows = {name: np.concatenate([values] * copies) for name, values in rows.items()}
    return zoo.Batch.from_arrays(
        rows=rows, labels={"y": np.ones(n * copies, bool)}, row_plate="sequence", simulated=True
    )


def chain_terms(data, mu, row, with_y):
    """Log density of every path of states of one sequence."""
    x, long, y = (data[name][row].numpy() for name in ("x", "long", "y"))
    out = {}
    for path in itertools.product(range(2), repeat=STEPS):
        out[path] = math.log(FIRST[path[0]]) + sum(math.log(MOVES[a, b]) for a, b in itertools.pairwise(path))
        out[path] += sum(log_normal(x[t], mu[z]) for t, z in enumerate(path) if t < long)
        out[path] += log_normal(y, 3.0 * path[-1]) if with_y else 0.0
    return out


@pytest.fixture(params=["emissions", "both", "distributions"])  # where the steps beyond the end are masked
def chain_fit(request, double_precision):
    return fitted(Chain(request.param), chains(), steps=3)


def test_states_of_markov_are_summed_out_exactly_in_predictions_and_densities(chain_fit):
    data, mu = chains(), point(chain_fit, chains(), "mu")
    table = zoo.predict(chain_fit, data, draws=2)
    held_out, whole = zoo.log_predictive(chain_fit, data, draws=2), zoo.log_density(chain_fit, data, draws=2)
    state = zoo.log_predictive(chain_fit, data.relabel(np.ones(5, bool)), draws=2)
    np.testing.assert_array_equal(state, held_out)
    for row in range(5):
        terms, joint = chain_terms(data, mu, row, False), chain_terms(data, mu, row, True)
        p = math.exp(log_sum(v for path, v in terms.items() if path[-1]) - log_sum(terms.values()))
        assert table["z_3.p[1]"].iloc[row] == pytest.approx(p, abs=1e-9)
        assert table["y.mean"].iloc[row] == pytest.approx(3 * p, abs=1e-9)
        assert table["y.sd"].iloc[row] == pytest.approx(math.sqrt(1 + 9 * p * (1 - p)), abs=1e-9)
        assert whole.iloc[row] == pytest.approx(log_sum(joint.values()), abs=1e-9)
        assert held_out.iloc[row] == pytest.approx(log_sum(joint.values()) - log_sum(terms.values()), abs=1e-9)


def test_log_likelihoods_sum_the_states_of_markov_out(chain_fit):
    data, mu = chains(), point(chain_fit, chains(), "mu")
    found = zoo.draw(chain_fit, data, draws=1).groups["log_likelihood"]
    for t in range(STEPS):
        prior = FIRST @ np.linalg.matrix_power(MOVES, t)
        x = data["x"][:, t].numpy()
        expected = np.log(prior[0] * np.exp(log_normal(x, mu[0])) + prior[1] * np.exp(log_normal(x, mu[1])))
        expected = np.where(t < data["long"].numpy(), expected, np.nan)
        np.testing.assert_allclose(found[f"x_{t}"][0, 0], expected, atol=1e-9)


def test_drawn_states_of_markov_follow_their_posterior(chain_fit):
    data, mu, copies = chains(), point(chain_fit, chains(), "mu"), 500
    many = chains(copies=copies)  # the rows of one draw are independent
    drawn = zoo.draw(chain_fit, many, draws=1, predictive=False).groups["posterior"]
    for row, t in itertools.product(range(5), range(STEPS)):
        joint = chain_terms(data, mu, row, True)
        p = math.exp(log_sum(v for path, v in joint.items() if path[t]) - log_sum(joint.values()))
        assert drawn[f"z_{t}"][0, 0, row::5].mean() == pytest.approx(p, abs=5 * 0.5 / math.sqrt(copies))


def test_an_exact_guide_of_a_chains_means_has_no_tail_and_a_narrow_one_has():
    fit = fitted(Chain(), chains(), AutoNormal, steps=200)
    k = zoo.khat(fit, draws=400)
    assert k.attrs == {"per": "global", "latents": ("mu",)}
    assert k.index.tolist() == ["all latents"]
    assert k.iloc[0] < 0.7
    with torch.no_grad():
        for parameter in fit.guide.auto.scales.parameters():
            parameter -= 2.0
    assert zoo.khat(fit, draws=400).iloc[0] > 0.7


class Escaped(Chain):
    """A site that reads a state outside the loop, where its dimension may be another's."""

    def forward(self, x, sizes, sequence=None, **_):
        z = None
        with self.plate("sequence", sizes=sizes, sequence=sequence):
            for t in pyro.markov(range(2)):
                fn = dist.Categorical(torch.as_tensor(FIRST if z is None else MOVES)[() if z is None else z])
                z = pyro.sample(f"z_{t}", fn, infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=x[:, 0])


def test_a_state_that_is_read_outside_its_loop_is_refused_at_the_fit():
    with pytest.raises(ValueError, match=r"x: dimension .* a site that reads a state of pyro.markov belongs inside"):
        zoo.fit(Escaped(), lambda model: Silent(model), chains(), steps=1, progress=False)


# ---------------------------------------------------------------- discrete effects of groups
class Silent(zoo.LocalParams, pyro.nn.PyroModule):
    def __init__(self, model):
        super().__init__()

    def forward(self, **_):
        pass


class LookedUp(zoo.ZooModel):
    """A class per group, which its rows look up."""

    plate_dims = {"group": -1, "row": -1}
    enumerated = ("e",)
    targets = ()

    def __init__(self, priors=None):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    def forward(self, y, group, sizes, row=None, **_):
        with self.plate("group", sizes=sizes):
            e = pyro.sample("e", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
        e = e.expand(*e.shape[:-1], sizes["group"])
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(2.0 * e[..., group] + self.shift, 1.0), obs=y)


class Shared(LookedUp):
    """A class that all rows share."""

    plate_dims = {"row": -1}

    def forward(self, y, sizes, row=None, **_):
        e = pyro.sample("e", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(2.0 * e + self.shift, 1.0), obs=y)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(LookedUp, r"e: .*'group', above the rows .*Make each group a row"), (Shared, "e: it is enumerated outside")],
)
def test_a_class_above_the_rows_is_refused_at_the_fit_with_the_idiom_that_works(kind, words):
    data = zoo.Batch.from_arrays(rows={"y": np.arange(6.0)}, groups={"group": list("aabbcc")})
    with pytest.raises(ValueError, match=words):
        zoo.fit(kind(), Silent, data, steps=1, progress=False)


class Herds(zoo.ZooModel):
    """The idiom that works: the groups are the rows, their members a padded plate inside, with a class each, too."""

    rows = "herd"
    plate_dims = {"herd": -2}
    enumerated = ("e", "f")
    targets = ()
    dims = {"mu": ("k", "l")}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"mu": dist.Normal(torch.tensor([[-1.0, 1.0], [2.0, 3.0]]), 1.0).to_event(2)}

    def forward(self, y, lengths, sizes, herd=None, **_):
        mu = pyro.sample("mu", self.prior("mu"))
        y = pad_sequence(y.split(lengths.tolist()), batch_first=True)
        seen = torch.arange(y.shape[1]) < lengths[:, None]
        with self.plate("herd", sizes=sizes, herd=herd):
            e = pyro.sample("e", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            with pyro.plate("animal", y.shape[1], dim=-1):
                f = pyro.sample("f", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
                pyro.sample("y", dist.Normal(Vindex(mu)[..., e, f], 1.0).mask(seen), obs=y)


def test_classes_of_groups_and_of_their_members_are_summed_out_exactly():
    rng = np.random.default_rng(0)
    y = [rng.normal(size=k) for k in (2, 3, 1, 3, 2)]
    data = zoo.Batch.from_arrays(row_plate="herd", rows={}, frames={"y": y})
    fit = fitted(Herds(), data)
    mu = point(fit, data, "mu")
    density, drawn = zoo.log_density(fit, data, draws=2), zoo.draw(fit, data, draws=4).groups
    for herd, own in enumerate(y):
        given = np.array(
            [[[math.log(q) + log_normal(v, mu[e, f]) for f, q in ((0, 0.3), (1, 0.7))] for v in own] for e in range(2)]
        )
        by_animal = np.logaddexp.reduce(given, -1)
        assert density.iloc[herd] == pytest.approx(log_sum(np.log([0.4, 0.6]) + by_animal.sum(-1)), abs=1e-9)
        alone = np.logaddexp(*(np.log([0.4, 0.6])[:, None] + by_animal))
        found = drawn["log_likelihood"]["y"][0, 0, herd]
        np.testing.assert_allclose(found[: len(own)], alone, atol=1e-9)
        assert np.isnan(found[len(own) :]).all()
    assert drawn["posterior"]["e"].shape == (1, 4, 5)
    assert drawn["posterior"]["f"].shape == (1, 4, 5, 3)


# ---------------------------------------------------------------- sizes
def units(n=3, columns=1):
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(n), 10)
    x = rng.normal(size=(len(unit), columns))
    return zoo.Batch.from_arrays(
        rows={"x": x, "y": x[:, :1] + unit[:, None]}, groups={"unit": unit}, labels={"y": np.ones(len(unit), bool)},
    )  # fmt: skip


@pytest.mark.parametrize("size", [{"n_units": 1}, {"x_dim": 5}, {"y_dim": 3}, {"n_units": 4}])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_size_that_contradicts_the_data_is_refused_by_name(size, by_hand):
    data, small = units(), {"c_dim": 2, "z_dim": 2, "width": 4, "depth": 1}
    sizes = {"x_dim": 1, "y_dim": 1, "n_units": 3} | size | small
    ((name, given),) = size.items()

    def made_and_fitted():
        model = SSMTL(**sizes) if by_hand else zoo.create_model("ssmtl", data, **small, **size)
        zoo.fit(model, GUIDES["paper"], data, steps=1, progress=False)

    with pytest.raises(ValueError, match=f"{name}: the model was made for {given}, but the data have "):
        made_and_fitted()


class Wide(Offsets):
    """Three components of a target that has one."""

    dims = {"y": ("component",)}

    def forward(self, y, unit, sizes, row=None, **_):
        with self.plate("unit", sizes=sizes):
            c = pyro.sample("c", self.prior("c"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(c[..., unit, None].expand(*unit.shape, 3), 1.0).to_event(1), obs=y)


def test_an_event_that_would_be_broadcast_to_its_data_is_refused():
    data, _ = offsets_data("vector")
    with pytest.raises(
        ValueError, match=r"y: its data have the shape \(1,\) per position, and its distribution \(3,\)"
    ):
        fitted(Wide(), data)


def test_data_to_predict_that_would_be_broadcast_are_refused():
    data = units(columns=2)
    fit = zoo.fit(zoo.create_model("ssmtl", data, width=4, depth=1), "paper", data, steps=1, progress=False)
    with pytest.raises(
        ValueError, match=r"x: the batch has entries of shape \(1,\) where the fit was trained on \(2,\)"
    ):
        zoo.predict(fit, units(columns=1), draws=2)


# ---------------------------------------------------------------- k-hat
def test_khat_says_what_it_judged_and_refuses_what_has_no_weights():
    data, _ = offsets_data()
    fit = fitted(Offsets(), data, AutoNormal)
    k = zoo.khat(fit, draws=50)
    assert (k.attrs["per"], k.index.tolist()) == ("global", ["all latents"])
    assert zoo.khat(fit, per="unit", draws=50).attrs["per"] == "unit"
    with pytest.raises(ValueError, match="the guide samples no latent along the rows"):
        zoo.khat(fit, per="row", draws=50)


# ---------------------------------------------------------------- masks
def test_a_mask_of_one_task_hides_no_label_of_another():
    def loss(y_b):
        rows = {"bvp": np.random.default_rng(0).normal(size=(8, 40)), "y_a": np.arange(8) % 2, "y_b": y_b}
        data = zoo.Batch.from_arrays(
            rows=rows, labels={"y_a": np.arange(8) < 2}, row_plate="window", dims={"bvp": ("bvp_time",)}
        )
        with pyro.settings.context(module_local_params=True):
            torch.manual_seed(0)
            model = zoo.create_model(
                "m3sense", data, variant="unaligned", tasks={"a": 2, "b": 2}, embedding=4, lstm_layers=1,
                hidden=(4, 4), head=4,
            ).eval()  # fmt: skip
            trace = poutine.trace(model).get_trace(**model.arguments(data))
        trace.compute_log_prob()
        return tuple(trace.nodes[name]["log_prob_sum"].item() for name in ("y_a", "y_b"))

    (a, b), (same, other) = loss(np.zeros(8, int)), loss((np.arange(8) > 4).astype(int))
    assert a == same
    assert b != other


# ---------------------------------------------------------------- what cannot be an entry
class NoRows(Offsets):
    """All rows in one normal vector: a Gaussian process."""

    targets = ()

    def forward(self, y, unit, sizes, **_):
        with self.plate("unit", sizes=sizes):
            c = pyro.sample("c", self.prior("c"))
        pyro.sample("y", dist.MultivariateNormal(c[..., unit], torch.eye(len(y)) + 0.5), obs=y)


class Curve(Offsets):
    """A latent curve through all rows."""

    def priors(self):
        return {"f": lambda x: dist.MultivariateNormal(x * 0, torch.eye(len(x)) + 0.5)}

    def forward(self, y, unit, sizes, row=None, **_):
        f = pyro.sample("f", self.prior("f", y))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(f, 1.0), obs=y)


class Chooses(Offsets):
    """Plates subsampled by the model itself."""

    def __init__(self, chosen="unit", priors=None):
        super().__init__(priors=priors)
        self.chosen = chosen

    def plate(self, name, *, sizes, **batch):
        if name == self.chosen:
            return pyro.plate(name, sizes[name], subsample_size=2, dim=-1)
        return super().plate(name, sizes=sizes, **batch)

    def forward(self, y, unit, sizes, row=None, **_):
        with self.plate("unit", sizes=sizes):
            c = pyro.sample("c", self.prior("c"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(c.mean(-1, keepdim=True).expand(len(y)), 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (NoRows(), "NoRows: it opens no plate 'row'"),
        (Curve(), "f: its size is that of the rows, but it lies outside their plate"),
        (Chooses("unit"), "plate 'unit': the model chooses its positions by itself"),
        (Chooses("row"), "plate 'row': the model chooses its positions by itself"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_by_name(model, words):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=words):
        fitted(model, offsets_data()[0])


class Steps(zoo.ZooModel):
    """x_t ~ N(mu, 1) for t < n_steps: further steps of a longer row would be left out."""

    targets = ()

    def __init__(self, n_steps, priors=None):
        super().__init__()
        self.n_steps = n_steps
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data):
        return {"n_steps": data["x"].shape[1]}

    def priors(self):
        return {"mu": dist.Normal(0.0, 1.0)}

    def forward(self, x, **batch):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("row", **batch):
            for t in range(self.n_steps):
                pyro.sample(f"x_{t}", dist.Normal(mu, 1.0), obs=x[:, t])


@pytest.mark.parametrize("steps", [2, 6])
def test_rows_of_another_length_than_the_model_was_made_for_are_refused_where_a_fit_is_used(steps):
    train, other = (zoo.Batch.from_arrays(rows={"x": torch.ones(5, n)}) for n in (4, steps))
    fit = zoo.fit(Steps(4), zoo.guides.auto(AutoNormal), train, steps=1, progress=False)
    assert np.isfinite(zoo.log_density(fit, train, draws=2, progress=False)).all()
    with pytest.raises(
        ValueError, match=f"n_steps: the model was made for 4, but the data have {steps}; give rows of the shape"
    ):
        zoo.log_density(fit, other, draws=2, progress=False)
