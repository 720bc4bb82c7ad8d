"""Hidden states in the idioms of strangers: every number equals a sum over all paths, or the fit refuses by name."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex

import pyrozoo as zoo
from pyrozoo.modeling.guides import auto

pytestmark = pytest.mark.usefixtures("double_precision")

STEPS, MARK = 3, {"infer": {"enumerate": "parallel"}}
FIRST, MOVES = (torch.tensor(p, dtype=torch.double) for p in ([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]]))


class States(zoo.ZooModel):
    """A chain per night, whose emissions have a level per unit; a subclass writes what happens in a night."""

    rows = "night"
    plate_dims = {"unit": -1, "night": -1}
    enumerated = tuple(f"z_{t}" for t in range(STEPS))
    dims = {"mu": ("state",)}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1), "e": dist.Normal(0.0, 1.0)}

    def forward(self, x, long, unit, sizes, y=None, y_labelled=None, night=None, **_):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("unit", sizes=sizes):
            e = pyro.sample("e", self.prior("e"))
        with self.plate("night", sizes=sizes, night=night):
            self.inside(mu, self.look_up(e, unit), x, long, y, True if y_labelled is None else y_labelled)

    def look_up(self, e, unit):
        return e[..., unit]

    def state(self, t, before=None):
        return pyro.sample(f"z_{t}", dist.Categorical(FIRST if before is None else MOVES[before]), **MARK)

    def inside(self, mu, e, x, long, y, seen):
        z = None
        for t in pyro.markov(range(STEPS)):
            z = self.state(t, z)
            self.emit(t, z, mu, e, x, long)
            if t == STEPS - 1:
                pyro.sample("y", dist.Normal(3.0 * z, 1.0).mask(seen), obs=y)

    def emit(self, t, z, mu, e, x, long):
        pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z] + e, 1.0).mask(t < long), obs=x[:, t])


class Wide(States):
    """Nights at dimension -2, with sensors inside."""

    plate_dims = {"unit": -2, "night": -2}

    def look_up(self, e, unit):
        return e.reshape(*e.shape[: max(e.dim() - 2, 0)], -1, 1)[..., unit, :]  # with or without its plate's axis

    def inside(self, mu, e, x, long, y, seen):
        seen = seen if seen is True else seen[:, None]
        self.within(mu, e, torch.stack([x, -x], -1), long, None if y is None else y[:, None], seen)


class Sensors(Wide):
    """Two emissions per step, in a plate inside."""

    def within(self, mu, e, x, long, y, seen):
        z, sensors = None, pyro.plate("sensor", 2, dim=-1)
        for t in pyro.markov(range(STEPS)):
            z = self.state(t, z)
            with sensors, poutine.mask(mask=(t < long)[:, None]):
                pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z] + e, 1.0), obs=x[:, t])
            if t == STEPS - 1:
                pyro.sample("y", dist.Normal(3.0 * z, 1.0).mask(seen), obs=y)


class ChainPerSensor(Wide):
    """A class of the night, and a chain of each sensor."""

    enumerated = ("k", *States.enumerated)

    def within(self, mu, e, x, long, y, seen):
        k, z = pyro.sample("k", dist.Categorical(FIRST), **MARK), None
        with pyro.plate("sensor", 2, dim=-1):
            for t in pyro.markov(range(STEPS)):
                with poutine.mask(mask=(t < long)[:, None]):
                    z = self.state(t, z)
                    pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z] + k + e, 1.0), obs=x[:, t])
        pyro.sample("y", dist.Normal(3.0 * k, 1.0).mask(seen), obs=y)


class SecondOrder(States):
    """A state that depends on two before it."""

    def inside(self, mu, e, x, long, y, seen):
        a = b = None
        moves = torch.stack([MOVES, MOVES.flip(-1)])
        for t in pyro.markov(range(STEPS), history=2):
            probs = FIRST if b is None else MOVES[b] if a is None else Vindex(moves)[..., a, b, :]
            a, b = b, pyro.sample(f"z_{t}", dist.Categorical(probs), **MARK)
            self.emit(t, b, mu, e, x, long)
            if t == STEPS - 1:
                pyro.sample("y", dist.Normal(b + 2.0 * a, 1.0).mask(seen), obs=y)


class PlainLoop(States):
    """No markov: a target may read all states, here that at the end of each night."""

    def inside(self, mu, e, x, long, y, seen):
        z, last = None, 0
        for t in range(STEPS):
            z = self.state(t, z)
            last = torch.where(t == long - 1, z, last)
            self.emit(t, z, mu, e, x, long)
        pyro.sample("y", dist.Normal(3.0 * last, 1.0).mask(seen), obs=y)


class Nested(States):
    """A slow chain, and a fast one within each of its steps."""

    enumerated = ("k_0", "k_1", "z_0", "z_1", "z_2", "z_3")

    def inside(self, mu, e, x, long, y, seen):
        k = None
        for s in pyro.markov(range(2)):
            k, z = pyro.sample(f"k_{s}", dist.Categorical(FIRST if k is None else MOVES[k]), **MARK), None
            for t in pyro.markov(range(2)):
                z = self.state(2 * s + t, k if z is None else z)
                value = x[:, min(2 * s + t, STEPS - 1)]
                pyro.sample(f"x_{2 * s + t}", dist.Normal(Vindex(mu)[..., z] + e, 1.0).mask(s < long), obs=value)
            if s == 1:
                pyro.sample("y", dist.Normal(3.0 * k, 1.0).mask(seen), obs=y)


class TwoChains(States):
    """Two chains side by side, emissions that are numbers, missing here and there, or classes, and a factor."""

    enumerated = tuple(f"{chain}_{t}" for t in range(STEPS) for chain in "zw")

    def inside(self, mu, e, x, long, y, seen):
        z = w = None
        for t in pyro.markov(range(STEPS)):
            with poutine.mask(mask=t < long):
                z = self.state(t, z)
                w = pyro.sample(f"w_{t}", dist.Bernoulli(torch.tensor(0.4) if w is None else 0.2 + 0.6 * w), **MARK)
                with poutine.mask(mask=x[:, t] > -1):
                    pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., z] + e + w, 1.0), obs=x[:, t])
                pyro.sample(f"v_{t}", dist.Categorical(MOVES[z]), obs=(x[:, t] > 0).long())
            if t == 1:
                pyro.factor("soft", -0.7 * z * (x[:, 1] > 0))
            if t == STEPS - 1:
                pyro.sample("y", dist.Normal(z - 1.0 * w, 1.0).mask(seen), obs=y)


class PlatePerStep(States):
    """The row plate entered anew in every step, and means per unit and state."""

    def priors(self):
        return {"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1)}

    def forward(self, x, long, unit, sizes, y=None, y_labelled=None, night=None, **_):
        with self.plate("unit", sizes=sizes):
            mu = pyro.sample("mu", self.prior("mu"))
        z, nights = None, self.plate("night", sizes=sizes, night=night)
        for t in pyro.markov(range(STEPS)):
            with nights:
                z = self.state(t, z)
                pyro.sample(f"x_{t}", dist.Normal(Vindex(mu)[..., unit, z], 1.0).mask(t < long), obs=x[:, t])
                if t == STEPS - 1:
                    pyro.sample("y", dist.Normal(3.0 * z, 1.0).mask(y_labelled), obs=y)


def nights(n=6, copies=1):
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(0, 1.5, (n, STEPS)), "long": 1 + np.arange(n) % STEPS, "y": rng.normal(1, 2, n)}
    rows = {name: np.concatenate([values] * copies) for name, values in rows.items()}
    known = {"labels": {"y": np.ones(n * copies, bool)}, "groups": {"unit": np.arange(n * copies) % 2}}
    return zoo.Batch.from_arrays(rows=rows, row_plate="night", simulated=True, **known)


def fitted(model, guide=AutoDelta, steps=2):
    return zoo.fit(model, auto(guide), nights(), seed=0, steps=steps, lr=0.05, progress=False)


class Paths:
    """The model run once for every assignment of its states: log density (paths, N) of each site along the rows."""

    def __init__(self, fit, data, held):
        model, arguments = fit.model, fit.model.arguments(fit.prepare(data))
        with torch.no_grad():
            one = poutine.trace(poutine.condition(model, data=held)).get_trace(**arguments)
            names = [name for name in model.enumerated if name in one.nodes]
            choices = [list(self._values(name, one.nodes[name])) for name in names]
            self.states = [dict(zip(names, path, strict=True)) for path in itertools.product(*choices)]
            runs = (poutine.condition(model, data=held | states) for states in self.states)
            self.traces = [poutine.trace(run).get_trace(**arguments) for run in runs]
        self.terms = {}
        for name, site in one.nodes.items():
            plates = [frame.name for frame in site["cond_indep_stack"]] if site["type"] == "sample" else []
            if "night" in plates and name != "sensor":
                found = [self._by_row(trace.nodes[name], data.n_rows, name in names) for trace in self.traces]
                self.terms[name] = torch.stack(found)
        self.names = names

    def _values(self, name, site):
        support = site["fn"].enumerate_support(expand=False).flatten()
        shape = site["value"].shape[1:]
        for path in itertools.product(support, repeat=shape.numel()):
            yield torch.stack(path).reshape(1, *shape).expand(site["value"].shape)

    def _by_row(self, site, n, state):
        fn = site["fn"]
        if state and isinstance(fn, dist.MaskedDistribution):
            fn = fn.base_dist
        density = fn.log_prob(site["value"])
        if site["mask"] is not None and not state:
            density = density * torch.as_tensor(site["mask"])
        sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"]}
        shape = tuple(sizes.get(dim, 1) for dim in range(min(sizes), 0))
        return density.expand(torch.broadcast_shapes(density.shape, shape)).reshape(n, -1).sum(-1)

    def total(self, without=()):
        return sum(term for name, term in self.terms.items() if name not in without)

    def prior(self):
        states = [term for name, term in self.terms.items() if name in self.names or name == "soft"]
        return sum(states).log_softmax(0)

    def state(self, name):
        found = torch.stack([values[name].double() for values in self.states])
        weights = self.total().softmax(0)
        return (weights.reshape(*weights.shape, *(1,) * (found.dim() - 2)) * found).sum(0)


def latents(drawn, fit, draw=0):
    posterior = drawn.groups["posterior"]
    return {site: torch.as_tensor(posterior[site][0, draw]) for site in fit.model.priors()}


IDIOMS = [Sensors, ChainPerSensor, SecondOrder, PlainLoop, Nested, TwoChains, PlatePerStep]


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_every_number_is_a_sum_over_all_paths(idiom):
    data = nights()
    fit = fitted(idiom())
    drawn = zoo.draw(fit, data, draws=1)
    paths, hidden = (Paths(fit, batch, latents(drawn, fit)) for batch in (data, data.hide()))
    np.testing.assert_allclose(zoo.log_density(fit, data, draws=1, progress=False), paths.total().logsumexp(0))
    given = hidden.total(without=("y",)).log_softmax(0)
    np.testing.assert_allclose(zoo.log_predictive(fit, data, draws=1), (given + paths.terms["y"]).logsumexp(0))
    means = torch.stack([t.nodes["y"]["fn"].mean.expand(t.nodes["y"]["value"].shape).flatten() for t in hidden.traces])
    mean = (given.exp() * means).sum(0)
    table = zoo.predict(fit, data, draws=1)
    np.testing.assert_allclose(table["y.mean"], mean)
    np.testing.assert_allclose(table["y.sd"], (1 + (given.exp() * (means - mean) ** 2).sum(0)).sqrt())
    for site, found in drawn.groups["log_likelihood"].items():
        own = found[0, 0]
        if own.ndim == 1:  # a site in a plate inside has a density per position
            by_hand = (paths.prior() + paths.terms[site]).logsumexp(0)
            np.testing.assert_allclose(own, np.where(np.isnan(own), np.nan, by_hand))


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_drawn_states_have_their_posterior_probabilities(idiom):
    fit, copies = fitted(idiom()), 300
    drawn = zoo.draw(fit, nights(copies=copies), draws=1, predictive=False)  # the rows of one draw are independent
    paths = Paths(fit, nights(), latents(drawn, fit))
    for name in paths.names:
        values = drawn.groups["posterior"][name][0, 0]
        mean = values.reshape(copies, 6, *values.shape[1:]).mean(0)
        far = 5 * 0.5 * values.max(initial=1) / np.sqrt(copies)
        np.testing.assert_allclose(mean.ravel(), paths.state(name).flatten(), atol=far)


def test_predictions_with_a_spread_are_means_over_the_guides_draws():
    fit, data, draws = fitted(SecondOrder(), AutoNormal, steps=20), nights(), 15
    drawn, means = zoo.draw(fit, data.hide(), draws=draws, seed=1, predictive=False), []
    for draw in range(draws):
        paths = Paths(fit, data.hide(), latents(drawn, fit, draw))
        given = paths.total(without=("y",)).softmax(0)
        means.append((given * torch.stack([t.nodes["y"]["fn"].mean.expand(6) for t in paths.traces])).sum(0))
    means = torch.stack(means)
    found = zoo.predict(fit, data, draws=3000)["y.mean"].to_numpy()
    error = means.std(0) * np.sqrt(1 / draws + 1 / 3000)
    np.testing.assert_array_less(np.abs(found - means.mean(0).numpy()), 5 * error.numpy())


# ---------------------------------------------------------------- a latent of the row, too
class Tired(States):
    """A number of each night beside its states, which an amortised guide draws."""

    row_sites = ("u",)

    def priors(self):
        return {**super().priors(), "u": dist.Normal(0.0, 1.0)}

    def inside(self, mu, e, x, long, y, seen):
        super().inside(mu, e + pyro.sample("u", self.prior("u")), x, long, y, seen)

    def local_guide(self):
        return NightGuide(self)


class NightGuide(zoo.ZooGuide):
    """q(u | x), wider than the posterior."""

    def __init__(self, model):
        super().__init__(model)
        self.gain = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, sizes, night=None, **_):
        with self.model.plate("night", sizes=sizes, night=night):
            pyro.sample("u", dist.Normal(self.gain * x[:, 0], 1.0))


def test_a_rows_own_number_is_integrated_out_by_importance():
    data = nights()
    fit = fitted(Tired())
    held = latents(zoo.draw(fit, data, draws=1), fit)
    grid = torch.linspace(-5, 5, 31)
    on_grid = [Paths(fit, data, held | {"u": u.expand(6)}).total().logsumexp(0) for u in grid]
    exact = torch.stack(on_grid).logsumexp(0) + (grid[1] - grid[0]).log()
    found = zoo.log_density(fit, data, draws=150, progress=False)
    np.testing.assert_allclose(found, exact, atol=0.3)
    assert (zoo.khat(fit, draws=100) < 0.7).all()


# ---------------------------------------------------------------- the same model by a forward algorithm
class ByHand(dist.TorchDistribution):
    """The emissions of a night: log density by the forward algorithm."""

    arg_constraints = {}
    support = dist.constraints.real_vector

    def __init__(self, means, long):
        self.means, self.long = means, long
        super().__init__(means.shape[:-1], (STEPS,), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return ByHand(self.means.expand(*batch_shape, 2), self.long)

    def sample(self, sample_shape=()):
        return torch.zeros(self.shape(sample_shape))

    def messages(self, x):
        found = FIRST.log().expand(*x.shape[:-1], 2)
        for t in range(STEPS):
            found = (found[..., None] + MOVES.log()).logsumexp(-2) if t else found
            emitted = dist.Normal(self.means, 1.0).log_prob(x[..., t, None])
            found = found + emitted * (t < self.long)[..., None]
        return found

    def log_prob(self, x):
        return self.messages(x).logsumexp(-1)


class Forward(States):
    """`States` without a state: the paths are summed by hand."""

    enumerated = ()

    def inside(self, mu, e, x, long, y, seen):
        emissions = ByHand(mu + e[..., None], long)
        pyro.sample("x", emissions, obs=x)
        last = emissions.messages(x)
        means = torch.tensor([0.0, 3.0]).expand(last.shape)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=last), dist.Normal(means, 1.0))
        pyro.sample("y", mixture.mask(seen), obs=y)


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal])
def test_markov_and_the_forward_algorithm_are_one_model(guide):
    data = nights()
    markov, forward = (fitted(model, guide, steps=10) for model in (States(), Forward()))
    np.testing.assert_allclose(markov.history["elbo"], forward.history["elbo"], rtol=1e-9)
    for batch in (data, data.hide()):
        found = [zoo.log_density(fit, batch, draws=5, progress=False) for fit in (markov, forward)]
        np.testing.assert_allclose(*found, atol=1e-6)
    if guide is AutoDelta:
        columns = ["y.mean", "y.sd"]
        np.testing.assert_allclose(*(zoo.predict(fit, data, draws=2)[columns] for fit in (markov, forward)), atol=1e-6)
        np.testing.assert_allclose(*(zoo.log_predictive(fit, data, draws=2) for fit in (markov, forward)), atol=1e-6)
    else:
        k = [zoo.khat(fit, draws=50).iloc[0] for fit in (markov, forward)]
        assert k[0] == pytest.approx(k[1], abs=1e-6)
        elpd = [zoo.loo(fit, draws=30).rows["elpd"] for fit in (markov, forward)]
        np.testing.assert_allclose(*elpd, atol=1e-6)


# ---------------------------------------------------------------- what a fit refuses
class Unmarked(States):
    def state(self, t, before=None):
        fn = dist.Categorical(FIRST if before is None else MOVES[before])
        return pyro.sample(f"z_{t}", fn, **(MARK if t else {}))


class OneHot(States):
    def state(self, t, before=None):
        return pyro.sample(f"z_{t}", dist.OneHotCategorical(FIRST if before is None else before @ MOVES), **MARK)

    def emit(self, t, z, mu, e, x, long):
        pyro.sample(f"x_{t}", dist.Normal((z * mu).sum(-1) + e, 1.0).mask(t < long), obs=x[:, t])

    def inside(self, mu, e, x, long, y, seen):
        super().inside(mu, e, x, long, None, seen)


class TooOld(States):
    """The last emission reads the first state, whose dimension is the third's by then."""

    def emit(self, t, z, mu, e, x, long):
        self.first = z if t == 0 else self.first
        super().emit(t, z, mu, e + (self.first if t == 2 else 0), x, long)


class LastOfMany(PlainLoop):
    """As in a plain loop, but in markov, where the target can read the last state alone."""

    def inside(self, mu, e, x, long, y, seen):
        z, last = None, 0
        for t in pyro.markov(range(STEPS)):
            z = self.state(t, z)
            last = torch.where(t == long - 1, z, last)
            self.emit(t, z, mu, e, x, long)
            if t == STEPS - 1:
                pyro.sample("y", dist.Normal(3.0 * last, 1.0).mask(seen), obs=y)


class Neighbours(States):
    """An emission reads the state of the night before."""

    def emit(self, t, z, mu, e, x, long):
        z = z.expand(*z.shape[:-1], x.shape[0]).roll(1, -1)
        super().emit(t, z, mu, e, x, long)


class HalfLatent(States):
    def inside(self, mu, e, x, long, y, seen):
        z = self.state(0)
        self.emit(0, z, mu, e, x, long)
        pyro.sample("y", dist.Normal(3.0 * z, 1.0), obs=y, obs_mask=seen)


@pytest.mark.parametrize(
    ("idiom", "words"),
    [
        (Unmarked, r"z_0: it is listed in `enumerated`, but not marked in the model"),
        (OneHot, r"z_0: a value of OneHotCategorical is a vector, and an enumerated site is one number"),
        (TooOld, r"TooOld: site 'x_2' .* depends on 'z_0', which is out of scope there"),
        (LastOfMany, r"LastOfMany: site 'y' .* depends on 'z_\d', which is out of scope there"),
        (Neighbours, r"Neighbours: the density of site 'x_\d' .* in one night depends on 'z_\d' of another"),
        (HalfLatent, r"obs_mask makes latents of the hidden entries of \['y'\], so .* or give the site a mask instead"),
    ],
)
def test_what_is_not_right_is_refused_at_the_fit(idiom, words):
    with pytest.raises(ValueError, match=words):
        fitted(idiom(), steps=1)
