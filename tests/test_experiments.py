"""The runner of experiments: references, options, several records; and what stays free of heavy imports."""

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import pyrozoo as zoo
from pyrozoo.experiments import running as experiments
from pyrozoo.experiments.record import read_record
from pyrozoo.experiments.running import Outcome, function_of, run
from pyrozoo.modeling import registry
from pyrozoo.modeling.registry import BUILT_IN

DATA = {"name": "none", "sha256": "0" * 64, "simulated": True}
HEAVY = {"matplotlib", "sklearn", "scipy.stats"}
ALL = [(name, experiment) for name in BUILT_IN for experiment in zoo.card(name).experiments]


@pytest.fixture
def stub():
    """Registers the entry "stub" with one experiment, "one"."""

    def register(function):
        parts = SimpleNamespace(EXPERIMENTS={"one": function})
        zoo.register(replace(zoo.card("ssmtl"), name="stub", version="7"), parts)

    yield register
    zoo.unregister("stub")


def plain(out, profile="quick"):
    return Outcome([{"model": "a", "score": 1.0}], DATA, [3], {"note": profile}, "the table")


# -------------------------------------------------------------------- references
@pytest.mark.parametrize(("name", "experiment"), ALL)
def test_every_reference_is_a_function_with_a_profile_and_known_options(name, experiment):
    function = function_of(name, experiment)
    assert inspect.isfunction(function)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["out", "profile"]
    assert parameters["profile"].default in experiments.PROFILES
    assert set(list(parameters)[2:]) <= {"seeds", "jobs", "data", "split", "folds", "people", "repeats"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_experiments_of_the_card_are_those_of_the_entry(name):
    found = registry.entry(name).parts.EXPERIMENTS
    assert list(found) == list(zoo.card(name).experiments)
    assert all(isinstance(reference, str) for reference in found.values())


# -------------------------------------------------------------------- the runner
def test_an_outcome_becomes_a_record_and_a_printed_table(stub, tmp_path, capsys):
    stub(plain)
    record = run("stub", "one", out=tmp_path)
    assert record == read_record(tmp_path)
    assert (record["model"], record["experiment"], record["profile"]) == ("stub@7", "one", "quick")
    assert (record["data"], record["seeds"], record["extra"]) == (DATA, [3], {"note": "quick"})
    assert [row["score"] for row in record["rows"]] == [1.0]
    assert capsys.readouterr().out == f"the table\n{tmp_path / 'record.json'} (0 s)\n"


def test_several_outcomes_become_records_by_subfolder(stub, tmp_path):
    stub(lambda out, profile="smoke": {"": plain(out, "real"), "simulated": plain(out, profile)})
    records = run("stub", "one", out=tmp_path)
    assert records == {"": read_record(tmp_path), "simulated": read_record(tmp_path / "simulated")}
    assert {name: record["extra"]["note"] for name, record in records.items()} == {"": "real", "simulated": "smoke"}


def test_the_folder_has_the_names_of_entry_and_experiment(stub, tmp_path, monkeypatch):
    stub(plain)
    monkeypatch.chdir(tmp_path)
    run("stub", "one")
    assert read_record(tmp_path / "results" / "stub-one")["experiment"] == "one"


@pytest.mark.parametrize("option", ["seeds", "jobs", "data"])
def test_an_option_that_is_not_taken_is_refused_and_one_that_is_reaches_the_experiment(stub, tmp_path, option):
    given = []
    takes = {
        "seeds": lambda out, profile="quick", seeds=None: given.append(seeds) or plain(out),
        "jobs": lambda out, profile="quick", jobs=1: given.append(jobs) or plain(out),
        "data": lambda out, profile="quick", data=None: given.append(data) or plain(out),
    }
    stub(takes[option])
    run("stub", "one", out=tmp_path, **{option: 2})
    assert given == [2]
    others = {name: 2 for name in takes if name != option}
    with pytest.raises(ValueError, match=f"^{', '.join(others)}: 'one' of 'stub' takes none; leave it out"):
        run("stub", "one", out=tmp_path / "other", **others)
    assert given == [2]
    assert not (tmp_path / "other").exists()


IGNORED = [(name, "reference", "seeds") for name in BUILT_IN]
IGNORED += [(name, "reference", "jobs") for name in ("auxvae", "m3sense", "medication")]
IGNORED += [("m3sense", table, option) for table in ("table6", "table7") for option in ("seeds", "jobs")]
IGNORED += [("medication", "implied-durations", option) for option in ("seeds", "jobs")]


@pytest.mark.parametrize(("name", "experiment", "option"), IGNORED)
def test_experiments_without_seeds_or_jobs_say_so(name, experiment, option, tmp_path):
    with pytest.raises(ValueError, match=f"{option}: '{experiment}' of '{name}' takes none"):
        run(name, experiment, out=tmp_path, **{option: 2})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_profile_or_experiment_is_refused(stub, tmp_path):
    stub(plain)
    with pytest.raises(ValueError, match=r"profile: 'huge' is none of \['smoke', 'quick', 'paper'\]"):
        run("stub", "one", profile="huge", out=tmp_path)
    with pytest.raises(KeyError, match=r"'two' is no experiment of 'stub'; there are \['one'\]"):
        run("stub", "two", out=tmp_path)


# -------------------------------------------------------------------- imports
def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_entries_are_imported_without_plots_scikit_learn_and_experiments():
    code = f"""
import importlib, sys
for name in {BUILT_IN}:
    importlib.import_module(f"pyrozoo.models.{{name}}.entry")
    print(name, sorted(m for m in sys.modules if m in {HEAVY} or m.startswith("pyrozoo.") and ".experiments" in m))
"""
    assert python(code) == [f"{name} []" for name in BUILT_IN]


def test_fit_and_predict_start_without_plots_scikit_learn_and_compilers(tmp_path):
    code = f"""
import sys
from pathlib import Path
from pyrozoo.cli import main
table, run, predictions = (str(Path(sys.argv[1]) / name) for name in ("table.csv", "run", "predictions.csv"))
lines = ["unit,x,y"] + [f"{{i % 3}},{{i / 7}},{{i % 5}}" for i in range(30)]
Path(table).write_text("\\n".join(lines))
names = ["--unit", "unit", "--x", "x", "--y", "y", "--set", "width=8", "--set", "depth=1"]
assert main(["fit", "ssmtl", "--data", table, *names, "--steps", "3", "--no-cross-fit", "--out", run]) == 0
assert main(["predict", run, "--data", table, "--out", predictions]) == 0
print(sorted(({HEAVY} | {{"torch._dynamo", "sympy", "scipy.special", "numba"}}) & set(sys.modules)))
import pyrozoo as zoo
from pyrozoo.modeling import registry
for name in ("auxvae", "m3sense"):  # with optimisers of their own
    data = registry.entry(name).parts.tiny(0)[0]
    zoo.fit(zoo.create_model(name, data), "paper", data, steps=2, progress=False)
print(sorted({{"torch._dynamo", "sympy"}} & set(sys.modules)))
"""
    assert python(code, str(tmp_path))[-2:] == ["[]", "[]"]
