"""Exactness of the medication entry: against enumeration of all label sequences, autograd, and other packages."""

import numpy as np
import pytest
import torch
from medication_text import CDF, HAZARD, Text, build, enumerated

from pyrozoo.models.medication.process import chain as chains
from pyrozoo.models.medication.process import decode, kernels, parallel
from pyrozoo.models.medication.process.evidence import FrameChain, SemiMarkov, log_evidence
from pyrozoo.models.medication.process.process import MarkovChain, next_step

pytestmark = pytest.mark.usefixtures("double_precision")

TOUCHING = 20
PROBLEMS = [(reading, seed) for reading in (HAZARD, CDF) for seed in range(30)]


def problem(reading, seed):
    """A random process of two or three steps, its caps so low that tails matter, and scores of some frames.

    Seeds from 20 on have steps that may follow each other directly.
    """
    rng = np.random.default_rng(seed)
    n_steps = int(rng.integers(2, 4))
    text = Text(rng, n_steps, reading, tuple(rng.integers(1, 5, size=3).tolist()), touching=seed >= TOUCHING)
    scale = rng.choice([0.3, 3.0])
    log_score = scale * rng.normal(size=(7 if n_steps == 2 else 6, n_steps + 1))
    return text, log_score, rng


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS)
def test_equals_the_enumeration_of_all_sequences(reading, seed):
    text, log_score, _ = problem(reading, seed)
    process = text.process()
    paths, value = enumerated(text, log_score)
    total = np.logaddexp.reduce(value)
    weight = np.exp(value - total)

    [(labels, best)] = decode.most_probable([log_score], process)
    assert best == pytest.approx(value.max(), abs=1e-10)
    assert tuple(labels) == tuple(paths[value.argmax()])
    assert decode.log_evidence([log_score], process)[0] == pytest.approx(total, abs=1e-10)

    n_labels = log_score.shape[1]
    by_hand = np.stack([(weight[:, None] * (paths == k)).sum(0) for k in range(n_labels)], 1)
    np.testing.assert_allclose(decode.marginals([log_score], process)[0], by_hand, atol=1e-10)

    performed = np.array([weight[(paths == k).any(1)].sum() for k in range(1, n_labels)])
    np.testing.assert_allclose(decode.step_performed([log_score], process)[0], performed, atol=1e-10)

    accuracy = by_hand[np.arange(len(log_score)), paths].sum(1)
    [mea] = decode.decode([log_score], process, "mea")
    assert by_hand[np.arange(len(log_score)), mea].sum() == pytest.approx(accuracy.max(), abs=1e-10)
    assert text.probability(mea.tolist()) > 0


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS[::4])
def test_missing_frames_and_known_labels_equal_enumeration(reading, seed):
    text, log_score, rng = problem(reading, seed)
    process, (n_frames, n_labels) = text.process(), log_score.shape
    paths, value = enumerated(text, log_score)
    missing = rng.random(n_frames) < 0.3
    value = value - np.where(missing, log_score[np.arange(n_frames), paths], 0.0).sum(1)
    truth = paths[rng.integers(len(paths))]  # a possible sequence, of which some labels are known
    known = np.where(rng.random(n_frames) < 0.4, truth, -1)
    value = np.where(((known < 0) | (paths == known)).all(1), value, -np.inf)
    given = [np.where(missing[:, None], np.nan, log_score)], process
    weight = np.exp(value - np.logaddexp.reduce(value))

    [(labels, best)] = decode.most_probable(*given, known=[known])
    assert best == pytest.approx(value.max(), abs=1e-10)
    assert tuple(labels) == tuple(paths[value.argmax()])
    [total] = decode.log_evidence(*given, known=[known])
    assert total == pytest.approx(np.logaddexp.reduce(value), abs=1e-10)
    by_hand = np.stack([(weight[:, None] * (paths == k)).sum(0) for k in range(n_labels)], 1)
    np.testing.assert_allclose(decode.marginals(*given, known=[known])[0], by_hand, atol=1e-10)
    performed = np.array([weight[(paths == k).any(1)].sum() for k in range(1, n_labels)])
    np.testing.assert_allclose(decode.step_performed(*given, known=[known])[0], performed, atol=1e-10)
    for decoder in ("mea", "map"):
        [own] = decode.decode(*given, decoder, known=[known])
        assert ((known < 0) | (own == known)).all()
        assert text.probability(own.tolist()) > 0
    [drawn] = decode.sample_paths(*given, 4000, known=[known])
    assert ((known < 0) | (drawn == known)).all()
    frequency = np.stack([(drawn == k).mean(0) for k in range(n_labels)], 1)
    np.testing.assert_allclose(frequency, by_hand, atol=0.05)

    lengths = torch.tensor([n_frames])
    marginal = SemiMarkov(process, lengths).log_prob(torch.as_tensor(known)[None]).item()
    without_scores = np.logaddexp.reduce(
        np.where(((known < 0) | (paths == known)).all(1), enumerated(text, np.zeros_like(log_score))[1], -np.inf)
    )
    assert marginal == pytest.approx(without_scores, abs=1e-9)


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS[::3])
def test_a_path_among_equals_has_the_largest_sum(reading, seed):
    text, log_score, rng = problem(reading, seed)
    equal = decode._legality(text.process().graph())  # what is possible has the log probability 0
    own = rng.integers(0, 3, log_score.shape).astype(float)
    paths, value = enumerated(text, np.zeros_like(log_score))
    possible = paths[value > -np.inf]
    sums = own[np.arange(len(own)), possible].sum(1)
    labels, best = kernels.semi_markov_map(own, equal)
    assert best == sums.max()
    assert (possible[sums == best] == labels).all(1).any()


@pytest.mark.parametrize("reading", [HAZARD, CDF])
def test_no_empty_gap_is_the_process_of_the_text(reading):
    text, log_score, _ = problem(reading, 1)
    process = text.process()
    zero = text.process(direct=torch.zeros(len(process.pairs.later)))
    evidence, gamma = ([f([log_score], p)[0] for p in (process, zero)] for f in (decode.log_evidence, decode.marginals))
    assert evidence[0] == pytest.approx(evidence[1], abs=1e-12)
    np.testing.assert_allclose(*gamma, atol=1e-12)
    assert len(zero.source) > len(process.source)


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS)
def test_the_recursion_of_the_text_never_scores_above_the_exact_one(reading, seed):
    text, log_score, _ = problem(reading, seed)
    process = text.process()
    [(labels, score)] = decode.most_probable([log_score], process, single_history=True)
    [(_, best)] = decode.most_probable([log_score], process)
    assert score <= best + 1e-10
    by_hand = np.log(text.probability(labels.tolist())) + log_score[np.arange(len(labels)), labels].sum()
    assert score == pytest.approx(by_hand, abs=1e-9)


def single_history_by_hand(text, log_score):
    """The text's forward pass: s and u, with the best history of each state kept as a list."""
    n_frames, n_labels = log_score.shape
    history = {k: [k] for k in range(n_labels)}
    with np.errstate(divide="ignore"):
        s = {k: np.log(text.initial[k]) + log_score[0, k] for k in range(n_labels)}
        for t in range(1, n_frames):
            new, found = {}, {}
            for k in range(n_labels):
                options = [
                    s[j] + np.log(text.probability([*history[j], k])) - np.log(text.probability(history[j]))
                    if text.probability(history[j]) > 0
                    else -np.inf
                    for j in range(n_labels)
                ]
                j = int(np.argmax(options))
                new[k], found[k] = options[j] + log_score[t, k], [*history[j], k]
            s, history = new, found
    k = max(s, key=s.get)
    return history[k], s[k]


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS[::3])
def test_the_recursion_of_the_text_is_the_text(reading, seed):
    text, log_score, _ = problem(reading, seed)
    expected, value = single_history_by_hand(text, log_score)
    [(labels, score)] = decode.most_probable([log_score], text.process(), single_history=True)
    assert labels.tolist() == expected
    assert score == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS[::5])
def test_the_process_is_a_distribution_over_sequences(reading, seed):
    text, log_score, _ = problem(reading, seed)
    paths, value = enumerated(text, np.zeros_like(log_score))
    assert np.exp(value).sum() == pytest.approx(1.0, abs=1e-9)
    lengths = torch.full((len(paths),), paths.shape[1])
    labels = SemiMarkov(text.process(), lengths)
    np.testing.assert_allclose(labels.log_prob(torch.as_tensor(paths)).numpy(), value, atol=1e-9)
    assert decode.log_evidence([np.zeros_like(log_score)], text.process())[0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("reading", [HAZARD, CDF])
def test_impossible_sequences_have_probability_zero(reading):
    text, _, _ = problem(reading, 0)
    labels = SemiMarkov(text.process(), torch.tensor([3]))
    assert labels.log_prob(torch.tensor([[1, 2, 0]])).item() == -np.inf  # a step right after a step


def plain_log_evidence(values, pairs, reading, caps, log_score):
    """log Z by a forward pass over (label, age, last step) written in plain torch, for its gradients."""
    process = build(values, pairs, reading, caps)
    label, cap = process.label, process.cap
    # Minus infinity has no gradient in torch's logsumexp; 0 to the power of this number is as good.
    initial, length, survive, stay, leave = (table.clamp(min=-1e30) for table in process.tables)
    n_nodes, impossible = len(label), torch.tensor(-1e30)
    ages = [[initial[n] + log_score[0, label[n]], *[impossible] * (cap[n] - 1)] for n in range(n_nodes)]
    for t in range(1, len(log_score)):
        entered = [[impossible] for _ in range(n_nodes)]
        for a, (n, target) in enumerate(zip(process.source, process.target, strict=True)):
            hazards = [length[a, d] - survive[n, d] for d in range(cap[n] - 1)] + [leave[a]]
            entered[target] += [age + hazard for age, hazard in zip(ages[n], hazards, strict=True)]
        new = []
        for n in range(n_nodes):
            going_on = [survive[n, d + 1] - survive[n, d] for d in range(cap[n] - 1)] + [stay[n]]
            moved = [age + p for age, p in zip(ages[n], going_on, strict=True)]
            first = torch.logsumexp(torch.stack(entered[n]), 0)
            shifted = [first, *moved[:-1]]
            shifted[-1] = torch.logaddexp(shifted[-1], moved[-1])
            new.append([age + log_score[t, label[n]] for age in shifted])
        ages = new
    return torch.logsumexp(torch.stack([age for own in ages for age in own]), 0)


def sticks(d, pairs):
    """Shares of what the earlier pairs of a row have left."""
    d = d.detach()
    before = [d[: i + 1][torch.as_tensor(pairs.h[: i + 1] == pairs.h[i])].sum() - d[i] for i in range(len(d))]
    return d / (1 - torch.stack(before))


@pytest.mark.parametrize("seed", range(5))
def test_sticks_make_the_rows_of_d(seed):
    text, _, _ = problem(HAZARD, seed)
    pairs, values = text.process().pairs, text.tensors(text.process().pairs)
    log_d, log_end = next_step(sticks(values["D"], pairs), pairs)
    np.testing.assert_allclose(log_d.exp().numpy(), values["D"].numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_end.exp().numpy(), values["end"].numpy(), rtol=1e-12)


@pytest.mark.parametrize(("reading", "seed"), PROBLEMS[::6])
def test_gradients_equal_plain_autograd(reading, seed):
    text, log_score, _ = problem(reading, seed)
    process = text.process()
    found = []
    for function in ("kernels", "plain"):
        leaves = {name: v.clone().requires_grad_() for name, v in text.tensors(process.pairs).items()}
        # D through its sticks: gradients by its entries mean something only along rows that sum to 1 with their end.
        leaves["stick"] = sticks(leaves.pop("D"), process.pairs).requires_grad_()
        del leaves["end"]
        log_d, log_end = next_step(leaves["stick"], process.pairs)
        values = leaves | {"D": log_d.exp(), "end": log_end.exp()}
        score = torch.tensor(log_score, requires_grad=True)
        if function == "kernels":
            own = build(values, process.pairs, reading, text.caps)
            value = log_evidence(score, torch.tensor([len(score)]), own)[0]
        else:
            value = plain_log_evidence(values, process.pairs, reading, text.caps, score)
        value.backward()
        found.append((value.item(), {"score": score.grad, **{name: v.grad for name, v in leaves.items()}}))
    (value, gradient), (expected, other) = found
    assert value == pytest.approx(expected, abs=1e-10)
    for name, own in gradient.items():
        np.testing.assert_allclose(own.numpy(), other[name].numpy(), atol=1e-8, err_msg=name)


@pytest.mark.parametrize("seed", [3, 23])
@pytest.mark.parametrize("reading", [HAZARD, CDF])
def test_sampled_paths_have_the_posterior_frequencies(reading, seed):
    text, log_score, _ = problem(reading, seed)
    paths, value = enumerated(text, log_score)
    weight = np.exp(value - np.logaddexp.reduce(value))
    n = 40_000
    [drawn] = decode.sample_paths([log_score], text.process(), n, seed=1)
    code = lambda z: (np.asarray(z) * 10 ** np.arange(len(log_score))).sum(-1)  # noqa: E731
    counts = dict(zip(*np.unique(code(drawn), return_counts=True), strict=True))
    observed = np.array([counts.get(c, 0) for c in code(paths)])
    assert observed.sum() == n  # no other sequence
    likely = weight > 1e-3
    z = (observed[likely] - n * weight[likely]) / np.sqrt(n * weight[likely] * (1 - weight[likely]))
    assert abs(z).max() < 4.5
    assert np.sqrt((z**2).mean()) == pytest.approx(1.0, abs=0.35)


# Each reading and each size once by default.
@pytest.mark.parametrize(
    ("reading", "seed"),
    [
        (HAZARD, 24),
        (CDF, 4),
        pytest.param(HAZARD, 4, marks=pytest.mark.slow),
        pytest.param(CDF, 24, marks=pytest.mark.slow),
    ],
)
def test_simulated_sequences_have_the_frequencies_of_the_process(reading, seed):
    text, log_score, _ = problem(reading, seed)
    n_frames = len(log_score)
    paths, value = enumerated(text, np.zeros_like(log_score))
    n = 40_000
    torch.manual_seed(0)
    drawn = SemiMarkov(text.process(), torch.full((n,), n_frames)).sample().numpy()
    code = lambda z: (np.asarray(z) * 10 ** np.arange(n_frames)).sum(-1)  # noqa: E731
    counts = dict(zip(*np.unique(code(drawn), return_counts=True), strict=True))
    observed, weight = np.array([counts.get(c, 0) for c in code(paths)]), np.exp(value)
    assert observed.sum() == n
    likely = weight > 1e-3
    z = (observed[likely] - n * weight[likely]) / np.sqrt(n * weight[likely] * (1 - weight[likely]))
    assert abs(z).max() < 4.5


@pytest.mark.parametrize("touching", [False, True])
def test_long_recordings_with_sharp_scores_keep_their_precision(touching):
    """Scores far beyond the range of doubles, so that windows are moved, refreshed and taken in the log domain."""
    rng = np.random.default_rng(0)
    text = Text(rng, 3, HAZARD, (12, 15, 9), touching=touching)
    process = text.process()
    log_score = rng.normal(scale=40.0, size=(150, 4)) - 300 * (rng.random((150, 4)) < 0.3)
    values, score = text.tensors(process.pairs), torch.tensor(log_score, requires_grad=True)
    expected = plain_log_evidence(values, process.pairs, HAZARD, text.caps, score)
    found = decode.log_evidence([log_score], process)[0]
    assert found == pytest.approx(expected.item(), rel=1e-12)
    gamma = decode.marginals([log_score], process)[0]
    expected.backward()
    np.testing.assert_allclose(gamma, score.grad.numpy(), atol=1e-9)


@pytest.mark.parametrize("reading", [HAZARD, CDF])
def test_a_long_sure_segment_outweighs_what_could_begin_in_it(reading):
    """What begins in the last frames has at most e^-300 of the segment that began long before, which must count."""
    rng = np.random.default_rng(1)
    text = Text(rng, 3, reading, (5, 6, 4))
    log_score = 300.0 * (np.arange(4) == np.repeat([0, 1, 0, 2, 0, 3, 0], 15)[:, None]) + rng.normal(size=(105, 4))
    process = text.process()
    score = torch.tensor(log_score, requires_grad=True)
    expected = plain_log_evidence(text.tensors(process.pairs), process.pairs, reading, text.caps, score)
    expected.backward()
    assert decode.log_evidence([log_score], process)[0] == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(decode.marginals([log_score], process)[0], score.grad.numpy(), atol=1e-9)


@pytest.mark.parametrize("kind", ["steps", "chain"])
def test_threads_change_no_bit(kind, monkeypatch):
    text, log_score, rng = problem(HAZARD, 25)
    process = text.process() if kind == "steps" else chain(1, log_score.shape[1])[0]
    own = [log_score + rng.normal(size=log_score.shape) for _ in range(4)]
    lengths, before = torch.tensor([len(part) for part in own]), torch.get_num_threads()

    def results():
        scores = torch.tensor(np.concatenate(own), requires_grad=True)
        value = log_evidence(scores, lengths, process)
        value.sum().backward()
        found = [decode.step_performed(own, process), *decode.marginals(own, process), value.detach(), scores.grad]
        paths = [labels for labels, _ in decode.most_probable(own, process)]
        return [np.asarray(part) for part in [*found, *paths]]

    expected = results()
    monkeypatch.setattr(parallel, "WORTH_THREADS", 0)
    torch.set_num_threads(3)
    try:
        found = results()
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_one_frame_and_marginals_without_evidence():
    text, _, _ = problem(HAZARD, 0)
    gamma = decode.marginals([np.zeros((1, text.labels))], text.process())[0]
    np.testing.assert_allclose(gamma[0], text.initial, atol=1e-12)


# ---------------------------------------------------------------- the frame-level chain
def chain(seed, n_labels=3):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(n_labels), n_labels)
    return MarkovChain(torch.tensor(rng.dirichlet(np.ones(n_labels))), torch.tensor(transition)), rng


@pytest.mark.parametrize("seed", range(10))
def test_the_chain_equals_enumeration(seed):
    import itertools

    process, rng = chain(seed)
    initial, transition = process.arrays()
    log_score = rng.normal(size=(6, 3))
    paths = np.array(list(itertools.product(range(3), repeat=6)))
    value = np.log(initial[paths[:, 0]]) + log_score[np.arange(6), paths].sum(1)
    value += np.log(transition[paths[:, :-1], paths[:, 1:]]).sum(1)
    total = np.logaddexp.reduce(value)
    [(labels, best)] = decode.most_probable([log_score], process)
    assert best == pytest.approx(value.max(), abs=1e-10)
    assert labels.tolist() == paths[value.argmax()].tolist()
    assert decode.log_evidence([log_score], process)[0] == pytest.approx(total, abs=1e-10)
    weight = np.exp(value - total)
    by_hand = np.stack([(weight[:, None] * (paths == k)).sum(0) for k in range(3)], 1)
    np.testing.assert_allclose(decode.marginals([log_score], process)[0], by_hand, atol=1e-10)
    performed = [weight[(paths == k).any(1)].sum() for k in (1, 2)]
    np.testing.assert_allclose(decode.step_performed([log_score], process)[0], performed, atol=1e-10)
    lengths = torch.full((len(paths),), 6)
    prior = FrameChain(process, lengths).log_prob(torch.as_tensor(paths)).numpy()
    np.testing.assert_allclose(prior + log_score[np.arange(6), paths].sum(1), value, atol=1e-10)


@pytest.mark.parametrize("n_labels", [1, 2, 5, 8])
def test_of_equal_paths_of_the_chain_the_first_is_taken(n_labels):
    """Labels, and not the score alone, are those of the recursion, with the lowest label where several are as good."""
    rng = np.random.default_rng(n_labels)
    scores, initial, transition = (
        rng.integers(-2, 1, shape).astype(float) for shape in [(60, n_labels), n_labels, (n_labels, n_labels)]
    )
    transition[rng.random(transition.shape) < 0.2] = -np.inf
    s, u = initial + scores[0], []
    for own in scores[1:]:
        ways = s[:, None] + transition
        u.append(ways.argmax(0))
        s = ways.max(0) + own
    path = [int(s.argmax())]
    for back in u[::-1]:
        path.append(int(back[path[-1]]))
    labels, best = chains.viterbi(scores, initial, transition)
    assert best == s.max()
    assert labels.tolist() == (path[::-1] if best > -np.inf else [-1] * 60)


def test_gradients_of_the_chain_equal_plain_autograd():
    process, rng = chain(0)
    log_score = rng.normal(size=(20, 3))
    found = []
    for plain in (False, True):
        initial, transition = (t.clone().requires_grad_() for t in process.tables)
        score = torch.tensor(log_score, requires_grad=True)
        if plain:
            alpha = initial.log() + score[0]
            for t in range(1, 20):
                alpha = torch.logsumexp(alpha[:, None] + transition.log(), 0) + score[t]
            value = torch.logsumexp(alpha, 0)
        else:
            value = log_evidence(score, torch.tensor([20]), MarkovChain(initial, transition))[0]
        value.backward()
        found.append([value.detach(), initial.grad, transition.grad, score.grad])
    for own, other in zip(*found, strict=True):
        np.testing.assert_allclose(own.numpy(), other.numpy(), atol=1e-9)


def test_kernels_leave_numpys_global_random_state_alone():
    text, log_score, _ = problem(HAZARD, 3)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    decode.sample_paths([log_score], text.process(), 3)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert isinstance(text.process().graph(), kernels.Graph)


def left_to_right():
    """A chain without a way back, and scores under which the label that pays at the end looks hopeless before."""
    process = MarkovChain(torch.tensor([1.0, 0.0]), torch.tensor([[0.9, 0.1], [0.0, 1.0]]))
    log_score = np.zeros((900, 2))
    log_score[:400, 0], log_score[400:, 1] = -3.0, -3.0
    return process, log_score


def test_chains_with_impossible_transitions_lose_nothing():
    process, log_score = left_to_right()
    initial, transition = (table.log() for table in process.tables)
    score = torch.tensor(log_score, requires_grad=True)
    alpha = initial + score[0]
    for t in range(1, len(score)):
        alpha = torch.logsumexp(alpha.clamp(min=-1e30)[:, None] + transition.clamp(min=-1e30), 0) + score[t]
    expected = torch.logsumexp(alpha, 0)
    expected.backward()
    assert decode.log_evidence([log_score], process)[0] == pytest.approx(expected.item(), abs=1e-9)
    np.testing.assert_allclose(decode.marginals([log_score], process)[0], score.grad.numpy(), atol=1e-9)
    [(_, best)] = decode.most_probable([log_score], process)
    assert decode.log_evidence([log_score], process)[0] >= best
    [paths] = decode.sample_paths([log_score], process, 20)
    assert (np.diff(paths, axis=1) >= 0).all()


def test_both_ways_to_sum_a_dense_chain_agree():
    process, rng = chain(3)
    log_score = 20 * rng.normal(size=(60, 3))
    initial, transition = process.arrays()
    log_z, gamma, counts = chains.posterior(log_score, initial, transition)
    other_z, alpha = chains.log_forward(log_score, np.log(initial), np.log(transition))
    other_gamma, other_counts = chains.log_backward(log_score, np.log(transition), other_z, alpha)
    assert log_z == pytest.approx(other_z, abs=1e-9)
    np.testing.assert_allclose(gamma, other_gamma, atol=1e-9)
    np.testing.assert_allclose(counts, other_counts, atol=1e-9)
