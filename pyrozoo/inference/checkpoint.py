"""Checkpoints of a fit: one safetensors file from which it goes on bit-identically."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..modeling import priors as prior_tools
from ..modeling.base import ZooModel
from ..store.tensors import load_tensors, save_tensors

LENGTH = ("steps", "epochs", "least_steps")  # settings that may change when a fit goes on: it is trained longer
RATES = ("lr", "lr_groups", "clip", "schedule")  # and after a loss that was not finite


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and the JSON state of a training, whose ``fingerprint`` says what it is a training of."""
    save_tensors(path, tensors, {"state": json.dumps(state)})


def load_checkpoint(path: Path, fingerprint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        ValueError: Not a checkpoint, or one of another training than `fingerprint` describes; names what differs.
    """
    tensors, header = load_tensors(path)
    try:
        state = json.loads(header["state"])
        known = dict(state["fingerprint"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path}: no checkpoint of a fit; choose another checkpoint folder") from None
    for key, value in json.loads(json.dumps(fingerprint)).items():
        found = known.get(key)
        if key == "settings" and found is not None:
            free = LENGTH + RATES if state["status"] == "failed" else LENGTH
            differ = [n for n in value if n not in free and value[n] != found.get(n)]
            if differ:
                was = ", ".join(f"{n}={found.get(n)!r}" for n in differ)
                raise ValueError(
                    f"{path}: made with other settings; choose another checkpoint folder, or begin from its weights by "
                    f"warm_start=FIT (it was made with {was}; only steps or epochs may change)"
                )
        elif found != value:
            raise ValueError(f"{path}: made with other {key}; choose another checkpoint folder")
    return tensors, state


def moments_of(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The states of optimisers as named tensors."""
    return {
        f"optimizer/{which}/{i}/{k}": torch.as_tensor(v)
        for which, optimizer in enumerate(optimizers)
        for i, state in optimizer.state_dict()["state"].items()
        for k, v in state.items()
    }


def load_moments(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give optimisers the states that `moments_of` described."""
    for which, optimizer in enumerate(optimizers):
        moments: dict[int, dict[str, Any]] = {}
        for key, value in under(tensors, f"optimizer/{which}/").items():
            index, name = key.split("/")
            counts = name == "step" and isinstance(optimizer, torch.optim.SparseAdam)  # a number there, no tensor
            moments.setdefault(int(index), {})[name] = value.item() if counts else value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> Tensor:
    """Random state of the processor and, behind it, that of the GPU that is trained on."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return torch.cat(states)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Set what `random_state` returned."""
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own].clone())
    if len(state) > own and device.type == "cuda":
        torch.cuda.set_rng_state(state[own:].clone(), device)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def model_facts(model: ZooModel) -> str:
    """The model's class, version and constructor arguments, in words that are the same in every process."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else prior_tools.to_json(value) or type(value).__qualname__

    return json.dumps([type(model).__qualname__, model.version, model.config], default=plain, sort_keys=True)
