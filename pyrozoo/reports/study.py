"""What all sections look at: the rows that are scored, the fit's predictions of them, and those of simple methods."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..criticism import jackknife, scores
from ..criticism.folds import fit_folds
from ..criticism.rivals import Rival, input_names, inputs_of, simple_methods
from ..criticism.scoring import LEVELS
from ..data.batch import Batch
from ..data.build import FRAMES
from ..inference.fitted import Fit
from ..inference.label_process import learn_process
from ..inference.law import PredictiveLaw
from ..inference.settings import Settings
from ..modeling import registry
from ..posterior.columns import classes, column, components, interval_names, is_discrete, probabilities, tails
from ..posterior.new_groups import ready
from ..posterior.predicting import predict_with_draws
from ..posterior.target_draws import observed_target
from .words import plural

QUANTILES = tuple(sorted({0.5, *(q for level in LEVELS for q in tails(level / 100))}))
MOST_COMPONENTS = 6
OWN = {  # columns of the page's own tables, after which no group is called
    "row", "rows", "frame", "frames", "time", "part", "since", "size", "square", "bias", "accuracy", "confidence",
    "log loss", "CRPS", "RMSE", "mean probability missed", "observed", "predicted", "q05", "q95",
}  # fmt: skip
MOST_DRAWN = 10_000_000  # draws times rows; more rows have fewer draws, at least 50


@dataclass
class Outcome:
    """One target, or one component of it, on the rows that are scored.

    Attributes:
        name: Its name in tables of predictions, ``y`` or ``y[a]``.
        label: Its name for readers: the column of the user's table, where known.
        target: The target.
        keys: Name of each row, its group, its ``time`` where known; one line per scored row.
        truth: Numbers, or positions of classes, shape (N,).
        table: Columns ``mean``, ``sd``, ``q05`` ... of numbers; none for classes.
        draws: Predictive draws, shape (N, S), of numbers that have any.
        classes: Names of the classes; empty for numbers.
        p: Probabilities of the classes, shape (N, K).
        rivals: Name -> predictions of the same rows.
        inputs: Inputs of the rows, shape (N, D), with their names as columns.
        group: Name of the column of `keys` by which standard errors are made.
    """

    name: str
    label: str
    target: str
    keys: pd.DataFrame
    truth: np.ndarray
    table: pd.DataFrame
    draws: np.ndarray | None
    classes: list[str]
    p: np.ndarray | None
    rivals: dict[str, Rival]
    inputs: pd.DataFrame
    group: str

    @property
    def groups(self) -> np.ndarray:
        """Group of each row, by which standard errors are made."""
        return self.keys[self.group].astype(str).to_numpy()

    @property
    def row(self) -> str:
        """What a row is: the name of the row plate, or a frame."""
        return "frame" if "frame" in self.keys else str(self.keys.columns[0])

    @property
    def score_name(self) -> str:
        """Name of the score of point predictions."""
        return "1 − balanced accuracy" if self.classes else "RMSE"

    @property
    def loss_name(self) -> str:
        """Name of the score of probabilities."""
        return "log loss" if self.classes else "CRPS"

    @property
    def score(self) -> jackknife.Score:
        """The score of point predictions, as a function of totals."""
        return _balanced_error if self.classes else jackknife.root_of

    def point_totals(self, values: np.ndarray | None = None) -> np.ndarray:
        """Totals by group behind the score of point predictions.

        Args:
            values: A rival's predicted numbers (N,) or probabilities (N, K); by default those of the fit.
        """
        if not self.classes:
            mean = self.table["mean"].to_numpy() if values is None else values
            return jackknife.totals((mean - self.truth) ** 2, self.groups)
        shares = self.p if values is None else values
        assert shares is not None
        own = np.eye(len(self.classes))[self.truth.astype(int)]
        wrong = own * (shares.argmax(1) != self.truth)[:, None]
        return jackknife.totals(np.hstack([wrong, own]), self.groups)

    def loss(self, rival: Rival | None = None) -> np.ndarray | None:
        """CRPS or log loss of every row; None for numbers without draws.

        Args:
            rival: A simple method; by default the fit.
        """
        if self.classes:
            shares = self.p if rival is None else rival.values
            assert shares is not None
            own = shares[np.arange(len(shares)), self.truth.astype(int)]
            return -np.log(np.maximum(own, np.finfo(np.float32).eps))
        draws = self.draws if rival is None else rival.draws() if rival.residuals is not None else None
        return None if draws is None else scores.crps_by_row(self.truth, draws)

    def inside(self, level: int, rival: Rival | None = None) -> np.ndarray:
        """Whether each truth lies in its central interval.

        Args:
            level: Nominal coverage in percent.
            rival: A simple method; by default the fit.
        """
        if rival is None:
            low, high = (self.table[end].to_numpy() for end in interval_names(level / 100))
        else:
            assert rival.residuals is not None
            low, high = (rival.values + np.quantile(rival.residuals, q) for q in tails(level / 100))
        return (low <= self.truth) & (self.truth <= high)


def _balanced_error(sums: np.ndarray) -> np.ndarray:
    """One less the mean recall over the classes that occur, from totals (..., 2 K + 1)."""
    k = (sums.shape[-1] - 1) // 2
    with np.errstate(invalid="ignore"):
        return np.nanmean(sums[..., :k] / sums[..., k : 2 * k], axis=-1)


@dataclass
class Study:
    """A fit, its data, and how rows are scored.

    Attributes:
        fit: The fit.
        train: Its training data, where given.
        test: Rows with labels that it has not seen, where given.
        folds: Number of folds of the cross-fit that scores the training labels where there are no test data.
        draws: Number of draws of the latents.
        seed: Random seed.
        slow: Whether checks that take long are made.
        progress: Whether progress is shown.
    """

    fit: Fit
    train: Batch | None
    test: Batch | None
    folds: int = 5
    draws: int = 200
    seed: int = 0
    slow: bool = False
    progress: bool = True
    law: Any = field(init=False, default=None)

    @property
    def entry(self) -> Any:
        """Parts of the entry of the model; an object without any for a model of none."""
        own = self.fit.model.entry
        return registry.entry(own[0]).parts if own else object()

    @property
    def card(self) -> registry.Card | None:
        """Card of the entry."""
        own = self.fit.model.entry
        return registry.card(own[0]) if own else None

    @property
    def data(self) -> Batch | None:
        """The training data, or else the test data: what the checks of the posterior look at."""
        return self.train if self.train is not None else self.test

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the training data, plate -> number."""
        return dict(self.train.sizes) if self.train is not None else self.fit.sizes

    @property
    def split(self) -> str:
        """How labels are held out where there are no test data: as the card says, or row by row."""
        assert self.train is not None
        own = self.card.split if self.card else ""
        return own if own in (*self.train.groups, "block", "last") else self.train.rows

    @property
    def how(self) -> str:
        """How the rows are scored, for the reader."""
        if self.test is not None:
            known = [self.test.observed(target).sum() for target in self.test.labels]
            return f"Scored on the {max(known, default=0):,} labels of the test data, which the fit has not seen."
        if self.train is None:
            return "Nothing is scored: neither training nor test data were given."
        split = self.split
        rows = plural(self.train.rows)
        kinds = {"block": "blocks in time of each group", "last": "later rows", self.train.rows: rows}
        kind = kinds.get(split, f"whole {plural(self.called(split))}")
        text = (
            f"No test data were given: the model was fitted {self.folds} times more, each time without a part of the "
        )
        also = "; the law of its intervals was learned on these labels, so they look slightly better than on new ones"
        return f"{text}labels ({kind}), and scored on these (cross-fitting)" + (also if self.fit.law else "") + "."

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the fit to give to another one: those that are not the model's own defaults."""
        own = {k: v for k, v in self.fit.settings.items() if k in _SETTINGS and v is not None}
        defaults = self.fit.model.fit_defaults
        given = {k: v for k, v in own.items() if str(defaults.get(k)) != str(v)}
        return {k: v for k, v in given.items() if k != "anneal" or not isinstance(v, str)}  # a function, by its name

    @functools.cached_property
    def pairs(self) -> list[tuple[Fit, Batch, Batch | None]]:
        """Fits, rows that they have not seen, and what they were trained on.

        Raises:
            ValueError: No data, or a guide that cannot be made again by its name.
        """
        if self.test is not None:
            return [(self.fit, self.test, self.train)]
        if self.train is None:
            raise ValueError("neither training nor test data were given; give train= or test=")
        if self.fit.guide_name == "" or not self.train.labels:
            raise ValueError("the training data have no labels, so there is nothing to score; give test=")
        restarts = min(2, len(self.fit.runs)) if self.fit.law else 1
        found = fit_folds(
            self.fit.model, guide_of(self.fit), self.train, self.folds, by=self.split, seed=self.seed,
            inputs=self.split not in self.train.groups, restarts=restarts, progress=self.progress, **self.settings,
        )  # fmt: skip
        return [(dataclasses.replace(one, law=self._law_of(one.train)), rows, one.train) for one, rows in found]

    def _law_of(self, train: Batch | None) -> PredictiveLaw | None:
        """The fit's predictive law, whose process, if it has one, has seen the labels of `train` alone."""
        law = self.fit.law
        if law is None or law.process is None:
            return law
        assert train is not None
        process = learn_process(self.fit.model, train, str(law.facts["target"]), self.seed, law.process.classes)
        return dataclasses.replace(law, process=process)

    @functools.cached_property
    def outcomes(self) -> list[Outcome]:
        """Every target and component, with the predictions of the fit and of simple methods."""
        parts: dict[str, list[Outcome]] = {}
        for fit, rows, train in self.pairs:
            if not rows.labels:
                raise ValueError("the data to score have no labels; give a table with the target")
            draws = max(50, min(self.draws, MOST_DRAWN // rows.n_rows))
            table, drawn = predict_with_draws(fit, rows, draws=draws, seed=self.seed, quantiles=QUANTILES, restart=None)
            for target in fit.model.targets:
                if target in rows.labels and rows.observed(target).any():
                    for own in _outcomes(self, fit, rows, train, target, table, drawn.get(target)):
                        parts.setdefault(own.name, []).append(own)
        if not parts:
            if self.test is None:
                raise ValueError("no row of the training data has a label, so there is nothing to score; give test=")
            raise ValueError(
                "no row of the test data has a label; give rows that have one, or no test data: further fits then "
                "score the labels of the training data"
            )
        return [_joined(own) for own in parts.values()]

    @functools.cached_property
    def groups(self) -> str:
        """Name of the group by which standard errors are made."""
        data = self.test if self.test is not None else self.train
        assert data is not None
        own = self.card.split if self.card else ""
        return own if own in data.groups else data.groups[0] if data.groups else data.rows

    def label(self, name: str) -> str:
        """Name of a target for readers: the column of the user's table, where known.

        Args:
            name: Its name in tables of predictions.
        """
        own = (self.fit.data.get("columns") or {}).get(name)
        own = own[0] if isinstance(own, list) and len(own) == 1 else own
        return own if isinstance(own, str) else name

    def called(self, plate: str) -> str:
        """Name of a group or of the rows for readers: the column of the user's table, where known.

        Args:
            plate: Its name in the model.
        """
        own = self.label(plate)
        return plate if own in OWN else own

    @property
    def inputs_of_table(self) -> set[str]:
        """Tensors whose components are columns of the user's table."""
        return {name for name, own in (self.fit.data.get("columns") or {}).items() if isinstance(own, list) and own}

    @property
    def features(self) -> Callable[[Batch], np.ndarray] | None:
        """The entry's own inputs for simple methods, if it has any."""
        own = getattr(self.entry, "features", None)
        return None if own is None else lambda batch: np.asarray(own(batch), dtype=float)

    def inputs(self, rows: Batch, like: Batch | None = None) -> pd.DataFrame:
        """Inputs of rows as simple methods read them, shape (N, D), with their names as columns.

        Args:
            rows: The rows.
            like: Rows that have the columns, if they are others, such as those of the training.
        """
        own = getattr(self.entry, "features", None)
        if own is None:
            names = input_names(rows if like is None else like)
            return pd.DataFrame(inputs_of(rows, like), columns=[self.label(name) for name in names])
        found = own(rows)
        if isinstance(found, pd.DataFrame):
            return found.reset_index(drop=True)
        return pd.DataFrame(found, columns=[f"feature {j}" for j in range(np.shape(found)[1])])


_SETTINGS = set(inspect.signature(Settings).parameters) - {
    "distributed",
    "patience",
    "device",
    "optimizer",
    "compile",
}


def guide_of(fit: Fit) -> Any:
    """What `pyrozoo.fit` takes to make the guide of a fit again."""
    name, entry = fit.guide_name, fit.model.entry
    if entry and name in registry.card(entry[0]).guides:
        return name
    from pyro.infer import autoguide

    if hasattr(autoguide, name):
        return getattr(autoguide, name)
    kind = type(fit.guide)
    if list(inspect.signature(kind).parameters)[:1] == ["model"]:
        return kind
    raise ValueError(f"the guide {name!r} cannot be made again by its name, so there is no cross-fit; give test=")


def _outcomes(
    study: Study, fit: Fit, rows: Batch, train: Batch | None, target: str, table: pd.DataFrame, drawn: Any
) -> list[Outcome]:
    seen = rows.observed(target)
    keys, part = _keys(rows, target, study)[seen], table[seen]
    frames = rows.along[target] == FRAMES
    n_classes = len(classes(part, target)) if is_discrete(table, target) else 0
    rivals = _rivals(study, rows, train, target, seen, n_classes)
    common: dict[str, Any] = {
        "target": target,
        "keys": keys.reset_index(drop=True),
        "group": study.called(study.groups),
    }
    empty = pd.DataFrame(index=range(len(keys)))
    common["inputs"] = empty if frames else study.inputs(rows)[seen].reset_index(drop=True)
    if is_discrete(table, target):
        truth = rows[target].cpu().numpy().reshape(-1)[seen].astype(int)
        shares = probabilities(part, target)
        return [
            Outcome(
                target, study.label(target), truth=truth, table=empty, draws=None, classes=classes(part, target),
                p=shares, rivals=rivals.get(target, {}), **common,
            )
        ]  # fmt: skip
    found = observed_target(*ready(fit, rows), target).double().cpu().numpy()[seen].reshape(int(seen.sum()), -1)
    values = None if drawn is None or drawn.values is None else drawn.values.numpy()[:, seen]
    out = []
    known = rows.known(target)[seen].reshape(len(found), -1)
    for j, name in enumerate(components(table, target)[:MOST_COMPONENTS]):
        has = known[:, j]  # rows may have other components only
        if not has.any():
            continue
        start = column(name, "")
        own = part.loc[has, [c for c in part.columns if str(c).startswith(start)]]
        own = own.rename(columns=lambda c, start=start: str(c).removeprefix(start)).reset_index(drop=True)
        draws = None if values is None else values[:, has, j].T
        of_rows = {key: common[key][has].reset_index(drop=True) for key in ("keys", "inputs")}
        out.append(
            Outcome(
                name, study.label(name), truth=found[has, j], table=own, draws=draws, classes=[], p=None,
                rivals=_kept(rivals.get(name, {}), has), **common | of_rows,
            )
        )  # fmt: skip
    return out


def _keys(rows: Batch, target: str, study: Study) -> pd.DataFrame:
    """Name, groups and time of what is scored: of every row, or of every frame."""
    keys = pd.DataFrame({rows.rows: rows.names(rows.rows)})
    for group in rows.groups:
        keys[study.called(group)] = rows.group_names(group)
    if rows.time is not None:
        keys["time"] = rows.time
    if rows.along[target] == FRAMES:
        lengths = rows["lengths"].cpu().numpy()
        keys = keys.loc[np.repeat(np.arange(len(keys)), lengths)].reset_index(drop=True)
        keys["frame"] = np.concatenate([np.arange(n) for n in lengths])
    return keys


def _rivals(
    study: Study, rows: Batch, train: Batch | None, target: str, seen: np.ndarray, n_classes: int
) -> dict[str, dict[str, Rival]]:
    """Name of each component -> its rivals on the rows `seen`; none without training data."""
    if train is None:
        return {}
    own: Callable[..., dict[str, Any]] | None = getattr(study.entry, "rivals", None)
    if own is not None:
        return {target: _kept(own(train, rows, target), seen)}
    if rows.along[target] == FRAMES:
        return {}
    size = int(np.prod(rows[target].shape[1:])) or 1
    found = {}
    for j, name in enumerate(_component_names(study.fit, rows, target, size)[:MOST_COMPONENTS]):
        group = study.groups if study.groups in train.groups else None
        called = None if group is None else study.called(group)
        some = simple_methods(
            train,
            rows,
            target,
            j,
            group=group,
            called=called,
            features=study.features,
            n_classes=n_classes,
            seed=study.seed,
        )
        found[name] = _kept(some, seen)
    return found


def _component_names(fit: Fit, rows: Batch, target: str, size: int) -> list[str]:
    from ..posterior.predicting import names_in

    return [target] if size == 1 else names_in(fit, target, size)


def _kept(rivals: Mapping[str, Rival], seen: np.ndarray) -> dict[str, Rival]:
    return {name: dataclasses.replace(rival, values=rival.values[seen]) for name, rival in rivals.items()}


def _joined(parts: list[Outcome]) -> Outcome:
    """The outcomes of several folds as one; a rival's residuals are those of all folds."""
    first = parts[0]
    if len(parts) == 1:
        return first
    names = [name for name in first.rivals if all(name in part.rivals for part in parts)]
    rivals = {}
    for name in names:
        own = [part.rivals[name] for part in parts]
        residuals = [one.residuals for one in own if one.residuals is not None]
        rivals[name] = Rival(
            own[0].about, np.concatenate([one.values for one in own]), np.concatenate(residuals) if residuals else None
        )
    draws = [part.draws for part in parts if part.draws is not None]
    return dataclasses.replace(
        first,
        keys=pd.concat([part.keys for part in parts], ignore_index=True),
        truth=np.concatenate([part.truth for part in parts]),
        table=pd.concat([part.table for part in parts], ignore_index=True),
        draws=np.concatenate(draws) if len(draws) == len(parts) else None,
        p=None if first.p is None else np.concatenate([part.p for part in parts if part.p is not None]),
        rivals=rivals, inputs=pd.concat([part.inputs for part in parts], ignore_index=True),
    )  # fmt: skip
