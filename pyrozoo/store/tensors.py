"""Tensors and text in one safetensors file, written atomically; never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..files import atomic_write_bytes, require_plain


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text to one safetensors file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    atomic_write_bytes(path, to_bytes(plain, dict(metadata)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote.

    Raises:
        ValueError: Truncated, or not a safetensors file (a pickle is never opened).
    """
    require_plain(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # sizes are declared by the file; those that fit no tensor raise many types of error
        raise ValueError(f"{path}: not a complete safetensors file ({error}); pyrozoo opens no pickles") from None
