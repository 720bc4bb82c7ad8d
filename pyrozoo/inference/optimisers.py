"""Optimisers of a fit, with a learning rate for every parameter."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..modeling.guides import declared
from .losses import Loss
from .settings import Settings


def optimizers_of(loss: Loss, options: Settings, *, lazy: bool) -> list[torch.optim.Optimizer]:
    """The optimiser of the settings and, where steps are `lazy`, one for tables of which each touches some groups only.

    Raises:
        ValueError: There is no parameter to train; see `learning_rates`.
    """
    named = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("neither model nor guide has a parameter to train")
    rates = learning_rates(named, options)
    tables = declared(loss.guide, "sparse") if lazy else {}
    in_tables = {f"guide.{name}" for names in tables.values() for name in names}

    def by_rate(names: list[str]) -> list[dict[str, Any]]:
        found = sorted({rates[name] for name in names})
        return [{"params": [named[name] for name in names if rates[name] == lr], "lr": lr} for lr in found]

    dense, sparse = ([n for n in named if (n in in_tables) is own] for own in (False, True))
    optimizers = [options.optimizer(by_rate(dense))] if dense else []
    return optimizers + ([torch.optim.SparseAdam(by_rate(sparse))] if sparse else [])


def learning_rates(named: Mapping[str, nn.Parameter], options: Settings) -> dict[str, float]:
    """Learning rate of every parameter by name.

    Raises:
        ValueError: A pattern of ``lr_groups`` that was given matches no parameter.
    """
    rates = dict.fromkeys(named, options.lr)
    for pattern, lr in (options.lr_groups or {}).items():
        matched = fnmatch.filter(named, pattern)
        if not matched and not options.lenient_groups:
            raise ValueError(f"lr_groups: no parameter matches {pattern!r}; parameters are {sorted(named)}")
        rates |= dict.fromkeys(matched, lr)
    other = sum(p.numel() for n, p in named.items() if rates[n] != options.lr)
    share = other / max(sum(p.numel() for p in named.values()), 1)
    if options.given_lr and options.lenient_groups and share > 0.5:
        warnings.warn(
            f"lr={options.lr:g} holds for {1 - share:.0%} of the parameters; the others have the rates of the model's "
            f"lr_groups {dict(options.lr_groups or {})}; give lr_groups=None for one rate",
            stacklevel=2,
        )
    return rates
