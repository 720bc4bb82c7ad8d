"""What torchrun starts for test_distributed.py: `checks` (many things in one launch), `matrix` (all
gradients) or `elastic` (killed once).

Every process writes what it found to FOLDER/TASK-RANK.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import pyrozoo as zoo
from pyrozoo.contract.densities import latents, rows_of
from pyrozoo.contract.subject import Subject, guides_of
from pyrozoo.data.batch import Batch
from pyrozoo.inference.compiling import CompiledLoss
from pyrozoo.inference.distributed import Processes, joined
from pyrozoo.inference.loop import Training
from pyrozoo.inference.losses import Loss
from pyrozoo.inference.minibatches import rows_per_group, sample_minibatches
from pyrozoo.modeling.guides import declared
from pyrozoo.models.ssmtl.data.simulator import simulate

SSMTL = Subject("ssmtl", "ssmtl", "paper")
AMORTIZED = Subject("ssmtl", "ssmtl", "amortized")
STRATA = {"even": {"labelled": 7, "unlabelled": 9}, "odd": {"labelled": 4, "unlabelled": 5},
          "whole": {"labelled": None, "unlabelled": 6}}  # fmt: skip
# Of 29 rows: the last minibatch of an epoch, 5 rows, cannot be divided by two.
FIT = {
    "epochs": 12, "batch_size": 8, "lr": 0.02, "lr_groups": None, "particles": 4, "anneal": 2, "patience": 5,
    "clip": 10.0, "schedule": "cosine", "progress": False, "seed": 3,
}  # fmt: skip
LONG = FIT | {"epochs": 6, "patience": None, "seed": 4}


# ---------------------------------------------------------------- gradients
def trained_by_svi() -> list[Subject]:
    """Every entry, variant and guide that a fit trains step by step."""
    found = [
        Subject(name, variant, guide)
        for name in zoo.list_models()
        for variant in zoo.card(name).variants
        for guide in guides_of(zoo.card(name), variant)
    ]
    return [subject for subject in found if not declared(subject.parts.GUIDES.get(subject.guide), "solve")]


def one_guide_each() -> list[Subject]:
    """The first guide of every variant."""
    return list({(subject.name, subject.variant): subject for subject in reversed(trained_by_svi())}.values())


def matrix_cases() -> dict[str, Callable[[int], float]]:
    """Name -> comparison, given the rank, of every entry, variant and guide."""
    cases = {f"{s}": lambda rank, s=s: compare(s, rank) for s in trained_by_svi()}
    return cases | {f"{s}, ragged": lambda rank, s=s: compare(s, rank, ragged=True) for s in one_guide_each()}


def gradient_cases() -> dict[str, Callable[[int], float]]:
    """Name -> comparison, given the rank, of one guide of every entry, and of every kind of minibatch and loss."""
    first = {s.name: s for s in reversed(trained_by_svi())}.values()
    cases = {f"{s}, ragged": lambda rank, s=s: compare(s, rank, ragged=True) for s in first}
    for what, size in STRATA.items():
        cases[f"strata, {what}"] = lambda rank, size=size: compare(SSMTL, rank, size=size)
        cases[f"strata, {what}, groups present"] = lambda rank, size=size: compare(AMORTIZED, rank, size, present=True)
    return cases | {
        "groups present": lambda rank: compare(AMORTIZED, rank, 10, present=True),
        "annealed": lambda rank: compare(SSMTL, rank, 10, weight=0.37),
        "three particles": lambda rank: compare(SSMTL, rank, 10, particles=3),
        "graph, annealed, ragged": lambda rank: compare(SSMTL, rank, 8, ragged=True, weight=0.37, compiled=True),
    }


def compare(
    subject: Subject, rank: int, size: Any = None, *, ragged: bool = False, present: bool = False, weight: float = 1.0,
    particles: int = 1, compiled: bool = False,
) -> float:  # fmt: skip
    """Largest relative difference between the gradients of two processes and those of one, over an epoch.

    In evaluation mode: batch norm standardises by the rows that a process has, and dropout draws masks of its own, so
    that with them two processes rightly differ from one. Every draw is the same constant, since who draws what differs.
    """
    with subject.built() as (model, guide, batch), constant_noise():
        if ragged:
            batch = rows_of(batch, torch.arange(batch.n_rows - 1))
            size = size or batch.n_rows // 4 * 2
        loss = Loss(model, guide, model.elbo(particles), set(latents(model, batch)) & sites_of(guide))
        shared: nn.Module = Processes(rank, 2).wrap(CompiledLoss(loss, "graph") if compiled else loss)
        given = torch.tensor(weight) if compiled else weight
        group_rows = rows_per_group(batch, size) if present else None
        worst, shares = 0.0, []
        for whole, share in zip(epoch(batch, size, group_rows), epoch(batch, size, group_rows, (rank, 2)), strict=True):
            alone = gradients(loss, loss, whole, given)
            torch.manual_seed(rank)  # a draw that is no constant would show
            together = gradients(shared, loss, share, given)
            shares.append((share.n_rows, whole.n_rows))
            worst = max(worst, difference(alone, together))
        divided = [2 * own == n for own, n in shares]
        require(all(divided or own == n for divided, (own, n) in zip(divided, shares, strict=True)), f"shares {shares}")
        require(all(n % 2 for d, (_, n) in zip(divided, shares, strict=True) if not d), f"shares {shares}")
        require(not ragged or {True, False} == set(divided), f"shares {shares}: one whole and one divided are needed")
        if compiled:
            require(not shared.module._eagerly, "the loss was not compiled")
        return worst


def epoch(batch: Batch, size: Any, group_rows: Any, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    return sample_minibatches(batch, size, torch.Generator().manual_seed(0), group_rows, share)


def sites_of(guide: nn.Module) -> set[str]:
    """Latents that may be annealed in the entry whose annealing is compared."""
    return {"c", "z"} if type(guide).__name__ == "PaperGuide" else set()


def gradients(called: nn.Module, loss: Loss, batch: Batch, weight: Any) -> dict[str, torch.Tensor | None]:
    loss.zero_grad(set_to_none=True)
    called(batch, weight).backward()
    return {name: p.grad if p.grad is None else p.grad.clone() for name, p in loss.named_parameters()}


def difference(alone: dict[str, Any], together: dict[str, Any]) -> float:
    """Relative to the largest entry of each gradient; infinite where one has a gradient and the other none."""
    worst = 0.0
    for name, one in alone.items():
        two = together[name]
        if one is None or two is None:
            # Without gradient in the whole minibatch, and a zero of it among several processes, is the same step.
            worst = max(worst, 0.0 if one is two else float("inf"))
        elif bool(one.any() or two.any()):
            worst = max(worst, float((one - two).abs().max() / one.abs().max()))
    return worst


@contextlib.contextmanager
def constant_noise() -> Iterator[None]:
    """Every draw is made of 0.3, whatever its shape: no guide of the zoo draws from other than these two."""
    original = torch.distributions.utils._standard_normal

    def constant(*shape: Any, **options: Any) -> torch.Tensor:
        kept = {k: v for k, v in options.items() if k in ("dtype", "device")}
        return torch.full(torch.Size(shape[0] if len(shape) == 1 else shape), 0.3, **kept)

    with contextlib.ExitStack() as stack:
        for module in list(sys.modules.values()):
            if vars(module).get("_standard_normal") is original:
                stack.enter_context(mock.patch.object(module, "_standard_normal", constant))
        stack.enter_context(mock.patch.object(torch, "rand", constant))
        yield


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# ---------------------------------------------------------------- fits
def data() -> tuple[Any, Batch, Batch]:
    """A small SSMTL and its data, 29 rows."""
    train, valid = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=4)
    model = zoo.create_model("ssmtl", train, c_dim=2, z_dim=2, width=6, depth=1)
    return model, train.subset(torch.arange(29)), valid


def outcome(fitted: Any) -> dict[str, Any]:
    return {
        "status": [run.status for run in fitted.runs],
        "history": [run.history.to_dict("list") for run in fitted.runs],
        "weights": [
            {f"{i}.{k}": v.flatten().tolist() for i, part in enumerate((run.model, run.guide))
             for k, v in part.state_dict().items()}
            for run in fitted.runs
        ],
    }  # fmt: skip


def message(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["", "nothing was raised"]


def fits(folder: Path, rank: int) -> dict[str, Any]:
    """One fit after another, as a script would."""
    model, train, valid = data()
    together = {"distributed": True}
    out: dict[str, Any] = {}
    out["plain"] = outcome(zoo.fit(model, "paper", train, valid=valid, restarts=2, **FIT, **together))
    graph = {"compile": "graph", "validate": False}
    out["graph"] = outcome(zoo.fit(model, "paper", train, valid=valid, **FIT | graph, **together))
    strata = {"batch_size": {"labelled": 3, "unlabelled": 5}, "epochs": 2}
    for name, guide, options in (("strata", "paper", strata), ("present", "amortized", strata | {"groups": "present"})):
        out[name] = outcome(zoo.fit(model, guide, train, **LONG | options, **together))
    subject = Subject("m3sense", "m3sense", "paper")  # with batch norm and dropout
    options = {"epochs": 2, "batch_size": 8, "progress": False}
    out["batch norm"] = outcome(zoo.fit(subject.model(), "paper", subject.data(), **options, **together))
    out["whole"] = outcome(zoo.fit(model, "paper", train, **LONG, **together, checkpoint=folder / "whole"))
    with broken_off(lambda step: step == 14), contextlib.suppress(BrokenOff):  # in the middle of the fourth epoch
        zoo.fit(model, "paper", train, **LONG, **together, checkpoint=folder / "half")
    if rank == 0:  # for fits that go on with another number of processes
        shutil.copytree(folder / "half", folder / "kept")
    with broken_off(lambda step: False) as steps:
        resumed = zoo.fit(model, "paper", train, **LONG, **together, checkpoint=folder / "half", resume=True)
    out["resumed"], out["steps of resumed"] = outcome(resumed), steps

    def interrupt(row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    if rank == 0:  # begun by one process, gone on with by two
        zoo.fit(model, "paper", train, **LONG, checkpoint=folder / "alone", callback=interrupt)
    out["went on"] = outcome(
        zoo.fit(model, "paper", train, **LONG, **together, checkpoint=folder / "alone", resume=True)
    )
    present = {"batch_size": 8, "groups": "present"}
    out["tables"] = message(lambda: zoo.fit(model, "paper", train, **LONG | present, **together))
    even = train.subset(torch.arange(28))
    x = even["x"].clone()
    x[3] = float("nan")  # of a full batch the second process has the odd rows
    bad = dataclasses.replace(even, tensors={**even.tensors, "x": x})
    for name, validate in (("validated", True), ("not validated", False)):
        everything = {"batch_size": None, "validate": validate}
        failing = partial(zoo.fit, model, "paper", bad, **LONG | everything, **together)
        out[f"not finite, {name}"] = message(failing)
    # The processes are still in step.
    out["afterwards"] = outcome(zoo.fit(model, "paper", train, **LONG, **together))
    return out


class BrokenOff(Exception):
    pass


@contextlib.contextmanager
def broken_off(end: Callable[[int], bool]) -> Iterator[list[int]]:
    """The steps of a training, which ends before the step for which `end` is true."""
    update, steps = Training._update, []

    def counted(self: Training, *arguments: Any) -> Any:
        steps.append(self.step)
        if end(self.step):
            raise BrokenOff
        return update(self, *arguments)

    with mock.patch.object(Training, "_update", counted):
        yield steps


def elastic(folder: Path, rank: int) -> dict[str, Any]:
    """The fit `whole`, in which the second process is killed once, in the middle of the fourth epoch."""
    model, train, _ = data()
    flag = folder / "killed"

    def lethal(step: int) -> bool:
        if rank == 1 and step == 14 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    with broken_off(lethal) as steps:
        fitted = zoo.fit(model, "paper", train, **LONG, distributed=True, checkpoint=folder / "elastic", resume=True)
    whole = outcome(zoo.fit(model, "paper", train, **LONG, distributed=True))
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    return {"fit": outcome(fitted), "whole": whole, "steps": steps, "restarts": restarts}


def checks(folder: Path, rank: int) -> dict[str, Any]:
    out = {"fits": fits(folder, rank)}
    return out | {"gradients": {name: caught(lambda f=f: f(rank)) for name, f in gradient_cases().items()}}


def matrix(_: Path, rank: int) -> dict[str, Any]:
    with joined(True, None):  # joins the process group, as the fits of `checks` do
        pass
    return {name: caught(lambda f=f: f(rank)) for name, f in matrix_cases().items()}


def caught(call: Callable[[], float]) -> float | str:
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(task: str, folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found = {"checks": checks, "elastic": elastic, "matrix": matrix}[task](folder, rank)
    (folder / f"{task}-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
