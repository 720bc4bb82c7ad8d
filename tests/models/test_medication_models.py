"""The models of the medication entry: their densities against Pyro, hmmlearn and by hand; and what they refuse."""

import itertools
import math
import pkgutil
from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from medication_text import path_score
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, infer_discrete

import pyrozoo as zoo
from pyrozoo.models import medication
from pyrozoo.models.medication import FrameHMM, PaperProcess, StepProcess, recordings
from pyrozoo.models.medication.process import decode, durations
from pyrozoo.models.medication.process.evidence import FrameChain, SemiMarkov, log_evidence, log_potentials
from pyrozoo.models.medication.process.process import MarkovChain

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:on held-out parts"),  # of a few frames with random scores
]

NAMES = ["none", "one", "two"]
MODELS = {"semi-markov": StepProcess, "paper": PaperProcess, "frame-hmm": FrameHMM}
LABELS = (
    [0, 0, 1, 1, 1, 0, 0, 2, 2, 0],
    [0, 1, 1, 0, 2, 2, 2, 2, 0, 0],
    [0, 0, 0, 2, 2, 2, 0],
    [1, 1, 0, 0, 0, 2, 2],
)


@pytest.fixture(autouse=True)
def _own_store():
    yield
    pyro.clear_param_store()


def made(labels=LABELS, n_unlabelled=0, seed=0):
    """Recordings with these labels and random scores, the last ones without their labels."""
    rng = np.random.default_rng(seed)
    score = [rng.dirichlet(np.ones(3), len(z)) * 0.6 + 0.4 * np.eye(3)[z] for z in labels]
    kept = [*labels[: len(labels) - n_unlabelled], *[None] * n_unlabelled]
    return recordings(score, kept, labels=NAMES, rate=1.0, name="made")


def small(variant="semi-markov", lead=(), seed=0, **arguments):
    """A model of two steps, and values of its latents."""
    if variant != "frame-hmm":
        arguments = {"typical": [3.0, 2.0], "caps": [5, 4, 4], "initial": [0.6, 0.2, 0.2]} | arguments
    model = MODELS[variant](NAMES, **({"alpha": 1.0} | arguments))
    torch.manual_seed(seed)
    return model, {site: model.prior(site).sample(lead) for site in model.priors()}


def process_of(variant="semi-markov", lead=(), seed=0, **arguments):
    model, values = small(variant, lead, seed, **arguments)
    return model, model.process(model.parameters_of(values))


def one_of(process, i):
    """The process at position i of a leading shape (n,)."""
    fields = {name: getattr(process, name) for name in type(process).__dataclass_fields__}
    return type(process)(**{name: v[i] if isinstance(v, torch.Tensor) else v for name, v in fields.items()})


def chain(seed=0, n_labels=3):
    rng = np.random.default_rng(seed)
    initial, transition = (torch.tensor(rng.dirichlet(np.ones(n_labels), size)) for size in (None, n_labels))
    return MarkovChain(initial, transition), rng


# ---------------------------------------------------------------- the chain against Pyro and hmmlearn
def explicit_problem():
    process, rng = chain()
    lengths = torch.tensor([6, 1, 9])
    score = torch.tensor(rng.uniform(0.02, 0.98, (int(lengths.sum()), 3)))
    return FrameHMM(NAMES, emission="beta", floor=1e-6), process, score, lengths


def test_the_explicit_chain_has_the_evidence_of_the_forward_algorithm_and_of_pyros_hmm():
    model, process, score, lengths = explicit_problem()
    ours = log_evidence(model.log_potentials(score), lengths, process)
    initial, transition = process.tables
    on = torch.eye(3)
    for i, own in enumerate(score.split(lengths.tolist())):
        # Pyro's initial state comes before the first transition, which therefore leads to `initial` from everywhere.
        moves = torch.cat([initial.expand(1, 3, 3), transition.expand(len(own) - 1, 3, 3)])
        hmm = dist.DiscreteHMM(torch.zeros(3), moves.log(), dist.Beta(1 + on, 2 - on).to_event(1), duration=len(own))
        assert hmm.log_prob(own).item() == pytest.approx(ours[i].item(), abs=1e-8)
        elbo = TraceEnum_ELBO(max_plate_nesting=2)
        loss = elbo.loss(model.explicit, lambda *_: None, own, lengths[i : i + 1], initial, transition)
        assert -loss == pytest.approx(ours[i].item(), abs=1e-8)
    together = TraceEnum_ELBO(max_plate_nesting=2).loss(
        model.explicit, lambda *_: None, score, lengths, *process.tables
    )
    assert -together == pytest.approx(ours.sum().item(), abs=1e-8)


def test_the_explicit_chain_has_the_gradient_of_the_forward_algorithm():
    model, process, score, lengths = explicit_problem()
    found = []
    for written_out in (True, False):
        logits = [table.log().clone().requires_grad_() for table in process.tables]
        tables = [own.softmax(-1) for own in logits]
        if written_out:
            elbo = TraceEnum_ELBO(max_plate_nesting=2)
            value = -elbo.differentiable_loss(model.explicit, lambda *_: None, score, lengths, *tables)
        else:
            value = log_evidence(model.log_potentials(score), lengths, MarkovChain(*tables)).sum()
        found.append(torch.autograd.grad(value, logits))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-8)
        assert own.abs().max() > 0.1


def test_pyros_discrete_inference_of_the_explicit_chain_is_viterbi():
    model, process, score, lengths = explicit_problem()
    best = infer_discrete(model.explicit, first_available_dim=-3, temperature=0)
    nodes = poutine.trace(best).get_trace(score, lengths, *process.tables).nodes
    found = torch.stack([nodes[f"z_{t}"]["value"].expand(3, 1)[:, 0] for t in range(int(lengths.max()))], 1)
    own = [part.numpy() for part in model.log_potentials(score).split(lengths.tolist())]
    for i, labels in enumerate(decode.decode(own, process, "viterbi")):
        assert found[i, : len(labels)].tolist() == labels.tolist()


def test_the_chain_is_hmmlearns():
    hmm = pytest.importorskip("hmmlearn.hmm")
    process, rng = chain(seed=2, n_labels=4)
    lengths = [30, 1, 12]
    symbol, emission = rng.integers(0, 5, (sum(lengths), 1)), rng.dirichlet(np.ones(5), 4)
    other = hmm.CategoricalHMM(n_components=4, init_params="", params="")
    other.startprob_, other.transmat_ = process.arrays()
    other.emissionprob_ = emission
    own = np.split(np.log(emission[:, symbol[:, 0]].T), np.cumsum(lengths)[:-1])
    paths, best = zip(*decode.most_probable(own, process), strict=True)
    score, path = other.decode(symbol, lengths, algorithm="viterbi")
    assert np.concatenate(paths).tolist() == path.tolist()
    assert sum(best) == pytest.approx(score, abs=1e-9)
    total, posterior = other.score_samples(symbol, lengths)
    np.testing.assert_allclose(np.concatenate(decode.marginals(own, process)), posterior, atol=1e-9)
    assert decode.log_evidence(own, process).sum() == pytest.approx(total, abs=1e-9)


# ---------------------------------------------------------------- label sequences as a distribution
@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_samples_have_the_lengths_of_their_recordings_and_a_density(variant, lead):
    model, process = process_of(variant, lead)
    lengths = torch.tensor([4, 1, 7])
    labels = model.label_distribution(process, lengths)
    assert isinstance(labels, FrameChain if variant == "frame-hmm" else SemiMarkov)
    assert (labels.batch_shape, labels.event_shape) == ((*lead, 3), (7,))
    torch.manual_seed(1)
    for shape in ((), (1,), (5,)):
        value = labels.sample(shape)
        assert value.shape == (*shape, *lead, 3, 7)
        mask = labels.event_mask.expand(value.shape)
        assert mask.sum(-1).unique().tolist() == [1, 4, 7]
        assert (value[~mask] == -1).all()
        assert set(value[mask].tolist()) <= {0, 1, 2}
        density = labels.log_prob(value)
        assert density.shape == (*shape, *lead, 3)
        assert torch.isfinite(density).all()
        assert labels.support.check(value).all()
    wide = labels.expand((2, *labels.batch_shape))
    assert wide.sample().shape == (2, *labels.sample().shape)
    assert wide.log_prob(labels.sample()).shape == wide.batch_shape
    with pytest.raises(ValueError, match=r"batch shape .* cannot become"):
        labels.expand((*labels.batch_shape[:-1], 7))


@pytest.mark.parametrize("variant", MODELS)
def test_a_leading_shape_is_as_many_processes(variant):
    model, together = process_of(variant, (3,))
    lengths = torch.tensor([4, 1, 7])
    torch.manual_seed(1)
    labels = model.label_distribution(together, lengths)
    value = labels.sample((2,))
    score = torch.randn(3, 12, 3)
    evidence, shared = log_evidence(score, lengths, together), log_evidence(score[0], lengths, together)
    for i in range(3):
        own = one_of(together, i)
        one = model.label_distribution(own, lengths)
        torch.testing.assert_close(labels.log_prob(value)[:, i], one.log_prob(value[:, i]), rtol=0, atol=1e-12)
        torch.testing.assert_close(labels.log_prob(value[0, 0])[i], one.log_prob(value[0, 0]), rtol=0, atol=1e-12)
        torch.testing.assert_close(evidence[i], log_evidence(score[i], lengths, own), rtol=0, atol=1e-12)
        torch.testing.assert_close(shared[i], log_evidence(score[0], lengths, own), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"scores have the leading shape \(2,\), the process has \(\)"):
        log_evidence(score[:2], lengths, one_of(together, 0))


@pytest.mark.parametrize("variant", ["semi-markov", "paper"])
def test_the_end_of_a_recording_censors_its_last_segment(variant):
    """A step seen for n frames at the end lasted at least n: the probabilities to end sooner and this sum to 1."""
    model, values = small(variant)
    values |= {"duration_mean": torch.tensor([3.0, 2.0]), "duration_sd": torch.tensor([2.0, 1.0])}
    process = model.process(model.parameters_of(values))
    n = 9  # beyond the cap
    done = [np.r_[np.ones(d, int), 0] for d in range(1, n)]
    whole = [*done, np.ones(n, int)]
    found = process.log_prob(np.concatenate(whole), np.array([len(z) for z in whole])).exp()
    assert found.sum().item() == pytest.approx(0.2, abs=1e-12)  # the probability to begin with step 1
    assert (found > 0).all()


@pytest.mark.parametrize("variant", MODELS)
def test_particles_are_the_single_draws(variant):
    """The vectorised ELBO of three particles is finite, and each particle's log joint is that of its own values."""
    model, values = small(variant, (3,), unlabelled=True, power="fit")
    data = made(n_unlabelled=2)
    arguments = model.arguments(data)
    with pyro.plate("particles", 3, dim=-2), poutine.condition(data={k: v[:, None] for k, v in values.items()}):
        nodes = poutine.trace(model).get_trace(**arguments).nodes
    for i in range(3):
        one = {site: v[i] for site, v in values.items()}
        alone = poutine.trace(poutine.condition(model, data=one)).get_trace(**arguments).nodes
        for site in ("label", "evidence"):
            found, expected = (nd[site]["fn"].log_prob(nd[site]["value"]) for nd in (nodes, alone))
            torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-10)
    guide = zoo.create_guide(model, pyro.infer.autoguide.AutoNormal)
    loss = model.elbo(particles=3).differentiable_loss(model, guide, **data)
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients)


# ---------------------------------------------------------------- the evidence factor and its cuts
def evidence_of(model, values, data):
    """The evidence factor of every recording, differentiable in the values."""
    nodes = poutine.trace(poutine.condition(model, data=values)).get_trace(**model.arguments(data)).nodes
    return nodes["evidence"]["fn"].log_prob(nodes["evidence"]["value"])


@pytest.mark.parametrize("variant", MODELS)
def test_labelled_recordings_inform_the_power_alone_and_unlabelled_ones_the_process_alone(variant):
    model, values = small(variant, unlabelled=True, power="fit")
    data = made(n_unlabelled=2)
    values = {site: v.requires_grad_() for site, v in values.items()}
    factor, labelled = evidence_of(model, values, data), data["labelled"]
    assert labelled.tolist() == [True, True, False, False]
    process_sites = [site for site in values if site != "power"]

    def reached(total):
        found = torch.autograd.grad(total, list(values.values()), allow_unused=True, retain_graph=True)
        return {site for site, g in zip(values, found, strict=True) if g is not None and g.abs().sum() > 0}

    assert reached(factor[labelled].sum()) == {"power"}
    assert reached(factor[~labelled].sum()) == set(process_sites)


@pytest.mark.parametrize("variant", MODELS)
def test_the_evidence_factor_by_hand(variant):
    model, values = small(variant, unlabelled=True, power="fit")
    data = made(n_unlabelled=1)
    found = evidence_of(model, values, data)
    process = model.process(model.parameters_of(values))
    parts = model.log_potentials(data["score"]).split(data["lengths"].tolist())
    own = [float(values["power"]) * part.numpy() for part in parts]
    total = decode.log_evidence(own, process)
    expected = total.copy()
    labels = [np.array(z) for z in LABELS[:3]]
    expected[:3] = path_score(own[:3], labels, process) - total[:3]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    assert (expected[:3] < 0).all()  # a log probability of the labels


@pytest.mark.parametrize("variant", MODELS)
def test_the_power_has_the_gradient_of_its_conditional_likelihood(variant):
    model, values = small(variant, power="fit")
    data = made()
    power = values["power"].requires_grad_()
    (gradient,) = torch.autograd.grad(evidence_of(model, values, data).sum(), power)
    step = 1e-5
    high, low = (evidence_of(model, values | {"power": power.detach() + s}, data).sum().item() for s in (step, -step))
    assert gradient.item() == pytest.approx((high - low) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("variant", MODELS)
def test_unlabelled_recordings_change_nothing_unless_asked_to(variant):
    data = made(n_unlabelled=2)
    model, values = small(variant, power="fit")
    informed, _ = small(variant, power="fit", unlabelled=True)
    log_joint = [
        poutine.trace(poutine.condition(m, data=values)).get_trace(**m.arguments(own)).log_prob_sum().item()
        for m, own in ((model, data), (model, data.subset([0, 1])), (informed, data))
    ]
    assert log_joint[0] == pytest.approx(log_joint[1], abs=1e-10)
    assert log_joint[2] != pytest.approx(log_joint[0], abs=1e-3)


@pytest.mark.parametrize("variant", MODELS)
def test_a_fixed_power_leaves_scores_of_labelled_recordings_out(variant):
    model, values = small(variant, power=0.5)
    nodes = poutine.trace(poutine.condition(model, data=values)).get_trace(**model.arguments(made())).nodes
    assert "power" not in model.priors()
    assert "evidence" not in nodes


def test_a_minibatch_is_scaled_to_all_recordings():
    model, values = small(unlabelled=True)
    data = made(n_unlabelled=2)
    conditioned = poutine.condition(model, data=values)

    def along_recordings(batch):
        trace = poutine.trace(conditioned).get_trace(**model.arguments(batch))
        trace.compute_log_prob()
        return sum(trace.nodes[site]["log_prob_sum"].item() for site in ("label", "evidence"))

    whole = along_recordings(data)
    halves = [along_recordings(data.take(rows)) for rows in ([0, 2], [1, 3])]
    assert np.mean(halves) == pytest.approx(whole, abs=1e-9)


# ---------------------------------------------------------------- emissions
def test_emissions_by_hand():
    score = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 1e-5], [0.5, 0.5, 0.5]])
    share = torch.tensor([0.5, 0.3, 0.2])
    floored = score.clamp(min=1e-3)
    torch.testing.assert_close(log_potentials(score, "score", 1e-3), floored.log())
    torch.testing.assert_close(log_potentials(score, "scaled", 1e-3, share), (floored / share).log())
    inside, on = score.clamp(1e-3, 1 - 1e-3), torch.eye(3)
    by_hand = torch.stack([dist.Beta(1 + on[k], 2 - on[k]).log_prob(inside).sum(-1) for k in range(3)], -1)
    torch.testing.assert_close(log_potentials(score, "beta", 1e-3), by_hand)


def test_only_the_beta_emission_is_a_density_of_the_scores():
    nodes, weight = np.polynomial.legendre.leggauss(8)
    x, w = (nodes + 1) / 2, weight / 2
    grid = torch.tensor(np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2))
    area = torch.tensor(np.outer(w, w).ravel())
    integral = lambda emission: (log_potentials(grid, emission, 1e-9).exp() * area[:, None]).sum(0)  # noqa: E731
    torch.testing.assert_close(integral("beta"), torch.ones(2))
    torch.testing.assert_close(integral("score"), torch.full((2,), 0.5))


@pytest.mark.parametrize(("variant", "floor"), [("semi-markov", 0.01), ("paper", 1e-4), ("frame-hmm", 1e-4)])
def test_scores_of_zero_are_raised_to_the_floor(variant, floor):
    model, _ = small(variant)
    zero = torch.zeros(1, 3)
    torch.testing.assert_close(model.log_potentials(zero), torch.full((1, 3), math.log(floor)))
    model, _ = small(variant, floor=0.2)
    torch.testing.assert_close(model.log_potentials(zero), torch.full((1, 3), math.log(0.2)))


def test_the_scaled_emission_takes_shares_from_the_labels():
    model = zoo.create_model("medication", made(), emission="scaled", power=1.0)
    frames = np.bincount(np.concatenate(LABELS), minlength=3) + 1
    np.testing.assert_allclose(model.share.numpy(), frames / frames.sum())
    score = torch.full((1, 3), 1 / 3)
    expected = -torch.tensor(frames / frames.sum()).log() - math.log(3)
    torch.testing.assert_close(model.log_potentials(score)[0], expected)


# ---------------------------------------------------------------- laws of durations
@pytest.mark.parametrize("law", durations.LAWS)
@pytest.mark.parametrize(("mean", "sd"), [(20.0, 3.0), (60.0, 12.0), (7.0, 2.0)])
def test_a_renewal_law_sums_to_1_and_has_the_laws_mean_and_sd(law, mean, sd):
    n = 400
    exactly, at_least = (t[0].exp() for t in durations.renewal(torch.tensor([mean]), torch.tensor([sd]), n, law))
    age = torch.arange(1, n + 1)
    assert exactly.sum().item() == pytest.approx(1.0, abs=1e-9)
    found = (age * exactly).sum()
    assert found.item() == pytest.approx(mean, abs=0.02)
    # Rounding to whole frames adds the variance of a uniform within a frame.
    assert ((age - found) ** 2 * exactly).sum().sqrt().item() == pytest.approx(math.sqrt(sd**2 + 1 / 12), rel=5e-3)
    torch.testing.assert_close(at_least, exactly.flip(0).cumsum(0).flip(0), rtol=1e-9, atol=1e-9)


def test_a_renewal_law_keeps_its_tails():
    exactly, at_least = (t[0] for t in durations.renewal(torch.tensor([50.0]), torch.tensor([1.0]), 100))
    assert torch.isfinite(exactly).all()
    assert torch.isfinite(at_least).all()
    assert exactly[-1] < -1000
    # log of the standard normal tail beyond 49.5, by its asymptotic expansion
    z = 49.5
    assert at_least[-1].item() == pytest.approx(-(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)) - 1 / z**2, abs=1e-4)


def test_the_distribution_function_is_read_one_frame_ahead():
    mean, sd = torch.tensor([4.0, 6.0]), torch.tensor([1.0, 2.0])
    ending, staying = durations.distribution_function(mean, sd, 10)
    ahead = torch.arange(2, 12)
    torch.testing.assert_close(ending.exp(), dist.Normal(mean[:, None], sd[:, None]).cdf(ahead))
    torch.testing.assert_close(ending.exp() + staying.exp(), torch.ones(2, 10))
    variance = torch.log1p((sd / mean) ** 2)
    other = dist.LogNormal((mean.log() - variance / 2)[:, None], variance.sqrt()[:, None])
    torch.testing.assert_close(other.mean[:, 0], mean)
    found = durations.distribution_function(mean, sd, 10, "lognormal")[0].exp()
    torch.testing.assert_close(found, other.cdf(ahead.double()))


def test_the_geometric_law():
    exactly, at_least = durations.geometric(torch.tensor([0.3]), 5)
    age = torch.arange(5)
    torch.testing.assert_close(exactly[0].exp(), 0.3 * 0.7**age)
    torch.testing.assert_close(at_least[0].exp(), 0.7**age)


TABLE = [[0.2, 0.5, 0.3], [0.5, 0.2, 0.1]]  # the second step lasts longer than 3 frames one time in five


def test_a_tabulated_law():
    exactly, at_least = (t.exp() for t in durations.tabulated(torch.tensor(TABLE)))
    torch.testing.assert_close(exactly[:, :3], torch.tensor(TABLE))
    torch.testing.assert_close(at_least[:, :4], torch.tensor([[1, 0.8, 0.3, 0.0], [1, 0.5, 0.3, 0.2]]))
    torch.testing.assert_close(exactly[1, 3] / at_least[1, 3], torch.tensor(0.1 / 0.3))  # the hazard of the last age


@pytest.mark.parametrize("table", [[[0.5, 0.6]], [[0.5, -0.1]], [[0.5, math.nan]]])
def test_a_table_that_is_no_law_is_refused(table):
    with pytest.raises(ValueError, match="none negative, rows that sum to at most 1"):
        durations.tabulated(torch.tensor(table))


def test_steps_and_gaps_follow_tables_of_the_user():
    """Durations of a table's row: none longer than it where the row sums to 1, else on with its last hazard."""
    gap = [[0.1, 0.6, 0.3]]
    model, values = small(
        pairs=[(0, 1), (0, 2), (1, 2)], initial=[0, 0.5, 0.5], duration_table=TABLE, gap_table=gap, caps=None
    )  # fmt: skip
    process = model.process(model.parameters_of(values))
    probability = lambda z: process.log_prob(np.array(z), np.array([len(z)])).exp().item()  # noqa: E731
    first = [probability([1] * d + [0]) for d in range(1, 7)]
    assert first == pytest.approx([0.1, 0.25, 0.15, 0, 0, 0], abs=1e-12)
    h = 0.1 / 0.3
    second = [probability([2] * d + [0]) for d in range(1, 7)]
    longer = [0.2 * h * (1 - h) ** i for i in range(3)]
    assert second == pytest.approx([0.5 * p for p in (0.5, 0.2, 0.1, *longer)], abs=1e-12)
    goes_on = float(model.parameters_of(values)["D"][2])
    gaps = [probability([1] + [0] * g + [2]) for g in range(1, 7)]
    assert gaps == pytest.approx([0.1 * goes_on * p for p in (*gap[0], 0, 0, 0)], abs=1e-12)


def test_a_process_of_tables_equals_the_enumeration_of_all_sequences():
    model, values = small(duration_table=TABLE, caps=[5, 4, 4])
    process = model.process(model.parameters_of(values))
    paths = np.array(list(itertools.product(range(3), repeat=7)))
    log_score = np.random.default_rng(0).normal(size=(7, 3))
    prior = process.log_prob(paths.ravel(), np.full(len(paths), 7)).numpy()
    value = prior + log_score[np.arange(7), paths].sum(1)
    assert np.exp(prior).sum() == pytest.approx(1.0, abs=1e-12)
    assert decode.log_evidence([log_score], process)[0] == pytest.approx(np.logaddexp.reduce(value), abs=1e-10)
    [(labels, best)] = decode.most_probable([log_score], process)
    assert best == pytest.approx(value.max(), abs=1e-10)
    assert labels.tolist() == paths[value.argmax()].tolist()


def test_a_process_of_tables_has_no_sites_of_times_and_a_finite_elbo():
    data = made(n_unlabelled=1)
    tables = {"duration_table": [[0, 0.6, 0.4], [0, 0.5, 0.2]], "gap_table": [[0.3, 0.4, 0.3]]}
    model = zoo.create_model("medication", data, unlabelled=True, pairs=[(0, 1), (0, 2), (1, 2)], **tables)
    assert set(model.priors()) == {"stick", "start_rate", "power"}
    guide = zoo.create_guide(model, "normal")
    loss = model.elbo().differentiable_loss(model, guide, **data)
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)
    assert set(zoo.fit(model, "closed-form", data, progress=False).guide.families) == set(model.priors())


# ---------------------------------------------------------------- sizes, draws, ArviZ
def test_sizes_come_from_the_labelled_recordings():
    model = zoo.create_model("medication", made(n_unlabelled=1))
    assert model.coords == {"step": ["one", "two"], "pair": ["start → one", "start → two", "one → two"],
                            "gap": ["one → two"]}  # fmt: skip
    assert model.rate == 1.0
    np.testing.assert_allclose(model.initial.numpy(), [3.5 / 4.5, 0.5 / 4.5, 0.5 / 4.5])
    assert model.caps == [15, 15, 15]  # half as long again as the longest, at least ten
    assert model.typical.tolist() == [2.5, 1.0]  # medians of 1, 2, 2, 3, 3, 4 and of 1, 1, 2: with a one each


def test_without_labels_every_pair_is_allowed():
    model = zoo.create_model("medication", made(n_unlabelled=4), rate=2.0)
    assert len(model.coords["pair"]) == 6
    assert model.initial.tolist() == [1, 0, 0]
    assert model.caps == [100, 60, 60]


@pytest.fixture(scope="module")
def drawn():
    """A fit on recordings of which one is unlabelled, and draws from it for all of them."""
    data = made(n_unlabelled=1)
    model = zoo.create_model("medication", data)
    fit = zoo.fit(model, "closed-form", data, progress=False)
    return fit, data, zoo.draw(fit, data, draws=6)


def test_draws_have_names_on_their_axes(drawn):
    _, _, draws = drawn
    posterior = zoo.to_arviz(draws)["posterior"]
    expected = {
        "D": ("pair", ["start → one", "start → two", "one → two"]), "stick": ("pair", None),
        "duration_mean": ("step", ["one", "two"]), "duration_sd": ("step", None),
        "gap_mean": ("gap", ["one → two"]), "gap_sd": ("gap", None),
    }  # fmt: skip
    for site, (dim, names) in expected.items():
        assert posterior[site].dims == ("chain", "draw", dim), site
        if names is not None:
            assert posterior[site].coords[dim].values.tolist() == names
    assert posterior["start_rate"].dims == posterior["power"].dims == ("chain", "draw")


def test_rows_of_d_sum_to_at_most_1(drawn):
    d = drawn[2].groups["posterior"]["D"]
    rows = np.stack([d[..., :2].sum(-1), d[..., 2]], -1)
    assert (rows > 0).all()
    assert (rows <= 1 + 1e-12).all()


def test_replicated_labels_are_as_long_as_their_recordings(drawn):
    _, data, draws = drawn
    idata = zoo.to_arviz(draws, observed_only=False)
    label = idata["posterior_predictive"]["label"]
    assert label.dims == ("chain", "draw", "recording", "frame")
    assert label.coords["recording"].values.tolist() == ["r0", "r1", "r2", "r3"]
    inside = np.arange(10) < data["lengths"].numpy()[:, None]
    assert ((label.values == -1) == ~np.broadcast_to(inside, label.shape)).all()
    assert set(label.values.ravel().tolist()) == {-1, 0, 1, 2}


def test_observed_labels_are_nan_where_there_are_none(drawn):
    _, _, draws = drawn
    label = zoo.to_arviz(draws, observed_only=False)["observed_data"]["label"]
    assert label.dims == ("recording", "frame")
    expected = np.full((4, 10), np.nan)
    for i, z in enumerate(LABELS[:3]):
        expected[i, : len(z)] = z
    np.testing.assert_array_equal(label.values, expected)
    density = draws.groups["log_likelihood"]["label"]
    assert density.shape == (1, 6, 4)
    assert (np.isnan(density) == np.array([False, False, False, True])).all()


# ---------------------------------------------------------------- priors and saved runs
def test_priors_of_the_same_support_may_be_swapped():
    given = {
        "duration_sd": dist.Gamma(4.0, 2.0), "gap_sd": dist.HalfNormal(2.0), "stick": dist.Beta(2.0, 2.0),
        "power": dist.HalfNormal(1.0), "duration_mean": dist.LogNormal(1.0, 0.5),
    }  # fmt: skip
    data = made()
    model = zoo.create_model("medication", data, priors=given)
    fit = zoo.fit(model, "normal", data, steps=3, progress=False)
    assert np.isfinite(fit.history["elbo"]).all()
    value = torch.tensor([1.5, 2.5])
    expected = dist.Gamma(4.0, 2.0).log_prob(value).sum()
    torch.testing.assert_close(fit.model.prior("duration_sd").log_prob(value), expected)


@pytest.mark.parametrize(
    ("priors", "error", "message"),
    [
        ({"duration_mean": dist.StudentT(4.0, 0.0, 1.0)}, ValueError, "prior of 'duration_mean': support"),
        ({"gap_mean": dist.Normal(3.0, 1.0)}, ValueError, "prior of 'gap_mean': support"),
        ({"stick": dist.Gamma(1.0, 1.0)}, ValueError, "prior of 'stick': support"),
        ({"duration_mean": dist.LogNormal(torch.zeros(5), 1.0).to_event(1)}, ValueError, "expected event shape"),
        ({"D": dist.Beta(1.0, 1.0)}, KeyError, r"unknown prior site\(s\) \['D'\]"),
    ],
)
def test_other_priors_are_refused(priors, error, message):
    with pytest.raises(error, match=message):
        zoo.create_model("medication", made(), priors=priors)


@pytest.mark.parametrize("variant", MODELS)
def test_a_saved_fit_decodes_and_draws_as_before(variant, tmp_path):
    data = made(n_unlabelled=1)
    priors = {} if variant == "frame-hmm" else {"gap_mean": dist.LogNormal(1.0, 0.5)}
    model = zoo.create_model("medication", data, variant=variant, priors=priors)
    fit = zoo.fit(model, "closed-form", data, progress=False)
    fit.save(tmp_path / "run")
    again = zoo.load(tmp_path / "run")
    assert again.model.entry == ("medication", variant)
    a, b = (zoo.draw(own, data, draws=3).groups["posterior"] for own in (fit, again))
    assert a.keys() == b.keys()
    for site, value in a.items():
        np.testing.assert_array_equal(value, b[site], err_msg=site)
    assert zoo.predict(fit, data, draws=5).equals(zoo.predict(again, data, draws=5))
    if priors:
        prior = again.model.prior("gap_mean").base_dist
        assert isinstance(prior, dist.LogNormal)
        assert (prior.loc.tolist(), prior.scale.tolist()) == ([1.0], [0.5])


def test_tables_of_the_user_survive_saving(tmp_path):
    data = made()
    tables = {"duration_table": [[0, 0.6, 0.4], [0, 0.5, 0.2]]}
    fit = zoo.fit(zoo.create_model("medication", data, **tables), "closed-form", data, progress=False)
    fit.save(tmp_path / "run")
    assert zoo.predict(zoo.load(tmp_path / "run"), data, draws=5).equals(zoo.predict(fit, data, draws=5))


# ---------------------------------------------------------------- what the models refuse
@pytest.mark.parametrize("package", [zoo, medication])
def test_no_name_of_a_package_is_that_of_a_module_too(package):
    """Which of the two it were would depend on what has been imported before."""
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    same = {name for name in modules & set(package.__all__) if isinstance(getattr(package, name), ModuleType)}
    assert modules & set(package.__all__) == same


PAIRS = [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["none"]}, r"names: \['none'\]; the non-event and at least one step are needed"),
        ({"emission": "softmax"}, r"emission: 'softmax' is none of \['score', 'beta', 'scaled'\]"),
        ({"floor": 0.0}, "floor: 0.0; a score between 0 and 0.5 is needed"),
        ({"floor": 0.5}, "floor: 0.5; a score between 0 and 0.5"),
        ({"power": 0.0}, "power: 0.0; a positive number is needed, or 'fit'"),
        ({"power": math.inf}, "power: inf; a positive number"),
        ({"power": "fitted"}, "power: 'fitted'; a positive number"),
        ({"emission": "scaled"}, "emission='scaled' needs share"),
        ({"emission": "scaled", "share": [0.5, 0.5]}, r"share: \[0.5, 0.5\]; 3 positive numbers are needed"),
        ({"emission": "scaled", "share": [1.0, 0.0, 0.0]}, "3 positive numbers are needed, one per label"),
        ({"pairs": []}, r"pairs: none is given; give \(h, k\)"),
        ({"pairs": [(0, 1), (1, 3)]}, r"pairs: \(1, 3\) is not h = 0..2, k = 1..2"),
        ({"pairs": [(0, 0)]}, r"pairs: \(0, 0\) is not"),
        ({"pairs": [(-1, 1)]}, r"pairs: \(-1, 1\) is not"),
        ({"pairs": [(0, 1), (0, 1)]}, "pairs: one is given twice"),
        ({"duration": "weibull"}, r"duration: 'weibull' of \['hazard', 'cdf'\]"),
        ({"law": "gamma"}, r"law: 'gamma' of \['lognormal', 'normal'\]"),
        ({"rate": 0.0}, "rate 0.0, .* positive numbers are needed"),
        ({"rate": math.inf}, "rate inf, .* positive numbers"),
        ({"alpha": 0.0}, "alpha 0.0, .* positive numbers"),
        ({"typical": [5.0, 0.0]}, r"typical \[5.0, 0.0\]: positive numbers"),
        ({"caps": [0, 5, 5]}, r"caps: \[0, 5, 5\]; three ages of at least 1 frame"),
        ({"initial": [0.5, 0.5]}, "initial: .* 3 probabilities that sum to 1"),
        ({"initial": [0.5, 0.6, -0.1]}, "initial: .* 3 probabilities"),
        ({"initial": [0.5, 0.1, 0.1]}, "initial: .* sum to 1"),
        ({"duration_table": [[0.5, 0.5]]}, r"duration_table: shape \(1, 2\); \(2, 2 or more\)"),
        ({"duration_table": [[1.0], [1.0]]}, r"duration_table: shape \(2, 1\)"),
        ({"duration_table": [[0.9, 0.9], [0.5, 0.5]]}, "rows that sum to at most 1"),
        ({"pairs": PAIRS, "gap_table": [[0.5, 0.5]] * 2}, r"gap_table: shape \(2, 2\); \(1, 2 or more\)"),
        ({"pairs": PAIRS, "gap_table": [[0.5, 0.5]], "duration": "cdf"}, "they need duration='hazard'"),
    ],
)
def test_a_process_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepProcess(**({"names": NAMES} | arguments))


def test_tables_given_as_arrays_are_saved(tmp_path):
    data = made()
    model = zoo.create_model("medication", data, duration_table=np.array(TABLE), gap_table=np.array([[0.5, 0.3, 0.2]]))
    zoo.fit(model, "closed-form", data, progress=False).save(tmp_path / "run")
    assert zoo.load(tmp_path / "run").model.config["duration_table"] == np.array(TABLE).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["none"]}, "at least one step"),
        ({"alpha": 0.0}, "alpha 0.0: positive numbers are needed"),
        ({"names": ["a", "b", "b"]}, "two labels have the same name"),
        ({"power": True}, "power: True; a positive number"),
        ({"emission": "logit"}, "emission: 'logit'"),
        ({"power": -1.0}, "power: -1.0"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrameHMM(**({"names": NAMES} | arguments))


def test_the_text_and_the_default_differ_in_what_the_readme_says():
    ours, text, vanilla = (small(variant)[0] for variant in MODELS)
    assert (ours.reading, ours.default_decoder, ours.fixed_power, ours.floor) == ("hazard", "mea", None, 0.01)
    assert (text.reading, text.default_decoder, text.fixed_power, text.floor) == ("cdf", "paper", 1.0, 1e-4)
    assert (vanilla.default_decoder, vanilla.fixed_power, vanilla.floor) == ("viterbi", 1.0, 1e-4)
    assert all(model.emission == "score" and not model.unlabelled for model in (ours, text, vanilla))
