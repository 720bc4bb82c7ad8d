"""Tables larger than the memory: rows written to a folder once, chunk by chunk, and trained on from there.

::

    import pandas as pd, pyrozoo as zoo
    chunks = pd.read_csv("wells.csv", chunksize=100_000, dtype={"well": str})
    data = zoo.write_rows("wells", chunks, unit="well", x=["u", "p"], y="q")      # once
    data = zoo.open_rows("wells")                                                 # later, at no cost
    model = zoo.create_model("ssmtl", data)
    fit = zoo.fit(model, "amortized", data, steps=10_000, batch_size=500, groups="present")
    for table in zoo.predict_rows(fit, data): ...                                 # some rows at a time

Parquet is read in batches by pyarrow, which is no dependency of this package::

    chunks = (batch.to_pandas() for batch in pyarrow.parquet.ParquetFile("wells.parquet").iter_batches(100_000))

What `open_rows` returns is a `Batch` whose tensors are mapped from files: `take` reads what a minibatch needs, and
everything else works as on any other batch. Pages that were read belong to the kernel's page cache, which it drops when
memory is short; memory of the process itself is needed for the minibatch, for a window of the order of the rows (see
`pyrozoo.inference.minibatches.sample_minibatches`, also for what that does to the variance of the ELBO), and for the
names and parameters of the groups. What looks at all rows at once costs memory for all rows, as ever: `split`,
`relabel`, `with_support`, ``batch_size=None``, groups="all" with many units. Write training and test data to folders of
their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.batch import Batch
from ..data.build import provenance
from ..data.parts import OnDisk
from ..data.values import first_missing
from ..files import atomic_write_json, jsonable, one_line, read_json_object, require_plain, sha256_json
from .batches import names_from_json, names_to_json
from .row_files import Column, Support

FORMAT = 1


HEADER = "rows.json"


REMEDY = "write the rows again, or copy the whole folder again"


def write_rows(
    folder: str | Path,
    chunks: Iterable[pd.DataFrame] | pd.DataFrame,
    *,
    unit: str,
    x: Iterable[str] | str,
    y: Iterable[str] | str | None = None,
    support: int = 32,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    info: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Batch:
    """Write a table with one observation per row to a folder, in one pass over its chunks.

    Memory is needed for a chunk and for the units' names, whatever the number of rows. The folder holds one ``.npy``
    file per tensor and ``rows.json``, which is written last and marks the folder as complete: after an interruption,
    `open_rows` refuses the folder, and `write_rows` replaces it. However the table is cut into chunks, the result is
    bit-identical to `Batch.from_dataframe` of the whole table, followed by ``with_support(support, seed=seed)``, with
    two differences. Units are ordered by their first appearance, also those of a categorical column. Rows keep the
    names of the tables' index only if these are text, which takes 4 bytes per row and character of the longest, or
    numbers or times that increase throughout, as those of ``pandas.read_csv(chunksize=)`` do; otherwise they are
    numbered.

    Args:
        folder: Folder to create; an incomplete one is replaced.
        chunks: Data frames with the same columns, in order; empty ones are skipped.
        unit: Column that names the unit of each row, by text, numbers or times.
        x: Numeric columns of the inputs; they must be finite.
        y: Numeric column, or columns, of the target; missing where a row is unlabelled.
        support: Maximum number of rows per unit that an amortised guide reads (its ``support``), labelled ones first,
            else at random; 0 if no guide is amortised.
        seed: Random seed for the choice of the support rows.
        dtype: Floating type; None for torch's default.
        overwrite: Whether to replace a complete folder, too. Batches that are mapped from it stay as they are.
        info: Provenance of any other name that JSON can hold.
        **facts: Provenance, as of `Batch.from_dataframe`, e.g. ``name="wells"``, ``simulated=True``.

    Returns:
        The data, as `open_rows` opens them.

    Raises:
        FileExistsError: The folder exists, and is complete or was not made by this function.
        KeyError, TypeError, ValueError: As `Batch.from_dataframe`; the message also names the chunk. Nothing
            of what was written is kept.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> chunk = pd.DataFrame({"well": list("aab"), "u": [0.1, 0.4, 0.2], "q": [1.0, None, 2.0]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = zoo.write_rows(f"{folder}/wells", [chunk, chunk], unit="well", x=["u"], y="q")
        ...     data.n_rows, data.sizes["unit"], data["labelled"].sum().item()
        (6, 2, 4)
    """
    if support < 0:
        raise ValueError(f"support: {support} is negative; 0 is for none")
    folder = Path(folder)
    xs, ys = (columns if columns is None or isinstance(columns, str) else list(columns) for columns in (x, y))
    facts = provenance("write_rows", ("unit", "x", "y", "support", "seed", "dtype", "overwrite"), facts, info)
    options: dict[str, Any] = {"unit": unit, "x": xs, "y": ys, "dtype": dtype, "info": jsonable(facts, "info")}
    _prepare(folder, overwrite)
    try:
        writer = _Writer(folder, support, seed)
        with contextlib.closing(writer):
            for i, chunk in enumerate([chunks] if isinstance(chunks, pd.DataFrame) else chunks):
                if not isinstance(chunk, pd.DataFrame) or len(chunk):
                    with _naming_chunk(i, writer.n):
                        batch = Batch.from_dataframe(_uncategorical(chunk, unit), **options)
                        if missing := first_missing(batch, "x"):
                            raise ValueError(
                                f"{missing}, and tables on disk hold complete inputs; impute it or drop the row"
                            )
                        if "y_seen" in batch.tensors:
                            known = batch.known("y")
                            row = batch.names("row")[known.any(1) & ~known.all(1)].tolist()[0]
                            raise ValueError(
                                f"row {row!r}: some of the targets are missing and some are not, and rows on disk have "
                                "all or none; drop the row, or keep the table in memory"
                            )
                        writer.add(batch)
            writer.finish()
    except BaseException:
        _remove(folder)
        with contextlib.suppress(OSError):  # not empty: there are other files
            folder.rmdir()
        raise
    return open_rows(folder)


def open_rows(folder: str | Path, *, verify: bool = False) -> Batch:
    """Open a folder that `write_rows` wrote: a full `Batch` whose tensors are mapped from the files.

    Only the header is read; a file that was changed but kept its size goes unnoticed unless `verify` is set. Changing a
    tensor in place changes no file: the pages concerned are copied.

    Args:
        folder: The folder.
        verify: Whether to compare the SHA-256 of all files with those in the header, which reads all files.

    Raises:
        FileNotFoundError: There is no such folder, or it was not made by `write_rows`.
        ValueError: The folder is incomplete or of another format, or a file is missing, truncated or foreign.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> import pyrozoo as zoo
        >>> table = pd.DataFrame({"well": list("aab"), "u": [0.1, 0.4, 0.2], "q": [1.0, None, 2.0]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = zoo.write_rows(f"{folder}/wells", table, unit="well", x=["u"], y="q")
        ...     data = zoo.open_rows(f"{folder}/wells", verify=True)
        ...     data.names("unit").tolist(), data.take([0, 2])["x"].flatten().tolist()
        (['a', 'b'], [0.1..., 0.2...])
    """
    folder = Path(folder)
    header = _read_header(folder)
    try:
        return _opened(folder, header, verify)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a forged header may hold anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{folder / HEADER}: not what `write_rows` writes ({reason}); {REMEDY}") from error


def _opened(folder: Path, header: dict[str, Any], verify: bool) -> Batch:
    arrays = {name: _map(folder, folder / f"{name}.npy", facts, verify) for name, facts in header["files"].items()}
    tensors = {name: torch.from_numpy(arrays[name]) for name in header["along"]}
    coords = {name: names_from_json(names) for name, names in header["coords"].items()}
    coords["row"] = arrays["names_row"] if "names_row" in arrays else tensors["row"].numpy()
    chosen = {"unit": header["support"]} if header["support"] else {}
    return Batch(
        tensors, header["along"], header["sizes"], "row", ("unit",), header["labels"],
        {name: torch.from_numpy(arrays[f"rows_{name}"]) for name in header["strata"]},
        coords, {k: tuple(v) for k, v in header["dims"].items()}, info=header["info"],
        on_disk=OnDisk(tensors, chosen),
    )  # fmt: skip


class _Writer:
    """Appends chunks, each a full batch, to the files of a folder; see `write_rows`."""

    def __init__(self, folder: Path, support: int, seed: int) -> None:
        self.folder, self.n = folder, 0
        self.columns: dict[str, Column] = {}
        self.places: dict[Any, int] = {}
        self.names: list[np.ndarray] = []
        self.first: Batch | None = None
        self.strata: dict[str, int] = {}
        self.support = Support(folder, support, seed) if support else None
        self.named, self.numbered, self.last = True, True, None

    def add(self, chunk: Batch) -> None:
        """Append a chunk, translating its positions of groups and rows to those in the folder."""
        names = chunk.coords["unit"]
        self._check_names(names)
        keys = pd.Index(names, tupleize_cols=False).tolist()  # times, too, as objects: they tell days from nanoseconds
        new = [i for i, key in enumerate(keys) if key not in self.places]
        self.places |= {keys[i]: len(self.places) + j for j, i in enumerate(new)}
        self.names += [names[new]] if new else []
        units = np.array([self.places[key] for key in keys])[chunk["unit"].numpy()]
        for name, tensor in chunk.tensors.items():
            shifted = {"unit": units, "row": tensor.numpy() + self.n}
            self._append(name, shifted.get(name, tensor.numpy()))
        for name, rows in chunk.strata.items():
            self._append(f"rows_{name}", rows.numpy() + self.n)
            self.strata[name] = self.strata.get(name, 0) + len(rows)
        self._name_rows(chunk.coords["row"])
        if self.support is not None:
            masks = [chunk[mask].numpy() for mask in chunk.labels.values()]
            self.support.add(units, self.n, masks, len(self.places))
        if self.first is None:
            self.first = dataclasses.replace(chunk, tensors={}, strata={})
        self.n += chunk.n_rows

    def finish(self) -> None:
        """Write support tables and header."""
        if self.first is None:
            raise ValueError("the table has no rows; give at least one")
        if self.numbered or not self.named:
            self._drop("names_row")
        along = dict(self.first.along)
        if self.support is not None:
            names = [name for name, plate in along.items() if plate == "row" and name not in ("row", "unit")]
            rows = {name: self.columns[name].mapped() for name in names}
            for name, table in self.support.tables(len(self.places), rows):
                self._append(name, table)
                along[name] = "unit"
        coords = {k: v for k, v in self.first.coords.items() if k not in ("row", "unit")}
        coords["unit"] = np.concatenate(self.names)
        header = {
            "format": FORMAT, "complete": True, "along": along,
            "sizes": {"row": self.n, "unit": len(self.places), **self.strata},
            "labels": dict(self.first.labels), "strata": list(self.strata),
            "dims": {k: list(v) for k, v in self.first.dims.items()},
            "coords": {k: names_to_json(k, v) for k, v in coords.items()},
            "support": self.support.width if self.support is not None else 0, "info": dict(self.first.info),
        }  # fmt: skip
        header["files"] = {name: column.finish() for name, column in self.columns.items()}
        header = jsonable(header)
        atomic_write_json(self.folder / HEADER, header | {"sha256": sha256_json(header)})

    def close(self) -> None:
        """Close all files."""
        for column in self.columns.values():
            column.file.close()
        if self.support is not None:
            self.support.close()

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self.columns:
            self.columns[name] = Column(self.folder / f"{name}.npy", array)
        self.columns[name].append(array)

    def _drop(self, name: str) -> None:
        column = self.columns.pop(name, None)
        if column is not None:
            column.file.close()
            column.path.unlink()

    def _check_names(self, names: np.ndarray) -> None:
        """Refuse mixed types of names: the number 7 of one chunk and the text "7" of the next would be two units."""
        kinds = [_kind(names), *(_kind(known) for known in self.names[:1])]
        if len(set(kinds)) > 1:
            raise TypeError(
                f"the units are {kinds[0]} where those of the first chunk are {kinds[1]}; give the column one type, "
                "e.g. by dtype= of pandas.read_csv"
            )
        names_to_json("unit", names)  # refuse now what could not be written in the end

    def _name_rows(self, names: np.ndarray) -> None:
        """Keep the rows' names as long as all are text, or increasing numbers or times."""
        text = names.dtype.kind == "U" or all(isinstance(name, str) for name in names)
        names = names.astype(np.str_) if text else names
        index = pd.Index(names)
        rising = text or (names.dtype.kind in "iumM" and index.is_monotonic_increasing and index.is_unique)
        self.numbered &= names.dtype.kind in "iu" and bool((names == np.arange(self.n, self.n + len(names))).all())
        same = self.last is None or names.dtype == self.last.dtype or (text and self.last.dtype.kind == "U")
        self.named &= rising and same and (text or self.last is None or bool(names[0] > self.last))
        self.last = names[-1]
        if self.named:
            self._append("names_row", names)


def _prepare(folder: Path, overwrite: bool) -> None:
    """Make the folder and mark it as incomplete."""
    header = folder / HEADER
    if folder.exists():
        ours = folder.is_dir() and (header.exists() or not any(folder.iterdir()))
        complete = ours and header.exists() and read_json_object(header, "the header of rows").get("complete", True)
        if not ours or (complete and not overwrite):
            remedy = ", or overwrite=True" if ours else ""
            raise FileExistsError(f"{folder} exists; choose another folder{remedy}")
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        atomic_write_json(header, {"format": FORMAT, "complete": False})
    except BaseException:
        if new:
            folder.rmdir()
        raise
    _remove(folder, keep=HEADER)


def _remove(folder: Path, keep: str = "") -> None:
    """Remove the files of `write_rows`; batches that are mapped from them keep their content."""
    for pattern in ("*.npy", "support_*.tmp", HEADER):
        for file in folder.glob(pattern):
            if file.name != keep:
                file.unlink()


def _uncategorical(chunk: Any, unit: str) -> Any:
    """Turn a categorical unit column into a plain one: a chunk need not have all units, and their order is not used."""
    if not isinstance(chunk, pd.DataFrame) or unit not in chunk.columns:
        return chunk  # Batch.from_dataframe reports the error
    column: Any = chunk[unit]
    if not isinstance(getattr(column, "dtype", None), pd.CategoricalDtype):
        return chunk
    return chunk.assign(**{unit: column.astype(column.cat.categories.dtype)})


@contextlib.contextmanager
def _naming_chunk(i: int, first: int) -> Iterator[None]:
    """Put the chunk's number before an error message: rows of two chunks may have the same name."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise type(error)(f"chunk {i + 1}, which begins after {first} rows: {message}") from None


def _kind(names: np.ndarray) -> str:
    """Type of the units' names in words: "text", "numbers", "numbers and text" or "times"."""
    if names.dtype.kind in "mM":
        return "times"
    return " and ".join(sorted({"text" if isinstance(name, str) else "numbers" for name in names.tolist()}))


# -------------------------------------------------------------------- reading
def _read_header(folder: Path) -> dict[str, Any]:
    file = folder / HEADER
    if not file.exists():
        raise FileNotFoundError(f"{folder}: no rows here, it has no {HEADER}; make it with pyrozoo.write_rows")
    header = read_json_object(file, "the header of rows")
    if header.get("format") != FORMAT:
        raise ValueError(f"{file}: format {header.get('format')}, this version reads {FORMAT}; {REMEDY}")
    if not header.get("complete"):
        raise ValueError(f"{folder}: incomplete, its writing was interrupted; write the rows again")
    if header.pop("sha256", None) != sha256_json(header):
        raise ValueError(f"{file}: changed since the rows were written; {REMEDY}")
    return header


def _map(folder: Path, path: Path, facts: dict[str, Any], verify: bool) -> np.ndarray:
    """Map a file after checking that it is what was written. Its pages are copied when they are written to."""
    if path.name != f"{path.stem}.npy" or path.parent.resolve() != folder.resolve():
        raise ValueError(f"{folder / HEADER}: it names {path}, which is no file of this folder; {REMEDY}")
    require_plain(path)
    if not path.exists():
        raise ValueError(f"{path}: missing; {REMEDY}")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise ValueError(f"{path}: {size} bytes where {facts['bytes']} were written; {REMEDY}")
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # a damaged header may raise any type of error
        raise ValueError(
            f"{path}: no array of numbers ({one_line(error)}); pyrozoo opens no pickles; {REMEDY}"
        ) from None
    if array.dtype.str != facts["dtype"] or list(array.shape) != facts["shape"]:
        raise ValueError(f"{path}: {array.dtype} {array.shape}, not what was written; {REMEDY}")
    array = np.asarray(array)
    if verify and hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest() != facts["sha256"]:
        raise ValueError(f"{path}: changed since it was written; {REMEDY}")
    return array
