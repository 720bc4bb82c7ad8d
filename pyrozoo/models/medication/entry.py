"""Parts of the entry that the registry, the contract and the command line read."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...data.batch import Batch
from ...inference.copies import isolated
from ...inference.fit import fit
from ...inference.fitted import Fit
from ...modeling import registry
from .data import readers
from .data.datasets import DATASETS
from .data.recordings import separate_steps
from .data.simulator import simulate
from .frame_hmm import FrameHMM
from .guides import GUIDES
from .label_model import LabelModel
from .model import PaperProcess, StepProcess
from .process import decode
from .process.evidence import log_potentials
from .uses.decoding import decode_recordings

VARIANTS = {"semi-markov": StepProcess, "paper": PaperProcess, "frame-hmm": FrameHMM}
# No number of the article is reproduced: its recordings and its classifier are not public.
_FOLDER = f"{__package__}.experiments"
EXPERIMENTS = {
    "watch": f"{_FOLDER}.watch:watch_experiment",
    "decoders": f"{_FOLDER}.decoders:decoders_experiment",
    "implied-durations": f"{_FOLDER}.implied:implied_experiment",
    "touching": f"{_FOLDER}.touching:touching_experiment",
    "unlabelled": f"{_FOLDER}.unlabelled:unlabelled_experiment",
    "live": f"{_FOLDER}.live:live_experiment",
    "reference": f"{_FOLDER}.watch:reference_experiment",
}


def tiny(seed: int = 0) -> tuple[Batch, dict[str, Any]]:
    """Simulate small recordings at 1 frame/s, the last quarter unlabelled, for the contract; also model arguments."""
    data = simulate("pen", n_recordings=9, difficulty="easy", seed=seed, rate=1.0, n_unlabelled=3)
    return data, {"unlabelled": True}


def recovery(seed: int) -> dict[str, float]:
    """Recovery on simulated pen recordings of medium difficulty: a closed-form fit to 60, which decodes 60 others.

    Returns:
        ``frame_accuracy`` and ``segment_f1`` (IoU 0.5) of the default decoder.
    """
    train, test = (simulate("pen", 60, "medium", 2 * seed + i) for i in (0, 1))
    found = fit(registry.create_model("medication", train), "closed-form", train, seed=seed, progress=False)
    scores = decode_recordings(found, test, seed=seed).scores(test)
    return {name: scores[name] for name in ("frame_accuracy", "segment_f1")}


def read(path: str, rate: float | None = None, like: Batch | None = None, separate: str | None = None) -> Batch:
    """Read recordings for the command line; at prediction, with the labels of the training data `like`.

    `separate` puts a non-event between steps that touch, see `separate_steps`, whose argument `short` it is.
    """
    if like is None:
        batch = readers.read(path, rate=rate)
        return batch if separate is None else separate_steps(batch, separate)
    labels = [str(name) for name in like.coords["label_class"]]
    if like.info.get("without_non_event"):
        return readers.read(path, rate=rate, labels=labels[1:], non_event=False)
    return readers.read(path, rate=rate, labels=labels)


def tables(found: Fit, batch: Batch, decoder: str | None = None) -> dict[str, pd.DataFrame]:
    """Tables that the command line writes: "" labels and marginals of frames, "steps" P(performed) of every step."""
    own = decode_recordings(found, batch, decoder)
    frames = own.frames().reset_index()
    frames.insert(2, "time_s", frames["frame"] / own.rate)
    performed = own.performed.stack().rename("p_performed").rename_axis(["recording", "step"]).reset_index()
    return {"": frames, "steps": performed}


def exact(variant: str, seed: int = 0) -> dict[str, tuple[Any, Any]]:
    """Decode tiny cases by the exact algorithms and by enumeration of all sequences: pairs that must be equal.

    Also with a frame that is missing and one whose label is known; and for processes of steps, with steps that follow
    each other directly.
    """
    touching: dict[str, Any] = {} if variant == "frame-hmm" else {"direct": 0.4}
    cases = {"": _exact(variant, seed), "a missing and a known frame: ": _exact(variant, seed, True, **touching)}
    if touching:
        cases["touching steps: "] = _exact(variant, seed, **touching)
    return {case + name: pair for case, pairs in cases.items() for name, pair in pairs.items()}


def _exact(variant: str, seed: int, partial: bool = False, **arguments: Any) -> dict[str, tuple[Any, Any]]:
    """Compare one case; `partial`: frame 1 is missing, and the label of frame 3 known."""
    model, process, rng = _small(variant, seed, **arguments)
    n_frames, n_labels = 6, model.n_labels
    log_score, known = rng.normal(size=(n_frames, n_labels)), np.full(n_frames, -1)
    paths = np.array(list(itertools.product(range(n_labels), repeat=n_frames)))
    prior = process.log_prob(paths.ravel(), np.full(len(paths), n_frames)).numpy()
    value = prior + log_score[np.arange(n_frames), paths].sum(1)
    if partial:
        value = np.where(paths[:, 3] == 1, value - log_score[1, paths[:, 1]], -np.inf)
        log_score[1], known[3] = np.nan, 1
    total = np.logaddexp.reduce(value)
    weight = np.exp(value - total)
    gamma = np.stack([(weight[:, None] * (paths == k)).sum(0) for k in range(n_labels)], 1)
    [(labels, best)] = decode.most_probable([log_score], process, known=[known])
    performed = [weight[(paths == k).any(1)].sum() for k in range(1, n_labels)]
    return {
        "probability of all sequences": (np.exp(prior).sum(), 1.0),
        "most probable sequence": (labels, paths[value.argmax()]),
        "its score": (best, value.max()),
        "log evidence": (decode.log_evidence([log_score], process, known=[known])[0], total),
        "marginals": (decode.marginals([log_score], process, known=[known])[0], gamma),
        "steps performed": (decode.step_performed([log_score], process, known=[known])[0], performed),
    }


def ranks(variant: str, seed: int = 0, simulations: int = 300, draws: int = 99) -> dict[str, np.ndarray]:
    """Ranks of the truth among posterior paths, for known parameters and likelihood: uniform on 0..draws if exact.

    Labels come from the process, scores from the Beta densities of the note to eq. 1, whose posterior has emission
    "beta".

    Args:
        variant: Variant of the entry.
        seed: Random seed for parameters, labels, scores and paths.
        simulations: Number of simulated recordings.
        draws: Number of posterior paths of each recording.

    Returns:
        Ranks of the number of event frames, of the label sequence's last change, and randomised ranks of "step k was
        performed".
    """
    model, process, rng = _small(variant, seed)
    lengths = torch.full((simulations,), 20)
    with isolated(seed):
        labels = model.label_distribution(process, lengths).sample().numpy()
    on = np.eye(model.n_labels)[labels]
    score = rng.beta(1 + on, 2 - on)
    own = [log_potentials(torch.as_tensor(c), "beta", 1e-9).numpy() for c in score]
    paths = np.stack(decode.sample_paths(own, process, draws, seed=seed))
    statistics = {
        "event frames": lambda z: (z > 0).sum(-1),
        "last change": lambda z: ((np.diff(z, axis=-1) != 0) * np.arange(1, z.shape[-1])).max(-1),
    }
    out = {}
    for name, statistic in statistics.items():
        truth, drawn = statistic(labels)[:, None], statistic(paths)
        ties = rng.integers(0, (drawn == truth).sum(1) + 1)
        out[name] = (drawn < truth).sum(1) + ties
    p = decode.step_performed(own, process)
    really = np.stack([(labels == k).any(1) for k in range(1, model.n_labels)], 1)
    u = np.where(really, 1 - p + p * rng.random(p.shape), (1 - p) * rng.random(p.shape))
    out["steps performed"] = np.minimum((u * (draws + 1)).astype(int), draws).ravel()
    return out


def _small(variant: str, seed: int, **given: Any) -> tuple[LabelModel, Any, np.random.Generator]:
    """Make a model of two steps, the process at one draw from its priors, and a random generator."""
    names, rng = ["non-event", "one", "two"], np.random.default_rng(seed)
    arguments = {} if variant == "frame-hmm" else {"typical": [3.0, 2.0], "caps": [5, 4, 3], "initial": [0.6, 0.2, 0.2]}
    model = VARIANTS[variant](names, **({"alpha": 1.0} | arguments | given))
    with isolated(seed), torch.no_grad():
        values = {site: prior.sample().double() for site, prior in model.priors().items()}
        return model, model.process(model.parameters_of(values)), rng


def rivals(train: Batch, test: Batch, target: str) -> dict[str, Any]:
    """Simple methods for recordings, of their labels, times or scores alone, and the vanilla chain.

    Returns:
        Name -> probabilities of the labels of every frame of `test`, end to end.
    """
    from ...criticism.rivals import N_TREES, Rival, tree_classifier

    score = test["score"].double().cpu().numpy()
    lengths = test["lengths"].tolist()
    width = max(3, round(float(test.info.get("rate") or 1.0)) // 2 * 2 + 1)
    ends = np.cumsum(lengths)[:-1]
    smooth = [pd.DataFrame(own).rolling(width, 1, center=True).mean().to_numpy() for own in np.split(score, ends)]
    names = list(test.coords["label_class"])
    chain = fit(FrameHMM(names), GUIDES["closed-form"], train, progress=False)
    table = decode_recordings(chain, test, "marginal").frames()
    truth = train["label"].cpu().numpy()
    known = train.observed(target)
    shares = np.bincount(truth[known], minlength=len(names)) / known.sum()
    place, new_place = (
        np.concatenate([np.arange(n) for n in own["lengths"].tolist()])[:, None] for own in (train, test)
    )
    clock = np.zeros((len(new_place), len(names)))
    trees = tree_classifier(0, N_TREES).fit(place[known], truth[known])
    clock[:, trees.classes_] = trees.predict_proba(new_place)
    return {
        "mean": Rival("shares of the labels", np.tile(_shares(shares[None]), (len(score), 1))),
        "argmax": Rival("scores of each frame alone", _shares(score)),
        "smoothed argmax": Rival("mean scores over a second", _shares(np.concatenate(smooth))),
        "vanilla chain": Rival("chain of frames", _shares(table[[f"label.p[{name}]" for name in names]].to_numpy())),
        "clock": Rival("time since the start of the recording alone", _shares(clock)),
    }


def _shares(score: np.ndarray) -> np.ndarray:
    """Scores (F, K) as probabilities, none of them 0."""
    floored = np.maximum(score, 1e-4)
    return floored / floored.sum(1, keepdims=True)


EXACT = {variant: functools.partial(exact, variant) for variant in VARIANTS}
RANKS = {variant: functools.partial(ranks, variant) for variant in VARIANTS}

__all__ = [
    "DATASETS", "EXACT", "EXPERIMENTS", "GUIDES", "RANKS", "VARIANTS", "read", "recovery", "rivals", "tables", "tiny",
]  # fmt: skip
