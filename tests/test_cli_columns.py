"""Tables for any entry whose batch is rows and groups, from the command line."""

import numpy as np
import pandas as pd
import pytest
from toys import crossed, missing

import pyrozoo as zoo
from pyrozoo.cli import main

QUICK = ["--steps", "5"]


@pytest.fixture(autouse=True)
def entries():
    for module in (crossed, missing):
        zoo.register(module.CARD, module.__name__)
    yield
    for module in (crossed, missing):
        zoo.unregister(module.CARD.name)


def answers():
    person, item = (index.ravel() for index in np.indices((6, 4)))
    correct = ((person + item) % 3 > 0).astype(float)
    correct[::5] = np.nan
    pupils = np.array(["Ann", "Bo", "007", "NA", "x,y", "z"])
    return pd.DataFrame({"pupil": pupils[person], "item": [f"q{i}" for i in item], "note": "-", "correct": correct})


@pytest.fixture
def csv(tmp_path):
    answers().to_csv(tmp_path / "answers.csv", index=False)
    return tmp_path / "answers.csv"


@pytest.fixture
def fail(capsys, tmp_path):
    def check(name, csv, *given):
        out = str(tmp_path / "run")
        assert main(["fit", name, "--data", str(csv), *given, *QUICK, "--out", out]) == 2
        return capsys.readouterr().err.removeprefix("pyrozoo: error: ").strip()

    return check


GIVEN = ["--group", "person=pupil,item", "--y", "correct"]


def test_answers_of_persons_to_items_are_fitted_and_predicted(csv, tmp_path, capsys):
    out, predictions = str(tmp_path / "irt"), tmp_path / "p.csv"
    assert main(["fit", "toy-crossed", "--data", str(csv), *GIVEN, *QUICK, "--out", out]) == 0
    assert f"predict with: pyrozoo predict {out} --data {csv} --out predictions.csv" in capsys.readouterr().out
    fit = zoo.load(out)
    assert fit.data["columns"] == {"person": "pupil", "item": "item", "y": "correct"}
    assert fit.prototype.names("item").tolist() == ["q0", "q1", "q2", "q3"]
    assert fit.prototype.sizes["labelled"] == 19

    new = answers().sample(frac=1, random_state=0)[["note", "item", "pupil"]]  # another order, no answers
    new.to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", out, "--data", str(tmp_path / "new.csv"), "--out", str(predictions)]) == 0
    found = pd.read_csv(predictions, dtype={"pupil": str}, keep_default_na=False)
    assert list(found.columns[:5]) == ["row", "pupil", "item", "note", "y.label"]
    assert found["pupil"].tolist() == new["pupil"].tolist()
    expected = zoo.predict(fit, fit.batch(answers()))["y.p[1]"].to_numpy()
    np.testing.assert_allclose(found["y.p[1]"], expected[new.index], rtol=1e-5)


def test_several_targets_and_inputs_of_one_number(tmp_path):
    frame = pd.DataFrame({"dose": [0.1, 0.2, 0.3], "lab a": [1.0, np.nan, 2.0], "y_b": [np.nan, 1.0, 0.5]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = ["--row", "x=dose", "--y", "y_a=lab a", "--y", "y_b"]
    out = str(tmp_path / "run")
    assert main(["fit", "toy-missing", "--data", str(tmp_path / "t.csv"), *given, *QUICK, "--out", out]) == 0
    fit = zoo.load(out)
    assert fit.data["columns"] == {"x": "dose", "y_a": "lab a", "y_b": "y_b"}
    assert dict(fit.prototype.labels) == {"y_a": "y_a_labelled", "y_b": "y_b_labelled"}
    assert fit.prototype["x"].shape == fit.prototype["y_a"].shape == (1,)
    assert list(zoo.predict(fit, frame, draws=5))[:2] == ["y_a.mean", "y_a.sd"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "is a table: name its columns by --group person=COL and --group item=COL"),
        (["--group", "person=pupil", "--y", "correct"], "Answers needs 'item': add --group item=COL"),
        (["--group", "pupil,item"], "--group pupil: Answers takes no 'pupil', only ['item', 'person', 'y']; name a"),
        ([*GIVEN, "--x", "note"], "--row x: Answers takes no 'x'"),
        ([*GIVEN, "--row", "age=note"], "--row age: Answers takes no 'age'"),
        ([*GIVEN, "--y", "note"], "--y: the target 'y' of Answers is one number per row, and --y names ['correct', "),
        ([*GIVEN, "--group", "person=note"], "--group: 'person' is given twice"),
        (["--group", "person=item,item", "--y", "correct"], "column 'item' is used or present twice"),
        (["--group", "person=pupils,item", "--y", "correct"], "column 'pupils' is not in the header"),
        (["--group", "person=pupil,item", "--y", "note"], "column 'note' holds"),
    ],
)
def test_what_is_not_right_is_named(csv, fail, given, message):
    assert message in fail("toy-crossed", csv, *given)


def test_a_target_without_a_name_of_its_own_among_several_is_refused(csv, fail):
    message = fail("toy-missing", csv, "--row", "x=correct", "--y", "note")
    assert message == "--y note: name its target, --y TARGET=note; the targets are ['y_a', 'y_b']"


def test_a_missing_group_is_named_by_column_and_row(tmp_path, fail):
    frame = answers()
    frame.loc[3, "item"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert "column 'item', row 3: the item is missing; name it or drop the row" in fail(
        "toy-crossed", tmp_path / "t.csv", *GIVEN
    )


def test_another_run_of_the_table_is_offered_for_a_fit_of_another_version(csv, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "irt")
    assert main(["fit", "toy-crossed", "--data", str(csv), *GIVEN, *QUICK, "--out", out]) == 0
    monkeypatch.setattr(crossed.Answers, "version", "2")
    command = (
        "pyrozoo fit toy-crossed --data answers.csv --group person=pupil --group item=item --y correct --variant 2pl"
    )
    with pytest.raises(ValueError, match=command):
        zoo.load(out)
