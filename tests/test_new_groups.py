"""Rows of groups that the training data lack: their latents come from the prior given the global latents."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import nn

import pyrozoo as zoo
from pyrozoo.modeling.guides import auto

pytestmark = pytest.mark.usefixtures("double_precision")


class Persons(zoo.ZooModel):
    """mu ~ N(0, 1), theta_p ~ N(mu + age_p, 0.5^2), b_i ~ N(0, 1); y ~ N(theta_p + b_i, 0.1^2)."""

    plate_dims = {"person": -1, "item": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"mu": dist.Normal(0.0, 1.0), "theta": lambda level: dist.Normal(level, 0.5), "b": dist.Normal(0.0, 1.0)}

    def forward(self, person, item, age, sizes, y=None, y_labelled=None, row=None, **batch):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("person", sizes=sizes):
            theta = pyro.sample("theta", self.prior("theta", mu + age))
        with self.plate("item", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal(theta[..., person] + b[..., item], 0.1).mask(y_labelled), obs=y)


class Classes(Persons):
    """And a class of each row, summed out."""

    enumerated = ("k",)

    def forward(self, person, item, age, sizes, y=None, y_labelled=None, row=None, **batch):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("person", sizes=sizes):
            theta = pyro.sample("theta", self.prior("theta", mu + age))
        with self.plate("item", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(k + theta[..., person] + b[..., item], 0.1).mask(y_labelled), obs=y)


class TwoPerPerson(Persons):
    """Two latents of each person, and no items."""

    plate_dims = {"person": -1, "row": -1}

    def priors(self):
        return {**super().priors(), "slope": dist.Normal(2.0, 0.5)}

    def forward(self, person, age, sizes, y=None, y_labelled=None, row=None, **batch):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("person", sizes=sizes):
            theta = pyro.sample("theta", self.prior("theta", mu + age))
            slope = pyro.sample("slope", self.prior("slope"))
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("y", dist.Normal((theta + slope)[..., person], 0.1).mask(y_labelled), obs=y)


class ByHand(zoo.ZooGuide):
    """Parameters of the size of the training data."""

    def __init__(self, model):
        super().__init__(model)
        self.sizes = {"mu": (), "theta": 4, "b": 3}
        for site, size in self.sizes.items():
            setattr(self, f"{site}_loc", nn.Parameter(torch.zeros(size)))

    def forward(self, sizes, **_):
        pyro.sample("mu", dist.Normal(self.mu_loc, 0.1))
        with self.model.plate("person", sizes=sizes):
            pyro.sample("theta", dist.Normal(self.theta_loc, 0.1))
        with self.model.plate("item", sizes=sizes):
            pyro.sample("b", dist.Normal(self.b_loc, 0.1))


def answers(persons, items, seed=0):
    rng = np.random.default_rng(seed)
    person, item = (v.ravel() for v in np.meshgrid(persons, items, indexing="ij"))
    ages = {"A": 0.1, "B": -0.2, "C": 0.3, "D": 0.0, "X": 1.0, "Y": -1.0}
    return zoo.Batch.from_arrays(
        rows={"y": rng.normal(size=len(person))}, groups={"person": person, "item": item},
        tables={"person": {"age": [ages[p] for p in persons]}}, coords={"person": persons, "item": items},
        labels={"y": np.ones(len(person), bool)}, simulated=True,
    )  # fmt: skip


def fitted(model=Persons, guide=None):
    data = answers(list("ABCD"), list("abc"))
    return zoo.fit(model(), guide or auto(AutoNormal), data, seed=0, steps=20, lr=0.05, progress=False)


POINT = auto(AutoDelta)


@pytest.mark.parametrize(
    ("model", "guide"),
    [(Persons, auto(AutoNormal)), (Persons, ByHand), (Classes, auto(AutoMultivariateNormal)), (Classes, POINT)],
)
def test_a_new_group_has_the_moments_of_its_prior_given_the_global_latents(model, guide):
    fit = fitted(model, guide)
    test = answers(["X", "B"], ["c", "a"])  # a new person and a known one, items in another order
    draws = 60
    table = zoo.predict(fit, test, draws=draws)
    assert table["person.new"].tolist() == [True, True, False, False]
    assert "item.new" not in table
    assert "person.new" not in zoo.predict(fit, test.subset([2, 3]), draws=1)
    points = 1 if guide is POINT else 60  # a point needs no second draw
    held = zoo.draw(fit, fit.train, draws=points, predictive=False).groups["posterior"]
    mean, variance = (0.7, 0.21) if model is Classes else (0.0, 0.0)
    for row, item in ((0, 2), (1, 0)):
        level = held["mu"][0] + 1.0 + held["b"][0, :, item]
        sd = np.sqrt(level.var() + 0.25 + 0.01 + variance)
        noise = 5 * np.sqrt(1 / draws + level.var() / sd**2 / points)  # of either's draws
        assert table["y.mean"].iloc[row] == pytest.approx(level.mean() + mean, abs=noise * sd)
        assert table["y.sd"].iloc[row] == pytest.approx(sd, rel=noise / np.sqrt(2))
    level = held["theta"][0, :, 1] + held["b"][0, :, 2]
    assert table["y.mean"].iloc[2] == pytest.approx(level.mean() + mean, abs=5 * (level.std() + 0.5) / np.sqrt(draws))


def test_several_latents_of_a_new_group_are_drawn_from_their_priors():
    fit = fitted(TwoPerPerson, auto(AutoDelta))
    table = zoo.predict(fit, answers(["X", "A"], ["a"]), draws=100)
    held = zoo.draw(fit, fit.train, draws=1, predictive=False).groups["posterior"]
    sd = np.sqrt(0.25 + 0.25 + 0.01)
    assert table["y.mean"].iloc[0] == pytest.approx(held["mu"][0, 0] + 1.0 + 2.0, abs=5 * sd / np.sqrt(100))
    assert table["y.sd"].iloc[0] == pytest.approx(sd, rel=5 / np.sqrt(200))
    assert table["y.mean"].iloc[1] == pytest.approx(held["theta"][0, 0, 0] + held["slope"][0, 0, 0])


def test_densities_of_a_new_group_integrate_over_its_prior():
    fit = fitted(guide=auto(AutoDelta))
    test = answers(["X"], ["a"])
    point = {site: float(v[0, 0].ravel()[0]) for site, v in
             zoo.draw(fit, fit.train, draws=1, predictive=False).groups["posterior"].items()}  # fmt: skip
    by_hand = dist.Normal(point["mu"] + 1.0 + point["b"], (0.25 + 0.01) ** 0.5).log_prob(test["y"]).item()
    assert zoo.log_predictive(fit, test, draws=100).item() == pytest.approx(by_hand, abs=0.5)
    assert np.isfinite(list(zoo.metrics(fit, answers(["X", "A"], ["a", "b"]), draws=20).values())).all()
    assert len(zoo.log_density(fit, test, draws=5, progress=False)) == 1


def test_draws_hold_the_new_groups_after_the_known_ones():
    fit = fitted()
    drawn = zoo.draw(fit, answers(["Y", "B"], ["a", "z"]), draws=100)
    assert drawn.coords["person"].tolist() == ["A", "B", "C", "D", "Y"]
    assert drawn.coords["item"].tolist() == ["a", "b", "c", "z"]
    theta, mu = drawn.groups["posterior"]["theta"][0], drawn.groups["posterior"]["mu"][0]
    assert theta[:, 4].mean() == pytest.approx(mu.mean() - 1.0, abs=5 * 0.5 / np.sqrt(100))
    assert (theta[:, 4] - mu).std() == pytest.approx(0.5, rel=5 / np.sqrt(200))
    assert drawn.groups["posterior"]["b"][0, :, 3].std() == pytest.approx(1.0, rel=5 / np.sqrt(200))
    assert np.isfinite(drawn.groups["sample_stats"]["lq"]).all()
    zoo.to_arviz(drawn)


class Sized(Persons):
    """A parameter per person, which no prior gives."""

    def __init__(self, priors=None):
        super().__init__(priors)
        self.own = nn.Parameter(torch.zeros(4))

    def forward(self, age, sizes, **batch):
        super().forward(age=age + self.own, sizes=sizes, **batch)


def test_a_parameter_per_group_is_an_error_that_says_so():
    fit = fitted(Sized)
    with pytest.raises(KeyError, match="unknown person: the model has parameters or sizes per group"):
        zoo.predict(fit, answers(["X"], ["a"]), draws=2)


class Rows(Persons):
    """A latent per row."""

    row_sites = ("z",)

    def priors(self):
        return {**super().priors(), "z": dist.Normal(0.0, 1.0)}

    def forward(self, person, item, age, sizes, y=None, y_labelled=None, row=None, **batch):
        mu = pyro.sample("mu", self.prior("mu"))
        with self.plate("person", sizes=sizes):
            theta = pyro.sample("theta", self.prior("theta", mu + age))
        with self.plate("item", sizes=sizes):
            b = pyro.sample("b", self.prior("b"))
        with self.plate("row", sizes=sizes, row=row):
            z = pyro.sample("z", self.prior("z"))
            pyro.sample("y", dist.Normal(z + theta[..., person] + b[..., item], 0.1).mask(y_labelled), obs=y)

    def local_guide(self):
        return RowLatents(self)


class RowLatents(zoo.ZooGuide):
    """q(z | theta, b): exact where y is hidden."""

    def __init__(self, model):
        super().__init__(model)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, person, item, sizes, theta, b, y, y_labelled, row=None, **_):
        error = torch.where(y_labelled, y - theta[..., person] - b[..., item], 0.0)
        with self.model.plate("row", sizes=sizes, row=row):
            pyro.sample("z", dist.Normal(self.gain * error, torch.where(y_labelled, 0.1, 1.0)))


class Joint(ByHand):
    """Row latents without a part of their own."""

    def __init__(self, model):
        super().__init__(model)
        self.rows = RowLatents(model)

    def forward(self, **batch):
        super().forward(**batch)
        theta, b = torch.zeros(4), torch.zeros(3)
        self.rows(**batch, theta=theta, b=b)


def test_latents_of_a_new_groups_rows_are_the_local_guides():
    fit = fitted(Rows)
    table = zoo.predict(fit, answers(["X"], ["c"]), draws=100)
    held = zoo.draw(fit, fit.train, draws=300, predictive=False).groups["posterior"]
    sd = np.sqrt((held["mu"][0] + held["b"][0, :, 2]).var() + 0.25 + 1.0 + 0.01)
    assert table["y.sd"].item() == pytest.approx(sd, rel=5 / np.sqrt(200))
    with pytest.raises(KeyError, match=r"unknown person: the guide 'Joint .own.' samples the rows' latents in one"):
        zoo.predict(fitted(Rows, Joint), answers(["X"], ["c"]), draws=2)
