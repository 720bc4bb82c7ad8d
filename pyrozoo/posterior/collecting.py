"""From the traces of draws to the groups of a `Draws`, with the names of all axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pyro.poutine.trace_struct import Trace
from tqdm.auto import tqdm

from ..data.batch import Batch
from ..data.build import FRAMES
from ..data.tables import plain_names
from ..modeling.base import ZooModel
from ..modeling.hidden import OBSERVED, public_name
from .draws import Draws
from .sites import (
    by_draw,
    event_dims,
    is_data,
    is_discrete,
    is_half,
    named_sites,
    observed_values,
    plates_of,
    where_observed,
)
from .traces import Pair


def of_prior(part: Pair, one: Trace, sites: list[str] | None) -> dict[str, dict]:
    """Groups of the draws of a part, made from the prior; `one` is the trace of the model in one draw."""
    trace = part.predictive(prior=True)
    return {
        "prior": _values(part, trace, one, sites, False),
        "prior_predictive": _values(part, trace, one, sites, True),
    }


def collect(
    chains: list[list[dict]], trace: Trace, model: ZooModel, data: Batch, sites: list[str] | None, attrs: dict
) -> Draws:
    """Join the parts of each chain, and add the observed data and the names of all axes."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for group, variables in chains[0][0].items():
        groups[group] = {
            v: np.stack([np.concatenate([part[group][v] for part in chain]) for chain in chains]) for v in variables
        }
    groups["observed_data"] = {
        public_name(name): observed_values(site)
        for name, site in trace.nodes.items()
        if is_data(site) and _wanted(name, sites)
    }
    dims = {public_name(name): (*plates_of(site), *event_dims(model, name, site)) for name, site in named_sites(trace)}
    plates = {plate for _, site in named_sites(trace) for plate in plates_of(site)}
    groups["constant_data"], constant_dims = _constants(data, dims, sites)
    dims |= constant_dims
    used = {d for v in dims.values() for d in v}
    own = {k: np.asarray(v) for k, v in model.coords.items()}
    coords = {k: v for k, v in {**data.coords, **own}.items() if k in used}
    if data.rows in coords:
        coords[data.rows] = data.names(data.rows)
    coords = {axis: plain_names(names) for axis, names in coords.items()}
    beside: dict[str, np.ndarray] = {}
    if data.row_coords and data.rows in used:
        found = {k: np.asarray(v) for k, v in data.describe_rows().items() if k not in used and k not in dims}
        beside = {str(k): v.astype(str) if v.dtype == object else v for k, v in found.items()}
    coords |= beside
    attrs = attrs | {"data": str(data.info.get("name", "")), "simulated": str(bool(data.info.get("simulated")))}
    kept = {k: v for k, v in groups.items() if v}
    variables = {v for group in kept.values() for v in group}
    dims |= {"lp": (), "lq": (), "diverging": ()}
    targets = tuple(name for name in model.targets if name in variables)
    dims = {k: v for k, v in dims.items() if k in variables} | dict.fromkeys(beside, (data.rows,))
    return Draws(kept, dims, coords, attrs, tuple(sorted(plates)), targets)


def _constants(
    data: Batch, sites_dims: Mapping[str, Any], sites: list[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Inputs, group tables and positions in the groups, with the names of their axes; all that is no site."""
    found: dict[str, np.ndarray] = {}
    dims: dict[str, tuple[str, ...]] = {}
    masks = {*data.labels.values(), data.rows, "weight"}
    for name, tensor in data.tensors.items():
        if name in data.groups:
            found[f"{name}_idx"], dims[f"{name}_idx"] = tensor.cpu().numpy(), (data.rows,)
        elif name not in sites_dims and name not in masks and not name.startswith("support_") and _wanted(name, sites):
            along = "all_frames" if data.along[name] == FRAMES else data.along[name]  # flat, not cut into rows
            named = tuple(data.dims.get(name, ()))
            extra = tensor.dim() - 1
            event = named if len(named) == extra else tuple(f"{name}_dim_{i}" for i in range(extra))
            found[name], dims[name] = tensor.cpu().numpy(), (along, *event)
    return found, dims


def of_posterior(
    part: Pair, one: Trace, sites: list[str] | None, predictive: bool, bar: tqdm | None = None
) -> dict[str, dict]:
    """Groups of the draws of a part; `one` is the trace of the model in one draw."""
    assert part.source is not None  # made by `pair`
    model = part.source[0]
    out: dict[str, dict[str, np.ndarray]] = {"posterior": {}, "log_likelihood": {}, "log_prior": {}, "sample_stats": {}}
    for name, site in named_sites(part.model):
        shown = part.enumerated.get(name) or (None if is_data(site) or is_half(name, part.model) else site)
        if shown is not None and _wanted(name, sites):
            out["posterior"][name] = _array(part, name, shown, one)
    for name, value in part.log_likelihood().items():
        if _wanted(name, sites):
            found = where_observed(part.model.nodes[name], value, density=True, draws=part.draws)
            out["log_likelihood"][public_name(name)] = found.cpu().numpy()
    with_prior = model.priors().keys() - set(model.enumerated)
    for name, site in part.sites("model"):
        density = part.log_density(site) if name in with_prior and _wanted(name, sites) else None
        if density is not None and density.dim() <= part.nesting:  # else it depends on an enumerated site
            out["log_prior"][name] = part.by_draw(site, density, 0).cpu().numpy()
    for key, side in (("lp", "model"), ("lq", "guide")):
        out["sample_stats"][key] = part.total(side).numpy()
    if predictive:
        out["posterior_predictive"] = _values(part, part.predictive(), one, sites, True)
    if bar is not None:
        bar.update(part.draws)
    return out


def _array(part: Pair, name: str, site: Mapping[str, Any], one: Trace) -> np.ndarray:
    alone = one.nodes[name]["value"].dim() if name in one.nodes else None
    return by_draw(site["value"], site, part.draws, alone=alone).cpu().numpy()


def _values(part: Pair, trace: Trace, one: Trace, sites: list[str] | None, observed: bool) -> dict[str, np.ndarray]:
    out = {}
    for name, site in named_sites(trace):
        was_data = bool(site["infer"].get("was_observed")) and not site["infer"].get("_deterministic")
        is_target = site["infer"].get("_deterministic") and name + OBSERVED in trace.nodes
        if _wanted(name, sites) and not is_half(name, trace) and bool(was_data or is_target) is observed:
            value = _array(part, name, site, one)
            whole = observed and was_data and is_discrete(site) and value.dtype.kind == "f"
            out[name] = value.astype(np.int64) if whole else value
    return out


def _wanted(name: str, sites: list[str] | None) -> bool:
    return sites is None or public_name(name) in sites
