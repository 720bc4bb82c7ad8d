"""Parts of a batch: minibatches, data sets of their own, splits, support rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .build import FRAMES


@dataclass(frozen=True, eq=False)
class OnDisk:
    """What a `Batch` knows about tensors that are mapped from files, see `pyrozoo.open_rows`.

    Attributes:
        tensors: The tensors as they were opened.
        support: Group -> maximum number of support rows with which its tables were written.
        device: Device to which minibatches are moved when they are taken; None leaves them where the files are.
        dtype: Floating type of minibatches; None keeps that of the files.
    """

    tensors: Mapping[str, Tensor]
    support: Mapping[str, int] = field(default_factory=dict)
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None


class Parts(Mapping):
    """What `Batch` does to make batches of some of its rows; its fields are those of `Batch`."""

    if TYPE_CHECKING:  # fields of the dataclass that inherits
        tensors: Mapping[str, Tensor]
        along: Mapping[str, str]
        sizes: Mapping[str, int]
        rows: str
        groups: tuple[str, ...]
        labels: Mapping[str, str]
        coords: Mapping[str, np.ndarray]
        truth: Mapping[str, np.ndarray]
        on_disk: Any

        @property
        def n_rows(self) -> int:
            """See `Batch.n_rows`."""

        @property
        def row_coords(self) -> tuple[str, ...]:
            """See `Batch.row_coords`."""

        @property
        def time(self) -> np.ndarray | None:
            """See `Batch.time`."""

        @property
        def reference(self) -> Tensor:
            """See `Batch.reference`."""

        def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
            """See `Batch.to`."""

    def _with(self, **changes: Any) -> Self:
        return replace(cast(Any, self), **changes)

    def take(self, rows: Any, *, weight: Tensor | None = None, group_rows: Mapping[str, Tensor] | None = None) -> Self:
        """Take a minibatch: the given rows, with all group tables and the full sizes.

        Args:
            rows: Positions in this batch (whole numbers, no mask), shape (B,).
            weight: Importance of each row relative to the plate's own scale N / B, shape (B,): for rows that were
                not drawn uniformly. It reaches the model as ``weight``.
            group_rows: Group -> number of rows n_i of each group in the data from which minibatches are drawn, shape
                (M,). If given, the minibatch holds only the groups of its rows, so that a step costs the same however
                many groups there are: tables shrink to these U groups, ``<group>_ids`` (U,) are their positions among
                the M, and ``<group>_weight`` (U,) corrects for groups that are drawn often: every row stands for
                1 / n_i of its group, so that the expectation over minibatches counts each group once.

        Raises:
            TypeError: `rows` is a mask or holds floating-point numbers.
        """
        rows = _positions(rows)
        tensors = {}
        for name, tensor in self.tensors.items():
            plate = self.along[name]
            if plate == self.rows:
                tensors[name] = tensor[rows.to(tensor.device)]
            elif plate == FRAMES:
                tensors[name] = tensor[self._frames_of(rows).to(tensor.device)]
            else:
                tensors[name] = tensor
        along = dict(self.along)
        if weight is not None:
            tensors["weight"], along["weight"] = weight, self.rows
        for group, counts in (group_rows or {}).items():
            self._keep_present(group, counts, weight, tensors, along)
        part = self._with(tensors=tensors, along=along, strata={}, on_disk=None)
        return part if self.on_disk is None else part.to(device=self.on_disk.device, dtype=self.on_disk.dtype)

    def _keep_present(
        self, group: str, counts: Tensor, weight: Tensor | None, tensors: dict[str, Tensor], along: dict[str, str]
    ) -> None:
        """Shrink the tables of `group` in `tensors` to the groups of the rows held there, and add ids and weights."""
        present, index = torch.unique(tensors[group], return_inverse=True)
        for name, plate in self.along.items():
            if plate == group and name in tensors:
                tensors[name] = tensors[name][present]
        share = 1.0 / counts[present].to(self.reference)[index]
        share = share if weight is None else share * weight
        total = share.new_zeros(len(present)).index_add_(0, index, share)
        # The rows' scale N / B, over the group plate's own M / U.
        scale = (self.sizes[self.rows] / len(index)) * (len(present) / self.sizes[group])
        tensors |= {group: index, f"{group}_ids": present, f"{group}_weight": total * scale}
        along |= {f"{group}_ids": group, f"{group}_weight": group}

    def subset(self, rows: Any) -> Self:
        """Make a data set of its own from the given rows, with only the groups they need and sizes of its own.

        Args:
            rows: Positions in this batch (whole numbers, no mask).

        Raises:
            ValueError: `rows` is empty.
            TypeError: `rows` is a mask or holds floating-point numbers.

        Example:
            >>> import numpy as np
            >>> import pyrozoo as zoo
            >>> data = zoo.load_data("ssmtl", "dryer")
            >>> labelled = data.subset(np.flatnonzero(data.observed("y")))
            >>> labelled.sizes["row"] == labelled.n_rows == int(data["labelled"].sum())
            True
        """
        rows = _positions(rows).cpu()
        if len(rows) == 0:
            raise ValueError("rows: a data set needs at least one row")
        part = self.take(rows)
        tensors = dict(part.tensors)
        coords, truth, sizes = dict(self.coords), dict(self.truth), dict(self.sizes)
        keep = {self.rows: part.tensors[self.rows].cpu().numpy()}  # names and truth are those of the full data
        for group in self.groups:
            present, index = torch.unique(tensors[group].cpu(), return_inverse=True)
            keep[group] = present.numpy()
            tensors[group] = index.to(tensors[group].device)
            for name, plate in self.along.items():
                if plate == group and name in tensors:
                    tensors[name] = tensors[name][present.to(tensors[name].device)]
        tensors[self.rows] = torch.arange(len(rows), device=tensors[self.rows].device)
        for plate, positions in keep.items():
            sizes[plate] = len(positions)
            if plate in coords:
                coords[plate] = coords[plate][positions]
            for name in truth:
                if self.along.get(name) == plate:
                    truth[name] = truth[name][positions]
        for name in self.row_coords:
            coords[name] = coords[name][keep[self.rows]]
        part = part._with(tensors=tensors, coords=coords, truth=truth, sizes=sizes)
        return part._stratify()

    def split(
        self, test: float = 0.25, *, by: str | None = None, inputs: bool = False, seed: int = 0
    ) -> tuple[Self, Self]:
        """Split into train and test data sets.

        Args:
            test: Share of rows (or groups) that goes to the test set, in (0, 1).
            by: None or the name of the row plate: rows at random; ``"last"``: the last rows of each group by their
                `time`, or in their order here if it is not known (of the whole batch if there is no group); the name
                of a group: whole groups at random.
            inputs: Whether the test rows stay in the training data, too, with their targets hidden: for models that
                learn from unlabelled rows, where the inputs are known before the targets are to be predicted.
            seed: Random seed for the split.

        Returns:
            The train and the test data set.

        Raises:
            ValueError: `test` is not in (0, 1), or `by` is none of these.

        Example:
            >>> import pyrozoo as zoo
            >>> train, test = zoo.load_data("ssmtl", "dryer").split(0.2, by="unit")
            >>> train.sizes["unit"], test.sizes["unit"]
            (56, 15)
            >>> set(train.names("unit")) & set(test.names("unit"))
            set()
        """
        if not 0 < test < 1:
            raise ValueError(f"test: {test} is not a share in (0, 1)")
        from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit

        by = by or self.rows
        index = np.zeros(self.n_rows, int) if not self.groups else self.tensors[self.groups[0]].cpu().numpy()
        if by == "last":
            place, size = places(index, self.time)
            return self._parted(place >= np.ceil(size * (1 - test)), inputs)
        if by != self.rows and by not in self.groups:
            raise ValueError(f"by: {by!r} is none of {['last', self.rows, *self.groups]}")
        splitter = (ShuffleSplit if by == self.rows else GroupShuffleSplit)(1, test_size=test, random_state=seed)
        groups = None if by == self.rows else self.tensors[by].cpu().numpy()
        _, test_rows = next(splitter.split(np.zeros(self.n_rows), groups=groups))
        return self._parted(np.isin(np.arange(self.n_rows), test_rows), inputs)

    def _parted(self, test: np.ndarray, inputs: bool) -> tuple[Self, Self]:
        """The data without the rows `test` (N,), or with their targets hidden, and these rows."""
        train: Any = self
        if inputs:
            for target in self.labels:
                train = train.relabel(~test, target)
        else:
            train = self.subset(np.flatnonzero(~test))
        return train, self.subset(np.flatnonzero(test))

    def with_support(self, n: int, group: str | None = None, seed: int = 0) -> Self:
        """Add each group's *support*: up to `n` of its rows, labelled ones first, as tables for a set encoder.

        Every row tensor ``t`` gets a table ``support_t`` of shape (M, S, ...), S the largest support, zero-padded;
        ``support_mask`` (M, S) is True on real rows.

        Args:
            n: Maximum number of support rows per group.
            group: Name of the group plate; by default the first.
            seed: Random seed for the choice among a group's rows.
        """
        if group is None:
            if not self.groups:
                raise ValueError("group: the rows of this batch belong to no groups")
            group = self.groups[0]
        index = self.tensors[group].cpu().numpy()
        priority = np.random.default_rng(seed).random(self.n_rows)
        for name in self.labels.values():
            priority = priority - self.tensors[name].cpu().numpy()
        order = np.lexsort((priority, index))
        place = pd.Series(index[order]).groupby(index[order]).cumcount().to_numpy()
        order, place = order[place < n], place[place < n]
        width = int(place.max()) + 1
        slots = np.full((self.sizes[group], width), -1)
        slots[index[order], place] = order
        slots_t = torch.as_tensor(slots)
        tensors, along = dict(self.tensors), dict(self.along)
        skip = {self.rows, "weight", *self.groups}
        for name in [
            k for k, plate in self.along.items() if plate == self.rows and k in self.tensors and k not in skip
        ]:
            rows = self.tensors[name]
            mask = (slots_t >= 0).to(rows.device).reshape(slots.shape + (1,) * (rows.dim() - 1))
            tensors[f"support_{name}"] = torch.where(mask, rows[slots_t.clamp(min=0)], torch.zeros_like(rows[:1]))
            along[f"support_{name}"] = group
        tensors["support_mask"], along["support_mask"] = (slots_t >= 0).to(self.tensors[group].device), group
        return self._with(tensors=tensors, along=along)

    def _stratify(self) -> Self:
        strata: dict[str, Tensor] = {}
        for name in self.labels.values():
            mask = self.tensors[name].cpu()
            strata |= {name: mask.nonzero()[:, 0], f"un{name}": (~mask).nonzero()[:, 0]}
        full = self.n_rows == self.sizes[self.rows]  # the strata of a minibatch keep their sizes in the full data
        sizes = {k: len(v) for k, v in strata.items()} if full else {}
        return self._with(strata=strata, sizes={**self.sizes, **sizes})

    def _frames_of(self, rows: Tensor) -> Tensor:
        lengths = self.tensors["lengths"].cpu()
        starts = torch.cumsum(lengths, 0) - lengths
        return torch.cat([torch.arange(s, s + n) for s, n in zip(starts[rows], lengths[rows], strict=True)])


def places(index: np.ndarray, time: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Place of each row in the order of its group, from 0, and the number of rows of its group.

    Args:
        index: Group of each row, shape (N,).
        time: Time of each row, shape (N,), by which they are ordered; rows of the same time, and all rows if it is not
            known, keep their order here.

    Returns:
        Two arrays of whole numbers, shape (N,).
    """
    order = np.arange(len(index)) if time is None else np.argsort(time, kind="stable")
    place = np.empty(len(index), int)
    place[order] = pd.Series(index[order]).groupby(index[order]).cumcount().to_numpy()
    return place, pd.Series(index).groupby(index).transform("size").to_numpy()


def _positions(rows: Any) -> Tensor:
    rows = rows if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))
    if rows.dtype == torch.bool or (rows.is_floating_point() and len(rows)):
        raise TypeError(f"rows: {rows.dtype} values; give positions, e.g. numpy.flatnonzero(mask)")
    return rows.long()
