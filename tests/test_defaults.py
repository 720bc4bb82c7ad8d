"""Names that are left out come from the model or the data, whatever they are called there."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from pyro.infer.autoguide import AutoNormal

import pyrozoo as zoo
from pyrozoo.models.ssmtl import simulate


class Flow(zoo.ZooModel):
    """A class and two numbers per row, and a level per well; no site has a name of a built-in entry."""

    plate_dims = {"well": -1, "row": -1}
    targets = ("open", "flow", "head")
    dims = {"flow": ("pipe",)}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"base": dist.Normal(0.0, 1.0), "level": dist.Normal(0.0, 1.0)}

    def forward(self, well, sizes, open=None, open_labelled=True, flow=None, head=None, row=None, **_):
        base = pyro.sample("base", self.prior("base"))
        with self.plate("well", sizes=sizes):
            level = pyro.sample("level", self.prior("level"))
        mean = base + level[..., well]
        with self.plate("row", sizes=sizes, row=row):
            pyro.sample("open", dist.Bernoulli(logits=mean).mask(open_labelled), obs=open)
            pyro.sample("flow", dist.Normal(mean[..., None], 1.0).to_event(1), obs=flow)
            pyro.sample("head", dist.Normal(mean, 1.0), obs=head)


def flows(seed):
    rng = np.random.default_rng(seed)
    opened = rng.integers(0, 2, 12).astype("float32")
    return zoo.Batch.from_arrays(
        rows={"open": opened, "flow": rng.normal(size=(12, 1)), "head": rng.normal(size=12)},
        groups={"well": np.repeat(["a", "b", "c"], 4)}, labels=dict.fromkeys(Flow.targets, np.ones(12, bool)),
        name="flows", simulated=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return flows(0)


@pytest.fixture(scope="module")
def fit(data):
    return zoo.fit(Flow(), zoo.guides.auto(AutoNormal), data, steps=5, progress=False)


def test_scores_take_the_first_target_of_their_kind(fit, data):
    assert zoo.log_predictive(fit, data, draws=3).name == "log p(open)"
    found, named = zoo.coverage(fit, data, draws=10), zoo.coverage(fit, data, target="flow", draws=10)
    assert found.equals(named)
    assert not found.equals(zoo.coverage(fit, data, target="head", draws=10))


def test_targets_without_labels_in_the_data_have_no_scores(fit, data, caplog):
    rest = {"well": data.group_names("well")}, {"head": np.ones(12, bool)}
    only = zoo.Batch.from_arrays(rows={"head": data["head"]}, groups=rest[0], labels=rest[1], simulated=True)
    hidden = data.relabel(np.zeros(12, bool), "open").relabel(np.zeros(12, bool), "flow")
    whole = zoo.metrics(fit, data, draws=3)
    for test in (only, hidden):
        caplog.clear()
        assert zoo.metrics(fit, test, draws=3) == {k: v for k, v in whole.items() if k.startswith("head.")}
        assert "no row of the test data has its 'open' or 'flow', so it has no scores" in caplog.text
        with pytest.raises(ValueError, match="no row of the test data has its 'flow', so there is nothing to score"):
            zoo.coverage(fit, test, target="flow", draws=3)
    with pytest.raises(ValueError, match="has its 'open' or 'flow' or 'head', so there is nothing to score"):
        zoo.metrics(fit, data.hide(), draws=3)


@pytest.mark.parametrize("call", [
    zoo.metrics, zoo.coverage, zoo.pit, zoo.log_predictive, zoo.log_density, zoo.draw, zoo.to_arviz,
    lambda fit, table: zoo.compare({"fit": fit}, table),
])  # fmt: skip
def test_a_data_frame_is_refused_with_the_remedy(fit, call):
    with pytest.raises(TypeError, match=r"(test|batch): a DataFrame; give a Batch, of a data frame fit.batch\(df\)"):
        call(fit, pd.DataFrame({"flow": [1.0]}))


def test_models_are_compared_on_the_first_target_that_all_predict(fit, data):
    class FlowAlone(Flow):
        targets = ("head", "flow")

    alone = zoo.fit(FlowAlone(), zoo.guides.auto(AutoNormal), data, steps=5, progress=False)
    fits = {"all": fit, "alone": alone}
    assert zoo.compare(fits, data, draws=3).equals(zoo.compare(fits, data, "flow", draws=3))
    assert not zoo.compare(fits, data, draws=3).equals(zoo.compare(fits, data, "head", draws=3))


def test_the_latents_are_the_models_own(fit, data):
    assert zoo.latent_report(fit, data, draws=3).table.index.name == "level"  # base lies along no plate
    found = zoo.prior_sensitivity(fit, data, factors=[2.0], draws=100, progress=False)
    named = zoo.prior_sensitivity(fit, data, "base", factors=[2.0], draws=100, progress=False)
    assert found.latents.equals(named.latents)


def test_intervals_of_the_first_continuous_target(fit):
    assert zoo.conformal(fit, flows(1), level=0.5, draws=10).target == "flow"
    with pytest.raises(ValueError, match="'open' is discrete, and has no intervals"):  # though its tensor is of floats
        zoo.conformal(fit, flows(1), target="open", level=0.5, draws=10)


def test_folds_of_the_models_first_target(data):
    folds = zoo.fit_folds(Flow(), zoo.guides.auto(AutoNormal), data, 2, steps=2, progress=False)
    for fold, _ in folds:
        assert (~fold.train.observed("open")).sum() == 6
        assert fold.train.observed("flow").all()


def test_a_batch_knows_its_only_target_and_else_y(data):
    with pytest.raises(KeyError, match=r"'y' is no target of this batch; targets: .*; give the name of one"):
        data.observed()
    rows, seen = {"flow": np.arange(4.0)}, np.array([True, True, True, False])
    one = zoo.Batch.from_arrays(rows=rows, labels={"flow": seen}, name="one", simulated=True)
    assert one.observed().tolist() == seen.tolist()
    assert one.relabel(np.arange(4) < 2).observed("flow").sum() == 2
    assert [part.observed("flow").sum() for part, _ in zoo.fold_data(one, 3)] == [2, 2, 2]


def test_the_defaults_of_ssmtl_are_what_they_were():
    train, test = simulate(n_units=3, n_labelled=4, n_unlabelled=2, n_test=4)
    fit = zoo.fit(zoo.create_model("ssmtl", train, width=8), "paper", train, steps=3, progress=False)
    assert zoo.log_predictive(fit, test, draws=2).name == "log p(y)"
    assert zoo.latent_report(fit, train, draws=2).table.index.name == "z"
    found = zoo.prior_sensitivity(fit, train, factors=[2.0], draws=100, progress=False)
    assert found.latents.shape[0] == 3 * fit.model.c_dim
    assert zoo.conformal(fit, test, level=0.5, draws=5).target == "y"
    assert "y.khat" in zoo.predict_by_importance(fit, test, draws=2, particles=5)


def test_a_model_without_a_target_or_a_latent_along_a_plate_says_so(data):
    class Base(Flow):
        plate_dims = {"row": -1}
        targets = ()

        def priors(self):
            return {"base": dist.Normal(0.0, 1.0)}

        def forward(self, sizes, head=None, row=None, **_):
            base = pyro.sample("base", self.prior("base"))
            with self.plate("row", sizes=sizes, row=row):
                pyro.sample("head", dist.Normal(base, 1.0), obs=head)

    fit = zoo.fit(Base(), zoo.guides.auto(AutoNormal), data, steps=2, progress=False)
    with pytest.raises(ValueError, match="Base predicts no target"):
        zoo.log_predictive(fit, data, draws=2)
    with pytest.raises(ValueError, match="Base predicts no target"):
        zoo.compare({"base": fit}, data, draws=2)
    with pytest.raises(ValueError, match="no latent along a plate"):
        zoo.latent_report(fit, data, draws=2)


def test_a_target_without_data_is_passed_over(fit, data):
    labels = {target: data.observed(target) for target in ("flow", "head")}
    rows = {name: data[name] for name in Flow.targets}
    groups = {"well": data.group_names("well")}
    part = zoo.Batch.from_arrays(rows=rows, groups=groups, labels=labels, name="flows", simulated=True)
    assert zoo.log_predictive(fit, part, draws=2).name == "log p(flow)"


def test_support_and_plots_take_what_there_is(fit, data):
    assert data.with_support(2)["support_mask"].shape == (3, 2)
    table = zoo.predict(fit, data, draws=5)
    assert zoo.plots.predicted_vs_observed(table, data).get_xlabel() == "observed flow"
    assert zoo.plots.unit_lines(table, data).get_supylabel() == "flow"
    with pytest.raises(ValueError, match="belong to no groups"):
        zoo.Batch.from_arrays(rows={"x": np.zeros(3)}, name="none", simulated=True).with_support(2)
