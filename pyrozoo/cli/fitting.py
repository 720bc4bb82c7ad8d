"""fit: a table, recordings or a data set to a saved run."""

from __future__ import annotations

import argparse
import inspect
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..files import check_target, one_line
from ..modeling import registry
from .arguments import unique
from .columns import named, table_batch

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..inference.fitted import Fit
    from ..modeling.base import ZooModel


FOLDS = 5  # of a cross-fit by default
COLUMN_OPTIONS = "--unit, --group, --x, --row and --y"


def fit_command(arguments: argparse.Namespace) -> int:
    """Fit, save, and say how to go on."""
    _check_folders(arguments)
    _take_preset(arguments)
    card = registry.card(arguments.name)
    if arguments.data not in card.datasets and not Path(arguments.data).exists():
        known = f"{card.name!r} has no data set of that name; it has {list(card.datasets)}"
        raise FileNotFoundError(f"{arguments.data}: there is no such file, and {known}")

    data = _training_data(arguments, card)
    model = _model(arguments, data)
    result = _train(arguments, model, _guide(arguments.guide, card), data, _cross_fits(arguments, model, data))
    if result.status == "interrupted":
        _interrupted(arguments, result)
    result.save(arguments.out)
    steps = int(result.history["step"].iloc[-1])
    of = f", the best of {len(result.runs)} restarts" if len(result.runs) > 1 else ""
    print(f"ELBO {result.best.final_elbo:.4f} nats per row after {steps} steps{of}")
    if result.law is not None:
        what = "probabilities" if any(hasattr(part, "t") for part in result.law.parts.values()) else "intervals"
        print(f"{what} corrected on {result.law.facts['labels']} labels that the fits to the others had not seen")
    print(f"saved in {arguments.out}")
    print(_how_to_go_on(arguments, result))
    return 0


def tune_command(arguments: argparse.Namespace) -> int:
    """Tune, and write the preset."""
    from ..experiments.search import tune

    _check_folders(arguments)
    card = registry.card(arguments.name)
    if not getattr(registry.entry(arguments.name).parts, "SPACE", None):
        raise ValueError(f"{arguments.name!r} has no space to search; use zoo.tune with one of your own")
    space = dict(registry.entry(arguments.name).parts.SPACE)
    given = unique("--set", arguments.values)
    if arguments.prior or arguments.restarts:
        raise ValueError("--prior and --restarts belong to a fit; tune takes neither")
    found = tune(
        arguments.name, _training_data(arguments, card), {**space, **{name: (value,) for name, value in given.items()}},
        variant=arguments.variant, guide=arguments.guide, score=arguments.score, by=arguments.held_out,
        seed=arguments.seed, jobs=arguments.jobs, checkpoint=arguments.checkpoint, resume=arguments.resume,
        **_settings(arguments),
    )  # fmt: skip
    found.save(arguments.out)
    print(found.table().to_string(index=False))
    print(f"saved in {arguments.out}; fit with: pyrozoo fit {arguments.name} ... --preset {shlex.quote(arguments.out)}")
    return 0


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of a fit that options give."""
    settings = {key: getattr(arguments, key) for key in ("steps", "batch_size", "lr", "compile")}
    return {key: value for key, value in settings.items() if value is not None}


def _take_preset(arguments: argparse.Namespace) -> None:
    """Put what a preset says where no option does."""
    arguments.settings = {}
    if arguments.preset is None:
        return
    from ..experiments.search import read_preset

    preset = read_preset(arguments.preset)
    if preset.entry != arguments.name:
        raise ValueError(f"--preset {arguments.preset}: it is of {preset.entry!r}, not of {arguments.name!r}")
    arguments.variant, arguments.guide = arguments.variant or preset.variant, arguments.guide or preset.guide
    named_here = {name for name, _ in arguments.values}
    arguments.values += [(name, value) for name, value in preset.arguments.items() if name not in named_here]
    arguments.settings = dict(preset.settings)


def _cross_fits(arguments: argparse.Namespace, model: ZooModel, data: Batch) -> dict[str, Any] | None:
    """Options of a cross-fit, which the entry may make by default where there are labels; None for a plain fit."""
    parts = registry.entry(arguments.name).parts
    labelled = any(data.observed(target).any() for target in model.targets if target in data.labels)
    own = getattr(parts, "CROSS_FITS", None)
    if not (arguments.cross_fit and own and labelled):
        if arguments.held_out or arguments.jobs > 1:
            raise ValueError("--held-out and --jobs belong to a cross-fit, which this is not")
        if own and model.targets and not labelled:
            columns = data.info.get("columns") or {}
            named_so = [columns.get(target) or target for target in model.targets]  # several columns: one vector target
            targets = " or ".join(name if isinstance(name, str) else ", ".join(name) for name in named_so)
            print(
                f"one plain fit, not cross-fitted: no row has a label of {targets}; the fit learns the inputs alone, "
                f"and its predictions of {targets} rest on no label"
                + ("" if arguments.y else "; --y COL names the column of a target")
            )
        return None
    options = {"restarts": 4, "by": arguments.held_out} if arguments.held_out else dict(own)
    if not arguments.held_out and (too_few := _too_few(model, data, options.get("by"))):
        print(f"one plain fit, not cross-fitted: {too_few}")
        return None
    return options | ({"restarts": arguments.restarts} if arguments.restarts else {})


def _too_few(model: ZooModel, data: Batch, by: str | None) -> str:
    """Why members of a group cannot be held out in five folds; empty if they can, or there is no such group."""
    if by not in data.groups:
        return ""
    from ..criticism.arguments import labelled_in, target_of

    seen = data.observed(target_of(model, None, labelled_in(data)))  # of the one that is held out
    members = len(set(data.group_names(by)[seen].tolist()))
    return "" if members >= FOLDS else f"there are labels of {members} {by}s, at least {FOLDS} are needed"


def _train(
    arguments: argparse.Namespace, model: ZooModel, guide: Any, data: Batch, cross: dict[str, Any] | None
) -> Fit:
    from ..inference.fit import fit
    from ..inference.losses import NonFiniteLoss

    options = {**arguments.settings, **_settings(arguments)}
    options |= {"seed": arguments.seed, "checkpoint": arguments.checkpoint, "resume": arguments.resume}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # Pyro's; the error below says more
            if cross is not None:
                return _cross_fitted(arguments, model, guide, data, options | cross | {"jobs": arguments.jobs})
            return fit(model, guide, data, restarts=arguments.restarts or 1, **options)
    except NonFiniteLoss as error:
        reason = str(error).partition("; the last good state")[0]
        raise ValueError(f"training stopped at {reason}; nothing was saved; try a smaller --lr") from error
    except Exception as error:
        if isinstance(guide, str) or isinstance(error, OSError | ValueError | KeyError):
            raise
        reason = one_line(error).partition("Trace Shapes:")[0].strip() or type(error).__name__  # Pyro adds a table
        raise ValueError(f"{guide.__name__} is no guide for this model: {reason}; choose another --guide") from error


def _cross_fitted(
    arguments: argparse.Namespace, model: ZooModel, guide: Any, data: Batch, options: dict[str, Any]
) -> Fit:
    from ..experiments.cross_fitting import cross_fitted
    from ..experiments.jobs import JobError

    try:
        return cross_fitted(model, guide, data, **options)
    except JobError as error:
        reason = next(iter(error.failures.values())).partition("; the last good state")[0]
        raise ValueError(f"a fit of the cross-fit stopped: {reason}; nothing was saved; try a smaller --lr") from error
    except KeyboardInterrupt:
        again = f"run the same command with --resume to go on from {arguments.checkpoint}"
        raise KeyboardInterrupt(again if arguments.checkpoint else "nothing was saved") from None
    except ValueError as error:
        if str(error).startswith("folds: ") or "too few" in str(error):
            raise ValueError(f"{error}; with so few labels fit with --no-cross-fit") from error
        raise


def _check_folders(arguments: argparse.Namespace) -> None:
    if Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists; choose another folder for --out")
    for folder in (arguments.out, arguments.checkpoint):
        if folder is not None:
            check_target(folder)
    if arguments.resume and arguments.checkpoint is None:
        raise ValueError("--resume needs --checkpoint DIR")
    kept = ("run-*.safetensors", "jobs/*.json")
    if arguments.checkpoint and not arguments.resume and any(any(Path(arguments.checkpoint).glob(k)) for k in kept):
        raise FileExistsError(
            f"{arguments.checkpoint} holds a checkpoint; add --resume to go on from it, or choose another folder"
        )


def _training_data(arguments: argparse.Namespace, card: registry.Card) -> Batch:
    if arguments.data in card.datasets:
        if named(arguments):
            raise ValueError(
                f"{COLUMN_OPTIONS} belong to a table, but {arguments.data!r} is a data set of {card.name!r}; "
                f"leave them out (a file of that name is ./{arguments.data})"
            )
        if arguments.rate is not None:
            raise ValueError(f"--rate belongs to a file, but {arguments.data!r} is a data set of {card.name!r}")
        if arguments.styles is not None:
            raise ValueError(f"--styles belongs to a file, but {arguments.data!r} is a data set of {card.name!r}")
        data = registry.load_data(card.name, arguments.data)
        return data[0] if isinstance(data, tuple) else data
    if hasattr(registry.entry(card.name).parts, "read"):
        if named(arguments):
            raise ValueError(f"{COLUMN_OPTIONS} belong to a table; {card.name!r} reads recordings, see its README")
        own = {"separate": arguments.separate_steps, "styles": arguments.styles}
        return recordings(arguments, card.name, **{name: value for name, value in own.items() if value is not None})
    if arguments.styles is not None:
        raise ValueError(f"--styles belongs to recordings; {card.name!r} is fitted to a table")
    if arguments.rate is not None:
        raise ValueError(f"--rate belongs to recordings; {card.name!r} is fitted to a table")
    return table_batch(arguments, card)


def recordings(arguments: argparse.Namespace, name: str, file: str | None = None, **options: Any) -> Batch:
    """Read a file in the entry's own format."""
    if arguments.sep or arguments.decimal:
        raise ValueError(f"--sep and --decimal belong to a table; {name!r} reads recordings, see its README")
    read = registry.entry(name).parts.read
    for given, option, what in (("separate", "--separate-steps", "steps"), ("styles", "--styles", "styles")):
        if given in options and given not in inspect.signature(read).parameters:
            raise ValueError(f"{option}: {name!r} has no {what}")
    batch = read(file or arguments.data, rate=arguments.rate, **options)
    if batch.info.get("rate_assumed") and "like" not in options:
        print("no frame rate is given: times are in frames (name it by --rate HZ)")
    return batch


def _model(arguments: argparse.Namespace, data: Batch) -> ZooModel:
    from ..modeling.priors import parse

    priors = {site: parse(text) for site, text in unique("--prior", arguments.prior).items()}
    values = unique("--set", arguments.values)
    given = {**values, **({"priors": priors} if priors else {})}
    for option, transform in (("x_transform", unique("--x-transform", arguments.x_transform)),
                              ("y_transform", arguments.y_transform)):  # fmt: skip
        if transform:
            given[option] = transform
    entry = registry.entry(arguments.name)
    family = entry.parts.VARIANTS.get(arguments.variant or next(iter(entry.card.variants)))
    taken = {} if family is None else dict(inspect.signature(family).parameters)
    for name, value in values.items():
        default = taken[name].default if name in taken else value
        kind = next((kind for kind in (bool, str, tuple) if isinstance(default, kind)), None)
        if kind and not isinstance(value, kind):
            raise ValueError(f"--set {name}={value}: {value!r} is no {kind.__name__} such as {default!r}")
        if isinstance(value, str) and name in taken and "str" in str(taken[name].annotation):
            continue
        if not kind and (isinstance(value, str | bool | tuple) or not isinstance(value, int | float | type(None))):
            raise ValueError(f"--set {name}={value}: {value!r} is not a number")
    try:
        return registry.create_model(arguments.name, data, variant=arguments.variant, **given)
    except (TypeError, RuntimeError) as error:
        names = [name for name in taken if name != "priors"]
        wanted = ", ".join(f"{name}={value}" for name, value in values.items()) or "these data"
        reason = one_line(error)
        known = "" if "its arguments are" in reason else f"; its arguments are {names}"
        raise ValueError(f"{family.__name__} cannot be made with {wanted}: {reason}{known}") from error


def _guide(name: str | None, card: registry.Card) -> Any:
    """The guide of this name in the card, or Pyro's AutoGuide class of this name."""
    if name is None:
        return next(iter(card.guides))
    from pyro.infer import autoguide

    return name if name in card.guides or not name.startswith("Auto") else getattr(autoguide, name, name)


def _interrupted(arguments: argparse.Namespace, result: Fit) -> NoReturn:
    """Save the fit so far, and raise KeyboardInterrupt with a message on how to go on."""
    if arguments.checkpoint:
        again = "run the same command again" if arguments.resume else "run the same command with --resume"
        raise KeyboardInterrupt(f"{again} to go on from {arguments.checkpoint}")
    if result.best.history.empty:
        raise KeyboardInterrupt("nothing was saved: no epoch was finished")
    result.save(arguments.out)
    raise KeyboardInterrupt(
        f"saved the fit so far in {arguments.out}; to be able to resume, fit with --checkpoint DIR, then add --resume"
    )


def _how_to_go_on(arguments: argparse.Namespace, result: Fit) -> str:
    out = shlex.quote(arguments.out)
    if hasattr(registry.entry(arguments.name).parts, "tables"):
        return f"decode with: pyrozoo predict {out} --data FILE --out labels.csv"
    if not (result.data["columns"] and result.prototype.labels):
        return f"go on in Python: fit = pyrozoo.load({arguments.out!r})"
    imports = "".join(f" --import {shlex.quote(module)}" for module in arguments.modules)
    if not named(arguments):
        return f"predict with: pyrozoo predict {out} --data FILE.csv --out predictions.csv{imports}"
    table = shlex.quote(arguments.data)
    return (
        f"predict with: pyrozoo predict {out} --data {table} --out predictions.csv{imports}\n"
        f"report with: pyrozoo report {out} --train {table}{imports}"
    )
