"""Clauses about fits: what a card imports, and that fits learn, repeat, stay independent and can be loaded again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import torch

from ..data.batch import Batch
from ..data.build import FRAMES
from ..inference.copies import isolated
from ..inference.fit import fit
from ..inference.fitted import Fit
from ..inference.losses import Loss, NonFiniteLoss
from ..modeling import priors as prior_tools
from ..modeling.enumeration import density_sites
from ..modeling.guides import declared, with_support
from ..modeling.registry import BUILT_IN, create_guide, entry
from ..posterior.drawing import draw
from ..posterior.draws import Draws
from .densities import require
from .describing import trace_of
from .subject import Skipped, Subject, subjects, swappable

N_DRAWS = 3
FALL_STEPS = 40  # the loss of every entry has fallen by then as far as one can tell from its noise
PLAIN = (".json", ".safetensors", ".nc")
RECOVERY_SEEDS = (0, 1, 2)


# -------------------------------------------------------------------- C1
def light_card(subject: Subject) -> None:
    """C1: the card is plain data, needs no torch, and the registry lists its entries within a second."""
    try:
        json.dumps(dataclasses.asdict(subject.card))
    except TypeError as error:
        raise AssertionError(f"the card holds something else than text and numbers ({error})") from None
    lines = ["import sys, time", "start = time.perf_counter()", "import pyrozoo", "pyrozoo.list_models()"]
    lines += ["seconds = time.perf_counter() - start"]
    if subject.name in BUILT_IN:  # only the code that registers another entry knows where its card is
        lines += [f"pyrozoo.card({subject.name!r})"]
    lines += ["print(seconds, 'torch' in sys.modules)"]
    runs = [_python("-c", "\n".join(lines)).split() for _ in range(3)]  # other programs can slow one run down
    light = all(imported == "False" for _, imported in runs)
    require(light, f"reading the card of {subject.name!r} imports torch; import it in the entry's other files only")
    fastest = min(float(seconds) for seconds, _ in runs)
    require(fastest < 1.0, f"list_models() takes {fastest:.2f} s; import nothing heavy in pyrozoo/__init__ and cards")


def _python(*arguments: str, given: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, *arguments], input=given, capture_output=True, text=True, env=environment)
    require(done.returncode == 0, f"a new Python process failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


# -------------------------------------------------------------------- C7
def loss_falls(subject: Subject) -> None:
    """C7: a short fit lowers the loss; data that make it non-finite are reported, and the last good state is kept."""
    train = subject.data()
    found = short_fit(subject, train, epochs=FALL_STEPS, anneal=None)
    elbo = found.history["elbo"].to_numpy()
    if found.status == "solved":
        with isolated(1):
            start = _unsolved_elbo(subject, train)
        require(elbo[-1] > start, f"solve() takes the ELBO per row from {start:.4g} to {elbo[-1]:.4g}")
    else:
        first, last = elbo[:10].mean(), elbo[-10:].mean()
        change = f"from {first:.4g} to {last:.4g} in {FALL_STEPS} steps"
        require(last > first, f"the ELBO per row goes {change}; see fit_defaults")
    _check_poisoned(subject, train)


def _unsolved_elbo(subject: Subject, train: Batch) -> float:
    model = subject.model()
    guide = create_guide(model, subject.guide)
    with torch.no_grad():
        return -Loss(model, guide, model.elbo()).value(train) / train.n_rows


def _check_poisoned(subject: Subject, train: Batch) -> None:
    poisoned = {}
    for name, tensor in train.tensors.items():
        if train.along[name] in (train.rows, FRAMES) and tensor.is_floating_point():
            poisoned[name] = tensor.clone()
            poisoned[name][-1] = math.nan
    try:
        short_fit(subject, train.with_tensors(poisoned))
    except NonFiniteLoss as error:
        kept = error.fit
        solved = declared(kept.guide, "solve") is not None
        named = "site '" in str(error) and ("step 0" in str(error) or solved)
        require(named, f"NonFiniteLoss names no step and site: {error}")
        if not solved:
            trace = trace_of(kept.guide, kept.model, with_support(kept.guide, train))
            finite = all(torch.isfinite(site["value"]).all() for site in density_sites(trace).values())
            require(finite, "the fit in NonFiniteLoss.fit draws non-finite values; its last good state is not good")
        return
    raise AssertionError(f"NaN in {sorted(poisoned)} raises no NonFiniteLoss")


def short_fit(subject: Subject, train: Batch, *, seed: int = 0, **settings: Any) -> Fit:
    """Fit the subject to tiny data for a few steps, each on the whole batch.

    Args:
        subject: The subject.
        train: The data.
        seed: Random seed for the fit.
        **settings: Settings of `pyrozoo.fit`; 3 steps without ``epochs``.
    """
    with isolated(0):
        model = subject.model()
    if "epochs" not in settings:
        settings["steps"] = 3
    return fit(model, subject.guide, train, seed=seed, progress=False, batch_size=None, **settings)


# -------------------------------------------------------------------- C8
def recovery(subject: Subject) -> None:
    """C8: the entry's recovery experiment, averaged over seeds, gives what the card expects."""
    if not hasattr(subject.parts, "recovery"):
        raise Skipped("the entry offers no recovery(seed)")
    expected = subject.card.expected
    found = [subject.parts.recovery(seed) for seed in RECOVERY_SEEDS]
    for metrics in found:
        require(set(metrics) == set(expected), f"recovery gives {sorted(metrics)}, the card expects {sorted(expected)}")
    for metric, (value, se, k) in expected.items():
        mean = float(np.mean([metrics[metric] for metrics in found]))
        within = abs(mean - value) <= k * se
        require(within, f"{metric}: {mean:.5g} over seeds {RECOVERY_SEEDS}, expected {value} +- {k} x {se}")


# -------------------------------------------------------------------- C9
def reproducible(subject: Subject) -> None:
    """C9: equal seeds give equal bits, other seeds give other results; the caller's state does not change."""
    train = subject.data()
    with pyro.get_param_store().scope():
        pyro.param("of the caller", torch.ones(1))
        before = _callers_state()
        first, second = (short_fit(subject, train, valid=train) for _ in range(2))
        draws = [draw(first, train, draws=N_DRAWS, seed=seed) for seed in (0, 0, 1)]
        after = _callers_state()
    changed = [what for what in before if before[what] != after[what]]
    require(not changed, f"fit or draw changes the caller's {changed}")
    require(same_weights(first, second), "two fits with one seed differ; draw all randomness from torch's generator")
    require(same_draws(draws[0], draws[1]), "two calls of draw with one seed differ")
    require(not same_draws(draws[0], draws[2]), "draws with another seed are the same")
    if first.status != "solved":
        other = short_fit(subject, train, seed=1)
        require(not same_weights(first, other), "a fit with another seed has the same weights")


def _callers_state() -> dict[str, Any]:
    store = pyro.get_param_store()
    return {
        "random state of torch": torch.get_rng_state().tolist(),
        "random state of numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random state of python": random.getstate(),
        "parameter store": {name: value.tolist() for name, value in store.items()},
        "pyro settings": pyro.settings.get(),
        "default type": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
    }


def same_weights(one: Fit, other: Fit) -> bool:
    """Whether two fits have bit-equal weights."""
    a, b = weights(one), weights(other)
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def weights(found: Fit) -> dict[str, torch.Tensor]:
    """All tensors of a fit, by restart, part and name."""
    return {
        f"{i}/{part}/{name}": tensor.detach()
        for i, run in enumerate(found.runs)
        for part, module in (("model", run.model), ("guide", run.guide))
        for name, tensor in module.state_dict().items()
    }


def same_draws(one: Draws, other: Draws) -> bool:
    """Whether two sets of draws are bit-equal; NaN equals NaN."""
    if {g: set(v) for g, v in one.groups.items()} != {g: set(v) for g, v in other.groups.items()}:
        return False
    pairs = [(value, other.groups[group][name]) for group, found in one.groups.items() for name, value in found.items()]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


# -------------------------------------------------------------------- C10
def independent(subject: Subject) -> None:
    """C10: a second fit leaves the first unchanged, and fitting a fitted model starts anew."""
    train = subject.data()
    first = short_fit(subject, train)
    kept = {name: tensor.clone() for name, tensor in weights(first).items()}
    second = short_fit(subject, train, seed=1)
    again = fit(first.model, subject.guide, train, seed=0, progress=False, batch_size=None, steps=3)
    moved = sorted(name for name, tensor in weights(first).items() if not torch.equal(tensor, kept[name]))
    require(not moved, f"a second fit changes {moved} of the first; keep no state outside the instance")
    shared = {t.data_ptr() for t in weights(first).values()} & {t.data_ptr() for t in weights(second).values()} - {0}
    require(not shared, "two fits share memory; make tensors in the constructor, not at import")
    require(same_weights(first, again), "fitting a fitted model goes on from its weights; fresh() must build a new one")


# -------------------------------------------------------------------- C11
def saved(subject: Subject) -> None:
    """C11: every variant and guide of the entry, saved and loaded in a new process, gives bit-equal draws."""
    same_after_saving(subjects(subject.card))


def same_after_saving(chosen: Iterable[Subject]) -> None:
    """Compare the draws of some fits, of one entry or several, with those of the saved ones, in one new process."""
    with tempfile.TemporaryDirectory() as folder:
        expected, runs = {}, []
        entries: dict[str, dict[str, Any]] = {}
        for i, one in enumerate(chosen):
            if one.name not in entries:
                source = entry(one.name).source
                parts = source.__name__ if isinstance(source, ModuleType) else source
                if not isinstance(parts, str):
                    raise Skipped("a new process cannot import the parts of this entry; register a module or its name")
                entries[one.name] = {"card": dataclasses.asdict(one.card), "parts": parts}
            if one.swapped and not _as_json(one):
                continue
            train = one.data()
            found = short_fit(one, train)
            path = found.save(Path(folder) / f"run{i}")
            foreign = [p.name for p in path.rglob("*") if p.is_file() and p.suffix not in PLAIN]
            require(not foreign, f"{one}: the run directory holds {foreign}")
            expected[str(one)] = draw(found, train, draws=N_DRAWS)
            runs.append([str(one), one.name, str(path), str(Path(folder) / f"draws{i}.npz")])
        request = {"entries": entries, "runs": runs, "threads": torch.get_num_threads(), "draws": N_DRAWS}
        _python("-m", "pyrozoo.contract.redraw", given=json.dumps(request))
        for label, *_, file in runs:
            same = same_draws(expected[label], Draws.load(file))
            require(same, f"{label}: the loaded fit draws other values than the one that was saved")


def _as_json(subject: Subject) -> bool:
    try:
        model = subject.model()
    except Skipped:
        return False
    given = model.config.get("priors") or {}
    return all(prior_tools.to_json(given[site]) is not None for site in swappable(model) if site in given)
