"""The report of a fit: its marks turn where they should, its numbers are those of the fit, no section takes it down."""

import dataclasses
import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyrozoo as zoo
from pyrozoo.criticism.rivals import inputs_of, simple_methods
from pyrozoo.reports.page import _counts
from pyrozoo.reports.rules import BAD, GOOD, LOOK, RULES, judge

NOISE = 0.5


class Slopes(zoo.ZooModel):
    """w_g ~ Normal(0, 1) twice, y ~ Normal(w_g0 + w_g1 x, 0.5): linear and Gaussian, so that the posterior is known."""

    plate_dims = {"group": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"w": dist.Normal(torch.zeros(2), 1.0).to_event(1)}

    def forward(self, x, group, sizes, y=None, y_labelled=True, row=None, **_):
        with self.plate("group", sizes=sizes):
            w = pyro.sample("w", self.prior("w"))
        mean = w[..., group, 0] + w[..., group, 1] * x
        with self.plate("row", sizes=sizes, row=row), pyro.poutine.mask(mask=y_labelled):
            pyro.sample("y", dist.Normal(mean, NOISE), obs=y)


class Exact(zoo.ZooGuide):
    """The exact posterior of every group, a normal of two dimensions; `width` makes it too narrow."""

    width = 1.0

    def __init__(self, model):
        super().__init__(model)
        self.register_buffer("loc", torch.zeros(1, 2))
        self.register_buffer("root", torch.eye(2).expand(1, 2, 2).clone())

    def solve(self, train):
        prior = self.model.prior("w").base_dist
        n = train.sizes["group"]
        seen = train["y_labelled"].double()
        rows = torch.stack([torch.ones_like(train["x"]), train["x"]], -1).double() * seen[:, None]
        precision = torch.diag(prior.scale.double() ** -2).repeat(n, 1, 1)
        weighted = (prior.loc.double() / prior.scale.double() ** 2).repeat(n, 1)
        precision = precision.index_add(0, train["group"], rows[:, :, None] * rows[:, None] / NOISE**2)
        weighted = weighted.index_add(0, train["group"], rows * train["y"].double()[:, None] / NOISE**2)
        covariance = torch.linalg.inv(precision)
        self.loc = (covariance @ weighted[..., None])[..., 0].to(train["x"].dtype)
        self.root = self.width * torch.linalg.cholesky(covariance).to(train["x"].dtype)

    def forward(self, sizes, **_):
        with self.model.plate("group", sizes=sizes):
            pyro.sample("w", dist.MultivariateNormal(self.loc, scale_tril=self.root))


class Narrow(Exact):
    width = 0.1


def data(seed=0, groups=40, labels=12, tests=10, shuffled=False, clock=False, drift=0.0):
    """Training and test data from the model itself, or spoilt in one way."""
    rng = np.random.default_rng(seed)
    n = groups * (labels + tests)
    group, place = np.arange(n) % groups, np.arange(n) // groups
    time = rng.uniform(0, 4, size=n)
    x = time - 2 + 0.8 * rng.normal(size=n) if clock else rng.uniform(-2, 2, size=n)
    w = np.tile([0.0, 1.5], (groups, 1)) if clock else rng.normal(size=(groups, 2))
    y = w[group, 0] + w[group, 1] * (time - 2 if clock else x) + NOISE * rng.normal(size=n)
    if shuffled:
        y = rng.permutation(y)
    test = place >= labels
    parts = []
    for rows in (np.flatnonzero(~test), np.flatnonzero(test)):
        moved = x[rows] + drift * (rows >= groups * labels)
        parts.append(
            zoo.Batch.from_arrays(
                rows={"x": moved, "y": y[rows]}, groups={"group": group[rows]}, labels={"y": np.ones(len(rows), bool)},
                row_coords={"time": time[rows]}, coords={"group": np.arange(groups)}, name="slopes", simulated=True,
            )
        )  # fmt: skip
    return parts


def page(guide=Exact, priors=None, restarts=2, settings=None, draws=100, **options):
    train, test = data(**options)
    fit = zoo.fit(Slopes(priors), guide, train, restarts=restarts, progress=False, **(settings or {}))
    return zoo.report(fit, train, test, out=None, draws=draws, progress=False)


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """Simple methods of few trees, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrozoo.criticism.rivals.N_TREES", 10)
        yield


@pytest.fixture(scope="module")
def good():
    train, test = data()
    fit = zoo.fit(Slopes(), Exact, train, restarts=2, progress=False)
    return fit, train, test, zoo.report(fit, train, test, out=None, draws=60, progress=False)


@pytest.fixture(scope="module")
def saved(good, tmp_path_factory):
    return good[-1].save(tmp_path_factory.mktemp("report") / "page.html")


@pytest.fixture
def few():
    """A small case, for what does not depend on sizes."""
    train, test = data(groups=8, labels=5, tests=5)
    return zoo.fit(Slopes(), Exact, train, progress=False), train, test


def test_an_exact_posterior_gets_good_marks_only(good):
    report = good[-1]
    assert set(report.verdict.index) == set(RULES)
    assert report.verdict["mark"].to_dict() == dict.fromkeys(report.verdict.index, GOOD)
    assert not [problem for section in report.sections for problem in section.problems]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("marks", "spoilt"),
    [
        pytest.param({"khat": BAD}, {"guide": Narrow}, id="guide ten times too narrow"),
        pytest.param({"prior": LOOK, "coverage": BAD}, {"priors": {"w": dist.Normal(3.0, 0.1)}}, id="wrong prior"),
        pytest.param({"mean": BAD}, {"shuffled": True}, id="shuffled target"),
        pytest.param({"clock": BAD}, {"clock": True}, id="leaked time"),
        pytest.param({"range": BAD}, {"drift": 3.0}, id="drifted test set"),
        pytest.param({"labels": BAD}, {"groups": 5, "labels": 3, "tests": 3}, id="too few labels"),
    ],
)
def test_the_right_mark_turns(marks, spoilt):
    verdict = page(**spoilt).verdict
    assert {rule: verdict.loc[rule, "mark"] for rule in marks} == marks, verdict[["mark", "says"]]
    assert all(verdict.loc[rule, "then"] for rule in marks)


@pytest.mark.slow
def test_a_training_that_was_cut_short_turns_its_mark():
    guide, options = zoo.guides.auto(AutoNormal), {"groups": 20}
    short = page(guide, settings={"steps": 60, "lr": 0.01}, **options).verdict
    long = page(guide, settings={"steps": 1500, "lr": 0.02, "schedule": "cosine"}, **options).verdict
    assert short.loc["training", "mark"] == BAD
    assert long.loc["training", "mark"] == GOOD


def test_numbers_of_the_page_are_those_of_the_fit(good):
    fit, train, test, report = good
    found = zoo.metrics(fit, test, draws=60)
    own = report.tables["rivals of y"].set_index("method").loc["this fit"]
    assert own["RMSE"] == pytest.approx(found["y.rmse"])
    assert own["CRPS"] == pytest.approx(found["y.crps_draws"])
    inside = report.tables["coverage of y"]["inside [%]"] / 100
    assert inside.tolist() == pytest.approx([found[f"y.cover{level}"] for level in (50, 80, 90)])
    rivals = simple_methods(train, test, "y")
    truth = test["y"].numpy()
    for name in ("mean", "ridge", "extra trees", "clock", "last value"):
        error = zoo.scores.rmse(truth, rivals[name].values)
        assert report.tables["rivals of y"].set_index("method").loc[name, "RMSE"] == pytest.approx(error)
    checks = zoo.ppc(fit, train, draws=60)
    shown = report.tables["ppc"].sort_values(["site", "statistic"])["p"]
    assert shown.tolist() == pytest.approx(checks.sort_values(["site", "statistic"])["p"].tolist())
    worst = report.tables["worst rows, y"]
    error = np.abs(zoo.predict(fit, test, draws=60)["y.mean"].to_numpy() - truth)
    assert (worst["predicted"] - worst["observed"]).abs().tolist() == pytest.approx(np.sort(error)[::-1][:10])
    groups = zoo.scores.per_group(zoo.scores.rmse, truth, zoo.predict(fit, test, draws=60)["y.mean"], test["group"])
    assert report.tables["worst groups, y"]["RMSE"].max() == pytest.approx(groups.max())


def test_the_json_holds_every_table_and_mark(good, saved):
    report = good[-1]
    content = json.loads(saved.with_suffix(".json").read_text())
    assert [section["key"] for section in content["sections"]] == [
        "verdict", "beside", "probabilities", "ppc", "posterior", "latents", "failures", "done",
    ]  # fmt: skip
    held = {
        block["table"]: block["rows"]
        for section in content["sections"]
        for block in section["blocks"]
        if "table" in block
    }
    assert {name: len(rows) for name, rows in held.items()} == {name: len(t) for name, t in report.tables.items()}
    assert [mark["rule"] for mark in content["sections"][0]["marks"]] == report.verdict.index.to_list()


def test_the_page_holds_all_and_asks_for_nothing(good, saved):
    text = saved.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert len(text) < 5e6
    assert text.count("<img") == text.count('alt="') == len(good[-1].figures)
    for mark in good[-1].marks:
        assert f'data-rule="{mark.rule}"' in text


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "uniform"), [(Exact, True), (Narrow, False)])
def test_slow_adds_calibration_by_simulation(guide, uniform):
    train, test = data(groups=10, labels=5, tests=5)
    fit = zoo.fit(Slopes(), guide, train, progress=False)
    report = zoo.report(fit, train, test, out=None, draws=30, slow=True, progress=False)
    ranks = report.tables["sbc"]["count"]
    assert ranks.sum() == 20 * 10 * 2  # simulations, groups, components of w
    section = next(section for section in report.sections if section.key == "posterior")
    assert (section.numbers["p of the ranks of w"] > 0.01) == uniform
    assert any("calibration of w" in block for block in section.blocks if isinstance(block, str))


@pytest.mark.slow
def test_without_test_data_the_training_labels_are_scored_by_fits_that_have_not_seen_them(good):
    fit, train, *_ = good
    report = zoo.report(fit, train, out=None, folds=3, draws=60, progress=False)
    assert "cross-fitting" in report.sections[0].blocks[0]
    assert report.verdict.loc["coverage", "mark"] == GOOD
    own = report.tables["rivals of y"].set_index("method").loc["this fit", "RMSE"]
    held_out = [
        (zoo.predict(one, rows, draws=60)["y.mean"].to_numpy() - rows["y"].numpy()) ** 2
        for one, rows in zoo.fit_folds(Slopes(), Exact, train, 3, progress=False)
    ]
    assert own == pytest.approx(np.sqrt(np.concatenate(held_out).mean()))


@pytest.mark.usefixtures("short_searches")
def test_the_process_of_a_cross_fitted_fit_has_not_seen_the_labels_that_score_it():
    from pyrozoo.models.ssmtl import simulate
    from pyrozoo.reports.study import Study

    train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=5)
    few = {"folds": 2, "repeats": 1, "restarts": 1, "steps": 2, "progress": False}
    fit = zoo.cross_fitted(zoo.create_model("ssmtl", train, width=8), "paper", train, **few)
    assert len(fit.law.process.tensors["y"]) == 20
    pairs = Study(fit, train, None, folds=2, progress=False).pairs
    assert sum(rows.observed("y").sum() for _, rows, _ in pairs) == 20
    for one, rows, seen in pairs:
        process = one.law.process.tensors
        known = (process["x"] * process["x_scale"] + process["x_loc"]).numpy()
        assert len(known) == seen.observed("y").sum() == 20 - rows.observed("y").sum()
        scored = rows["x"][torch.as_tensor(rows.observed("y"))].numpy()
        assert np.abs(scored[:, None] - known).sum(-1).min() > 1e-6
        assert one.law.parts == fit.law.parts


def test_a_fit_that_does_not_hold_its_training_data_says_what_is_missing(few):
    fit, _, test = few
    loaded = dataclasses.replace(fit, train=None)
    report = zoo.report(loaded, None, test, out=None, draws=60, progress=False)
    assert report.verdict.loc["khat", "mark"] == LOOK
    assert "not given" in report.verdict.loc["khat", "says"]
    assert report.verdict.loc["coverage", "value"] is not None
    assert report.about == "Simulated data. Fitted to 40 rows, 8 groups, with the guide Exact (own)."
    with pytest.raises(ValueError, match="not the data that this fit was trained on"):
        zoo.report(loaded, test, out=None)


def test_a_section_that_fails_says_why_and_leaves_the_others(few, monkeypatch):
    fit, train, test = few
    monkeypatch.setattr("pyrozoo.reports.posterior.ppc", lambda *_, **__: 1 / 0)
    report = zoo.report(fit, train, test, out=None, draws=60, progress=False)
    problems = {section.key: section.problems for section in report.sections}
    assert "division by zero" in problems.pop("ppc")[0]
    assert not any(problems.values())
    assert report.verdict.loc["ppc", "mark"] == LOOK


@pytest.mark.slow
def test_an_entry_adds_sections_and_simple_methods(good):
    from types import SimpleNamespace

    from pyrozoo.reports.content import Section

    fit, train, test, _ = good
    parts = SimpleNamespace(
        report_sections=lambda fit, train, test: {"own": ("My own", lambda: Section("own", "My own", ["A sentence."]))},
        rivals=lambda train, test, target: {"mean": simple_methods(train, test, target)["mean"]},
    )
    card = zoo.Card("slopes", "Slopes", "", 2025, "1", "", {"slopes": ""}, {"exact": ""}, {}, split="row")
    zoo.register(card, parts)
    try:
        runs = [dataclasses.replace(run) for run in fit.runs]
        for run in runs:
            run.model.entry = ("slopes", "slopes")
        report = zoo.report(fit, train, test, out=None, draws=60, progress=False)
    finally:
        zoo.unregister("slopes")
        for run in fit.runs:
            run.model.entry = None
    assert [section.key for section in report.sections][-2:] == ["own", "done"]
    assert report.tables["rivals of y"]["method"].to_list() == ["this fit", "mean"]


@pytest.mark.slow
def test_classes_are_scored_by_their_probabilities():
    rng = np.random.default_rng(0)

    class Answers(zoo.ZooModel):
        def __init__(self, priors=None):
            super().__init__()
            self.set_priors(priors)

        def priors(self):
            return {"b": dist.Normal(0.0, 2.0)}

        def forward(self, x, sizes, y=None, y_labelled=True, row=None, **_):
            b = pyro.sample("b", self.prior("b"))
            with self.plate("row", sizes=sizes, row=row), pyro.poutine.mask(mask=y_labelled):
                pyro.sample("y", dist.Bernoulli(logits=b * x), obs=y)

    x = rng.normal(size=400)
    y = (rng.random(400) < 1 / (1 + np.exp(-3 * x))).astype(float)
    train, test = zoo.Batch.from_arrays(rows={"x": x, "y": y}, labels={"y": np.ones(400, bool)}).split(0.5)
    fit = zoo.fit(Answers(), zoo.guides.auto(AutoNormal), train, steps=300, lr=0.05, progress=False)
    report = zoo.report(fit, train, test, out=None, draws=60, progress=False)
    assert report.verdict.loc["coverage", "mark"] == GOOD
    assert report.verdict.loc["mean", "mark"] == GOOD
    own = report.tables["rivals of y"].set_index("method").loc["this fit"]
    found = zoo.metrics(fit, test, draws=60)
    assert own["log loss"] == pytest.approx(found["y.log_loss"], rel=1e-5)
    assert own["1 − balanced accuracy"] == pytest.approx(1 - found["y.balanced_accuracy"])


def test_a_rule_marks_by_its_limits():
    assert [judge("coverage", value, "").mark for value in (3.0, 10.0, 10.1, None, float("nan"))] == [
        GOOD, LOOK, BAD, LOOK, LOOK,
    ]  # fmt: skip
    assert all(rule.good < rule.look for rule in RULES.values())


def test_every_rule_is_in_the_document_with_its_limits():
    from pathlib import Path

    docs = Path(__file__).parents[1] / "docs"
    text = (docs / "report.md").read_text()
    for name, rule in RULES.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {rule.good:g} | {rule.look:g} |" in line.replace("−", "-")
        assert (docs / "howto" / f"{rule.howto}.md").exists()


def test_each_heading_of_the_verdict_counts_its_own_marks():
    assert _counts(["good", "do not use", "good"]) == "1 × do not use, 2 × good"
    assert _counts([]) == "nothing was judged"


@pytest.mark.parametrize("gaps", ["train", "test"])
def test_gaps_in_one_of_training_and_test_data_alone(gaps):
    import pandas as pd

    def batch(seed, gap):
        rng = np.random.default_rng(seed)
        df = pd.DataFrame({"unit": np.repeat(["a", "b"], 10), "u": rng.normal(size=20), "p": rng.normal(size=20)})
        df["y"] = df["u"] + (df["unit"] == "b")
        if gap:
            df.loc[3, "p"] = np.nan
        return zoo.Batch.from_dataframe(df, unit="unit", x=["u", "p"], y="y")

    train, test = batch(0, gaps == "train"), batch(1, gaps == "test")
    assert inputs_of(train).shape == inputs_of(test, train).shape == (20, 4 if gaps == "train" else 2)
    known = (train if gaps == "train" else test)["x_seen"].numpy()
    filled = (inputs_of(train) if gaps == "train" else inputs_of(test, train))[:, -2:]  # masks come first
    whole = train["x"].numpy()
    means = [whole[known[:, j] if gaps == "train" else slice(None), j].mean() for j in range(2)]
    np.testing.assert_allclose(filled[~known], np.broadcast_to(means, filled.shape)[~known], rtol=1e-5, atol=1e-6)
    assert (~known).any(), "a gap is no zero"
    methods = simple_methods(train, test, "y")
    assert {"mean", "ridge", "extra trees"} <= set(methods)
    assert np.abs(methods["ridge"].values - test["y"][:, 0].numpy()).mean() < 0.5


def test_test_data_without_a_label_are_named(few):
    fit, train, test = few
    hidden = test.relabel(np.zeros(test.n_rows, bool))
    report = zoo.report(fit, train, hidden, out=None, draws=10, progress=False)
    (says,) = {mark.says for mark in report.marks if mark.rule in ("labels", "mean", "coverage")}
    assert says.startswith("Could not be told: no row of the test data has a label; give rows that have one")


def test_what_to_do_next_names_what_there_is(capsys):
    import re

    from pyrozoo.cli import main

    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    options = capsys.readouterr().out
    for rule in RULES.values():
        assert all(hasattr(zoo, name) for name in re.findall(r"zoo\.(\w+)", rule.then)), rule.then
        assert all(f"{option} " in options for option in re.findall(r"--[a-z-]+", rule.then)), rule.then


def test_the_version_on_the_page_is_that_of_the_code_that_runs(monkeypatch):
    from pyrozoo.reports.facts import _version

    monkeypatch.setattr(zoo, "__version__", "9.9")
    assert _version("pyrozoo") == "9.9"


@pytest.mark.slow
def test_the_command_reads_the_table_of_the_fit_and_refuses_another(tmp_path, capsys):
    import pandas as pd

    from pyrozoo.cli import main
    from pyrozoo.models.ssmtl import simulate

    wells, _ = simulate(n_units=4, n_labelled=6, n_unlabelled=4)
    table = pd.DataFrame(wells["x"].numpy(), columns=["choke", "pressure"]).assign(
        well=[f"W{u}" for u in wells["unit"]],
        day=pd.date_range("2024-05-01", periods=wells.n_rows).strftime("%Y-%m-%d"),
        flow=np.where(wells["labelled"].numpy(), wells["y"][:, 0].numpy(), np.nan),
    )  # fmt: skip
    file, other, run, page = (str(tmp_path / name) for name in ("wells.csv", "other.csv", "run", "report.html"))
    table.to_csv(file, index=False)
    table.iloc[::-1].to_csv(other, index=False)
    columns = ["--unit", "well", "--x", "choke,pressure", "--y", "flow", "--time", "day", "--set", "width=8"]
    assert main(["fit", "ssmtl", "--data", file, *columns, "--steps", "10", "--no-cross-fit", "--out", run]) == 0
    capsys.readouterr()
    assert main(["report", run, "--train", file, "--test", other, "--draws", "30", "--out", page]) == 0
    printed = capsys.readouterr().out
    assert "Does it beat simple methods? RMSE of flow" in printed
    assert "Does it know more than the clock?" in printed
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "wells.csv, by SSMTL"
    assert main(["report", run, "--train", other, "--out", page]) == 2
    assert "not the data that this fit was trained on" in capsys.readouterr().err
    assert main(["report", run, "--train", file, "--out", str(tmp_path / "report.txt")]) == 2
    assert "give a file of HTML" in capsys.readouterr().err


@pytest.fixture
def wells():
    """A table with names of its own: wells, days, a gauge, a flow that is seldom measured."""
    import pandas as pd

    rng = np.random.default_rng(1)
    well = np.repeat([f"W{i}" for i in range(8)], 10)
    gauge, day = rng.normal(size=80), np.tile(np.arange(10.0), 8)
    flow = np.repeat(rng.normal(size=8), 10) + gauge + NOISE * rng.normal(size=80)
    return pd.DataFrame({"well": well, "gauge": gauge, "day": day, "flow": flow})


def read(table):
    columns = {"groups": {"group": "well"}, "rows": {"x": "gauge"}, "targets": {"y": "flow"}, "time": "day"}
    return zoo.Batch.from_columns(table, **columns)


def test_the_page_calls_columns_as_the_table_does(wells, tmp_path):
    train, test = read(wells).split(0.6)
    fit = zoo.fit(Slopes(), Exact, train, progress=False)
    report = zoo.report(fit, train, test, out=tmp_path / "page.html", draws=30, progress=False)
    text = (tmp_path / "page.html").read_text()
    assert report.about == "Fitted to 32 rows, 8 wells, with the guide Exact (own)."
    assert {"by well, y", "worst wells, y"} <= set(report.tables)
    assert report.tables["errors over inputs, y"]["input"].to_list() == ["gauge"]
    assert report.tables["khat"]["per"].to_list() == ["well"]
    assert report.tables["latents"]["along"].to_list() == ["well"]
    assert "leave out one well at a time" in text
    assert (
        text.index("Its predictions") < text.index("Does it beat simple") < text.index("The model, and the posterior")
    )
    assert "mean of the labels, by well where it has some" in text
    for name, table in report.tables.items():
        if name not in ("facts", "data"):
            assert "group" not in [*map(str, table.columns), *name.split()], name


def test_a_group_is_not_called_as_a_column_of_the_page(wells):
    train, test = read(wells).split(0.6)
    fit = zoo.fit(Slopes(), Exact, train, progress=False)
    fit.data["columns"] = {**fit.data["columns"], "group": "rows"}
    assert "by group, y" in zoo.report(fit, train, test, out=None, draws=30, progress=False).tables


def test_the_lines_on_the_page_repeat_the_fit(wells, tmp_path, monkeypatch):
    from pyrozoo.reports.content import Code

    table = wells.rename(columns={"gauge": "choke"}).assign(pressure=np.sin(wells["day"]))
    table.loc[(table.index % 3 == 0) | (table["well"] == "W3"), "flow"] = np.nan
    table.to_csv(tmp_path / "TRAIN.csv", index=False)
    train = zoo.Batch.from_dataframe(table, unit="well", x=["choke", "pressure"], y="flow", time="day")
    model = zoo.create_model("ssmtl", train, width=8, c_dim=3)
    fit = zoo.fit(model, "paper", train, steps=5, lr=0.004, seed=3, progress=False)
    report = zoo.report(fit, out=None, draws=30, folds=2, progress=False)
    again, page = (block.text for block in report.sections[-1].blocks if isinstance(block, Code))
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(again, found)
    assert found["train"].sha256 == train.sha256
    assert found["fit"].history["elbo"].to_list() == fit.history["elbo"].to_list()
    assert "c_dim=3, width=8" in again
    texts = [block for block in report.sections[1].blocks if isinstance(block, str)]
    assert any(
        text.startswith("1 well of the training data without a label that could be scored: W3.") for text in texts
    )
    assert page.startswith('fit.save("run")')


def test_rows_of_many_inputs_are_not_outside_the_range_by_chance():
    from pyrozoo.reports import failures
    from pyrozoo.reports.content import Section
    from pyrozoo.reports.study import Study

    rng = np.random.default_rng(0)
    many = {"x": rng.normal(size=120), "wide": rng.normal(size=(120, 200)), "y": rng.normal(size=120)}
    own = zoo.Batch.from_arrays(
        rows=many, groups={"group": np.arange(120) // 10}, labels={"y": np.ones(120, bool)}, dims={"wide": ("input",)}
    )
    train, test = own.split(0.5, by="group")
    fit = zoo.fit(Slopes(), Exact, train, progress=False)
    section = Section("failures", "")
    failures._range(section, Study(fit, train, test, progress=False))
    assert section.numbers["share outside the training range"] > 0.8
    assert section.numbers["share of the training rows"] > 0.8
    assert section.marks[0].mark != BAD


def test_recordings_are_set_beside_the_mean_and_the_clock_and_have_the_latents_of_all():
    from pyrozoo.models.medication import simulate

    recordings = simulate("pen", n_recordings=12, rate=1.0, seed=1)
    train, test = recordings.subset(range(6)), recordings.subset(range(6, 12))
    fit = zoo.fit(zoo.create_model("medication", train), "closed-form", train, progress=False)
    report = zoo.report(fit, train, test, out=None, draws=20, progress=False)
    methods = ["this fit", "mean", "argmax", "smoothed argmax", "vanilla chain", "clock"]
    assert report.tables["rivals of label"]["method"].to_list() == methods
    assert report.verdict.loc[["mean", "clock"], "value"].notna().all()
    assert report.tables["global latents"]["latent"].str.startswith("duration_mean").any()
    assert set(report.tables["ppc"]["statistic"]) == {"share", "changes"}
