"""Sections on predictions: beside simple methods, probabilities, where it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..criticism import class_scores, jackknife, scores
from ..criticism.conformal import conformal
from ..criticism.scoring import LEVELS, coverage
from ..data.batch import Batch
from ..plots.predictions import interval_coverage, predicted_vs_observed, reliability, unit_lines
from ..plots.style import BLUE, VERMILION, make_axes
from ..posterior.columns import interval_names
from .content import Picture, Section, Table
from .rules import judge
from .study import Outcome, Study
from .words import counted, listed, number, percent, plural, with_se

WORST = 10
MOST_LINES = 200  # of a table of groups
MOST_POINTS = 3000  # of a picture
MOST_CALIBRATED = 4000  # rows on which calibration is tried


def beside(study: Study) -> Section:
    """Section 2: the fit beside simple methods on the same rows.

    Args:
        study: The fit and its data.
    """
    section = Section("beside", "Beside simple methods")
    section.blocks.append(study.how)
    outcomes = study.outcomes
    train = study.train  # labels along frames count by their recordings, whose frames are not independent
    labelled = [] if train is None else [_labels(train, o.target) for o in outcomes]
    scored = [o.keys.iloc[:, 0].nunique() if "frame" in o.keys else len(o.truth) for o in outcomes]
    fewest = min(scored + labelled)
    points = 100 * np.sqrt(0.09 / fewest)
    n_groups = min(o.keys[o.group].nunique() for o in outcomes)
    group = study.called(study.groups)
    text = f"{fewest:,} labels to learn from or to score on (the fewer), of {counted(n_groups, group)}."
    section.marks.append(judge("labels", points, text))
    if rest := _unscored(study):
        section.blocks.append(
            f"{counted(len(rest), group)} of the training data without a label that could be scored: {listed(rest)}. "
            "No number of sections 2, 3 and 7 is about them."
        )
    for rule in ("mean", "rivals", "clock"):
        found = [(o, *_against(o, rule)) for o in outcomes]
        told = [(o, t, says) for o, t, says in found if t is not None]
        if told:
            _, t, says = max(told, key=lambda one: one[1])
            section.marks.append(judge(rule, t, says))
        elif rule != "clock":
            section.marks.append(judge(rule, None, found[0][2]))
    for o in outcomes:
        section.blocks.append(_table_of_rivals(o))
    if any(o.rivals for o in outcomes):
        about = {name: rival.about for o in outcomes for name, rival in o.rivals.items()}
        text = "; ".join(f"{name}: {known}" for name, known in about.items())
        section.blocks.append(
            f"The simple methods learn from the same labels and predict the same rows: {text}. Differences are those "
            f"of the fit less the other, with standard errors that leave out one {group} at a time; "
            "below 0 the fit is better."
        )
        if "clock" not in about:
            section.blocks.append("There is no clock among them, and no latest label: the rows have no times.")
    else:
        section.blocks.append("No simple method could be trained: give the training data (train=, --train).")
    return section


def _unscored(study: Study) -> list[str]:
    """Groups of the training data none of whose labels is scored; none if those scored are new ones."""
    if study.train is None or study.groups not in study.train.groups:
        return []
    known = set(study.train.group_names(study.groups).astype(str))
    scored = {name for o in study.outcomes for name in o.groups}
    return sorted(known - scored) if scored <= known else []


def _against(o: Outcome, rule: str) -> tuple[float | None, str]:
    """Error of the fit less that of the rival the rule is about, in standard errors, and the words for it."""
    names = {"mean": ["mean"], "clock": ["clock"]}.get(rule, [n for n in o.rivals if n not in ("mean", "clock")])
    names = [name for name in names if name in o.rivals]
    if not names:
        return None, f"There is no such method beside it: {_missing(o, rule)}."
    errors = {name: float(o.score(o.point_totals(o.rivals[name].values).sum(0))) for name in names}
    best = min(errors, key=lambda name: errors[name])
    own = o.point_totals()
    difference, se = jackknife.with_error(o.score, own, o.point_totals(o.rivals[best].values))
    says = (
        f"{o.score_name} of {o.label} {number(float(o.score(own.sum(0))))}, {number(errors[best])} by {best}: "
        f"difference {with_se(difference, se)}."
    )
    if se is None:
        return None, f"{says} A single {o.group} gives no standard error."
    return difference / se if se > 0 else float(np.sign(difference)) * 99, says


def _missing(o: Outcome, rule: str) -> str:
    """Why there is no simple method of a rule."""
    if not o.rivals:
        return "give the training data (train=, --train)"
    return "the entry's own simple methods have none" if rule == "mean" else "the rows have no inputs of numbers"


def _table_of_rivals(o: Outcome) -> Table:
    own_totals, own_loss = o.point_totals(), o.loss()
    rows = []
    for name in ("this fit", *o.rivals):
        rival = o.rivals.get(name)
        totals = own_totals if rival is None else o.point_totals(rival.values)
        value, se = jackknife.with_error(o.score, totals)
        row: dict[str, Any] = {"method": name, o.score_name: value, f"{o.score_name}_se": se}
        if rival is not None:
            difference, error = jackknife.with_error(o.score, own_totals, totals)
            row |= {"difference": difference, "difference_se": error}
        loss = own_loss if rival is None else o.loss(rival)
        if loss is not None:
            row[o.loss_name] = float(loss.mean())
            if rival is not None and own_loss is not None:
                difference, error = jackknife.with_error(jackknife.mean_of, jackknife.totals(own_loss - loss, o.groups))
                row |= {f"difference in {o.loss_name}": difference, f"difference in {o.loss_name}_se": error}
        rows.append(row)
    caption = f"{o.label}: {counted(len(o.truth), o.row)} of {counted(o.keys[o.group].nunique(), o.group)}"
    return Table(f"rivals of {o.name}", pd.DataFrame(rows), caption)


# -------------------------------------------------------------------- probabilities
def probabilities_of(study: Study) -> Section:
    """Section 3: intervals, PIT and reliability, by group, and before and after calibration.

    Args:
        study: The fit and its data.
    """
    section = Section("probabilities", "Probabilities")
    found = [_calibration(section, study, o) for o in study.outcomes]
    told = [one for one in found if one[0] is not None]
    section.marks.append(judge("coverage", *max(told, key=lambda one: one[0] or 0.0) if told else found[0]))
    return section


def _calibration(section: Section, study: Study, o: Outcome) -> tuple[float | None, str]:
    return _of_classes(section, o) if o.classes else _of_numbers(section, study, o)


def _of_classes(section: Section, o: Outcome) -> tuple[float | None, str]:
    assert o.p is not None
    confidence, right = o.p.max(1), o.p.argmax(1) == o.truth
    gap, se = jackknife.with_error(jackknife.mean_of, jackknife.totals(confidence - right, o.groups))
    names = np.array(o.classes)
    table = class_scores.reliability(names[o.truth.astype(int)], o.p, o.classes)
    names_of = {"bin": "confidence up to", "confidence": "mean confidence", "lower": "accuracy from", "upper": "to"}
    shown = table.reset_index().rename(columns=names_of | {"count": plural(o.row)})
    caption = f"{o.label}: accuracy by confidence, with a 90 % interval that takes {plural(o.row)} for independent"
    section.blocks.append(Table(f"reliability of {o.name}", shown, caption))
    picture = reliability({"this fit": table}).figure
    section.blocks.append(
        Picture(f"reliability of {o.name}", {"": picture}, f"Accuracy of {o.label} against predicted probability.")
    )
    section.blocks.append(_by_group(o, {"accuracy": right, "confidence": confidence, "log loss": o.loss()}))
    word = "surer" if gap > 0 else "less sure"
    says = f"{o.label}: mean confidence {percent(confidence.mean())}, accuracy {percent(right.mean())}: "
    says += f"{word} than right by {with_se(100 * abs(gap), None if se is None else 100 * se)} points."
    return 100 * max(0.0, abs(gap) - 2 * (se or 0.0)), says


def _of_numbers(section: Section, study: Study, o: Outcome) -> tuple[float | None, str]:
    rows, worst = [], (-1.0, "")
    for level in LEVELS:
        inside = o.inside(level)
        value, se = jackknife.with_error(jackknife.mean_of, jackknife.totals(inside, o.groups))
        low, high = (o.table[end].to_numpy() for end in _ends(level))
        row: dict[str, Any] = {
            "interval": f"{level} %",
            "inside [%]": 100 * value,
            "inside [%]_se": None if se is None else 100 * se,
            "mean width": float((high - low).mean()),
        }
        for name, rival in o.rivals.items():
            if rival.residuals is not None:
                row[f"inside, {name} [%]"] = 100 * float(o.inside(level, rival).mean())
        rows.append(row)
        away = 100 * max(0.0, abs(value - level / 100) - 2 * (se or 0.0))
        if away > worst[0]:
            worst = (away, f"The {level} % intervals of {o.label} hold {_share(value, se)} of the {plural(o.row)}.")
    caption = (
        f"{o.label}: share of the {plural(o.row)} in the intervals; those of simple methods are quantiles of their"
    )
    caption += " residuals"
    section.blocks.append(Table(f"coverage of {o.name}", pd.DataFrame(rows), caption))
    lines = {"this fit": _nominal(rows)} | _calibrated(section, study, o)
    parts = {"coverage": interval_coverage(lines).figure}
    if o.draws is not None:
        parts["PIT"] = _pit(section, o)
    alt = f"Share of {o.label} inside the intervals against what they promise, and the histogram of PIT values."
    caption = "PIT, by the list: a U shape says too sure, a hump too unsure." if len(parts) > 1 else ""
    section.blocks.append(Picture(f"calibration of {o.name}", parts, alt, caption))
    shares: dict[str, np.ndarray | None] = {f"inside {level} %": o.inside(level) for level in LEVELS}
    section.blocks.append(_by_group(o, shares | {"CRPS": o.loss()}))
    return worst


def _ends(level: int) -> list[str]:
    return list(interval_names(level / 100))


def _share(value: float, se: float | None) -> str:
    return f"{with_se(100 * value, None if se is None else 100 * se)} %"


def _nominal(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"nominal": [level / 100 for level in LEVELS], "empirical": [row["inside [%]"] / 100 for row in rows]}
    )


def _calibrated(section: Section, study: Study, o: Outcome) -> dict[str, pd.DataFrame]:
    """Coverage without the law of a cross-fit, or after calibration on half of the scored rows, for the picture."""
    fit, rows, _ = study.pairs[0]
    try:
        if fit.law is not None:
            before = [
                coverage(dataclasses.replace(one, law=None), r, target=o.target, draws=study.draws, seed=study.seed)
                for one, r, _ in study.pairs
            ]
            columns = ["nominal", "empirical", *(["width"] if "width" in before[0] else [])]
            name = "before its correction"
            table = pd.concat(before)[columns].groupby("nominal", as_index=False).mean()
            caption = f"{o.label}: the model's own intervals, before the correction on held-out labels"
        elif len(study.pairs) == 1:
            seen = rows.subset(_spaced(np.flatnonzero(rows.observed(o.target)), MOST_CALIBRATED))
            by = o.group if o.group in rows.groups and rows.sizes[o.group] > 3 else rows.rows
            one, other = seen.split(0.5, by=by, seed=study.seed)
            options: dict[str, Any] = {
                "target": o.target,
                "level": [level / 100 for level in LEVELS],
                "seed": study.seed,
            }
            table = conformal(fit, one, draws=min(study.draws, 100), **options).coverage(other)
            table = table[table["component"] == o.name][["nominal", "empirical", "width"]]
            name = "calibrated on half of the rows"
            of = f"{MOST_CALIBRATED:,} of these rows" if len(o.truth) > MOST_CALIBRATED else "these rows"
            caption = f"{o.label}: calibrated on half of {of} (zoo.conformal), scored on the others"
        else:
            return {}
    except (ValueError, KeyError) as error:
        section.problems.append(f"No calibration of {o.label} beside it: {error}")
        return {}
    shown = table.rename(columns={"nominal": "interval", "empirical": "inside [%]", "width": "mean width"})
    shown["interval"] = [f"{round(100 * level)} %" for level in table["nominal"]]
    shown["inside [%]"] *= 100
    section.blocks.append(Table(f"calibration of {o.name}", shown, caption))
    return {name: table}


def _labels(train: Batch, target: str) -> int:
    """Number of labels of a target, of several components those of the rarest."""
    rows = int(train[train.labels[target]].sum())
    return min(rows, int(train.known(target).reshape(len(train[target]), -1).sum(0).min()))


def _spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def _pit(section: Section, o: Outcome) -> Any:
    values = scores.pit(o.truth, o.draws)
    counts, edges = np.histogram(values, bins=10, range=(0, 1))
    ax = make_axes(None, (5.4, 3.6))
    ax.bar(edges[:-1], counts / len(values), width=0.1, align="edge", color=BLUE, edgecolor="white")
    ax.axhline(0.1, color=VERMILION, ls="--", lw=1.2, label="as promised")
    ax.set(xlabel=f"share of predictive draws below the observed {o.label} (PIT)", ylabel="share of rows", xlim=(0, 1))
    ax.legend()
    section.numbers[f"PIT of {o.name}, shares of rows in tenths"] = (counts / len(values)).tolist()
    return ax.figure


def _by_group(o: Outcome, columns: dict[str, np.ndarray | None]) -> Table:
    known = {name: np.asarray(values, dtype=float) for name, values in columns.items() if values is not None}
    frame = pd.DataFrame({o.group: o.groups, **known}).groupby(o.group, sort=True)
    table = frame.mean().assign(**{plural(o.row): frame.size()}).reset_index()
    shown = table.iloc[_spaced(np.arange(len(table)), MOST_LINES)]
    thinned = f"; {len(shown)} of {len(table):,}, evenly spaced" if len(shown) < len(table) else ""
    return Table(f"by {o.group}, {o.name}", shown, f"{o.label} by {o.group}{thinned}")


# -------------------------------------------------------------------- where it fails
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
    rows = _spaced(np.arange(len(table)), MOST_POINTS)
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
        rows, longest = _spaced(whole, MOST_POINTS), max(longest, len(whole))
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
        kept = _spaced(rows[np.asarray(order)], MOST_POINTS)
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
        known, new = study.inputs(study.train if train is None else train), study.inputs(rows)
        names = known.columns.tolist()
        scored = np.any([rows.observed(t) for t in rows.labels if rows.along[t] == rows.rows], axis=0)
        low, high = known.to_numpy().min(0), known.to_numpy().max(0)
        outside.append(_beyond(new.to_numpy(), low, high)[scored])
        usual.append(_usual(study, known.to_numpy(), study.train if train is None else train, rows))
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
