"""compare_guides(): every guide on the same networks, in one table and one picture."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pictures import draw
from pyro.infer import autoguide

import pyrozoo as zoo
from pyrozoo.modeling import registry
from pyrozoo.models.ssmtl import simulate

SMALL = {"c_dim": 2, "z_dim": 2, "width": 8, "depth": 1, "alpha": 0.0}
QUICK = {"steps": 5, "draws": 20, "khat_options": {"draws": 25, "inner": 2}, "progress": False}


@pytest.fixture(scope="module")
def wells():
    train, test = simulate(3, 4, 2, 4, seed=0)
    return zoo.create_model("ssmtl", train, **SMALL), train, test


@pytest.fixture(scope="module")
def found(wells):
    model, train, test = wells
    guides = {"paper": "paper", "mvn": "mvn", "joint": autoguide.AutoMultivariateNormal, "point": "delta"}
    return zoo.compare_guides(model, guides, train, test, **QUICK)


def test_all_guides_are_on_the_networks_of_one_fit_which_do_not_move(found):
    lent = found.networks
    for fit in found.fits.values():
        for name, value in fit.model.state_dict().items():
            assert torch.equal(value, lent.model.state_dict()[name]), name
        for name, value in fit.guide.local.state_dict().items():
            assert torch.equal(value, lent.guide.local.state_dict()[name]), name
    moved = found.fits["paper"].guide
    assert not torch.equal(moved.c_loc, lent.guide.c_loc)


def test_the_table_has_each_guide_in_order_and_says_what_is_missing(found):
    table = found.table
    assert list(table.index) == ["paper", "mvn", "joint", "point"]
    assert list(table.columns) == ["elbo", "elbo_se", "khat", "bad", "y.crps", "y.cover90", "seconds", "note"]
    assert np.isfinite(table.loc[["paper", "mvn", "joint"], ["elbo", "elbo_se"]]).all(axis=None)
    assert table.loc["point", ["elbo", "khat", "bad"]].isna().all()
    assert table["note"]["point"] == "c: a point, without ELBO and k"
    assert "no k: per: this guide is joint over all units" in table["note"]["joint"]
    assert table["note"]["paper"] == ""
    assert set(found.khat) == {"paper", "mvn"}
    assert found.khat["paper"].attrs["per"] == "unit"


def test_the_picture_has_a_forest_and_the_numbers(found):
    text = draw(zoo.plots.guides(found, "c", coords={"unit": 1}))
    for words in ("c[1, 0]", "c[1, 1]", "paper", "joint", "ELBO [nats per row]", "median Pareto k", "y.crps"):
        assert words in text.split(" | ")
    assert "c[0, 0]" not in text


def test_the_networks_of_a_fit_are_lent_and_a_part_of_the_rows_is_the_test(wells):
    model, train, test = wells
    fit = zoo.fit(model, "mvn", train, steps=3, progress=False)
    found = zoo.compare_guides(model, {"paper": "paper"}, train, test, networks=fit, **QUICK)
    assert found.networks is fit
    assert torch.equal(found.fits["paper"].guide.local.g_z.net[0].weight, fit.guide.local.g_z.net[0].weight)
    alone = zoo.compare_guides(model, {"paper": "paper"}, train, **QUICK)
    assert alone.fits["paper"].train.n_rows == train.n_rows - -(-train.n_rows // 4)
    assert all(part.requires_grad for part in model.parameters())  # the model that was given stays as it is


def test_what_cannot_be_compared_is_refused(wells):
    model, train, test = wells
    fit = zoo.fit(model, "paper", train, steps=1, progress=False)
    with pytest.raises(ValueError, match="there is none to compare"):
        zoo.compare_guides(model, {}, train)
    with pytest.raises(ValueError, match="test: give rows that the networks have not seen"):
        zoo.compare_guides(model, {"paper": "paper"}, train, networks=fit)
    with pytest.raises(TypeError, match="'own' is a module; give the name, the class or a factory"):
        zoo.compare_guides(model, {"own": fit.guide}, train)
    with pytest.raises(ValueError, match="test: no row has its 'y'"):
        zoo.compare_guides(model, {"paper": "paper"}, train, test.hide(), networks=fit)
    other = zoo.create_model("ssmtl", train, **(SMALL | {"width": 9}))
    with pytest.raises(ValueError, match="networks: those of another model or other data"):
        zoo.compare_guides(other, {"paper": "paper"}, train, test, networks=fit, steps=1, progress=False)


class Level(zoo.ZooModel):
    """c ~ N(0, 1), y_n ~ N(c, 1): the ELBO of the exact posterior is the log evidence."""

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"c": dist.Normal(0.0, 1.0)}

    def forward(self, y, **batch):
        c = pyro.sample("c", self.prior("c"))
        with self.plate("row", **batch):
            pyro.sample("y", dist.Normal(c[..., None], 1.0), obs=y)


class Exact(zoo.ZooGuide):
    widen = 1.0

    def __init__(self, model):
        super().__init__(model)
        self.shift = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("sd", torch.ones(()))

    def solve(self, train):
        self.mean = train["y"].sum() / (train.n_rows + 1)
        self.sd = torch.tensor(self.widen * (train.n_rows + 1.0) ** -0.5)

    def forward(self, **batch):
        pyro.sample("c", dist.Normal(self.mean, self.sd))


class Narrow(Exact):
    widen = 0.3


def test_the_elbo_of_the_exact_posterior_is_the_evidence_and_a_narrow_one_is_below():
    y = torch.randn(20, generator=torch.Generator().manual_seed(0))
    data = zoo.Batch.from_arrays(rows={"y": y}, labels={"y": np.ones(20, bool)})
    found = zoo.compare_guides(Level(), {"exact": Exact, "narrow": Narrow}, data, data, draws=400, progress=False)
    assert found.networks is None  # the model has none
    evidence = dist.MultivariateNormal(torch.zeros(20), torch.eye(20) + 1.0).log_prob(y) / 20
    assert found.table["elbo"]["exact"] == pytest.approx(float(evidence), abs=1e-5)
    gap = (np.log(1 / 0.3) + (0.3**2 - 1) / 2) / 20  # KL of two normals
    error = found.table["elbo_se"]["narrow"]
    assert found.table["elbo"]["narrow"] == pytest.approx(float(evidence) - gap, abs=4 * error)
    assert found.table["khat"]["exact"] == -np.inf
    assert found.table["khat"]["narrow"] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "variant", "names", "score"),
    [
        ("auxvae", None, ("paper", "lowrank", "delta"), "y.crps"),
        ("m3sense", "latent", ("paper", "lowrank"), "y_stress.log_loss"),
        ("medication", "frame-hmm", ("closed-form", "normal", "ml"), "label.log_loss"),
    ],
)
def test_guides_of_every_entry_are_compared(entry, variant, names, score):
    parts = registry.entry(entry).parts
    data, arguments = parts.tiny(0)
    variant = variant or next(iter(parts.VARIANTS))
    known = parts.VARIANTS[variant].__init__.__code__.co_varnames
    model = zoo.create_model(entry, data, variant=variant, **{k: v for k, v in arguments.items() if k in known})
    quick = QUICK | {"khat_options": {"draws": 25}}
    found = zoo.compare_guides(model, {name: name for name in names}, data, data, **quick)
    assert list(found.table.index) == list(names)
    assert np.isfinite(found.table[score]).all()
    assert np.isfinite(found.table["elbo"][names[0]])
    latent = next(iter(found.idata[names[0]]["posterior"].data_vars))
    axis = found.idata[names[0]]["posterior"][latent].dims[2]
    label = found.idata[names[0]]["posterior"][axis].values[0]
    draw(zoo.plots.guides(found, latent, coords={axis: label.item()}))
