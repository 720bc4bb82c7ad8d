"""Checks whose messages name the likely cause, and the clause of many draws at once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ..modeling.causes import first_line, likely_cause, particles_fault
from .densities import require
from .subject import Skipped, Subject


def explained(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """A check whose message also names the site, its shape and the likely cause, where they are found."""

    @functools.wraps(check)
    def run(subject: Subject) -> None:
        try:
            check(subject)
        except Skipped:
            raise
        except Exception as error:
            with subject.built() as (model, guide, batch), torch.no_grad():
                cause = likely_cause(model, guide, batch)
            if not cause:
                raise
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            if str(error).startswith(f"{type(model).__name__}: "):  # a fit's refusal, which says the cause
                raise AssertionError(f"{kind}{first_line(error)}") from error
            raise AssertionError(f"{kind}{first_line(error)}; likely cause: {cause}") from error

    return run


def particles(subject: Subject) -> None:
    """C18: many draws at once, as vectorised particles and predictions take them, have the densities of each alone."""
    with subject.built() as (model, guide, batch), torch.no_grad():
        cause = particles_fault(model, guide, batch)
        require(not cause, cause)
