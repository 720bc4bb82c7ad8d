"""Validation of labelled recordings, with messages that name recording, frame and remedy."""

from __future__ import annotations

import numpy as np

from ....data.batch import Batch
from ....modeling.base import ZooModel
from ..process.counts import Counts


def check_labels(data: Batch, model: ZooModel | None = None) -> None:
    """Check that the text's process of steps and gaps, or this model, can generate the labelled recordings.

    Args:
        data: Recordings, labelled or not.
        model: Model whose labels, rate and pairs are checked, too.

    Raises:
        ValueError: Two steps without a non-event frame between them, unless the model allows them; with `model`:
            another number of labels, or a pair of steps or a first label that the model rules out.
    """
    if model is not None and data["score"].shape[1] != model.n_labels:
        raise ValueError(
            f"score: {data['score'].shape[1]} columns, the model has {model.n_labels} labels {list(model.names)}; "
            "give one score per label, the non-event first"
        )
    if model is not None:
        check_rate(data, model)
    if "label" not in data:
        return
    names = model.names if model is not None else [str(name) for name in data.coords["label_class"]]
    pairs = getattr(model, "pairs", None)
    if model is not None and pairs is None:
        return  # a frame-level chain allows every sequence
    parts = data["label"].cpu().split(data["lengths"].tolist())
    for recording, part, seen in zip(data.names("recording"), parts, data["labelled"].tolist(), strict=True):
        if not seen:
            continue
        labels = part.numpy()
        if model is not None and getattr(model, "direct", 0) > 0:
            _check_pairs(recording, labels, model)
            continue
        direct = np.flatnonzero((labels[1:] != labels[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0))
        if len(direct):
            t = int(direct[0]) + 1
            raise ValueError(
                f"recording {recording!r}, frame {t}: {names[labels[t - 1]]!r} goes straight to {names[labels[t]]!r}, "
                "which has probability 0 in this process: two steps need a non-event frame between them. Give the "
                "boundary to the non-event, medication.separate_steps(batch), or take a model that has such pairs: "
                "create it from these recordings (variant 'semi-markov', in the text's reading with duration='cdf')"
            )
        if model is not None and pairs is not None:
            _check_pairs(recording, labels, model)


def check_rate(data: Batch, model: ZooModel) -> None:
    """Check that recordings have the model's frame rate, in which its durations are counted.

    Data whose rate was only assumed are taken to have the model's rate.

    Raises:
        ValueError: The rates differ.
    """
    own, given = getattr(model, "rate", None), data.info.get("rate")
    if own is None or given is None or data.info.get("rate_assumed"):
        return
    if abs(float(given) - own) > 1e-6 * own:
        raise ValueError(
            f"the recordings have {float(given):g} frames per second, the model has {own:g}; resample them, or fit "
            "recordings at their rate (again, where the rate was not given at the fit, and 1 was assumed)"
        )


def _check_pairs(recording: object, labels: np.ndarray, model: ZooModel) -> None:
    known = set(zip(model.pairs.h.tolist(), model.pairs.k.tolist(), strict=True))
    for h, k in Counts.of([labels], model.n_labels - 1).transitions:
        if (h, k) not in known:
            last = "start" if h == 0 else model.names[h]
            raise ValueError(
                f"recording {recording!r}: {model.names[k]!r} follows {last!r}, a pair that the model does not have; "
                f"create it with pairs that hold {(h, k)}, e.g. from data that do"
            )
    if labels[0] >= 0 and model.initial[labels[0]] == 0:
        raise ValueError(
            f"recording {recording!r} begins with {model.names[labels[0]]!r}, which `initial` gives probability 0"
        )
