"""One run of an experiment as a job: plain arguments in, plain numbers out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from ....data.batch import Batch
from ....inference.fit import fit
from ....inference.fitted import Fit
from ....modeling import registry
from ..data.datasets import watch_sessions
from ..data.simulator import simulate
from ..decoding import log_scores
from ..process import decode
from ..process.counts import labelled_sequences
from ..process.segments import scores
from ..uses.decoding import plug_in

DRAWS = 500  # for the posterior means that decoders plug in


def watch_run(
    fold: int, variant: str, guide: str, decoders: Sequence[str], arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fit to the sessions of nine subjects and decode those of the tenth.

    Scores are nested: neither the training scores nor any parameter has seen the test subject.

    Returns:
        Decoder -> frame accuracy, segment F1, edit score and frame NLL; ``power``; ``seconds``.
    """
    train, test = watch_sessions(fold)
    return _scored(train, test, variant, guide, decoders, arguments, fold)


def simulated_run(
    device: str, difficulty: str, seed: int, variant: str, guide: str, decoders: Sequence[str],
    arguments: Mapping[str, Any] | None = None, n_train: int = 60, n_test: int = 60, exactness: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Fit to simulated recordings and decode others; see `watch_run`.

    Args:
        device: Device of `simulate`.
        difficulty: Difficulty of `simulate`.
        seed: Random seed of the data; training and test recordings have streams of their own.
        variant: Variant of the model.
        guide: Name of the guide.
        decoders: Names of the decoders to compare.
        arguments: Arguments of the model.
        n_train: Number of recordings to fit.
        n_test: Number of recordings to decode.
        exactness: Whether to also compare the text's recursion with the exact maximum, and to predict which steps were
            performed.

    Returns:
        The same as `watch_run`; with `exactness` also ``misses`` and ``performed``.
    """
    train, test = (simulate(device, n, difficulty, 2 * seed + i) for i, n in enumerate((n_train, n_test)))
    return _scored(train, test, variant, guide, decoders, arguments, seed, exactness)


def _scored(
    train: Batch, test: Batch, variant: str, guide: str, decoders: Sequence[str], arguments: Mapping[str, Any] | None,
    seed: int, exactness: bool = False,
) -> dict[str, Any]:  # fmt: skip
    started = time.perf_counter()
    model = registry.create_model("medication", train, variant=variant, **(arguments or {}))
    found = fit(model, guide, train, seed=seed, progress=False)
    process, power = plug_in(found, train, DRAWS, seed)
    own = log_scores(found.model, test, power)
    truth, gamma = labelled_sequences(test), decode.marginals(own, process)
    out: dict[str, Any] = {"power": power}
    for decoder in decoders:
        labels = decode.decode(own, process, decoder, marginals=gamma)
        out[decoder] = scores(truth, labels, gamma)
    if exactness:
        out["misses"] = _misses(own, process)
        out["performed"] = _performed(own, process, truth)
    return out | {"seconds": round(time.perf_counter() - started, 2)}


def _misses(own: list[np.ndarray], process: Any) -> dict[str, float]:
    """Return how often, and by how much, the text's recursion misses the most probable sequence."""
    exact = decode.most_probable(own, process)
    single = decode.most_probable(own, process, single_history=True)
    lost = np.array([best - score for (_, best), (_, score) in zip(exact, single, strict=True)])
    changed = np.array([(a != b).mean() for (a, _), (b, _) in zip(exact, single, strict=True)])
    missed = lost > 1e-6
    return {
        "share": float(missed.mean()),
        "nats_median": float(np.median(lost[missed])) if missed.any() else 0.0,
        "nats_p90": float(np.quantile(lost[missed], 0.9)) if missed.any() else 0.0,
        "frames_changed": float(changed[missed].mean()) if missed.any() else 0.0,
        "largest_gain": float(-lost.min()),  # of the recursion over the exact maximum: rounding, or a mistake
    }


def _performed(own: list[np.ndarray], process: Any, truth: list[np.ndarray]) -> dict[str, float]:
    """Return the AUROC of "step k was performed", pooled over steps and recordings: exact posterior and two paths."""
    n_steps = own[0].shape[1] - 1
    holds = lambda paths: np.array([[(path == k).any() for k in range(1, n_steps + 1)] for path in paths])  # noqa: E731
    really = holds(truth).ravel()
    answers = {
        "posterior": decode.step_performed(own, process),
        "map": holds(decode.decode(own, process, "map")),
        "paper": holds(decode.decode(own, process, "paper")),
    }
    out = {name: float(roc_auc_score(really, value.ravel())) for name, value in answers.items()}
    return out | {"omitted_share": float(1 - really.mean())}


def fitted(train: Batch, variant: str, guide: str = "closed-form", **arguments: Any) -> Fit:
    """Fit a variant with seed 0, as the experiments do."""
    model = registry.create_model("medication", train, variant=variant, **arguments)
    return fit(model, guide, train, seed=0, progress=False)
