"""Draw the graph of each entry's model, its sites and plates, in docs/graphs/ (extra `graph`, and the program `dot`).

python docs/model_graphs.py [ENTRY ...]
"""

import sys
from pathlib import Path
from typing import Any

from pyro.infer.inspect import generate_graph_specification, get_model_relations, render_graph

import pyrozoo as zoo
from pyrozoo.modeling import registry

FOLDER = Path(__file__).parent / "graphs"
ENTRIES = ("ssmtl", "auxvae", "m3sense", "medication")


def graph_of(entry: str) -> dict[str, Any]:
    """Trace an entry's model, as `pyro.render_model` does, and return its sites, plates and edges."""
    parts = registry.entry(entry).parts
    data, arguments = parts.tiny(0)
    known = next(iter(parts.VARIANTS.values())).__init__.__code__.co_varnames
    model = zoo.create_model(entry, data, **{key: value for key, value in arguments.items() if key in known})
    return generate_graph_specification(get_model_relations(model, model_kwargs=dict(data)))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for entry in sys.argv[1:] or ENTRIES:
        drawing = render_graph(graph_of(entry))
        drawing.attr("graph", bgcolor="white")
        (FOLDER / f"{entry}.svg").write_bytes(drawing.pipe("svg"))
        print(FOLDER / f"{entry}.svg")
