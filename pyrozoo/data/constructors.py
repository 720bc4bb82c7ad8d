"""Batches from arrays, and from tables with one observation per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import pandas as pd
import torch

from .build import arrays_to_parts, columns_to_arrays, provenance, table_to_arrays
from .values import name_list, require_mapping


class Constructors:
    """How a `Batch` is made of arrays, or of a table."""

    @classmethod
    def from_arrays(
        cls,
        *,
        rows: Mapping[str, Any],
        groups: Mapping[str, Any] | None = None,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        frames: Mapping[str, Sequence[Any]] | None = None,
        labels: Mapping[str, Any] | None = None,
        seen: Mapping[str, Any] | None = None,
        row_plate: str = "row",
        dims: Mapping[str, tuple[str, ...]] | None = None,
        coords: Mapping[str, Any] | None = None,
        row_coords: Mapping[str, Any] | None = None,
        truth: Mapping[str, Any] | None = None,
        truth_along: Mapping[str, str] | None = None,
        dtype: torch.dtype | None = None,
        info: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> Self:
        """Build a full batch from arrays.

        Args:
            rows: Name -> array with one entry per row, shape (N, ...).
            groups: Group -> one label per row, shape (N,): any hashable labels. A group's positions follow
                ``coords[group]`` where given, else the order in which labels first appear.
            tables: Group -> {name -> array with one entry per group, shape (M, ...)}; needs ``coords[group]``.
            frames: Name -> one array per row, shapes (T_n, ...): ragged; stored flat, with ``lengths`` along rows.
            labels: Target in ``rows`` or ``frames`` -> boolean array (N,), True on the rows where it is observed;
                entries elsewhere are set to 0 and never used. A model receives the mask of a target as
                ``<target>_labelled``; that of ``y``, or of an only target, also as ``labelled``.
            seen: Array in ``rows`` -> boolean array of its shape, False where a value is missing; it is set to 0 there.
                A model receives the mask as ``<name>_seen``; a fit refuses one that takes none. A target of several
                components has one if some rows have part of them: a row with any of them has a label.
            row_plate: Name of the row plate.
            dims: Name -> names of its event dimensions.
            coords: Plate or event dimension -> names of its positions.
            row_coords: Name -> what describes each row beside its name, such as the time at which it begins, (N,). By
                ``time``, splits and folds order the rows of a group.
            truth: Name -> array known to the simulator only.
            truth_along: Truth entry -> plate of its first axis.
            dtype: Floating type; None for torch's default.
            info: Provenance of any other name.
            **facts: Provenance: name, simulated, seed, source, reference, licence, rate, rate_assumed, rates, seconds,
                standardised.

        Raises:
            TypeError: A value is not an array of numbers, or names of groups cannot be compared.
            ValueError: An array has the wrong length or a non-finite entry, a name is taken, a group has no rows or is
                unknown.

        Example:
            >>> import numpy as np
            >>> import pyrozoo as zoo
            >>> signals = [np.zeros((5, 3)), np.zeros((7, 3))]  # two recordings of 5 and 7 frames with 3 channels
            >>> data = zoo.Batch.from_arrays(rows={}, groups={"participant": ["Ann", "Bo"]}, frames={"x": signals})
            >>> data["x"].shape, data["lengths"].tolist()
            (torch.Size([12, 3]), [5, 7])
        """
        given = {
            "tables": tables, "groups": groups, "labels": labels, "dims": dims, "coords": coords,
            "row_coords": row_coords, "truth": truth, "truth_along": truth_along, "seen": seen,
        }  # fmt: skip
        for what, value in given.items():
            require_mapping(what, value)
        arguments = (
            "rows", "groups", "tables", "frames", "labels", "seen", "row_plate", "dims", "coords", "row_coords",
            "truth", "dtype",
        )  # fmt: skip
        info = provenance("from_arrays", arguments, facts, info)
        return cast(Any, cls)(
            **arrays_to_parts(
                rows=rows, groups=groups, tables=tables, frames=frames, labels=labels, seen=seen,
                row_plate=row_plate, dims=dims, coords=coords, row_coords=row_coords, truth=truth,
                truth_along=truth_along, dtype=dtype, info=info,
            )
        )  # fmt: skip

    @classmethod
    def from_dataframe(
        cls,
        df: pd.DataFrame,
        *,
        unit: str,
        x: Sequence[str],
        y: str | Sequence[str] | None = None,
        units: Sequence[Any] | None = None,
        time: str | None = None,
        levels: Mapping[str, Sequence[Any]] | None = None,
        dtype: torch.dtype | None = None,
        info: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> Self:
        """Read a table with one observation per row: a unit, inputs x, and targets y where known.

        Rows keep their order and repeated rows are kept: each is an observation. A missing y (NaN) makes the row
        unlabelled; without ``y`` the whole table is unlabelled. The names of the rows are the table's own index, also a
        repeated one, and predictions carry it: ``df["p"] = zoo.predict(fit, fit.batch(df))["y.mean"]``.

        Args:
            df: The table, N rows.
            unit: Column that names the unit of each row.
            x: Columns of the inputs: of numbers; of True and False, as 1 and 0; or categorical, with one input of 0 and
                1 for each category, named ``<column>=<category>``. An input may be missing (NaN) for a model that takes
                the mask ``x_seen``, such as SSMTL, which integrates it out.
            y: Numeric column, or columns, of the target. A row may have some of several and not others for a model that
                takes the mask ``y_seen``, such as SSMTL; it counts as labelled.
            units: All units in the order they should have; by default that of a categorical column's categories,
                else the order in which they first appear.
            time: Column with the time of each row, numbers or ``datetime64``, which becomes the rows' coordinate
                ``time``: no model sees it, predictions, plots and ArviZ objects carry it. It may be one of `x`, too.
            levels: Input -> its categories, of columns that are not categorical, or to have them as in another table.
            dtype: Floating type; None for torch's default.
            info: Provenance of any other name.
            **facts: Provenance: name, simulated, seed, source, reference, licence, rate, rate_assumed, rates, seconds,
                standardised.

        Raises:
            KeyError: A column is not in the table.
            TypeError: Not a data frame; a column that does not hold real numbers; a unit that cannot be hashed.
            ValueError: No rows; a missing unit; an infinite x or y; a unit without rows; a column used twice; a value
                that is none of the categories. The message names column and row.

        Example:
            >>> import pandas as pd
            >>> import pyrozoo as zoo
            >>> table = pd.DataFrame({"well": ["b", "a", "b"], "u": [0.1, 0.4, 0.2], "q": [1.0, None, 2.0]})
            >>> data = zoo.Batch.from_dataframe(table, unit="well", x=["u"], y="q", name="wells")
            >>> data
            Batch(wells: 3 of 3 rows; labelled(3,), x(3, 1), y(3, 1), unit(3,), row(3,))
            >>> data.names("unit").tolist()
            ['b', 'a']
        """
        info = provenance("from_dataframe", ("unit", "x", "y", "units", "time", "levels", "dtype"), facts, info)
        require_mapping("levels", levels)
        return cls.from_arrays(**table_to_arrays(df, unit, x, y, units, time, levels or {}, dtype, info))

    @classmethod
    def from_columns(
        cls,
        df: pd.DataFrame,
        *,
        groups: Mapping[str, str] | None = None,
        rows: Mapping[str, str | Sequence[str]] | None = None,
        targets: Mapping[str, str | Sequence[str]] | None = None,
        labels: bool = True,
        names: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, tuple[str, ...]] | None = None,
        time: str | None = None,
        levels: Mapping[str, Sequence[Any]] | None = None,
        dtype: torch.dtype | None = None,
        info: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> Self:
        """Read a table with one observation per row, by the names that a model gives to groups, inputs and targets.

        A column's name makes one number per row, shape (N,); a list of names makes a vector per row, shape (N, D).
        Otherwise the rules are those of `from_dataframe`, which is this for one group ``unit``, inputs ``x`` and
        targets ``y``.

        Args:
            df: The table, N rows.
            groups: Group -> column that names the group of each row.
            rows: Tensor -> numeric column or columns, or columns of categories as of `from_dataframe`. Where values are
                missing, the model receives the mask ``<tensor>_seen``.
            targets: Target -> numeric column or columns, NaN where it is not known.
            labels: Whether the table has the targets; False reads none of them, as for new data to predict.
            names: Group -> all its names in the order they should have; see ``units`` of `from_dataframe`.
            dims: Tensor or target -> name of its dimension, where it has several columns.
            time: Column with the time of each row, as of `from_dataframe`.
            levels: Categories of the columns of `rows`, as of `from_dataframe`.
            dtype: Floating type; None for torch's default.
            info: Provenance of any other name.
            **facts: Provenance, as of `from_dataframe`.

        Raises:
            KeyError, TypeError, ValueError: As `from_dataframe`; ValueError also if neither `rows` nor `targets` name a
                column. The message names column and row.

        Example:
            >>> import pandas as pd
            >>> import pyrozoo as zoo
            >>> table = pd.DataFrame({"pupil": list("aabb"), "task": [1, 2, 1, 2], "right": [1, 0, 1, None]})
            >>> groups = {"person": "pupil", "item": "task"}
            >>> data = zoo.Batch.from_columns(table, groups=groups, targets={"y": "right"}, name="answers")
            >>> data["y"].tolist(), data["item"].tolist(), data["labelled"].tolist()
            ([1.0, 0.0, 1.0, 0.0], [0, 1, 0, 1], [True, True, True, False])
        """
        for what, value in (("groups", groups), ("rows", rows), ("targets", targets), ("names", names), ("dims", dims),
                            ("levels", levels)):  # fmt: skip
            require_mapping(what, value)
        arguments = ("groups", "rows", "targets", "labels", "names", "dims", "time", "levels", "dtype")
        info = provenance("from_columns", arguments, facts, info)
        is_list = pd.api.types.is_list_like
        listed: list[dict[str, Any]] = [
            {name: name_list(name, own) if is_list(own) else own for name, own in (given or {}).items()}
            for given in (rows, targets)
        ]
        return cls.from_arrays(
            **columns_to_arrays(
                df, groups=groups or {}, rows=listed[0], targets=listed[1], labels=labels, names=names or {},
                dims=dims or {}, time=time, levels=levels or {}, dtype=dtype, info=info,
            )
        )  # fmt: skip
