"""Batch: the one form in which data reach every model and guide of the zoo.

A batch is a frozen mapping of named tensors, called as ``model(**batch)``. It is made of

* *rows*, the smallest exchangeable pieces (a sample, a window, a recording),
* *groups* (a unit, a participant), each an integer index per row plus tables with one entry per group,
* *frames*, ragged arrays inside rows: stored flat along their first axis, cut into rows by ``lengths``,

and it knows the full size of every plate, so that a minibatch taken from it is scaled exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .build import FRAMES, MAIN, TIME, mask_alias, refuse_taken
from .constructors import Constructors
from .parts import OnDisk, Parts
from .tables import described
from .values import SEEN, blank, check_precision, columns_of, to_mask, to_names


@dataclass(frozen=True, eq=False)
class Batch(Constructors, Parts):
    """A frozen mapping of named tensors with the plates they lie along.

    Use `Batch.from_dataframe` or `Batch.from_arrays` rather than the constructor.

    Attributes:
        tensors: Tensors that ``model(**batch)`` receives beside ``sizes``: values along rows, one long index per group
            and row, group tables, flat frames, and ``<rows>``, the rows' positions in the full data.
        along: Name of a tensor or truth entry -> name of the plate of its first axis (``"frame"`` for flat frames).
        sizes: Plate or stratum -> size in the full data (not in this minibatch).
        rows: Name of the row plate.
        groups: Names of the group plates; ``tensors[group]`` is the index of each row into the group's tables.
        labels: Target -> name of the boolean row tensor that says where the target is observed; a model receives it as
            ``<target>_labelled``, too.
        strata: Stratum -> positions of its rows in this batch; a minibatch has none.
        coords: Plate or event dimension -> names of its positions. Further entries describe the rows, such as the time
            at which each begins: ``along`` says so, `predict` has a column of each, and no model sees them.
        dims: Tensor or site -> names of its event dimensions.
        truth: Name -> array that a simulator knows and no model sees.
        info: Provenance: ``name``, ``simulated``, and the ``columns`` by which a data frame was read.
        on_disk: Facts about a data set whose tensors are mapped from files, else None; a batch taken from such a data
            set has its tensors in memory.

    Example:
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> table = pd.DataFrame({"well": list("aabb"), "u": [0.1, 0.4, 0.2, 0.9], "q": [1.0, None, 2.0, 3.0]})
        >>> data = zoo.Batch.from_dataframe(table, unit="well", x=["u"], y="q")
        >>> data["x"].shape, data["unit"].tolist(), data["labelled"].tolist()
        (torch.Size([4, 1]), [0, 0, 1, 1], [True, False, True, True])
        >>> part = data.take([0, 3])
        >>> part.n_rows, part["sizes"]["row"]
        (2, 4)
    """

    tensors: Mapping[str, Tensor]
    along: Mapping[str, str]
    sizes: Mapping[str, int]
    rows: str = "row"
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    strata: Mapping[str, Tensor] = field(default_factory=dict)
    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    on_disk: OnDisk | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("tensors", "along", "sizes", "labels", "strata", "coords", "dims", "truth", "info"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getstate__(self) -> dict[str, Any]:
        """Plain mappings for copy and pickle, which refuse read-only ones."""
        return {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in vars(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    # The mapping protocol: what ``model(**batch)`` sees.
    def __getitem__(self, key: str) -> Any:
        if key == "sizes":
            return dict(self.sizes)  # plain, so that arguments can be pickled
        return self.tensors[self._aliases.get(key, key)]

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors
        yield from self._aliases
        yield "sizes"

    def __len__(self) -> int:
        return len(self.tensors) + len(self._aliases) + 1

    @property
    def _aliases(self) -> dict[str, str]:
        """Second names of masks: ``<target>_labelled`` of one that is stored as ``labelled``."""
        names = {mask_alias(target): mask for target, mask in self.labels.items()}
        return {alias: mask for alias, mask in names.items() if alias not in self.tensors}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k}{tuple(v.shape)}" for k, v in self.tensors.items())
        name, rows = self.info.get("name", "unnamed"), f"{self.n_rows} of {self.sizes[self.rows]} {self.rows}s"
        return f"Batch({name}: {rows}; {shapes})"

    @property
    def n_rows(self) -> int:
        """Number of rows held here; ``sizes[rows]`` is the number in the full data."""
        return len(self.tensors[self.rows])

    @property
    def row_coords(self) -> tuple[str, ...]:
        """Names of the coordinates that describe the rows beside their names."""
        return tuple(k for k in self.coords if self.along.get(k) == self.rows and k not in self.tensors)

    @property
    def time(self) -> np.ndarray | None:
        """Time of each row held here, shape (N,), the coordinate ``time`` of the rows; None if it is not known."""
        return self.coords[TIME][self.tensors[self.rows].cpu().numpy()] if TIME in self.row_coords else None

    @property
    def reference(self) -> Tensor:
        """A tensor with the device and the floating type of the data."""
        return next((t for t in self.tensors.values() if t.is_floating_point()), torch.zeros(()))

    @property
    def sha256(self) -> str:
        """Identity of the data: hash of every tensor's name, type, shape and bytes, and of the sizes.

        The mask of the first target counts as ``labelled``, whatever its name, as in the hashes of committed records.
        """
        first = next(iter(self.labels.values()), "labelled")
        known = {first: "labelled", f"un{first}": "unlabelled"}
        sizes = sorted((known.get(name, name), size) for name, size in self.sizes.items())
        digest = hashlib.sha256(repr(sizes).encode())
        for name, stored in sorted((known.get(name, name), name) for name in self.tensors):
            array = np.ascontiguousarray(self.tensors[stored].detach().cpu().numpy())
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)  # no copy: the data may be larger than the memory
        return digest.hexdigest()

    # ---------------------------------------------------------------- labels
    def relabel(self, observed: Any, target: str | None = None) -> Batch:
        """Hide further labels: `target` stays observed only where it was before and `observed` is True.

        Args:
            observed: Boolean array, shape (N,).
            target: Name of the target; by default the only one, or ``y``.

        Raises:
            KeyError: No such target.
            ValueError: `observed` has another shape.

        Example:
            >>> import numpy as np
            >>> import pyrozoo as zoo
            >>> data = zoo.load_data("ssmtl", "dryer").subset(range(100))
            >>> sparse = data.relabel(np.arange(100) < 10)
            >>> sparse.sizes["labelled"], sparse.sizes["unlabelled"]
            (10, 90)
        """
        target = self._target(target)
        name = self.labels[target]
        mask = torch.as_tensor(to_mask("observed", observed, self.n_rows), device=self.tensors[name].device)
        mask = mask & self.tensors[name]
        tensors = dict(self.tensors) | {name: mask}
        tensors[target] = blank(self.tensors[target], self.per_entry(target, mask))
        along = dict(self.along)
        if (entries := tensors.pop(target + SEEN, None)) is not None:
            entries = entries & mask.reshape(mask.shape + (1,) * (entries.dim() - 1))
            if torch.equal(entries.flatten(1).any(1), entries.flatten(1).all(1)):
                del along[target + SEEN]  # the mask of the rows says it all
            else:
                tensors[target + SEEN] = entries
        return replace(self, tensors=tensors, along=along)._stratify()

    def hide(self) -> Batch:
        """Return the same data with every target unobserved, as at prediction."""
        batch = self
        for target in self.labels:
            batch = batch.relabel(np.zeros(self.n_rows, bool), target)
        return batch

    def observed(self, target: str | None = None) -> np.ndarray:
        """Say where a target is observed, of several components at least one.

        Args:
            target: Name of the target; by default the only one, or ``y``.

        Returns:
            Boolean array, shape (N,); for a target along frames, one entry per frame.

        Raises:
            KeyError: No such target.
        """
        target = self._target(target)
        return self.per_entry(target, self.tensors[self.labels[target]]).cpu().numpy()

    def known(self, target: str | None = None) -> np.ndarray:
        """Say which entries of a target are observed: of its components in each row.

        Args:
            target: Name of the target; by default the only one, or ``y``.

        Returns:
            Boolean array of the shape of the target, (N, ...).

        Raises:
            KeyError: No such target.

        Example:
            >>> import pandas as pd
            >>> import pyrozoo as zoo
            >>> table = pd.DataFrame({"well": list("aab"), "u": [0.1, 0.4, 0.2], "oil": [1.0, 2.0, None]})
            >>> table["water"] = [3.0, None, None]
            >>> data = zoo.Batch.from_dataframe(table, unit="well", x=["u"], y=["oil", "water"])
            >>> data.known().tolist(), data.observed().tolist()
            ([[True, True], [True, False], [False, False]], [True, True, False])
        """
        target = self._target(target)
        values, rows = self.tensors[target], self.per_entry(target, self.tensors[self.labels[target]])
        entries = rows.reshape(rows.shape + (1,) * (values.dim() - 1)).expand(values.shape)
        return self.tensors.get(target + SEEN, entries).cpu().numpy()

    # ---------------------------------------------------------------- names and groups
    def names(self, plate: str) -> np.ndarray:
        """Names of the positions of `plate` in this batch; integers where the plate has no names."""
        held = self.tensors[self.rows].cpu().numpy() if plate == self.rows else np.arange(self.sizes[plate])
        return self.coords[plate][held] if plate in self.coords else held

    def columns(self, name: str, size: int | None = None) -> list[str]:
        """Names of the components of a tensor (N, D), e.g. ``x``: its coordinates, or ``x[0]``, ``x[1]`` ...

        Args:
            name: Name of the tensor.
            size: Number of components D, for a tensor that the batch does not hold.
        """
        size = self.tensors[name].shape[1] if size is None else size
        dims = self.dims.get(name, ())
        known = self.coords.get(dims[-1], ()) if dims else ()
        return [str(label) for label in known] if len(known) == size else [f"{name}[{j}]" for j in range(size)]

    def group_names(self, group: str) -> np.ndarray:
        """Name of each row's group, shape (N,)."""
        return self.coords[group][self.tensors[group].cpu().numpy()]

    def describe_rows(self) -> pd.DataFrame:
        """Make a table of what describes the rows beside their names: their groups and the further coordinates.

        Its index are the names of the rows. `predict` puts these columns before its own, if there are any coordinates.

        Example:
            >>> import numpy as np
            >>> import pyrozoo as zoo
            >>> rows, begin = {"x": np.zeros((3, 1))}, {"begin": [0.0, 20.0, 0.0]}
            >>> data = zoo.Batch.from_arrays(rows=rows, groups={"person": ["Ann", "Ann", "Bo"]}, row_coords=begin)
            >>> data.describe_rows().to_dict("list")
            {'person': ['Ann', 'Ann', 'Bo'], 'begin': [0.0, 20.0, 0.0]}
        """
        held = self.tensors[self.rows].cpu().numpy()
        columns = {group: self.group_names(group) for group in self.groups if group in self.coords}
        columns |= {name: self.coords[name][held] for name in self.row_coords}
        return pd.DataFrame(columns, index=pd.Index(self.names(self.rows), name=self.rows))

    def align(self, group: str, names: Any) -> Batch:
        """Change the positions of a group's members to those in `names`; tables of the group are dropped.

        Args:
            group: Name of the group plate.
            names: Names of all members of the group in their new order, e.g. those of the training data.

        Raises:
            KeyError: A member of this batch is not among `names`; the message lists it.
        """
        position = {name: i for i, name in enumerate(to_names(names).tolist())}
        own = self.coords[group].tolist()
        unknown = [name for name in own if name not in position]
        if unknown:
            raise KeyError(
                f"unknown {group}(s) {unknown[:5]}: not among the {len(position)} {group}s of the training data"
            )
        lookup = torch.tensor([position[name] for name in own], device=self.tensors[group].device)
        tensors = {k: v for k, v in self.tensors.items() if self.along[k] != group}
        tensors[group] = lookup[self.tensors[group]]
        coords = dict(self.coords) | {group: to_names(names)}
        truth = {k: v for k, v in self.truth.items() if self.along.get(k) != group}
        return replace(self, tensors=tensors, coords=coords, truth=truth, sizes={**self.sizes, group: len(position)})

    def with_tables(self, group: str, tables: Mapping[str, Tensor]) -> Batch:
        """Add or replace tables of a group.

        Args:
            group: Name of the group plate.
            tables: Name -> tensor with one entry per group, shape (M, ...).

        Raises:
            ValueError: A table has the wrong length, or its name is taken.
        """
        refuse_taken(f"tables of {group}", tables, {self.rows}, self.groups)
        for name, table in tables.items():
            if len(table) != self.sizes[group]:
                raise ValueError(f"{name}: {len(table)} entries for {self.sizes[group]} {group}s")
        return replace(self, tensors={**self.tensors, **tables}, along={**self.along, **dict.fromkeys(tables, group)})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Batch:
        """Replace values of tensors that the batch has.

        Args:
            tensors: Name -> new values, of the same shape as before.

        Raises:
            ValueError: The batch has no tensor of that name and shape.
        """
        for name, tensor in tensors.items():
            if name not in self.tensors or tensor.shape != self.tensors[name].shape:
                raise ValueError(f"{name}: no tensor of this batch has that name and shape {tuple(tensor.shape)}")
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Move all tensors to `device` and convert floating tensors to `dtype`; None leaves either as it is.

        Raises:
            ValueError: The values of a column would lose their precision; a smaller loss is a warning.
        """
        for name, tensor in self.tensors.items():
            if tensor.dtype == torch.float64 and dtype is not None and self.along[name] in (self.rows, FRAMES):
                for part, values in columns_of(name, tensor):
                    check_precision(part, values, dtype)

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return replace(self, tensors={k: move(v) for k, v in self.tensors.items()}, on_disk=None)

    def read_to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Like `to`, but rows on disk stay there: each minibatch is moved when it is taken."""
        if self.on_disk is None:
            return self.to(device=device, dtype=dtype)
        others = {k: v for k, v in self.tensors.items() if self.along[k] != self.rows}
        moved = replace(self, tensors=others).to(device=device, dtype=dtype)
        on_disk = replace(self.on_disk, device=device, dtype=dtype)
        return replace(self, tensors={k: moved.tensors.get(k, v) for k, v in self.tensors.items()}, on_disk=on_disk)

    def support_rows(self, group: str) -> int | None:
        """Maximum number of support rows per `group` with which a data set was written to disk.

        None if the data are not on disk, have no support tables, or are no longer the rows for which these were made.
        """
        if self.on_disk is None or group not in self.on_disk.support:
            return None
        plates = {self.rows, group}
        same = all(self.tensors.get(k) is v for k, v in self.on_disk.tensors.items() if self.along.get(k) in plates)
        return self.on_disk.support[group] if same else None

    # ---------------------------------------------------------------- inside
    def _target(self, target: str | None) -> str:
        """The target that was named, or else the only one, or ``y``."""
        named = target is not None
        if target is None:
            target = next(iter(self.labels)) if len(self.labels) == 1 else MAIN
        if target not in self.labels:
            which = "" if named or not self.labels else "; give the name of one"
            raise KeyError(f"{target!r} is no target of this batch; targets: {sorted(self.labels)}{which}")
        return target

    def per_entry(self, target: str, rows: Tensor) -> Tensor:
        """Expand a mask over rows (N,) to the entries of a target: unchanged, or repeated for every frame of a row."""
        return rows.repeat_interleave(self.tensors["lengths"]) if self.along[target] == FRAMES else rows


def require_batch(name: str, given: Any) -> None:
    """Raise TypeError, with the remedy, if an argument is no Batch."""
    if not isinstance(given, Batch):
        raise TypeError(f"{name}: a {described(given)}; give a Batch, of a data frame fit.batch(df)")
