"""The section on what was done: card, settings, data, versions, and the commands that repeat it."""

from __future__ import annotations

import importlib
import inspect
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from ..inference.settings import Settings
from ..modeling.priors import to_json
from .content import Code, Section, Table
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
    shown = {k: v for k, v in fit.settings.items() if v not in (None, False, "none", "auto") and len(str(v)) < 120}
    facts["settings"] = ", ".join(f"{k}={v}" for k, v in shown.items())
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
    section.blocks += ["The fit again, in Python:", Code(_fit_again(study))]
    section.blocks += ["This page again:", Code(_page_again(study, run))]
    if card and card.limitations:
        section.blocks.append("Limitations of this entry, from its card:")
        section.blocks += [f"• {text[:1].upper()}{text[1:]}." for text in card.limitations]
    return section


def _data(study: Study) -> dict[str, Any]:
    own = study.fit.data
    facts: dict[str, Any] = {
        "name": own["name"], "simulated": "yes" if own["simulated"] else "no",
        "sha256 of the training data": own["sha256"],
        "sizes": ", ".join(f"{study.called(name)}: {n:,}" for name, n in study.sizes.items()),
        "columns": ", ".join(f"{k}: {v}" for k, v in (own.get("columns") or {}).items()) or "–",
    }  # fmt: skip
    info = study.train.info if study.train is not None else study.fit.prototype.info
    facts |= {name: str(info.get(name, "not stated")) for name in ("source", "licence")}
    if study.test is not None:
        facts |= {"sha256 of the test data": study.test.sha256, "test rows": f"{study.test.n_rows:,}"}
    return facts


def _fit_again(study: Study) -> str:
    """Lines of Python that repeat the fit, as far as the record knows."""
    fit, model = study.fit, study.fit.model
    lines = ["import pandas as pd", "import pyrozoo as zoo", "", _reading(study)]
    if model.entry:
        name, variant = model.entry
        arguments = "".join(f", {key}={value!r}" for key, value in _given(study).items())
        lines.append(f"model = zoo.create_model({name!r}, train, variant={variant!r}{arguments})")
    else:
        lines.append(f"model = {type(model).__name__}(...)  # with the arguments above")
    if model.config.get("priors"):
        lines[-1] += "  # and with the priors above, as priors={site: ...}"
    seed, law = fit.settings.get("seed", study.seed), fit.law
    usual = inspect.signature(Settings).parameters
    settings = {k: v for k, v in study.settings.items() if v != usual[k].default}
    settings |= {"restarts": len(fit.runs), "seed": seed}
    call = "fit"
    if law is not None:
        by = str(law.facts["by"]).split(" and ")
        call = "cross_fitted"
        settings |= {
            "folds": law.facts["folds"],
            "repeats": law.facts["repeats"],
            "by": by[0] if len(by) == 1 else tuple(by),
        }
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    lines.append(f"fit = zoo.{call}(model, {fit.guide_name!r}, train{given})")
    return "\n".join(lines)


def _reading(study: Study) -> str:
    """The line that reads the training table, or says which data are meant."""
    fit = study.fit
    columns, like = fit.data.get("columns"), fit.prototype
    if not columns:
        return f"train = ...  # the data {fit.data['name']!r}, of the sha256 below"
    groups = {name: own for name, own in columns.items() if name in like.groups}
    targets = {name: own for name, own in columns.items() if name in like.labels}
    rows = {name: own for name, own in columns.items() if name not in {**groups, **targets} and own != []}
    name = fit.data.get("time")
    time = f", time={name!r}" if name else ""
    dates = f", parse_dates=[{name!r}]" if name and like.time is not None and like.time.dtype.kind == "M" else ""
    levels = f", levels={fit.data['levels']!r}" if fit.data.get("levels") else ""
    dims = {name: like.dims[name] for name in (*rows, *targets) if like.dims.get(name)}
    given = f"groups={groups!r},\n    rows={rows!r}, targets={targets!r},\n    dims={dims!r}{time}{levels}"
    return f'train = zoo.Batch.from_columns(\n    pd.read_csv("TRAIN.csv"{dates}), {given},\n)'


def _given(study: Study) -> dict[str, Any]:
    """Arguments of the model that neither the data nor its defaults decide."""
    model, like = study.fit.model, study.train if study.train is not None else study.fit.prototype
    decided = {**type(model).data_defaults, **type(model).sizes_from(like)}
    defaults = inspect.signature(type(model)).parameters
    out = {}
    for name, value in model.config.items():
        default = decided.get(name, defaults[name].default if name in defaults else None)
        if name != "priors" and repr(value) != repr(default) and len(repr(value)) < 80:
            out[name] = value
    return out


def _page_again(study: Study, run: str | None) -> str:
    if run is not None:
        test = " --test TEST.csv" if study.test is not None else ""
        return f"pyrozoo report {run} --train TRAIN.csv{test} --out report.html"
    test = ", test" if study.test is not None else ""
    return f'fit.save("run")\nzoo.report(zoo.load("run"), train{test}, out="report.html")'


def _prior_text(prior: Any) -> str:
    try:
        return str(to_json(prior))
    except (TypeError, ValueError):
        return type(prior).__name__


def _version(name: str) -> str:
    if name == "pyrozoo":  # the code that runs; what pip knows of an editable installation may be older
        return str(importlib.import_module(name).__version__)
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"


def _table(name: str, facts: dict[str, Any], caption: str) -> Table:
    return Table(name, pd.DataFrame({"what": list(facts), "value": [str(v) for v in facts.values()]}), caption)
