"""m3sense: transfer to other tasks, and what does not move while parts are frozen."""

import copy
import re
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyrozoo as zoo
from pyrozoo import priors
from pyrozoo.models import m3sense
from pyrozoo.models.m3sense.data.arrays import from_arrays
from pyrozoo.models.m3sense.data.batches import merge
from pyrozoo.models.m3sense.nets import FROZEN

SMALL = {"embedding": 12, "lstm_layers": 2, "hidden": (24, 16), "head": 12, "dropout": 0.2, "lstm_dropout": 0.2}
LATENT = {"a_dim": 3, "q_hidden": 16, "gamma": 0.05}
VARIANTS = ("m3sense", "latent", "generative", "unaligned")
QUIET = {"progress": False}


def refuses(message):
    return pytest.raises(ValueError, match=re.escape(message))


def levels(task, n=60, seed=0, samples=(20, 10), **arguments):
    """Windows of two signals about levels of their own; tasks: which level is high, "corner" says both."""
    rng = np.random.default_rng(seed)
    high = rng.integers(2, size=(n, 2))
    signals = {
        name: 5 + 2 * high[:, [k]] + rng.normal(size=(n, t))
        for k, (name, t) in enumerate(zip(("bvp", "temp"), samples, strict=True))
    }
    labels = {"pulse": high[:, 0], "heat": high[:, 1], "corner": high[:, 0] + 2 * high[:, 1]}.get(task)
    classes = {"corner": ("neither", "pulse", "heat", "both")}.get(task, ("low", "high"))
    names = None if labels is None else [classes[k] for k in labels]
    known = {"classes": classes} if names else {}
    subjects = [f"s{i % 4}" for i in range(n)]
    return from_arrays(signals, names, subjects, task, dataset=f"{task}-{seed}", name=task, **known, **arguments)


def fitted(variant, epochs=2, n=60, **arguments):
    data = merge([levels("pulse", n, seed=1), levels("heat", n, seed=2)])
    sizes = SMALL | ({} if variant == "unaligned" else LATENT)
    model = zoo.create_model("m3sense", data, variant=variant, **{**sizes, **arguments})
    return zoo.fit(
        model, "none" if variant == "unaligned" else "paper", data, epochs=epochs, batch_size=32, lr=5e-3, **QUIET
    )


@pytest.fixture(scope="module")
def fits():
    """A hardly trained fit of every variant."""
    return {variant: fitted(variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def fit(fits):
    return fits["m3sense"]


def state(fit):
    found = {f"model.{k}": v.clone() for k, v in fit.model.state_dict().items()}
    return found | {f"guide.{k}": v.clone() for k, v in fit.guide.state_dict().items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ------------------------------------------------------------------ what is carried over
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fit_of_the_same_tasks_starts_as_the_fit(fits, variant):
    fit, data = fits[variant], merge([levels("heat", seed=3), levels("pulse", seed=4)])
    start = m3sense.transfer(fit, data)
    assert list(start.model.tasks) == ["pulse", "heat"]
    assert changed(state(fit), state(start)) == set()
    found, expected = (zoo.predict(one, data, draws=8).select_dtypes("number") for one in (start, fit))
    assert np.allclose(found, expected, atol=1e-6)
    assert start.status == "untrained"
    assert start.history.empty
    assert start.data["sha256"] == data.sha256
    assert start.prototype.coords["y_heat_class"].tolist() == ["low", "high"]


@pytest.mark.parametrize("variant", ["m3sense", "unaligned"])
def test_predictions_of_one_known_task_are_those_of_the_fit(fits, variant):
    heat = levels("heat", seed=3, samples=(26, 12))
    start = m3sense.transfer(fits[variant], heat)
    assert start.model.targets == ("y_heat",)
    expected = zoo.predict(fits[variant], heat, draws=2)
    found = zoo.predict(start, heat, draws=2)
    assert np.allclose(found["y_heat.p[high]"], expected["y_heat.p[high]"], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_carried_to_where_they_belong(fits, variant):
    fit = fits[variant]
    start = m3sense.transfer(fit, merge([levels("corner", seed=3), levels("heat", seed=4)]), like="heat")
    assert list(start.model.tasks) == ["heat", "corner"]
    old, new = state(fit), state(start)
    for name in new:
        if re.search(r"encoders|fusion\.(norm|key|value)|signal", name):
            assert torch.equal(new[name], old[name]), name
        if re.search(r"(heads|classifiers|class_logits|places|networks)\.0", name):
            assert torch.equal(new[name], old[re.sub(r"\.0", ".1", name, count=1)]), name
        if "heads.1" in name:
            assert torch.equal(new[name], old[name]), name
    query, theirs = new["model.representation.fusion.query"], old["model.representation.fusion.query"]
    assert torch.equal(query, torch.stack([theirs[1], theirs.mean(0)]))
    first = m3sense.transfer(fit, levels("corner"))
    name = "model.representation.heads.0.3.weight"
    assert torch.equal(state(first)[name], old[name])


def test_new_heads_are_new_and_the_rest_is_not(fits):
    for variant, heads in {"m3sense": "classifiers", "generative": "class_logits|places"}.items():
        data = merge([levels("pulse"), levels("heat", seed=4)])
        start = m3sense.transfer(fits[variant], data, new_heads=True)
        names = changed(state(fits[variant]), state(start))
        assert names == {name for name in names if re.search(heads, name)} != set()
    keeps = m3sense.transfer(fits["generative"], levels("heat"))
    assert torch.equal(keeps.model.places[0], fits["generative"].model.places[1])
    assert keeps.model.decoder[0].weight.shape == (12, 3)


def test_fusion_that_tasks_share_is_carried_over():
    fit = fitted("unaligned", epochs=1, fusion="concat", unimodal="self")
    start = m3sense.transfer(fit, levels("corner"))
    name = "model.representation.encoders.bvp.attend.in_proj_weight"
    assert torch.equal(state(start)[name], state(fit)[name])


def test_domains_are_carried_over_as_far_as_their_tasks_are():
    fit = fitted("generative-domain", epochs=1)
    start = m3sense.transfer(fit, merge([levels("corner", seed=3), levels("heat", seed=4)]))
    old, new = fit.model.shifts.detach(), start.model.shifts.detach()  # (task, domain, latent)
    assert torch.equal(new[0, 0], old[1, 1])
    assert (old != 0).all()
    assert not any(torch.equal(part, one) for part in (new[0, 1], *new[1]) for one in old.flatten(0, 1))
    logits = fit.model.domain_logits
    assert torch.equal(start.model.domain_logits, torch.stack([logits[1], logits.mean()]))
    with refuses("tasks: ['corner'] make one domain"):
        m3sense.transfer(fit, levels("corner"))


def test_transfer_is_determined_by_its_seed_and_leaves_everything_alone(fit):
    data, before, random = levels("corner"), state(fit), torch.get_rng_state()
    one, same, other = (m3sense.transfer(fit, data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), random)
    assert changed(state(one), state(same)) == set()
    assert "model.classifiers.0.0.weight" in changed(state(one), state(other))
    zoo.fit(one.model, one.guide_name, data, warm_start=one, steps=1, **QUIET)
    assert changed(before, state(fit)) == changed(state(one), state(same)) == set()
    assert one.model.config["signal_loc"] == fit.model.config["signal_loc"]


def test_arguments_that_no_weight_depends_on_can_change():
    fit = fitted("m3sense", epochs=1, priors={"a_heat": dist.Normal(1.0, 1.0), "a_pulse": priors.LearnedScale()})
    assert set(m3sense.transfer(fit, levels("heat")).model.config["priors"]) == {"a_heat"}
    pulse = m3sense.transfer(fit, levels("pulse"))
    assert pulse.model.state_dict().keys() >= {k for k in fit.model.state_dict() if k.startswith("prior_modules.")}
    start = m3sense.transfer(fit, levels("pulse"), gamma=2.0, dropout=0.0, priors={})
    assert start.model.gamma == 2.0
    assert start.model.representation.heads[0][2].p == 0.0
    assert not len(start.model.prior_modules)


# ------------------------------------------------------------------ what is frozen
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_representation_does_not_move_and_the_head_does(fits, variant):
    data = levels("corner", n=33)  # one minibatch of a single window: no batch statistics are needed
    start = m3sense.transfer(fits[variant], data)
    tuned = zoo.fit(
        start.model, start.guide_name, data, warm_start=start, epochs=2, batch_size=16, lr=0.01,
        optimizer=lambda groups: torch.optim.AdamW(groups, weight_decay=0.1), **QUIET,
    )  # fmt: skip
    moved = changed(state(start), state(tuned))
    trained = {f"model.{k}" for k, p in tuned.model.named_parameters() if not k.startswith("representation.")}
    trained |= {f"guide.{k}" for k, _ in tuned.guide.named_parameters()}
    assert moved == trained
    model = start.model.train()
    assert model.training
    copies = (model, model.fresh(), tuned.model.train(), model.to("cpu", torch.float64))
    for representation in (copy.deepcopy(model.representation).train(), *(one.representation for one in copies)):
        assert not any(p.requires_grad for p in representation.parameters())
        assert not any(part.training for part in representation.modules())


@pytest.mark.parametrize("frozen", ["none", "encoders"])
def test_what_is_not_frozen_is_trained(fit, frozen):
    data = levels("corner", n=32)
    start = m3sense.transfer(fit, data, frozen=frozen)
    tuned = zoo.fit(start.model, "paper", data, warm_start=start, epochs=2, batch_size=16, lr=0.01, **QUIET)
    moved = changed(state(start), state(tuned))
    assert any("encoders" in name for name in moved) == (frozen == "none")
    assert {"model.representation.fusion.query", "model.representation.fusion.norm.running_mean"} <= moved
    assert {"model.representation.heads.0.3.weight", "model.classifiers.0.0.weight"} <= moved
    model = start.model.train()
    assert model.representation.heads.training
    assert model.representation.encoders.training == (frozen == "none")


# ------------------------------------------------------------------ uses
@pytest.mark.parametrize("variant", ["latent", "unaligned"])
def test_a_new_task_is_learnt_by_its_head_alone(variant):
    fit = fitted(variant, epochs=10, n=160)
    few, test = levels("corner", n=60, seed=15), levels("corner", n=200, seed=6)
    start = m3sense.transfer(fit, few)
    tuned = zoo.fit(start.model, start.guide_name, few, warm_start=start, epochs=60, lr=0.02, **QUIET)
    before, after = (zoo.metrics(one, test, draws=20)["y_corner.accuracy"] for one in (start, tuned))
    assert before < 0.5 < 0.7 < after  # four classes


def test_save_and_load(fit, tmp_path):
    data = levels("corner")
    start = m3sense.transfer(fit, data, frozen="encoders")
    start.save(tmp_path / "start")
    found = zoo.load(tmp_path / "start")
    assert found.status == "untrained"
    assert found.settings["transfer"]["from"]["name"] == "pulse + heat"
    assert changed(state(start), state(found)) == set()
    assert not found.model.train().representation.encoders.training
    again = m3sense.transfer(found, data)  # also from a fit that was loaded
    assert changed(state(start), state(again)) == set()
    tuned = zoo.fit(found.model, found.guide_name, data, warm_start=found, steps=1, **QUIET)
    assert tuned.status == "finished"


# ------------------------------------------------------------------ errors
def test_a_word_that_is_no_choice_is_refused(fit):
    with refuses(f"frozen: 'all' is none of {list(FROZEN)}"):
        m3sense.transfer(fit, levels("corner"), frozen="all")


def test_data_of_another_kind_are_refused(fit):
    corner = levels("corner")
    without = replace(corner, tensors={k: v for k, v in corner.tensors.items() if k != "temp"})
    with refuses("modalities: the data have ['bvp'] where the fit has ['bvp', 'temp']; give windows of the same"):
        m3sense.transfer(fit, without)
    with refuses("temp: windows of 4 samples are shorter than the segment of 5 of the fit; make longer ones"):
        m3sense.transfer(fit, levels("corner", samples=(20, 4), segment=4))
    with refuses("labels: no window has one; give labelled windows, or predict with the fit itself"):
        m3sense.transfer(fit, levels(None))
    with refuses("labels: no window has one"):
        m3sense.transfer(fit, corner.hide())
    both = merge([corner, levels("heat")])
    with refuses("task 'corner': no window has its label and the fit does not know it; leave it out"):
        m3sense.transfer(fit, both.relabel(np.zeros(both.n_rows, bool), "y_corner"))
    with refuses("standardised: subject where the data of the fit have None; treat both alike"):
        m3sense.transfer(fit, m3sense.standardise(corner))


def test_rates_that_differ_are_refused_where_both_are_known(fit):
    start = m3sense.transfer(fit, levels("corner", rates={"bvp": 4.0, "temp": 2.0}))
    with refuses("rates: {'bvp': 8.0, 'temp': 4.0} where the data of the fit have {'bvp': 4.0, 'temp': 2.0}"):
        m3sense.transfer(start, levels("corner", rates={"bvp": 8.0, "temp": 4.0}))


def test_other_classes_of_a_known_task_are_refused(fit):
    heat = levels("heat")
    other = replace(heat, coords={**heat.coords, "y_heat_class": np.array(["high", "low"])})
    with refuses(
        "task 'heat': the data have the classes ['high', 'low'] where the fit has ['low', 'high']; give the same in "
        "the same order, or call the task otherwise to learn it anew"
    ):
        m3sense.transfer(fit, other)
    unnamed = replace(heat, coords={k: v for k, v in heat.coords.items() if k != "y_heat_class"})
    m3sense.transfer(fit, unnamed)
    unnamed.tensors["y_heat"][0] = 2
    with refuses("task 'heat': the data have 3 classes where the fit has 2"):
        m3sense.transfer(fit, unnamed)


def test_wrong_arguments_are_refused(fit, fits):
    with refuses("like: 'fear' is no task of the fit; there are ['pulse', 'heat']"):
        m3sense.transfer(fit, levels("corner"), like="fear")
    with refuses("embedding: it belongs to the weights of the fit"):
        m3sense.transfer(fit, levels("corner"), embedding=7)
    with pytest.raises(TypeError, match="gamma"):
        m3sense.transfer(fits["unaligned"], levels("corner"), gamma=1.0)


def test_fits_that_cannot_be_made_anew_are_refused(fit):
    with refuses("fit: its guide 'PaperGuide (own)' is none of ['paper', 'lowrank', 'delta', 'none']"):
        m3sense.transfer(replace(fit, guide_name="PaperGuide (own)"), levels("corner"))
    model = m3sense.M3Sense(**fit.model.config)
    own = replace(fit, runs=[replace(fit.runs[0], model=model)])
    with refuses("fit: its M3Sense is no model that create_model('m3sense', ...) made"):
        m3sense.transfer(own, levels("corner"))
