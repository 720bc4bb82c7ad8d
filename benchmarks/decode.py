"""Decoding recordings of medication use: against hmmlearn, plain PyTorch and vanilla Viterbi, and against the length.

README.md beside this file says what each number means.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from timing import add_clock_and_out, alternate, environment, summary
from torch import Tensor
from units import CLEAR, _peak

from pyrozoo.models.medication.data.simulator import DIFFICULTIES, simulate_scores
from pyrozoo.models.medication.process import chain, decode, durations, kernels
from pyrozoo.models.medication.process import sampling as paths
from pyrozoo.models.medication.process.evidence import log_evidence
from pyrozoo.models.medication.process.process import Pairs, SemiMarkovProcess, next_step, semi_markov_process

try:  # optional: a test dependency
    from hmmlearn import _hmmc
    from hmmlearn.base import BaseHMM
except ImportError:
    _hmmc, BaseHMM = None, object

STEPS, NEXT, CAP = 7, 2, 100  # K = 8 labels; each row of D has two next steps; caps of durations and of gaps [frames]
PAIRS = Pairs.of([(h, (h + i) % STEPS + 1) for h in range(STEPS + 1) for i in range(NEXT)], STEPS)
SIZES = ((1, 10_000), (64, 1_000))  # recordings x frames
LENGTHS = (10**4, 10**5, 10**6)
THREADS = tuple(range(1, (os.cpu_count() or 1) + 1))
TOLERANCE = 1e-8  # relative difference above which two variants do not compute the same
FLOOR = 1e-6  # of a score
LAYOUT = ("display.float_format", "{:.3g}".format, "display.width", 120, "display.max_columns", None)
IMPOSSIBLE = -1e30  # for a log probability: torch's logsumexp has no gradient at minus infinity


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    packages = {"numba": version("numba"), "hmmlearn": version("hmmlearn") if _hmmc is not None else "missing"}
    record: dict = {"environment": environment(given.clock) | packages, "rounds": given.rounds}
    sizes = f"K = {STEPS + 1} labels, {NEXT} next steps per row, caps {CAP} frames"
    print(*(f"{key} {value}" for key, value in record["environment"].items()), f"{given.rounds} rounds", sep=", ")
    print(sizes)
    with pd.option_context(*LAYOUT):
        for title, table in _tables(given):
            print(f"\n{title}\n{'skipped: hmmlearn is not installed' if table is None else table}", flush=True)
            record[title] = None if table is None else json.loads(table.to_json(orient="index"))
    if given.out is not None:
        given.out.write_text(json.dumps(record, indent=2) + "\n")


def _tables(given: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame | None]]:
    if given.length:
        yield "against the number of frames, 1 recording", against_length(max(1, given.rounds // 10), given.clock)
        return
    if given.by_threads:
        yield "against the number of threads, wall time", against_threads(max(1, given.rounds // 10))
        return
    for title, variants, compare in (
        ("Viterbi", viterbi_variants, _paths), ("forward-backward of the chain", smoothing_variants, _posteriors)
    ):  # fmt: skip
        for number, length in SIZES:
            name = f"{title}, {number} x {length} frames"
            if _hmmc is None:
                yield name, None
                continue
            yield name, against_hmmlearn(variants, compare, number, length, given.rounds, given.clock)
    for reading in durations.READINGS:
        name = f"exact decoding, {reading}, 1 x {SIZES[0][1]} frames"
        yield name, against_viterbi(reading, SIZES[0][1], given.rounds, given.clock)
    for reading in durations.READINGS:
        name = f"gradient of the log evidence, {reading}, 8 x 400 frames"
        yield name, against_autograd(reading, 8, 400, given.rounds, given.clock)


# ------------------------------------------------------------------------------------------------------------- data
def parameters(end: float = 1e-7) -> dict[str, Tensor]:
    """Sticks of D, start, and means and standard deviations [frames] of the steps and of the gaps after a step.

    Args:
        end: Probability that no step follows: so low that a long recording goes on.
    """
    rng = np.random.default_rng(0)
    n_gaps = len(PAIRS.later)
    values = {
        "stick": np.tile([0.5, 1 - 2 * end], STEPS + 1),
        "start": np.array(0.05),
        "step_mean": rng.uniform(15, 40, STEPS), "step_sd": rng.uniform(4, 9, STEPS),
        "gap_mean": rng.uniform(10, 40, n_gaps), "gap_sd": rng.uniform(3, 9, n_gaps),
    }  # fmt: skip
    return {name: torch.as_tensor(value) for name, value in values.items()}


def process_of(values: dict[str, Tensor], reading: str, cap: int = CAP) -> SemiMarkovProcess:
    """The process of steps from its parameters, as the entry builds it."""
    law, memoryless = durations.READINGS[reading]
    log_d, log_end = next_step(values["stick"], PAIRS)
    start = memoryless(values["start"].expand(len(PAIRS.h) - len(PAIRS.later)), cap + 1)
    gap = law(values["gap_mean"], values["gap_sd"], cap + 1)
    step = law(values["step_mean"], values["step_sd"], cap + 1)
    initial = torch.full((STEPS + 1,), 1 / (STEPS + 1), dtype=torch.double)
    return semi_markov_process(PAIRS, log_d, log_end, start, gap, step, initial, reading)


def log_scores(reading: str, number: int, length: int) -> list[np.ndarray]:
    """Simulated recordings: labels from the process, log scores of a classifier of medium difficulty."""
    rng, graph = np.random.default_rng(1), process_of(parameters(), reading).graph()
    labels = (paths.simulate_process(graph, length, rng) for _ in range(number))
    scores = (simulate_scores(own, STEPS + 1, rng, 5.0, **DIFFICULTIES["medium"]) for own in labels)
    return [np.log(np.maximum(own, FLOOR)) for own in scores]


def chain_parameters() -> tuple[np.ndarray, np.ndarray]:
    """Initial and transition probabilities of a frame-level chain."""
    k = STEPS + 1
    return np.full(k, 1 / k), np.full((k, k), 0.05 / (k - 1)) + np.eye(k) * (0.95 - 0.05 / (k - 1))


# --------------------------------------------------------------------------------------------------------- hmmlearn
class Chain(BaseHMM):
    """hmmlearn's model whose observations are the log scores themselves."""

    def _compute_log_likelihood(self, X):
        return X

    def _compute_likelihood(self, X):
        return np.exp(X)


def hmmlearn_chain() -> Chain:
    """The chain in hmmlearn, scaled (its faster implementation)."""
    model = Chain(STEPS + 1, implementation="scaling")
    model.startprob_, model.transmat_ = chain_parameters()
    return model


def viterbi_variants(recordings: Sequence[np.ndarray]) -> dict[str, Callable]:
    """Ways to the most probable paths of the chain; all return scores and labels."""
    initial, transition = chain_parameters()
    logs = np.log(initial), np.log(transition)
    model, stacked, lengths = hmmlearn_chain(), np.concatenate(recordings), [len(own) for own in recordings]
    return {
        "pyrozoo kernel": lambda: [chain.viterbi(own, *logs)[::-1] for own in recordings],
        "pyrozoo most_probable": lambda: [
            (score, labels) for labels, score in decode.most_probable(recordings, (initial, transition))
        ],
        "hmmlearn kernel": lambda: [_hmmc.viterbi(initial, transition, own) for own in recordings],
        "hmmlearn decode": lambda: [model.decode(stacked, lengths)],
    }


def smoothing_variants(recordings: Sequence[np.ndarray]) -> dict[str, Callable]:
    """Ways to the posterior probabilities of the chain; all return log evidence and posteriors."""
    initial, transition = chain_parameters()
    model, stacked, lengths = hmmlearn_chain(), np.concatenate(recordings), [len(own) for own in recordings]

    def ours(own: np.ndarray) -> tuple[float, np.ndarray]:
        log_z, *state = chain.forward(own, initial, transition)
        return log_z, chain.backward(initial, transition, *state)[0]

    def theirs(own: np.ndarray) -> tuple[float, np.ndarray]:
        likelihood = np.exp(own)
        log_z, forward, scales = _hmmc.forward_scaling(initial, transition, likelihood)
        posterior = forward * _hmmc.backward_scaling(initial, transition, likelihood, scales)
        return log_z, posterior / posterior.sum(1, keepdims=True)

    return {
        "pyrozoo kernel": lambda: [ours(own) for own in recordings],
        # It returns no evidence.
        "pyrozoo marginals": lambda: [(np.nan, own) for own in decode.marginals(recordings, (initial, transition))],
        "hmmlearn kernel": lambda: [theirs(own) for own in recordings],
        "hmmlearn score_samples": lambda: [model.score_samples(stacked, lengths)],
    }


def _paths(found: list, expected: list) -> float:
    """Relative difference of the scores; infinite where a label differs."""
    same = np.array_equal(*(np.concatenate([labels for _, labels in own]) for own in (found, expected)))
    return _relative(*(sum(score for score, _ in own) for own in (found, expected))) if same else np.inf


def _posteriors(found: list, expected: list) -> float:
    """Largest difference of a posterior probability, and of the log evidence where there is one."""
    totals = [sum(log_z for log_z, _ in own) for own in (found, expected)]
    evidence = 0.0 if np.isnan(totals[0]) else _relative(*totals)
    gamma = [np.concatenate([gamma for _, gamma in own]) for own in (found, expected)]
    return max(evidence, float(abs(gamma[0] - gamma[1]).max()))


def against_hmmlearn(
    variants: Callable, compare: Callable, number: int, length: int, rounds: int, clock: str = "wall"
) -> pd.DataFrame:
    """Milliseconds for all recordings, ratios to hmmlearn's kernel, and the difference of the results from its own."""
    functions = variants(log_scores("hazard", number, length))
    expected = functions["hmmlearn kernel"]()
    different = {name: _checked(compare(function(), expected), name) for name, function in functions.items()}
    return summary(alternate(functions, rounds, clock), "hmmlearn kernel").assign(difference=pd.Series(different))


# ---------------------------------------------------------------------------------------------------- semi-Markov
def exact_variants(own: np.ndarray, reading: str) -> dict[str, Callable]:
    """Decoders of one recording."""
    graph = process_of(parameters(), reading).graph()
    logs, tables = [np.log(table) for table in chain_parameters()], decode.history_tables(graph)

    def forward_backward() -> None:
        kernels.semi_markov_backward(graph, *kernels.semi_markov_forward(own, graph, -1))

    return {
        "vanilla Viterbi": partial(chain.viterbi, own, *logs),
        "single_history": partial(paths.single_history, own, *tables),
        "MAP": partial(kernels.semi_markov_map, own, graph),
        "log evidence": partial(kernels.semi_markov_forward, own, graph, -1),
        "forward-backward": forward_backward,
    }


def against_viterbi(reading: str, length: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds of the semi-Markov kernels, and ratios to the chain's Viterbi."""
    [own] = log_scores(reading, 1, length)
    return summary(alternate(exact_variants(own, reading), rounds, clock), "vanilla Viterbi")


# ------------------------------------------------------------------------------------------------------ gradients
def hazards(process: SemiMarkovProcess) -> tuple[Tensor, Tensor]:
    """Log probability to stay, (N, C), and to leave by an arc, (A, C), at ages 1..C; the last stands for all above."""
    _, length, survive, stay, leave = (table.clamp(min=IMPOSSIBLE) for table in process.tables)
    ending = length - survive[process.source]
    return (
        torch.cat([survive[:, 1:] - survive[:, :-1], stay[:, None]], 1),
        torch.cat([ending[:, :-1], leave[:, None]], 1),
    )


def plain_log(scores: Tensor, process: SemiMarkovProcess) -> Tensor:
    """log Z by a forward pass over all (node, age) in the log domain, shape (B,), from scores (B, T, K)."""
    stay, leave = hazards(process)
    source, label = torch.as_tensor(process.source), torch.as_tensor(process.label)
    n_nodes, n_arcs = len(label), len(source)
    # Arcs into each node side by side; a node with fewer reads the last entry, which is impossible.
    into = [np.flatnonzero(process.target == n) for n in range(n_nodes)]
    most = max(map(len, into))
    into = torch.as_tensor(np.stack([np.pad(own, (0, most - len(own)), constant_values=n_arcs) for own in into]))
    by_node = scores[..., label]
    never = scores.new_full((len(scores), 1), IMPOSSIBLE)
    first = process.log_initial.clamp(min=IMPOSSIBLE) + by_node[:, 0]
    alpha = torch.cat([first[..., None], scores.new_full((*first.shape, stay.shape[1] - 1), IMPOSSIBLE)], -1)
    for t in range(1, scores.shape[1]):
        left = torch.cat([torch.logsumexp(alpha[:, source] + leave, -1), never], 1)
        entered = torch.logsumexp(left[:, into], -1)
        older = alpha + stay
        top = torch.logaddexp(older[..., -2:-1], older[..., -1:])
        alpha = torch.cat([entered[..., None], older[..., :-2], top], -1) + by_node[:, t, :, None]
    return torch.logsumexp(alpha.flatten(1), 1)


def plain_scaled(scores: Tensor, process: SemiMarkovProcess) -> Tensor:
    """The same on probabilities, scaled in every frame; all that enter the steps are one product of matrices."""
    stay, leave = (table.exp() for table in hazards(process))
    n_gaps, label = process.n_labels, torch.as_tensor(process.label)
    h, k = (torch.as_tensor(array) for array in (PAIRS.h, PAIRS.k - 1))
    enter = leave.new_zeros(n_gaps, STEPS, leave.shape[1]).index_put((h, k), leave[: len(h)])
    enter, end = enter.transpose(1, 2).flatten(0, 1), leave[len(h) :]
    top = scores.detach().amax(-1, keepdim=True)
    potential = (scores - top).exp()[..., label]
    log_z = top.sum((1, 2))
    nothing = scores.new_zeros(len(scores), 1)
    first = process.log_initial.exp() * potential[:, 0]
    alpha = torch.cat([first[..., None], scores.new_zeros(*first.shape, stay.shape[1] - 1)], -1)
    for t in range(1, scores.shape[1]):
        # A constant: log Z is the same whatever the scale, and so is its gradient.
        scale = alpha.detach().sum((1, 2))
        log_z = log_z + scale.log()
        ended = (alpha[:, n_gaps:] * end).sum(-1)
        entered = torch.cat([nothing, ended, alpha[:, :n_gaps].flatten(1) @ enter], 1)
        older = alpha * stay
        oldest = older[..., -2:].sum(-1, keepdim=True)
        alpha = torch.cat([entered[..., None], older[..., :-2], oldest], -1)
        alpha = alpha * (potential[:, t] / scale[:, None])[..., None]
    return log_z + alpha.sum((1, 2)).log()


def gradient(function: Callable, scores: np.ndarray, values: dict[str, Tensor], reading: str) -> dict[str, Tensor]:
    """The log evidence of recordings (B, T, K), and its gradient by the parameters and by the scores."""
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    own = torch.tensor(scores, requires_grad=True)
    value = function(own, process_of(leaves, reading)).sum()
    value.backward()
    return {"value": value.detach(), "scores": own.grad, **{name: leaf.grad for name, leaf in leaves.items()}}


def zoo(scores: Tensor, process: SemiMarkovProcess) -> Tensor:
    """The zoo's log evidence of recordings (B, T, K), shape (B,)."""
    return log_evidence(scores.flatten(0, 1), torch.full((len(scores),), scores.shape[1]), process)


def tables_alone(scores: Tensor, process: SemiMarkovProcess) -> Tensor:
    """What all variants share: the tables of the process, and the way back through them."""
    return sum(table.clamp(min=IMPOSSIBLE).sum() for table in process.tables) + 0.0 * scores.sum((1, 2))


EVIDENCE = {"pyrozoo": zoo, "plain PyTorch, log domain": plain_log, "plain PyTorch, scaled": plain_scaled}


def against_autograd(reading: str, number: int, length: int, rounds: int, clock: str = "wall") -> pd.DataFrame:
    """Milliseconds of one gradient, ratios to the zoo, and the largest relative difference from the zoo's."""
    # Near an end of probability 0, the gradient by the sticks is a small difference of large numbers.
    scores, values = np.stack(log_scores(reading, number, length)), parameters(end=0.02)
    variants = {
        name: partial(gradient, function, scores, values, reading)
        for name, function in (EVIDENCE | {"tables alone": tables_alone}).items()
    }
    expected = variants["pyrozoo"]()
    different = {}
    for name in EVIDENCE:
        found = variants[name]()
        different[name] = _checked(max(_relative(found[key], expected[key]) for key in expected), name)
    return summary(alternate(variants, rounds, clock), "pyrozoo").assign(difference=pd.Series(different))


def _relative(found: Tensor | float, expected: Tensor | float) -> float:
    found, expected = (np.asarray(x) for x in (found, expected))
    return float(abs(found - expected).max() / abs(expected).max())


def _checked(different: float, name: str) -> float:
    if not different <= TOLERANCE:  # NaN, too
        raise RuntimeError(
            f"{name}: differs by {different:.2g}; it does not compute the same, and its time says nothing"
        )
    return different


# --------------------------------------------------------------------------------------------------------- length
DECODERS = ("MAP", "forward-backward")


def against_length(rounds: int, clock: str = "wall", lengths: Sequence[int] = LENGTHS) -> pd.DataFrame:
    """Microseconds per frame, ratio to the shortest, and growth of peak memory, also per frame."""
    tables = []
    for decoder in DECODERS:
        variants = {}
        for length in lengths:
            [own] = log_scores("hazard", 1, length)
            variants[f"{decoder}, {length}"] = exact_variants(own, "hazard")[decoder]
        seconds = alternate(variants, rounds, clock) / np.array(lengths)
        table = summary(seconds, f"{decoder}, {lengths[0]}").rename(columns=lambda name: name.replace("_ms", "_us"))
        table[["min_us", "median_us"]] *= 1e3
        peaks = []
        for length in lengths:
            # A fresh process each: one that has once had much memory does not give all of it back.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                peaks.append(pool.submit(peak_memory, decoder, length).result())
        tables.append(table.assign(peak_MB=peaks, bytes_per_frame=np.array(peaks) * 2**20 / np.array(lengths)))
    return pd.concat(tables)


def peak_memory(decoder: str, length: int) -> float:
    """Growth of the process's peak memory [MB] over one call; NaN where there is no /proc."""
    torch.set_num_threads(1)
    [short], [own] = (log_scores("hazard", 1, n) for n in (2 * CAP, length))
    exact_variants(short, "hazard")[decoder]()  # compiles
    function = exact_variants(own, "hazard")[decoder]
    if not CLEAR.exists():
        return float("nan")
    CLEAR.write_text("5")  # sets the peak back to what is held now
    before = _peak()
    function()
    return _peak() - before


# -------------------------------------------------------------------------------------------------------- threads
def against_threads(rounds: int, sizes: Sequence[tuple[int, int]] = ((1, 100_000), (16, 10_000))) -> pd.DataFrame:
    """Milliseconds of the public functions by the number of threads, and ratios to one thread."""
    process, tables = process_of(parameters(), "hazard"), []
    before = torch.get_num_threads()

    def on(threads: int, function: Callable, own: Sequence[np.ndarray]) -> Callable:
        def call() -> None:
            torch.set_num_threads(threads)
            function(own, process)

        return call

    for number, length in sizes:
        own = log_scores("hazard", number, length)
        for name, function in (("step_performed", decode.step_performed), ("marginals", decode.marginals)):
            title = f"{name}, {number} x {length} frames"
            variants = {f"{title}, {n} threads": on(n, function, own) for n in THREADS}
            tables.append(summary(alternate(variants, rounds, "wall"), f"{title}, {THREADS[0]} threads"))
    torch.set_num_threads(before)
    return pd.concat(tables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", action="store_true", help="instead: time and memory against the number of frames")
    parser.add_argument("--by-threads", action="store_true", help="instead: time against the number of threads")
    parser.add_argument(
        "--rounds",
        type=int,
        default=30,
        help="calls of each variant (default: 30; a tenth in --length and --by-threads)",
    )
    add_clock_and_out(parser)
    return parser


if __name__ == "__main__":
    main()
