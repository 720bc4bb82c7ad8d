"""Sections on the model and its posterior: predictive checks, training and guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..criticism.importance import BAD, GLOBAL, khat
from ..criticism.ppc import ppc
from ..criticism.sbc import rank_p_value, sbc
from ..criticism.sensitivity import prior_sensitivity
from ..data.batch import Batch
from ..data.build import FRAMES
from ..files import one_line
from ..inference.fitted import Fit, Run
from ..plots.checks import khat as khat_plot
from ..plots.training import elbo_curves
from ..posterior.columns import column, components, is_discrete, probabilities
from ..posterior.predicting import predict_with_draws
from .content import Picture, Section, Table
from .rules import judge
from .study import Study, guide_of
from .words import listed, number, percent, plural, with_se

MOST_ROWS = 1000  # of checks whose cost is draws times rows
MOST_NUMBERS = 500_000  # in these rows together
MOST_GROUPS = 10  # whose Pareto k needs the rows integrated out
MOST_SITES = 4
MANY = 40  # components of a site that are named one by one
EXTREME = 0.005


def some_rows(data: Batch, most: int = MOST_ROWS) -> Batch:
    """The data, or evenly spaced rows of them as a data set of their own: fewer where a row holds a long signal.

    Args:
        data: The data.
        most: Largest number of rows.
    """
    per_row = sum(t.numel() for k, t in data.tensors.items() if data.along[k] in (data.rows, FRAMES)) / data.n_rows
    most = int(min(most, max(50, MOST_NUMBERS / per_row)))
    if data.n_rows <= most:
        return data
    return data.subset(np.unique(np.linspace(0, data.n_rows - 1, most).astype(int)))


def left_out(part: Batch, data: Batch) -> str:
    """What a caption says of rows that were left out."""
    return (
        "" if part.n_rows == data.n_rows else f"; {part.n_rows:,} of {data.n_rows:,} {plural(data.rows)}, evenly spaced"
    )


# -------------------------------------------------------------------- predictive checks
def data_like_these(study: Study) -> Section:
    """Section 4: predictive checks by site, and what fails in words.

    Args:
        study: The fit and its data.
    """
    section = Section("ppc", "Does the model make data like these?")
    data = study.data
    if data is None:
        raise ValueError("neither training nor test data were given, so there is nothing to compare with")
    part = some_rows(data)
    table = ppc(study.fit, part, draws=min(study.draws, 100), seed=study.seed).drop(columns="model")
    if table.empty:
        raise ValueError("the model has no observed site whose statistics could be compared")
    table["fails"] = (table["p"] < EXTREME) | (table["p"] > 1 - EXTREME)
    failed, share = table[table["fails"]], float(table["fails"].mean())
    of = "training" if study.train is not None else "test"
    rows = f"{part.n_rows:,}" if part.n_rows == data.n_rows else f"{part.n_rows:,} of {data.n_rows:,}"
    section.blocks.append(
        f"Data drawn from the model, given the posterior of the latents, beside the {of} data ({rows} "
        f"{plural(data.rows)}): {len(failed):,} of {len(table):,} statistics fail."
    )
    sizes = table.groupby("site")["component"].nunique()
    long = {site for site, size in sizes.items() if size > MANY}
    if len(failed):
        for line in _far_away(failed[~failed["site"].isin(long)], table).head(8).to_dict("records"):
            section.blocks.append(_in_words(line, study))
        for (site, statistic), own in failed[failed["site"].isin(long)].groupby(["site", "statistic"], sort=False):
            section.blocks.append(_in_number(str(site), str(statistic), own, sizes[site]))
    shown = table.sort_values("fails", ascending=False, kind="stable").head(100)
    most = " (the first 100)" if len(shown) < len(table) else ""
    section.blocks.append(
        Table("ppc", shown, f"Statistics of the data and of replications{most}; p near 0 or 1 is a misfit")
    )
    text = f"{len(failed):,} of {len(table):,} statistics fail ({percent(share)})"
    own = failed["site"].isin(study.inputs_of_table)
    sites = list(dict.fromkeys([*failed[own]["component"].astype(str), *map(study.label, failed[~own]["site"])]))
    section.marks.append(judge("ppc", 100 * share, text + (f", of {listed(sites)}." if sites else ".")))
    return section


def _far_away(failed: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The lines that fail, those first whose replications are farthest, in sds of the observed values."""
    sd = table[table["statistic"] == "sd"].set_index(["site", "component"])["observed"]
    scale = [sd.get((line.site, line.component)) for line in failed.itertuples()]
    scale = pd.Series(scale, index=failed.index, dtype=float).fillna(1.0)
    away = (failed["replicated"] - failed["observed"]).abs() / scale.where(scale > 0, 1.0)
    return failed.loc[away.sort_values(ascending=False).index]


WHAT = {
    "sd": "standard deviations", "mean": "means", "min": "minima", "max": "maxima", "lag-1 sd": "steps from row to row",
}  # fmt: skip


def _in_words(line: dict[str, Any], study: Study) -> str:
    """A sentence on a statistic that fails."""
    name, part = study.label(line["site"]), str(line["component"])
    if line["site"] in study.inputs_of_table:
        name = part  # the component is a column of the user's table
    elif part not in ("all", name, "0", line["site"]):
        name = f"{name} ({part})"
    observed, replicated = float(line["observed"]), float(line["replicated"])
    if line["statistic"] in ("sd", "lag-1 sd") and observed > 0:
        ratio = replicated / observed - 1
        size = f"{percent(abs(ratio))} too {'large' if ratio > 0 else 'small'}"
    elif line["statistic"] in ("share", "changes"):
        word = "often" if replicated > observed else "rarely"
        does = "changes from row to row" if line["statistic"] == "changes" else "occurs"
        found = f"{percent(replicated)} of the rows, observed {percent(observed)}"
        return f"{name} {does} too {word} in replications: {found}."
    else:
        size = f"too {'large' if replicated > observed else 'small'}: {number(replicated)} for {number(observed)}"
    return f"Replicated {WHAT[line['statistic']]} of {name} are {size}."


def _in_number(site: str, statistic: str, failed: pd.DataFrame, size: int) -> str:
    """A sentence on a statistic that fails in some of the many numbers of a row."""
    large = int((failed["replicated"] > failed["observed"]).sum())
    small = len(failed) - large
    parts = [f"too {word} in {n:,}" for word, n in (("small", small), ("large", large)) if n]
    return f"Replicated {WHAT[statistic]} of {site} are {' and '.join(parts)} of its {size:,} numbers per row."


# -------------------------------------------------------------------- the posterior
def posterior_right(study: Study) -> Section:
    """Section 5: training, restarts, Pareto k, prior sensitivity and, if asked for, calibration by simulation.

    Args:
        study: The fit and its data.
    """
    section = Section("posterior", "Is the posterior right?")
    parts: list[tuple[str, Callable[[Section, Study], None]]] = [
        ("training", _training), ("restarts", _restarts), ("khat", _khat), ("prior", _prior),
    ]  # fmt: skip
    for rule, part in parts:
        try:
            part(section, study)
        except Exception as error:  # one check that cannot be made leaves the others
            reason = one_line(error)
            section.problems.append(reason)
            section.marks.append(judge(rule, None, f"Could not be told: {reason}"))
    if study.slow:
        try:
            _sbc(section, study)
        except Exception as error:
            section.problems.append(f"simulation-based calibration: {one_line(error)}")
    return section


def _training(section: Section, study: Study) -> None:
    runs = study.fit.runs
    if all(run.status == "solved" for run in runs):
        section.marks.append(judge("training", 0.0, "The guide was solved in closed form."))
        return
    if bad := [run.status for run in runs if run.status in ("interrupted", "failed")]:
        section.marks.append(judge("training", float("inf"), f"A restart was {bad[0]}."))
        return
    size = _numbers_per_row(study)
    found = [_rise(run) for run in runs]
    told = [one for one in found if one is not None]
    picture = elbo_curves({f"restart {i}": run.history for i, run in enumerate(runs)}).figure
    section.blocks.append(Picture("elbo", {"": picture}, "ELBO over training, one line per restart."))
    if not told:
        section.marks.append(judge("training", None, "The history is too short to see whether the ELBO still rises."))
        return
    gain, error = max(told)
    rise = max(0.0, gain - 2 * error) / size
    text = f"The ELBO rose by {with_se(gain / size, error / size)} nats per observed number"
    section.marks.append(judge("training", rise, f"{text} in the last fifth."))


def _numbers_per_row(study: Study) -> float:
    """How many numbers a row observes, as the prototype shows: the sizes of the observed sites' tensors."""
    like = study.fit.prototype
    names = [k for k, t in like.tensors.items() if t.is_floating_point() and like.along[k] in (like.rows, "frame")]
    observed = [name for name in names if name in _observed_sites(study.fit)]
    return float(max(1, sum(like.tensors[name].numel() for name in observed)))


def _observed_sites(fit: Fit) -> set[str]:
    card_of = fit.model.entry
    known = {*fit.model.targets}
    if card_of:
        from ..modeling import registry

        sites = registry.card(card_of[0]).sites.get(card_of[1], {})
        known |= {name for name, site in sites.items() if site.kind in ("observed", "partly observed")}
    return known


def _rise(run: Run) -> tuple[float, float] | None:
    """Rise of the ELBO from the fourth to the last fifth of the training at full weight, and its standard error."""
    history = run.history[run.history.get("beta", pd.Series(1.0, run.history.index)) >= 1.0]
    elbo = history["elbo"].to_numpy()
    if len(elbo) < 10 or not np.isfinite(elbo).all():
        return None
    n = len(elbo) // 5
    before, last = elbo[-2 * n : -n], elbo[-n:]
    # Noise from epoch to epoch, without the trend.
    noise = np.diff(elbo[-2 * n :]).std() / np.sqrt(2)
    return float(last.mean() - before.mean()), float(noise * np.sqrt(2 / n))


def _restarts(section: Section, study: Study) -> None:
    fit = study.fit
    chosen = [place for place, _ in fit.chosen(None)]
    if len(chosen) < 2:
        text = "There is one restart, with nothing to compare it with: fit with restarts=4."
        section.marks.append(judge("restarts", None, text))
        return
    if not fit.model.targets:
        raise ValueError("the model predicts nothing in which restarts could be compared")
    data = study.test if study.test is not None else study.train
    if data is None:
        raise ValueError("no data were given on which restarts could be compared")
    rows = some_rows(data)
    tables = [
        predict_with_draws(fit, rows, draws=min(study.draws, 100), seed=study.seed, quantiles=(), restart=place)[0]
        for place in chosen[:4]
    ]
    lines = []
    for target in fit.model.targets:
        if is_discrete(tables[0], target):
            shares = np.stack([probabilities(table, target) for table in tables])
            away = [np.abs(a - b).sum(1).mean() / 2 for a, b in _couples(list(shares))]
            lines.append({"target": study.label(target), "distance": float(np.mean(away))})
            continue
        for name in components(tables[0], target):
            means = [table[column(name, "mean")].to_numpy() for table in tables]
            sd = np.mean([table[column(name, "sd")].to_numpy() for table in tables], axis=0)
            away = [np.sqrt((((a - b) / sd) ** 2).mean()) for a, b in _couples(means)]
            lines.append({"target": study.label(name), "distance": float(np.mean(away))})
    table = pd.DataFrame(lines)
    caption = "Distance of two restarts' predictions, in predictive sds (of classes: of probabilities)"
    section.blocks.append(Table("restarts", table, caption + left_out(rows, data)))
    worst = table.loc[table["distance"].idxmax()]
    text = f"Predictions of {worst['target']} by {len(tables)} restarts differ by {number(worst['distance'])} sd."
    section.marks.append(judge("restarts", float(worst["distance"]), text))


def _couples(values: list[Any]) -> list[tuple[Any, Any]]:
    return [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]


def _khat(section: Section, study: Study) -> None:
    if study.train is None:
        raise ValueError("k-hat is about the training data, which were not given")
    fit, data = study.fit, study.train
    if fit.model.cut:
        raise ValueError(f"the posterior of {type(fit.model).__name__} is cut, and k-hat is about the joint one")
    found: dict[str, pd.Series] = {}
    reasons: list[str] = []
    for per in (data.rows, *(group for group in data.groups if group in fit.model.plate_dims), GLOBAL):
        if per == GLOBAL and found:
            continue
        names = None
        if per != GLOBAL:
            names, most = data.names(per), MOST_ROWS if per == data.rows else MOST_GROUPS
            names = None if len(names) <= most else names[np.linspace(0, len(names) - 1, most).astype(int)]
        try:
            found[per] = khat(fit, data, per=per, only=names, draws=max(25, min(study.draws, 200)), seed=study.seed)
        except (ValueError, KeyError) as error:
            reasons.append(f"Pareto k per {per}: {one_line(error)}")
    if not found:
        raise ValueError("; ".join(reasons) or "the guide samples nothing")
    section.problems += [reason for reason in reasons if "global" not in reason and "samples no" not in reason]
    rows, parts = [], {}
    for per, k in found.items():
        told = k.dropna()
        # Where most could not be told, the others are no sample of them.
        bad = float((told > BAD).mean()) if len(told) >= len(k) / 2 else float("nan")
        rows.append(
            {
                "per": study.called(per), "latents": ", ".join(map(str, k.attrs["latents"])), "looked at": len(k),
                "median k": float(told.replace(-np.inf, np.nan).median()), "above 0.7": bad,
                "could not be told": float(k.isna().mean()),
            }
        )  # fmt: skip
        if len(told) > 1:
            parts[f"per {study.called(per)}"] = khat_plot(k).figure
    table = pd.DataFrame(rows)
    caption = "Pareto k of the guide: up to 0.7 its draws can stand for the posterior; an exact guide has none"
    section.blocks.append(Table("khat", table, caption))
    if parts:
        section.blocks.append(Picture("khat", parts, "Pareto k, sorted, with the limits 0.5 and 0.7."))
    known = table.dropna(subset="above 0.7")
    if known.empty:
        section.marks.append(
            judge(
                "khat",
                None,
                "Most Pareto k could not be told: the guide is a point, its rows are noisy, or draws are few.",
            )
        )
        return
    worst = known.loc[known["above 0.7"].idxmax()]
    text = f"Per {worst['per']}, {percent(worst['above 0.7'])} of the Pareto k are above 0.7"
    if worst["could not be told"] > 0:
        text += f"; {percent(worst['could not be told'])} could not be told"
    section.marks.append(judge("khat", 100 * float(worst["above 0.7"]), text + "."))


def _prior(section: Section, study: Study) -> None:
    fit, data = study.fit, study.data
    if data is None:
        raise ValueError("no data were given")
    if hasattr(fit.model, "predict"):
        raise ValueError(f"{type(fit.model).__name__} predicts by itself, so that no draw of a latent has a prediction")
    sites = [s for s in fit.model.priors() if s not in (*fit.model.enumerated, *fit.model.row_sites)][:MOST_SITES]
    if not sites:
        raise ValueError("the model has no prior outside the rows")
    part, lines, reasons = some_rows(data, 500), [], []
    for site in sites:
        try:
            found = prior_sensitivity(fit, part, site, draws=max(100, study.draws), seed=study.seed, progress=False)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            reasons.append(f"prior of {site}: {one_line(error)}")
            continue
        moved = found.predictions
        good = moved[moved["reliable"].astype(bool) & np.isfinite(moved["shift_sd"])] if len(moved) else moved
        shift = float(np.sqrt((good["shift_sd"] ** 2).mean())) if len(good) else float("nan")
        reliable = float(moved["reliable"].mean()) if len(moved) else float("nan")
        index = float(np.nanmax(found.index.to_numpy())) if found.index.size else float("nan")
        lines.append(
            {"prior of": site, "shift of predictions": shift, "reliable": reliable, "sensitivity index": index}
        )
    section.problems += reasons
    if not lines:
        raise ValueError("; ".join(reasons))
    table = pd.DataFrame(lines)
    caption = "Predictions when the prior's power is halved or doubled, root mean square, in predictive sds"
    section.blocks.append(Table("prior", table, caption + left_out(part, data)))
    known = table.dropna(subset="shift of predictions")
    if known.empty:
        section.marks.append(
            judge("prior", None, "The draws of the guide do not reach where another prior would lead.")
        )
        return
    worst = known.loc[known["shift of predictions"].idxmax()]
    text = f"The prior of {worst['prior of']} moves predictions by {number(worst['shift of predictions'])} sd."
    section.marks.append(judge("prior", float(worst["shift of predictions"]), text))


def _sbc(section: Section, study: Study) -> None:
    if study.train is None:
        raise ValueError("it needs the layout of the training data, which were not given")
    site = next(iter(study.fit.model.priors()), None)
    if site is None:
        raise ValueError("the model has no prior outside the rows")
    ranks = sbc(study.fit.model, guide_of(study.fit), study.train, site, seed=study.seed, **study.settings)
    p = rank_p_value(ranks["rank"], 99)
    counts, _ = np.histogram(ranks["rank"], bins=np.linspace(0, 100, 11))
    table = pd.DataFrame({"ranks": [f"{10 * i} to {10 * i + 9}" for i in range(10)], "count": counts})
    section.numbers[f"p of the ranks of {site}"] = p
    section.blocks.append(
        f"Simulation-based calibration of {site}: were the guide the posterior, its ranks would be uniform; a "
        f"chi-squared test of that has p = {number(p)}."
    )
    section.blocks.append(
        Table("sbc", table, f"Ranks of the true {site} among 99 draws of a guide fitted to simulated data")
    )
