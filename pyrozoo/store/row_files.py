"""Files of rows that grow: columns, and the support rows of every unit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

BLOCK = 2**16  # number of rows copied at a time


# -------------------------------------------------------------------- writing
class Column:
    """A ``.npy`` file that grows along its first axis; NumPy leaves room in the header for the final length."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.path, self.n, self.like = path, 0, like[:0].copy()
        self.digest = hashlib.sha256()
        self.file = open(path, "xb")  # noqa: SIM115
        self._header()
        self.offset = self.file.tell()

    def append(self, array: np.ndarray) -> None:
        """Append an array (n, ...); text may be of any length."""
        if array.dtype.kind == "U":
            if array.dtype.itemsize > self.like.dtype.itemsize:
                self._widen(array.dtype)
            array = array.astype(self.like.dtype)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self.file.write(data)
        self.digest.update(data)
        self.n += len(array)

    def mapped(self) -> np.ndarray:
        """The rows written so far, mapped from the file."""
        self.file.flush()
        return np.memmap(self.path, self.like.dtype, "r", self.offset, (self.n, *self.like.shape[1:]))

    def _widen(self, dtype: np.dtype) -> None:
        """Write the text so far anew with room for longer ones: every entry takes the room of the longest."""
        old, path = self.mapped(), self.path
        wider = Column(path.with_name("wider.npy"), np.zeros(0, dtype))
        for start in range(0, self.n, BLOCK):
            wider.append(old[start : start + BLOCK].astype(dtype))
        del old
        self.file.close()
        os.replace(wider.path, path)
        vars(self).update(vars(wider) | {"path": path})

    def finish(self) -> dict[str, Any]:
        """Write the final header; return the facts that `open_rows` checks."""
        end = self.file.tell()
        self.file.seek(0)
        self._header()
        self.file.flush()
        os.fsync(self.file.fileno())
        shape = [self.n, *self.like.shape[1:]]
        return {"dtype": self.like.dtype.str, "shape": shape, "bytes": end, "sha256": self.digest.hexdigest()}

    def _header(self) -> None:
        facts = {**npy.header_data_from_array_1_0(self.like), "shape": (self.n, *self.like.shape[1:])}
        npy.write_array_header_1_0(self.file, facts)


class Support:
    """Support rows of every unit so far: its rows with the highest scores, in files that grow with the number of units.

    A row's score is 2 minus the priority that `Batch.with_support` gives it, so it is positive; 0 marks an empty place.
    """

    def __init__(self, folder: Path, width: int, seed: int) -> None:
        self.folder, self.width, self.rng = folder, width, np.random.default_rng(seed)
        self.units = 0
        self.score: np.ndarray = np.zeros((0, width))
        self.row: np.ndarray = np.zeros((0, width), np.int64)

    def add(self, unit: np.ndarray, first: int, masks: list[np.ndarray], n_units: int) -> None:
        """Take further rows into account.

        Args:
            unit: Position of the unit of each row, shape (n,).
            first: Number of the first of these rows; the others follow it.
            masks: Masks of observed targets, each of shape (n,).
            n_units: Number of units so far.
        """
        self._grow(n_units)
        score = 2.0 - (self.rng.random(len(unit)) - sum(masks, np.zeros(len(unit))))
        order = np.lexsort((-score, unit))
        begins = np.r_[True, np.diff(unit[order]) != 0]
        place = np.arange(len(order)) - np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        order, place = order[place < self.width], place[place < self.width]
        for r in range(int(place.max()) + 1):  # in each round the next best row of every unit
            rows = order[place == r]
            units, own = unit[rows], score[rows]
            worst = self.score[units].argmin(1)
            better = own > self.score[units, worst]
            at = units[better], worst[better]
            self.score[at], self.row[at] = own[better], rows[better] + first

    def tables(self, n_units: int, rows: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tables in parts, some units at a time.

        Args:
            n_units: Number of units.
            rows: Name -> values of all rows, shape (N, ...).

        Yields:
            Name of a table and its entries for the next units: ``support_<name>`` or ``support_mask``.
        """
        step = max(1, BLOCK // self.width)
        blocks = [slice(start, min(start + step, n_units)) for start in range(0, n_units, step)]
        width = max(int((self.score[block] > 0).sum(1).max()) for block in blocks)
        for block in blocks:
            order = np.argsort(-self.score[block], 1, kind="stable")[:, :width]
            mask = np.take_along_axis(self.score[block], order, 1) > 0
            at = np.take_along_axis(self.row[block], order, 1)
            for name, values in rows.items():
                seen = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
                yield f"support_{name}", np.where(seen, values[at], np.zeros((), values.dtype))
            yield "support_mask", mask

    def close(self) -> None:
        """Remove the files."""
        self.score, self.row = np.zeros(0), np.zeros(0)
        for name in ("score", "row"):
            (self.folder / f"support_{name}.tmp").unlink(missing_ok=True)

    def _grow(self, n_units: int) -> None:
        if n_units <= len(self.score):
            return
        shape = max(2 * len(self.score), n_units, 1024), self.width
        files = [self.folder / f"support_{name}.tmp" for name in ("score", "row")]
        for file in files:
            file.touch()
        self.score, self.row = (
            np.memmap(file, dtype, "r+" if file.stat().st_size else "w+", shape=shape)
            for file, dtype in zip(files, (np.float64, np.int64), strict=True)
        )
