"""The new process of C11: load run directories and draw from them, without the fits that were saved.

``python -m pyrozoo.contract.redraw`` reads one JSON object from its standard input. It holds the card of every entry
and the module of its parts, the number of threads and of draws, and the label, entry, run directory and output file of
every run.
"""

from __future__ import annotations

import importlib
import json
import sys

import torch

from ..inference.saving import load
from ..modeling import registry
from ..posterior.drawing import draw


def main() -> None:
    """Draw from every run in the request."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    data = {}
    for name, entry in request["entries"].items():
        parts = importlib.import_module(entry["parts"])
        if name not in registry.list_models():
            registry.register(registry.Card(**entry["card"]), parts)
        data[name] = parts.tiny(0)[0]
    for _, name, run, file in request["runs"]:
        draw(load(run), data[name], draws=request["draws"]).save(file)


if __name__ == "__main__":
    main()
