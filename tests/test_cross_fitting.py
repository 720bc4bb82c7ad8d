"""Restarts that predict together, and predictive laws learned on labels that fits had not seen."""

import dataclasses
import json
import logging
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

import pyrozoo as zoo
from pyrozoo import scores
from pyrozoo.criticism.law_learning import for_new_members, learn_parts, learn_student, learn_temperature
from pyrozoo.inference import covariances, label_process
from pyrozoo.inference.covariances import (
    KINDS,
    START,
    below_diagonal,
    covariance_of,
    pairs_of,
    slopes_of,
    variance_of,
    with_noise,
)
from pyrozoo.inference.law import PredictiveLaw, StudentLaw, Temperature, joined, mixed
from pyrozoo.models.ssmtl.entry import tiny
from pyrozoo.posterior.predicting import _say_uncorrected, predict_with_draws

pytestmark = pytest.mark.usefixtures("double_precision")


# ---------------------------------------------------------------- a toy whose law is known
class Line(zoo.ZooModel):
    """y ~ N(slope * x, 1/4), where the data have noise 2 t_5: far too sure of itself."""

    def __init__(self, priors=None):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))
        self.set_priors(priors)

    def forward(self, x, sizes, y=None, labelled=None, row=None, **_):
        with self.plate("row", sizes=sizes, row=row), pyro.poutine.mask(mask=labelled):
            pyro.sample("y", dist.Normal(self.slope * x, 0.5), obs=y)


class Jittered(zoo.ZooGuide):
    """The least-squares slope and an error N(0, 0.3^2) of its own seed, which no two fits share."""

    def solve(self, train):
        x, y = (train[name][train["labelled"]] for name in ("x", "y"))
        with torch.no_grad():
            self.model.slope.copy_((x @ y) / (x @ x) + 0.3 * torch.randn(()))

    def forward(self, **_):
        pass


def line_data(n, seed, groups=10, timed=True):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return zoo.Batch.from_arrays(
        rows={"x": x, "y": 2 * x + 2 * rng.standard_t(5, n)}, labels={"y": np.ones(n, bool)},
        groups={"unit": np.arange(n) % groups}, row_coords={"time": np.arange(n) // groups} if timed else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def line():
    return zoo.cross_fitted(Line(), Jittered, line_data(600, 0), folds=3, repeats=2, progress=False, draws=2)


@pytest.fixture(scope="module")
def new():
    return line_data(3000, 1)


def test_a_known_law_is_found(line):
    law = line.law.parts["y"]
    assert (law.a * 0.5) ** 2 + law.c**2 == pytest.approx(4.0, rel=0.2)  # the noise, in whichever of the two
    assert law.g < 0.6  # each fit's error is its own
    assert 3 < law.nu < 9
    facts = dict(line.law.facts)
    assert facts.pop("scores")["y"] == pytest.approx({"crps": 1.32, "log_score": -2.33}, abs=0.1)
    assert facts == {
        "target": "y", "folds": 3, "repeats": 2, "by": "row", "inputs": True, "labels": 600
    }  # fmt: skip


def test_its_intervals_hold_where_the_models_own_do_not(line, new):
    found = zoo.coverage(line, new, draws=5)
    assert found["empirical"].to_numpy() == pytest.approx(found["nominal"].to_numpy(), abs=0.03)
    own = zoo.coverage(line, new, draws=50, restart=0)
    assert (own["empirical"] < own["nominal"] - 0.15).all()


def test_predictions_state_the_law(line, new):
    table = zoo.predict(line, new, draws=3, quantiles=(0.05, 0.5))
    slopes = np.array([run.model.slope.item() for run in line.runs])
    x, law = new["x"].numpy(), line.law.parts["y"]
    mean, between = slopes.mean() * x, slopes.var(ddof=1) * x**2
    scale = np.sqrt(law.a**2 * 0.25 + law.c**2 + (law.g**2 + 1 / 4) * between)
    assert table["y.mean"].to_numpy() == pytest.approx(mean)
    assert table["y.sd"].to_numpy() == pytest.approx(scale * np.sqrt(law.nu / (law.nu - 2)))
    assert table["y.q05"].to_numpy() == pytest.approx(mean + scale * stats.t.ppf(0.05, law.nu))
    assert table["time"].tolist() == new.time.tolist()
    density = stats.t.logpdf((new["y"].numpy() - mean) / scale, law.nu) - np.log(scale)
    assert zoo.log_predictive(line, new, draws=3).to_numpy() == pytest.approx(density)
    found = zoo.metrics(line, new.subset(np.arange(300)), draws=400)
    assert found["y.nll"] == pytest.approx(-density[:300].mean())
    assert found["y.crps"] == pytest.approx(found["y.crps_draws"], rel=2e-3)  # exact, and of 400 quantiles


def test_the_law_is_saved_and_loaded_with_the_fit(line, new, tmp_path):
    loaded = zoo.load(line.save(tmp_path / "run"), model=Line(), guide=Jittered)
    assert loaded.law == line.law
    pd.testing.assert_frame_equal(zoo.predict(loaded, new, draws=2), zoo.predict(line, new, draws=2))


@pytest.mark.parametrize("parts", [None, {"y": {"a": 1.0}}, {"y": {"t": -1.0}}, {"y": {"t": float("nan")}}])
def test_a_damaged_law_is_refused(parts):
    with pytest.raises(ValueError, match=r"law|temperature"):
        PredictiveLaw.from_json([] if parts is None else {"parts": parts, "facts": {}})


def test_the_law_is_a_group_of_its_own(line, new):
    rows = new.subset(np.arange(20))
    drawn = zoo.draw(line, rows, draws=60, sites=["y"])
    assert drawn.groups["cross_fitted_predictive"]["y"].shape == drawn.groups["posterior_predictive"]["y"].shape
    sd = drawn.groups["cross_fitted_predictive"]["y"].std((0, 1))
    assert sd == pytest.approx(zoo.predict(line, rows)["y.sd"].to_numpy(), rel=0.4)
    assert (drawn.groups["posterior_predictive"]["y"].std(1) < 0.7).all()  # the model's own stays the model's
    idata = zoo.to_arviz(drawn)
    assert idata["cross_fitted_predictive"]["y"].dims == ("chain", "draw", "row")
    assert idata["posterior_predictive"]["y_time"].to_numpy().tolist() == rows.time.tolist()
    without = zoo.draw(dataclasses.replace(line, law=None), rows, draws=5)
    same = zoo.draw(line, rows, draws=5)
    assert "cross_fitted_predictive" not in without.groups
    for name in ("log_likelihood", "posterior_predictive"):
        assert np.array_equal(without.groups[name]["y"], same.groups[name]["y"])


@pytest.mark.parametrize("by", ["unit", "block", "last"])
def test_labels_can_be_held_out_by_group_and_in_time(by):
    data = line_data(60, 0, groups=6)
    warned = pytest.warns(UserWarning, match="unit: the law is learned from only 6") if by == "unit" else nullcontext()
    with warned:
        found = zoo.cross_fitted(Line(), Jittered, data, 3, 1, by=by, inputs=False, restarts=1, progress=False, draws=1)
    assert found.law.parts["y"].g is None, "one fit per label tells nothing of the variance between fits"
    assert found.law.facts["labels"] == (60 if by != "last" else 48)


def test_finished_fits_are_kept_and_gone_on_from(tmp_path, monkeypatch):
    data, options = line_data(60, 0), {"folds": 2, "repeats": 1, "restarts": 1, "progress": False, "draws": 1}
    first = zoo.cross_fitted(Line(), Jittered, data, checkpoint=tmp_path, **options)
    (tmp_path / "jobs" / "repeat-0-fold-1.json").unlink()
    with pytest.raises(ValueError, match="resume=True goes on"):
        zoo.cross_fitted(Line(), Jittered, data, checkpoint=tmp_path, **options)
    again = zoo.cross_fitted(Line(), Jittered, data, checkpoint=tmp_path, resume=True, **options)
    assert again.law == first.law
    with pytest.raises(ValueError, match="other arguments"):
        zoo.cross_fitted(Line(), Jittered, line_data(60, 1), checkpoint=tmp_path, resume=True, **options)


class OpenLine(Line):
    """A line that has no parameters of a unit."""

    open_groups = ("unit",)


def test_fits_that_leave_members_out_may_predict_together(tmp_path):
    data = line_data(120, 0, groups=12)
    options = {"folds": 4, "repeats": 1, "by": "unit", "inputs": False, "restarts": 0, "progress": False, "draws": 1}
    found = zoo.cross_fitted(OpenLine(), Jittered, data, **options)
    assert len(found.runs) == 4
    assert found.law.facts["members"] == 12
    assert found.data["sha256"] == data.sha256
    assert found.prototype.sizes["row"] == 120
    other = dataclasses.replace(line_data(30, 1), coords={"unit": np.array([f"new {k}" for k in range(10)])})
    mean = np.mean([run.model.slope.item() for run in found.runs]) * other["x"].numpy()
    assert zoo.predict(found, other, draws=1)["y.mean"].to_numpy() == pytest.approx(mean)
    loaded = zoo.load(found.save(tmp_path / "run"), model=OpenLine(), guide=Jittered)
    pd.testing.assert_frame_equal(zoo.predict(loaded, other, draws=1), zoo.predict(found, other, draws=1))


def test_labels_of_new_members_are_held_by_a_law_of_whole_members():
    rng, held = np.random.default_rng(0), {"plain": [], "members": []}
    for _ in range(300):  # 15 members with an error each; one more is new
        truth = np.repeat(rng.normal(0, 3, 16), 20) + rng.normal(size=320)
        seen, new = truth[:300], truth[300:]
        law = StudentLaw(1.0, 0.0, None, 5.0)
        own = for_new_members(law, seen, np.zeros((1, 300)), np.ones((1, 1)), np.repeat(np.arange(15), 20))
        for name, bound in (("members", own.a * own.quantile(0.95)), ("plain", np.quantile(np.abs(seen), 0.9))):
            held[name].append(np.mean(np.abs(new) <= bound))
    assert np.mean(held["members"]) == pytest.approx(0.9, abs=0.02)
    assert np.mean(held["plain"]) < np.mean(held["members"]) - 0.01


def test_a_few_labels_of_which_a_law_was_wrongly_sure_do_not_widen_all_others():
    rng, members = np.random.default_rng(0), np.repeat(np.arange(15), 20)
    truth, sds = rng.normal(size=300), np.where(np.arange(300) % 20 == 0, 1e-4, 1.0)[None]
    law = StudentLaw(1.0, 0.0, None, 5.0)
    own = for_new_members(law, truth, np.zeros((1, 300)), sds, members)
    assert own.a == law.a
    assert own.c > 0
    scale, q = own.scale(sds[0] ** 2, np.zeros(300), 1), own.quantile(0.95)
    assert np.mean(np.abs(truth) <= q * scale) == pytest.approx(0.9 * (1 + 1 / 15), abs=0.005)
    assert scale.max() < 2  # one factor for all would be above 1,000


@pytest.mark.parametrize("by", ["last", ("row", "last")])
def test_no_unit_needs_as_many_labels_as_there_are_folds_in_time(by):
    """Of three labels the first trains, and two are held out: two of five folds have none."""
    found = zoo.cross_fitted(Line(), Jittered, line_data(30, 0), by=by, repeats=1, restarts=1, progress=False, draws=2)
    assert found.law.facts["labels"] == (20 if by == "last" else 30)


def test_a_label_per_unit_has_none_later_and_costs_no_fit():
    with pytest.raises(ValueError, match="by: 'last' leaves no label to hold out"):
        zoo.cross_fitted(Line(), Jittered, line_data(10, 0), by="last", progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": 1}, ValueError, "folds: 1"),
        ({"by": "day"}, ValueError, "by: 'day' is none"),
        ({"restarts": 0}, ValueError, "restarts: 0"),
        ({"target": "z"}, ValueError, "target: the data have no labels of 'z'"),
        ({"callback": print}, TypeError, "callback: belongs to a single fit"),
        ({"jobs": 2}, ValueError, "several processes need a model of the registry"),
        ({"resume": True}, ValueError, "needs checkpoint"),
        ({"stepz": 3}, TypeError, "stepz"),
    ],
)
def test_wrong_arguments_cost_no_fit(options, error, message):
    with pytest.raises(error, match=message):
        zoo.cross_fitted(Line(), Jittered, line_data(30, 0), **{"progress": False, **options})


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing():
    data, arguments = tiny(0)
    model = zoo.create_model("ssmtl", data, **arguments)
    options = {"folds": 2, "repeats": 1, "restarts": 1, "steps": 3, "progress": False, "draws": 3}
    alone, two = (zoo.cross_fitted(model, "paper", data, jobs=jobs, **options) for jobs in (1, 2))
    assert alone.law == two.law
    pd.testing.assert_frame_equal(zoo.predict(alone, data), zoo.predict(two, data))


# ---------------------------------------------------------------- learning a law
@pytest.mark.parametrize("fits", [1, 2])
def test_student_law_is_found_from_predictions(fits):
    rng, n = np.random.default_rng(0), 4000
    own, between = np.exp(rng.normal(0, 0.7, n)), np.exp(rng.normal(0, 0.7, n))
    means = rng.normal(0, 10, n) + np.sqrt(between) * rng.normal(size=(fits, n))
    v = means.var(0, ddof=1) if fits > 1 else 0.0
    y = means.mean(0) + np.sqrt(1.5**2 * own + 2.0**2 + (1.2**2 + 1 / fits) * v) * rng.standard_t(5, n)
    law = learn_student(1e6 * y, 1e6 * means, np.full((fits, 1), 1e6) * np.sqrt(own))  # in any unit of measure
    assert (law.a, law.c / 1e6) == pytest.approx((1.5, 2.0), rel=0.25)
    assert 1 / law.nu == pytest.approx(1 / 5, abs=0.06)  # its standard error is about 0.02
    assert law.g is None if fits == 1 else law.g == pytest.approx(1.2, rel=0.25)


def test_crps_of_the_law_is_that_of_its_draws():
    law, error, scale = StudentLaw(1.0, 1.0, 0.5, 4.0), np.array([0.0, 3.0, -1.5]), np.array([1.0, 2.0, 0.5])
    values = scale[:, None] * law.quantile((np.arange(4000) + 0.5) / 4000)
    for i in range(3):
        assert law.crps(error, scale)[i] == pytest.approx(
            scores.crps_samples(error[i : i + 1], values[i : i + 1]), rel=1e-2
        )


def test_temperature_is_found_and_keeps_the_class():
    rng, n = np.random.default_rng(0), 3000
    honest = rng.dirichlet([1, 1, 1], n)
    truth = (rng.random(n)[:, None] > honest.cumsum(1)).sum(1)
    sure = Temperature(0.5).probabilities(honest)
    law = learn_temperature(truth, sure)
    assert law.t == pytest.approx(2.0, rel=0.1)
    assert law.probabilities(sure) == pytest.approx(Temperature(law.t / 2).probabilities(honest))
    assert np.array_equal(law.probabilities(sure).argmax(1), honest.argmax(1))


def test_shares_of_a_process_are_found_from_probabilities_of_classes():
    rng, n = np.random.default_rng(0), 3000
    honest = rng.dirichlet([1, 1, 1], n)
    truth = (rng.random(n)[:, None] > honest.cumsum(1)).sum(1)
    nothing = rng.dirichlet([1, 1, 1], n)
    law = learn_temperature(truth, nothing, np.stack([honest, nothing]))
    assert law.w > 0.9
    assert law.u < 0.1
    assert law.t == pytest.approx(1.0, abs=0.15)
    mixture = (1 - law.w) * nothing + law.w * ((1 - law.u) * honest + law.u * nothing)
    assert law.probabilities(nothing, np.stack([honest, nothing])) == pytest.approx(
        Temperature(law.t).probabilities(mixture)
    )
    assert learn_temperature(truth, honest, np.stack([nothing, nothing])).w < 0.1


def test_a_few_members_who_are_told_without_error_do_not_make_the_law_sure_of_all_others():
    rng = np.random.default_rng(0)
    truth, member = rng.integers(0, 2, 400), np.repeat(np.arange(8), 50)
    p = np.where(np.eye(2)[truth] > 0, 0.8, 0.2)
    by_label, by_member = learn_temperature(truth, p), learn_temperature(truth, p, member=member)
    assert by_label.t < 0.4
    assert 0.35 < by_member.t < 1.0
    assert learn_temperature(truth, p, member=np.arange(400)) == by_label


def test_labels_of_several_folds_are_matched_by_row():
    rng = np.random.default_rng(0)
    y = dict(enumerate(rng.normal(size=40)))

    def part(rows, shift):
        truth = [y[i] for i in rows]
        return {
            "rows": rows,
            "truth": {"y": truth},
            "mean": {"y": [v + shift for v in truth]},
            "sd": {"y": [1.0] * len(rows)},
        }

    first, second = list(range(40)), [int(i) for i in rng.permutation(40)]
    parts = [part(first[:20], 1.0), part(first[20:], 1.0), part(second[:20], -1.0), part(second[20:], -1.0)]
    law = learn_parts(parts)["y"]
    assert max(law.a, law.c, law.g) < 0.3, "the mean of both fits is right for every label"


@pytest.mark.parametrize(("n", "message"), [(9, "too few"), (20, "not finite")])
def test_a_law_needs_labels_and_finite_predictions(n, message):
    with pytest.raises(ValueError, match=message):
        learn_student(np.zeros(n), np.full((1, n), np.nan), np.ones((1, n)))


# ---------------------------------------------------------------- restarts predict together
@pytest.fixture(scope="module")
def data():
    return tiny(0)[0]


@pytest.fixture(scope="module")
def several(data):
    model = zoo.create_model("ssmtl", data, **tiny(0)[1])
    return zoo.fit(model, "paper", data, steps=20, restarts=3, progress=False)


def test_restarts_are_an_equal_mixture(several, data):
    options = {"draws": 4, "seed": 1, "quantiles": (0.5,)}
    parts = [predict_with_draws(several, data, restart=r, **options) for r in range(3)]
    table, drawn = predict_with_draws(several, data, **options)
    means, sds = (np.stack([t[name] for t, _ in parts]) for name in ("y.mean", "y.sd"))
    assert table["y.mean"].to_numpy() == pytest.approx(means.mean(0))
    assert table["y.sd"].to_numpy() ** 2 == pytest.approx((sds**2).mean(0) + means.var(0))
    assert torch.equal(drawn["y"].values, torch.cat([own["y"].values for _, own in parts]))
    assert table["y.q50"].to_numpy() == pytest.approx(np.median(drawn["y"].values.numpy()[..., 0], 0))
    densities = np.stack([zoo.log_predictive(several, data, draws=4, seed=1, restart=r) for r in range(3)])
    mixture = np.logaddexp.reduce(densities, 0) - np.log(3)
    assert zoo.log_predictive(several, data, draws=4, seed=1).to_numpy() == pytest.approx(mixture)


def test_one_restart_predicts_as_a_fit_of_its_own(several, data):
    alone = dataclasses.replace(several, runs=several.runs[:1])
    pd.testing.assert_frame_equal(zoo.predict(several, data, restart=0, draws=9), zoo.predict(alone, data, draws=9))
    assert zoo.metrics(several, data, restart=0, draws=9) == zoo.metrics(alone, data, draws=9)
    with pytest.raises(ValueError, match="restart: 3; this fit has the restarts 0 to 2"):
        zoo.coverage(several, data, restart=3)


def test_a_restart_that_was_interrupted_does_not_predict_beside_others(several, data):
    stopped = dataclasses.replace(several.runs[1], status="interrupted")
    cut = dataclasses.replace(several, runs=[several.runs[0], stopped])
    pd.testing.assert_frame_equal(zoo.predict(cut, data, draws=9), zoo.predict(several, data, restart=0, draws=9))


def test_uncorrected_intervals_are_said_once(several, line, data, new, caplog):
    _say_uncorrected.cache_clear()
    with caplog.at_level(logging.WARNING, "pyrozoo"):
        zoo.predict(line, new, draws=1)
        assert not caplog.records
        zoo.predict(several, data, draws=2)
        zoo.predict(several, data, draws=2)
    assert [record.getMessage()[:20] for record in caplog.records] == ["predictive intervals"]


def test_a_law_is_plain_json():
    law = PredictiveLaw({"y": StudentLaw(1.0, 0.5, None, 3.0), "k": Temperature(1.5)}, {"folds": 5})
    assert PredictiveLaw.from_json(json.loads(json.dumps(law.as_json()))) == law


# ---------------------------------------------------------------- a process beside the restarts
@pytest.fixture(scope="module")
def drifting():
    """Six units that wander in time, and a line in x; the last rows of each unit are apart."""
    rng = np.random.default_rng(0)
    units, n = 6, 24
    x = rng.normal(size=(units, n))
    y = 2 * x + rng.normal(size=(units, 1)) + 0.3 * rng.normal(size=(units, n)).cumsum(1)
    table = pd.DataFrame({"unit": np.repeat(list("abcdef"), n), "day": np.tile(np.arange(n), units)})
    table = table.assign(x=x.ravel(), y=y.ravel())
    later = (table["day"] >= 18).to_numpy()
    read = {"unit": "unit", "x": ["x"], "y": "y", "time": "day"}
    return tuple(zoo.Batch.from_dataframe(part, **read) for part in (table[~later], table[later]))


@pytest.fixture(scope="module")
def stacked(drifting):
    train, _ = drifting
    model = zoo.create_model("ssmtl", train, width=8, depth=1, c_dim=2, z_dim=1)
    few = {"folds": 2, "repeats": 2, "restarts": 2, "steps": 5, "draws": 2, "progress": False}
    return zoo.cross_fitted(model, "paper", train, **few)


def test_the_better_predictor_gets_the_weight(stacked, drifting):
    law, (_train, later) = stacked.law, drifting
    part = law.parts["y"]
    assert law.facts["by"] == "row and last"
    assert part.w > 0.8, "five steps teach the networks nothing"
    kinds, _sds = law.process.predict(stacked.model, later)
    mean, truth = (1 - part.u) * kinds[0] + part.u * kinds[1], later["y"].numpy()
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.7 * truth.std()
    table = zoo.predict(stacked, later, draws=2, quantiles=(0.05, 0.95))
    assert abs(table["y.mean"].to_numpy() - mean[:, 0]).mean() < abs(truth - mean).mean()
    lag = law.process.lag(later).reshape(6, 6)
    assert lag == pytest.approx(np.tile(np.arange(1.0, 7.0), (6, 1)))
    width = (table["y.q95"] - table["y.q05"]).to_numpy().reshape(6, 6).mean(0)
    assert part.h > 0
    assert width[-1] > width[0], "intervals grow with the time to the last label"
    without_time = zoo.Batch.from_dataframe(
        pd.DataFrame({"unit": ["a"], "x": [0.0], "y": [0.0]}), unit="unit", x=["x"], y="y"
    )
    with pytest.raises(ValueError, match="these rows have none; give the column of the time"):
        zoo.predict(stacked, without_time, draws=2)


def test_the_process_is_saved_and_loaded(stacked, drifting, tmp_path):
    loaded = zoo.load(stacked.save(tmp_path / "run"))
    assert loaded.law == stacked.law
    pd.testing.assert_frame_equal(zoo.predict(loaded, drifting[1], draws=2), zoo.predict(stacked, drifting[1], draws=2))


def test_units_without_labels_get_wide_intervals(drifting):
    train, later = drifting
    unlabelled = train.relabel(train.observed("y") & (train.group_names("unit") != "c"))
    model = zoo.create_model("ssmtl", train, width=8, depth=1, c_dim=2, z_dim=1)
    few = {"folds": 2, "repeats": 1, "restarts": 1, "steps": 5, "draws": 2, "progress": False, "by": "row"}
    with pytest.warns(UserWarning, match="unit 'c' without a label"):
        fit = zoo.cross_fitted(model, "paper", unlabelled, **few)
    sd = zoo.predict(fit, later, draws=2)["y.sd"].to_numpy().reshape(6, 6).mean(1)
    assert sd[2] > 1.5 * np.delete(sd, 2).max()
    part = fit.law.parts["y"]
    assert part.b == 1.0
    narrow = PredictiveLaw({"y": dataclasses.replace(part, a=0.01, c=0.0, h=0.0)}, fit.law.facts, fit.law.process)
    found = zoo.predict(dataclasses.replace(fit, law=narrow), later, draws=2)["y.sd"].to_numpy().reshape(6, 6)
    _means, own = fit.law.process.predict(fit.model, later)
    assert found[2].min() > own[..., 0].reshape(2, 6, 6)[:, 2].min(), "labels of other units say nothing of this one"
    assert np.delete(found, 2, 0).max() < 0.2 * found[2].min()


class Beside(OpenLine):
    """A line beside a process that reads x of everybody."""

    process_inputs = ("x",)


def test_new_members_are_predicted_by_the_process_of_what_is_shared(tmp_path):
    data = line_data(120, 0, groups=12, timed=False)
    options = {"folds": 4, "repeats": 1, "by": "unit", "inputs": False, "restarts": 0, "progress": False, "draws": 1}
    found = zoo.cross_fitted(Beside(), Jittered, data, **options)
    process, part = found.law.process, found.law.parts["y"]
    assert process.open_units
    assert found.law.facts["members"] == 12
    new = dataclasses.replace(line_data(40, 1, timed=False), coords={"unit": np.array([f"new {k}" for k in range(10)])})
    assert process.known(new).all()
    whole, alone = zoo.predict(found, new, draws=1), zoo.predict(found, new.subset([3]), draws=1)
    pd.testing.assert_frame_equal(whole.iloc[[3]].set_axis(alone.index), alone)  # who is beside does not count
    networks = np.mean([run.model.slope.item() for run in found.runs]) * new["x"].numpy()
    kinds_of = process.predict(found.model, new)[0][..., 0]
    mixture = (1 - part.w) * networks + part.w * ((1 - part.u) * kinds_of[0] + part.u * kinds_of[1])
    assert whole["y.mean"].to_numpy() == pytest.approx(mixture)
    loaded = zoo.load(found.save(tmp_path / "run"), model=Beside(), guide=Jittered)
    pd.testing.assert_frame_equal(zoo.predict(loaded, new, draws=1), whole)


def test_a_model_may_stand_alone(drifting):
    model = zoo.create_model("ssmtl", drifting[0], width=8, depth=1, c_dim=2, z_dim=1)
    few = {"folds": 2, "repeats": 1, "restarts": 1, "steps": 2, "draws": 1, "progress": False}
    law = zoo.cross_fitted(model, "paper", drifting[0], process=False, **few).law
    assert law.process is None
    assert law.parts["y"].w == 0.0
    assert law.parts["y"].h is None


def test_share_and_growth_are_found_from_predictions():
    rng, n = np.random.default_rng(0), 3000
    truth, lag = rng.normal(0, 5, n), rng.gamma(2.0, 2.0, n)
    first, second = rng.normal(0, 1.0, n), rng.normal(0, 2.0, n)  # independent errors: the best share is 1/5
    error = 3 * np.sqrt(lag) * rng.standard_t(5, n)
    args = truth + 0.8 * first + 0.2 * second + error, [truth + first], np.full((1, n), 0.1)
    law = learn_student(*args, process=kinds(truth + second, truth + second), lag=lag)
    assert law.h == pytest.approx(3.0, rel=0.1)
    assert law.g is None
    good = learn_student(truth + 0.1 * first, [truth + 3 * second], np.full((1, n), 0.1), kinds(truth, truth + second))
    assert good.w > 0.95
    assert good.u < 0.05


@pytest.mark.parametrize(("share", "a", "b"), [(0.0, 0.2, 1.0), (0.3, 0.2, 3.0), (1.0, 3.0, 3.0)])
def test_units_without_labels_have_a_factor_of_their_own(share, a, b):
    rng, n = np.random.default_rng(0), 4000
    known = np.arange(n) >= share * n
    truth = rng.normal(0, 5, n)
    seen = truth + np.where(known, 0.2, 3.0) * rng.standard_t(20, n)
    process = np.stack([seen, seen], -1)[None]
    law = learn_student(truth, [truth + 20], np.ones((1, n)), (process, np.ones_like(process)), known=known)
    assert np.hypot(law.a, law.c) == pytest.approx(a, rel=0.1)
    assert np.hypot(law.b, law.c) == pytest.approx(b, rel=0.1)


def kinds(first, second):
    """Predictions of two kinds of a process, sure of themselves."""
    means = np.stack([first, second], -1)[None]
    return means, np.full_like(means, 0.1)


def test_rare_large_errors_cost_a_predictor_its_share():
    rng, n = np.random.default_rng(0), 2000
    truth = rng.normal(0, 5, n)
    mostly_right = np.where(rng.random(n) < 0.1, rng.normal(0, 20, n), rng.normal(0, 0.5, n))
    networks, sds = [truth + rng.normal(0, 1.5, n)], np.full((1, n), 1.0)
    law = learn_student(truth, networks, sds, kinds(truth + mostly_right, truth + mostly_right))
    mean = (1 - law.w) * networks[0] + law.w * (truth + mostly_right)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 2.5, "of 1.5 and 6.3"


def test_means_are_rounded_to_levels_where_that_helps():
    rng, n = np.random.default_rng(0), 1000
    levels, sds = (10.0, 20.0, 30.0, 50.0), np.full((1, n), 3.0)
    truth = rng.choice(levels, n)
    near, far = truth + rng.normal(0, 3.0, n), truth + rng.normal(0, 3.0, n)
    law = learn_student(truth, [near], sds, kinds(far, far), levels=levels)
    assert law.levels == levels
    mean = (1 - law.w) * near + law.w * far
    near, _ = law.rounded(mean, np.full(n, 4.5))
    assert np.abs(near - truth).mean() < 0.3 * np.abs(mean - truth).mean()
    at, between_two = law.rounded(np.array([20.0, 25.0]), np.array([4.5, 4.5]))[1]
    assert at < 1 < 20 < between_two
    assert PredictiveLaw.from_json(json.loads(json.dumps(PredictiveLaw({"y": law}).as_json()))).parts["y"] == law
    other = rng.uniform(10, 50, n)
    assert learn_student(other, [other + rng.normal(0, 1.0, n)], sds, levels=levels).levels == ()


def test_moments_of_networks_beside_a_process_are_those_of_the_mixture():
    shares, means, variances = np.array([0.3, 0.7 * 0.4, 0.7 * 0.6]), np.array([1.0, 2.0, 5.0]), np.array([1, 4, 2])
    networks, *kinds_of = zip(means, variances, strict=True)
    mean, variance, between = joined(0.7, *networks, 1.0, mixed(0.6, *kinds_of))
    assert mean == pytest.approx(shares @ means)
    assert variance == pytest.approx(shares @ (variances + means**2) - mean**2)
    assert between == pytest.approx(0.3**2)


def some_process(timed):
    """Random hyperparameters, seven rows of three units, and two columns of labels."""
    rng = np.random.default_rng(0)
    x, means, time = (torch.as_tensor(rng.normal(size=size)) for size in ((7, 3), (7, 3), (7, 2)))
    log = {name: torch.tensor(rng.normal(), dtype=torch.double) for name in START}
    log |= {name: torch.as_tensor(rng.normal(size=2)) for name in ("linear", "rate")}
    return log, (x, means, torch.arange(7) % 3, time if timed else None), torch.as_tensor(rng.normal(size=(7, 2)))


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_search_of_a_process_climbs_the_log_likelihood_of_its_labels(kind, timed):
    log, rows, y = some_process(timed)
    log = {name: value.requires_grad_() for name, value in log.items()}
    pairs = pairs_of(kind, (2, 1), rows, rows, with_means=timed)
    own = {name: value for name, value in log.items() if timed or not ("time" in name or "alike" in name)}
    law = dist.MultivariateNormal(torch.zeros(7, dtype=torch.double), with_noise(covariance_of(own, pairs), own))
    exact = torch.autograd.grad(-law.log_prob(y.T).sum(), list(own.values()))

    lower, below = below_diagonal(pairs)
    covariance, noise = covariance_of(own, lower), own["noise"].exp() ** 2
    slopes = slopes_of(covariance.detach(), float(noise.detach()), below, y)
    found = torch.autograd.grad([covariance, noise], list(own.values()), list(slopes))
    for name, value, expected in zip(own, found, exact, strict=True):
        assert value.numpy() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_of_a_process_is_the_diagonal_of_its_covariance(kind, timed):
    log, rows, _ = some_process(timed)
    covariance = covariance_of(log, pairs_of(kind, (2, 1), rows, rows))
    assert variance_of(log, (2, 1), rows).numpy() == pytest.approx(covariance.diagonal().numpy())
    assert (torch.linalg.eigvalsh(covariance) > -1e-8).all()
    assert covariance.numpy() == pytest.approx(covariance.T.numpy())


def on_days(days):
    """Two units that grow by 2 a day, the second from 5 on, without noise."""
    table = pd.DataFrame({"unit": np.repeat(["a", "b"], len(days)), "day": np.tile(days, 2).astype(float)})
    table["x"] = np.arange(len(table)) % 2.0
    table["y"] = 2 * table["day"] + 5 * (table["unit"] == "b")
    return zoo.Batch.from_dataframe(table, unit="unit", x=["x"], y="y", time="day")


def test_trends_of_a_process_level_off_beyond_the_times_of_its_labels(monkeypatch):
    monkeypatch.setattr(covariances, "STEPS", 20)
    train, far = on_days(np.arange(13)), np.array([-1e6, 12, 13, 15, 1e6])  # tau is three days
    model = zoo.create_model("ssmtl", train, width=8, depth=1)
    process = label_process.LabelProcess.learn(model, train, "y")

    def without(*names, **changed):
        own = {name: value for name, value in (process.tensors | changed).items() if name not in names}
        return dataclasses.replace(process, tensors=own)

    straight = without("tau")  # as it was saved before
    for one, same in zip(process.predict(model, train), straight.predict(model, train), strict=True):
        assert (one == same).all()
    mean, _ = process.predict(model, on_days(far))
    assert mean.min() > -2 * 3
    assert mean.max() < 2 * 12 + 5 + 2 * 3
    assert np.abs(straight.predict(model, on_days(far))[0]).max() > 1e3

    forgets = {name: value - 20 for name, value in process.tensors.items() if name.endswith(("_time", "_time_common"))}
    levelled = far.clip(0, 12) + np.sign(far - 6) * 3 * (1 - np.exp(-np.abs(far - far.clip(0, 12)) / 3))
    found = without(**forgets).predict(model, on_days(far))  # only trends know times
    for one, same in zip(found, without("tau", **forgets).predict(model, on_days(levelled)), strict=True):
        assert one == pytest.approx(same)


# ---------------------------------------------------------------- tuning by held-out labels
def test_tuning_tries_one_name_after_the_other_and_keeps_the_best(data, tmp_path):
    space, few = {"width": (4, 8), "lr": (1e-3, 1e-2)}, {"folds": 2, "steps": 3, "progress": False}
    found = zoo.tune("ssmtl", data, {**space, "depth": (1,)}, checkpoint=tmp_path / "fits", **few)
    assert [(t["arguments"]["width"], t["settings"]["lr"]) for t in found.tried][:2] == [(4, 1e-3), (8, 1e-3)]
    assert len(found.tried) == 3
    best = min(found.tried, key=lambda t: t["crps"])
    assert (found.arguments, found.settings) == (best["arguments"], best["settings"])
    assert found.table()["crps"].is_monotonic_increasing
    again = zoo.tune("ssmtl", data, {**space, "depth": (1,)}, checkpoint=tmp_path / "fits", resume=True, **few)
    assert again == found
    assert zoo.read_preset(found.save(tmp_path / "p.json")) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [({"space": {}}, "nothing to try"), ({"score": "rmse"}, "score: 'rmse' is none of")],
)
def test_tuning_refuses_what_it_cannot_do(data, options, message):
    with pytest.raises(ValueError, match=message):
        zoo.tune("ssmtl", data, **{"space": {"width": (4,)}, **options})


def test_a_file_that_is_no_preset_is_refused(tmp_path):
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(ValueError, match="no preset"):
        zoo.read_preset(tmp_path / "p.json")
