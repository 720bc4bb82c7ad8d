"""Arguments of the step models that labelled recordings decide: pairs, times, caps, ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.batch import Batch
from .process.counts import SEVERAL, Counts, labelled_sequences

LONGEST_WAIT = 500  # largest age of the wait before the first step [frames]: the cost of a frame grows with it


def text_sizes(data: Batch) -> tuple[dict[str, Any], Counts | None]:
    """Names, rate, pairs that occur, first labels, shares, typical times and caps; and the counts behind them."""
    names = [str(name) for name in data.coords["label_class"]]
    rate = float(data.info.get("rate", 1.0))
    out: dict[str, Any] = {"names": names, "rate": rate}
    seen = labelled_sequences(data)
    if not seen:
        return out, None
    n_steps = len(names) - 1
    summary = Counts.of(seen, n_steps)
    first = np.bincount([own[0] for own in seen if own[0] >= 0], minlength=len(names)) + 0.5
    known = np.concatenate(seen)
    frames = np.bincount(known[known >= 0], minlength=len(names)) + 1.0
    lengths = (summary.durations, summary.gaps.values(), [summary.waits])
    longest = [max([10, *map(max, filter(len, found))]) for found in lengths]
    times = [np.concatenate([np.ones(1), *found]) for found in (summary.durations, summary.gaps.values())]
    out |= {
        "pairs": [list(map(int, pair)) for pair in sorted(summary.transitions)] or None,
        "initial": (first / first.sum()).tolist(),
        "share": (frames / frames.sum()).tolist(),
        "typical": [float(np.median(t)) / rate for t in times],
        "caps": [int(1.5 * n) for n in longest[:2]] + [min(int(1.5 * longest[2]), LONGEST_WAIT)],
    }
    return out, summary


def touching(summary: Counts, found: Mapping[str, Any], non_event: bool) -> dict[str, Any]:
    """Share of the transitions between steps that are direct, if any is; 1, and no first label 0, without non-event."""
    if not non_event:
        initial = np.array(found["initial"]) * (np.arange(len(found["initial"])) > 0)
        return {"direct": 1.0, "initial": (initial / initial.sum()).tolist()}
    direct, total = (sum(n for (h, _), n in own.items() if h) for own in (summary.direct, summary.transitions))
    return {"direct": float(np.clip(direct / total, 0.02, 0.98))} if direct else {}


def going_on(summary: Counts, found: Mapping[str, Any], non_event: bool) -> dict[str, Any]:
    """Arguments for recordings that hold several passes, or that do not end in non-event after a step."""
    ends, n, n_steps = float(summary.ends[1:].sum()), len(summary.passes), len(found["names"]) - 1
    several = n > 0 and float(np.mean(summary.passes)) >= SEVERAL
    if not n or (ends and not several and non_event):
        return {}
    if not several and non_event:
        return {"end": 0.0}
    counts = {pair: m for pair, m in summary.transitions.items() if pair[0]}
    total, once = sum(counts.values()), sum(m == 1 for m in counts.values())
    unseen_share = (once + 0.5) / (total + 1)
    pairs, alpha = [], []
    for h in range(n_steps + 1):
        row = {k: m for (own, k), m in summary.transitions.items() if own == h}
        if h == 0 and not (row or summary.ends[0]) and not non_event:
            continue  # no recording begins in non-event
        others = [k for k in range(1, n_steps + 1) if k not in row and (k != h or n_steps == 1)]
        weight = unseen_share * (sum(row.values()) + 0.5 * len(row)) / (1 - unseen_share) if row else 0.5 * len(others)
        for k in range(1, n_steps + 1):
            if k in row or k in others:
                pairs.append([h, k])
                alpha.append(0.5 if k in row else float(np.clip(weight / len(others), 1e-3, 0.5)))
    # An end is for good: a decoding may take it instead of all that follows, and a long last pause looks like one.
    out: dict[str, Any] = {"end": 0.5 * ends / sum(summary.passes) if non_event and ends >= n / 2 else 0.0}
    if non_event and summary.gaps:  # as an end, a long memoryless wait would take the place of steps
        out["wait"] = "gap"
    return out | {"pairs": pairs, "alpha": alpha}
