import json
import math
import os
import random
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyrozoo as zoo
from pyrozoo.inference.losses import NonFiniteLoss
from pyrozoo.inference.minibatches import sample_minibatches, steps_per_epoch
from pyrozoo.inference.settings import SCHEDULES, Adam
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.guides import PaperGuide
from pyrozoo.models.ssmtl.model import MTL, SSMTL

SMALL = {"c_dim": 2, "z_dim": 2, "width": 6, "depth": 1}


@pytest.fixture(scope="module")
def data():
    return simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=4)


@pytest.fixture(scope="module")
def train(data):
    return data[0]


@pytest.fixture
def model(train):
    return zoo.create_model("ssmtl", train, **SMALL)


def fit(model, guide, train, **options):
    """A short fit on full batches with one learning rate, whatever the model's own defaults are."""
    plain = {"steps": 4, "lr": 1e-2, "lr_groups": None, "batch_size": None, "progress": False}
    return zoo.fit(model, guide, train, **plain | options)


def weights(fitted, run=0):
    run = fitted.runs[run]
    return {f"{part}.{k}": v.clone() for part in ("model", "guide") for k, v in getattr(run, part).state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert {name for name in a if not torch.equal(a[name], b[name])} == set()


def differ(a, b):
    return any(not torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- random numbers and global state
def test_the_same_seed_is_bit_equal_and_another_is_not(model, train):
    options = {"batch_size": 7, "particles": 2, "steps": 9}
    a, b, c = (fit(model, "paper", train, seed=seed, **options) for seed in (3, 3, 4))
    assert_equal(weights(a), weights(b))
    assert a.history.equals(b.history)
    assert differ(weights(a), weights(c))
    assert not a.history["elbo"].equals(c.history["elbo"])


def test_nothing_of_the_callers_changes(model, train):
    pyro.get_param_store()["mine"] = torch.ones(1)
    torch.manual_seed(1)
    parameters = {k: v.clone() for k, v in model.state_dict().items()}
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate(), pyro.settings.get(), train.sha256)  # noqa: NPY002
    try:
        fit(model, "paper", train, batch_size=7, restarts=2, anneal=2, valid=train, patience=1, seed=5)
        after = (torch.get_rng_state(), np.random.get_state(), random.getstate(), pyro.settings.get(), train.sha256)  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        assert before[2:] == after[2:]
        assert list(pyro.get_param_store()) == ["mine"]
        assert_equal(parameters, dict(model.state_dict()))
    finally:
        pyro.clear_param_store()


def test_the_callers_random_state_has_no_influence(model, train):
    torch.manual_seed(1)
    a = fit(model, "paper", train, batch_size=7)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    random.seed(4)
    assert_equal(weights(a), weights(fit(model, "paper", train, batch_size=7)))


def test_fits_in_one_process_are_independent(model, train):
    alone = fit(model, "paper", train)
    first = fit(model, "paper", train)
    kept = weights(first)
    other = zoo.create_model("ssmtl", train, **SMALL, alpha=5.0)
    second = fit(other, "paper", train, steps=8, seed=1)
    assert_equal(weights(first), kept)
    assert_equal(weights(alone), kept)
    assert differ(weights(second), kept)
    third = fit(model, "paper", train)
    assert_equal(weights(third), kept)  # not a continuation


def test_a_fitted_model_works_under_plain_pyro_settings(model, train):
    fitted = fit(model, "normal", train)
    trace = pyro.poutine.trace(fitted.guide).get_trace(**train)
    assert trace.nodes["c"]["value"].shape == (3, 2)
    assert not list(pyro.get_param_store())


# ---------------------------------------------------------------- ways to give a guide
def own_factory(model):
    guide = PaperGuide(model)
    with torch.no_grad():
        guide.c_log_scale.fill_(-1.0)
    return guide


@pytest.mark.parametrize(
    ("guide", "label"),
    [("paper", "paper"), ("amortized", "amortized"), (AutoNormal, "AutoNormal"),
     (AutoMultivariateNormal, "AutoMultivariateNormal"), (PaperGuide, "PaperGuide (own)"),
     (own_factory, "own_factory (own)")],
)  # fmt: skip
def test_a_guide_is_given_by_name_class_or_factory(model, train, guide, label):
    fitted = fit(model, guide, train, batch_size=7)
    assert fitted.guide_name == label
    assert fitted.status == "finished"
    assert np.isfinite(fitted.history["elbo"]).all()
    moved = {name for name, p in fitted.guide.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name, _ in fitted.guide.named_parameters()}


@pytest.mark.parametrize("name", ["paper", "amortized", "normal"])
@pytest.mark.parametrize("used", [False, True])
def test_a_guide_instance_is_copied_and_refers_to_the_fresh_model(model, train, name, used):
    instance = zoo.create_guide(model, name)
    batch = train.with_support(8)
    try:
        if used:
            instance(**batch)
        names = list(pyro.get_param_store())
        kept = {k: v.clone() for k, v in instance.state_dict().items()}
        a, b = fit(model, instance, train, steps=6), fit(model, instance, train, steps=6)
        assert list(pyro.get_param_store()) == names
        assert_equal(kept, dict(instance.state_dict()))
        assert_equal(weights(a), weights(b))
        assert a.history.equals(b.history)
        assert a.guide is not instance
        assert a.guide.local._model[0] is a.model
        assert instance.local._model[0] is model
        for key, value in kept.items():
            if value.is_floating_point():
                assert not torch.equal(value, a.guide.state_dict()[key]), key
        assert instance(**batch) is None or "c" in instance(**batch)  # still works
    finally:
        pyro.clear_param_store()


def test_an_autoguide_instance_learns_the_fresh_model(train):
    """A prior that the fresh model learns must reach the copy, whose model would otherwise be the old one."""
    model = zoo.create_model("ssmtl", train, variant="mtl", c_dim=2, width=6, depth=1)
    seen = []

    class Watching(AutoNormal):
        def _setup_prototype(self, *args, **kwargs):
            seen.append(pyro.poutine.messenger.unwrap(self.model))
            super()._setup_prototype(*args, **kwargs)

    instance = Watching(model, create_plates=lambda **batch: [model.plate("unit", **batch)])
    try:
        fitted = fit(model, instance, train)
        assert seen[0] is fitted.model
        assert model not in seen  # a further copy may have been made to compare its latents with the model's
        instance(**train)
        assert seen[-1] is model
    finally:
        pyro.clear_param_store()


@pytest.mark.parametrize(
    ("guide", "error", "message"),
    [
        ("papr", KeyError, r"'papr' is no guide of 'ssmtl'; there are \['amortized', 'delta', 'flow'"),
        (lambda model: None, TypeError, "returned NoneType; return a PyroModule"),
        (3, TypeError, "guide: int is no name, AutoGuide class or factory"),
    ],
)
def test_what_is_no_guide_is_an_error(model, train, guide, error, message):
    with pytest.raises(error, match=message):
        fit(model, guide, train)


# ---------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stepz": 1}, TypeError, r"fit\(\) has no argument \['stepz'\]; settings are \['anneal', "),
        ({"steps": 1, "epochs": 1}, ValueError, "either steps or epochs"),
        ({"steps": 0}, ValueError, "steps: 0; at least 1"),
        ({"particles": 0}, ValueError, "particles: 0; at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size: 0; at least 1"),
        ({"restarts": 0}, ValueError, "restarts: 0; at least 1"),
        ({"steps": 2.5}, TypeError, "steps: 2.5; a whole number is needed"),
        ({"epochs": True, "steps": None}, TypeError, "epochs: True; a whole number is needed"),
        ({"batch_size": "all"}, TypeError, "batch_size: 'all'; a whole number is needed"),
        ({"batch_size": {"labelled": -1}}, ValueError, r"batch_size\['labelled'\]: -1; at least 0"),
        ({"lr": math.nan}, ValueError, "lr: nan; a finite number is needed"),
        ({"lr": -1e-3}, ValueError, "lr: -0.001; a learning rate is not negative"),
        ({"lr": "0.1"}, TypeError, "lr: '0.1'; a number is needed"),
        ({"lr_groups": {"guide.*": -1.0}}, ValueError, r"lr_groups\['guide.\*'\]: -1.0; a learning rate is not"),
        ({"lr_groups": 0.1}, TypeError, "lr_groups: a float; give a mapping"),
        ({"clip": math.inf}, ValueError, "clip: inf; a finite number"),
        ({"clip": 0}, ValueError, "clip: 0; a positive norm"),
        ({"patience": -1}, ValueError, "patience: -1; at least 1"),
        ({"anneal": -1}, ValueError, "anneal: -1; at least 0"),
        ({"anneal_sites": "c"}, TypeError, "anneal_sites: 'c'; give a tuple of names"),
        ({"device": "gpu0"}, ValueError, "device: 'gpu0' is no device of torch"),
        ({"validate": "yes"}, TypeError, "validate: 'yes'; give True or False"),
        ({"optimizer": "adam"}, TypeError, "optimizer: a str; give a function"),
        ({"seed": -1}, ValueError, "seed: -1; at least 0"),
        ({"seed": 1.5}, TypeError, "seed: 1.5; a whole number"),
        ({"schedule": "step"}, ValueError, r"schedule: 'step' is none of \['constant', 'cosine', 'linear'\]"),
        ({"lr_groups": {"guide.d_*": 1.0}}, ValueError, r"no parameter matches 'guide.d_\*'; parameters are"),
        ({"anneal": 2, "anneal_sites": ("x",)}, ValueError, r"the guide does not sample \['x'\], only \['c'"),
        ({"patience": 2}, ValueError, "patience needs validation data: give valid="),
        ({"resume": True}, ValueError, "resume=True needs checkpoint=FOLDER"),
        ({"batch_size": {"labelled": 2}}, ValueError, r"the strata of the data are \['labelled', 'unlabelled'\]"),
        ({"batch_size": {"labelled": 0, "unlabelled": 0}}, ValueError, "every stratum that it names is empty"),
    ],
)
def test_wrong_settings_are_errors_that_name_them(model, train, options, error, message):
    with pytest.raises(error, match=message):
        fit(model, "paper", train, **options)


def test_settings_of_numpy_and_torch_are_saved_as_pythons_own(train, tmp_path):
    model = zoo.create_model("ssmtl", train, **SMALL | {"c_dim": np.int64(2)})
    given = {
        "steps": np.int64(3), "lr": np.float64(0.01), "batch_size": np.int32(8), "seed": np.int64(7),
        "device": torch.device("cpu"), "clip": torch.tensor(10.0), "lr_groups": {"guide.c_*": np.float64(0.1)},
    }  # fmt: skip
    first = fit(model, "paper", train, **given)
    loaded = zoo.load(first.save(tmp_path / "run"))
    want = {"steps": 3, "lr": 0.01, "batch_size": 8, "seed": 7, "device": "cpu", "clip": 10.0}
    assert {k: loaded.settings[k] for k in want} == want
    assert loaded.settings["lr_groups"] == {"guide.c_*": 0.1}
    plain = fit(zoo.create_model("ssmtl", train, **SMALL), "paper", train, **want, lr_groups={"guide.c_*": 0.1})
    assert_equal(weights(plain), weights(first))


def test_a_rate_that_the_models_own_rates_override_for_most_parameters_is_said(train):
    model = type("Defaults", (SSMTL,), {"fit_defaults": {"lr_groups": {"*.net.*": 1e-4}}})(2, n_units=3, **SMALL)
    with pytest.warns(UserWarning, match=r"lr=0.01 holds for \d+% of the parameters; .*'\*.net.\*': 0.0001.*lr_groups"):
        zoo.fit(model, PaperGuide, train, steps=1, lr=0.01, progress=False)
    zoo.fit(model, PaperGuide, train, steps=1, lr=0.01, lr_groups=None, progress=False)


def test_the_models_defaults_hold_where_nothing_is_given(train):
    defaults = {"epochs": 3, "batch_size": 10, "lr_groups": {"guide.no_such_*": 1.0}}
    model = type("Defaults", (SSMTL,), {"fit_defaults": defaults})(2, n_units=3, **SMALL)
    assert len(zoo.fit(model, PaperGuide, train, progress=False).history) == 3
    assert zoo.fit(model, PaperGuide, train, steps=2, progress=False).history["step"].tolist() == [2]
    with pytest.raises(ValueError, match="no parameter matches"):  # of a pattern that the caller gave
        zoo.fit(model, PaperGuide, train, lr_groups={"guide.no_such_*": 1.0}, progress=False)


def test_history_has_a_line_per_epoch(model, train):
    history = fit(model, "paper", train, steps=None, epochs=3, batch_size=12).history
    assert list(history.columns) == ["epoch", "step", "elbo", "beta", "lr", "grad_norm"]
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["step"].tolist() == [3, 6, 9]
    assert (history["grad_norm"] > 0).all()
    assert (history["beta"] == 1).all()
    with_valid = fit(model, "paper", train, valid=train).history
    assert list(with_valid.columns) == [*history.columns, "valid_elbo"]


def test_steps_end_in_the_middle_of_an_epoch(model, train):
    history = fit(model, "paper", train, steps=4, batch_size=12).history
    assert history["step"].tolist() == [3, 4]


def test_restarts_are_independent_runs(model, train):
    both = fit(model, "paper", train, restarts=2)
    assert len(both.runs) == 2
    assert_equal(weights(both, 0), weights(fit(model, "paper", train, restarts=1)))
    assert differ(weights(both, 0), weights(both, 1))
    assert both.runs[0].seed != both.runs[1].seed
    assert both.best.final_elbo == max(run.final_elbo for run in both.runs)
    assert both.model is both.best.model


def test_callback_gets_every_line_of_the_history(model, train):
    rows = []
    fitted = fit(model, "paper", train, callback=lambda row: rows.append(dict(row)))
    assert rows == fitted.history.to_dict("records")


def test_progress_shows_the_elbo(model, train, capsys):
    fit(model, "paper", train, progress=True, restarts=2)
    shown = capsys.readouterr().err
    assert "SSMTL x paper 2/2" in shown
    assert "elbo=" in shown


def test_the_loss_falls(model, train):
    elbo = fit(model, "paper", train, steps=60, lr=5e-3).history["elbo"]
    assert elbo.tail(10).mean() > elbo.head(10).mean() + 1


# ---------------------------------------------------------------- minibatches
def epochs(train, batch_size, n=1):
    generator = torch.Generator().manual_seed(0)
    return [list(sample_minibatches(train, batch_size, generator)) for _ in range(n)]


def test_an_epoch_of_minibatches_is_a_partition_in_a_new_order(train):
    first, second = epochs(train, 8, 2)
    assert [batch.n_rows for batch in first] == [8, 8, 8, 6]
    assert len(first) == steps_per_epoch(train, 8)
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch["row"].tolist()) == list(range(30))
    assert first[0]["row"].tolist() != second[0]["row"].tolist()


@pytest.mark.parametrize(
    ("batch_size", "labelled", "unlabelled"),
    [
        ({"labelled": 5, "unlabelled": 6}, 5, 6),
        ({"labelled": None, "unlabelled": 9}, 12, 9),
        ({"labelled": 3, "unlabelled": 0}, 3, 0),
    ],
)
def test_strata_have_exact_scales(train, batch_size, labelled, unlabelled):
    (epoch,) = epochs(train, batch_size)
    assert len(epoch) == steps_per_epoch(train, batch_size)
    for batch in epoch:
        seen = batch["labelled"]
        assert seen.sum() <= labelled
        assert (~seen).sum() <= unlabelled
        stands_for = batch["weight"] * train.n_rows / batch.n_rows  # rows of the data per row
        assert stands_for[seen].sum().item() == pytest.approx(12)
        if unlabelled:
            assert stands_for[~seen].sum().item() == pytest.approx(18)
    visited = {row for batch in epoch for row in batch["row"].tolist()}
    assert visited == set(range(30) if unlabelled else np.flatnonzero(train["labelled"].numpy()).tolist())


def test_a_fit_by_strata_runs(model, train):
    fitted = fit(model, "paper", train, steps=None, epochs=2, batch_size={"labelled": 6, "unlabelled": 6})
    assert fitted.history["step"].tolist() == [3, 6]


def test_particles_lower_the_noise_of_the_loss_not_its_mean(model, train):
    with torch.no_grad():
        guide = zoo.create_guide(model, "paper")
        torch.manual_seed(0)
        few = [model.elbo(1).loss(model, guide, **train) for _ in range(200)]
        many = [model.elbo(20).loss(model, guide, **train) for _ in range(50)]
    pyro.clear_param_store()
    assert np.std(many) < 0.5 * np.std(few)
    assert np.mean(many) == pytest.approx(np.mean(few), abs=4 * np.std(few) / math.sqrt(200))


# ---------------------------------------------------------------- rates
def moved_parameters(model, train, **options):
    start, end = fit(model, "paper", train, steps=1, lr=0.0), fit(model, "paper", train, steps=1, **options)
    a, b = weights(start), weights(end)
    return {name: float((a[name] - b[name]).abs().max()) for name in a if a[name].is_floating_point()}


def test_learning_rate_groups_the_last_match_holds(model, train):
    moved = moved_parameters(model, train, lr=0.0, lr_groups={"guide.*": 0.1, "guide.local.*": 0.0})
    assert {name for name, change in moved.items() if change > 0} == {"guide.c_loc", "guide.c_log_scale"}
    assert moved["guide.c_loc"] == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the learning rate


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", lambda progress: 1 / (1 + progress)])
def test_schedules_multiply_the_learning_rate(model, train, schedule):
    history = fit(model, "paper", train, steps=5, lr=0.01, schedule=schedule).history
    factor = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    assert history["lr"].tolist() == pytest.approx([0.01 * factor(k / 5) for k in range(5)])


def test_schedules_go_down_to_a_small_share():
    assert SCHEDULES["linear"](0) == SCHEDULES["cosine"](0) == SCHEDULES["constant"](1) == 1
    assert SCHEDULES["linear"](1) == pytest.approx(0.02)
    assert SCHEDULES["cosine"](1) == pytest.approx(0.01)


def test_schedules_hold_for_every_group(model, train):
    half = moved_parameters(model, train, lr=0.1, lr_groups={"guide.c_*": 0.2}, schedule=lambda progress: 0.5)
    assert half["guide.c_loc"] == pytest.approx(0.1, rel=1e-3)
    assert half["model.decoder.net.0.bias"] == pytest.approx(0.05, rel=1e-3)


def test_clipping_bounds_the_step_not_the_reported_norm(model, train):
    sgd = {"optimizer": lambda groups: torch.optim.SGD(groups), "steps": 1, "lr": 1.0}
    free = fit(model, "paper", train, **sgd | {"lr": 0.0})
    clipped = fit(model, "paper", train, **sgd | {"clip": 1e-3})
    change = [clipped.model.state_dict()[k] - v for k, v in free.model.state_dict().items()]
    change += [clipped.guide.state_dict()[k] - v for k, v in free.guide.state_dict().items()]
    assert float(sum((c**2).sum() for c in change)) ** 0.5 == pytest.approx(1e-3, rel=1e-2)
    assert clipped.history["grad_norm"].tolist() == free.history["grad_norm"].tolist()
    assert clipped.history["grad_norm"][0] > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_adam_alone_steps_as_the_optimiser_does(dtype):
    ways = {}
    for way in ("kernel", "optimiser"):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(size, dtype=dtype)) for size in (5, 3, 4)]
        groups = [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.01}]
        optimizer = (Adam if way == "kernel" else torch.optim.Adam)(groups, weight_decay=0.01, fused=True)
        done = []
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            for i, parameter in enumerate(parameters):  # the second one has no gradient in some steps
                parameter.grad = None if i == 1 and step in (0, 1, 4) else torch.randn_like(parameter)
            done.append(way == "kernel" and optimizer._step_by_kernel())
            if not done[-1]:
                optimizer.step()
        ways[way] = parameters, optimizer.state_dict()["state"]
        assert done == [way == "kernel" and step not in (0, 2) for step in range(6)]  # its moments begin in step 2
    for own, other in zip(ways["kernel"][0], ways["optimiser"][0], strict=True):
        assert torch.equal(own, other)
    for i, own in ways["kernel"][1].items():
        assert all(torch.equal(value, ways["optimiser"][1][i][name]) for name, value in own.items())
    plain = Adam(parameters, lr=0.1)
    plain.step()
    assert not plain._step_by_kernel()


# ---------------------------------------------------------------- annealing
def test_annealing_rises_to_one_and_stays(model, train):
    beta = fit(model, "paper", train, steps=6, anneal=3).history["beta"]
    assert beta.tolist() == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    beta = fit(model, "paper", train, steps=4, anneal=lambda progress: progress**2).history["beta"]
    assert beta.tolist() == [0.0, 0.0625, 0.25, 0.5625]


def test_annealing_scales_what_the_guide_samples_and_nothing_else(model, train, monkeypatch):
    from pyrozoo.inference import losses

    scales = {}

    class Seeing(losses.Anneal):
        def _pyro_post_sample(self, msg):
            if msg["name"] in ("unit", "row"):
                return
            scales.setdefault(msg["name"], set()).add(float(msg["scale"]))

    monkeypatch.setattr(losses, "Anneal", Seeing)
    fit(model, "paper", train, steps=1, anneal=3)
    annealed = {name for name, scale in scales.items() if 0.25 in scale}
    assert annealed == {"c", "z", "y_unobserved"}
    assert scales["x"] == scales["y_observed"] == scales["y_head"] == {1.0}
    scales.clear()
    fit(model, "paper", train, steps=1, anneal=3, anneal_sites=("z",))
    assert {name for name, scale in scales.items() if 0.25 in scale} == {"z"}


def test_the_validation_elbo_is_never_annealed_and_counts_only_after(model, train):
    options = {"valid": train, "steps": 1, "lr": 0.0}
    plain, annealed = fit(model, "paper", train, **options), fit(model, "paper", train, anneal=5, **options)
    assert plain.history["valid_elbo"].tolist() == annealed.history["valid_elbo"].tolist()
    stopped = fit(model, "paper", train, anneal=4, valid=train, steps=20, lr=0.0, patience=2)
    assert len(stopped.history) == 4 + 1 + 2


# ---------------------------------------------------------------- early stopping
def test_early_stopping_keeps_the_best_weights(model, data):
    train, valid = data
    seen = []
    options = {"valid": valid, "patience": 3, "lr": 0.05, "seed": 1}
    fitted = fit(model, "paper", train, steps=80, callback=seen.append, **options)
    assert fitted.status == "stopped early"
    best = int(np.argmax([row["valid_elbo"] for row in seen]))
    assert len(seen) == best + 1 + 3 < 80
    assert fitted.best.final_elbo == seen[best]["valid_elbo"]
    until_best = {"steps": 80, "callback": lambda row: stop_after(row, best)} | options
    best_weights = weights(fit(model, "paper", train, **until_best))
    assert_equal(weights(fitted), best_weights)
    interrupted = {"steps": 80, "callback": lambda row: stop_after(row, best + 2)} | options
    assert_equal(weights(fit(model, "paper", train, **interrupted)), best_weights)


def stop_after(row, epoch):
    if row["epoch"] == epoch:
        raise KeyboardInterrupt


def test_validation_uses_common_random_numbers_in_eval_mode(model, data):
    train, valid = data
    fitted = fit(model, "paper", train, valid=valid, lr=0.0, steps=4)
    assert fitted.history["valid_elbo"].nunique() == 1
    assert fitted.history["elbo"].nunique() == 4
    without = fit(model, "paper", train, lr=0.01, steps=4)
    with_valid = fit(model, "paper", train, valid=valid, lr=0.01, steps=4)
    assert with_valid.history["elbo"].equals(without.history["elbo"])  # validation draws shift nothing


@pytest.mark.parametrize("guide", ["paper", "amortized", "normal"])
def test_validation_units_are_found_by_name(model, data, guide):
    train, valid = data
    rows = np.flatnonzero(valid["unit"].numpy() > 0)
    part = valid.subset(rows[::-1].copy())  # units 1 and 2 only, as positions 0 and 1
    aligned = valid.take(rows[::-1].copy())
    values = []
    for batch in (part, aligned):
        sizes = {**valid.sizes, "row": len(rows), "labelled": len(rows)}
        batch = batch if batch is part else type(batch)(**{**vars(batch), "sizes": sizes})
        values.append(fit(model, guide, train, valid=batch, steps=2).history["valid_elbo"].tolist())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_an_unknown_validation_unit_is_an_error_for_a_guide_with_parameters_per_unit(model, data):
    train, valid = data
    strange = type(valid)(**{**vars(valid), "coords": {**valid.coords, "unit": np.array([0, 1, 9])}})
    with pytest.raises(KeyError, match=r"unknown unit\(s\) \[9\].*'amortized' in this zoo"):
        fit(model, "paper", train, valid=strange)
    assert np.isfinite(fit(model, "amortized", train, valid=strange).history["valid_elbo"]).all()


# ---------------------------------------------------------------- warm start
def test_a_warm_start_begins_at_the_other_fits_weights(model, train):
    first = fit(model, "normal", train, steps=10)
    kept = weights(first)
    still = fit(model, "normal", train, steps=1, lr=0.0, warm_start=first, seed=9)
    assert_equal(weights(still), kept)
    more = fit(model, "normal", train, steps=5, warm_start=first, seed=9)
    assert differ(weights(more), kept)
    assert_equal(weights(first), kept)


def table(units, n=6, seed=0, columns=("u", "v")):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n * len(units), 2)), columns=["u", "v"])
    frame = frame.assign(unit=np.repeat(units, n), q=frame["u"] + rng.normal(size=len(frame)))
    return zoo.Batch.from_dataframe(frame, unit="unit", x=list(columns), y="q")


@pytest.mark.parametrize("guide", ["paper", "mvn", "flow", "delta", "normal", AutoDelta])
def test_a_warm_start_finds_units_by_name(guide):
    first = fit(zoo.create_model("ssmtl", table(list("abc")), **SMALL), guide, table(list("abc")), steps=20)
    other = table(["d", "c", "e", "a"])
    model = zoo.create_model("ssmtl", other, **SMALL)
    warm = fit(model, guide, other, steps=1, lr=0.0, seed=5, warm_start=first)
    fresh = fit(model, guide, other, steps=1, lr=0.0, seed=5)
    tables = [name for name in weights(fresh) if name.startswith(("guide.c_", "guide.auto."))]
    assert tables
    old, new, drawn = weights(first), weights(warm), weights(fresh)
    for name in tables:
        assert torch.equal(new[name][[1, 3]], old[name][[2, 0]])
        assert torch.equal(new[name][[0, 2]], drawn[name][[0, 2]])
    assert_equal({k: v for k, v in new.items() if k not in tables}, {k: v for k, v in old.items() if k not in tables})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": table(list("abc"), columns=("v", "u"))}, r"input: the batch has \['v', 'u'\] where .*\['u', 'v'\]"),
        ({"guide": "mvn"}, r"guide of that fit \(PaperGuide\) has other parameters than this one \(MVNGuide\)"),
        ({"model": {"c_dim": 3}}, r"shape .* here and .* in that fit; give .* arguments: c_dim=2 there and 3 here"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused_by_name(change, message):
    first = fit(zoo.create_model("ssmtl", table(list("abc")), **SMALL), "paper", table(list("abc")))
    train = change.get("train", table(list("abc")))
    model = zoo.create_model("ssmtl", train, **SMALL | change.get("model", {}))
    with pytest.raises(ValueError, match=message):
        fit(model, change.get("guide", "paper"), train, warm_start=first)


def test_a_joint_table_of_units_is_taken_only_in_the_same_order():
    data = table(list("abc"))
    model = zoo.create_model("ssmtl", data, **SMALL)
    first = fit(model, AutoMultivariateNormal, data)
    assert_equal(weights(fit(model, AutoMultivariateNormal, data, lr=0.0, warm_start=first)), weights(first))
    with pytest.raises(ValueError, match="AutoMultivariateNormal has one joint table over the units"):
        fit(model, AutoMultivariateNormal, table(list("bac")), warm_start=first)


def test_a_model_made_for_other_data_is_refused_before_training():
    model = zoo.create_model("ssmtl", table(list("abc")), **SMALL)
    with pytest.raises(ValueError, match="the model was made for 3, but the data have 5"):
        fit(model, "paper", table(list("abcde")))


# ---------------------------------------------------------------- interruption
def test_an_interrupted_fit_is_usable(model, train, tmp_path):
    fitted = fit(model, "paper", train, steps=9, restarts=3, callback=lambda row: stop_after(row, 2))
    assert fitted.status == "interrupted"
    assert len(fitted.runs) == 1
    assert fitted.history["epoch"].tolist() == [0, 1, 2]
    assert_equal(weights(fitted), weights(fit(model, "paper", train, steps=9, callback=lambda row: stop_after(row, 2))))
    assert np.isfinite(zoo.predict(fitted, train, draws=2).to_numpy()).all()
    assert zoo.load(fitted.save(tmp_path / "run")).status == "interrupted"


def test_an_interruption_inside_an_epoch_goes_back_to_the_last_whole_one(model, train, monkeypatch):
    from pyrozoo.inference import loop as training

    whole = fit(model, "paper", train, steps=12, batch_size=10, callback=lambda row: stop_after(row, 1))
    steps = iter(range(100))
    original = training.Training._update

    def update(self, *arguments):
        if next(steps) == 7:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(training.Training, "_update", update)
    inside = fit(model, "paper", train, steps=12, batch_size=10)
    assert inside.status == "interrupted"
    assert inside.history.equals(whole.history)
    assert_equal(weights(inside), weights(whole))


def test_an_interruption_before_the_first_epoch_leaves_the_start(model, train, monkeypatch):
    from pyrozoo.inference import loop as training

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_one_epoch", interrupt)
    fitted = fit(model, "paper", train)
    assert fitted.status == "interrupted"
    assert len(fitted.history) == 0
    assert len(zoo.predict(fitted, train, draws=2)) == 30


# ---------------------------------------------------------------- non-finite losses
class Fragile(nn.Module):
    """A learnable prior of c that turns bad at the n-th call of a training step."""

    def __init__(self, n, bad):
        super().__init__()
        self.n, self.bad, self.calls = n, bad, 0
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self):
        self.calls += self.training
        loc = self.loc * (self.bad if self.calls > self.n else 1.0) + (self.bad if self.calls > self.n else 0.0)
        return dist.Normal(loc, 1.0).to_event(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("validate", [True, False, None])
def test_a_non_finite_loss_names_step_and_site_and_keeps_the_last_good_state(train, bad, validate):
    model = zoo.create_model("ssmtl", train, **SMALL, priors={"c": Fragile(6, bad)})
    with pytest.raises(NonFiniteLoss, match=r"step \d+: .*site 'c'.*\.fit.*Try a smaller") as caught:
        fit(model, "paper", train, steps=20, batch_size=10, validate=validate)
    fitted = caught.value.fit
    assert fitted.status == "failed"
    n = len(fitted.history)
    assert 1 <= n < 6
    step = int(str(caught.value).split()[1].rstrip(":"))
    assert 3 * n < step <= 3 * (n + 1)  # the first step of an epoch shows whether the one before ended well
    good = fit(zoo.create_model("ssmtl", train, **SMALL, priors={"c": Fragile(99, bad)}), "paper", train,
               steps=20, batch_size=10, callback=lambda row: stop_after(row, n - 1))  # fmt: skip
    assert_equal(weights(fitted), weights(good))
    assert fitted.history.equals(good.history)


def test_a_diverging_fit_gives_one_error_and_no_warning(model, train):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NonFiniteLoss, match=r"step \d+: "):
            fit(model, "paper", train, steps=50, lr=1e20, validate=False)
    assert [str(w.message) for w in caught] == []


def test_an_error_that_is_no_matter_of_numbers_stays_as_it_is(model, train):
    class Broken(PyroModule):
        def __init__(self, model):
            super().__init__()
            self.guide, self.calls = PaperGuide(model), 0

        def forward(self, sizes, **batch):
            self.calls += 1
            if self.calls > 3:
                raise ValueError("broken guide")
            self.guide(sizes=sizes, **batch)

    with pytest.raises(ValueError, match="broken guide") as caught:
        fit(model, Broken, train)
    assert not isinstance(caught.value, NonFiniteLoss)


# ---------------------------------------------------------------- checkpoints
def test_checkpoints_do_not_change_the_fit(model, train, tmp_path):
    plain = fit(model, "paper", train, batch_size=7, restarts=2)
    written = fit(model, "paper", train, batch_size=7, restarts=2, checkpoint=tmp_path)
    assert_equal(weights(plain, 1), weights(written, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0.safetensors", "run-1.safetensors"]


def test_resuming_a_finished_fit_repeats_nothing(model, train, tmp_path):
    first = fit(model, "paper", train, checkpoint=tmp_path)
    rows = []
    second = fit(model, "paper", train, checkpoint=tmp_path, resume=True, callback=rows.append)
    assert rows == []
    assert second.status == "finished"
    assert second.history.equals(first.history)
    assert_equal(weights(first), weights(second))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam])
def test_an_interrupted_fit_resumes_bit_identically(model, train, tmp_path, optimizer):
    options = {"steps": 15, "batch_size": 10, "lr": 1e-4, "optimizer": optimizer}
    whole = fit(model, "paper", train, **options)
    fit(model, "paper", train, checkpoint=tmp_path, callback=lambda row: stop_after(row, 2), **options)
    resumed = fit(model, "paper", train, checkpoint=tmp_path, resume=True, **options)
    assert resumed.history.equals(whole.history)
    assert_equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lr": 0.02}, "settings"),
        ({"particles": 2}, "settings"),
        ({"seed": 1}, "seed"),
        ({"train": "other"}, "data"),
        ({"valid": "other"}, "validation data"),
        ({"model": {"alpha": 2.0}}, "model"),
        ({"model": {"priors": {"c": dist.Normal(0.0, 2.0)}}}, "model"),
        ({"guide": "normal"}, "guide"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else next(iter(value)),
)
def test_resuming_with_anything_else_is_refused(data, tmp_path, change, what):
    train, valid = data
    asked = {"model": {}, "guide": "paper", "train": train, "valid": valid}

    def run(model, guide, train, **options):
        return fit(zoo.create_model("ssmtl", data[0], **SMALL | model), guide, train, checkpoint=tmp_path, **options)

    run(**asked)
    other = train.relabel(np.arange(30) % 5 > 0) if "train" in change else valid.relabel(np.arange(12) % 3 > 0)
    change = {k: other if v == "other" else v for k, v in change.items()}
    with pytest.raises(ValueError, match=f"run-0.safetensors: made with other {what}; choose another checkpoint f"):
        run(**asked | change, resume=True)
    assert run(**asked, resume=True).status == "finished"


@pytest.mark.parametrize("patience", [None, 50])
@pytest.mark.parametrize("optimizer", [{}, {"optimizer": torch.optim.Adagrad}])
def test_a_finished_fit_is_trained_longer_as_if_it_had_been_one_fit(model, data, tmp_path, optimizer, patience):
    train, valid = data
    options = {"patience": patience, **optimizer} | ({} if patience is None else {"valid": valid})
    options |= {"batch_size": 10, "schedule": "constant"}  # 3 steps per epoch
    whole = fit(model, "paper", train, steps=12, **options)
    fit(model, "paper", train, steps=6, checkpoint=tmp_path, **options)
    longer = fit(model, "paper", train, steps=12, checkpoint=tmp_path, resume=True, **options)
    assert longer.status == "finished"
    assert longer.history.equals(whole.history)
    assert_equal(weights(longer), weights(whole))
    again = fit(model, "paper", train, steps=15, checkpoint=tmp_path, resume=True, **options)
    assert again.history["step"].tolist() == [3, 6, 9, 12, 15]
    with pytest.raises(ValueError, match=r"at step 15, more than the 12 of this fit; give more steps"):
        fit(model, "paper", train, steps=12, checkpoint=tmp_path, resume=True, **options)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_refused(model, train, tmp_path, keep):
    fit(model, "paper", train, checkpoint=tmp_path)
    file = tmp_path / "run-0.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"run-0.safetensors: not a complete safetensors file"):
        fit(model, "paper", train, checkpoint=tmp_path, resume=True)


def test_a_foreign_checkpoint_is_refused(model, train, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "run-0.safetensors")
    with pytest.raises(ValueError, match=r"run-0.safetensors: no checkpoint of a fit"):
        fit(model, "paper", train, checkpoint=tmp_path, resume=True)


# ---------------------------------------------------------------- killed and resumed, in processes of their own
JOB = """
import json, os, signal, sys, time
from pathlib import Path
import torch
import pyrozoo as zoo
from pyrozoo.inference.loop import Training
from pyrozoo.models.ssmtl import simulate
torch.set_num_threads(1)
folder = Path(sys.argv[1])
train, valid = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=4)
model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=6, depth=1, floor=0.02)
update = Training._update
def slow(self, *arguments):
    time.sleep(0.01)
    return update(self, *arguments)
def fit(**options):
    fitted = zoo.fit(
        model, "paper", train, epochs=14, batch_size=8, particles=2, lr=0.03, restarts=3, seed=2, valid=valid,
        patience=3, schedule="cosine", progress=False, **options,
    )
    return [{
        "status": run.status, "history": run.history.to_dict("list"),
        "weights": {k: v.flatten().tolist() for part in (run.model, run.guide) for k, v in part.state_dict().items()},
    } for run in fitted.runs]
def killed(epochs, wait, resume):  # a process that has imported all; how it ended, and its checkpoints
    end, start = os.pipe()
    number = os.fork()
    if not number:
        Training._update = slow
        fit(checkpoint=folder, resume=resume, callback=lambda row: os.write(start, b"."))
        os._exit(0)
    for _ in range(epochs):
        os.read(end, 1)
    time.sleep(wait)
    os.kill(number, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), len(list(folder.glob("run-*.safetensors")))]
number = os.fork()  # autograd, once used, stands no fork, so that the uninterrupted fit has a process of its own, too
if not number:
    Path(f"{folder}.json").write_text(json.dumps(fit()))
    os._exit(0)
os.waitpid(number, 0)
whole = json.loads(Path(f"{folder}.json").read_text())
first, second, _ = (len(run["history"]["epoch"]) for run in whole)
# in the first, the second and the third run, each time some steps into its third epoch
ends = [killed(*when, i > 0) for i, when in enumerate([(2, 0.03), (first, 0.045), (second, 0.02)])]
print(json.dumps([ends, fit(checkpoint=folder, resume=True), whole]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_a_fit_killed_at_any_moment_resumes_to_bit_identical_history_and_weights(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path / "kept")], capture_output=True, text=True, check=False, timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends, resumed, whole = json.loads(done.stdout.splitlines()[-1])
    assert ends == [[-signal.SIGKILL, 1], [-signal.SIGKILL, 2], [-signal.SIGKILL, 3]]
    assert [run["status"] for run in whole].count("stopped early") > 0
    assert len(whole[0]["weights"]) > 10
    assert resumed == whole


SIGINT_JOB = """
import sys
import torch
import pyrozoo as zoo
from pyrozoo.models.ssmtl import simulate
torch.set_num_threads(1)
train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=4)
model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=6, depth=1)
fit = zoo.fit(model, "paper", train, steps=10**6, batch_size=8, progress=False, restarts=2,
              callback=lambda row: print(row["epoch"], flush=True))
prediction = zoo.predict(fit, train, draws=2)
fit.save(sys.argv[1])
loaded = zoo.load(sys.argv[1])
assert zoo.predict(loaded, train, draws=2).equals(prediction)
print(loaded.status, len(loaded.runs), len(loaded.history) >= 3, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_control_c_ends_a_fit_that_can_still_be_used_and_saved(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SIGINT_JOB, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "interrupted 1 True"


def test_a_checkpoint_is_not_overwritten(model, train, tmp_path):
    fit(model, "paper", train, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="resume=True goes on"):
        fit(model, "paper", train, checkpoint=tmp_path)


def test_strata_of_two_targets_are_refused():
    rows = {"y": [1.0, 2.0], "k": [0, 1]}
    two = zoo.Batch.from_arrays(rows=rows, labels={"y": [True, False], "k": [True, False]})
    with pytest.raises(ValueError, match="count rows twice"):
        list(sample_minibatches(two, dict.fromkeys(two.strata, 1), torch.Generator()))


def test_validation_counts_the_contexts_per_row_as_training_does(train):
    """The KL of the contexts belongs to all rows: the same rows twice have the same ELBO per row."""
    twice = train.subset(torch.arange(train.n_rows).repeat(2))
    discriminative = MTL(**MTL.sizes_from(train), width=4, depth=1, c_dim=2)
    once, doubled = (
        fit(discriminative, PaperGuide, train, valid=v, steps=1, lr=0.0, valid_particles=200)
        .history["valid_elbo"]
        .item()
        for v in (train, twice)
    )
    kl_per_row = 2.5 * 2 * train.sizes["unit"] / train.n_rows  # KL of N(0, e^-3) from N(0, 1) is 2.5 nats
    assert abs(once - doubled) < 0.1 * kl_per_row  # counted in full it would be 0.5
