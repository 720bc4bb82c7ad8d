"""The data of the auxvae entry: simulated gait, its difficulty, batches of trials, people left out, and files."""

import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pyrozoo.data.batch import Batch
from pyrozoo.models.auxvae.data import batches, readers, simulator
from pyrozoo.models.auxvae.data import datasets as data
from pyrozoo.models.auxvae.data.simulator import CHANNELS, LOADS_LB, STYLES, Gait, resample, simulate
from pyrozoo.models.auxvae.experiments import probe

RIGHT, LEFT, BOTH, ANTERIOR = range(4)
ACC = [k for k, name in enumerate(CHANNELS) if "_acc_" in name]
GYRO = [k for k, name in enumerate(CHANNELS) if "_gyro_" in name]
QUIET = Gait(trial=0.0, jitter=0.0, acc_noise=0.0, gyro_noise=0.0)


def refuses(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


def by_condition(batch: Batch, values: np.ndarray) -> np.ndarray:
    """Simulated loaded walks by person, style and load: (N, ...) -> (people, 4, 4, ...)."""
    return values.reshape(batch.sizes["participant"], len(STYLES), len(LOADS_LB), *values.shape[1:])


def summaries(batch: Batch) -> np.ndarray:
    """Mean, log sd and log mean step by person, style, load and channel: (people, 4, 4, 3, S)."""
    values = by_condition(batch, probe.features(batch["x"].numpy()))
    return values.reshape(*values.shape[:3], 3, -1)


def means(batch: Batch, channel: str) -> np.ndarray:
    """Mean of a channel over time, less that of the person's unloaded walk: (people, style, load)."""
    k = CHANNELS.index(channel)
    own = batch["x_aux"][:, :, k].mean(1).numpy()
    return by_condition(batch, batch["x"][:, :, k].mean(1).numpy()) - own[:, None, None]


@pytest.fixture(scope="module")
def default() -> Batch:
    """The default data set."""
    return data.DATASETS["simulated"]()


@pytest.fixture(scope="module")
def by_effect() -> dict[float, Batch]:
    """Four people with the same random numbers, without and with effects of loads."""
    return {effect: simulate(3, 4, n_steps=60, duration_s=5.0, gait=Gait(effect=effect)) for effect in (0.0, 1.0)}


# ------------------------------------------------------------------ parts of the simulated data
def test_channels_are_sites_by_sensors_by_axes():
    assert len(CHANNELS) == len(set(CHANNELS)) == 72
    assert len(ACC) == len(GYRO) == 36
    assert CHANNELS[:6] == tuple(f"left_thigh_{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz")


def test_simulated_data_have_their_parts():
    batch = simulate(5, n_participants=3, n_steps=50, duration_s=2.0)
    assert batch.n_rows == batch.sizes["row"] == 48
    assert batch.groups == ("participant",)
    assert batch.sizes["participant"] == 3
    assert batch["x"].shape == (48, 50, 72)
    assert batch["x_aux"].shape == (3, 50, 72)
    assert batch["y"].shape == batch["style"].shape == batch["participant"].shape == (48,)
    assert batch["x"].dtype == batch["x_aux"].dtype == batch["y"].dtype == torch.get_default_dtype()
    assert batch["style"].dtype == batch["participant"].dtype == torch.int64
    assert dict(batch.dims) == {"x": ("time", "channel"), "x_aux": ("aux_time", "channel")}
    assert batch.along["x"] == batch.along["y"] == batch.along["style"] == "row"
    assert batch.along["x_aux"] == "participant"
    assert batch.coords["participant"].tolist() == ["P01", "P02", "P03"]
    assert batch.coords["channel"].tolist() == list(CHANNELS)
    assert batch.coords["style_class"].tolist() == list(STYLES)
    assert dict(batch.info) == {"name": "simulated gait", "simulated": True, "seed": 5}


def test_every_person_walks_with_every_style_and_load_and_all_labels_are_known():
    batch = simulate(0, n_participants=2, n_steps=20, duration_s=1.0)
    conditions = list(zip(batch.group_names("participant"), batch["style"].tolist(), batch["y"].tolist(), strict=True))
    assert conditions == [(p, style, load) for p in ("P01", "P02") for style in range(4) for load in LOADS_LB]
    assert dict(batch.labels) == {"y": "labelled", "style": "style_labelled"}
    assert batch["labelled"].all()
    assert batch["style_labelled"].all()


def test_the_truth_holds_labels_and_what_people_are():
    gait = Gait(mass_kg=60.0, mass_sd=5.0, sensitivity_sd=0.2)
    batch = simulate(0, n_participants=40, n_steps=2, duration_s=0.1, gait=gait)
    assert set(batch.truth) == {"load", "style", "mass_kg", "sensitivity"}
    assert {name: batch.along[name] for name in batch.truth} == {
        "load": "row", "style": "row", "mass_kg": "participant", "sensitivity": "participant",
    }  # fmt: skip
    np.testing.assert_array_equal(batch.truth["load"], batch["y"])
    np.testing.assert_array_equal(batch.truth["style"], batch["style"])
    mass, sensitivity = batch.truth["mass_kg"], batch.truth["sensitivity"]
    assert mass.shape == sensitivity.shape == (40,)
    assert abs(mass.mean() - 60) < 4 * 5 / np.sqrt(40)
    assert mass.std() == pytest.approx(5, rel=0.45)
    assert np.log(sensitivity).std() == pytest.approx(0.2, rel=0.45)
    part = batch.subset(np.arange(16, 32))
    assert part.truth["mass_kg"].tolist() == [mass[1]]
    assert part.truth["load"].tolist() == list(LOADS_LB) * 4


def test_the_truth_is_no_tensor_that_a_model_sees():
    assert not {"load", "mass_kg", "sensitivity"} & set(simulate(0, 1, n_steps=10, duration_s=1.0))


def test_the_same_seed_gives_the_same_data_and_another_one_others():
    options = {"n_participants": 2, "n_steps": 20, "duration_s": 1.0}
    assert simulate(4, **options).sha256 == simulate(4, **options).sha256
    assert simulate(4, **options).sha256 != simulate(5, **options).sha256


def test_the_default_gait_is_the_default():
    assert simulate(0, 1).sha256 == simulate(0, 1, 120, 10.0, Gait()).sha256


def test_more_people_leave_the_first_as_they_are(default):
    few, many = simulate(0, n_participants=2), default
    torch.testing.assert_close(many["x_aux"][:2], few["x_aux"], rtol=0, atol=0)
    torch.testing.assert_close(many["x"][: few.n_rows], few["x"], rtol=0, atol=0)
    np.testing.assert_array_equal(many.truth["mass_kg"][:2], few.truth["mass_kg"])


def test_one_person_is_enough():
    batch = simulate(0, n_participants=1)
    assert batch["x"].shape == (16, 120, 72)
    assert batch["x_aux"].shape == (1, 120, 72)
    assert batch.coords["participant"].tolist() == ["P01"]


def test_signals_have_the_sizes_of_gait(default):
    x = default["x"].numpy()
    norm = np.linalg.norm(x[:, :, ACC].reshape(*x.shape[:2], 12, 3), axis=-1)
    assert 0.9 < norm.mean() < 1.6  # gravity and movement [g]
    assert norm.max() < 15
    feet = np.abs(x[:, :, CHANNELS.index("right_foot_gyro_y")]).max(1)
    assert 150 < np.median(feet) < 1000  # [deg/s]
    assert np.abs(x[:, :, GYRO].mean(1)).max() < 60  # nobody turns round


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_participants": 0}, "n_participants: 0; a whole number of at least 1 is needed"),
        ({"n_participants": -2}, "n_participants: -2; a whole number of at least 1 is needed"),
        ({"n_steps": 1}, "n_steps: 1; a walk of 800 samples can be resampled to 2 to 800 steps"),
        ({"n_steps": 0}, "n_steps: 0; a whole number of at least 1 is needed"),
        ({"n_steps": 801}, "duration_s: 10.0; walks are made at 80 Hz, so 801 steps need at least 10.0125 s"),
        ({"duration_s": 1.0}, "duration_s: 1.0; walks are made at 80 Hz, so 120 steps need at least 1.5 s"),
        ({"duration_s": 0.0}, "duration_s: 0.0; walks are made"),
        ({"duration_s": -1.0}, "duration_s: -1.0; walks are made"),
        ({"duration_s": np.nan}, "duration_s: nan; walks are made"),
        ({"duration_s": 601.0}, "duration_s: 601.0; walks are made at 80 Hz"),
        ({"gait": Gait(stride_s=0.0)}, "gait.stride_s: 0.0; a positive number is needed"),
        ({"gait": Gait(stride_s=-1.0)}, "gait.stride_s: -1.0; a positive number is needed"),
        ({"gait": Gait(mass_kg=0.0)}, "gait.mass_kg: 0.0; a positive number is needed"),
        *(
            ({"gait": replace(Gait(), **{name: value})}, f"gait.{name}: {value}; a number of at least 0 is needed")
            for name in ("stride_sd", "mass_sd", "between", "effect", "sensitivity_sd", "trial", "jitter",
                         "misalignment_deg", "lean_deg", "acc_noise", "gyro_noise")
            for value in (-0.1, np.nan)
        ),
    ],
)  # fmt: skip
def test_impossible_simulations_are_refused(options, message):
    with refuses(message):
        simulate(**{"n_participants": 1} | options)


# ------------------------------------------------------------------ effects of people and loads
@pytest.mark.slow
def test_the_difficulty_is_that_of_the_linear_probe():
    each = [probe.ridge_probe(batch, folds=3) for batch in [data.DATASETS["simulated"](seed=seed) for seed in range(3)]]
    error = {name: np.mean([scores[name] for scores in each]) for name in each[0]}
    assert list(error) == ["mean", "none", "concatenation", "difference", "difference and style"]
    assert error["mean"] == pytest.approx(12.5)
    # With 6 folds over seeds 0..4: none 7.36 (SE 0.52), concatenation 6.71 (0.61), difference 3.92 (0.23).
    assert 6 < error["none"] < 10
    assert error["concatenation"] < error["none"] - 0.2
    assert error["difference"] < error["concatenation"] - 1.5
    assert 2.5 < error["difference"] < 5.5
    assert 2.5 < error["difference and style"] < 5.5


def test_the_walkers_own_gait_makes_the_load_a_matter_of_a_line(default):
    error = probe.ridge_probe(default, folds=2)  # of half of the people: a little above the numbers of `simulate`
    assert error["mean"] == pytest.approx(12.5)
    assert 6 < error["none"] < 11
    assert 2.5 < error["difference"] < error["none"] - 2


def test_the_probe_sees_mean_sd_and_step_of_each_channel():
    walk = np.array([[[1.0, 5.0], [3.0, 5.0], [1.0, 5.0], [3.0, 5.0]]])
    np.testing.assert_allclose(
        probe.features(walk), [[2, 5, 0, np.log(1e-9), np.log(2), np.log(1e-9)]], atol=1e-8, rtol=1e-12
    )


def test_people_are_alike_with_and_without_loads(default):
    batch = default
    own = probe.features(batch["x_aux"].numpy()).reshape(22, 3, 72)
    loaded = summaries(batch).mean((1, 2))
    for statistic, channels in ((0, ACC), (1, GYRO)):  # the means of gyroscopes are 0 for everybody
        a, b = own[:, statistic, channels], loaded[:, statistic, channels]
        same = np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(len(channels))])
        other = np.array([np.corrcoef(a[:, k], np.roll(b[:, k], 1))[0, 1] for k in range(len(channels))])
        assert np.median(same) > 0.8
        assert abs(np.median(other)) < 0.3


def test_people_differ_by_between():
    def walkers(between: float) -> list:
        gait = Gait(between=between)
        return [simulator._draw_walker(np.random.default_rng(seed), gait) for seed in range(5)]

    none, half, one = (walkers(between) for between in (0.0, 0.5, 1.0))
    for a, b, c in zip(none, half, one, strict=True):
        np.testing.assert_array_equal(a.posture, 0)
        np.testing.assert_allclose(c.posture, 2 * b.posture, rtol=1e-12)
        for name in ("amplitude", "phase", "strike", "bounce"):
            np.testing.assert_array_equal(getattr(a, name), getattr(none[0], name))
        np.testing.assert_allclose(np.log(c.amplitude / a.amplitude), 2 * np.log(b.amplitude / a.amplitude), rtol=1e-9)
    assert len({walker.posture[9, 0] for walker in one}) == 5


@pytest.mark.parametrize("channel", ["t6_acc_y", "sternum_acc_y", "l5_s1_acc_y"])
def test_the_trunk_leans_away_from_a_one_handed_load(default, channel):
    lean = means(default, channel).mean(0)
    assert (lean[RIGHT] < -0.03).all()
    assert (lean[LEFT] > 0.03).all()
    assert (np.diff(lean[RIGHT]) < -0.01).all()
    assert (np.diff(lean[LEFT]) > 0.01).all()
    assert np.abs(lean[[BOTH, ANTERIOR]]).max() < 0.03
    people = means(default, channel)[:, :, -1]
    assert (people[:, RIGHT] < people[:, LEFT]).all()


def test_an_anterior_load_bends_the_elbows_and_leans_the_trunk_back(default):
    for side in ("right", "left"):
        bent = means(default, f"{side}_forearm_acc_x")
        assert (bent[:, ANTERIOR] > 0.5).all()
        assert np.abs(bent[:, :ANTERIOR].mean((0, 2))).max() < 0.1
    back = means(default, "t6_acc_x").mean(0)
    assert (back[ANTERIOR] < -0.02).all()
    assert back[ANTERIOR, 0] - back[ANTERIOR, -1] > 0.03
    assert np.abs(back[:ANTERIOR]).max() < 0.03


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_loaded_arm_swings_less_and_the_free_one_does_not(default, side):
    k = CHANNELS.index(f"{side}_upper_arm_gyro_y")
    batch = default
    log_sd = summaries(batch)[..., 1, k] - probe.features(batch["x_aux"].numpy())[:, None, None, 72 + k]
    loaded, free = (RIGHT, LEFT) if side == "right" else (LEFT, RIGHT)
    swing = log_sd.mean((0, 2))
    assert (swing[[loaded, BOTH, ANTERIOR]] < -0.4).all()
    assert -0.1 < swing[free] < 0.3


def test_the_effect_grows_with_the_load(by_effect):
    change = summaries(by_effect[1.0]) - summaries(by_effect[0.0])  # the same random numbers: what the load does
    size = np.sqrt((change[..., 1:, :] ** 2).mean((3, 4)))
    assert (np.diff(size, axis=-1) > 0).all()  # of every person, in every style
    assert (size[..., -1] > 3 * size[..., 0]).all()


def test_the_size_of_effects_changes_loaded_walks_only(by_effect):
    none, one = by_effect[0.0], by_effect[1.0]
    assert torch.equal(none["x_aux"], one["x_aux"])
    assert not torch.equal(none["x"], one["x"])
    for name in none.truth:
        np.testing.assert_array_equal(none.truth[name], one.truth[name])


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_without_effects_walks_know_nothing_of_their_load(monkeypatch, effect):
    options = {"n_participants": 1, "n_steps": 60, "duration_s": 2.0, "gait": Gait(effect=effect)}
    before = simulate(0, **options)
    monkeypatch.setattr(simulator, "LOADS_LB", LOADS_LB[::-1])
    after = simulate(0, **options)
    assert after["y"].tolist() == before["y"].flip(0).tolist()
    assert torch.equal(before["x"], after["x"]) == (effect == 0)


def test_without_effects_a_style_keeps_its_signature_and_loads_are_noise(by_effect):
    batch = by_effect[0.0]
    bent = means(batch, "left_forearm_acc_x")
    assert bent[:, ANTERIOR].min() > bent[:, :ANTERIOR].max()
    scores = probe.ridge_probe(batch, folds=3)
    assert min(scores[name] for name in ("none", "concatenation", "difference")) > 11.5  # a constant has 12.5


def test_without_noise_walks_of_a_condition_differ_only_where_they_begin():
    gait = replace(QUIET, effect=0.0)
    x = by_condition(batch := simulate(0, 1, n_steps=800, gait=gait), batch["x"].numpy())[0]
    low, high = x.min(2), x.max(2)  # over whole strides the same orbit, sampled at other points
    span = (high - low).mean((0, 1))
    assert (np.abs(high - high[:, :1]) < 0.1 * span).all()
    assert (np.abs(low - low[:, :1]) < 0.1 * span).all()
    assert np.abs(x[:, 0] - x[:, 1]).max() > 1


# ------------------------------------------------------------------ kinds of effect
def test_coordination_moves_phases_and_hardly_anything_else():
    gait = replace(simulator.GAITS["coordination"], effect=0.0)
    quiet = replace(gait, trial=0.0, jitter=0.0, acc_noise=0.0, gyro_noise=0.0, misalignment_deg=0.0)
    walks = simulate(1, 1, n_steps=80, duration_s=4.0, gait=quiet)
    pelvis, thorax = (CHANNELS.index(f"{site}_gyro_z") for site in ("l5_s1", "t6"))
    found = probe.spectrum(walks["x"].numpy(), pelvis)[:, 0, thorax]
    own = probe.spectrum(walks["x_aux"].numpy(), pelvis)[0, 0, thorax]
    shift = np.angle(found * own.conj()).reshape(4, 4)
    assert (np.diff(np.abs(shift), axis=1) > 0).all()  # grows with the load
    assert (np.sign(shift[RIGHT]) == -np.sign(shift[LEFT])).all()


def test_squares_grow_faster_than_the_load():
    quiet = {"trial": 0.0, "jitter": 0.0, "acc_noise": 0.0, "gyro_noise": 0.0, "misalignment_deg": 0.0}
    lean = {}
    for curvature in (0.0, 1.0):
        walks = simulate(1, 1, n_steps=80, duration_s=4.0, gait=Gait(curvature=curvature, **quiet))
        leans = np.degrees(np.arcsin(np.clip(means(walks, "t6_acc_y")[0, RIGHT], -1, 1)))
        lean[curvature] = np.diff(np.abs(leans))
    assert lean[0.0][2] / lean[0.0][0] == pytest.approx(2.0, rel=0.1)  # loads 10, 20, 30, 50: steps of 10 and 20
    assert lean[1.0][2] / lean[1.0][0] == pytest.approx(16 / 3, rel=0.1)


def test_a_heavier_walker_strikes_harder_where_the_mass_is_shown():
    walks = simulate(0, 12, n_steps=80, duration_s=4.0, gait=Gait(mass_shown=4.0, mass_sd=15.0, between=0.1))
    strength = walks["x_aux"][:, :, CHANNELS.index("left_shank_acc_z")].std(1)
    assert np.corrcoef(strength, walks.truth["mass_kg"])[0, 1] > 0.9


def test_the_kinds_have_names_and_another_is_refused():
    assert set(simulator.GAITS) == {"linear", "coordination", "nonlinear", "mixed"}
    linear = simulate(2, 1, n_steps=40, duration_s=3.0)
    assert linear.sha256 == simulate(2, 1, n_steps=40, duration_s=3.0, gait=Gait()).sha256
    assert linear.sha256 != simulate(2, 1, n_steps=40, duration_s=3.0, gait="mixed").sha256
    with refuses("gait: 'cubic' is none of"):
        simulate(gait="cubic")


def test_phases_against_a_reference_do_not_depend_on_where_a_walk_begins():
    time = np.arange(200) / 20
    walks = [
        np.stack([np.sin(6 * time + a), np.cos(6 * time + a + 1), np.cos(12 * time + 2 * a)], -1) for a in (0, 1, 2)
    ]
    found = probe.spectrum(np.stack(walks), 0)
    turned = np.angle(found[1:] * found[:1].conj())
    assert np.allclose(turned[:, 0, :2], 0, atol=0.01)
    assert np.allclose(turned[:, 1, 2], 0, atol=0.01)


# ------------------------------------------------------------------ resampling
@pytest.mark.parametrize(("n", "steps"), [(800, 120), (1600, 800), (100, 60), (37, 36), (50, 2)])
def test_a_constant_stays_constant(n, steps):
    out = resample(np.full((2, n, 3), [5.0, -2.0, 0.0]), steps)
    assert out.shape == (2, steps, 3)
    np.testing.assert_allclose(out, np.broadcast_to([5.0, -2.0, 0.0], out.shape), rtol=1e-3)


@pytest.mark.parametrize(("n", "steps"), [(800, 120), (1600, 800), (100, 60)])
def test_slow_waves_are_kept_and_those_above_the_new_nyquist_rate_removed(n, steps):
    def wave(frequency: float, length: int) -> np.ndarray:
        return np.sin(2 * np.pi * frequency * np.arange(length) / length + 0.4)

    above = 0.65 * steps  # periods in the walk; half the number of steps can be told
    assert above < n / 2
    out = resample(np.stack([wave(3, n), wave(above, n)], 1), steps)
    inside = slice(steps // 10, -steps // 10)
    np.testing.assert_allclose(out[inside, 0], wave(3, steps)[inside], atol=1e-2)
    assert np.abs(out[inside, 1]).max() < 0.02


def test_the_same_length_is_the_same_walk():
    walk = np.random.default_rng(0).normal(size=(2, 30, 3))
    np.testing.assert_array_equal(resample(walk, 30), walk)


def test_walks_are_resampled_one_by_one():
    walks = np.random.default_rng(0).normal(size=(3, 50, 4))
    np.testing.assert_allclose(resample(walks, 20)[1], resample(walks[1], 20), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_steps", [31, 1, 0, -3])
def test_resampling_invents_nothing(n_steps):
    with refuses(f"n_steps: {n_steps}; a walk of 30 samples can be resampled to 2 to 30 steps"):
        resample(np.zeros((30, 2)), n_steps)


# ------------------------------------------------------------------ batches and people left out
def build(**changes) -> Batch:
    given = {
        "x": np.arange(24.0).reshape(4, 3, 2), "y": [10.0, 20.0, 30.0, 0.0], "style": [0, 1, 1, 0],
        "participant": ["ann", "bob", "bob", "ann"], "x_aux": np.ones((2, 5, 2)), "participants": ["bob", "ann"],
        "channels": ["a_acc_x", "a_gyro_x"], "styles": ["left", "right"],
    }  # fmt: skip
    return batches.to_batch(**(given | changes))


def test_trials_become_a_batch():
    batch = build(name="clinic", simulated=False)
    np.testing.assert_array_equal(batch["x"], np.arange(24.0).reshape(4, 3, 2))
    assert batch["participant"].tolist() == [1, 0, 0, 1]
    assert batch.coords["participant"].tolist() == ["bob", "ann"]
    assert batch["x_aux"].shape == (2, 5, 2)
    assert batch["y"].tolist() == [10, 20, 30, 0]
    assert batch["style"].tolist() == [0, 1, 1, 0]
    assert dict(batch.info) == {"name": "clinic", "simulated": False}


def test_unknown_loads_and_styles_are_unlabelled():
    batch = build(y=[10.0, np.nan, 30.0, np.nan], style=[-1, 1, -1, 0])
    assert batch["labelled"].tolist() == [True, False, True, False]
    assert batch["style_labelled"].tolist() == [False, True, False, True]
    assert batch["y"].tolist() == [10, 0, 30, 0]
    assert batch["style"].tolist() == [0, 1, 0, 0]
    assert (batch.sizes["labelled"], batch.sizes["unlabelled"]) == (2, 2)
    assert batch.observed("style").tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [10.0, -5.0, 1.0, -1.0]}, "y, row 1: -5; a load in lb is not negative; leave an unknown load out (NaN)"),
        ({"y": [np.nan, 1.0, 2.0, -0.5]}, "y, row 3: -0.5; a load in lb is not negative"),
        ({"y": [np.inf, 1.0, 2.0, 3.0]}, "y, entry 0: not finite"),
        ({"style": [0, 0, 2, 0]}, "style, row 2: 2; styles are numbered 0 to 1, -1 if unknown"),
        ({"style": [-2, 0, 0, 0]}, "style, row 0: -2; styles are numbered 0 to 1"),
        ({"x": np.full((4, 3, 2), np.nan)}, "x, entry 0: not finite"),
        ({"x_aux": np.ones((3, 5, 2))}, "x_aux: 3 entries, expected 2"),
        ({"participants": ["bob"]}, "is not among the given participants"),
        ({"participants": ["bob", "ann", "cy"]}, "participant 'cy' has no rows"),
    ],
)
def test_impossible_trials_are_refused(changes, message):
    with refuses(message):
        build(**changes)


@pytest.fixture(scope="module")
def seven() -> Batch:
    return simulate(1, n_participants=7, n_steps=4, duration_s=0.1)


def people(batch: Batch) -> set[str]:
    return set(batch.coords["participant"].tolist())


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_disjoint_and_test_everybody_once(seven, folds):
    parts = batches.participant_folds(seven, folds)
    assert len(parts) == folds
    assert sorted(name for _, test in parts for name in people(test)) == sorted(people(seven))
    for train, test in parts:
        assert not people(train) & people(test)
        assert people(train) | people(test) == people(seven)
        assert train.n_rows + test.n_rows == train.sizes["row"] + test.sizes["row"] == seven.n_rows
        assert train.sizes["participant"] == len(train["x_aux"]) == len(people(train))
        assert test["labelled"].all()
    assert sorted(len(people(test)) for _, test in parts) == {2: [3, 4], 3: [2, 2, 3], 7: [1] * 7}[folds]


def test_as_many_folds_as_people_leave_one_out(seven):
    for _, test in batches.participant_folds(seven, 7):
        (name,) = people(test)
        position = seven.coords["participant"].tolist().index(name)
        assert torch.equal(test["x_aux"][0], seven["x_aux"][position])
        assert torch.equal(test["x"], seven["x"][seven["participant"] == position])


def test_folds_are_reproducible_and_change_with_the_seed(seven):
    def tested(**options) -> list[list[str]]:
        return [sorted(people(test)) for _, test in batches.participant_folds(seven, 3, **options)]

    assert tested() == tested(seed=0)
    assert len({str(tested(seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("folds", [-1, 0, 1, 8])
def test_a_number_of_folds_that_people_do_not_fill_is_refused(seven, folds):
    with refuses(f"folds: {folds}; from 2 to the number of participants, 7"):
        batches.participant_folds(seven, folds)


def test_people_in_training_and_test_data_are_named(seven):
    train, test = seven.subset(np.arange(16 * 3)), seven.subset(np.arange(16 * 2, 16 * 7))
    with refuses("participant(s) ['P03'] are in training and test data; errors on people the model knows say little"):
        batches.check_disjoint(train, test)
    with refuses("participant(s) ['P01', 'P02', 'P03', 'P04', 'P05'] are in training"):
        batches.check_disjoint(seven, seven)
    batches.check_disjoint(train, seven.subset(np.arange(16 * 3, 16 * 7)))


def test_the_data_sets_have_their_names_and_sizes(default):
    assert list(data.DATASETS) == ["simulated", "simulated-full"]
    assert default["x"].shape == (352, 120, 72)
    assert default.sizes["participant"] == 22
    with pytest.raises(TypeError):
        data.DATASETS["other"] = simulate
    full = data.DATASETS["simulated-full"](n_participants=1)
    assert full["x"].shape == (16, 800, 72)
    assert full.sha256 == simulate(0, 1, n_steps=800, duration_s=20.0).sha256


def test_options_of_data_sets_pass_through():
    options = {"n_participants": 1, "n_steps": 50, "duration_s": 1.0, "seed": 7, "gait": Gait(effect=0.5)}
    assert {make(**options).sha256 for make in data.DATASETS.values()} == {simulate(**options).sha256}


# ------------------------------------------------------------------ recorded trials
NAMES = ["thigh_acc_x", "thigh_gyro_x", "pressure"]


def walk(seed: int, n: int = 24, channels: int = 3) -> np.ndarray:
    """A short walk of numbers that CSV keeps exactly."""
    return np.random.default_rng(seed).integers(-80, 80, (n, channels)) / 8


def trial(seed: int, participant: str, style: str = "", load: float = 0.0, n: int = 24, **changes) -> dict:
    return {
        "participant": participant, "style": style, "load_lb": load, "rate_hz": 80.0, "signal": walk(seed, n),
        "channels": NAMES, **changes,
    }  # fmt: skip


def trials() -> list[dict]:
    """Two people, whose unloaded walks come first and last; one load and one style are unknown."""
    return [
        trial(0, "007"), trial(1, "007", "left hand", 10.0, 30), trial(2, "007", "", 20.0),
        trial(3, "ann", "anterior", np.nan, 26), trial(4, "ann", "right hand", 50.0), trial(5, "ann", n=28),
    ]  # fmt: skip


COLUMNS = ("participant", "style", "load_lb", "rate_hz", "acc_unit", "gyro_unit")


def folder(tmp_path, walks: list[dict], **files: str):
    """The walks as a folder of CSV files; `files` replaces texts: trials, walk0, walk1 ..."""
    path = tmp_path / "clinic"
    path.mkdir()
    for i, one in enumerate(walks):
        table = pd.DataFrame(one["signal"])
        table.to_csv(path / f"walk{i}.csv", index=False, header=one["channels"])
    lines = [{"file": f"walk{i}.csv"} | {k: one[k] for k in COLUMNS if k in one} for i, one in enumerate(walks)]
    pd.DataFrame(lines).to_csv(path / "trials.csv", index=False)
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text)
    return path


def npz(tmp_path, walks: list[dict], leave_out=(), **changes):
    """The walks as one npz file; `changes` replaces arrays."""
    arrays = {
        "signal": np.concatenate([one["signal"] for one in walks]),
        "length": np.array([len(one["signal"]) for one in walks]),
        "channels": np.array(walks[0]["channels"]),
        "rate_hz": 80.0,
        **{name: np.array([one[name] for one in walks]) for name in ("participant", "style", "load_lb")},
    }
    path = tmp_path / "clinic.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if k not in leave_out})
    return path


FORMS = {"folder": folder, "npz": npz}


def read(path, n_steps: int = 20, **options) -> Batch:
    return readers.read(path, n_steps=n_steps, **options)


@pytest.mark.parametrize("form", FORMS)
def test_recorded_trials_become_a_batch(tmp_path, form):
    walks = trials()
    path = FORMS[form](tmp_path, walks)
    batch = read(path)
    loaded = [walks[i] for i in (1, 2, 3, 4)]
    expected = batches.to_batch(
        x=np.stack([resample(one["signal"], 20) for one in loaded]), y=np.array([10, 20, np.nan, 50]),
        style=np.array([1, -1, 3, 0]), participant=["007", "007", "ann", "ann"],
        x_aux=np.stack([resample(walks[i]["signal"], 20) for i in (0, 5)]), participants=["007", "ann"],
        channels=NAMES, styles=STYLES,
        row_coords={"file": [f"walk{i}.csv" for i in (1, 2, 3, 4)], "line": [3, 4, 5, 6]} if form == "folder" else {},
    )  # fmt: skip
    assert batch.sha256 == expected.sha256
    assert batch["x"].shape == (4, 20, 3)
    assert batch.coords["participant"].tolist() == ["007", "ann"]
    assert batch.coords["channel"].tolist() == NAMES
    assert batch.coords["style_class"].tolist() == list(STYLES)
    assert batch["labelled"].tolist() == [True, True, False, True]
    assert batch["style_labelled"].tolist() == [True, False, True, True]
    assert dict(batch.dims) == dict(expected.dims)
    assert dict(batch.info) == {"name": path.name, "simulated": False}
    assert batch.row_coords == (("file", "line") if form == "folder" else ())


def test_both_forms_are_read_alike_and_paths_may_be_strings(tmp_path):
    one, other = read(str(folder(tmp_path, trials()))), read(str(npz(tmp_path, trials())))
    assert all(torch.equal(one[name], other[name]) for name in one.tensors)
    assert set(one.coords) - set(other.coords) == {"file", "line"}
    for name in other.coords:
        assert one.coords[name].tolist() == other.coords[name].tolist()


def test_simulated_trials_survive_a_file(tmp_path):
    batch = simulate(0, 1, n_steps=30, duration_s=1.0)
    walks = [trial(0, "P01", signal=batch["x_aux"][0].double().numpy(), channels=list(CHANNELS))]
    walks += [
        trial(0, "P01", STYLES[style], load, signal=x.double().numpy(), channels=list(CHANNELS))
        for x, style, load in zip(batch["x"], batch["style"].tolist(), batch["y"].tolist(), strict=True)
    ]
    assert read(npz(tmp_path, walks), n_steps=30).sha256 == batch.sha256


def test_walks_of_the_number_of_steps_are_kept_as_they_are(tmp_path):
    walks = [trial(0, "ann"), trial(1, "ann", "anterior", 10.0)]
    batch = read(npz(tmp_path, walks), n_steps=24)
    np.testing.assert_array_equal(batch["x"][0], walks[1]["signal"])
    np.testing.assert_array_equal(batch["x_aux"][0], walks[0]["signal"])


def test_walks_have_120_steps_by_default(tmp_path):
    walks = [trial(0, "ann", n=130), trial(1, "ann", "anterior", 10.0, n=150)]
    batch = readers.read(npz(tmp_path, walks))
    assert batch["x"].shape == (1, 120, 3)
    assert batch["x_aux"].shape == (1, 120, 3)


FACTOR = np.array([1 / 9.80665, 180 / np.pi, 1.0])  # the third channel is neither and stays


@pytest.mark.parametrize("form", FORMS)
def test_other_units_are_converted(tmp_path, form):
    walks = [trial(0, "ann"), trial(1, "ann", "anterior", 10.0)]
    units = {"acc_unit": "m/s2", "gyro_unit": "rad/s"}
    path = folder(tmp_path, [one | units for one in walks]) if form == "folder" else npz(tmp_path, walks, **units)
    batch = read(path, n_steps=24)
    np.testing.assert_allclose(batch["x"][0], walks[1]["signal"] * FACTOR, rtol=1e-6)
    np.testing.assert_allclose(batch["x_aux"][0], walks[0]["signal"] * FACTOR, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_units_given_as_g_and_degrees_change_nothing(tmp_path, form):
    units = {"acc_unit": "g", "gyro_unit": "deg/s"}
    path = folder(tmp_path, [one | units for one in trials()]) if form == "folder" else npz(tmp_path, trials(), **units)
    (tmp_path / "plain").mkdir()
    assert read(path).sha256 == read(npz(tmp_path / "plain", trials())).sha256


def test_units_of_a_folder_belong_to_the_walk_and_may_be_left_empty(tmp_path):
    walks = [trial(0, "ann", acc_unit=""), trial(1, "ann", "anterior", 10.0, acc_unit="m/s2")]
    batch = read(folder(tmp_path, walks), n_steps=24)
    np.testing.assert_allclose(batch["x_aux"][0], walks[0]["signal"], rtol=1e-6)
    np.testing.assert_allclose(batch["x"][0], walks[1]["signal"] * [1 / 9.80665, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_all_labels_may_be_unknown(tmp_path, form):
    batch = read(FORMS[form](tmp_path, [trial(0, "ann"), trial(1, "ann", "", np.nan), trial(2, "ann", "", np.nan)]))
    assert not batch["labelled"].any()
    assert not batch["style_labelled"].any()
    assert batch.n_rows == 2


@pytest.mark.parametrize("form", FORMS)
def test_styles_may_be_other_ones(tmp_path, form):
    walks = [trial(0, "ann"), trial(1, "ann", "rucksack", 10.0), trial(2, "ann", "hip belt", 10.0)]
    path = FORMS[form](tmp_path, walks)
    batch = read(path, styles=("hip belt", "none of these", "rucksack"))
    assert batch["style"].tolist() == [2, 0]
    assert batch.coords["style_class"].tolist() == ["hip belt", "none of these", "rucksack"]
    assert read(path).coords["style_class"].tolist() == ["hip belt", "rucksack"]


def test_one_rate_for_each_walk_is_taken_from_an_npz(tmp_path):
    one = read(npz(tmp_path, trials(), rate_hz=80.0))
    each = read(npz(tmp_path, trials(), rate_hz=np.full(6, 80.0)))
    assert each.sha256 == one.sha256


# ------------------------------------------------------------------ errors of both forms
def changed(i: int, **changes) -> list[dict]:
    walks = trials()
    walks[i] |= changes
    return walks


def gap(value: float) -> np.ndarray:
    signal = walk(1, 30)
    signal[7, 1] = signal[9, 2] = value
    return signal


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("walks", "message"),
    [
        (changed(2, participant=""), "the participant is missing; name it"),
        (changed(2, load_lb=-5.0), "load_lb is -5; give a number of at least 0"),
        (changed(1, style="on the head"), "style 'on the head' is none of ['right hand', 'left hand', 'both sides'"),
        (changed(0, style="left hand"), "the unloaded walk (load_lb 0) has style 'left hand'; leave that empty"),
        (changed(4, signal=walk(4, 19)), "19 samples, fewer than the 20 steps asked for; choose a smaller n_steps or"),
        (
            changed(1, signal=gap(np.nan)),
            "channel 'thigh_gyro_x' has a gap at sample 7 (2 samples in all are not finite); interpolate it or leave",
        ),
        (changed(1, signal=gap(np.inf)), "channel 'thigh_gyro_x' has a gap at sample 7"),
        (
            trials()[:-1],
            "participant 'ann' has no unloaded walk (load_lb 0), which the model compares the others with; add one or",
        ),
        ([*trials(), trial(6, "bob")], "participant 'bob' has only an unloaded walk; add a loaded one or leave it out"),
        (changed(1, load_lb=np.inf), "load_lb is inf; give a number of at least 0"),
    ],
)
def test_walks_that_are_wrong_are_refused(tmp_path, form, walks, message):
    path = FORMS[form](tmp_path, walks)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{re.escape(message)}"):
        read(path)


@pytest.mark.parametrize(("form", "where"), [("folder", "walk2.csv"), ("npz", "walk 2")])
def test_a_wrong_walk_is_named(tmp_path, form, where):
    with refuses(f": {where}: load_lb is -1;"):
        read(FORMS[form](tmp_path, changed(2, load_lb=-1.0)))


@pytest.mark.parametrize("form", FORMS)
def test_several_unloaded_walks_become_one_of_equal_parts(tmp_path, form):
    walks = changed(4, load_lb=0.0, style="")
    batch = read(FORMS[form](tmp_path, walks))
    joined = readers.spliced([walks[4]["signal"], walks[5]["signal"]])
    assert batch.n_rows == 3
    assert np.allclose(batch["x_aux"][1], resample(joined, 20), atol=1e-6)


def test_a_spliced_walk_has_parts_of_all_and_no_jump():
    time = np.arange(400) / 40
    walks = [np.stack([np.sin(5 * time + a), 3 + a + np.cos(5 * time + a)], -1) for a in (0.0, 1.0, 2.5)]
    joined = readers.spliced(walks)
    assert len(joined) == 400
    assert np.abs(np.diff(joined[:, 0])).max() < 0.15  # a step of the sine is at most 0.125
    assert joined[:, 1].mean() == pytest.approx(3 + 3.5 / 3, abs=0.1)
    assert readers.spliced(walks[:1]) is walks[0]
    assert len(readers.spliced([walks[0][:50], walks[1]])) == 50


@pytest.mark.parametrize("form", FORMS)
def test_other_styles_are_read_from_the_table_unless_they_are_mixed_with_the_known(tmp_path, form):
    named = ["", "sling", "", "backpack", "sling", ""]
    batch = read(FORMS[form](tmp_path, [one | {"style": style} for one, style in zip(trials(), named, strict=True)]))
    assert batch.coords["style_class"].tolist() == ["backpack", "sling"]
    assert batch["style"].tolist() == [1, 0, 0, 1]
    (tmp_path / "b").mkdir()
    with refuses("style 'backpack' is none of"):
        read(FORMS[form](tmp_path / "b", changed(3, style="backpack")))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rate", "shown"), [(0.0, "0"), (-80.0, "-80"), (np.inf, "inf"), (np.nan, "nan")])
def test_a_rate_that_is_none_is_refused(tmp_path, form, rate, shown):
    walks = [one | {"rate_hz": rate} for one in trials()]
    path = folder(tmp_path, walks) if form == "folder" else npz(tmp_path, walks, rate_hz=rate)
    with refuses(f"rate_hz is {shown}; give the samples per second"):
        read(path)


def test_differing_rates_are_refused(tmp_path):
    message = "rate_hz is 100 where that of {} is 80; record or resample all walks at one rate"
    with refuses("walk3.csv: " + message.format("walk0.csv")):
        read(folder(tmp_path, changed(3, rate_hz=100.0)))
    with refuses("walk 3: " + message.format("walk 0")):
        read(npz(tmp_path, trials(), rate_hz=np.array([80.0, 80, 80, 100, 80, 80])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n_steps", "samples"), [(1, 30), (0, 30), (-1, 30)])
def test_impossible_steps_are_refused(tmp_path, form, n_steps, samples):
    with refuses(f"n_steps: {n_steps}; a walk of {samples} samples"):
        read(FORMS[form](tmp_path, trials()), n_steps=n_steps)


def test_a_path_that_is_neither_form_is_refused(tmp_path):
    for name in ("nothing", "nothing.npz"):
        with refuses(f"{tmp_path / name}: there is no such file or folder", FileNotFoundError):
            read(tmp_path / name)
    other = tmp_path / "trials.h5"
    other.write_bytes(b"0")
    with refuses(f"{other}: neither a folder with trials.csv nor an .npz file"):
        read(other)
    with refuses(f"{tmp_path / 'trials.csv'}: there is no such file; it lists the walks", FileNotFoundError):
        read(tmp_path)


# ------------------------------------------------------------------ errors of a folder
HEADER = "file,participant,style,load_lb,rate_hz"
LINES = f"{HEADER}\nwalk0.csv,ann,,0,80\nwalk1.csv,ann,anterior,10,80\n"


@pytest.mark.parametrize("name", ["../secret.csv", "sub/walk1.csv", "/etc/hosts", "nowhere.csv", "..", ".", "sub", ""])
def test_walks_lie_beside_their_list(tmp_path, name):
    path = folder(tmp_path, trials()[:2], trials=LINES.replace("walk1.csv", name))
    (path / "sub").mkdir()
    for file in (tmp_path / "secret.csv", path / "sub" / "walk1.csv"):
        file.write_text((path / "walk1.csv").read_text())
    with refuses(f"trials.csv, line 3: file {name!r} is not beside trials.csv; give the plain name of a file there"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; give a table with a header and at least one row"),
        (HEADER + "\n", "there are no walks; give a line for each"),
        *(
            (LINES.replace(column, "other", 1), f"column {column!r} is not in the header; its columns are [")
            for column in HEADER.split(",")
        ),
        (LINES.replace(",80\n", ",fast\n"), "column 'rate_hz', line 2: 'fast' is not a number"),
        (LINES.replace(",10,", ",heavy,"), "column 'load_lb', line 3: 'heavy' is not a number"),
        (LINES.replace("load_lb", "load_lb,load_lb", 1), "column 'load_lb' appears twice in the header"),
        (LINES.replace(",10,80", ",10,80,1,2"), "no table with a header and equally many columns in every row"),
    ],
)
def test_a_wrong_list_of_walks_is_refused(tmp_path, text, message):
    path = folder(tmp_path, trials()[:2], trials=text)
    with refuses(f"{path / 'trials.csv'}: {message}"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table with a header of channel names and equally long rows ("),
        ("a_acc_x,a_gyro_x\n0,1,2\n1,2,3\n2,3,4\n", "no table with a header of channel names and equally long rows ("),
        ("a_acc_x,a_gyro_x\n1,2\n1,2,3\n", "no table with a header of channel names and equally long rows ("),
        ("a_acc_x,a_gyro_x\n1,2\n1,much\n", "channel 'a_gyro_x' does not hold numbers throughout"),
    ],
)
def test_a_file_that_is_no_walk_is_refused(tmp_path, text, message):
    path = folder(tmp_path, trials()[:2], walk1=text)
    with refuses(f"{path / 'walk1.csv'}: {message}"):
        read(path)


def test_a_channel_that_is_there_twice_is_refused(tmp_path):
    text = "a_acc_x,a_gyro_x,a_acc_x\n" + "1,2,3\n" * 24
    path = folder(tmp_path, trials()[:2], walk0=text, walk1=text)
    with refuses(f"{path}: walk0.csv: channel 'a_acc_x' appears twice; names must differ"):
        read(path)


def test_a_walk_that_is_no_text_is_refused(tmp_path):
    path = folder(tmp_path, trials()[:2])
    (path / "walk1.csv").write_bytes(b"\xff\xfe\xe9,b\n1,2\n")
    with refuses(f"{path / 'walk1.csv'}: no table with a header of channel names and equally long rows ("):
        read(path)


def test_an_empty_cell_of_a_walk_is_a_gap(tmp_path):
    text = ",".join(NAMES) + "\n" + "1,2,3\n" * 24
    path = folder(tmp_path, trials()[:2], walk1=text + "1,,3\n")
    with refuses(f"{path}: walk1.csv: channel 'thigh_gyro_x' has a gap at sample 24 (1 samples in all"):
        read(path)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (NAMES[:2], "2 channels where the first walk has 3; all walks need the same"),
        ([*NAMES, "more"], "4 channels where the first walk has 3"),
        (["thigh_gyro_x", "thigh_acc_x", "pressure"], "channel 0 is 'thigh_gyro_x' where the first walk has 'thigh_"),
        ([*NAMES[:2], "other"], "channel 2 is 'other' where the first walk has 'pressure'; all walks need the same"),
    ],
)
def test_channels_that_are_not_those_of_the_first_walk_are_refused(tmp_path, channels, message):
    path = folder(tmp_path, changed(2, channels=channels, signal=walk(2, 24, len(channels))))
    with refuses(f"{path}: walk2.csv: {message}"):
        read(path)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"acc_unit": "ft/s2"}, "walk1.csv: acc_unit 'ft/s2' is none of ['g', 'm/s2']"),
        ({"gyro_unit": "rpm"}, "walk1.csv: gyro_unit 'rpm' is none of ['deg/s', 'rad/s']"),
    ],
)
def test_unknown_units_of_a_folder_are_refused(tmp_path, units, message):
    with refuses(message):
        read(folder(tmp_path, [trial(0, "ann"), trial(1, "ann", "anterior", 10.0, **units)]))


# ------------------------------------------------------------------ errors of an npz file
class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


@pytest.mark.parametrize("name", ["signal", "length", "participant", "style", "load_lb", "channels", "rate_hz"])
def test_an_npz_file_without_an_array_is_refused(tmp_path, name):
    path = npz(tmp_path, trials(), leave_out=[name])
    with refuses(f"{path}: array {name!r} is missing; the file has ["):
        read(path)


@pytest.mark.parametrize("name", ["participant", "style", "note"])
def test_pickled_arrays_are_refused_and_not_run(tmp_path, name):
    path = npz(tmp_path, trials(), **{name: np.array([Bomb()] * 6, dtype=object)})
    with refuses(f"{path}: array {name!r} cannot be read (it holds Python objects"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"participant,style\n", pickle.dumps(Bomb())])
def test_a_file_that_is_no_npz_is_refused_and_not_run(tmp_path, content):
    path = tmp_path / "clinic.npz"
    path.write_bytes(content)
    with refuses(f"{path}: no npz file, or only a part of one ("):
        read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal": np.zeros(156)}, "array 'signal': float64 of shape (156,); give (samples, channels)"),
        ({"signal": np.zeros((6, 26, 3))}, "array 'signal': float64 of shape (6, 26, 3); give (samples"),
        ({"signal": np.full((156, 3), "1")}, "array 'signal': <U1 of shape (156, 3); give (samples"),
        ({"length": np.array([24, 30, 24, 26, 24, 27])}, "array 'length': the walks add up to 155 samples, 'signal'"),
        ({"length": np.array(40)}, "array 'length': int64 of shape (); give whole numbers"),
        ({"channels": np.array(["a_acc_x", "a_acc_x", "a_gyro_x"])}, "channel 'a_acc_x' appears twice"),
        ({"participant": np.array([b"a"] * 6)}, "array 'participant': |S1 values; give text"),
        ({"load_lb": np.array(["ten"] * 6)}, "array 'load_lb': shape (6,) of <U3; give numbers"),
        ({"rate_hz": np.array("fast")}, "array 'rate_hz': shape () of <U4; give numbers"),
        ({"length": np.array([-1, 55, 24, 26, 24, 28])}, "array 'length': int64 of shape (6,); give whole numbers"),
        ({"length": np.array([0, 54, 24, 26, 24, 28])}, "array 'length': int64 of shape (6,); give whole numbers"),
        ({"length": np.array([24.0, 30, 24, 26, 24, 28])}, "array 'length': float64 of shape (6,); give whole numbers"),
        ({"channels": np.array(NAMES[:2])}, "array 'channels': 2 names for 3 columns of 'signal'"),
        ({"participant": np.array(["ann"] * 5)}, "array 'participant': shape (5,), expected (6,), one per walk"),
        ({"style": np.array("")}, "array 'style': shape (), expected (6,), one per walk"),
        ({"load_lb": np.zeros((6, 1))}, "array 'load_lb': shape (6, 1), expected (6,), one per walk"),
        ({"acc_unit": "ft/s2"}, "acc_unit 'ft/s2' is none of ['g', 'm/s2']"),
        ({"gyro_unit": "rpm"}, "gyro_unit 'rpm' is none of ['deg/s', 'rad/s']"),
    ],
)
def test_arrays_that_are_wrong_are_refused(tmp_path, changes, message):
    path = npz(tmp_path, trials(), **changes)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{re.escape(message)}"):
        read(path)


@pytest.mark.parametrize("changes", [{"rate_hz": "fast"}, {"rate_hz": np.array([80.0, 80.0])}])
def test_rates_that_are_no_numbers_for_the_walks_are_refused(tmp_path, changes):
    path = npz(tmp_path, trials(), **changes)
    with refuses(f"{path}: "):
        read(path)


def test_a_damaged_npz_is_refused_by_its_name(tmp_path):
    path = tmp_path / "walks.npz"
    np.savez(path, signal=np.zeros((4, 2)))
    for content in (path.read_bytes()[:60], b"PK\x03\x04garbage", b"no zip at all"):
        path.write_bytes(content)
        with refuses(f"{path}: no npz file, or only a part of one ("):
            read(path)


@pytest.mark.parametrize("value", [{"stride_s": np.nan}, {"stride_s": np.inf}, {"mass_kg": np.nan}, {"effect": np.inf}])
def test_a_gait_of_numbers_that_are_none_is_refused(value):
    [name] = value
    with pytest.raises(ValueError, match=rf"gait\.{name}: (nan|inf)"):
        simulate(n_participants=1, gait=Gait(**value))


def test_units_of_channels_that_cannot_be_told_are_refused(tmp_path):
    arrays = {
        "signal": np.ones((60, 1)), "length": np.array([30, 30]), "participant": np.array(["a", "a "]),
        "style": np.array(["", STYLES[0]]), "load_lb": np.array([0.0, 10.0]), "channels": np.array(["ACC_x"]),
        "rate_hz": np.array(10.0), "acc_unit": np.array("m/s2"),
    }  # fmt: skip
    path = tmp_path / "walks.npz"
    np.savez(path, **arrays)
    assert float(read(path, n_steps=20)["x"][0, 0, 0]) == pytest.approx(1 / 9.80665, rel=1e-3)
    np.savez(path, **(arrays | {"channels": np.array(["x"])}))
    with refuses(f"{path}: signal: acc_unit is 'm/s2', but no channel has 'acc' in its name"):
        read(path, n_steps=20)


def test_the_probe_refuses_what_is_unknown():
    batch = simulate(n_participants=4, n_steps=40, duration_s=2.0)
    hidden = batch.relabel(np.arange(batch.n_rows) > 3)
    with refuses("y: unknown on some trials"):
        probe.ridge_probe(hidden)
    with refuses("folds: 6 of 4 participants"):
        probe.ridge_probe(batch)


def test_walks_of_another_number_of_channels_are_refused():
    with refuses("x_aux: shape (1, 5, 2), expected (walks, steps, 3 channels)"):
        batches.to_batch(
            x=np.zeros((1, 5, 3)), x_aux=np.zeros((1, 5, 2)), y=[1.0], style=np.array([0]), participant=["a"],
            participants=["a"], channels=NAMES, styles=STYLES,
        )  # fmt: skip


def test_a_file_listed_twice_and_a_misspelt_unit_column_are_refused(tmp_path):
    path = folder(tmp_path, trials()[:2])
    listing = (path / "trials.csv").read_text()
    (path / "trials.csv").write_text(listing.replace("walk1.csv", "walk0.csv"))
    with refuses(f"{path / 'trials.csv'}: line 3: file 'walk0.csv' is listed twice"):
        read(path)
    wider = listing.replace("rate_hz", "rate_hz,acc_units").replace("\n", ",g\n").replace("units,g", "units")
    (path / "trials.csv").write_text(wider)
    with refuses("column 'acc_units' is not known; units are in ['acc_unit', 'gyro_unit']"):
        read(path)
