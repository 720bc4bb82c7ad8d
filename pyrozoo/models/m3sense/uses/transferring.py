"""Transfer to other tasks: a model for new labels that starts from the weights of a fit (figure 7)."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ....data.batch import Batch
from ....inference.copies import isolated, reference_tensor, run_seed
from ....inference.fitted import Fit, Run, identity, prototype_of
from ....modeling.registry import create_guide, create_model
from ..data.batches import modalities
from ..generative import Generative
from ..guides import GUIDES
from ..model import AffectModel, class_shares, n_classes

ADJUSTABLE = ("dropout", "gamma", "lstm_dropout", "priors", "rule")  # arguments that no carried weight depends on
_BRANCH = re.compile(
    r"(representation\.heads|representation\.fusion\.project|classifiers|class_logits|places|networks)\.(\d+)(.*)"
)
_HEADS = ("classifiers", "class_logits", "places")
_ALL_TASKS = ("decoder.", "f_log_sd")  # read the latents of all tasks together


def transfer(
    fit: Fit, data: Batch, *, tasks: Sequence[str] | None = None, frozen: str = "representation",
    like: str | None = None, new_heads: bool = False, seed: int = 0, **arguments: Any,
) -> Fit:  # fmt: skip
    """Make a model for the tasks of `data` that starts from the weights of a fit, not yet trained on them (figure 7).

    Train it by `pyrozoo.fit`; `fit` itself is not changed::

        start = m3sense.transfer(fit, few)  # few: labelled windows of a new task, or of a known one to tune the fit to
        tuned = pyrozoo.fit(start.model, start.guide_name, few, warm_start=start, epochs=30)

    Variant, sizes, modalities and the standardisation of the signals are those of the fit's best restart, and so are
    the encoders and the fusion. For every task of `data`:

    * A task of the fit, of the same name and classes, keeps its branch (CAM query, layers after fusion, network of
      q(a_T | X_T)) and, unless `new_heads`, its head (classifier; class probabilities and places of "generative").
      Without `new_heads` its predictions are those of the fit until it is trained.
    * A new task has the mean of the fit's queries, which the paper leaves open, the layers after fusion of task `like`,
      and a new head and network of q(a_T | X_T).

    The decoder of "generative" reads the latents of all tasks: it is carried over where the tasks of `data` are those
    of the fit, and new otherwise. "generative-domain" needs at least two tasks, and sums over their domains only.

    Args:
        fit: A fit of this entry with a guide of the entry.
        data: N windows of the fit's modalities, labelled for at least one task; the number of samples may differ.
        tasks: Names of the data's tasks to learn; all where None.
        frozen: Part that is not trained: "representation", all up to X_T, so that only heads and networks of
            q(a_T | X_T) are trained (the paper's transfer); "encoders"; or "none".
        like: Task of the fit whose layers after fusion new tasks start from; the fit's first where None.
        new_heads: Whether tasks of the fit get new heads, too.
        seed: Random seed for the new weights.
        **arguments: Arguments of the model that replace the fit's: dropout, lstm_dropout, gamma, priors, rule.

    Returns:
        Fit: One run with status "untrained" and no history; the tasks that the fit knows come first. It can be passed
        as `warm_start`, saved, and given to `pyrozoo.predict`, but predictions of new tasks mean nothing yet.

    Raises:
        ValueError: The fit is of another model or guide; modalities, rates, standardisation or classes of a task
            differ; a window is shorter than a segment; no task at all, or a new one, has no label; `tasks` names no
            task of the data, or `like` none of the fit; `frozen` is none of its choices; an argument of `arguments` is
            one that the weights depend on.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate, standardise, transfer
        >>> fit = zoo.load_reference("m3sense/simulated")
        >>> few = standardise(simulate("simulated stress", seed=1, n_subjects=2, n_windows=6, rates={"bvp": 8}))
        >>> start = transfer(fit, few, tasks=["stress"], new_heads=True)
        >>> start.best.status, start.model.tasks
        ('untrained', {'stress': 3})
    """
    _require_fit(fit)
    _require_windows(fit, data)
    known = list(fit.model.tasks)
    if like is not None and like not in known:
        raise ValueError(f"like: {like!r} is no task of the fit; there are {known}")
    fixed = sorted(set(arguments) - set(ADJUSTABLE))
    if fixed:
        raise ValueError(f"{fixed[0]}: it belongs to the weights of the fit; other values need a model of their own")
    learned = _tasks(fit, data, tasks)
    # Per task of the new model: its place in the fit, or None.
    own = [known.index(task) if task in known else None for task in learned]
    branches = [known.index(like or known[0]) if place is None else place for place in own]
    places: dict[str, Sequence[int | None]] = {
        "representation.heads": branches, "representation.fusion.project": branches, "networks": own,
    }  # fmt: skip
    places |= dict.fromkeys(_HEADS, [None] * len(own) if new_heads else own)
    config = _config(fit, list(learned)) if "priors" not in arguments else copy.deepcopy(dict(fit.model.config))
    config |= {"tasks": learned, "frozen": frozen, "shares": class_shares(data), **arguments}
    start = run_seed(seed, 0)
    model, guide = _made(fit, config, start)
    stays_new: tuple[str, ...] = () if own == list(range(len(known))) else _ALL_TASKS
    stays_new += ("prior_modules.",) if "priors" in arguments else ()
    for module, source in ((model, fit.model), (guide, fit.guide)):
        module.load_state_dict(_carried(module, source, places, own, stays_new))
        module.eval()
    facts = {"from": fit.data, "frozen": frozen, "like": like, "new_heads": new_heads}
    cast = data.to(device=model.signal_loc.device, dtype=model.signal_loc.dtype)
    return Fit(
        [Run(start, model, guide, pd.DataFrame(), "untrained")], fit.guide_name, {"seed": seed, "transfer": facts},
        identity(data), prototype_of(cast, model), train=data,
    )  # fmt: skip


def only_task(fit: Fit, task: str) -> Fit:
    """Keep one task of a fit, with the weights as they are: predictions then run no network of the others.

    This is the paper's task switch (section 4.7): one representation for all tasks, of which a device runs the part
    that it needs now. Probabilities are those of the whole fit.

    Args:
        fit: Fit of several tasks by a guide of the entry.
        task: Name of the task to keep.

    Returns:
        Fit: The restarts of the fit with this task alone.

    Raises:
        ValueError: The fit has no such task, is of another model or guide, or of a variant in which the latents of all
            tasks explain the signals together.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import only_task
        >>> fit = zoo.load_reference("m3sense/simulated")
        >>> only_task(fit, "stress").model.tasks
        {'stress': 3}
    """
    _require_fit(fit)
    known = list(fit.model.tasks)
    if task not in known:
        raise ValueError(f"task: {task!r} is no task of the fit; there are {known}")
    if isinstance(fit.model, Generative):
        raise ValueError("fit: the latents of all its tasks explain the signals together; predict with the fit itself")
    place = [known.index(task)]
    parts = ("representation.heads", "representation.fusion.project", "networks", *_HEADS)
    runs = []
    for run in fit.runs:
        model, guide = _made(fit, {**_config(fit, [task]), "tasks": {task: fit.model.tasks[task]}}, run.seed)
        for module, source in ((model, run.model), (guide, run.guide)):
            module.load_state_dict(_carried(module, source, dict.fromkeys(parts, place), place, ()))
            module.eval()
        runs.append(dataclasses.replace(run, model=model, guide=guide))
    return dataclasses.replace(fit, runs=runs)


# -------------------------------------------------------------------- inside
def _config(fit: Fit, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the constructor arguments of the fit's model, with the priors of these tasks only."""
    config = copy.deepcopy(dict(fit.model.config))
    if config.get("priors"):
        config["priors"] = {site: p for site, p in config["priors"].items() if site.removeprefix("a_") in tasks}
    return config


def _made(fit: Fit, config: Mapping[str, Any], seed: int) -> tuple[Any, nn.Module]:
    """Make a model of the fit's kind and its guide, with new weights."""
    assert fit.model.entry is not None  # a model of this entry
    name, variant = fit.model.entry
    reference = reference_tensor(fit.model)
    assert reference is not None  # its networks have weights
    with isolated(seed):
        model = create_model(name, variant=variant, **config).to(reference)
        return model, create_guide(model, fit.guide_name).to(reference)


def _carried(
    module: nn.Module, source: nn.Module, places: Mapping[str, Sequence[int | None]], own: Sequence[int | None],
    stays_new: tuple[str, ...],
) -> dict[str, Tensor]:  # fmt: skip
    """State of `module` with all entries that can be carried over from `source`.

    Args:
        module: A new model or guide.
        source: Model or guide of the fit.
        places: Kind of a part that every task has -> for each task of `module` its position in `source`, or None.
        own: Position of each task of `module` among the tasks of `source`, or None.
        stays_new: Prefixes of the names that are not carried over.
    """
    theirs, state = source.state_dict(), module.state_dict()
    new = [i for i, place in enumerate(own) if place is not None]
    old = [place for place in own if place is not None]
    for name, fresh in state.items():
        part = _BRANCH.fullmatch(name)
        if part:
            place = places[part[1]][int(part[2])]
            state[name] = fresh if place is None else theirs[f"{part[1]}.{place}{part[3]}"]
        elif name in ("representation.fusion.query", "domain_logits"):  # (T, ...)
            state[name] = torch.stack([theirs[name].mean(0) if place is None else theirs[name][place] for place in own])
        elif name == "shifts":  # (T, T, A)
            state[name] = fresh.clone()
            state[name][_grid(new)] = theirs[name][_grid(old)]
        elif not name.startswith(stays_new):
            state[name] = theirs[name]
    return state


def _grid(places: Sequence[int]) -> tuple[Tensor, Tensor]:
    index = torch.tensor(places, dtype=torch.long)
    return index[:, None], index[None]


def _tasks(fit: Fit, data: Batch, wanted: Sequence[str] | None) -> dict[str, int]:
    """Map each requested task of `data` to its number of classes; tasks of the fit come first, in its order."""
    found = n_classes(data)
    unknown = [task for task in wanted or () if task not in found]
    if unknown:
        raise ValueError(f"tasks: {unknown[0]!r} is no task of the data; there are {list(found)}")
    found = {task: n for task, n in found.items() if wanted is None or task in wanted}
    labelled = {task for task in found if data.observed(f"y_{task}").any()}
    if not labelled:
        raise ValueError("labels: no window has one; give labelled windows, or predict with the fit itself")
    known = fit.model.tasks
    for task, n in found.items():
        field = f"y_{task}_class"
        ours, theirs = (batch.coords.get(field) for batch in (data, fit.prototype))
        if task in known and ours is not None and theirs is not None and ours.tolist() != theirs.tolist():
            raise ValueError(
                f"task {task!r}: the data have the classes {ours.tolist()} where the fit has {theirs.tolist()}; give "
                "the same in the same order, or call the task otherwise to learn it anew"
            )
        if task in known and n != known[task]:
            raise ValueError(
                f"task {task!r}: the data have {n} classes where the fit has {known[task]}; name the classes of both, "
                "or call the task otherwise to learn it anew"
            )
        if task not in known and task not in labelled:
            raise ValueError(f"task {task!r}: no window has its label and the fit does not know it; leave it out")
    return {task: found[task] for task in [*(t for t in known if t in found), *(t for t in found if t not in known)]}


def _require_fit(fit: Fit) -> None:
    """Raise ValueError if the fit's model and guide cannot be created again by name."""
    if not isinstance(fit.model, AffectModel) or fit.model.entry is None:
        raise ValueError(f"fit: its {type(fit.model).__name__} is no model that create_model('m3sense', ...) made")
    if fit.guide_name not in GUIDES:
        raise ValueError(f"fit: its guide {fit.guide_name!r} is none of {list(GUIDES)}; fit with one of them")


def _require_windows(fit: Fit, data: Batch) -> None:
    """Raise ValueError if the windows differ in kind from those of the fit."""
    model, found = fit.model, {name: data[name].shape[1] for name in modalities(data)}
    if set(found) != set(model.modalities):
        raise ValueError(
            f"modalities: the data have {list(found)} where the fit has {list(model.modalities)}; give windows of the "
            "same, or fit with those that both have"
        )
    for name, n in found.items():
        if n < model.segment:
            raise ValueError(
                f"{name}: windows of {n} samples are shorter than the segment of {model.segment} of the fit; make "
                "longer ones"
            )
    for field in ("rates", "standardised"):
        ours, theirs = data.info.get(field), fit.prototype.info.get(field)
        if ours != theirs and not (field == "rates" and None in (ours, theirs)):
            raise ValueError(f"{field}: {ours} where the data of the fit have {theirs}; treat both alike")
