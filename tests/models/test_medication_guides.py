"""The guides of the medication entry: closed form by hand, maximum likelihood, the power, and SVI beside them."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from medication_text import path_score
from pyro.infer import autoguide

import pyrozoo as zoo
from pyrozoo.modeling.guides import ComposedGuide
from pyrozoo.models.medication import FrameHMM, StepProcess, recordings
from pyrozoo.models.medication.decoding import log_scores
from pyrozoo.models.medication.guides import ClosedForm, MaximumLikelihood
from pyrozoo.models.medication.power import _maximise, held_out_power, pieces_of
from pyrozoo.models.medication.process import decode
from pyrozoo.models.medication.process.counts import labelled_sequences

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:on held-out parts"),  # of a few frames with random scores
]

NAMES = ["none", "one", "two"]
LABELS = (
    [0, 0, 1, 1, 1, 0, 0, 2, 2, 0],
    [0, 1, 1, 0, 2, 2, 2, 2, 0, 0],
    [0, 0, 0, 2, 2, 2, 0],
    [1, 1, 0, 0, 0, 2, 2],
)


def made(labels=LABELS, seen=None, rate=1.0, strength=0.3, seed=0):
    """Recordings with these labels and random scores, labelled where `seen` says so."""
    rng = np.random.default_rng(seed)
    score = [rng.dirichlet(np.ones(3), len(z)) * (1 - strength) + strength * np.eye(3)[z] for z in labels]
    kept = [z if own else None for z, own in zip(labels, seen or [True] * len(labels), strict=True)]
    return recordings(score, kept, labels=NAMES, rate=rate, name="made")


def fitted(guide, data, variant="semi-markov", **arguments):
    settings = arguments.pop("settings", {})
    return zoo.fit(
        zoo.create_model("medication", data, variant=variant, **arguments), guide, data, progress=False, **settings
    )


@pytest.fixture(scope="module")
def simulated():
    """Labels of 80 recordings from each reading of a known process of two steps, and its parameters."""
    parameters = {
        "stick": torch.tensor([0.7, 0.6, 0.9]), "start_rate": torch.tensor(0.2),
        "duration_mean": torch.tensor([9.0, 14.0]), "duration_sd": torch.tensor([2.0, 3.0]),
        "gap_mean": torch.tensor([6.0]), "gap_sd": torch.tensor([1.5]),
    }  # fmt: skip
    out = {}
    for reading in ("hazard", "cdf"):
        model = StepProcess(NAMES, [(0, 1), (0, 2), (1, 2)], duration=reading, typical=[8.0, 5.0], caps=[40, 30, 30])
        torch.manual_seed(0)
        process = model.process(model.parameters_of(parameters))
        value = model.label_distribution(process, torch.full((80,), 60)).sample()
        out[reading] = made(value.numpy()), parameters
    return out


# ---------------------------------------------------------------- closed form
def log_normal(prior, estimates, errors):
    """Location and scale after a normal estimate of the logarithm, by precisions."""
    precision = 1 / prior[1] ** 2 + sum(1 / e**2 for e in errors)
    weighted = prior[0] / prior[1] ** 2 + sum(x / e**2 for x, e in zip(estimates, errors, strict=True))
    return weighted / precision, precision**-0.5


def moments(frames, rate=1.0):
    """Estimates and errors of (log mean, log sd) of several complete segments."""
    x = np.array(frames) / rate
    sd = max(x.std(ddof=1), 0.5 / rate)
    return (math.log(x.mean()), sd / x.mean() / math.sqrt(len(x))), (math.log(sd), 1 / math.sqrt(2 * (len(x) - 1)))


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_the_closed_form_is_counts_by_hand(rate):
    data = made(rate=rate)
    fit = fitted("closed-form", data, typical=[2.0, 1.5], alpha=0.5)
    guide = fit.guide
    assert fit.status == "solved"
    # D: start -> one twice, start -> two once, one -> two three times; no recording ended after the start or step one.
    np.testing.assert_allclose(guide.stick_concentration1.numpy(), 0.5 + np.array([2, 1, 3]))
    np.testing.assert_allclose(guide.stick_concentration0.numpy(), [0.5 * 2 + 1, 0.5, 0.5])
    # First steps begin after 2, 1 and 3 frames; the fourth recording begins with a step and says nothing of waits.
    assert guide.start_rate_concentration.item() == pytest.approx(1 + 3)
    assert guide.start_rate_rate.item() == pytest.approx(10 + (2 + 1 + 3 - 1.5) / rate)
    # Complete segments; the last step of the fourth recording is cut off by its end.
    durations, gaps = [[3, 2, 2], [2, 4, 3]], [2, 1, 3]
    for i, frames in enumerate(durations):
        (mean, error), (sd, sd_error) = moments(frames, rate)
        found = [guide.duration_mean_loc[i].item(), guide.duration_mean_scale[i].item()]
        assert found == pytest.approx(log_normal((math.log(2.0), 1.0), [mean], [error]))
        found = [guide.duration_sd_loc[i].item(), guide.duration_sd_scale[i].item()]
        assert found == pytest.approx(log_normal((math.log(0.6), 1.0), [sd], [sd_error]))
    (mean, error), (sd, sd_error) = moments(gaps, rate)
    found = [guide.gap_mean_loc.item(), guide.gap_mean_scale.item()]
    assert found == pytest.approx(log_normal((math.log(1.5), 1.0), [mean], [error]))
    found = [guide.gap_sd_loc.item(), guide.gap_sd_scale.item()]
    assert found == pytest.approx(log_normal((math.log(0.45), 1.0), [sd], [sd_error]))


def test_endings_count_as_pairs_that_were_not_taken():
    labels = ([0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0, 2, 0], [0, 1])
    guide = fitted("closed-form", made(labels), alpha=1.0).guide
    # After the start: four times step one, once nothing. After step one: once step two, twice nothing; one cut off.
    np.testing.assert_allclose(guide.stick_concentration1.numpy(), [1 + 4, 1 + 1])
    np.testing.assert_allclose(guide.stick_concentration0.numpy(), [1 + 1, 1 + 2])


def test_a_step_seen_once_tells_its_mean_and_not_its_spread():
    labels = ([0, 1, 1, 1, 0, 2, 2, 0], [0, 1, 1, 1, 1, 0])
    guide = fitted("closed-form", made(labels), typical=[2.0, 1.0]).guide
    found = [guide.duration_mean_loc[1].item(), guide.duration_mean_scale[1].item()]
    assert found == pytest.approx(log_normal((math.log(2.0), 1.0), [math.log(2)], [0.3]))
    assert guide.duration_sd_loc[1].item() == pytest.approx(math.log(0.6))
    assert guide.duration_sd_scale[1].item() == pytest.approx(1.0)


def test_a_step_that_is_always_cut_off_keeps_its_prior():
    labels = ([0, 1, 1, 0, 2, 2], [0, 1, 1, 1, 0, 2])
    guide = fitted("closed-form", made(labels), typical=[2.0, 1.0]).guide
    for site, centre in (("duration_mean", 2.0), ("duration_sd", 0.6)):
        assert getattr(guide, f"{site}_loc")[1].item() == pytest.approx(math.log(centre))
        assert getattr(guide, f"{site}_scale")[1].item() == pytest.approx(1.0)


@pytest.mark.parametrize("guide", ["closed-form", "ml", "normal"])
@pytest.mark.parametrize("labels", [([0, 1, 1, 0], [0, 2, 0, 0]), ([0, 0, 0], [0, 0])])
def test_recordings_of_one_step_or_none_can_be_fitted(guide, labels):
    settings = {"settings": {"steps": 2}} if guide == "normal" else {}
    data = made(labels)
    fit = fitted(guide, data, **settings)
    assert np.isfinite(fit.history["elbo"]).all()
    assert len(zoo.predict(fit, data, draws=2)) == sum(map(len, labels))


def test_the_chain_in_closed_form_is_counts_by_hand():
    guide = fitted("closed-form", made(), "frame-hmm", alpha=0.2).guide
    moves = np.zeros((3, 3))
    for z in LABELS:
        for a, b in itertools.pairwise(z):
            moves[a, b] += 1
    assert moves.sum() == 30
    np.testing.assert_allclose(guide.A_concentration.numpy(), 0.2 + moves)
    np.testing.assert_allclose(guide.initial_concentration.numpy(), [3.2, 1.2, 0.2])


def test_only_labelled_recordings_are_counted():
    data = made(seen=[True, True, True, False])
    few = data.subset([0, 1, 2])
    model = zoo.create_model("medication", data)
    guides = [zoo.fit(model, "closed-form", own, progress=False).guide for own in (data, few)]
    for name, value in guides[0].state_dict().items():
        torch.testing.assert_close(value, guides[1].state_dict()[name], rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("guide", ["closed-form", "ml", "normal"])
@pytest.mark.parametrize("variant", ["semi-markov", "paper", "frame-hmm"])
def test_without_a_labelled_recording_there_is_nothing_to_fit(variant, guide):
    with pytest.raises(ValueError, match="no recording is labelled, so there is nothing to fit to"):
        fitted(guide, made(seen=[False] * 4), variant)


@pytest.mark.parametrize("guide", ["closed-form", "ml"])
def test_guides_that_solve_need_labels_and_name_the_one_that_does_not(guide):
    with pytest.raises(ValueError, match=r"learns from labelled ones only; .* guide 'normal'"):
        fitted(guide, made(seen=[False] * 4), unlabelled=True)


def test_equal_durations_have_a_likelihood_without_priors():
    data = made()
    fit = fitted(lambda model: MaximumLikelihood(model, penalty=0.0), data)
    values = fit.guide.values()
    assert all(torch.isfinite(value).all() for value in values.values())
    assert (values["duration_sd"] >= 0.5 / fit.model.rate - 1e-6).all()


def test_the_closed_form_has_no_parameters_and_needs_no_gradient():
    fit = fitted("closed-form", made())
    assert list(fit.guide.parameters()) == []
    with torch.no_grad():
        assert fitted("closed-form", made()).guide.stick_concentration1.equal(fit.guide.stick_concentration1)


@pytest.mark.parametrize(
    ("variant", "priors", "message"),
    [
        ("semi-markov", {"duration_sd": dist.Gamma(4.0, 2.0)}, "prior of 'duration_sd' is a Gamma; .* a LogNormal"),
        ("semi-markov", {"start_rate": dist.LogNormal(0.0, 1.0)}, "prior of 'start_rate' is a LogNormal; .* a Gamma"),
        ("semi-markov", {"power": dist.HalfNormal(1.0)}, "prior of 'power' is a HalfNormal; this guide needs a LogNor"),
        ("frame-hmm", {"A": dist.Dirichlet(torch.ones(3, 3)).to_event(1)}, None),
    ],
)
def test_the_closed_form_needs_the_families_of_the_default_priors(variant, priors, message):
    model = zoo.create_model("medication", made(), variant=variant, priors=priors)
    if message is None:
        concentration = zoo.fit(model, "closed-form", made(), progress=False).guide.initial_concentration
        assert concentration.sum().item() == pytest.approx(0.3 + 4)
        return
    with pytest.raises(ValueError, match=rf"guide 'closed-form': the {message}.*Use the guide 'normal' or 'ml'"):
        zoo.create_guide(model, "closed-form")


def test_a_swapped_prior_of_the_same_family_is_updated():
    priors = {"duration_mean": dist.LogNormal(1.0, 0.2)}
    guide = fitted("closed-form", made(), priors=priors).guide
    (mean, error), _ = moments([3, 2, 2])
    found = [guide.duration_mean_loc[0].item(), guide.duration_mean_scale[0].item()]
    assert found == pytest.approx(log_normal((1.0, 0.2), [mean], [error]))


# ---------------------------------------------------------------- maximum likelihood
def log_likelihood(model, values, data):
    """Of the labels, summed over the labelled recordings."""
    seen = labelled_sequences(data)
    process = model.process(model.parameters_of(values))
    return process.log_prob(np.concatenate(seen), np.array([len(z) for z in seen])).sum().item()


def log_prior(model, values):
    """On the scale of logarithms and logits, of the sites of a process of steps."""
    total = 0.0
    for site, value in values.items():
        base = model.priors()[site]
        base = base.base_dist if site != "start_rate" else base
        density = base.log_prob(value)
        if site == "stick":
            total += (density + value.log() + (1 - value).log()).sum().item()
        else:
            total += (density + value.log()).sum().item()
    return total


def of_process(values):
    return {site: value.detach() for site, value in values.items() if site != "power"}


@pytest.mark.parametrize("reading", ["hazard", "cdf"])
def test_maximum_likelihood_is_above_the_closed_form(simulated, reading):
    data, _ = simulated[reading]
    arguments = {"duration": reading, "power": 1.0, "caps": [40, 30, 30]}
    closed, ml = (fitted(guide, data, **arguments) for guide in ("closed-form", "ml"))
    plain = fitted(lambda model: MaximumLikelihood(model, penalty=0.0), data, **arguments)
    means = {site: closed.guide.families[site](*parts).mean for site, parts in posterior(closed.guide).items()}
    found = {"closed": means, "ml": of_process(ml.guide.values()), "plain": of_process(plain.guide.values())}
    likelihood = {name: log_likelihood(ml.model, values, data) for name, values in found.items()}
    objective = {name: likelihood[name] + log_prior(ml.model, values) for name, values in found.items()}
    assert likelihood["closed"] <= likelihood["ml"] <= likelihood["plain"]
    assert objective["ml"] >= max(objective.values())
    if reading == "cdf":  # whose durations moments do not know
        assert likelihood["ml"] > likelihood["closed"] + 50


def posterior(guide):
    """Parameters of the closed-form posterior of every site but the power."""
    parts = {
        "stick": ("concentration1", "concentration0"), "start_rate": ("concentration", "rate"),
        "duration_mean": ("loc", "scale"), "duration_sd": ("loc", "scale"), "gap_mean": ("loc", "scale"),
        "gap_sd": ("loc", "scale"),
    }  # fmt: skip
    return {site: [getattr(guide, f"{site}_{name}") for name in names] for site, names in parts.items()}


@pytest.mark.parametrize("reading", ["hazard", "cdf"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_maximum_likelihood_is_stationary(simulated, reading, penalty):
    data, _ = simulated[reading]
    few = data.subset(range(30))
    fit = fitted(
        lambda model: MaximumLikelihood(model, penalty), few, duration=reading, power=1.0, caps=[40, 30, 30]
    )  # fmt: skip
    values = of_process(fit.guide.values())
    objective = lambda own: log_likelihood(fit.model, own, few) + penalty * log_prior(fit.model, own)  # noqa: E731
    best, step = objective(values), 1e-4
    for site, value in values.items():
        for i in range(value.numel()):
            moved = []
            for sign in (1, -1):
                new = value.clone().reshape(-1)
                u = new[i].logit() if site == "stick" else new[i].log()
                new[i] = (u + sign * step).sigmoid() if site == "stick" else (u + sign * step).exp()
                moved.append(objective(values | {site: new.reshape(value.shape)}))
            assert abs(moved[0] - moved[1]) / (2 * step) < 0.05, site
            assert max(moved) <= best + 1e-6, site


@pytest.mark.parametrize("reading", ["hazard", "cdf"])
def test_maximum_likelihood_recovers_the_parameters(simulated, reading):
    data, truth = simulated[reading]
    fit = fitted("ml", data, duration=reading, power=1.0, caps=[40, 30, 30])
    values = of_process(fit.guide.values())
    for site in ("duration_mean", "gap_mean"):
        np.testing.assert_allclose(values[site].numpy(), truth[site].numpy(), rtol=0.12, err_msg=site)
    for site in ("duration_sd", "gap_sd"):
        np.testing.assert_allclose(values[site].numpy(), truth[site].numpy(), rtol=0.35, err_msg=site)
    np.testing.assert_allclose(values["stick"].numpy(), truth["stick"].numpy(), atol=0.2)
    assert values["start_rate"].item() == pytest.approx(0.2, rel=0.3)


def test_moments_contradict_the_reading_of_the_text(simulated):
    """What the text estimates by moments is not the mean of its Gaussians: the durations of its process are shorter."""
    data, truth = simulated["cdf"]
    mean = fitted("closed-form", data, "paper").guide.duration_mean_loc.exp()
    assert (mean < 0.85 * truth["duration_mean"]).all()


def test_maximum_likelihood_of_the_chain_is_the_mode_of_its_logits():
    """With a penalty of zero the shares of the moves."""
    labels = ([0, 0, 1, 1, 2, 2, 0, 1], [1, 2, 1, 0, 2, 2], [2, 0, 0])
    fit = fitted(lambda model: MaximumLikelihood(model, penalty=0.0), made(labels), "frame-hmm")
    moves = np.zeros((3, 3))
    for z in labels:
        np.add.at(moves, (z[:-1], z[1:]), 1)
    np.testing.assert_allclose(
        fit.guide.values()["A"].detach().numpy(), moves / moves.sum(1, keepdims=True), atol=1e-3
    )  # fmt: skip
    np.testing.assert_allclose(fit.guide.values()["initial"].detach().numpy(), np.ones(3) / 3, atol=1e-3)


# ---------------------------------------------------------------- the power
def conditional_likelihood(model, process, data, power):
    """Log p(labels | scores) at a power, summed over recordings, and the density of its logarithm."""
    own = log_scores(model, data, power)
    labels = labelled_sequences(data)
    total = path_score(own, labels, process) - decode.log_evidence(own, process)
    return total.sum() + float(dist.LogNormal(0.0, 1.0).log_prob(torch.tensor(power))) + math.log(power)


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("variant", ["semi-markov", "frame-hmm"])
def test_the_power_maximises_the_conditional_likelihood(variant, strength):
    data = made(strength=strength)
    fit = fitted("closed-form", data, variant, power="fit")
    with torch.no_grad():
        parameters = {name: v.detach() for name, v in fit.model.mean_parameters(fit.guide, data)[0].items()}
        process = fit.model.process(parameters)
        location, error = _maximise(fit.model, [(piece, process) for piece in pieces_of(fit.model, data)], 1.0)
    grid = location + np.linspace(-1.0, 1.0, 81)
    value = np.array([conditional_likelihood(fit.model, process, data, math.exp(u)) for u in grid])
    assert abs(grid[value.argmax()] - location) <= 0.025
    # The error is that of the parabola through the maximum.
    curvature = np.polyfit(grid[36:45] - location, value[36:45], 2)[0] * -2
    assert error >= 0.95 * min(1.0, curvature**-0.5)  # or that of recordings that differ by more than it says
    assert error <= 1.0


def test_the_power_of_a_fit_is_that_of_recordings_that_the_process_was_learned_without():
    data = made(strength=0.3)
    model = zoo.create_model("medication", data)
    sequences = labelled_sequences(data)
    assert len(sequences) <= 5  # so that every recording is a fold of its own
    processes = []
    for i in range(len(sequences)):
        others = ClosedForm(model)._learn(sequences[:i] + sequences[i + 1 :])
        processes.append(model.process(model.parameters_of(others.means())))

    def value(log_power):
        power = math.exp(log_power)
        own = log_scores(model, data, power)
        total = float(dist.LogNormal(0.0, 1.0).log_prob(torch.tensor(power))) + log_power
        for q, z, process in zip(own, sequences, processes, strict=True):
            total += (path_score([q], [z], process) - decode.log_evidence([q], process)).item()
        return total

    location, error = held_out_power(model, data, ClosedForm(model)._fold)
    grid = location + np.linspace(-1.0, 1.0, 81)
    assert abs(grid[np.argmax([value(u) for u in grid])] - location) <= 0.05
    assert 0 < error <= 1


def test_clearer_scores_get_a_higher_power():
    powers = [fitted("closed-form", made(strength=s)).guide.power_loc.item() for s in (0.05, 0.6)]
    assert powers[0] < powers[1] - 0.3


def test_no_power_is_fitted_without_labels_or_to_missing_scores():
    data = made()
    model = zoo.create_model("medication", data)
    learn = ClosedForm(model)._fold
    assert held_out_power(model, data, learn) is not None
    assert held_out_power(model, data.hide(), learn) is None
    score = data["score"].clone()
    score[3, 1] = math.nan
    assert held_out_power(model, data.with_tensors({"score": score}), learn) is None


# ---------------------------------------------------------------- Gaussian guides by SVI
def test_svi_approaches_the_closed_form(simulated):
    data, _ = simulated["hazard"]
    arguments = {"power": 1.0, "caps": [40, 30, 30]}
    closed = fitted("closed-form", data, **arguments).guide
    svi = fitted("normal", data, **arguments, settings={"steps": 200, "batch_size": None, "seed": 1})
    median = svi.guide.auto.median(**svi.model.arguments(data))
    for site in ("duration_mean", "gap_mean"):
        expected = getattr(closed, f"{site}_loc").exp()
        np.testing.assert_allclose(median[site].detach().numpy(), expected.numpy(), rtol=0.05, err_msg=site)
    np.testing.assert_allclose(
        median["stick"].detach().numpy(), dist.Beta(*posterior(closed)["stick"]).mean.numpy(), atol=0.06
    )
    assert svi.history["elbo"].iloc[-1] > svi.history["elbo"].iloc[0]


def test_an_autoguide_class_covers_all_sites():
    data = made()
    fit = fitted(autoguide.AutoMultivariateNormal, data, settings={"steps": 3})
    assert isinstance(fit.guide, ComposedGuide)
    draws = zoo.draw(fit, data, draws=4).groups["posterior"]
    assert {*fit.model.priors(), "D"} == set(draws)
    assert all(np.isfinite(value).all() for value in draws.values())


@pytest.mark.parametrize("variant", ["semi-markov", "paper", "frame-hmm"])
@pytest.mark.parametrize("guide", ["normal", autoguide.AutoDelta])
def test_unlabelled_recordings_inform_svi(variant, guide):
    data = made(seen=[True, True, False, False])
    other = data.with_tensors({"score": torch.where(sees(data), data["score"], data["score"].flip(-1))})
    settings = {"settings": {"steps": 3, "batch_size": None}}
    fits = [fitted(guide, own, variant, unlabelled=True, **settings) for own in (data, other)]
    assert all(np.isfinite(fit.history["elbo"]).all() for fit in fits)
    a, b = (torch.cat([p.detach().ravel() for p in fit.guide.parameters()]) for fit in fits)
    assert not torch.allclose(a, b)


def sees(data):
    """Which frames belong to labelled recordings, shape (F, 1)."""
    return data["labelled"].repeat_interleave(data["lengths"])[:, None]


@pytest.mark.parametrize("model", [StepProcess, FrameHMM])
def test_an_svi_fit_in_minibatches_runs_to_its_end(model, simulated):
    data, _ = simulated["hazard"]
    variant = "semi-markov" if model is StepProcess else "frame-hmm"
    fit = fitted("normal", data.subset(range(12)), variant, settings={"steps": 8, "batch_size": 4})
    assert isinstance(fit.model, model)
    assert (fit.status, int(fit.history["step"].iloc[-1])) == ("finished", 8)
    assert np.isfinite(fit.history["elbo"]).all()
