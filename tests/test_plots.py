"""Every picture draws without a warning, with names and units on its axes."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pictures import draw

import pyrozoo as zoo
from pyrozoo import Batch, plots, scores
from pyrozoo.models.ssmtl import simulate

RNG = np.random.default_rng(0)


def history(last: float) -> pd.DataFrame:
    epoch = np.arange(100)
    return pd.DataFrame(
        {"epoch": epoch, "step": 4 * epoch, "elbo": last - 50 * np.exp(-epoch / 3) - np.exp(-epoch / 30)}
    )


def predictions(n_units: int = 8, n_rows: int = 20) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """A table as `predict` makes it, the true values, and the rows' batch, minute, and whether the label was seen."""
    unit = np.repeat([f"b{i}" for i in range(n_units)], n_rows)
    observed = RNG.normal(50, 10, unit.size)
    mean = observed + RNG.normal(size=unit.size) * np.repeat(1 + np.arange(n_units), n_rows)
    table = pd.DataFrame({"y.mean": mean, "y.sd": 3.0, "y.q05": mean - 5, "y.q95": mean + 5})
    rows = pd.DataFrame({"batch": unit, "minute": np.tile(np.arange(n_rows)[::-1], n_units)})
    return table, observed, rows.assign(seen=np.arange(unit.size) % n_rows < 3)


def batch_of(observed: np.ndarray, rows: pd.DataFrame, **options) -> Batch:
    table = rows.assign(x=1.0, y=observed)
    return Batch.from_dataframe(table, unit="batch", x=["x"], y="y", **options)


def test_elbo_curves_say_what_is_below_the_axis():
    ax = plots.elbo_curves({"restart 0": history(-1.0), "restart 1": history(-2.0)})
    text = draw(ax)
    assert "ELBO [nats per row]" in text
    assert "restart 1: -2.04" in text
    assert "first epochs (from -53) are below the axis" in text
    assert ax.get_ylim()[0] > -10
    assert "below" not in draw(plots.elbo_curves({"flat": pd.DataFrame({"epoch": [0], "elbo": [-1.0]})}))


def test_elbo_curves_keep_a_late_collapse_in_view_and_many_lines_apart():
    late = history(-1.0)
    late.loc[80, "elbo"] = -40.0
    late.loc[90, "elbo"] = np.nan
    assert plots.elbo_curves({"a": late}).get_ylim()[0] < -40
    ax = plots.elbo_curves({f"model {i}": history(-i) for i in range(9)})
    draw(ax)
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}) == 9


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (None, ""),
        (RNG.normal(size=30), "speed [m/s]"),
        (np.repeat(["walk", "run"], 15), "walk"),
        (np.arange(30) % 3, "2"),
    ],
    ids=["none", "numbers", "names", "codes"],
)
def test_latent_map(k, truth, words):
    points = RNG.normal(size=(30, k))
    names = [f"p{i}" for i in range(30)]
    text = draw(plots.latent_map(points, np.full((30, k), 0.1), names, truth, "speed [m/s]", name="c"))
    assert words in text
    assert ("c[0]" if k == 2 else "c: 1st component (") in text
    assert f"p{np.argmax(np.linalg.norm(points - points.mean(0), axis=1))}" in text or k > 2


def test_latent_map_shares_are_those_of_the_variance():
    points = RNG.normal(size=(500, 3)) * [3, 2, 1]
    first = np.linalg.eigvalsh(np.cov(points.T))[-1] / np.trace(np.cov(points.T))
    assert f"1st component ({first:.0%} of variance)" in draw(plots.latent_map(points))


def test_predicted_vs_observed():
    table, observed, rows = predictions()
    observed[0] = np.nan
    inside = (abs(table["y.mean"] - observed) <= 5)[1:].mean()
    for truth in (observed, pd.Series(observed, index=range(9, 169)), observed[:, None], batch_of(observed, rows)):
        text = draw(plots.predicted_vs_observed(table, truth, quantity="moisture", unit="%"))
        assert "observed moisture [%]" in text
        assert f"inside its 90% interval: {inside:.0%}" in text
        assert "159 rows" in text
    assert "predicted y" in draw(plots.predicted_vs_observed(table, observed))


def test_one_of_several_components_is_drawn():
    table, observed, rows = predictions()
    both = table.rename(columns=lambda name: name.replace("y.", "y[flow.mean].")).join(
        (table + 7).rename(columns=lambda name: name.replace("y.", "y[temp [C]]."))
    )
    frame = rows.assign(x=1.0, flow=observed, temp=observed + 7)
    batch = Batch.from_dataframe(frame, unit="batch", x=["x"], y=["flow", "temp"])
    ax = plots.predicted_vs_observed(both, batch, "y[temp [C]]")
    drawn = np.concatenate([line.get_xydata() for line in ax.get_lines()[:2]])
    expected = np.stack([observed + 7, table["y.mean"] + 7], 1)
    np.testing.assert_allclose(np.sort(drawn, 0), np.sort(expected, 0), rtol=1e-6)
    assert "y[temp [C]]" in draw(plots.unit_lines(both, batch, "y[temp [C]]"))
    with pytest.raises(ValueError, match=r"components .*flow.mean.*; choose one"):
        plots.predicted_vs_observed(both, batch)


def test_unit_lines_choose_from_best_to_worst_or_show_what_is_asked_for():
    table, observed, rows = predictions()
    given = {"x": rows["minute"], "seen": rows["seen"], "panels": 3, "quantity": "moisture", "unit": "%"}
    text = draw(plots.unit_lines(table, observed, group=rows["batch"], **given))
    unseen = ~rows["seen"]
    error = ((table["y.mean"] - observed) ** 2)[unseen].groupby(rows["batch"]).mean() ** 0.5
    for name in (error.idxmin(), error.idxmax()):
        assert f"batch {name}, RMSE {error[name]:.3g} %" in text
    assert "moisture [%]" in text
    assert "minute" in text
    assert "labels the model saw" in text
    plain = draw(plots.unit_lines(table, observed, group=rows["batch"], show=["b1"]))
    assert "row position" in plain
    assert "labels the model saw" not in plain
    assert "RMSE" not in draw(plots.unit_lines(table, np.full(160, np.nan), group=rows["batch"], panels=2))


def test_unit_lines_take_groups_and_labels_from_batches():
    table, observed, rows = predictions()
    data = batch_of(observed, rows)
    figure = plots.unit_lines(table, data, seen=data.relabel(rows["seen"].tolist()), x=rows["minute"])
    expected = plots.unit_lines(table, observed, group=rows["batch"], seen=rows["seen"], x=rows["minute"])
    assert draw(figure).replace("unit b", "batch b") == draw(expected)
    for ax, other in zip(figure.axes, expected.axes, strict=True):
        for line, same in zip(ax.get_lines(), other.get_lines(), strict=True):
            np.testing.assert_allclose(line.get_xydata(), same.get_xydata(), rtol=1e-6)


def test_interval_coverage():
    tables = {
        model: pd.DataFrame({"nominal": [0.9, 0.5], "empirical": shares})
        for model, shares in {"SSMTL": [0.88, 0.45], "MTL": [0.7, 0.3]}.items()
    }
    ax = plots.interval_coverage(tables)
    np.testing.assert_array_equal(ax.get_lines()[1].get_xydata(), [[0.5, 0.45], [0.9, 0.88]])
    text = draw(ax)
    assert "SSMTL" in text
    both = pd.concat([table.assign(component=f"y[{name}]") for name, table in tables.items()])
    assert "cross, y[MTL]" in draw(plots.interval_coverage({"cross": both}))
    assert "intervals too narrow" in text
    assert "nominal coverage" in text


def said(confidence, right, bins=10):
    """Table of two classes whose first is said to have these probabilities."""
    confidence = np.asarray(confidence)
    return scores.reliability(1 - np.asarray(right, int), np.stack([confidence, 1 - confidence], 1), bins=bins)


def test_reliability_shows_error_intervals_and_shares():
    sure = said(np.repeat([0.6, 0.9], [100, 300]), np.arange(400) % 10 < np.repeat([6, 5], [100, 300]))
    ax = plots.reliability({"sure": sure, "honest": said(np.ones(10), np.ones(10))})
    text = draw(ax)
    for words in (
        "sure: 30.0%",
        "honest: 0.0%",
        "calibration error",
        "too sure",
        "90% interval",
        "share of rows where",
    ):
        assert words in text
    np.testing.assert_allclose(ax.get_lines()[1].get_xydata(), [[0.6, 0.6], [0.9, 0.5]])
    bars, points = ax.collections[:2]
    np.testing.assert_allclose([bar.vertices[:, 1] for bar in bars.get_paths()], sure[["lower", "upper"]])
    np.testing.assert_allclose(np.diff(points.get_sizes()), 200)
    assert plots.reliability({"a": said([0.6, 0.6], [0, 0])}).get_xlim() == (0, 1)
    assert plots.reliability({"a": said(np.full(500, 0.95), np.arange(500) % 20 > 0)}).get_xlim()[0] > 0.8


def test_reliability_takes_predictions_and_labels():
    p = np.random.default_rng(1).dirichlet([1, 1, 1], 90)
    names, codes = np.array(["a.b", "c[d]", "e"]), np.arange(90) % 3
    table = pd.DataFrame({"k.label": names[p.argmax(1)], **{f"k.p[{name}]": p[:, i] for i, name in enumerate(names)}})
    labels = names[codes].astype(object)
    labels[:9] = None
    expected = draw(plots.reliability({"model": scores.reliability(names[codes[9:]], p[9:], names)}))
    assert draw(plots.reliability({"model": table}, labels, "k")) == expected
    batch = Batch.from_arrays(rows={"k": codes}, labels={"k": np.arange(90) >= 9}, coords={"k_class": names})
    assert draw(plots.reliability({"model": table}, batch, "k")) == expected
    points = [
        sum(
            len(drawn.get_offsets()) for drawn in plots.reliability({"model": table}, batch, "k", bins=bins).collections
        )
        for bins in (2, 10)
    ]
    assert points[0] < points[1]


def test_compare_has_the_best_on_top():
    lines = {"good": [-1.0, 1.0, 0.0, 0.0], "bad": [-5.0, 1.0, -4.0, 1.5]}
    columns = ["elpd", "se", "difference", "se_difference"]
    ax = plots.compare(pd.DataFrame.from_dict(lines, orient="index", columns=columns))
    text = draw(ax)
    assert "good: -1.0" in text
    assert "[nats], ± SE" in text
    assert ax.transData.transform((0, 0))[1] > ax.transData.transform((0, 1))[1]
    (bars,) = ax.containers
    assert bars[2][0].get_segments()[1][:, 0].tolist() == [-5.5, -2.5]


@pytest.mark.filterwarnings("ignore")
def test_what_the_zoo_returns_goes_into_every_picture():
    train, test = simulate(n_units=4, n_labelled=10, n_unlabelled=0, n_test=20)
    model = zoo.create_model("ssmtl", train, width=16)
    fit = zoo.fit(model, "paper", train, steps=20, progress=False)
    table, held_out = zoo.predict(fit, test, draws=10), zoo.hold_out(test, inputs=False)[1]
    figures = [
        plots.elbo_curves({"fit": fit.history}),
        plots.predicted_vs_observed(table, test),
        plots.unit_lines(table, test),
        plots.interval_coverage({"own": zoo.coverage(fit, test, draws=10)}),
        plots.interval_coverage({"conformal": zoo.conformal(fit, held_out, level=0.5, draws=10).coverage(test)}),
        plots.khat(zoo.khat(fit, train, draws=25)),
        plots.compare(zoo.compare({"a": fit, "b": fit}, test, draws=5)),
    ]
    assert all(draw(figure) for figure in figures)


def test_khat_names_the_worst_and_counts_the_undefined():
    khat = pd.Series([0.1, 0.6, 0.9, np.nan, -np.inf], index=pd.Index(list("abcde"), name="batch"))
    text = draw(plots.khat(khat, "contexts"))
    for words in (
        "good, up to 0.5: 20.0%",
        "bad, above 0.7: 20.0%",
        "no tail to fit: 20.0%",
        "cannot be told: 20.0%",
        "batch, sorted",
    ):
        assert words in text
    assert text.startswith("c | ")


def test_khat_counts_the_infinite_as_bad():
    text = draw(plots.khat(pd.Series([0.1, np.inf, 0.8, 0.2])))
    assert "bad, above 0.7: 50.0%" in text


def shifts(n_units, priors=("power 0.5", "power 2", "wide")):
    """Unit i moves by i with the power's logarithm; the last unit is unreliable under the last prior."""
    lines = [
        {"prior": prior, "factor": factor, "unit": f"u{i}", "component": 0, "shift": i * slope,
         "reliable": not (prior == priors[-1] and i == n_units - 1)}
        for prior, factor, slope in zip(priors, (0.5, 2.0, np.nan), (-1.0, 1.0, 0.3), strict=True)
        for i in range(n_units)
    ]  # fmt: skip
    return pd.DataFrame(lines)


@pytest.mark.parametrize("n_units", [8, 120])
def test_psense_names_what_moves_most(n_units):
    ax = plots.psense(shifts(n_units), label="shift [sd]")
    text = draw(ax)
    for words in ("as fitted", "wide", "shift [sd]", f"u{n_units - 1}", f"unreliable: {1 / (3 * n_units):.0%}"):
        assert words in text
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["power 0.5", "as fitted", "power 2", "wide"]
    assert ("90% of all 120" in text) is (n_units > 100)
    assert "u1 |" not in text  # it hardly moves
    first = next(line for line in ax.get_lines() if line.get_label() == f"u{n_units - 1}")
    assert first.get_ydata().tolist() == [1.0 - n_units, 0.0, n_units - 1.0]  # a prior of another kind is no step on it


def test_pictures_go_into_given_axes():
    figure = Figure()
    first, second = figure.subplots(1, 2)
    assert plots.elbo_curves({"a": history(-1.0)}, ax=first) is first
    assert plots.khat(pd.Series([0.2]), ax=second).figure is figure


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.elbo_curves({}), "no history"),
        (lambda: plots.elbo_curves({"a": pd.DataFrame({"epoch": [0], "elbo": [np.nan]})}), "'a' has no finite elbo"),
        (lambda: plots.latent_map(np.zeros((5, 1))), "K of 2 or more"),
        (lambda: plots.latent_map(np.zeros((5, 2)), truth=[1.0]), "truth has 1 entries for 5 points"),
        (lambda: plots.predicted_vs_observed(pd.DataFrame({"mean": [1.0]}), [1.0]), "no column 'y.mean'"),
        (
            lambda: plots.predicted_vs_observed(pd.DataFrame({"y.mean": [1.0]}), [1.0]),
            r"no column \['y.q05', 'y.q95'\]",
        ),
        (lambda: plots.predicted_vs_observed(predictions()[0], np.full(160, np.nan)), "no row has an observation"),
        (lambda: plots.predicted_vs_observed(predictions()[0], [1.0, 2.0]), r"160 rows, .* shape \(2,\)"),
        (lambda: plots.predicted_vs_observed(predictions()[0], batch_of(*predictions(4)[1:])), "different rows"),
        (
            lambda: plots.predicted_vs_observed(
                predictions()[0].rename_axis("row")[::-1], batch_of(*predictions()[1:])
            ),
            "different rows",
        ),
        (lambda: plots.unit_lines(*predictions()[:2]), "group: give the name of each row's group"),
        (lambda: plots.unit_lines(*predictions()[:2], group=["a"]), r"160 rows, .* shape \(1,\)"),
        (lambda: plots.unit_lines(*predictions()[:2], group=np.repeat("a", 160), show=[]), "no unit to show"),
        (lambda: plots.interval_coverage({}), "no table"),
        (lambda: plots.interval_coverage(pd.DataFrame({"nominal": [0.5]})), "by the names of their models"),
        (lambda: plots.interval_coverage({"a": pd.DataFrame({"nominal": [0.5]})}), r"no column \['empirical'\]"),
        (lambda: plots.compare(pd.DataFrame({"elpd": [1.0]})), "no column"),
        (lambda: plots.reliability({}), "no table"),
        (lambda: plots.reliability({"a": predictions()[0]}, ["b"] * 160, "y"), "no column 'y.label'"),
        (lambda: plots.reliability({"a": said([0.9], [1]).drop(columns="upper")}), r"no column \['upper'\]"),
        (lambda: plots.reliability({"a": said([0.9], [1]).iloc[:0]}), "the table of 'a' has no line"),
        (lambda: plots.khat(pd.Series([], dtype=float)), "no k to draw"),
        (lambda: plots.psense(shifts(3).drop(columns="reliable")), r"no column \['reliable'\]"),
        (lambda: plots.psense(shifts(3).iloc[:0]), "no line to draw"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_unit_is_named():
    table, observed, rows = predictions()
    with pytest.raises(KeyError, match="no batch"):
        plots.unit_lines(table, observed, group=rows["batch"], show=["b99"])


def test_modules_leave_pyplot_and_torch_alone():
    script = "print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    script = f"import sys, pyrozoo.plots.predictions, pyrozoo.plots.checks; {script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
