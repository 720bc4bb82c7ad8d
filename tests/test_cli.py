import itertools
import os
import shlex
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.experiments.running import Outcome
from pyrozoo.inference import fit as fitting
from pyrozoo.inference import loop as training
from pyrozoo.modeling.registry import _entries
from pyrozoo.models.ssmtl import calibrate

pytestmark = pytest.mark.usefixtures("short_searches")

UNITS = ("007", "08", "NA", "a,b")
QUICK = ["--no-cross-fit", "--steps", "20", "--set", "width=8", "--set", "depth=1"]


def table(units=UNITS, rows=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(units) * rows, 2))
    y = x.sum(1) + np.repeat(np.arange(len(units)), rows)
    y[1::2] = np.nan
    return pd.DataFrame({"well": np.repeat(units, rows), "u 1": x[:, 0], "p": x[:, 1], "note": "-", "flow": y})


def columns(csv, *more):
    return ["--data", str(csv), "--unit", "well", "--x", "u 1,p", "--y", "flow", *more]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "wells.csv"
    table().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(csv, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a run"
    assert main(["fit", "ssmtl", *columns(csv), *QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture
def fail(capsys):
    """Runs a command that must end with exit code 2 and one line, which is returned."""

    def check(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        line = captured.err.splitlines()[-1]
        assert line.startswith("pyrozoo: error: ")
        assert "Traceback" not in captured.err
        return line.removeprefix("pyrozoo: error: ")

    return check


@pytest.fixture
def entry():
    """Registers an entry with the given parts under the name "stub"."""
    names = []

    def register(**parts):
        zoo.register(replace(zoo.card("ssmtl"), name="stub", limitations=("it is a stub",)), SimpleNamespace(**parts))
        names.append("stub")

    yield register
    for name in names:
        zoo.unregister(name)


def python(*arguments, cwd=None):
    """Runs Python in a process of its own, which finds the package but not what lies in its working folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


# -------------------------------------------------------------------- list, show, start-up
def test_list_names_every_entry(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in zoo.list_models():
        card = zoo.card(name)
        assert f"{name}: {card.title}" in out
        assert ", ".join(card.variants) in out
        assert card.summary.split()[0] in out


@pytest.mark.parametrize("name", ["stub", "medication"])
def test_show_tells_the_whole_card(capsys, entry, name):
    entry()
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    card = zoo.card(name)
    facts = [card.title, card.authors, card.reference, *card.variants.values(), *card.guides.values()]
    facts += [*card.datasets.values(), *card.experiments.values(), *card.limitations]
    facts += [fact for sites in card.sites.values() for site in sites.values() for fact in (site.meaning, site.prior)]
    assert [fact for fact in facts if fact not in out] == []


@pytest.mark.parametrize(("name", "identifier"), [("ssmtl", "arXiv:2407.13310"), ("auxvae", "arXiv:2507.05544")])
def test_show_names_the_reference_below_the_authors(capsys, name, identifier):
    assert main(["show", name]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line == zoo.card(name).reference
    assert identifier in line


def test_the_commands_that_compute_nothing_import_nothing_heavy():
    code = """
import sys
from pyrozoo.cli import main
for arguments in (["list"], ["show", "ssmtl"], ["--help"], ["fit", "--help"], ["show", "none"], ["fit", "ssmtl"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
print(sorted({"torch", "pyro", "numpy", "pandas", "arviz"} & set(sys.modules)))
"""
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_module_returns_the_exit_code(tmp_path):
    done = python("-m", "pyrozoo", "predict", "missing", "--data", "missing.csv", "--out", "p.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pyrozoo: error: missing is no run directory: it has no run.json\n"
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- fit and predict
def test_fit_then_the_command_that_it_prints(csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = columns(csv, "--out", "runs/a b", "--restarts", "2", "--guide", "normal", "--lr", "0.01")
    assert main(["fit", "ssmtl", *arguments, "--batch-size", "20", "--seed", "3", "--compile", "graph", *QUICK]) == 0
    elbo, saved, how, report = capsys.readouterr().out.splitlines()
    assert report == f"report with: pyrozoo report 'runs/a b' --train {csv}"
    fit = zoo.load("runs/a b")
    assert elbo == f"ELBO {fit.best.final_elbo:.4f} nats per row after 20 steps, the best of 2 restarts"
    assert saved == "saved in runs/a b"
    assert (fit.guide_name, fit.data["name"], fit.model.width) == ("normal", "wells.csv", 8)
    assert (fit.settings["lr"], fit.settings["seed"], fit.settings["batch_size"]) == (0.01, 3, 20)
    assert fit.settings["compile"] == "graph"

    command = shlex.split(how.removeprefix("predict with: "))
    assert command[0] == "pyrozoo"
    assert main(command[1:]) == 0
    result = pd.read_csv("predictions.csv", dtype={"well": str}, keep_default_na=False)
    assert list(result.columns[:6]) == ["row", "well", "note", "flow", "y.mean", "y.sd"]
    assert list(result["well"]) == list(table()["well"])
    assert list(result["row"]) == list(range(40))
    data = fit.batch(table(), labels=False)
    np.testing.assert_allclose(result["y.mean"], zoo.predict(fit, data)["y.mean"], rtol=1e-5)


def test_names_with_commas_and_repeated_options(csv, tmp_path):
    frame = table().rename(columns={"p": "p, bar"})
    frame.to_csv(tmp_path / "d.csv", index=False)
    given = ["--unit", "well", "--x", "u 1", "--x", '"p, bar"', "--y", "flow", "--out", str(tmp_path / "run")]
    assert main(["fit", "ssmtl", "--data", str(tmp_path / "d.csv"), *given, *QUICK, "--variant", "mtl"]) == 0
    fit = zoo.load(tmp_path / "run")
    assert fit.data["columns"] == {"unit": "well", "x": ["u 1", "p, bar"], "y": ["flow"]}
    assert fit.model.entry == ("ssmtl", "mtl")


def test_fit_to_a_data_set_of_the_entry(tmp_path, capsys, fail):
    out = tmp_path / "run"
    assert main(["fit", "ssmtl", "--data", "simulated", *QUICK, "--steps", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"go on in Python: fit = pyrozoo.load({str(out)!r})"
    assert zoo.load(out).data["simulated"]
    assert "was not fitted to a table" in fail("predict", out, "--data", "d.csv", "--out", tmp_path / "p.csv")
    given = ("--unit", "well", "--out", tmp_path / "b")
    assert "'simulated' is a data set" in fail("fit", "ssmtl", "--data", "simulated", *given)


def test_an_unknown_unit_needs_the_amortised_guide(csv, run, tmp_path, fail):
    new = tmp_path / "new.csv"
    table(("007", "7"), seed=1).drop(columns=["note", "flow"]).to_csv(new, index=False)
    out = tmp_path / "p.csv"
    message = fail("predict", run, "--data", new, "--out", out)
    assert "unknown unit(s) ['7']" in message
    assert "'amortized'" in message
    assert not out.exists()

    amortized = str(tmp_path / "amortized")
    assert main(["fit", "ssmtl", *columns(csv, "--guide", "amortized", *QUICK, "--out", amortized)]) == 0
    assert main(["predict", amortized, "--data", str(new), "--out", str(out)]) == 0
    result = pd.read_csv(out, dtype={"well": str})
    assert list(result["well"].unique()) == ["007", "7"]
    assert np.isfinite(result["y.mean"]).all()


def test_a_run_with_numbers_as_units_reads_them_from_a_file(tmp_path):
    frame = table().assign(well=np.repeat([3, 1, 7, 20], 10))
    data = zoo.Batch.from_dataframe(frame, unit="well", x=["u 1", "p"], y="flow")
    model = zoo.create_model("ssmtl", data, width=8, depth=1)
    fit = zoo.fit(model, "paper", data, steps=5, progress=False)
    fit.save(tmp_path / "run")
    few = frame[frame["well"].isin([7, 3])].reset_index(drop=True)
    few.to_csv(tmp_path / "few.csv", index=False)
    arguments = ["--data", str(tmp_path / "few.csv"), "--out", str(tmp_path / "p.csv")]
    assert main(["predict", str(tmp_path / "run"), *arguments]) == 0
    expected = zoo.predict(fit, fit.batch(few, labels=False))["y.mean"]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "p.csv")["y.mean"], expected, rtol=1e-5)


@pytest.mark.parametrize("value", [1e30, 1e308])
def test_inputs_without_a_finite_prediction_are_refused_with_the_name_of_the_file(run, tmp_path, fail, value):
    data = tmp_path / "new.csv"
    table().assign(p=value).to_csv(data, index=False)
    assert fail("predict", run, "--data", data, "--out", tmp_path / "p.csv").startswith(f"{data}: ")
    assert not (tmp_path / "p.csv").exists()


def test_predict_replaces_an_older_file_but_never_its_input(csv, run, tmp_path, fail):
    out = tmp_path / "p.csv"
    out.write_text("old")
    assert main(["predict", str(run), "--data", str(csv), "--out", str(out)]) == 0
    assert out.read_text().startswith("row,well,note,flow,y.mean")
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    assert "is the input" in fail("predict", run, "--data", csv, "--out", csv)
    assert "is a folder" in fail("predict", run, "--data", csv, "--out", tmp_path)


def test_a_unit_column_named_row(tmp_path):
    frame = table().rename(columns={"well": "row"})
    frame.to_csv(tmp_path / "d.csv", index=False)
    data = ["--data", str(tmp_path / "d.csv")]
    given = ["--unit", "row", "--x", "p", "--y", "flow", *QUICK, "--out", str(tmp_path / "run")]
    assert main(["fit", "ssmtl", *data, *given]) == 0
    assert main(["predict", str(tmp_path / "run"), *data, "--out", str(tmp_path / "p.csv")]) == 0
    written = pd.read_csv(tmp_path / "p.csv")
    assert list(written.columns[:5]) == ["index", "row", "u 1", "note", "flow"]
    assert list(written["index"]) == list(range(40))


def test_predictions_carry_the_key_columns_of_the_input_as_written(run, tmp_path, fail):
    keys = {"date": "2024-01-0" + pd.Series(range(1, 10)).astype(str), "id": [f"00{i}" for i in range(9)], "file": ""}
    frame = table().head(9).assign(**keys)[["id", "u 1", "well", "date", "p", "file"]]
    frame.iloc[::-1].to_csv(tmp_path / "keys.csv", index=False)
    assert main(["predict", str(run), "--data", str(tmp_path / "keys.csv"), "--out", str(tmp_path / "p.csv")]) == 0
    written = pd.read_csv(tmp_path / "p.csv", dtype={"id": str, "well": str}, keep_default_na=False)
    assert list(written.columns[:6]) == ["row", "well", "id", "date", "file", "y.mean"]
    for name in ("well", "id", "date", "file"):
        assert written[name].tolist() == frame[name].tolist()[::-1]
    written.assign(**{"u 1": 0.0, "p": 0.0}).to_csv(tmp_path / "again.csv", index=False)
    message = fail("predict", run, "--data", tmp_path / "again.csv", "--out", tmp_path / "q.csv")
    assert "column 'y.mean' of the input has the name of a prediction; rename it" in message


def test_metrics_and_checks_of_ones_own_data(csv, run, tmp_path, capsys):
    fit = zoo.load(run)
    data = fit.batch(pd.read_csv(csv, dtype={"well": str}, keep_default_na=False, na_values={"flow": [""]}))
    capsys.readouterr()
    assert main(["metrics", str(run), "--data", str(csv), "--draws", "20"]) == 0
    said = dict(line.split(",") for line in capsys.readouterr().out.splitlines())
    assert said["metric"] == "value"
    assert float(said["y.rmse"]) == pytest.approx(zoo.metrics(fit, data, draws=20)["y.rmse"], rel=1e-4)
    out = tmp_path / "ppc.csv"
    assert main(["ppc", str(run), "--data", str(csv), "--draws", "20", "--out", str(out)]) == 0
    expected = zoo.ppc(fit, data, draws=20)["p"]
    np.testing.assert_allclose(pd.read_csv(out)["p"], expected)


def test_posterior_and_plots_of_ones_own_data(csv, run, tmp_path, fail):
    given = ["--data", str(csv), "--draws", "20"]
    assert main(["posterior", str(run), *given, "--site", "c", "--out", str(tmp_path / "posterior.nc")]) == 0
    idata = zoo.load_netcdf(tmp_path / "posterior.nc")
    unit = str(idata["posterior"]["unit"].values[0])
    assert {"posterior", "prior", "log_prior"} <= set(idata.groups() if callable(idata.groups) else idata.children)
    for kind, more in (("forest", ["--site", "c", "--coords", f"unit={unit}"]), ("ppc", ["--site", "y"])):
        out = tmp_path / f"{kind}.png"
        assert main(["plot", str(run), kind, *given, *more, "--out", str(out)]) == 0
        assert out.read_bytes().startswith(b"\x89PNG")
    message = fail("plot", run, "rank", *given, "--site", "z", "--out", tmp_path / "a.png")
    assert "choose by var_names and coords (--site SITE, --coords AXIS=LABEL,LABEL)" in message
    assert "unit has no ['nobody']" in fail(
        "plot", run, "forest", *given, "--site", "c", "--coords", "unit=nobody", "--out", tmp_path / "a.png"
    )
    assert "is a folder" in fail("posterior", run, *given, "--out", tmp_path)
    assert not (tmp_path / "a.png").exists()


def test_without_a_target_there_is_nothing_to_predict(csv, tmp_path, fail, capsys):
    out = tmp_path / "run"
    assert main(["fit", "ssmtl", *columns(csv)[:-2], *QUICK, "--out", str(out)]) == 0
    assert "predict with" not in capsys.readouterr().out
    assert "--y COL" in fail("predict", out, "--data", csv, "--out", tmp_path / "p.csv")


def test_a_fit_refuses_an_existing_folder_before_it_starts(csv, run, tmp_path, monkeypatch, fail):
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: pytest.fail("the fit was started"))
    assert "choose another folder for --out" in fail("fit", "ssmtl", *columns(csv, "--out", run))
    (tmp_path / "run-0.safetensors").touch()
    message = fail("fit", "ssmtl", *columns(csv, "--checkpoint", tmp_path, "--out", tmp_path / "new"))
    assert "add --resume" in message


# -------------------------------------------------------------------- recordings
LABELS = ("none", "one", "two")
SEQUENCES = ([0, 0, 1, 1, 1, 0, 2, 2, 0], [0, 1, 1, 0, 0, 2, 2, 2, 0], [0, 1, 1, 0, 2, 2, 0, 0], [0, 2, 2, 0, 0])


def frames(labelled=True, rate=2.0, seed=0):
    """Arrays of a file of recordings, as the entry medication reads them."""
    rng = np.random.default_rng(seed)
    label = np.concatenate(SEQUENCES)
    names = np.repeat(["007", "08", "NA", "a,b"], [len(z) for z in SEQUENCES])
    score = 0.5 * np.eye(3)[label] + 0.5 * rng.dirichlet(np.ones(3), len(label))
    more = ({"label": label} if labelled else {}) | ({} if rate is None else {"rate": rate})
    return {"score": score, "recording": names, "labels": np.array(LABELS), **more}


def scores_csv(path, columns=LABELS):
    arrays = frames(labelled=False)
    table = pd.DataFrame(arrays["score"], columns=list(LABELS))[list(columns)]
    table.insert(0, "recording", arrays["recording"])
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "labelled.npz"
    np.savez(path, **frames())
    return path


@pytest.fixture(scope="module")
def decoder(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "decoder"
    assert main(["fit", "medication", "--data", str(labelled), "--out", str(out)]) == 0
    return out


def test_fit_to_recordings_then_the_command_that_it_prints(labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "medication", "--data", str(labelled), "--out", "runs/a b"]) == 0
    elbo, saved, how = capsys.readouterr().out.splitlines()
    assert elbo.startswith("ELBO ")
    assert saved == "saved in runs/a b"
    fit = zoo.load("runs/a b")
    assert (fit.model.entry, fit.guide_name, fit.status) == (("medication", "semi-markov"), "closed-form", "solved")
    assert (fit.model.names, fit.model.rate, fit.data["name"]) == (LABELS, 2.0, "labelled")
    command = shlex.split(how.removeprefix("decode with: "))
    assert command[:2] == ["pyrozoo", "predict"]
    np.savez("FILE.npz", **frames(labelled=False))
    assert main([own.replace("FILE", "FILE.npz") for own in command[1:]]) == 0
    assert capsys.readouterr().out.splitlines() == ["31 lines in labels.csv", "8 lines in labels.steps.csv"]


def test_recordings_are_decoded_into_two_tables(labelled, decoder, tmp_path):
    from pyrozoo.models.medication import decode_recordings, read

    out = tmp_path / "labels.csv"
    assert main(["predict", str(decoder), "--data", str(labelled), "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "labels.steps.csv"]
    expected = decode_recordings(zoo.load(decoder), read(labelled))
    found = pd.read_csv(out, dtype={"recording": str}, keep_default_na=False)
    assert list(found.columns) == ["recording", "frame", "time_s", "label.label", *[f"label.p[{k}]" for k in LABELS]]
    assert list(found["recording"]) == list(frames()["recording"])
    assert list(found["label.label"]) == list(expected.frames()["label.label"])
    np.testing.assert_allclose(found["time_s"], found["frame"] / 2.0)
    np.testing.assert_allclose(found.iloc[:, 4:], np.concatenate(expected.marginals), atol=1e-12)
    steps = pd.read_csv(tmp_path / "labels.steps.csv", dtype={"recording": str}, keep_default_na=False)
    assert list(steps.columns) == ["recording", "step", "p_performed"]
    assert steps["recording"].tolist() == list(np.repeat(["007", "08", "NA", "a,b"], 2))
    assert steps["step"].tolist() == ["one", "two"] * 4
    np.testing.assert_allclose(steps["p_performed"], expected.performed.to_numpy().ravel(), atol=1e-12)
    assert steps["p_performed"].iloc[6] < 0.5 < steps["p_performed"].iloc[0]


@pytest.mark.parametrize("columns", [LABELS, ("two", "none", "one")])
def test_scores_in_a_csv_file_are_decoded_alike_in_any_order_of_columns(decoder, labelled, tmp_path, capsys, columns):
    outs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for data, out in zip((labelled, scores_csv(tmp_path / "scores.csv", columns)), outs, strict=True):
        assert main(["predict", str(decoder), "--data", str(data), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *(
            line
            for out in outs
            for line in (f"31 lines in {out}", f"8 lines in {out.with_name(out.stem + '.steps.csv')}")
        ),
        "no frame rate is given: the fit's is taken (name it by --rate HZ)",
    ]
    a, b = (pd.read_csv(out) for out in outs)
    pd.testing.assert_frame_equal(a, b)


def test_a_frame_rate_is_given_where_the_file_has_none(decoder, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", **frames(rate=None))
    given = ["fit", "medication", "--data", str(tmp_path / "d.npz"), "--out"]
    assert main([*given, str(tmp_path / "frames")]) == 0
    assert capsys.readouterr().out.startswith("no frame rate is given: times are in frames (name it by --rate HZ)\n")
    assert main([*given, str(tmp_path / "seconds"), "--rate", "2"]) == 0
    assert "no frame rate" not in capsys.readouterr().out
    own, same, frame = (zoo.load(path) for path in (decoder, tmp_path / "seconds", tmp_path / "frames"))
    mean = [fit.guide.duration_mean_loc.exp() for fit in (own, same, frame)]
    torch.testing.assert_close(mean[0], mean[1])
    torch.testing.assert_close(2 * mean[0], mean[2], rtol=0.01, atol=0)
    assert (same.model.rate, frame.model.rate) == (2.0, 1.0)


def test_recordings_at_another_rate_are_refused(decoder, labelled, tmp_path, fail):
    csv = scores_csv(tmp_path / "scores.csv")
    given = ("--out", tmp_path / "p.csv")
    message = fail("predict", decoder, "--data", csv, "--rate", "3", *given)
    assert message.startswith(f"{csv}: the recordings have 3 frames per second, the model has 2; resample them")
    assert "the argument rate says 3" in fail("predict", decoder, "--data", labelled, "--rate", "3", *given)
    assert "rate: -1" in fail("fit", "medication", "--data", csv, "--rate", "-1", "--out", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize("option", [("--unit", "recording"), ("--x", "one"), ("--y", "label")])
def test_recordings_have_no_columns_of_a_table(labelled, tmp_path, fail, option):
    message = fail("fit", "medication", "--data", labelled, *option, "--out", tmp_path / "run")
    options = "--unit, --group, --x, --row and --y"
    assert message == f"{options} belong to a table; 'medication' reads recordings, see its README"
    message = fail("fit", "medication", "--data", "simulated-pen", *option, "--out", tmp_path / "run")
    assert "'simulated-pen' is a data set of 'medication'" in message


def test_a_table_has_no_frame_rate(csv, run, tmp_path, fail):
    message = fail("fit", "ssmtl", *columns(csv, "--rate", "2", "--out", tmp_path / "new"))
    assert message == "--rate belongs to recordings; 'ssmtl' is fitted to a table"
    message = fail("predict", run, "--data", csv, "--rate", "2", "--out", tmp_path / "p.csv")
    assert message == f"--rate belongs to recordings; {run} was fitted to a table"


def test_files_of_recordings_that_cannot_be_read(decoder, labelled, tmp_path, fail):
    missing, out = tmp_path / "missing.npz", ("--out", tmp_path / "new")
    message = fail("fit", "medication", "--data", missing, *out)
    assert message.startswith(
        f"{missing}: there is no such file, and 'medication' has no data set of that name; it has"
    )
    assert fail("predict", decoder, "--data", missing, *out) == f"{missing}: there is no such file"
    other = scores_csv(tmp_path / "scores.csv", ("none", "one"))
    assert "the file lacks ['two']" in fail("predict", decoder, "--data", other, *out)
    direct = tmp_path / "direct.npz"
    np.savez(direct, **(frames() | {"label": np.where(frames()["label"] == 0, 1, frames()["label"])}))
    assert "'one' goes straight to 'two'" in fail("fit", "medication", "--data", direct, "--variant", "paper", *out)
    assert fail("predict", decoder, "--data", labelled, "--out", labelled) == (
        f"{labelled} is the input; choose another file for --out"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.npz", "scores.csv"]


def test_no_table_of_a_decoding_replaces_its_input(decoder, tmp_path, fail):
    given = scores_csv(tmp_path / "a.steps.csv")
    before = given.read_bytes()
    message = fail("predict", decoder, "--data", given, "--out", tmp_path / "a.csv")
    assert message == f"{given} is the input; choose another file for --out"
    assert ([path.name for path in tmp_path.iterdir()], given.read_bytes()) == (["a.steps.csv"], before)


def test_fit_to_simulated_recordings(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--prior", "start_rate=Gamma(2, 10)", "--set", "power=0.5", "--out", str(out)]
    assert main(["fit", "medication", "--data", "simulated-pen", *arguments]) == 0
    assert "decode with: pyrozoo predict" in capsys.readouterr().out
    fit = zoo.load(out)
    assert (fit.data["simulated"], fit.data["name"]) == (True, "simulated-pen")
    assert fit.model.fixed_power == 0.5
    assert float(fit.model.prior("start_rate").concentration) == 2.0


# -------------------------------------------------------------------- priors, arguments, guides
def test_a_prior_and_an_autoguide_reach_the_fit(csv, tmp_path):
    given = ["--prior", "c=StudentT(4, 0, scale=0.5)", "--guide", "AutoMultivariateNormal", "--set", "c_dim=2"]
    assert main(["fit", "ssmtl", *columns(csv, *given, *QUICK, "--out", str(tmp_path / "run"))]) == 0
    fit = zoo.load(tmp_path / "run")
    prior = fit.model.prior("c").base_dist
    assert isinstance(prior, dist.StudentT)
    assert (float(prior.df[0]), float(prior.scale[0]), prior.batch_shape) == (4.0, 0.5, (2,))
    assert fit.guide_name == "AutoMultivariateNormal"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--prior", "c"], "'c' is not of the form NAME=VALUE"),
        (["--prior", "c=StudentT"], "write it like StudentT(4, 0, 1)"),
        (["--prior", "c=__import__('os').getcwd()"], "write it like StudentT(4, 0, 1)"),
        (["--prior", "c=Norml(0, 1)"], "'Norml' is not a distribution"),
        (["--prior", "c=Normal(0, -1)"], "prior Normal"),
        (["--prior", "d=Normal(0, 1)"], "unknown prior site(s) ['d']; this model has ['c', 'z']"),
        (["--prior", "c=Gamma(1, 1)"], "prior of 'c': support"),
        (["--prior", "c=Normal(0, 1)", "--prior", "c=Normal(0, 2)"], "--prior: 'c' is given twice"),
        (["--set", "c_dim=four"], "--set c_dim=four: 'four' is not a number"),
        (["--set", "cdim=4"], "SSMTL has no argument 'cdim'; its arguments are ['x_dim'"),
        (["--set", "width=-8"], "width: -8; at least 1 is needed"),
        (["--steps", "0"], "not a whole number of at least 1"),
        (["--lr", "fast"], "invalid float value"),
        (["--guide", "papr"], "'papr' is no guide of 'ssmtl'"),
        (["--guide", "AutoNorml"], "'AutoNorml' is no guide of 'ssmtl'"),
        (["--variant", "stl"], "'stl' is no variant of 'ssmtl'"),
        (["--resume"], "--resume needs --checkpoint DIR"),
        (["--x", "p,"], "empty column name"),
        (["--x", "p"], "'p' is used or present twice"),
        (["--stesp", "4"], "unrecognized arguments: --stesp 4"),
        (["--import", "no_such_module"], "--import no_such_module: there is no such module"),
    ],
)
def test_bad_usage_of_fit(csv, tmp_path, fail, given, message):
    assert message in fail("fit", "ssmtl", *columns(csv, "--out", tmp_path / "run", *given))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["show", "nothing"], "no model 'nothing'; there are ["),
        (["fit", "ssmtl", "--data", "x.csv"], "arguments are required: --out (see `pyrozoo fit --help`)"),
        (["fit", "ssmtl", "--data", "x.csv", "--out", "r"], "there is no such file, and 'ssmtl' has no data set"),
        (["fit", "ssmtl", "--data", __file__, "--out", "r"], "is a table: name its columns by --unit COL and --x COL"),
        (["reproduce", "ssmtl", "nothing"], "'nothing' is no experiment of 'ssmtl'"),
        (["reproduce", "ssmtl", "table1", "--jobs", "-1"], "'-1' is not a whole number of at least 1"),
        (["reproduce", "ssmtl", "table1", "--jobs", "2", "--cluster", "tcp://a:1"], "--cluster: not allowed with"),
        (["reproduce", "m3sense", "table6", "--jobs", "2"], "jobs: 'table6' of 'm3sense' takes none; leave it out"),
        (["reproduce", "ssmtl", "reference", "--seeds", "2"], "seeds: 'reference' of 'ssmtl' takes none"),
        (["reproduce", "m3sense", "table6", "--cluster", "tcp://a:1"], "--cluster: 'table6' of 'm3sense' runs no jobs"),
        (["reproduce", "ssmtl", "table1", "--cluster", "nowhere"], "no dask scheduler answers at 'nowhere'"),
    ],
)
def test_bad_usage(fail, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fail(*arguments)


# -------------------------------------------------------------------- tables
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"well,u 1,p,flow\n", "no rows"),
        (b"well,u 1,flow\na,1,2\n", "column 'p' is not in the header; its columns are ['well', 'u 1', 'flow']"),
        (b"well,u 1,p,p,flow\na,1,2,3,4\n", "column 'p' appears twice in the header"),
        (b"well,u 1,p,flow\n\xff\xfe,1,2,3\n", "no UTF-8 text"),
        (b"well,u 1,p,flow\na,1,5,2,5,3\n", "equally many columns in every row (line 2 has 6 cells and the header 4 "),
        (b"well,u 1,p,flow\na,1,2,3\nb,1,5,2,5\n", "in every row (line 3 has 5 cells and the header 4 where ',' separ"),
        (b"well,u 1,p,flow\na,1,2,3\nb,inf,2,3\n", "column 'u 1', row 1: inf is not finite"),
        (b"well,u 1,p,flow\na,1,2,3\n ,1,2,3\n", "column 'well', row 1: the unit is missing"),
        (
            b"well,u 1,p,flow\na,1,2,3\nb,one,2,3\n",
            "column 'u 1' holds str values, first at row 1 with 'one'",
        ),
        (b"well,u 1,p,flow\na,1,2,inf\nb,1,2,3\n", "column 'flow', row 0: inf is not finite"),
    ],
)
def test_bad_tables(tmp_path, fail, content, message):
    file = tmp_path / "d.csv"
    file.write_bytes(content)
    line = fail("fit", "ssmtl", *columns(file, "--out", tmp_path / "run"))
    assert message in line
    assert str(file) in line


def test_a_folder_is_no_table(tmp_path, fail):
    assert f"{tmp_path}: " in fail("fit", "ssmtl", *columns(tmp_path, "--out", tmp_path / "run"))


def test_a_table_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "d.csv"
    table().to_csv(file, index=False, encoding="utf-8-sig")
    assert main(["fit", "ssmtl", *columns(file, *QUICK, "--out", str(tmp_path / "run"))]) == 0


# -------------------------------------------------------------------- interruption and errors
def interrupt_at(monkeypatch, epoch):
    steps = itertools.count(1)
    real = training.Training._one_epoch

    def one_epoch(self):
        if next(steps) == epoch:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(training.Training, "_one_epoch", one_epoch)


def test_ssmtl_is_cross_fitted_and_its_times_come_back(tmp_path, monkeypatch, capsys):
    frame = table(units=("a", "b"), rows=12)
    frame["day"] = [f"2024-05-{1 + i % 12:02d}" for i in range(24)]
    frame.to_csv(tmp_path / "wells.csv", index=False)
    monkeypatch.chdir(tmp_path)
    quick = ["--steps", "2", "--restarts", "2", "--set", "width=4", "--set", "depth=1", "--held-out", "block"]
    given = [*columns("wells.csv"), *quick, "--time", "day", "--checkpoint", "fits", "--out", "run"]
    assert main(["fit", "ssmtl", *given]) == 0
    assert "intervals corrected on 12 labels" in capsys.readouterr().out
    fit = zoo.load("run")
    assert (len(fit.runs), fit.law.facts["by"], len(list((tmp_path / "fits" / "jobs").iterdir()))) == (2, "block", 12)
    assert main(["predict", "run", "--data", "wells.csv", "--out", "p.csv"]) == 0
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["day"].tolist() == frame["day"].tolist()
    assert "y.q95" in found
    capsys.readouterr()
    assert main(["fit", "ssmtl", *given[:-1], "again"]) == 2
    assert "fits holds a checkpoint; add --resume" in capsys.readouterr().err


def test_a_cross_fit_says_what_it_lacks(tmp_path, fail):
    frame = table(units=("a", "b"), rows=4).assign(day="soon")
    frame.to_csv(tmp_path / "few.csv", index=False)
    given = columns(tmp_path / "few.csv", "--steps", "1", "--out", tmp_path / "run")
    assert "fit with --no-cross-fit" in fail("fit", "ssmtl", *given)
    assert "--held-out and --jobs belong to a cross-fit" in fail(
        "fit", "ssmtl", *given, "--no-cross-fit", "--jobs", "2"
    )
    assert "row 0: 'soon' is no time; write numbers, or dates" in fail("fit", "ssmtl", *given, "--time", "day")
    for kind in ("last", "block"):  # which the order of lines does not tell
        message = fail("fit", "ssmtl", *given, "--held-out", kind)
        assert f"--held-out {kind}: name the column of the rows' time by --time COL" in message


def test_a_fit_without_a_target_names_the_option_for_it(tmp_path, capsys):
    table(units=("a", "b"), rows=6).to_csv(tmp_path / "wells.csv", index=False)
    given = columns(tmp_path / "wells.csv", "--out", str(tmp_path / "run"), *QUICK)
    place = given.index("--y")
    assert main(["fit", "ssmtl", *given[:place], *given[place + 2 :]]) == 0
    assert "rest on no label; --y COL names the column of a target" in capsys.readouterr().out


def test_arguments_that_a_model_has_are_listed_once(csv, tmp_path, fail):
    message = fail("fit", "ssmtl", *columns(csv, "--out", tmp_path / "run", "--set", "cdim=4"))
    assert message.count("its arguments are") == 1
    assert message.count("'c_dim'") == 1


def test_a_fit_without_any_label_says_so(tmp_path, capsys):
    table().assign(flow="").to_csv(tmp_path / "wells.csv", index=False)
    given = [*QUICK[1:], "--out", str(tmp_path / "run")]
    assert main(["fit", "ssmtl", *columns(tmp_path / "wells.csv", *given)]) == 0
    assert "one plain fit, not cross-fitted: no row has a label of flow" in capsys.readouterr().out


def test_an_interrupted_fit_resumes_from_its_checkpoint(csv, run, tmp_path, monkeypatch, capsys):
    out, folder = tmp_path / "run", tmp_path / "checkpoint"
    arguments = ["fit", "ssmtl", *columns(csv, *QUICK, "--checkpoint", str(folder), "--out", str(out))]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        assert main(arguments) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"pyrozoo: interrupted; run the same command with --resume to go on from {folder}"
    assert not out.exists()
    assert main([*arguments, "--resume"]) == 0
    assert list(zoo.load(out).history["elbo"]) == list(zoo.load(run).history["elbo"])


def test_a_terminated_command_ends_as_an_interrupted_one(csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.Training, "_one_epoch", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["fit", "ssmtl", *columns(csv, *QUICK, "--out", str(tmp_path / "run"))]) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "pyrozoo: terminated; nothing was saved: no epoch was finished"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupted_fit_without_checkpoint_is_saved(csv, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 8)
    assert main(["fit", "ssmtl", *columns(csv, *QUICK, "--out", str(tmp_path / "run"))]) == 130
    assert "saved the fit so far" in capsys.readouterr().err.splitlines()[-1]
    fit = zoo.load(tmp_path / "run")
    assert (fit.status, len(fit.history)) == ("interrupted", 7)


def test_a_fit_interrupted_at_once_leaves_nothing(csv, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 1)
    assert main(["fit", "ssmtl", *columns(csv, *QUICK, "--out", str(tmp_path / "run"))]) == 130
    assert "nothing was saved" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite(csv, tmp_path, fail):
    line = fail("fit", "ssmtl", *columns(csv, *QUICK, "--lr", "1e9", "--out", tmp_path / "run"))
    assert line.startswith("training stopped at step ")
    assert "try a smaller --lr" in line
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(capsys):
    assert main(["show", "nothing", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(entry, fail, capsys):
    def broken(out, profile="quick"):
        raise AssertionError("a bug")

    entry(EXPERIMENTS={"table1": broken})
    assert fail("reproduce", "stub", "table1").startswith("AssertionError, which no input should cause: a bug; --debug")
    assert main(["reproduce", "stub", "table1", "--debug"]) == 2
    assert 'raise AssertionError("a bug")' in capsys.readouterr().err


# -------------------------------------------------------------------- reproduce and check
def test_reproduce_calls_the_experiment(entry, tmp_path, capsys, monkeypatch):
    calls = []

    def experiment(out, profile="quick", seeds=None, jobs=1):
        calls.append({"profile": profile, "seeds": seeds, "jobs": jobs, "out": out})
        return Outcome(
            [{"model": "stub"}], {"name": "none", "sha256": "0" * 64, "simulated": True}, [0], text="a table"
        )

    entry(EXPERIMENTS={"table1": experiment})
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "stub", "table1", "--profile", "smoke", "--seeds", "3", "--jobs", "2", "--out", "d"]) == 0
    assert main(["reproduce", "stub", "table1"]) == 0
    assert calls == [
        {"profile": "smoke", "seeds": 3, "jobs": 2, "out": Path("d")},
        {"profile": "quick", "seeds": None, "jobs": 1, "out": Path("results/stub-table1")},
    ]
    lines = ["a table", "d/record.json (0 s)", "a table", "results/stub-table1/record.json (0 s)"]
    assert capsys.readouterr().out.splitlines() == lines


def test_an_interrupted_reproduction_says_how_to_go_on(entry, capsys):
    def interrupted(out, profile="quick"):
        raise KeyboardInterrupt

    entry(EXPERIMENTS={"table1": interrupted})
    assert main(["reproduce", "stub", "table1"]) == 130
    assert "run the same command again: finished jobs" in capsys.readouterr().err


@pytest.fixture
def contract(entry, monkeypatch):
    """Puts a stand-in for the contract in its place, with the given function `check`."""

    def put(check):
        module = ModuleType("pyrozoo.contract")
        module.check = check
        monkeypatch.setattr(zoo, "contract", module)  # first: it reads the true module, to put that back
        monkeypatch.setitem(sys.modules, "pyrozoo.contract", module)
        entry()

    return put


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_check_prints_a_line_per_result(contract, capsys, ok, code):
    def check(name, **options):
        assert (name, options) == ("stub", {"slow": True, "only": None, "fast": False, "stop": False})
        common = {"message": "", "seconds": 0.25, "ok": True, "skipped": False}
        yield SimpleNamespace(**{**common, "code": "C1", "subject": "stub"})
        yield SimpleNamespace(**{**common, "code": "C4", "subject": "a x b", "ok": ok, "message": "no\ngradient"})
        yield SimpleNamespace(**{**common, "code": "C14", "subject": "stub", "ok": False, "skipped": True})

    contract(check)
    assert main(["check", "stub", "--slow"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "passed   C1   stub (0.2 s)"
    assert lines[1] == f"{'passed' if ok else 'failed'}   C4   a x b (0.2 s): no gradient"
    assert lines[2] == "skipped  C14  stub (0.2 s)"
    assert lines[3] == ("2 passed, 0 failed, 1 skipped" if ok else "1 passed, 1 failed, 1 skipped")


def test_check_merges_equal_messages_of_a_clause_and_shows_a_warning_once(contract, capsys):
    def check(name, **options):
        assert options == {"slow": False, "only": ["C3", "C4"], "fast": True, "stop": True}
        for code, ok, subject, message in [
            ("C3", False, "a", "no scale"), ("C3", True, "b", ""), ("C3", False, "c", "no scale"),
            ("C3", False, "d", "other"), ("C3", False, "e", "no scale"), ("C3", False, "f", "no scale"),
            ("C4", False, "a", "no scale"),
        ]:  # fmt: skip
            with warnings.catch_warnings():  # as Pyro does, after which Python would show the warning anew
                warnings.simplefilter("always")
                warnings.warn("found vars in model", UserWarning, stacklevel=1)
            yield SimpleNamespace(code=code, subject=subject, ok=ok, skipped=False, message=message, seconds=0.5)

    contract(check)
    with pytest.warns(UserWarning, match="found vars in model") as shown:
        assert main(["check", "stub", "--only", "c3, C4", "--fast", "--stop"]) == 1
    assert len(shown) == 1
    assert capsys.readouterr().out.splitlines() == [
        "passed   C3   b (0.5 s)",
        "failed   C3   4 subjects: a; c; e; and 1 more (2.0 s): no scale",
        "failed   C3   d (0.5 s): other",
        "failed   C4   a (0.5 s): no scale",
        "1 passed, 6 failed, 0 skipped",
    ]


def test_check_prints_what_it_found_before_an_interruption(contract, capsys):
    def check(name, **options):
        yield SimpleNamespace(code="C3", subject="a", ok=False, skipped=False, message="no scale", seconds=0.5)
        raise KeyboardInterrupt

    contract(check)
    assert main(["check", "stub"]) == 130
    assert capsys.readouterr().out.splitlines() == ["failed   C3   a (0.5 s): no scale"]


def test_check_of_a_clause_that_does_not_exist(fail):
    assert "only: there is no check 'C99'; the checks are C1, C2, " in fail("check", "ssmtl", "--only", "C2,C99")
    assert "only: no check is named; the checks are C1" in fail("check", "ssmtl", "--only", ",")


def test_an_imported_module_registers_its_entries(tmp_path):
    (tmp_path / "my_zoo.py").write_text(
        "from dataclasses import replace\nfrom types import SimpleNamespace\n"
        "from pyrozoo import card, register\n"
        "register(replace(card('ssmtl'), name='mine', title='My own paper'), SimpleNamespace())\n"
    )
    for command in (["list"], ["show", "mine"]):
        done = python("-m", "pyrozoo", *command, "--import", "my_zoo", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "My own paper" in done.stdout


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package with four entry points; one works, others register nothing, raise or register another name."""
    works = (
        "from dataclasses import replace\nfrom types import SimpleNamespace\nfrom pyrozoo import card, register\n"
        "register(replace(card('ssmtl'), name='a-works', title='A paper'), SimpleNamespace())\n"
    )
    other = works.replace("a-works", "another")
    modules = {"a-works": works, "b-silent": "", "c-raises": "1 / 0", "d-renamed": other}
    points = []
    for name, text in modules.items():
        module = f"zoo_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(text)
        points.append(f"{name} = {module}")
    info = tmp_path / "their_zoo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[pyrozoo.models]", *points, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for point in points:
        sys.modules.pop(point.split(" = ")[1], None)
    for name in ("a-works", "another"):
        if name in _entries:
            zoo.unregister(name)


def test_list_names_the_entry_points_that_do_not_work(installed, capsys):
    assert main(["list"]) == 2
    captured = capsys.readouterr()
    assert "a-works: A paper" in captured.out
    assert "ssmtl: " in captured.out
    silent = (
        "pyrozoo: error: entry point '{}' of the group pyrozoo.models ({}) loads, but registers no entry '{}'; "
        "call pyrozoo.register(CARD, ...) in that module, with a card of that name"
    )
    assert captured.err.splitlines() == [
        silent.format("b-silent", "zoo_b_silent", "b-silent"),
        "pyrozoo: error: entry point 'c-raises' of the group pyrozoo.models (zoo_c_raises) cannot be loaded: "
        "ZeroDivisionError: division by zero",
        silent.format("d-renamed", "zoo_d_renamed", "d-renamed"),
    ]


def test_an_entry_is_found_beside_entry_points_that_do_not_work(installed, fail):
    assert zoo.card("a-works").title == "A paper"
    assert zoo.card("another").title == "A paper"
    with pytest.raises(KeyError, match="division by zero") as raised:
        zoo.card("c-raises")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    message = fail("show", "d-nothing")
    assert "no model 'd-nothing'; there are ['a-works', 'another', 'auxvae'" in message
    assert "(zoo_b_silent) loads, but registers no entry" in message
    assert "ZeroDivisionError: division by zero" in message


def test_a_tuned_preset_fits(tmp_path, monkeypatch, capsys, fail):
    table(units=("a", "b"), rows=12).to_csv(tmp_path / "wells.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyrozoo.models.ssmtl.entry.SPACE", {"width": (4, 8)})
    quick = [*columns("wells.csv"), "--steps", "2", "--set", "depth=1"]
    assert main(["tune", "ssmtl", *quick, "--out", "small.json"]) == 0
    assert "fit with: pyrozoo fit ssmtl ... --preset small.json" in capsys.readouterr().out
    chosen = zoo.read_preset("small.json")
    given = [*columns("wells.csv"), "--no-cross-fit", "--preset", "small.json"]
    assert main(["fit", "ssmtl", *given, "--out", "run"]) == 0
    fit = zoo.load("run")
    assert (fit.model.width, fit.model.depth, fit.settings["steps"]) == (chosen.arguments["width"], 1, 2)
    assert main(["fit", "ssmtl", *given, "--set", "width=5", "--steps", "1", "--out", "own"]) == 0
    assert (zoo.load("own").model.width, zoo.load("own").settings["steps"]) == (5, 1)
    assert "has no space to search" in fail("tune", "medication", "--data", "x.csv", "--out", "y.json")


def test_metrics_of_each_unit(csv, run, tmp_path, fail):
    out = tmp_path / "units.csv"
    given = ["metrics", str(run), "--data", str(csv), "--draws", "20"]
    assert main([*given, "--by", "unit", "--out", str(out)]) == 0
    found = pd.read_csv(out, dtype={"unit": str}, keep_default_na=False).set_index("unit")
    assert list(found.index) == list(UNITS)
    assert (found["y.rows"] == 5).all()
    fit = zoo.load(run)
    data = fit.batch(pd.read_csv(csv, dtype={"well": str}, keep_default_na=False, na_values={"flow": [""]}))
    whole = zoo.metrics(fit, data, draws=20)
    assert np.sqrt((found["y.rmse"] ** 2).mean()) == pytest.approx(whole["y.rmse"], rel=1e-4)
    assert found["y.nll"].mean() == pytest.approx(whole["y.nll"], rel=1e-4)
    seen = data.observed("y")
    truth, mean = data["y"][seen, 0].numpy(), zoo.predict(fit, data, draws=20)["y.mean"].to_numpy()[seen]
    own = data.group_names("unit")[seen] == "08"
    assert found.loc["08", "y.r2"] == pytest.approx(zoo.scores.r2(truth[own], mean[own]), rel=1e-4)
    assert whole["y.mape"] == pytest.approx(zoo.scores.mape(truth, mean), rel=1e-4)
    assert "by: 'well' is no group of the test data, which have ['unit']" in fail(*given, "--by", "well")


# -------------------------------------------------------------------- calibrate
def test_new_units_are_calibrated_and_then_predicted(run, tmp_path, capsys, fail):
    new = table(units=("9", "10"), rows=6, seed=1)
    new.to_csv(tmp_path / "new.csv", index=False)
    given = ["--data", str(tmp_path / "new.csv")]
    message = fail("predict", run, *given, "--out", tmp_path / "p.csv")
    assert "unknown unit(s) ['9', '10']" in message
    assert "or adapt the fit to them (pyrozoo calibrate RUN)" in message
    out = tmp_path / "new units"
    assert main(["calibrate", str(run), *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"2 units in {out}: 9, 10" in said
    assert "pyrozoo predict" in said
    fit = zoo.load(out)
    assert fit.data["name"] == "new.csv"
    assert fit.settings["mode"] == "semi-supervised"
    expected = calibrate(zoo.load(run), zoo.load(run).batch(new), progress=False)
    pd.testing.assert_series_equal(
        zoo.predict(fit, new, draws=9)["y.mean"], zoo.predict(expected, new, draws=9)["y.mean"]
    )
    assert main(["predict", str(out), *given, "--out", str(tmp_path / "p.csv")]) == 0
    written = pd.read_csv(tmp_path / "p.csv", dtype={"well": str})
    assert written["well"].tolist() == new["well"].tolist()
    assert np.isfinite(written["y.mean"]).all()
    assert main(["metrics", str(out), *given, "--by", "unit", "--draws", "5"]) == 0
    assert "exists; choose another folder" in fail("calibrate", run, *given, "--out", out)


def test_calibrate_refuses_units_without_rows_to_learn_from_and_runs_of_other_entries(run, tmp_path, fail):
    new = table(units=("9", "10"), rows=4, seed=1)
    new.loc[new["well"] == "10", "flow"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False)
    given = ["--data", tmp_path / "new.csv", "--out", tmp_path / "out"]
    message = fail("calibrate", run, *given, "--mode", "supervised")
    assert "new.csv" in message
    assert "unit 10: it has no labelled row" in message
    reference = Path(zoo.__file__).parent / "models/auxvae/reference"
    other = next(reference.glob("*/run.json")).parent
    assert "is a run of auxvae, which calibrates no new units" in fail("calibrate", other, *given)
    assert not (tmp_path / "out").exists()
