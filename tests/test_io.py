import dataclasses
import io
import json
import pickle
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import pyrozoo as zoo
from pyrozoo.files import sha256_json
from pyrozoo.inference.copies import default_dtype
from pyrozoo.models.ssmtl.guides import PaperGuide
from pyrozoo.models.ssmtl.model import SSMTL

SMALL = {"c_dim": 2, "z_dim": 2, "width": 6, "depth": 1}
FILES = ["prototype.safetensors", "run.json", "weights.safetensors"]


def frame(units=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    n = 4 * len(units)
    df = pd.DataFrame({"well": list(units) * 4, "u": rng.normal(size=n), "p": rng.normal(size=n)})
    y = df["u"] + rng.normal(size=n)
    return df.assign(q=y.where(np.arange(len(df)) % 3 > 0))


def read(df, **options):
    return zoo.Batch.from_dataframe(df, unit="well", x=["u", "p"], y="q", name="wells", **options)


TRAIN = read(frame())


def fit(guide="paper", train=TRAIN, model=None, **options):
    model = model or zoo.create_model("ssmtl", train, **SMALL)
    return zoo.fit(model, guide, train, **({"steps": 3, "lr": 1e-2, "progress": False} | options))


def state(fitted):
    return [
        {f"{part}.{k}": v for part in ("model", "guide") for k, v in getattr(run, part).state_dict().items()}
        for run in fitted.runs
    ]


def assert_same_fit(a, b, train=TRAIN):
    for left, right in zip(state(a), state(b), strict=True):
        assert left.keys() == right.keys()
        assert {name for name in left if not torch.equal(left[name], right[name])} == set()
        assert {name for name in left if left[name].dtype != right[name].dtype} == set()
    pd.testing.assert_frame_equal(zoo.predict(a, train, draws=3), zoo.predict(b, train, draws=3), check_exact=True)


@pytest.fixture
def folder(tmp_path):
    return fit().save(tmp_path / "run")


def change_record(folder, seal=True, **changes):
    record = json.loads((folder / "run.json").read_text())
    record |= changes
    if seal:
        del record["sha256"]
        record["sha256"] = sha256_json(record)
    (folder / "run.json").write_text(json.dumps(record))


def reseal(folder):
    """What a careful forger would do: hashes that fit the changed files."""
    import hashlib

    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES if name != "run.json"}
    change_record(folder, files=files)


# ---------------------------------------------------------------- round trips
@pytest.mark.parametrize("guide", ["paper", "amortized", "normal", AutoNormal, AutoMultivariateNormal])
def test_a_fit_comes_back_as_it_was(guide, tmp_path):
    fitted = fit(guide, restarts=2, valid=TRAIN)
    loaded = zoo.load(fitted.save(tmp_path / "deep" / "run"))
    assert_same_fit(fitted, loaded)
    for a, b in zip(fitted.runs, loaded.runs, strict=True):
        pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
        assert (a.seed, a.status, a.final_elbo) == (b.seed, b.status, b.final_elbo)
    assert loaded.guide_name == fitted.guide_name
    assert loaded.settings == json.loads(json.dumps(fitted.settings))
    assert loaded.data == fitted.data
    assert loaded.data["sha256"] == TRAIN.sha256
    assert loaded.model.entry == ("ssmtl", "ssmtl")
    assert not loaded.model.training
    assert loaded.versions["torch"] == version("torch")  # a name of the build, as +cpu, may be in it or not


def test_only_json_and_safetensors_are_written(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_loaded_fit_can_be_saved_again(folder, tmp_path):
    again = zoo.load(folder).save(tmp_path / "again")
    for name in FILES:
        a, b = ((path / name).read_bytes() for path in (folder, again))
        assert (json.loads(a) if name == "run.json" else a) == (json.loads(b) if name == "run.json" else b), name


def test_a_loaded_fit_reads_new_tables_and_continues(folder):
    loaded = zoo.load(folder)
    df = frame(seed=1)
    with_labels, without = loaded.batch(df), loaded.batch(df.drop(columns="q"), labels=False)
    pd.testing.assert_frame_equal(zoo.predict(loaded, with_labels, draws=3), zoo.predict(loaded, without, draws=3))
    more = fit(warm_start=loaded, lr=0.0, lr_groups=None, steps=1)
    assert all(torch.equal(v, state(loaded)[0][k]) for k, v in state(more)[0].items())


def test_the_random_state_of_the_caller_is_left_alone(folder):
    before = torch.get_rng_state()
    zoo.load(folder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("variant", ["ssmtl", "mtl"])
def test_every_variant_comes_back(variant, tmp_path):
    model = zoo.create_model("ssmtl", TRAIN, variant=variant, c_dim=2, width=6, depth=1)
    fitted = fit(model=model)
    loaded = zoo.load(fitted.save(tmp_path / "run"))
    assert type(loaded.model) is type(model)
    assert_same_fit(fitted, loaded)


def test_double_precision_stays(tmp_path):
    with default_dtype(torch.float64):
        train = read(frame())
        fitted = fit(train=train)
        fitted.save(tmp_path / "run")
    loaded = zoo.load(tmp_path / "run")
    assert torch.get_default_dtype() == torch.float32
    assert {p.dtype for p in (*loaded.model.parameters(), *loaded.guide.parameters())} == {torch.float64}
    assert_same_fit(fitted, loaded, train)


def test_data_are_cast_to_the_type_of_the_model():
    double, single = fit(train=read(frame(), dtype=torch.float64)), fit()
    assert {p.dtype for p in double.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(double.history["elbo"], single.history["elbo"], rtol=1e-4)
    assert double.data["sha256"] != single.data["sha256"]  # the identity of what was given


@pytest.mark.parametrize(
    "units",
    [["a", 1, 2.5], [3, 1, 2], [True, False], list(pd.to_datetime(["2024-01-01", "2024-06-01"]))],
    ids=["mixed", "integers", "booleans", "dates"],
)
def test_unit_names_come_back_with_their_type(units, tmp_path):
    train = read(frame(units))
    fitted = fit(train=train)
    loaded = zoo.load(fitted.save(tmp_path / "run"))
    names = loaded.prototype.coords["unit"]
    assert names.dtype == train.coords["unit"].dtype
    assert [(type(n), n) for n in names.tolist()] == [(type(n), n) for n in train.coords["unit"].tolist()]
    assert_same_fit(fitted, loaded, train)


def test_unit_names_that_json_cannot_hold_are_an_error_that_leaves_nothing_behind(tmp_path):
    train = read(frame([("a", 1), ("b", 2)]))
    with pytest.raises(ValueError, match=r"column 'well', \('a', 1\): JSON cannot hold a tuple; use text or numbers"):
        fit(train=train)
    fitted = fit()
    fitted.prototype = dataclasses.replace(
        fitted.prototype, coords={**fitted.prototype.coords, "unit": train.coords["unit"]}
    )
    with pytest.raises(ValueError, match=r"unit \('a', 1\): JSON cannot hold a tuple; use text or numbers"):
        fitted.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what must be given again
def test_a_prior_of_numbers_comes_back(tmp_path):
    prior = {"c": dist.StudentT(4.0, 0.0, 1.0), "z": dist.Laplace(torch.tensor([0.1, 0.2]), 1.5).to_event(1)}
    fitted = fit(model=zoo.create_model("ssmtl", TRAIN, **SMALL, priors=prior))
    loaded = zoo.load(fitted.save(tmp_path / "run"))
    for site in ("c", "z"):
        value = torch.tensor([0.3, -0.7])
        expected = fitted.model.prior(site).log_prob(value)
        torch.testing.assert_close(loaded.model.prior(site).log_prob(value), expected, rtol=0, atol=0)
        assert expected != SSMTL(2, **SMALL).prior(site).log_prob(value)
    assert_same_fit(fitted, loaded)


class Learnable(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


@pytest.mark.parametrize("prior", [Learnable, lambda: lambda: dist.StudentT(4.0, 0.0, 1.0)], ids=["module", "function"])
def test_a_prior_that_json_cannot_hold_must_be_given_again(prior, tmp_path):
    fitted = fit(model=zoo.create_model("ssmtl", TRAIN, **SMALL, priors={"c": prior(), "z": dist.Normal(0.0, 2.0)}))
    path = fitted.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"the prior\(s\) of \['c'\] could not be written as JSON; give them: load\("):
        zoo.load(path)
    assert_same_fit(fitted, zoo.load(path, priors={"c": prior()}))


def own_factory(model):
    return PaperGuide(model)


@pytest.mark.parametrize("guide", [own_factory, PaperGuide, lambda model: PaperGuide(model)])
def test_a_guide_of_ones_own_must_be_given_again(guide, tmp_path):
    fitted = fit(guide)
    path = fitted.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"its guide '.*' is no guide of the zoo; give its factory: load\("):
        zoo.load(path)
    assert_same_fit(fitted, zoo.load(path, guide=guide))


def test_another_guide_does_not_take_the_weights(folder):
    with pytest.raises(ValueError, match="not the weights of this guide; give the one of the fit"):
        zoo.load(folder, guide="normal")


def test_a_model_outside_the_registry_must_be_given_again(tmp_path):
    model = SSMTL(2, n_units=3, **SMALL)
    fitted = fit(PaperGuide, model=model)
    path = fitted.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"its model is in no registry entry; give one: load\(path, model="):
        zoo.load(path)
    assert_same_fit(fitted, zoo.load(path, model=model, guide=PaperGuide))


def test_a_model_whose_log_density_has_changed_is_refused(folder, monkeypatch):
    monkeypatch.setattr(SSMTL, "version", "2")
    with pytest.raises(ValueError, match=r"fitted with version 1 of SSMTL, whose log density differs from version 2"):
        zoo.load(folder)


def test_an_argument_that_json_cannot_hold_is_an_error_that_leaves_nothing_behind(tmp_path):
    found = fit(PaperGuide, model=SSMTL(2, n_units=3, **SMALL))
    found.model.config["dropout"] = object()
    with pytest.raises(ValueError, match="SSMTL: a constructor argument cannot be written as JSON"):
        found.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_arrays_as_arguments_are_saved_as_lists(kind, tmp_path):
    model = SSMTL(2, n_units=3, **SMALL, x_loc=kind([0.5, -1.0]))
    path = fit(PaperGuide, model=model).save(tmp_path / "run")
    assert zoo.load(path, model=model, guide=PaperGuide).model.config["x_loc"] == [0.5, -1.0]


# ---------------------------------------------------------------- existing folders
def test_nothing_is_overwritten_unasked(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="run exists; choose another folder, or overwrite=True"):
        fit(seed=1).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_earlier_run_is_replaced_when_asked_for(folder):
    other = fit(seed=1)
    zoo.save(other, folder, overwrite=True)
    assert_same_fit(other, zoo.load(folder))
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_what_is_no_run_directory_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(FileExistsError):
        zoo.save(fit(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


# ---------------------------------------------------------------- damaged and hostile folders
def test_there_must_be_a_run_directory(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"is no run directory: it has no run\.json"):
            zoo.load(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_refused_by_name(folder, name, keep):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:keep])
    with pytest.raises(ValueError, match=name):
        zoo.load(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "run.json"])
def test_a_truncated_file_is_refused_also_when_the_hashes_fit(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    reseal(folder)
    with pytest.raises(ValueError, match=f"{name}: not a complete safetensors file"):
        zoo.load(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "run.json"])
def test_edited_or_missing_tensors_are_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{name}: missing or changed since the run was saved; copy the whole folder"):
        zoo.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing or changed"):
        zoo.load(folder)


def test_an_edited_record_is_refused(folder):
    change_record(folder, seal=False, seconds=0.0)
    with pytest.raises(ValueError, match=r"run.json: changed since the run was saved"):
        zoo.load(folder)


@pytest.mark.parametrize("content", ["", "{}", "[]", "3", '"text"', "null", "{", '{"sha256": 1}', "\x00"])
def test_a_foreign_record_is_refused(folder, content):
    (folder / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json: truncated, or not written by pyrozoo"):
        zoo.load(folder)


def test_a_record_that_is_no_text_is_refused(folder):
    (folder / "run.json").write_bytes(b"\x80\x04\xff")
    with pytest.raises(ValueError, match=r"run.json: truncated, or not written by pyrozoo"):
        zoo.load(folder)


def test_another_format_is_refused(folder):
    change_record(folder, format=99)
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        zoo.load(folder)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickles(marker):
    torch_file = io.BytesIO()
    torch.save({"weights": Bomb(marker)}, torch_file)
    return {"pickle": pickle.dumps(Bomb(marker)), "torch": torch_file.getvalue()}


def test_the_marker_would_appear_if_a_pickle_were_opened(tmp_path):
    content = pickles(tmp_path / "marker")
    pickle.loads(content["pickle"])
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    torch.load(io.BytesIO(content["torch"]), weights_only=False)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("hashes_fit", [False, True])
def test_a_pickle_is_never_opened(folder, tmp_path, name, kind, hashes_fit):
    marker = tmp_path / "marker"
    (folder / name).write_bytes(pickles(marker)[kind])
    if hashes_fit and name != "run.json":
        reseal(folder)
    with pytest.raises(ValueError, match=name):
        zoo.load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("field", ["guide", "entry", "priors", "dtype"])
def test_names_in_a_record_call_nothing(folder, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    attack = '__import__("os").system("touch marker")'
    value = {"entry": [attack, attack], "priors": {"c": {"name": attack, "arguments": {}, "event_dims": 0}}}
    change_record(folder, **{field: value.get(field, attack)})
    with pytest.raises((ValueError, KeyError, AttributeError)):
        zoo.load(folder)
    assert not (tmp_path / "marker").exists()


# ---------------------------------------------------------------- reference fits and unknown units
def test_an_unknown_reference_fit_lists_what_there_is():
    with pytest.raises(KeyError, match=r"no reference fit 'ssmtl/none'; there are \[.*\]"):
        zoo.load_reference("ssmtl/none")


@pytest.mark.parametrize("guide", ["paper", "normal"])
def test_an_unknown_unit_is_an_error_that_names_the_amortised_guide(guide, tmp_path):
    loaded = zoo.load(fit(guide).save(tmp_path / "run"))
    message = r"unknown unit\(s\) \['z'\]: the guide '.*' has a posterior only for the 3 units.*'amortized' in this zoo"
    with pytest.raises(KeyError, match=message):
        zoo.predict(loaded, read(frame(["a", "z"])), draws=2)


def test_the_amortised_guide_predicts_units_it_has_not_seen(tmp_path):
    loaded = zoo.load(fit("amortized").save(tmp_path / "run"))
    new = read(frame(["a", "z"], seed=3))
    prediction = zoo.predict(loaded, new, draws=5)
    assert prediction.shape[0] == 8
    assert np.isfinite(prediction.to_numpy()).all()
