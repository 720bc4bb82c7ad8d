"""tune(): arguments of a model and settings of its fit, chosen by labels that fits had not seen."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.batch import Batch
from ..files import atomic_write_json, read_json_object
from ..modeling import registry
from .cross_fitting import cross_fitted

SCORES = ("crps", "log_score")


@dataclass(frozen=True)
class Preset:
    """Arguments of a model and settings of a fit, as `tune` chose them.

    Attributes:
        entry: Name of the entry.
        variant: Name of its variant.
        guide: Name of its guide.
        arguments: Constructor arguments of the model.
        settings: Settings of the fit.
        tried: One mapping per configuration that was tried, in order: ``arguments``, ``settings``, ``crps``,
            ``log_score``.
        facts: How they were scored: ``score``, ``folds``, ``by``, ``seed`` and the ``data``.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> found = zoo.tune("ssmtl", train, {"width": (8, 4)}, folds=2, steps=2, progress=False)
        >>> type(found).__name__, len(found.table())
        ('Preset', 2)
    """

    entry: str
    variant: str
    guide: str
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    tried: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]

    def table(self) -> pd.DataFrame:
        """What was tried, one line per configuration, the best first."""
        lines = [{**t["arguments"], **t["settings"], **{score: t[score] for score in SCORES}} for t in self.tried]
        score = self.facts["score"]
        return pd.DataFrame(lines).sort_values(score, ascending=score == "crps", ignore_index=True)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, for ``pyrozoo fit --preset`` and `read_preset`."""
        atomic_write_json(Path(path), {"preset": 1, **{name: getattr(self, name) for name in _FIELDS}})
        return Path(path)


_FIELDS = ("entry", "variant", "guide", "arguments", "settings", "tried", "facts")


def read_preset(path: str | Path) -> Preset:
    """Read what `Preset.save` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no preset.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> found = zoo.tune("ssmtl", train, {"width": (8, 4)}, folds=2, steps=2, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = zoo.read_preset(found.save(f"{folder}/small.json"))
        >>> again.arguments == found.arguments
        True
    """
    record = read_json_object(Path(path), "a preset")
    if record.get("preset") != 1 or not set(_FIELDS) <= set(record):
        raise ValueError(f"{path} is no preset; pyrozoo tune writes one")
    return Preset(**{name: record[name] for name in _FIELDS})


def tune(
    name: str,
    train: Batch,
    space: Mapping[str, Sequence[Any]] | None = None,
    *,
    variant: str | None = None,
    guide: str | None = None,
    score: str = "crps",
    folds: int = 5,
    by: str | tuple[str, ...] | None = None,
    inputs: bool = True,
    seed: int = 0,
    jobs: int = 1,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Preset:
    """Choose arguments of a model and settings of its fit by labels that the fits had not seen.

    Each configuration is cross-fitted once, by one fit per fold and one to all labels, without a process beside it, and
    scored by the mean CRPS or log density of the held-out labels under the law learned from them (`cross_fitted`): a
    configuration whose intervals a law can mend is no worse for them. One name after the other, in the order of
    `space`, tries its other values with the best ones of the names before; so that ten names of three values cost 21
    configurations.

    Args:
        name: Name of an entry.
        train: Data with labels.
        space: Name of a constructor argument or of a setting -> values to try, of which the first is the start; by
            default the entry's own, its ``SPACE``.
        variant: Name of a variant; by default the first.
        guide: Name of a guide; by default the first.
        score: "crps" (lower is better) or "log_score" (higher is better).
        folds: Number of folds.
        by: How labels are dealt out, as in `cross_fitted`.
        inputs: As in `cross_fitted`.
        seed: Random seed for the folds and the fits, the same for every configuration.
        jobs: Number of processes.
        checkpoint: Folder that keeps each finished fit.
        resume: Whether to go on from the finished fits there.
        progress: Whether to show each configuration's score and the fits' progress.
        **settings: Settings of all fits, e.g. ``steps``.

    Returns:
        The best configuration, and all that were tried.

    Raises:
        ValueError, TypeError: No space, a name or a value that the model or the fit refuses; see `cross_fitted`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.ssmtl import simulate
        >>> train, _ = simulate(n_units=4, n_labelled=5, n_unlabelled=20)
        >>> found = zoo.tune("ssmtl", train, {"width": (8, 4), "lr": (1e-3,)}, folds=2, steps=2, progress=False)
        >>> sorted(found.arguments), sorted(found.settings)
        (['width'], ['lr', 'steps'])
        >>> model = zoo.create_model("ssmtl", train, **found.arguments)
        >>> fit = zoo.fit(model, found.guide, train, progress=False, **found.settings)
    """
    entry = registry.entry(name)
    variant, guide = variant or next(iter(entry.card.variants)), guide or next(iter(entry.card.guides))
    space = dict(getattr(entry.parts, "SPACE", {}) if space is None else space)
    if not space or not all(len(values) for values in space.values()):
        raise ValueError(f"space: nothing to try; give name -> values, e.g. of the arguments of {name!r}")
    if score not in SCORES:
        raise ValueError(f"score: {score!r} is none of {list(SCORES)}")
    family = registry.named(entry.parts.VARIANTS, variant, f"variant of {name!r}")
    taken = set(inspect.signature(family).parameters)
    tried: list[dict[str, Any]] = []

    def scored(values: Mapping[str, Any]) -> float:
        """The score of a configuration, the lower the better; each is fitted once."""
        arguments = {key: value for key, value in values.items() if key in taken}
        own = {**settings, **{key: value for key, value in values.items() if key not in taken}}
        for known in tried:
            if known["arguments"] == arguments and known["settings"] == own:
                return known["loss"]
        model = registry.create_model(name, train, variant=variant, **arguments)
        folder = None if checkpoint is None else Path(checkpoint) / f"configuration-{len(tried)}"
        law = cross_fitted(
            model, guide, train, folds, 1, restarts=1, by=by, inputs=inputs, process=False, seed=seed, jobs=jobs,
            checkpoint=folder, resume=resume, progress=progress, **own,
        ).law  # fmt: skip
        assert law is not None
        parts = law.facts["scores"].values()
        if not parts:
            raise ValueError(f"{name!r} has no target of numbers to tune by")
        found = {key: sum(part[key] for part in parts) / len(parts) for key in SCORES}
        loss = found["crps"] if score == "crps" else -found["log_score"]
        tried.append({"arguments": arguments, "settings": own, **found, "loss": loss})
        if progress:
            print(f"{score} {found[score]:.4g}  {json.dumps({**arguments, **own}, default=str)}")
        return loss

    best = {key: values[0] for key, values in space.items()}
    least = scored(best)
    for key, values in space.items():
        for value in values[1:]:
            changed = {**best, key: value}
            if (loss := scored(changed)) < least:
                best, least = changed, loss
    chosen = min(tried, key=lambda t: t["loss"])
    told = [{key: value for key, value in t.items() if key != "loss"} for t in tried]
    facts = {"score": score, "folds": folds, "by": by if by is None or isinstance(by, str) else list(by), "seed": seed}
    facts["data"] = {"name": str(train.info.get("name", "")), "sha256": train.sha256}
    return Preset(name, variant, guide, chosen["arguments"], chosen["settings"], told, facts)
