"""The section on what was done: card, settings, data, versions, and the commands that repeat it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from ..modeling.priors import to_json
from .content import Section, Table
from .study import Study
from .words import number

LIBRARIES = ("pyrozoo", "pyro-ppl", "torch", "numpy", "pandas", "scikit-learn")


def what_was_done(study: Study, run: str | None) -> Section:
    """Section 8: what was done, with which data, and how to repeat it.

    Args:
        study: The fit and its data.
        run: Folder of the saved fit, for the commands; None for a fit in memory.
    """
    section = Section("done", "What was done")
    fit, card, model = study.fit, study.card, study.fit.model
    facts: dict[str, Any] = {}
    if card:
        facts |= {"model": f"{card.title}, {card.authors} ({card.year})", "reference": card.reference or "–"}
        name, variant = model.entry or ("", "")
        facts["variant"] = f"{name}, version {card.version}, variant {variant}: {card.variants.get(variant, '')}"
    else:
        facts["model"] = type(model).__name__
    about = card.guides.get(fit.guide_name, "") if card else ""
    facts["guide"] = f"{fit.guide_name}: {about}" if about else fit.guide_name
    priors = {site: _prior_text(prior) for site, prior in (model.config.get("priors") or {}).items()}
    facts["priors that were swapped"] = "; ".join(f"{k} ~ {v}" for k, v in priors.items()) or "none"
    arguments = {k: v for k, v in model.config.items() if k != "priors" and len(str(v)) < 80}
    facts["arguments"] = ", ".join(f"{k}={v}" for k, v in arguments.items()) or "none"
    facts["settings"] = ", ".join(f"{k}={v}" for k, v in fit.settings.items() if v is not None and len(str(v)) < 120)
    facts["restarts"] = len(fit.runs)
    facts["seconds of training"] = number(fit.seconds)
    if fit.law is not None:
        facts["predictive law"] = (
            f"learned on {fit.law.facts.get('labels')} held-out labels, by {fit.law.facts.get('by')}"
        )
    section.blocks.append(_table("facts", facts, "The fit"))
    section.blocks.append(_table("data", _data(study), "The data"))
    versions = {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    frame = pd.DataFrame({"library": versions.keys(), "now": versions.values()})
    frame["at the fit"] = [fit.versions.get(name, "–") for name in versions]
    section.blocks.append(Table("versions", frame, f"Versions; {os.cpu_count()} processors"))
    section.blocks.append(_commands(study, run))
    if card and card.limitations:
        section.blocks.append("Limitations of this entry, from its card:")
        section.blocks += [f"• {text[:1].upper()}{text[1:]}." for text in card.limitations]
    return section


def _data(study: Study) -> dict[str, Any]:
    own = study.fit.data
    facts: dict[str, Any] = {
        "name": own["name"], "simulated": "yes" if own["simulated"] else "no",
        "sha256 of the training data": own["sha256"],
        "sizes": ", ".join(f"{name}: {n:,}" for name, n in study.sizes.items()),
        "columns": ", ".join(f"{k}: {v}" for k, v in (own.get("columns") or {}).items()) or "–",
    }  # fmt: skip
    info = study.train.info if study.train is not None else study.fit.prototype.info
    facts |= {name: str(info.get(name, "not stated")) for name in ("source", "licence")}
    if study.test is not None:
        facts |= {"sha256 of the test data": study.test.sha256, "test rows": f"{study.test.n_rows:,}"}
    return facts


def _commands(study: Study, run: str | None) -> str:
    test = " --test TEST.csv" if study.test is not None else ""
    if run is not None:
        return f"This page again: pyrozoo report {run} --train TRAIN.csv{test} --out report.html"
    return (
        'This page again, in Python: fit.save("run"); zoo.report(zoo.load("run"), train'
        + (", test" if study.test is not None else "")
        + ', out="report.html")'
    )


def _prior_text(prior: Any) -> str:
    try:
        return str(to_json(prior))
    except (TypeError, ValueError):
        return type(prior).__name__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"


def _table(name: str, facts: dict[str, Any], caption: str) -> Table:
    return Table(name, pd.DataFrame({"what": list(facts), "value": [str(v) for v in facts.values()]}), caption)
