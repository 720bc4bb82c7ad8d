"""The contract that every registered model and guide passes: ``python -m pyrozoo check NAME``.

`CHECKS` is the contract, `check` runs it on an entry, and `subjects` lists the variants, guides and priors of an entry
that are checked, `representatives` a few of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..modeling import registry
from . import densities, fits, inference, sites, targets
from .explaining import explained, particles
from .subject import Skipped, Subject, representatives, subjects

__all__ = [
    "CHECKS", "Check", "Result", "Skipped", "Subject", "check", "label", "representatives", "scoped", "subjects",
]  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One clause of the contract.

    Attributes:
        code: Code of the clause, C1 to C22.
        statement: Statement that must hold.
        run: Function of a subject that raises AssertionError with what to fix, or `Skipped` with the reason why the
            clause does not apply.
        scope: Unit that is checked once: "entry", "variant", "guide" (a variant and guide, with the default
            prior) or "subject" (a variant, guide and prior).
        slow: Whether the check takes minutes.

    Example:
        >>> import pyrozoo as zoo
        >>> clause = zoo.contract.CHECKS["C5"]
        >>> clause.statement
        'the weighted mean over minibatches equals the full-batch ELBO'
    """

    code: str
    statement: str
    run: Callable[[Subject], None]
    scope: str = "subject"
    slow: bool = False


@dataclass(frozen=True)
class Result:
    """Outcome of one check.

    Attributes:
        code: Code of the clause.
        subject: Subject of the check, as text.
        ok: Whether the clause holds or was skipped.
        skipped: Whether the clause does not apply.
        message: Remedy, or the reason why the clause was skipped; empty if it holds.
        seconds: Time that the check took, in seconds.
    """

    code: str
    subject: str
    ok: bool
    skipped: bool
    message: str
    seconds: float


_CHECKS = (
    Check("C1", "the card imports without torch; list answers within a second", fits.light_card, "entry"),
    Check("C2", "the card's facts equal the traced model", sites.card_facts, "variant"),
    Check("C3", "the guide samples exactly the model's latents, on their supports", sites.guide_sites),
    Check("C4", "every parameter of model and guide gets a finite gradient", densities.gradients),
    Check("C5", "the weighted mean over minibatches equals the full-batch ELBO", densities.unbiased_minibatches),
    Check("C6", "plate indices are the given ones under every guide", sites.plate_indices, "variant"),
    Check("C7", "the loss falls; a non-finite one names step and site, keeps a usable fit", fits.loss_falls, "guide"),
    Check("C8", "recovery on simulated data is within the card's expectation", fits.recovery, "entry", slow=True),
    Check("C9", "the same seed gives the same bits; the caller's state stays untouched", fits.reproducible, "guide"),
    Check("C10", "two fits in one process are independent; fitting again does not continue", fits.independent, "guide"),
    Check("C11", "a saved fit draws the same in a new process; no pickle on disk", fits.saved, "entry"),
    Check("C12", "a prior swap changes that site's density only; wrong ones raise", sites.prior_swaps, "variant"),
    Check("C13", "the ArviZ object has the card's names and the model's densities", explained(inference.arviz_object)),
    Check("C14", "enumeration and decoding equal brute force", explained(densities.enumeration)),
    Check("C15", "plain SVI, AutoNormal, Predictive and MCMC accept the model", inference.plain_pyro),
    Check("C16", "the log joint density at a fixed trace is the card's", densities.golden, "variant"),
    Check("C17", "simulation-based calibration of what the card names", inference.calibrated, "variant", slow=True),
    Check("C18", "several draws at once have the densities of each alone", particles, "guide"),
    Check("C19", "what a hidden label holds changes nothing", densities.hidden_labels, "guide"),
    Check("C20", "predictions are the moments of posterior predictive draws", targets.predicted_moments, "variant"),
    Check(
        "C21",
        "densities of rows, sites, held-out targets: brute force",
        explained(targets.brute_force),
        "variant",
    ),
    Check("C22", "the order of names changes nothing", targets.order_of_names, "variant"),
)
_DEPTHS = {"entry": 0, "variant": 1, "guide": 2, "subject": 3}
CHECKS: dict[str, Check] = {clause.code: clause for clause in _CHECKS}


def scoped(clause: Check, card: registry.Card) -> list[Subject]:
    """Subjects of an entry on which a check runs: one per entry, per variant, per variant and guide, or all.

    Args:
        clause: The check.
        card: Card of the entry.

    Example:
        >>> import pyrozoo as zoo
        >>> card, checks = zoo.card("ssmtl"), zoo.contract.CHECKS
        >>> len(zoo.contract.scoped(checks["C1"], card)), len(zoo.contract.scoped(checks["C2"], card))
        (1, 4)
    """
    chosen: dict[tuple[str, ...], Subject] = {}
    for subject in subjects(card):
        key = (subject.variant, subject.guide, str(subject))[: _DEPTHS[clause.scope]]
        chosen.setdefault(key, subject)  # of one guide the default prior comes first
    return list(chosen.values())


def label(clause: Check, subject: Subject) -> str:
    """Name of what a check tests, according to its scope.

    Args:
        clause: The check.
        subject: The subject.

    Example:
        >>> import pyrozoo as zoo
        >>> subject = zoo.contract.Subject("ssmtl", "mtl", "paper")
        >>> zoo.contract.label(zoo.contract.CHECKS["C2"], subject)
        'ssmtl/mtl'
    """
    return {"entry": subject.name, "variant": f"{subject.name}/{subject.variant}"}.get(clause.scope, str(subject))


def check(
    name: str, *, slow: bool = False, only: Iterable[str] | None = None, fast: bool = False, stop: bool = False
) -> Iterator[Result]:
    """Run the contract on an entry, check by check.

    Args:
        name: Name of the entry.
        slow: Whether to run also the checks that take minutes.
        only: Codes of the checks to run, e.g. ``["C5", "C9"]``, also of checks that take minutes; by default all.
        fast: Whether to check only the first guide of each variant, with the default priors.
        stop: Whether to end at the first check that fails.

    Yields:
        Result of each check.

    Raises:
        KeyError: No such entry.
        ValueError: `only` holds something else than codes of checks.

    Example:
        >>> import pyrozoo as zoo
        >>> for result in zoo.contract.check("ssmtl", only=["C2"], fast=True):
        ...     print(result.code, result.subject, result.ok)
        C2 ssmtl/ssmtl True
        C2 ssmtl/mtl True
        C2 ssmtl/ssl-vae True
        C2 ssmtl/ml-vae True
    """
    card = registry.card(name)
    for clause in _chosen(only, slow):
        for subject in scoped(clause, card):
            if fast and (subject.swapped or not subject.leads):
                continue
            started = time.perf_counter()
            ok, skipped, message = _outcome(clause, subject)
            yield Result(clause.code, label(clause, subject), ok, skipped, message, time.perf_counter() - started)
            if stop and not ok:
                return


def _chosen(only: Iterable[str] | None, slow: bool) -> list[Check]:
    if only is None:
        return [clause for clause in _CHECKS if slow or not clause.slow]
    codes = [only] if isinstance(only, str) else list(only)
    unknown = [code for code in codes if code not in CHECKS]
    if unknown or not codes:
        found = f"there is no check {unknown[0]!r}" if unknown else "no check is named"
        raise ValueError(f"only: {found}; the checks are {', '.join(CHECKS)}")
    return [clause for clause in _CHECKS if clause.code in codes]


def _outcome(clause: Check, subject: Subject) -> tuple[bool, bool, str]:
    try:
        clause.run(subject)
    except Skipped as reason:
        return True, True, str(reason)
    except AssertionError as error:
        return False, False, str(error)
    except Exception as error:  # a broken entry can raise anything, and the other checks should still run
        return False, False, f"{type(error).__name__}: {error}{_hint(error)}"
    return True, False, ""


def _hint(error: Exception) -> str:
    """Likely cause of an error about floating types, which come together only in the contract's double precision."""
    if isinstance(error, RuntimeError) and ("dtype" in str(error) or "scalar type" in str(error)):
        return (
            "; likely cause: a tensor that was made when a module was imported, in single precision; the contract "
            "computes in double; make it in forward, or keep it as a buffer of the model"
        )
    return ""
