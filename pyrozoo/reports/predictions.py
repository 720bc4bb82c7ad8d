"""Sections on predictions: beside simple methods, probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ..criticism import class_scores, jackknife, scores
from ..criticism.conformal import conformal
from ..criticism.scoring import LEVELS, coverage
from ..data.batch import Batch
from ..plots.predictions import interval_coverage, reliability
from ..plots.style import BLUE, VERMILION, make_axes
from ..posterior.columns import interval_names
from .content import Picture, Section, Table
from .rules import judge
from .study import Outcome, Study
from .words import counted, listed, number, percent, plural, with_se

MOST_LINES = 200  # of a table of groups
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
    found = [_of_classes(section, o) if o.classes else _of_numbers(section, study, o) for o in study.outcomes]
    told = [one for one in found if one[0] is not None]
    section.marks.append(judge("coverage", *max(told, key=lambda one: one[0] or 0.0) if told else found[0]))
    return section


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
            seen = rows.subset(spaced(np.flatnonzero(rows.observed(o.target)), MOST_CALIBRATED))
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


def spaced(rows: np.ndarray, most: int) -> np.ndarray:
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
    shown = table.iloc[spaced(np.arange(len(table)), MOST_LINES)]
    thinned = f"; {len(shown)} of {len(table):,}, evenly spaced" if len(shown) < len(table) else ""
    return Table(f"by {o.group}, {o.name}", shown, f"{o.label} by {o.group}{thinned}")
