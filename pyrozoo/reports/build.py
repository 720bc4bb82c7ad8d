"""report(): one page that says whether to use a fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm

from ..data.batch import Batch
from ..files import check_target, one_line
from ..inference.fitted import Fit
from . import facts, failures, latents, posterior, predictions
from .content import Section
from .result import Report
from .rules import MARKS, RULES, judge
from .study import Study
from .words import counted

RULES_OF = {
    "beside": ("labels", "mean", "rivals"),
    "probabilities": ("coverage",),
    "ppc": ("ppc",),
    "posterior": ("training", "restarts", "khat", "prior"),
    "failures": ("range",),
}


def report(
    fit: Fit,
    train: Batch | None = None,
    test: Batch | None = None,
    *,
    out: str | Path | None = "report.html",
    folds: int = 5,
    draws: int = 200,
    seed: int = 0,
    slow: bool = False,
    progress: bool = True,
    run: str | None = None,
) -> Report:
    """Write a page that says whether to use a fit: a verdict with its rules, and all that is behind it.

    Its sections: verdict; beside simple methods; probabilities; does the model make data like these; is the posterior
    right; what the latents say; where it fails; what was done. A section that cannot be made says why. `docs/report.md`
    has the rules of the verdict.

    Args:
        fit: The fit.
        train: Its training data; by default those it holds, which a loaded fit does not. Without them, what needs them
            says so.
        test: Rows with labels that the fit has not seen. Without them, `folds` further fits score the labels of `train`
            that each has not seen, held out as the entry's card says.
        out: File of the page; the same content lies beside it as JSON. None writes nothing.
        folds: Number of these fits.
        draws: Number of draws of the latents.
        seed: Random seed for everything.
        slow: Whether to add simulation-based calibration, which fits twenty times more.
        progress: Whether to show progress.
        run: Folder of the saved fit, for the commands on the page.

    Returns:
        The report: ``verdict``, ``tables``, ``figures``, ``as_json()``.

    Raises:
        ValueError: `train` is not what the fit was trained on.
        TypeError: `train` or `test` is no Batch.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=5, n_unlabelled=5, n_test=10)
        >>> model = zoo.create_model("ssmtl", train, width=8)
        >>> fit = zoo.fit(model, "paper", train, steps=10, progress=False)
        >>> page = zoo.report(fit, train, test, out=None, draws=30, progress=False)
        >>> page.verdict.loc["restarts", "mark"]  # there is but one
        'look'
        >>> "rivals of y" in page.tables
        True
    """
    for name, data in (("train", train), ("test", test)):
        if data is not None and not isinstance(data, Batch):
            raise TypeError(f"{name}: a {type(data).__name__}; give a Batch")
    train = fit.train if train is None else train
    if train is not None and train.sha256 != fit.data["sha256"]:
        raise ValueError("train: not the data that this fit was trained on (their sha256 differs); pass those, or none")
    if out is not None:
        check_target(out)
    study = Study(fit, train, test, folds=folds, draws=draws, seed=seed, slow=slow, progress=progress)
    makers: list[tuple[str, str, Callable[[], Section]]] = [
        ("beside", "Beside simple methods", lambda: predictions.beside(study)),
        ("probabilities", "Probabilities", lambda: predictions.probabilities_of(study)),
        ("ppc", "Does the model make data like these?", lambda: posterior.data_like_these(study)),
        ("posterior", "Is the posterior right?", lambda: posterior.posterior_right(study)),
        ("latents", "What the latents say", lambda: latents.latents(study)),
        ("failures", "Where it fails", lambda: failures.failures(study)),
        *_of_entry(study),
        ("done", "What was done", lambda: facts.what_was_done(study, run)),
    ]
    sections = []
    for key, title, make in tqdm(makers, desc="report", unit="section", disable=not progress):
        sections.append(_made(key, title, make))
    marks = {mark.rule: mark for section in sections for mark in section.marks}
    verdict = Section(
        "verdict",
        "Verdict",
        marks=sorted((marks[name] for name in RULES if name in marks), key=lambda mark: -MARKS.index(mark.mark)),
    )  # the worst first, those alike in the order of the table
    verdict.blocks.append(study.how)
    found = Report(f"{fit.data['name']}, by {type(fit.model).__name__}", _about(study), [verdict, *sections])
    if out is not None:
        found.save(out)
    return found


def _about(study: Study) -> str:
    fit = study.fit
    kind = "Simulated data. " if fit.data["simulated"] else ""
    plates = (*fit.prototype.groups, fit.prototype.rows)
    sizes = ", ".join(counted(n, study.called(name)) for name, n in study.sizes.items() if name in plates)
    return f"{kind}Fitted to {sizes}, with the guide {fit.guide_name}."


def _of_entry(study: Study) -> list[tuple[str, str, Callable[[], Section]]]:
    """Sections that the entry adds: its function ``report_sections``."""
    own = getattr(study.entry, "report_sections", None)
    if own is None:
        return []
    makers = own(study.fit, study.train, study.test)
    return [(key, title, make) for key, (title, make) in makers.items()]


def _made(key: str, title: str, make: Callable[[], Section]) -> Section:
    """A section, or one that says why it could not be made."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            return make()
        except Exception as error:  # whatever fails in one section, the others are made
            reason = one_line(error)
            section = Section(key, title, problems=[reason])
            section.marks += [judge(rule, None, f"Could not be told: {reason}") for rule in RULES_OF.get(key, ())]
            return section
