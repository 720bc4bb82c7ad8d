"""Uses of the entry at the edges of what users bring: no labels, no names, odd priors, relatives of the model."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest

import pyrozoo as zoo
from pyrozoo.models import ssmtl

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(scope="module")
def frame(double_precision):
    rng = np.random.default_rng(0)
    units = np.repeat(["w1", "w2", "w3"], 8)
    x = rng.normal(size=(24, 2))
    y = x.sum(1) + np.repeat([0.0, 1.0, 2.0], 8)
    return pd.DataFrame({"well": units, "a": x[:, 0], "b": x[:, 1], "y": np.where(np.arange(24) % 2, y, np.nan)})


def read(frame, y="y"):
    return zoo.Batch.from_dataframe(frame, unit="well", x=["a", "b"], y=y)


def fitted(data, variant="ssmtl", **arguments):
    model = zoo.create_model("ssmtl", data, variant=variant, width=6, depth=1, **arguments)
    return zoo.fit(model, "paper", data, steps=3, progress=False)


def test_generation_works_on_a_fit_that_never_saw_a_target(frame):
    fit = fitted(read(frame, y=None))
    found = ssmtl.what_if(fit, "w2", {"a": [0.0, 1.0]}, draws=4, sweeps=4, rounds=1, progress=False)
    assert len(found.table) == 2
    assert {"b.mean", "y[0].mean"} <= set(found.table)


def test_a_table_without_targets_calibrates_unsupervised(frame):
    fit = fitted(read(frame))
    new = frame.assign(well="new " + frame["well"])
    found = ssmtl.calibrate(fit, read(new, y=None), mode="unsupervised", steps=2, starts=1, progress=False)
    assert found.units["unlabelled"].tolist() == [8, 8, 8]
    with pytest.raises(ValueError, match="target 'y'"):
        ssmtl.calibrate(fit, read(new, y=None), progress=False)
    with pytest.raises(TypeError, match=r"fit\.batch"):
        ssmtl.calibrate(fit, new)


@pytest.mark.parametrize("prior", [dist.Cauchy(0.0, 1.0), dist.StudentT(1.0, 0.0, 1.0)])
def test_calibration_starts_also_where_a_prior_has_no_mean(frame, prior):
    fit = fitted(read(frame), priors={"c": prior})
    found = ssmtl.calibrate(fit, read(frame), steps=2, starts=2, progress=False)
    assert np.isfinite(found.units["objective"]).all()


def test_alpha_of_a_calibration_stays_with_its_fit(frame):
    found = ssmtl.calibrate(fitted(read(frame)), read(frame), alpha=0.0, steps=1, starts=1, progress=False)
    assert found.model.alpha == 0.0


def test_refine_needs_contexts(frame):
    with pytest.raises(ValueError, match="no context c"):
        ssmtl.refine(fitted(read(frame), "ssl-vae"))


@pytest.mark.parametrize("variant", ["ssl-vae", "ml-vae"])
def test_relatives_that_explain_the_inputs_are_monitored(frame, variant):
    table = ssmtl.monitor(fitted(read(frame), variant), read(frame).hide(), draws=3, progress=False)
    assert np.isfinite(table["score"]).all()
    assert list(table.columns[-2:]) == ["surprise[a]", "surprise[b]"]


def test_monitor_of_a_model_of_the_target_alone_is_refused(frame):
    with pytest.raises(ValueError, match="lacks"):
        ssmtl.monitor(fitted(read(frame), "mtl"), read(frame).hide())


def test_columns_without_names_are_called_the_same_everywhere(frame):
    data = zoo.Batch.from_arrays(
        rows={"x": frame[["a", "b"]].to_numpy(), "y": np.arange(24.0)[:, None]},
        groups={"unit": frame["well"].to_numpy()},
        labels={"y": np.ones(24, bool)},
    )  # fmt: skip
    fit = fitted(data)
    faulty, mask = ssmtl.inject_fault(data.hide(), "x[1]", "bias", 2.0)
    assert mask.any()
    table = ssmtl.monitor(fit, faulty, draws=2, progress=False)
    assert "surprise[x[1]]" in table
    found = ssmtl.impute(
        fit, data, missing=np.tile([False, True], (24, 1)), draws=2, sweeps=4, rounds=1, progress=False
    )
    assert set(found.table.index.get_level_values("variable")) == {"x[1]"}


def test_a_unit_named_twice_fails_once(frame):
    data = read(frame)
    once, _ = ssmtl.inject_fault(data, "a", "bias", 1.0, units=["w1"])
    twice, _ = ssmtl.inject_fault(data, "a", "bias", 1.0, units=["w1", "w1"])
    assert np.array_equal(once["x"], twice["x"])
    with pytest.raises(TypeError, match="is one name"):
        ssmtl.inject_fault(data, "a", "bias", 1.0, units="w1")


def test_whole_numbers_are_not_rounded_to(frame):
    data = zoo.Batch.from_arrays(rows={"x": np.arange(8).reshape(4, 2)}, groups={"unit": ["a"] * 4})
    with pytest.raises(ValueError, match="whole numbers"):
        ssmtl.inject_fault(data, "x[0]", "bias", 0.5, start=0.5)


def test_targets_without_a_mask_are_all_seen():
    rows = {"x": np.arange(8.0).reshape(4, 2), "y": np.arange(4.0)[:, None]}
    data = zoo.Batch.from_arrays(rows=rows, groups={"unit": ["a", "a", "b", "b"]})
    assert ssmtl.SSMTL.sizes_from(data)["y_loc"] == [1.5]
