"""The ArviZ object of the installed version, and the same checks under the other one in a process of its own."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyrozoo.posterior import drawing
from pyrozoo.posterior import export as bridge
from pyrozoo.posterior.draws import Draws

PACKAGE = Path(bridge.__file__).parents[2]
OTHER_PYTHON = os.environ.get("PYROZOO_ARVIZ1_PYTHON")


def make_draws(chains: int = 2, n_draws: int = 60) -> Draws:
    """Draws whose mean tells where they belong, in variables that order their axes differently."""
    rng = np.random.default_rng(0)
    lead = (chains, n_draws)
    unit, feature = np.arange(2.0), np.arange(3.0)

    def around(center):
        return center + 0.01 * rng.normal(size=(*lead, *np.shape(center)))

    y = rng.normal(size=(4, 2))
    y[1] = np.nan
    log_likelihood = rng.normal(size=(*lead, 4))
    log_likelihood[..., 1] = np.nan
    return Draws(
        groups={
            "posterior": {
                "mu": around(feature),
                "c": around(10 * unit[:, None] + feature),
                "w": around(10 * unit + feature[:, None]),
                "sigma": around(5.0),
            },
            "posterior_predictive": {"y": rng.normal(size=(*lead, 4, 2)).astype(np.float32)},
            "log_likelihood": {"y": log_likelihood},
            "sample_stats": {"lp": rng.normal(size=lead)},
            "observed_data": {"y": y},
            "constant_data": {"k": np.array([2, 0, 1, 1])},
            "prior": {},
        },
        dims={
            "mu": ("feature",),
            "c": ("unit", "feature"),
            "w": ("feature", "unit"),
            "y": ("row", "out"),
            "k": ("row",),
        },
        coords={"unit": np.array(["Ofen 1", "Öfen 2"], dtype=object), "row": pd.Index([10, 20, 30, 40])},
        attrs={"model": "toy", "seed": 3, "learning_rate": 0.5, "converged": True, "priors": {"c": "Normal"}},
    )


def assert_same(idata, draws: Draws) -> None:
    """Checks groups, axes, labels and values of an ArviZ object of either version; runs in both processes."""
    groups = {"posterior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data", "constant_data"}
    found = idata.groups() if callable(idata.groups) else idata.children
    assert set(found) == groups
    for group in groups:
        for name, array in draws.groups[group].items():
            variable = idata[group][name]
            assert variable.dims == draws.axes(group, name), (group, name)
            assert variable.dtype == array.dtype
            np.testing.assert_array_equal(variable.values, array)
    assert list(idata["posterior"]["unit"].values) == ["Ofen 1", "Öfen 2"]
    assert list(idata["posterior"]["feature"].values) == [0, 1, 2]
    assert list(idata["log_likelihood"]["row"].values) == [10, 20, 30, 40]
    assert list(idata["posterior"]["draw"].values) == list(range(draws.groups["posterior"]["mu"].shape[1]))
    expected = {"inference_library": "pyro", "model": "toy", "seed": 3, "learning_rate": 0.5, "converged": "true"}
    assert {name: idata["posterior"].attrs[name] for name in expected} == expected


def assert_labelled_rightly(table) -> None:
    """Checks that each row of a summary holds the value its label names; runs in both processes."""
    for feature in range(3):
        assert abs(table.loc[f"mu[{feature}]", "mean"] - feature) < 0.1
        for unit, name in enumerate(["Ofen 1", "Öfen 2"]):
            assert abs(table.loc[f"c[{name}, {feature}]", "mean"] - (10 * unit + feature)) < 0.1
            assert abs(table.loc[f"w[{feature}, {name}]", "mean"] - (10 * unit + feature)) < 0.1
    assert abs(table.loc["sigma", "mean"] - 5) < 0.1


def test_object_has_the_groups_axes_labels_and_values_of_the_draws():
    draws = make_draws()
    idata = bridge.from_draws(draws, observed_only=False)
    assert type(idata).__name__ == ("InferenceData" if bridge._arviz_major() < 1 else "DataTree")
    assert_same(idata, draws)


def test_netcdf_round_trip_and_arviz_reads_it(tmp_path):
    draws, path = make_draws(), tmp_path / "posterior.nc"
    bridge.save_netcdf(bridge.from_draws(draws, observed_only=False), path)
    assert_same(bridge.load_netcdf(path), draws)
    np.testing.assert_array_equal(bridge._arviz().from_netcdf(path)["posterior"]["c"], draws.groups["posterior"]["c"])
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]
    bridge.save_netcdf(bridge.from_draws(draws, observed_only=False), path)  # what was loaded holds no lock on the file


def test_failed_write_keeps_the_old_file(tmp_path):
    for path, write in [
        (tmp_path / "draws.npz", lambda path: Draws({"posterior": {"c": np.zeros((1, 2, 3))}}).save(path)),
        (tmp_path / "posterior.nc", lambda path: bridge.save_netcdf(FailingTree(), path)),
    ]:
        path.write_bytes(b"old")
        with pytest.raises((ValueError, OSError)):
            write(path)
        assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_the_disk_cannot_take_is_refused_before_it_is_written(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=r"posterior.nc cannot be written: it takes \d+ bytes, and the disk has 1048576"):
        bridge.save_netcdf(bridge.from_draws(make_draws()), tmp_path / "posterior.nc")
    assert not list(tmp_path.iterdir())


class FailingTree:
    """Stands for a disk that fills up in the middle of writing."""

    nbytes = 0

    def to_datatree(self):
        return self

    def to_netcdf(self, path, engine):
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full")


def test_draws_file_round_trip(tmp_path):
    draws, path = make_draws(), tmp_path / "draws.npz"
    draws.save(path)
    loaded = Draws.load(path)
    assert_same(bridge.from_draws(loaded, observed_only=False), draws)
    assert loaded.dims == draws.dims
    assert loaded.attrs["priors"] == '{"c": "Normal"}'
    with np.load(path, allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind in "iufU" for name in stored.files)


class Trap:
    def __reduce__(self):
        return (print, ("code of the file was run",))


def bad_files(folder: Path) -> dict[str, Path]:
    make_draws().save(folder / "good.npz")
    good = (folder / "good.npz").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 1
    content = {
        "half": good[: len(good) // 2],
        "almost": good[:-5],
        "flipped": bytes(flipped),
        "empty": b"",
        "text": b"x,y\n",
    }
    content["pickle"] = pickle.dumps(Trap())
    for name, data in content.items():
        (folder / f"{name}.npz").write_bytes(data)
    np.savez(folder / "foreign.npz", x=np.ones(3))
    np.savez(folder / "objects.npz", header=np.array([Trap()], dtype=object))
    np.savez(folder / "version.npz", header=np.array('{"format": "pyrozoo.draws/99"}'))
    np.save(folder / "array.npy", np.ones(3))
    return {path.stem: path for path in folder.iterdir() if path.stem != "good"}


@pytest.mark.parametrize(
    "kind", ["half", "almost", "flipped", "empty", "text", "pickle", "foreign", "objects", "version", "array"]
)
def test_damaged_or_foreign_draws_file_is_refused_and_never_run(kind, tmp_path, capsys):
    path = bad_files(tmp_path)[kind]
    with pytest.raises(ValueError, match=rf"{path.name}: .*(Draws.save|array 'header' is missing)"):
        Draws.load(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["half", "empty", "text"])
def test_damaged_or_foreign_netcdf_is_refused(kind, tmp_path):
    path = tmp_path / "posterior.nc"
    bridge.save_netcdf(bridge.from_draws(make_draws()), path)
    good = path.read_bytes()
    path.write_bytes({"half": good[: len(good) // 2], "empty": b"", "text": b"x,y\n"}[kind])
    with pytest.raises(ValueError, match=r"posterior\.nc is not a complete netCDF file"):
        bridge.load_netcdf(path)


def test_a_heap_without_an_end_is_refused_before_hdf5_searches_it_for_ever(tmp_path):
    path = tmp_path / "posterior.nc"
    bridge.save_netcdf(bridge.from_draws(make_draws()), path)
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)  # index 0 and length 0: free space of no bytes
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"posterior\.nc is not a complete netCDF file .*the heap at byte .* not end"):
        bridge.load_netcdf(path)


def test_missing_file_is_a_missing_file(tmp_path):
    for read in (Draws.load, bridge.load_netcdf):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


C = np.zeros((1, 5, 2, 3))


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (Draws({"posterior": {"c": C}}), r"posterior/c has shape \(1, 5, 2, 3\).*give dims\['c'\] one name per axis"),
        (Draws({"posterior": {"c": C}}, {"c": ("unit",)}), "4 axes, but 3 names"),
        (Draws({"posterior": {"c": C[0, 0, 0, 0]}}), "0 axes, but 2 names"),
        (Draws({"observed_data": {"y": np.zeros(4)}}), r"observed_data/y .* one name per axis$"),
        (Draws({"log_likelihood": {"y": C}}, {"y": ("row",)}), "log_likelihood/y"),
        (Draws({"posterior": {"c": C}}, {"c": ("unit", "unit")}), "'unit' is named twice"),
        (Draws({"posterior": {"c": C}}, {"c": ("draw", "feature")}), "'draw' is named twice"),
        (Draws({"posterior": {"c": C}}, {"c": ("c", "feature")}), "'c' has the name of a variable"),
        (Draws({"posterior": {"net/c": C}}, {"net/c": ("unit", "feature")}), "rename the site"),
        (
            Draws({"posterior": {"c": C}}, {"c": ("unit", "feature")}, {"unit": ["a"]}),
            r"posterior/c: axis 'unit' has length 2 but coords\['unit'\] has shape \(1,\): give one label per entry",
        ),
        (
            Draws({"posterior": {"a": np.zeros((1, 5)), "b": np.zeros((1, 6))}}),
            "posterior/b: axis 'draw' has length 6 but 5 in posterior/a",
        ),
    ],
)
def test_unnamed_or_unequal_axes_are_refused(draws, message):
    with pytest.raises(ValueError, match=message):
        draws.validate()
    with pytest.raises(ValueError, match=message):
        bridge.from_draws(draws)


def test_objects_are_refused():
    with pytest.raises(ValueError, match="coordinate 'unit' holds Python objects"):
        Draws({}, coords={"unit": [None, "a"]})


def test_summary_labels_rows_rightly_and_keeps_the_order_asked_for():
    idata = bridge.from_draws(make_draws())
    assert_labelled_rightly(bridge.summary(idata))
    assert list(bridge.summary(idata, ["sigma", "mu"]).index) == ["sigma", "mu[0]", "mu[1]", "mu[2]"]
    assert list(bridge.summary(idata, "sigma").index) == ["sigma"]


def test_summary_says_the_same_as_the_draws_and_states_its_interval():
    idata = bridge.from_draws(make_draws())
    table, values = bridge.summary(idata, "sigma", width=0.94), make_draws().groups["posterior"]["sigma"].ravel()
    expected = [values.mean(), values.std(ddof=1), *np.quantile(values, [0.03, 0.97])]
    assert table.columns[:4].to_list() == ["mean", "sd", "q03", "q97"]
    np.testing.assert_allclose(table.iloc[0, :4].astype(float), expected)


def test_summary_shows_diagnostics_for_several_chains_only():
    assert "r_hat" in bridge.summary(bridge.from_draws(make_draws(chains=2)), "mu")
    one = bridge.from_draws(make_draws(chains=1))
    assert bridge.summary(one).columns.to_list() == ["mean", "sd", "q05", "q95"]
    with pytest.raises(ValueError, match="need several chains"):
        bridge.summary(one, diagnostics=True)


def test_summary_refuses_what_it_cannot_do():
    idata = bridge.from_draws(make_draws())
    with pytest.raises(KeyError, match=r"no variable \['q'\]; it has \['mu'"):
        bridge.summary(idata, ["mu", "q"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bridge.summary(idata, "mu", width=94)


def seen(array, axes=("row",), targets=("y",), **more):
    """The groups of one target, as ArviZ gets them, from its observed values and their axes."""
    rng = np.random.default_rng(1)
    n = len(array)
    groups = {
        "observed_data": {"y": array},
        "posterior_predictive": {"y": rng.normal(size=(1, 6, *np.shape(array))), **more},
        "log_likelihood": {
            "y": np.where(np.isnan(np.asarray(array, float)).reshape(n, -1).all(1), np.nan, np.ones((1, 6, n)))
        },
    }
    names = dict.fromkeys(more, ("row",))
    return bridge.from_draws(
        Draws(groups, {"y": axes, **names}, {"row": np.array(list("abcd")[:n])}, plates=("row",), targets=targets)
    )


def test_a_target_is_there_on_its_observed_rows_beside_variables_on_all_rows():
    idata = seen(np.array([[1.0], [np.nan], [3.0], [np.nan]]), ("row", "target"), x=np.zeros((1, 6, 4)))
    for group, lead in (("observed_data", ()), ("posterior_predictive", (1, 6)), ("log_likelihood", (1, 6))):
        assert idata[group]["y"].dims[len(lead) :] == ("y_row",)
        assert idata[group]["y"].shape == (*lead, 2)
        assert idata[group]["y_row"].values.tolist() == ["a", "c"]
        assert not np.isnan(idata[group]["y"]).any()
    assert idata["observed_data"]["y"].values.tolist() == [1.0, 3.0]
    assert idata["posterior_predictive"]["x"].dims == ("chain", "draw", "row")


def test_names_of_axes_do_not_depend_on_what_is_observed():
    full, none = seen(np.arange(4.0)), seen(np.full(4, np.nan))
    assert full["observed_data"]["y"].dims == ("y_row",)
    assert none["posterior_predictive"]["y"].sizes == {"chain": 1, "draw": 6, "y_row": 4}
    assert "observed_data" not in none
    assert "log_likelihood" not in none
    assert seen(np.arange(4.0), targets=())["observed_data"]["y"].dims == ("row",)


def test_rows_observed_in_part_lie_along_one_axis_of_entries():
    ragged = np.array([[0.0, 1.0, np.nan], [np.nan, np.nan, np.nan], [3.0, 4.0, 5.0]])
    idata = seen(ragged, ("row", "frame"))
    observed = idata["observed_data"]["y"]
    assert observed.dims == ("y_entry",)
    assert observed.values.tolist() == [0.0, 1.0, 3.0, 4.0, 5.0]
    assert observed["y_row"].values.tolist() == list("aaccc")
    assert observed["y_frame"].values.tolist() == [0, 1, 0, 1, 2]
    assert idata["posterior_predictive"]["y"].shape == (1, 6, 5)
    assert idata["log_likelihood"]["y"]["y_row"].values.tolist() == ["a", "c"]


def test_observed_classes_are_whole_numbers():
    groups = {
        "observed_data": {"y": np.array([1.0, np.nan, 0.0])},
        "posterior_predictive": {"y": np.zeros((1, 5, 3), dtype=np.int64)},
    }
    observed = bridge.from_draws(Draws(groups, {"y": ("row",)}))["observed_data"]["y"]
    assert observed.dtype == np.int64
    assert observed.values.tolist() == [1, 0]


# ArviZ 0.23 calls NumPy and matplotlib in ways that they deprecate.
@pytest.mark.filterwarnings("ignore")
def test_checks_of_arviz_are_those_of_the_observed_rows_alone():
    az, rng = bridge._arviz(), np.random.default_rng(2)
    y, density = rng.normal(size=30), rng.normal(size=(1, 50, 30))
    known = np.arange(30) % 3 == 0

    def made(keep, missing):
        groups = {
            "posterior": {"mu": np.arange(50.0)[None]},
            "observed_data": {"y": np.where(missing, np.nan, y)[keep]},
            "posterior_predictive": {"y": rng.normal(size=(1, 50, 30))[..., keep]},
            "log_likelihood": {"y": np.where(missing, np.nan, density)[..., keep]},
        }
        return bridge.from_draws(Draws(groups, {"y": ("row",)}, plates=("row",), targets=("y",)))

    part, alone = made(slice(None), ~known), made(known, False)
    found = [az.loo(one, var_name="y") for one in (part, alone)]
    elpd = [one.elpd_loo if hasattr(one, "elpd_loo") else one.elpd for one in found]  # of 0.x, of 1.x
    assert np.isfinite(elpd[0])
    assert elpd[0] == elpd[1]
    old = az.__version__.startswith("0.")
    pit = az.loo_pit(part, y="y") if old else az.loo_pit(part, var_names="y")["y"].values
    assert pit.shape == (10,)


def test_to_arviz_draws_from_a_fit_and_takes_draws_as_they_are(monkeypatch):
    calls = []

    def draw(*args, **kwargs):
        calls.append((args, kwargs))
        return make_draws()

    monkeypatch.setattr(drawing, "draw", draw)
    assert_same(drawing.to_arviz("a fit", "a batch", draws=7, seed=1, prior=True, observed_only=False), make_draws())
    assert calls == [(("a fit", "a batch"), {"draws": 7, "seed": 1, "prior": True})]
    assert_same(drawing.to_arviz(make_draws(), observed_only=False), make_draws())
    assert drawing.to_arviz(make_draws())["observed_data"]["y"].shape == (3, 2)
    with pytest.raises(TypeError, match="go with a fit"):
        drawing.to_arviz(make_draws(), prior=True)
    with pytest.raises(TypeError, match="data to draw for"):
        drawing.to_arviz("a fit")


LOAD_BRIDGE = """
import sys
sys.path.insert(0, sys.argv[1])
from pyrozoo.posterior import draws as drawn, export as bridge
"""


def run_python(python: str, script: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [python, "-W", "error", "-c", LOAD_BRIDGE + script, PACKAGE, *arguments],
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_export_imports_nothing_heavy():
    script = "print({m.partition('.')[0] for m in sys.modules} & {'torch', 'pyro', 'arviz', 'xarray', 'pandas'})"
    assert run_python(sys.executable, script).strip() == "set()"


ARVIZ_1_CHECKS = """
import inspect, re
import numpy as np
from pathlib import Path

folder, test_file = Path(sys.argv[2]), Path(sys.argv[3]).read_text()
for name in ("assert_same", "assert_labelled_rightly"):  # the same checks as in the other process
    exec(re.search(rf"^def {name}.*?(?=^\\S(?!def ))", test_file, re.M | re.S).group().replace("draws: Draws", "draws"))

draws = drawn.Draws.load(folder / "draws.npz")
assert int(bridge._arviz().__version__.split(".")[0]) >= 1
fresh, stored = bridge.from_draws(draws, observed_only=False), bridge.load_netcdf(folder / "from_0.nc")
for tree in (fresh, stored):
    assert type(tree).__name__ == "DataTree"
    assert_same(tree, draws)
    table = bridge.summary(tree)
    assert_labelled_rightly(table)
    assert "r_hat" in table
    assert "r_hat" not in bridge.summary(tree.isel(chain=[0]))
bridge.save_netcdf(fresh, folder / "from_1.nc")
assert "torch" not in sys.modules
print("passed")
"""


@pytest.mark.skipif(not OTHER_PYTHON, reason="PYROZOO_ARVIZ1_PYTHON names no interpreter with ArviZ 1.x")
def test_arviz_1_makes_and_reads_the_same_object(tmp_path):
    draws = make_draws()
    draws.save(tmp_path / "draws.npz")
    bridge.save_netcdf(bridge.from_draws(draws, observed_only=False), tmp_path / "from_0.nc")
    assert run_python(OTHER_PYTHON, ARVIZ_1_CHECKS, tmp_path, Path(__file__)).strip() == "passed"
    assert_same(bridge.load_netcdf(tmp_path / "from_1.nc"), draws)
