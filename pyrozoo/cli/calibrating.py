"""calibrate: a saved run and rows of new units to a run of these units."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path

from ..files import check_target, naming
from ..modeling import registry
from .columns import read_like

MODES = ("semi-supervised", "supervised", "unsupervised")


def calibrate_command(arguments: argparse.Namespace) -> int:
    """Learn what is different in new units, with the networks of a saved run as they are, and save a run of them."""
    if Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} exists; choose another folder for --out")
    check_target(arguments.out)

    from ..inference.losses import NonFiniteLoss
    from ..inference.saving import load

    fit = load(arguments.run)
    name = fit.model.entry[0] if fit.model.entry else None
    if name is None or not hasattr(registry.entry(name).parts, "calibrate"):
        raise ValueError(
            f"{arguments.run} is a run of {name or type(fit.model).__name__}, which calibrates no new units"
        )
    if fit.data["columns"] is None:
        raise ValueError(f"{arguments.run} was not fitted to a table; go on in Python, with a Batch")
    data = read_like(arguments, fit, arguments.data, labels=True)[0]
    data = dataclasses.replace(data, info={**data.info, "name": Path(arguments.data).name})
    with naming(arguments.data):
        try:
            found = registry.entry(name).parts.calibrate(fit, data, mode=arguments.mode, seed=arguments.seed)
        except NonFiniteLoss as error:
            raise ValueError(f"calibration stopped at {error}; nothing was saved") from error
    found.save(arguments.out)
    units = ", ".join(map(str, found.prototype.names("unit")[:5].tolist()))
    number = found.prototype.sizes["unit"]
    print(f"{number} unit{'s' if number > 1 else ''} in {arguments.out}: {units}{', ...' if number > 5 else ''}")
    if fit.law is not None:
        print(
            "their intervals are the model's own, too narrow with few labels: the correction of the run's is left out"
        )
    print(f"predict them with: pyrozoo predict {shlex.quote(arguments.out)} --data FILE.csv --out predictions.csv")
    return 0
