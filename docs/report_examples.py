"""Make the example pages: the report of each entry's reference fit, in docs/reports/.

python docs/report_examples.py [ENTRY ...]
"""

import sys
from pathlib import Path

import numpy as np

import pyrozoo as zoo
from pyrozoo.data.batch import Batch

FOLDER = Path(__file__).parent / "reports"


def ssmtl() -> tuple[str, Batch, Batch | None]:
    """The dryer: the labels that the fit saw, and the other rows of the same batches."""
    from pyrozoo.models.ssmtl import draw_labels

    data = zoo.load_data("ssmtl", "dryer")
    seen = draw_labels(data, per_unit=5, seed=0)
    return "ssmtl/dryer", data.relabel(seen), data.subset(np.flatnonzero(~seen))


def auxvae() -> tuple[str, Batch, Batch | None]:
    """Simulated gait: the people of the first fold left out."""
    from pyrozoo.models.auxvae.experiments.runs import fold_of

    return "auxvae/simulated", *fold_of(0, 0, "quick")


def m3sense() -> tuple[str, Batch, Batch | None]:
    """Simulated wrist signals: the other half of the people."""
    from pyrozoo.models.m3sense.experiments.runs import TASKS, chosen, parts_of

    train, test = (chosen(part, TASKS) for part in parts_of(0, "quick")[:2])
    return "m3sense/simulated", train, test


def medication() -> tuple[str, Batch, Batch | None]:
    """Watch sessions: all of them, subjects left out of further fits."""
    from pyrozoo.models.medication.data.datasets import watch_sessions_all

    return "medication/watch", watch_sessions_all(), None


EXAMPLES = {"ssmtl": ssmtl, "auxvae": auxvae, "m3sense": m3sense, "medication": medication}

if __name__ == "__main__":
    for entry in sys.argv[1:] or EXAMPLES:
        name, train, test = EXAMPLES[entry]()
        out = FOLDER / f"{name.replace('/', '-')}.html"
        report = zoo.report(zoo.load_reference(name), train, test, out=out)
        print(f"{out}: {out.stat().st_size / 1e6:.2f} MB\n{report}")
