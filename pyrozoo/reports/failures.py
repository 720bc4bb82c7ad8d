"""The section on where predictions fail: the worst groups, the course over time, rows beyond the training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..criticism import scores
from ..data.batch import Batch
from ..plots.predictions import predicted_vs_observed, unit_lines
from ..plots.style import BLUE, VERMILION, make_axes
from .content import Picture, Section, Table
from .predictions import spaced
from .rules import judge
from .study import Outcome, Study
from .words import listed, percent, plural

WORST = 10
MOST_POINTS = 3000  # of a picture


def failures(study: Study) -> Section:
    """Section 7: the worst groups and rows, errors over time and inputs, rows unlike the training data.

    Args:
        study: The fit and its data.
    """
    section = Section("failures", "Where it fails")
    for o in study.outcomes:
        _worst(section, o)
        _pictures(section, study, o)
        _over(section, o)
    _range(section, study)
    return section


def _error(o: Outcome) -> tuple[str, np.ndarray]:
    """Name and size of the error of every row."""
    if o.classes:
        assert o.p is not None
        return "probability of the right class", 1 - o.p[np.arange(len(o.p)), o.truth.astype(int)]
    return "error", np.abs(o.table["mean"].to_numpy() - o.truth)


def _worst(section: Section, o: Outcome) -> None:
    size = _error(o)[1]
    frame = pd.DataFrame({o.group: o.groups, "size": size, "square": size**2})
    if not o.classes:
        frame["bias"] = o.table["mean"].to_numpy() - o.truth
        frame["inside 90 %"] = o.inside(90).astype(float)
    else:
        assert o.p is not None
        frame["accuracy"] = (o.p.argmax(1) == o.truth).astype(float)
    parts = frame.groupby(o.group)
    n_rows = plural(o.row)
    table = parts.mean().assign(**{n_rows: parts.size()})
    key = "RMSE" if not o.classes else "mean probability missed"
    table[key] = np.sqrt(table["square"]) if not o.classes else table["size"]
    table = table.sort_values(key, ascending=False).drop(columns=["size", "square"]).head(WORST).reset_index()
    table = table[[o.group, n_rows, key, *[c for c in table.columns if c not in (o.group, n_rows, key)]]]
    if o.keys[o.group].nunique() > 1 and o.group in o.keys and o.group != o.keys.columns[0]:
        section.blocks.append(
            Table(f"worst {plural(o.group)}, {o.name}", table, f"{o.label}: the {len(table)} worst {plural(o.group)}")
        )
    order = np.argsort(-size, kind="stable")[:WORST]
    rows = o.keys.iloc[order].astype(str).reset_index(drop=True)  # names, also where they are numbers
    if o.classes:
        assert o.p is not None
        names = np.array(o.classes)
        rows["observed"], rows["predicted"] = names[o.truth[order].astype(int)], names[o.p[order].argmax(1)]
        rows["probability of the observed class"] = 1 - size[order]
    else:
        rows["observed"], rows["predicted"] = o.truth[order], o.table["mean"].to_numpy()[order]
        rows["q05"], rows["q95"] = o.table["q05"].to_numpy()[order], o.table["q95"].to_numpy()[order]
    section.blocks.append(
        Table(f"worst rows, {o.name}", rows, f"{o.label}: the {len(rows)} worst {plural(o.row)}, by their keys")
    )


def _pictures(section: Section, study: Study, o: Outcome) -> None:
    """Predictions against the truth, and the courses of the worst groups, one picture each."""
    if o.classes:
        _courses(section, o)
        return
    table = o.table.add_prefix(f"{o.name}.")
    rows = spaced(np.arange(len(table)), MOST_POINTS)
    figure = predicted_vs_observed(table.iloc[rows], o.truth[rows], o.name, quantity=o.label).figure
    alt = f"Predictions of {o.label} against what was observed; good points lie on the diagonal."
    thinned = f"{len(rows):,} of {len(table):,} {plural(o.row)}, evenly spaced." if len(rows) < len(table) else ""
    section.blocks.append(Picture(f"predicted and observed, {o.name}", {"": figure}, alt, thinned))
    if o.group == o.keys.columns[0] or o.keys[o.group].nunique() < 2:
        return
    error = scores.per_group(scores.rmse, o.truth, o.table["mean"].to_numpy(), o.groups).sort_values(ascending=False)
    groups, parts, longest = o.groups, {}, 0
    for name in error.index[:WORST]:
        whole = np.flatnonzero(groups == name)
        rows, longest = spaced(whole, MOST_POINTS), max(longest, len(whole))
        x = pd.Series(o.keys["time"].iloc[rows], name="time") if "time" in o.keys else None
        group = pd.Series(groups[rows], name=o.group)
        own = unit_lines(table.iloc[rows], o.truth[rows], o.name, group=group, x=x, show=[name], quantity=o.label)
        own.set_size_inches(6.6, 3.6)
        parts[f"{o.group} {name}"] = own
    thinned = f" At most {MOST_POINTS:,} {plural(o.row)} of each, evenly spaced." if longest > MOST_POINTS else ""
    worst = f"the {len(parts)} worst {plural(o.group)}"
    alt = f"Observed and predicted {o.label} of {worst}, one picture each, the worst first."
    section.blocks.append(
        Picture(
            f"worst {plural(o.group)}, {o.name}", parts, alt, "Choose by the list; the worst comes first." + thinned
        )
    )


def _courses(section: Section, o: Outcome) -> None:
    """Probability of the observed class along the rows of the worst groups, one picture each."""
    assert o.p is not None
    if o.group == o.keys.columns[0] or o.keys[o.group].nunique() < 2:
        return
    share, wrong = o.p[np.arange(len(o.p)), o.truth.astype(int)], o.p.argmax(1) != o.truth
    missed = pd.Series(1 - share).groupby(o.groups).mean().sort_values(ascending=False)
    parts: dict[str, Any] = {}
    for name in missed.index[:WORST]:
        rows = np.flatnonzero(o.groups == name)
        order = np.argsort(o.keys["time"].iloc[rows], kind="stable") if "time" in o.keys else np.arange(len(rows))
        kept = spaced(rows[np.asarray(order)], MOST_POINTS)
        ax = make_axes(None, (6.6, 3.2))
        place = np.arange(len(kept))
        ax.plot(place, share[kept], "o", ms=3, color=BLUE, label="right")
        ax.plot(place[wrong[kept]], share[kept][wrong[kept]], "x", ms=5, color=VERMILION, label="wrong")
        order_of = "in time" if "time" in o.keys else "in the order of the data"
        ax.set(xlabel=f"{plural(o.row)} {order_of}", ylabel="probability of\nthe observed class", ylim=(-0.03, 1.03))
        ax.set_title(f"{o.group} {name}")
        ax.legend()
        parts[f"{o.group} {name}"] = ax.figure
    worst = f"the {len(parts)} worst {plural(o.group)}"
    alt = f"Probability of the observed {o.label} along the {plural(o.row)} of {worst}, one picture each."
    caption = f"Choose by the list; the worst comes first. A cross: another class of {o.label} is more probable."
    section.blocks.append(Picture(f"worst {plural(o.group)}, {o.name}", parts, alt, caption))


def _over(section: Section, o: Outcome) -> None:
    """Errors in ten parts of time, and in the quarters of every input."""
    size = _error(o)[1]
    summary: Callable[..., float] = np.mean if o.classes else (lambda values: float(np.sqrt(np.mean(values**2))))
    name = "mean probability missed" if o.classes else "RMSE"
    if "time" in o.keys:
        time = o.keys["time"]
        since = time - time.groupby(o.groups).transform("min")
        part = pd.qcut(since.rank(method="first"), min(10, len(since)), labels=False)
        rows = pd.DataFrame({"part": part, "since": since, "size": size}).groupby("part")
        table = pd.DataFrame(
            {f"time since the first row of each {o.group}": rows["since"].median(), name: rows["size"].agg(summary)}
        )
        section.blocks.append(
            Table(f"errors over time, {o.name}", table.reset_index(drop=True), f"{o.label}: errors over time")
        )
        ax = make_axes(None, (6.4, 3.2))
        ax.plot(range(1, len(table) + 1), table[name], "o-", color=BLUE)
        ax.set(xlabel="tenth of the time, from the first rows to the last", ylabel=f"{name}, {o.label}", ylim=(0, None))
        section.blocks.append(
            Picture(f"errors over time, {o.name}", {"": ax.figure}, f"Errors of {o.label} over time.")
        )
    lines = []
    for column in o.inputs.columns[:40]:
        values = o.inputs[column]
        if values.nunique() < 4:
            continue
        part = pd.qcut(values.rank(method="first"), 4, labels=False)
        each = pd.Series(size).groupby(part.to_numpy()).agg(summary)
        lines.append(
            {
                "input": str(column),
                **{f"{word} quarter": each[i] for i, word in enumerate(("lowest", "second", "third", "highest"))},
            }
        )
    if lines:
        caption = f"{o.label}: {name} in the quarters of every input (up to 40)"
        section.blocks.append(Table(f"errors over inputs, {o.name}", pd.DataFrame(lines), caption))


def _range(section: Section, study: Study) -> None:
    """Rows whose inputs lie outside the range of the training data."""
    if study.train is None:
        section.marks.append(judge("range", None, "The training data were not given, so their ranges are not known."))
        return
    if not study.inputs(study.train).shape[1]:
        section.marks.append(judge("range", None, "The rows have no inputs of numbers whose range could be compared."))
        return
    outside, usual, keys, names = [], [], [], []
    for _, rows, train in study.pairs:
        trained = study.train if train is None else train
        known, new = study.inputs(trained), study.inputs(rows, trained)
        names = known.columns.tolist()
        scored = np.any([rows.observed(t) for t in rows.labels if rows.along[t] == rows.rows], axis=0)
        low, high = known.to_numpy().min(0), known.to_numpy().max(0)
        outside.append(_beyond(new.to_numpy(), low, high)[scored])
        usual.append(_usual(study, known.to_numpy(), trained, rows))
        keys.append(rows.names(rows.rows)[scored])
    where = np.concatenate(outside)
    share, chance = float(where.any(1).mean()), float(np.mean(usual))
    most = np.argsort(-where.sum(0), kind="stable")
    table = pd.DataFrame({"input": [names[j] for j in most[:20]], "outside [%]": 100 * where.mean(0)[most[:20]]})
    table = table[table["outside [%]"] > 0]
    row = plural(study.train.rows)
    if len(table):
        caption = f"Share of the {row} outside the training range, by input (up to 20)"
        section.blocks.append(Table("outside the training range", table, caption))
    named = [str(name) for name in np.concatenate(keys)[where.any(1)]]
    text = f"{percent(share)} of the {len(where):,} {row} have an input outside the training range"
    if named:
        text += f", most often {names[most[0]]}"
        section.blocks.append(f"{row[:1].upper()}{row[1:]} outside the range: {listed(named, 10)}.")
    if chance > 0:
        text += f"; by chance, {percent(chance)} of the training {row} lie outside the range of the others"
    section.numbers["share outside the training range"], section.numbers["share of the training rows"] = share, chance
    share = max(0.0, share - chance)
    section.marks.append(judge("range", 100 * share, text + "."))


def _beyond(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether inputs (N, D) lie outside ranges that are widened by 5 % on each side."""
    margin = 0.05 * (high - low)
    return (x < low - margin) | (x > high + margin)


def _usual(study: Study, known: np.ndarray, train: Batch, rows: Batch) -> float:
    """Share of the training rows outside the range of the others: of the other groups, if those scored are new."""
    codes = np.arange(len(known))
    if study.groups in train.groups and study.groups in rows.groups:
        old, new = train.group_names(study.groups), rows.group_names(study.groups)
        if not set(new.tolist()) <= set(old.tolist()):
            codes = pd.factorize(old)[0]
    if codes.max() == 0:
        return 0.0
    low = -_largest_of_others(-known, codes)
    return float(_beyond(known, low, _largest_of_others(known, codes)).any(1).mean())


def _largest_of_others(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """For every row the largest of each column over the rows of other codes, shape (N, D)."""
    own = np.full((codes.max() + 1, x.shape[1]), -np.inf)
    np.maximum.at(own, codes, x)
    first, columns = own.argmax(0), np.arange(x.shape[1])
    rest = own.copy()
    rest[first, columns] = -np.inf
    return np.where(codes[:, None] == first, rest.max(0), own[first, columns])
