"""Draw the graph of each entry's model, its sites and plates, in docs/graphs/ (extra `graph`, and the program `dot`).

python docs/model_graphs.py [ENTRY ...]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.inspect import generate_graph_specification, get_model_relations, render_graph

import pyrozoo as zoo
from pyrozoo.modeling import registry

FOLDER = Path(__file__).parent / "graphs"
ENTRIES = ("ssmtl", "auxvae", "m3sense", "medication")


def graph_of(entry: str) -> dict[str, Any]:
    """Trace an entry's model, as `pyro.render_model` does, and return its sites, plates and edges.

    Pyro follows tensors through torch functions; edges into a factor computed otherwise are read from gradients.
    """
    data, _ = registry.entry(entry).parts.tiny(0)
    model = zoo.create_model(entry, data)
    relations = get_model_relations(model, model_kwargs=dict(data))
    for site, parents in _into_factors(model, dict(data)).items():
        known = relations["sample_sample"][site]
        known += [parent for parent in parents if parent not in known]
    return generate_graph_specification(relations)


def _into_factors(model: Any, data: dict[str, Any]) -> dict[str, list[str]]:
    """Factors, each with the latents that have a gradient of its log value."""
    trace = poutine.trace(model).get_trace(**data)
    latents = [name for name in trace.stochastic_nodes if trace.nodes[name]["value"].is_floating_point()]
    for name in latents:
        trace.nodes[name]["value"] = trace.nodes[name]["value"].detach().requires_grad_()
    again = poutine.trace(poutine.replay(model, trace)).get_trace(**data)
    values = [again.nodes[name]["value"] for name in latents]
    found = {}
    for name, node in again.nodes.items():
        if node["type"] == "sample" and isinstance(node["fn"], Unit) and node["fn"].log_factor.requires_grad:
            gradients = torch.autograd.grad(node["fn"].log_factor.sum(), values, retain_graph=True, allow_unused=True)
            pairs = zip(latents, gradients, strict=True)
            found[name] = [latent for latent, own in pairs if own is not None and own.any()]
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for entry in sys.argv[1:] or ENTRIES:
        drawing = render_graph(graph_of(entry))
        drawing.attr("graph", bgcolor="white")
        (FOLDER / f"{entry}.svg").write_bytes(drawing.pipe("svg"))
        print(FOLDER / f"{entry}.svg")
