"""The section on the latents: maps, tables, and what is unlike the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..criticism.latent import LatentReport, latent_report
from ..data.batch import Batch
from ..files import one_line
from ..modeling.hidden import public_name
from ..plots.latent import latent_map
from ..posterior.drawing import draw
from .content import Picture, Section, Table
from .posterior import MANY, MOST_ROWS, MOST_SITES, left_out, some_rows
from .study import Study
from .words import listed, plural

FAR = 4.0  # distance of a group from the others, in robust standard deviations


def latents(study: Study) -> Section:
    """Section 6: what latents say, and groups that look unlike all others.

    Args:
        study: The fit and its data.
    """
    section = Section("latents", "What the latents say")
    data = study.data
    if data is None:
        raise ValueError("neither training nor test data were given, on which the latents could be conditioned")
    names = list(dict.fromkeys((*study.fit.model.row_sites, *study.fit.model.priors())))
    model = study.fit.model
    sites = [s for s in names if s not in model.enumerated and public_name(s) not in model.targets]
    part = some_rows(data)
    lines: list[dict[str, Any]] = []
    reasons: list[str] = []
    alone: list[str] = []
    for site in sites:
        if len(lines) == MOST_SITES:
            break
        try:
            found = latent_report(study.fit, part, site, draws=20, seed=study.seed)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, TypeError) or "lies along no plate" in str(error):
                alone.append(site)
            else:
                reasons.append(f"{site}: {one_line(error)}")
            continue
        plate = str(found.means.index.name)
        lines.append(
            {"site": site, "along": study.called(plate), "positions": len(found.means), "dimensions": len(found.table),
             "active": found.active, "KL": float(found.table["kl"].sum()),
             **{f"R² of {study.called(k)}": v for k, v in found.probes.items()}}
        )  # fmt: skip
        _map(section, study, part, site, found, plate)
        if plate != part.rows:
            _unlike(section, site, found, study.called(plate))
    if alone:
        section.blocks.append(_outside_plates(study, part, alone))
    if not lines and not alone:
        raise ValueError("; ".join(reasons) or "the model has no latents")
    section.problems += reasons
    if not lines:
        return section
    caption = (
        "Latents along plates: dimensions that the data move (active), KL from the prior in nats, R² of linear probes"
    )
    section.blocks.insert(0, Table("latents", pd.DataFrame(lines), caption + left_out(part, data)))
    dead = [line["site"] for line in lines if not line["active"]]
    if dead:
        section.blocks.insert(0, f"Nothing moves {listed(dead)}: its posterior is its prior (collapse).")
    return section


def _outside_plates(study: Study, part: Batch, sites: list[str]) -> Table:
    """Posterior and prior of latents outside all plates, number by number."""
    drawn = draw(study.fit, part, draws=100, seed=study.seed, sites=sites, predictive=False, prior=True, restarts=False)
    lines = []
    for site in sites:
        own, before = (drawn.groups.get(group, {}).get(site) for group in ("posterior", "prior"))
        if own is None:
            continue
        axes = [
            drawn.coords.get(axis, range(n)) for axis, n in zip(drawn.dims.get(site, ()), own.shape[2:], strict=True)
        ]
        for place in list(np.ndindex(own.shape[2:]))[:MANY]:
            labels = ", ".join(str(axis[i]) for axis, i in zip(axes, place, strict=True))
            line: dict[str, Any] = {"latent": f"{site} ({labels})" if labels else site}
            for name, values in (("", own), ("prior ", before)):
                if values is not None:
                    one = values[(0, slice(None), *place)]
                    line |= {f"{name}mean": float(one.mean()), f"{name}sd": float(one.std())}
            lines.append(line)
    caption = f"Latents of the whole data set, outside all plates: 100 draws of each (up to {MANY} numbers per site)"
    return Table("global latents", pd.DataFrame(lines), caption)


def _map(section: Section, study: Study, part: Batch, site: str, found: LatentReport, plate: str) -> None:
    if found.means.shape[1] < 2 or len(found.means) < 3:
        return
    truth, label = _known(study, part, plate)
    labels = found.means.index.astype(str).tolist() if plate != part.rows else None
    ax = latent_map(found.means, labels=labels, truth=truth, truth_label=label, name=site)
    coloured = f", coloured by {label}" if truth is not None else ""
    section.blocks.append(
        Picture(
            f"map of {site}", {"": ax.figure}, f"Posterior means of {site}, one per {study.called(plate)}{coloured}."
        )
    )


def _known(study: Study, part: Batch, plate: str) -> tuple[Any, str]:
    """What is known of each position of a plate, to colour a map by: a target's mean, class, or the first truth."""
    for name, values in part.truth.items():
        if part.along.get(name) == plate and values.ndim == 1 and len(values) == len(part.names(plate)):
            return values, study.label(name)
    for target in part.labels:
        if part.along[target] != part.rows:
            continue
        seen = part.known(target).reshape(part.n_rows, -1)[:, 0]
        if not seen.any():
            continue
        values = part[target].detach().cpu().numpy().reshape(part.n_rows, -1)[:, 0].astype(float)
        known = part.coords.get(f"{target}_class")
        if plate == part.rows:
            if known is not None:
                names = np.array([*map(str, known), "unknown"])
                return names[np.where(seen, values, len(known)).astype(int)], study.label(target)
            if seen.all():
                return values, study.label(target)
            continue
        if plate in part.groups and known is None:
            own = pd.Series(values[seen]).groupby(part[plate].cpu().numpy()[seen]).mean()
            means = own.reindex(range(part.sizes[plate]))
            if means.notna().all():
                return means.to_numpy(), f"mean {study.label(target)}"
    return None, ""


def _unlike(section: Section, site: str, found: LatentReport, plate: str) -> None:
    """Positions whose nearest neighbour is far, in robust standard deviations of that distance."""
    means = found.means.to_numpy()
    if not 5 <= len(means) <= MOST_ROWS:
        return
    scaled = (means - means.mean(0)) / np.where(means.std(0) > 0, means.std(0), 1.0)
    away = np.sqrt(((scaled[:, None] - scaled[None]) ** 2).sum(-1))
    np.fill_diagonal(away, np.inf)
    nearest = away.min(1)
    middle = np.median(nearest)
    spread = 1.4826 * np.median(np.abs(nearest - middle)) or 1.0
    score = (nearest - middle) / spread
    order = np.argsort(-score)[:5]
    table = pd.DataFrame({plate: found.means.index.astype(str)[order], "distance": score[order]})
    caption = (
        f"{site}: the {plural(plate)} farthest from their nearest neighbour, in robust sds above the usual distance"
    )
    section.blocks.append(Table(f"unlike others, {site}", table, caption))
    far = [str(found.means.index[i]) for i in np.argsort(-score) if score[i] > FAR]
    if far:
        section.blocks.append(f"Unlike all others by {site}: {plate} {listed(far)}.")
