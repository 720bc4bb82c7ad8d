"""auxvae: configurations, priors, guides, masks, and clear errors for what cannot be fitted."""

import dataclasses
import inspect

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from auxvae_small import SIZES, small_model, trials
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn

import pyrozoo as zoo
from pyrozoo.inference.copies import default_dtype, isolated
from pyrozoo.models.auxvae.data.simulator import SITES, simulate
from pyrozoo.models.auxvae.experiments import probe
from pyrozoo.models.auxvae.experiments.process import BySensor
from pyrozoo.models.auxvae.experiments.runs import DEPARTURES, LEARNED, PAPER_SIZES, SETTINGS, step_decay
from pyrozoo.models.auxvae.guides import DeltaGuide, LowRankGuide
from pyrozoo.models.auxvae.local_guide import StyleAwareGuide
from pyrozoo.models.auxvae.model import AuxVAE, warm_up
from pyrozoo.models.auxvae.nets import (
    CycleEncoder,
    Decoder,
    Departure,
    Encoder,
    LearnedDeparture,
    LoadHead,
    Stream,
    by_participant,
    cycle,
    gait_phase,
    receptive_field,
    summaries,
)  # fmt: skip


def fitted(data, variant="auxvae", guide="paper", arguments=None, **settings):
    own = {} if variant.startswith("sequence") else SIZES
    model = zoo.create_model("auxvae", data, variant=variant, **{**own, **(arguments or {})})
    return zoo.fit(model, guide, data, **{"epochs": 2, "batch_size": 7, "progress": False, **settings})


# -------------------------------------------------------------------- networks
@pytest.mark.parametrize(("kernel", "depth", "steps"), [(3, 1, 3), (3, 2, 7), (5, 3, 29)])
def test_the_receptive_field_is_what_one_output_depends_on(kernel, depth, steps):
    assert receptive_field(kernel, depth) == steps
    stream = Stream(2, (4,) * depth, 3, kernel, 1).double().eval()
    x = torch.randn(1, 40, 2, dtype=torch.float64, requires_grad=True)
    stream(x)[0, 35].sum().backward()
    touched = x.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert touched.max() == 35  # causal
    assert touched.min() == 35 - steps + 1


def test_a_stream_pools_time_and_the_decoder_gives_every_step_back():
    h = Stream(5, (8, 6), 4, 3, 4)(torch.randn(3, 30, 5))
    assert h.shape == (3, 7, 4)
    for steps in (28, 30, 31):
        decoder = Decoder(2, 5, steps, (8, 6), 4, 3, 4, use_aux=True)
        assert decoder(torch.randn(3, 2), h).shape == (3, steps, 5)
        assert decoder(torch.randn(6, 3, 2), h).shape == (6, 3, steps, 5)


def test_the_papers_sizes_give_the_parameters_counted_by_hand():
    sizes = {k: v for k, v in PAPER_SIZES.items() if k != "z_dim"}
    encoder = Encoder(72, **sizes, kernel=3, pool=4, fusion="cross", residual="none")
    stream = (72 * 3 + 1) * 256 + 2 * 256 + (256 * 3 + 1) * 128 + 2 * 128 + (128 + 1) * 64
    attention = 4 * 64 * 64
    assert sum(p.numel() for p in encoder.parameters()) == 2 * (stream + attention)
    assert encoder.out_dim == 2 * 16 * 64


def test_each_trial_gets_the_walk_of_its_own_participant():
    walks = torch.arange(4.0)[:, None, None].expand(4, 2, 1)
    found = by_participant(lambda w: w.mean((1, 2)), walks, torch.tensor([3, 0, 3, 2]))
    assert found.tolist() == [3.0, 0.0, 3.0, 2.0]


# -------------------------------------------------------------------- a walker compared with himself
def test_the_own_scale_is_that_of_the_unloaded_walk_with_a_floor():
    data = trials()
    still = data["x_aux"].clone()
    still[1, :, 2] = 7.0  # a channel that does not move without a load
    model = small_model(data, own_scale=True)
    loc, scale = model.units(still)
    assert torch.allclose(loc, still.mean(1))
    assert scale[1, 2] == pytest.approx(0.1 * model.x_scale[2].item())
    assert torch.allclose(scale[0] ** 2, still[0].var(0, unbiased=False) + 0.01 * model.x_scale**2)
    own = model.standardise(still, still)
    assert own.mean(1).abs().max() < 1e-9
    assert own.std(1).max() < 1.03


@pytest.mark.parametrize("own_scale", [True, False])
def test_the_departure_of_the_own_unloaded_walk_is_the_same_for_everybody(own_scale):
    data = trials()
    encoder = small_model(data, fusion="departure", own_scale=own_scale).encoder_sizes
    departure = Departure(encoder["n_channels"], 0.7).double().eval()
    who = torch.tensor([2, 0, 1])
    own = departure(data["x_aux"][who], data["x_aux"], who)
    n = encoder["n_channels"]
    assert torch.equal(own[:, : 5 * n], torch.zeros(3, 5 * n).double())
    cosines, sines = own[:, 5 * n :].chunk(2, -1)
    assert (cosines > 0).all()  # near 1 where a harmonic is clear
    assert sines.abs().max() < 1e-12


# -------------------------------------------------------------------- the learned departure
def striding(pace, turn=0.0, size=1.0, steps=120):
    """Three channels of a walk in `pace` strides a second over 10 s, of which the first is the reference."""
    phase = 2 * torch.pi * pace * torch.linspace(0, 10, steps + 1, dtype=torch.float64)[:-1] + 0.8
    other = size * (phase + turn).sin() + 0.2 * (3 * phase).cos()
    return torch.stack([phase.sin() + 0.3 * (2 * phase).cos(), other, 5.0 + 0.5 * (2 * phase + turn).sin()], -1)


@pytest.mark.parametrize("own_scale", [True, False])
def test_an_unloaded_walk_does_not_depart_from_itself_whatever_is_learned(own_scale):
    data = trials()
    encoder = Encoder(**small_model(data, fusion="learned-departure", own_scale=own_scale).encoder_sizes)
    encoder.double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
    who = torch.tensor([2, 0, 1])
    found = encoder(data["x_aux"][who], data["x_aux"], who)
    assert found.shape == (3, encoder.out_dim) == (3, 12 * 5)
    assert found.abs().max() < 1e-9
    assert encoder(data["x"], data["x_aux"], data["participant"]).abs().max() > 0.1


def test_neither_units_nor_place_of_a_sensor_count_in_the_learned_departure():
    departure, who = LearnedDeparture(3, 0.0).double().eval(), torch.tensor([0, 0])
    x, x_aux = torch.stack([striding(0.9, 0.3), striding(1.0, 0.1, 1.5)]), striding(1.0, steps=100)[None]
    factor, shift = torch.tensor([2.0, 9.0, 4.0]).double(), torch.tensor([0.0, -3.0, 50.0]).double()
    found = departure(factor * x + shift, factor * x_aux + shift, who)
    assert torch.allclose(departure(x, x_aux, who), found, atol=0.05)  # but for the floor of the own scale


def test_the_average_cycle_follows_the_phase_and_not_the_pace():
    encoder = CycleEncoder(0, 1.0).double().eval()
    slow, fast, turned = (encoder(striding(*own)[None])[0].detach() for own in ((0.9,), (1.1,), (0.9, 0.7)))
    curves, logs = slice(0, 5 * 3), slice(5 * 3, 11 * 3)
    assert torch.allclose(slow[curves], fast[curves], atol=0.02)
    assert torch.allclose(slow[logs], fast[logs], atol=0.1)
    assert (slow - turned)[curves].abs().max() > 0.2
    assert torch.allclose(slow[logs], turned[logs], atol=0.25)  # what filters leave has no phase


def test_what_filters_leave_of_a_cycle_is_the_mean_square_of_a_circular_convolution():
    encoder, walk = CycleEncoder(0, 1.0).double().eval(), striding(1.0)[None]
    near = encoder.phases @ torch.stack(gait_phase(walk[..., 0]), -2)
    average = ((20 * near).softmax(-1) @ walk)[0].T  # channels, points
    average = average - average.mean(-1, keepdim=True)
    shifted = torch.stack([average.roll(-k, -1) for k in range(7)], 1)
    left = torch.einsum("kj,cjp->kcp", encoder.filters, shifted).square().mean(-1)
    found = encoder(walk)[0].unflatten(0, (12, 3))[5:11].exp() - encoder.least
    assert torch.allclose(found, left, rtol=1e-4, atol=1e-6)


def test_noise_and_crop_of_the_learned_departure_are_there_in_training_only():
    x, who = torch.randn(6, 30, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    for noise, crop, random in ((0.5, 1.0, True), (0.0, 0.5, True), (0.0, 1.0, False)):
        departure = LearnedDeparture(2, noise, crop=crop).train()
        assert torch.equal(departure(x, x[:3], who), departure(x, x[:3], who)) != random
        departure.eval()
        assert torch.equal(departure(x, x[:3], who), departure(x, x[:3], who))


def test_a_stretch_of_a_walk_is_one_piece_and_no_shorter_than_the_crop():
    encoder, walk = CycleEncoder(0, 0.4).train(), torch.zeros(200, 50, 2)
    inside = encoder.stretch(walk)
    assert (inside.int().diff(dim=1).abs().sum(1) <= 2).all()
    share = inside.float().mean(1)
    assert 0.38 <= share.min() < 0.5
    assert 0.9 < share.max() <= 1.0
    assert inside[:, 0].any()
    assert inside[:, -1].any()
    assert encoder.eval().stretch(walk).all()


def test_the_seed_of_a_fit_decides_its_crops_and_a_saved_fit_predicts_the_same(tmp_path):
    data, own = trials(dtype=torch.float32), {"fusion": "learned-departure"}
    one, same, other = (fitted(data, arguments=own, seed=seed) for seed in (0, 0, 1))
    table = zoo.predict(one, data, draws=5)
    assert table.equals(zoo.predict(same, data, draws=5))
    assert not table.equals(zoo.predict(other, data, draws=5))
    assert table.equals(zoo.predict(zoo.load(one.save(tmp_path / "run")), data, draws=5))
    curves = one.guide.encoder.departure.encoder.curves
    assert not torch.allclose(curves, CycleEncoder(0, 0.5).curves), "the curves are learned"


def test_summaries_are_those_of_the_probe():
    walk = torch.randn(3, 30, 4, dtype=torch.float64)
    assert np.allclose(summaries(walk).numpy(), probe.features(walk.numpy()), atol=1e-6)


def test_the_process_reads_departures_by_kind_and_no_target():
    walks = simulate(n_participants=2, n_steps=40, duration_s=3.0)
    data, model = walks.subset(np.arange(5)), zoo.create_model("auxvae", walks)
    found = model.process_features(data.hide())
    assert {name: part.shape[1] for name, part in found.items()} == {
        **dict.fromkeys(("mean", "spread", "step", "own mean", "sd"), 72), "turned": 4 * 72,
    }  # fmt: skip
    by_sensor = BySensor(**BySensor.sizes_from(walks)).process_features(data.hide())
    assert {name.partition(" of ")[2] for name in by_sensor} == set(SITES)
    assert by_sensor["turned of right_foot"].shape == (5, 4 * 6)
    assert torch.cat([by_sensor[f"sd of {site}"] for site in SITES], 1).equal(found["sd"])
    departure = Departure(72, 0.0, model.encoder_sizes["reference"]).double().train()
    seen = departure.norm.register_forward_pre_hook(lambda _, given: found.update(seen=given[0]))
    departure(data["x"].double(), data["x_aux"].double(), data["participant"])
    seen.remove()
    assert found["sd"].equal(found["seen"].unflatten(1, (9, 72))[:, 4])
    assert model.target_levels == {"y": (10.0, 20.0, 30.0, 50.0)}
    without = zoo.create_model("auxvae", data, fusion="none")
    assert without.process_features(data) == {}
    assert without.target_levels == {}


def test_the_noise_is_there_in_training_only():
    x, who = torch.randn(6, 20, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    departure = Departure(2, 0.5).train()
    assert not torch.equal(departure(x, x[:3], who), departure(x, x[:3], who))
    departure.eval()
    assert torch.equal(departure(x, x[:3], who), departure(x, x[:3], who))


def test_by_default_a_walker_is_compared_with_himself_between_the_loads_of_training():
    walks = simulate(n_participants=2, n_steps=40, duration_s=3.0)
    model = zoo.create_model("auxvae", walks)
    assert model.encoder_sizes["fusion"] == "departure"
    assert walks.coords["channel"][model.encoder_sizes["reference"]].startswith("right_foot_gyro")
    lb = model.y_loc + model.y_scale * model.load_head.levels
    assert lb.tolist() == pytest.approx([10.0, 20.0, 30.0, 50.0])
    for own in ({"staircase": False}, {"fusion": "cross"}):
        assert zoo.create_model("auxvae", walks, **own).load_head.step_raw is None


def test_few_walks_are_trained_in_as_many_steps_as_many(monkeypatch):
    monkeypatch.setattr("pyrozoo.models.auxvae.model.LEAST_STEPS", 4)
    monkeypatch.setattr(AuxVAE, "fit_defaults", {**AuxVAE.fit_defaults, "epochs": 2})
    data = trials(dtype=torch.float32)
    model = zoo.create_model("auxvae", data, **{**SIZES, "fusion": "departure"})
    assert zoo.fit(model, "paper", data, progress=False).history["step"].max() == 4
    assert zoo.fit(model, "paper", data, epochs=3, progress=False).history["step"].max() == 3


@pytest.mark.parametrize(
    "loads",
    [torch.linspace(5, 50, 32), torch.tensor([10.0, 20.0]).repeat_interleave(16), torch.arange(8.0).repeat(4) + 1],
)
def test_loads_that_do_not_recur_are_a_plain_regression(loads):
    data = trials(n=32, people=2, known="observed").relabel(np.ones(32, bool), "y")
    data = data.with_tensors({"y": loads.to(data["y"])})
    if loads.unique().numel() == 2:  # each is one person's alone
        data = dataclasses.replace(data, tensors={**data.tensors, "participant": torch.arange(32) // 16})
    model = zoo.create_model("auxvae", data)
    assert model.config["y_levels"] == ()
    assert model.load_head.step_raw is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"noise": -1}, "noise: -1"),
        ({"reference": 5}, "reference: 5"),
        ({"staircase": True}, "staircase: the"),
        ({"crop": 0.1}, "crop: 0.1; a share"),
        ({"crop": 1.5}, "crop: 1.5"),
    ],
)
def test_what_no_departure_can_have_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        small_model(trials(), fusion="departure", **wrong)


def test_a_staircase_is_flat_at_its_loads_and_stays_between_them():
    head = LoadHead(1, 0, 4, 0.05, True, [-1.0, 0.0, 1.5]).double().eval()
    with torch.no_grad():
        head.step_raw.fill_(-9.0)  # sharp steps
        head.from_z.weight.fill_(1.0), head.from_z.bias.zero_(), head.out.weight[0].fill_(0.5), head.out.bias.zero_()
        loc, _ = head(torch.linspace(-9, 9, 400, dtype=torch.float64)[:, None])
    assert loc.min() >= -1.0
    assert loc.max() <= 1.5
    near = torch.tensor([-1.0, 0.0, 1.5]).double()
    assert ((loc[:, None] - near).abs().min(1).values < 0.01).double().mean() > 0.7


def test_the_turn_of_a_harmonic_is_found_whatever_the_pace():
    time = torch.linspace(0, 10, 241, dtype=torch.float64)[:-1]

    def walk(pace, turn):
        phase = 2 * torch.pi * pace * time + 0.8
        return torch.stack([phase.sin(), (phase + turn).sin(), 0.5 * (2 * phase + turn).sin()], -1)

    own, loaded = (torch.complex(*cycle(walk(*args)[None], 0))[0] for args in ((0.9, 0.3), (1.1, 1.2)))
    turned = (loaded * own.conj()).angle()  # (harmonics, channels)
    assert turned[0, 1].item() == pytest.approx(0.9, abs=0.05)
    assert turned[1, 2].item() == pytest.approx(0.9, abs=0.1)
    assert abs(turned[0, 0].item()) < 1e-6


@pytest.mark.parametrize("own", [*DEPARTURES.values(), *LEARNED.values(), {"fusion": "none"}])
def test_every_form_on_the_own_scale_trains_and_predicts(own):
    own = {"own_scale": True, **own}
    data = trials(dtype=torch.float32)
    fit = fitted(data, own.pop("variant", "auxvae"), arguments=own)
    assert np.isfinite(zoo.predict(fit, data, draws=5)["y.mean"]).all()


def test_the_baselines_take_the_own_scale():
    data = trials(dtype=torch.float32)
    fit = fitted(data, "sequence", "none", {"encoder": "tcn", "encoder_width": 4, "own_scale": True})
    table = zoo.predict(fit, data)
    moved = data.with_tensors({"x": data["x"] + 100, "x_aux": data["x_aux"] + 100})
    assert np.allclose(table["y.mean"], zoo.predict(fit, moved)["y.mean"], atol=1e-2)


# -------------------------------------------------------------------- configurations
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_every_setting_of_table_2_is_a_configuration_of_the_one_model(setting):
    own = dict(SETTINGS[setting])
    data = trials(dtype=torch.float32)
    fit = fitted(data, own.pop("variant"), arguments=own)
    assert isinstance(fit.model, AuxVAE)
    table = zoo.predict(fit, data, draws=5)
    assert np.isfinite(table["y.mean"]).all()
    assert ("style.label" in table) == ("no style" not in setting)
    assert (fit.model.aux is None) == ("no x_aux" in setting)


def test_the_kl_term_alone_is_annealed():
    data = trials(dtype=torch.float32)
    fit = fitted(data, epochs=5)
    assert fit.settings["anneal"] == "warm_up"
    assert fit.settings["anneal_sites"] == ["z"]
    assert fit.history["beta"].is_monotonic_increasing
    assert (warm_up(0.0), warm_up(0.3), warm_up(0.6), warm_up(1.0)) == (0.0, 0.5, 1.0, 1.0)


def test_the_papers_learning_rate_falls_five_times_by_a_tenth():
    found = [step_decay(p) for p in (0.0, 0.19, 0.21, 0.99, 1.0)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 1e-4, 1e-4])


def test_a_fit_knows_how_many_people_it_was_fitted_to(tmp_path):
    data = trials()
    fit = zoo.fit(small_model(data), "paper", data, steps=1, progress=False)
    assert fit.sizes == dict(data.sizes)
    assert zoo.load(fit.save(tmp_path / "run")).sizes == fit.sizes
    assert "3 participants" in repr(fit)
    before = dataclasses.replace(fit, data={k: v for k, v in fit.data.items() if k != "sizes"})
    assert before.sizes == {k: n for k, n in data.sizes.items() if k != "participant"}  # of which one is kept


@pytest.mark.parametrize("z_prior", ["aux", "style"])
def test_other_priors_of_z_train_predict_and_are_swapped(z_prior):
    data = trials(dtype=torch.float32)
    fit = fitted(data, arguments={"z_prior": z_prior})
    assert np.isfinite(zoo.predict(fit, data, draws=5)["y.mean"]).all()
    drawn = zoo.draw(fit, data, draws=2)
    assert drawn.groups["posterior"]["style"].shape == (1, 2, 14)
    data = trials()
    zero = torch.zeros((), dtype=data["y"].dtype)
    swapped = small_model(data, z_prior=z_prior, priors={"z": dist.Laplace(zero, 1.0)})
    drawn = pyro.poutine.trace(swapped).get_trace(**data).nodes["z"]["fn"]
    while isinstance(drawn, torch.distributions.Independent):
        drawn = drawn.base_dist
    assert isinstance(drawn, dist.Laplace)


def test_the_prior_given_the_unloaded_walk_depends_on_it_and_on_nothing_else():
    data = trials()
    model = small_model(data, z_prior="aux")
    priors = []
    other_walk = data.with_tables("participant", {"x_aux": -data["x_aux"]})
    for batch in (data, data.with_tensors({"x": data["x"] + 1}), other_walk):
        trace = pyro.poutine.trace(model).get_trace(**batch)
        priors.append(trace.nodes["z"]["fn"].base_dist.loc)
    assert torch.equal(priors[0], priors[1])
    assert not torch.allclose(priors[0], priors[2])


def test_a_prior_that_reads_the_style_can_be_given_by_the_user():
    data = trials(dtype=torch.float32)

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(4, SIZES["z_dim"]))

        def forward(self, style):
            return dist.Normal(self.loc[style], 1.0).to_event(1)

    fit = fitted(data, arguments={"z_prior": "style", "priors": {"z": Shifted()}})
    assert bool(fit.model.prior_modules["z"].loc.abs().sum() > 0)


# -------------------------------------------------------------------- guides
def test_the_low_rank_guide_has_a_full_covariance_and_the_delta_guide_none():
    data = trials()
    model = small_model(data)
    with default_dtype(torch.float64), isolated(0):
        for kind in (LowRankGuide, DeltaGuide):
            guide = kind(model).eval()
            q = pyro.poutine.trace(guide).get_trace(**data).nodes["z"]["fn"]
            if kind is LowRankGuide:
                off = q.covariance_matrix - torch.diag_embed(q.variance)
                assert q.covariance_matrix.shape == (14, 3, 3)
                assert bool((off.abs().amax((-1, -2)) > 0).all())
            else:
                assert torch.equal(q.mean, q.sample())


def test_with_a_point_guide_and_hardly_any_kl_the_model_is_an_autoencoder():
    fit = fitted(trials(dtype=torch.float32), guide="delta", arguments={"beta": 1e-6}, anneal=None)
    assert np.isfinite(fit.history["elbo"]).all()


def test_the_style_aware_guide_says_which_variant_it_needs():
    with pytest.raises(ValueError, match=r"'delta'\]; it is one of variant \['style-in-guide'\]"):
        fitted(trials(dtype=torch.float32), guide="style_aware")
    with pytest.raises(ValueError, match="variant='style-in-guide'"):
        StyleAwareGuide(small_model(trials()))
    with pytest.raises(ValueError, match=r"guide 'paper' does not suit variant 'style-in-guide'"):
        fitted(trials(dtype=torch.float32), "style-in-guide", "paper")


def test_trace_elbo_is_never_chosen_where_a_style_is_summed_out():
    data = trials(dtype=torch.float32)
    for variant, kind in (("auxvae", TraceEnum_ELBO), ("style-in-guide", TraceEnum_ELBO), ("load-only", Trace_ELBO)):
        model = small_model(data, variant)
        assert type(model.elbo()) is kind


def test_plain_pyro_trains_the_model_as_it_is():
    data = trials(dtype=torch.float32)
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("auxvae", data, **SIZES)
        guide = zoo.create_guide(model, "paper")
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1))
        losses = [svi.step(**data) for _ in range(15)]
    assert losses[-1] < losses[0]


# -------------------------------------------------------------------- labels
def test_hidden_loads_and_styles_do_not_count_whatever_their_values_are():
    data = trials(known="mixed")
    model = small_model(data)
    y = torch.where(data["labelled"], data["y"], 1e3)
    style = torch.where(data["style_labelled"], data["style"], 3)
    with default_dtype(torch.float64), isolated(0):
        guide = zoo.create_guide(model, "paper").eval()
    losses = []
    for batch in (data, data.with_tensors({"y": y, "style": style})):
        with default_dtype(torch.float64), isolated(1):
            losses.append(model.elbo().loss(model, guide, **batch))
    assert losses[0] == losses[1]


def test_a_prior_of_the_style_is_not_annealed():
    with pytest.raises(ValueError, match="use anneal=None"):
        fitted(trials(dtype=torch.float32), arguments={"z_prior": "style"}, anneal=2)


def test_classes_in_another_order_are_refused():
    data = trials(dtype=torch.float32)
    fit = fitted(data)
    coords = {**data.coords, "style_class": data.coords["style_class"][::-1]}
    with pytest.raises(ValueError, match=r"style_class: the batch has .* give the same classes in the same order"):
        zoo.metrics(fit, dataclasses.replace(data, coords=coords), draws=2)


def test_the_latent_report_of_a_style_dependent_prior_averages_over_styles():
    data = trials(dtype=torch.float32)
    table = zoo.latent_report(fitted(data, arguments={"z_prior": "style"}), data, "z", draws=2).table
    assert np.isfinite(table["kl"]).all()
    assert (table["kl"] > 0).all()


def test_scores_of_predicted_probabilities_sum_to_one():
    data = trials(dtype=torch.float32)
    for variant, guide in (("auxvae", "paper"), ("style-in-guide", "style_aware")):
        table = zoo.predict(fitted(data, variant, guide), data, draws=3)
        share = table[[c for c in table if c.startswith("style.p[")]].sum(axis=1)
        assert np.allclose(share, 1.0, atol=1e-12)


def test_data_without_any_style_or_load_can_still_be_drawn_from():
    data = trials(dtype=torch.float32)
    fit = fitted(data)
    bare = zoo.Batch.from_arrays(
        rows={"x": data["x"]}, groups={"participant": data.group_names("participant")},
        tables={"participant": {"x_aux": data["x_aux"]}}, coords={"participant": data.coords["participant"]},
    )  # fmt: skip
    table = zoo.predict(fit, bare, draws=4)
    assert {"y.mean", "y.q05", "style.label"} <= set(table)


def test_the_unloaded_walks_of_training_are_not_kept_with_the_fit():
    fit = fitted(trials(dtype=torch.float32))
    assert len(fit.prototype["x_aux"]) == 1


# -------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "late"}, "fusion: 'late' is none of"),
        ({"attention_residual": "sum"}, "attention_residual: 'sum' is none of"),
        ({"y_likelihood": "gamma"}, "y_likelihood: 'gamma' is none of"),
        ({"x_likelihood": "laplace"}, "x_likelihood: 'laplace' is none of"),
        ({"z_prior": "flow"}, "z_prior: 'flow' is none of"),
        ({"d_model": 5}, "d_model: 5 does not divide into 2 heads"),
        ({"segments": 7}, "n_steps: walks of 24 steps are too short"),
        ({"kernel": 9}, "the convolutions see 25 steps"),
        ({"z_prior": "aux", "fusion": "none"}, "fusion='none' leaves out"),
        ({"beta": 0.0}, "beta: 0.0; a positive weight"),
        ({"recon_weight": -1.0}, "recon_weight: -1.0; a positive weight"),
        ({"floor": -1.0}, "floor: -1.0; a positive scale"),
        ({"n_styles": 0}, "n_styles: 0; use variant 'load-only'"),
        *(({name: 0}, f"{name}: 0; whole numbers") for name in ("z_dim", "kernel", "pool", "heads", "segments")),
        ({"channels": ()}, "channels: 0; whole numbers"),
        ({"z_prior": "style", "beta": 0.5}, "beta: 0.5 with z_prior='style'"),
        ({"priors": {"w": dist.Normal(0.0, 1.0)}}, r"unknown prior site\(s\) \['w'\]"),
    ],
)
def test_impossible_configurations_are_refused_with_the_remedy(arguments, message):
    with pytest.raises((ValueError, KeyError), match=message):
        zoo.create_model("auxvae", trials(), **{**SIZES, **arguments})


def test_concatenation_needs_walks_of_one_length():
    data = trials(aux_steps=30)
    with pytest.raises(ValueError, match="fusion: 'concat' needs loaded and unloaded walks of the same length"):
        zoo.create_model("auxvae", data, **{**SIZES, "fusion": "concat"})
    with pytest.raises(ValueError, match="use_aux: concatenation needs"):
        zoo.create_model("auxvae", data, variant="sequence")
    assert np.isfinite(fitted(trials(aux_steps=30, dtype=torch.float32)).history["elbo"]).all()


def test_a_style_prior_needs_a_model_that_sums_the_style_out():
    for variant in ("load-only", "style-in-guide"):
        with pytest.raises(ValueError, match="use variant 'auxvae'"):
            zoo.create_model("auxvae", trials(), variant=variant, **SIZES, z_prior="style")


def test_walks_of_another_shape_than_in_training_are_refused():
    fit = fitted(trials(dtype=torch.float32))
    with pytest.raises(ValueError, match="n_channels: the model was made for 5, but the data have 4"):
        zoo.predict(fit, trials(channels=4, dtype=torch.float32), draws=2)
    with pytest.raises(ValueError, match="the model was made for 24"):
        zoo.predict(fit, trials(steps=25, dtype=torch.float32), draws=2)


def test_a_minibatch_of_one_trial_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="choose a batch_size that does not leave one trial over"):
        fitted(trials(n=15, dtype=torch.float32), batch_size=7)
    model = small_model(trials())
    with pytest.raises(ValueError, match="a data set of one trial"):
        zoo.fit(model, "paper", trials(n=1, people=1), progress=False)


def test_a_constant_channel_and_a_single_load_are_refused():
    data = trials()
    x = data["x"].clone()
    x[..., 2] = 4.0
    with pytest.raises(ValueError, match="x, channel 2: it never changes"):
        zoo.create_model("auxvae", data.with_tensors({"x": x}), **SIZES)
    with pytest.raises(ValueError, match="y: every known load is 20"):
        zoo.create_model("auxvae", data.with_tensors({"y": torch.full_like(data["y"], 20.0)}), **SIZES)


def test_the_models_signature_names_what_the_batch_holds():
    taken = set(inspect.signature(AuxVAE.forward).parameters)
    assert set(trials()) - {"sizes", "labelled"} <= taken  # the mask of y is taken as y_labelled
