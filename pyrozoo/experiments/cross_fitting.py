"""cross_fitted(): restarts on all labels, and a predictive law learned on labels that other fits had not seen."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..criticism.arguments import labelled_in, target_of
from ..criticism.folds import IN_TIME, fold_pair, label_folds
from ..criticism.law_learning import MEMBER_LEVEL, learn_parts
from ..data.batch import Batch
from ..data.values import SEEN
from ..files import sha256_text
from ..inference.copies import build, default_dtype, guide_label, isolated, run_seed
from ..inference.fit import fit
from ..inference.fitted import Fit, Run, identity, prototype_of
from ..inference.label_process import LabelProcess, learn_process
from ..inference.law import PredictiveLaw, StudentLaw
from ..inference.saving import load
from ..inference.settings import Settings
from ..modeling.base import ZooModel
from ..posterior.columns import column, components, is_discrete, probabilities
from ..posterior.predicting import predict_with_draws
from ..posterior.target_draws import observed_target
from ..store.batches import load_batch, save_batch
from .jobs import run_jobs

TEMPLATE, TRAIN = "model", "train.safetensors"  # what other processes read, in the folder of the fits
OWN_OF_FIT = ("valid", "warm_start", "callback", "checkpoint", "distributed", "patience")


@dataclass(frozen=True)
class _Work:
    """What all jobs of one call share."""

    model: ZooModel
    guide: Any
    train: Batch


_HERE: dict[str, _Work] = {}  # folder -> the work of calls in this process


def cross_fitted(
    model: ZooModel,
    guide: Any,
    train: Batch,
    folds: int = 5,
    repeats: int = 2,
    *,
    restarts: int = 4,
    target: str | None = None,
    by: str | tuple[str, ...] | None = None,
    inputs: bool = True,
    process: bool = True,
    seed: int = 0,
    jobs: int = 1,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    draws: int = 100,
    **settings: Any,
) -> Fit:
    """Fit with restarts, and learn how far their predictions err on labels that a fit has not seen.

    It trains ``restarts + folds * repeats`` fits, 14 by default, each as `pyrozoo.fit` would: `restarts` on all labels,
    which predict together, and one per fold without the labels of the fold. From the latter it learns the law of
    `pyrozoo.predict`, `metrics` and `coverage`. With ``restarts=0`` the fits of the folds predict together themselves.
    For a continuous target, component by component::

        y ~ m + sqrt(a^2 s^2 + c^2 + (g^2 + 1/R) v) t_nu

    with the restarts' mean m, the mean s^2 of their variances and the variance v between the R of them: a corrects the
    noise that a fit believes in, c is an error that no fit knows of, g an error that all fits share. They maximise::

        sum over labels i of log t_nu density of (y_i - m_i) / scale_i  -  log scale_i  +  weak priors of a, c, g, nu

    where m_i, s_i^2 and v_i come from the `repeats` fits that had not seen label i, in place of the R restarts. For a
    discrete target with probabilities p it learns a temperature t, and predicts by p^(1/t), normalised.

    A model with ``process_features``, as ssmtl and auxvae are, is not alone: Gaussian processes of two kinds on the
    same labels (`LabelProcess`, in closed form, trained once per fold too) predict beside the restarts with shares that
    have the least squared error on the held-out labels, so that all together are hardly worse than the best. Where the
    rows have times (``Batch.time``), their variance and that of the law, by a term h^2 d, grow with the time d to the
    nearest label of a unit; see `StudentLaw`. For classes the processes learn one-hot codes by least squares, and
    shares and temperature together have the largest likelihood of the held-out labels; see `Temperature`.

    A target that takes few values, such as a model's ``target_levels``, is rounded to them where that lowers the
    absolute error of the held-out labels.

    The law holds on average for rows that are exchangeable with the held-out labels. Choose `by` so that these stand
    for the rows that are to be predicted: later rows want ``by="last"``, new groups the name of the group. There the
    labels of one member err together: a, c and g are multiplied so that the central 90 % interval holds
    ``0.9 (1 + 1/M)`` of the labels of the M members, each with the same weight, which is 90 % for one more such member
    (Dunn, Wasserman and Ramdas 2023). With fewer than nine members it holds all of their labels, and a warning says so.

    Args:
        model: A model; its constructor arguments, not its parameters, are used.
        guide: As in `pyrozoo.fit`.
        train: Data with labels.
        folds: Number of folds.
        repeats: How often the labels are dealt out, and so many fits have not seen a label; from 2 on, v counts.
        restarts: Number R of fits on all labels; 0 takes the fits of the folds in their place, for a group for which
            the model has no parameters (`open_groups`), held out by ``by=GROUP, inputs=False``: fits to different
            members err less alike than restarts on the same.
        target: Name of the target whose labels are held out and whose law is learned; by default the model's first
            with a label in the data.
        by: How labels are dealt out, see `label_folds`; several ways, such as ``("row", "last")``, learn one law from
            all of them, where those in time hold out the later half only. ``"last"`` holds out two blocks at once, so
            that the law sees longer horizons, too. By default at random within groups, and,
            where a process knows the times of rows, also ``"last"``. Folds in time are the same in every repeat, whose
            fits then differ by their seed.
        inputs: Whether the held-out rows stay in training, unlabelled; see `fold_data`.
        process: Whether a Gaussian process predicts beside the restarts, for a model that has `process_features`, and
            rows in groups. Where rows have only some components of the target, each component has a process of its own
            on the rows that have it.
        seed: Random seed for the folds and the fits.
        jobs: Number of processes, each with one thread; more than one needs a model of the registry and a guide by name
            or class.
        checkpoint: Folder that keeps each finished fit.
        resume: Whether to go on from the finished fits there, with the same arguments.
        progress: Whether to show the number of finished fits and the time left.
        draws: Number of draws of the latents that predict the held-out labels.
        **settings: Settings of `pyrozoo.fit`, e.g. ``steps``, which JSON can hold.

    Returns:
        A fit like any other, with the law as `Fit.law`; both are saved and loaded together.

    Raises:
        ValueError: See `label_folds` and `pyrozoo.fit`; fewer than ten held-out labels; a model that predicts by
            itself; ``restarts=0`` where a fold's fit cannot predict; a folder with fits of other arguments, or with
            fits but without `resume`.
        TypeError: A setting that belongs to single fits, such as ``callback``.
        JobError: Fits failed; the others are kept.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, test = simulate(n_units=4, n_labelled=5, n_unlabelled=20, n_test=10)
        >>> model = zoo.create_model("ssmtl", train, width=16)
        >>> options = {"restarts": 2, "steps": 10, "progress": False}
        >>> fit = zoo.cross_fitted(model, "paper", train, folds=2, repeats=2, **options)
        >>> len(fit.runs), list(fit.law.parts), fit.law.facts["labels"]
        (2, ['y'], 20)
        >>> list(zoo.predict(fit, test, quantiles=(0.05, 0.95)))
        ['y.mean', 'y.sd', 'y.q05', 'y.q95']

        For people who are not in the data, by fits that leave people out, which predict together:

        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks, others = participant_folds(simulate(n_participants=12, n_steps=40, duration_s=3.0), 6)[0]
        >>> model = zoo.create_model("auxvae", walks, z_dim=2)
        >>> people = {"by": "participant", "inputs": False, "restarts": 0, "repeats": 1}
        >>> fit = zoo.cross_fitted(model, "paper", walks, folds=2, **people, epochs=2, progress=False)
        >>> len(fit.runs), fit.law.facts["by"], fit.law.facts["members"]
        (2, 'participant', 10)
    """
    started = time.perf_counter()
    target = _checked(model, guide, train, target, repeats, restarts, settings)
    process = process and _takes_process(model, train, target)
    if by is None:
        by = (train.rows, "last") if process and train.time is not None else train.rows
    ways = (by,) if isinstance(by, str) else tuple(by)
    if not restarts and not (len(ways) == 1 and ways[0] in model.open_groups and not inputs):
        raise ValueError(
            "restarts: 0; the fits of the folds predict together only where they leave out a group for which the model "
            f"has no parameters ({list(model.open_groups)} here), by=GROUP with inputs=False; give at least 1"
        )
    numbers = {way: _fold_numbers(train, folds, target, way, seed, len(ways) > 1) for way in ways}
    with _folder(checkpoint, resume) as folder:
        _HERE[str(folder)] = _Work(model, guide, train)
        try:
            if jobs > 1:
                _share(folder, model, guide, train)
            common = {
                "work": str(folder), "what": _identity(model, guide, train, settings), "settings": settings,
                "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            }  # fmt: skip
            names = [f"restart-{r}" for r in range(restarts)]
            plan = {name: {**common, "seed": run_seed(seed, r), "save": name} for r, name in enumerate(names)}
            for repeat, (place, way) in itertools.product(range(repeats), enumerate(ways)):
                for k in numbers[way]:
                    own = {"folds": folds, "fold": k, "by": way, "inputs": inputs, "target": target, "draws": draws}
                    own |= {"deal": seed if way in IN_TIME else run_seed(seed, 10_000 + repeat), "process": process}
                    number = 20_000 + 10_000 * place + repeat * folds + k
                    name = f"repeat-{repeat}-{f'{way}-' if place else ''}fold-{k}"
                    plan[name] = {**common, "seed": run_seed(seed, number), "held_out": own}
                    if not restarts:
                        plan[name]["save"] = name
            names = names or list(plan)
            results = run_jobs(_one_fit, plan, folder / "jobs", n_jobs=jobs, progress=progress)
            fits = [_loaded(folder / "fits" / name, model, guide) for name in names]
        finally:
            del _HERE[str(folder)]
    predicted = [found["predicted"] for found in results.values() if "predicted" in found]
    facts: dict[str, Any] = {"target": target, "folds": folds, "repeats": repeats, "by": " and ".join(ways)}
    facts["inputs"] = inputs
    facts["labels"] = len({row.rpartition(":")[2] for part in predicted for row in part["rows"]})
    if all("member" in part for part in predicted):
        facts["members"] = len({name for part in predicted for name in part["member"]})
    beside = learn_process(model, train, target, seed, _n_classes(predicted[0], target)) if process else None
    scores: dict[str, dict[str, float]] = {}
    parts = learn_parts(predicted, scores, model.target_levels.get(target, ()))
    if "members" in facts and any(isinstance(part, StudentLaw) for part in parts.values()):
        _warn_of_few_members(ways[0], facts["members"])
    law = PredictiveLaw(parts, facts | {"scores": scores}, beside)
    first = fits[0]
    whole: dict[str, Any] = {"prototype": first.prototype}
    if not restarts:  # the first fit's data are only a part
        whole = {"prototype": prototype_of(train, first.model), "data": identity(train)}
    return dataclasses.replace(
        first, runs=[run for one in fits for run in one.runs], train=train, law=law, **whole,
        settings={**first.settings, "seed": seed}, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _warn_of_few_members(group: str, members: int) -> None:
    needed = math.ceil(MEMBER_LEVEL / (1 - MEMBER_LEVEL) - 1e-9)
    if members < needed:
        warnings.warn(
            f"{group}: the law is learned from only {members} that were held out, too few for intervals at 90 % for "
            f"another one; they hold all of their labels. Give data of at least {needed}",
            stacklevel=3,
        )


def _checked(
    model: ZooModel, guide: Any, train: Batch, target: str | None, repeats: int, restarts: int,
    settings: Mapping[str, Any],
) -> str:  # fmt: skip
    """The target, after checks that need no fit."""
    if not isinstance(train, Batch):
        raise TypeError(f"train: a {type(train).__name__}; give a Batch")
    if hasattr(model, "predict"):
        raise ValueError(
            f"{type(model).__name__} predicts by itself, by no distribution that a law could correct; use fit"
        )
    for name, value, least in (("repeats", repeats, 1), ("restarts", restarts, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: {value!r}; give a whole number of at least {least}")
    if refused := [name for name in OWN_OF_FIT if name in settings]:
        raise TypeError(f"{refused[0]}: belongs to a single fit; give settings that all of them share")
    Settings.resolve(model, guide, settings)
    target = target_of(model, target, labelled_in(train))
    if target not in train.labels:
        raise ValueError(f"target: the data have no labels of {target!r}; use fit")
    return target


def _takes_process(model: ZooModel, train: Batch, target: str) -> bool:
    """Whether a Gaussian process can stand beside the fits: features, groups and labels, all in memory."""
    if train.on_disk is not None or not train.groups:
        return False
    return bool(model.process_features(train.hide().take([0])))


def _fold_numbers(train: Batch, folds: int, target: str, way: str, seed: int, several: bool) -> list[int]:
    """Folds that have labels; of folds in time beside others only the later half, whose fits have seen the most.

    Where every group has fewer labels after its first ones than there are folds, the first folds in time have none.
    """
    dealt = label_folds(train, folds, target=target, by=way, seed=seed)  # its errors come before any fit
    first = folds // 2 if several and way in IN_TIME else 0
    found = [k for k in range(first, folds) if (dealt == k).any()]
    if not found and not several:
        raise ValueError(f"by: {way!r} leaves no label to hold out, since every group has one only; hold out rows")
    return found


@contextlib.contextmanager
def _folder(checkpoint: str | Path | None, resume: bool) -> Iterator[Path]:
    """The folder of the fits: `checkpoint`, or a temporary one."""
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True needs checkpoint=FOLDER")
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    path = Path(checkpoint)
    if not resume and any((path / "jobs").glob("*.json")):
        raise ValueError(f"{path} holds finished fits; resume=True goes on from them, or choose another folder")
    path.mkdir(parents=True, exist_ok=True)
    yield path


def _identity(model: ZooModel, guide: Any, train: Batch, settings: Mapping[str, Any]) -> str:
    """Hash of what the fits depend on beside the arguments of the jobs."""
    config = {k: repr(v) for k, v in sorted(model.config.items())}
    own = [type(model).__name__, model.version, config, repr(guide_label(guide)), str(settings)]
    return sha256_text(json.dumps([train.sha256, *own]))


def _share(folder: Path, model: ZooModel, guide: Any, train: Batch) -> None:
    """Write what other processes need to the folder."""
    if model.entry is None or not (isinstance(guide, str | type)):
        raise ValueError(
            "jobs: several processes need a model of the registry and a guide by name or class; use jobs=1"
        )
    with isolated(0):
        own, own_guide = build(model, guide)
    name = guide if isinstance(guide, str) else guide.__name__
    template = Fit(
        [Run(0, own, own_guide, pd.DataFrame(), "failed")], name, {}, identity(train), prototype_of(train, own)
    )
    template.save(folder / TEMPLATE, overwrite=True)
    save_batch(folder / TRAIN, train)


def _work(folder: str) -> _Work:
    """What the jobs share: of this process, or read from the folder."""
    if folder in _HERE:
        return _HERE[folder]
    template = load(Path(folder) / TEMPLATE)
    train = load_batch(Path(folder) / TRAIN)
    for target in train.labels:
        train = train.relabel(train.observed(target), target)  # which brings back the strata, for minibatches
    return _Work(template.model, template.guide_name, train)


def _loaded(path: Path, model: ZooModel, guide: Any) -> Fit:
    """A saved restart, whose model and guide are built as those that were given."""
    if model.entry is not None:
        return load(path, guide=guide, priors=model.config.get("priors"))
    return load(path, guide=guide, priors=model.config.get("priors"), model=model)


def _one_fit(
    work: str, what: str, settings: Mapping[str, Any], dtype: str, seed: int, save: str | None = None,
    held_out: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One job: a fit to all labels, or a fit to those of a fold and its predictions of the others; saved if named."""
    shared = _work(work)
    with default_dtype(dtype):
        train, rest = (shared.train, None) if held_out is None else _pair(shared.train, **held_out)
        with warnings.catch_warnings():
            if rest is not None:  # of labels that are held out on purpose
                warnings.filterwarnings("ignore", ".* without a label")
            found = fit(shared.model, shared.guide, train, seed=seed, progress=False, **settings)
        if save is not None:
            found.save(Path(work) / "fits" / save, overwrite=True)
        if rest is None:
            return {"seconds": round(found.seconds, 2)}
        assert held_out is not None
        predicted = _predicted(found, rest, held_out["target"], held_out["draws"], seed)
        way = f"last-{held_out['fold']}" if held_out["by"] == "last" else held_out["by"]
        predicted["rows"] = [f"{way}:{row}" for row in predicted["rows"]]
        if held_out["by"] in rest.groups and (not held_out["process"] or held_out["by"] in shared.model.open_groups):
            predicted["member"] = [str(name) for name in rest.group_names(held_out["by"])]
        if held_out["process"]:
            predicted |= _by_process(shared.model, train, rest, held_out["target"], predicted, seed)
    return {"seconds": round(found.seconds, 2), "predicted": predicted}


def _pair(
    train: Batch, folds: int, fold: int, by: str | None, inputs: bool, target: str, deal: int, **_: Any
) -> tuple[Batch, Batch]:
    """Training data and held-out rows of a fold; positions of rows in `train` are the held-out rows' names.

    Of later labels two blocks are held out, so that errors are seen at horizons as long as those of later rows.
    """
    numbered = dataclasses.replace(train, coords={**train.coords, train.rows: np.arange(train.sizes[train.rows])})
    dealt = label_folds(numbered, folds, target=target, by=by, seed=deal)
    kept, rest = fold_pair(numbered, dealt, fold, target, by, inputs)
    if by == "last":
        rest = numbered.subset(np.flatnonzero((dealt == fold) | (dealt == fold + 1)))
    return kept, rest


def _predicted(found: Fit, rows: Batch, target: str, draws: int, seed: int) -> dict[str, Any]:
    """Predictions of the held-out labels as `learn_parts` takes them."""
    table, drawn = predict_with_draws(found, rows, draws=draws, seed=seed, quantiles=())
    if drawn[target].kind == "counts":
        raise ValueError(f"target: {target!r} is a count, whose predictions no t distribution corrects; use fit")
    truth = rows[target]
    if not is_discrete(table, target):
        truth = observed_target(found.best, found.prepare(rows), target)
        warp, own = found.model.warp(target), drawn[target].by_law.exact
        if warp is not None:  # the law adds on the scale of the transform
            truth = warp.inv(truth.double())
            sds = (own[1] - own[0] ** 2).clamp(min=0).sqrt()
            moved = {"mean": own[0].numpy(), "sd": sds.numpy()}
            for j, name in enumerate(components(table, target)):
                table = table.assign(**{column(name, what): values[:, j] for what, values in moved.items()})
    truth = truth.detach().cpu().double().numpy().reshape(rows.n_rows, -1)
    if target + SEEN in rows.tensors:  # rows that have part of their components
        truth = np.where(rows.known(target), truth, np.nan)
    out: dict[str, Any] = {"rows": rows.names(rows.rows).tolist()}
    if is_discrete(table, target):
        return out | {"truth": {target: truth[:, 0].tolist()}, "p": {target: probabilities(table, target).tolist()}}
    names = components(table, target)
    out["truth"] = {name: truth[:, j].tolist() for j, name in enumerate(names)}
    return out | {what: {name: table[column(name, what)].tolist() for name in names} for what in ("mean", "sd")}


def _by_process(
    model: ZooModel, train: Batch, rows: Batch, target: str, predicted: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Predictions of the held-out labels by a process on the others, as `learn_parts` takes them, beside a fit's."""
    names, classes = list(predicted["truth"]), _n_classes(predicted, target)
    process = learn_process(model, train, target, seed, classes)
    if isinstance(process, LabelProcess) and classes:
        return {"process_p": {target: process.probabilities(model, rows).swapaxes(0, 1).tolist()}}
    found = dict(zip(("process_mean", "process_sd"), process.predict(model, rows), strict=True))
    out: dict[str, Any] = {
        what: {name: values[..., j].T.tolist() for j, name in enumerate(names)} for what, values in found.items()
    }
    of_rows = {"known": process.known(rows)} | ({"lag": process.lag(rows)} if process.timed else {})
    for what, values in of_rows.items():  # of the rows, or by component
        by_component = values.ndim > 1
        out[what] = {name: values[:, j].tolist() for j, name in enumerate(names)} if by_component else values.tolist()
    return out


def _n_classes(predicted: Mapping[str, Any], target: str) -> int:
    """Number of classes of a target in predictions of its labels; 0 for one of numbers."""
    return len(predicted["p"][target][0]) if "p" in predicted else 0
