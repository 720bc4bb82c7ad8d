"""predict: a saved run and new data to tables."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_write_text, check_target, naming
from ..modeling import registry
from .columns import read_like
from .fitting import recordings

if TYPE_CHECKING:
    import pandas as pd

    from ..inference.fitted import Fit


def predict_command(arguments: argparse.Namespace) -> int:
    """Predict a table, or decode recordings, with a saved run."""
    out = Path(arguments.out)
    check_target(out)
    if out.is_dir() or (out.exists() and out.samefile(arguments.data)):
        raise ValueError(f"{out} is {'a folder' if out.is_dir() else 'the input'}; choose another file for --out")

    from ..inference.saving import load
    from ..posterior.predicting import predict

    fit = load(arguments.run)
    name = fit.model.entry[0] if fit.model.entry else None
    if name and hasattr(registry.entry(name).parts, "tables"):
        return _write_tables(arguments, fit, name, out)
    if arguments.decoder is not None:
        raise ValueError(f"--decoder {arguments.decoder}: {name or type(fit.model).__name__!r} decodes nothing")
    if arguments.rate is not None:
        raise ValueError(f"--rate belongs to recordings; {arguments.run} was fitted to a table")
    columns = fit.data["columns"]
    if columns is None:
        raise ValueError(f"{arguments.run} was not fitted to a table; use pyrozoo.predict in Python, with a Batch")
    like = fit.prototype
    if not like.labels:
        raise ValueError(f"{arguments.run} was fitted without a target, so it predicts none; fit again with --y COL")
    batch, keys = read_like(arguments, fit, arguments.data, labels=False)
    with naming(arguments.data):
        predictions = predict(fit, batch)  # which refuses values whose prediction is not finite
    predictions = predictions.drop(columns=[name for name in batch.describe_rows() if batch.row_coords])
    result = _with_keys(predictions, keys, [columns[group] for group in like.groups if group in columns])
    atomic_write_text(out, result.to_csv(index=False, lineterminator="\n"))
    print(f"{len(predictions)} rows predicted in {out}")
    return 0


def _with_keys(predictions: pd.DataFrame, keys: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """Predictions beside the row number and the columns of the table that are no inputs, those of the groups first."""
    taken = [column for column in keys if column in predictions]
    if taken:
        raise ValueError(f"column {taken[0]!r} of the input has the name of a prediction; rename it")
    number = next(name for name in ("row", "index", "line number") if name not in keys)
    keys = keys[[*groups, *(column for column in keys if column not in groups)]].reset_index(drop=True)
    keys.insert(0, number, range(len(keys)))
    return keys.join(predictions.reset_index(drop=True))


def _write_tables(arguments: argparse.Namespace, fit: Fit, name: str, out: Path) -> int:
    batch = recordings(arguments, name, like=fit.prototype)
    with naming(arguments.data):
        make = registry.entry(name).parts.tables
        if arguments.decoder is not None and "decoder" not in inspect.signature(make).parameters:
            raise ValueError(f"--decoder {arguments.decoder}: {name!r} decodes nothing")
        tables = make(fit, batch, **({} if arguments.decoder is None else {"decoder": arguments.decoder}))
    paths = {suffix: out.with_name(f"{out.stem}.{suffix}{out.suffix}") if suffix else out for suffix in tables}
    for path in paths.values():
        if path.exists() and path.samefile(arguments.data):
            raise ValueError(f"{path} is the input; choose another file for --out")
    for suffix, table in tables.items():
        atomic_write_text(paths[suffix], table.to_csv(index=False, lineterminator="\n"))
        print(f"{len(table)} lines in {paths[suffix]}")
    if batch.info.get("rate_assumed"):
        print("no frame rate is given: the fit's is taken (name it by --rate HZ)")
    return 0
