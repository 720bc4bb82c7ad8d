"""Names of a package that are imported on first use, so that importing the package itself is fast."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names_of(
    package: str, homes: Mapping[str, tuple[str, ...]], modules: Mapping[str, str] | None = None
) -> tuple[Callable, Callable, list[str]]:
    """Make the module functions ``__getattr__`` and ``__dir__``, and ``__all__``, of a package.

    Args:
        package: The package's ``__name__``.
        homes: Submodule -> the public names that it holds; the submodules become attributes, too.
        modules: Attribute -> path of the submodule below the package that it stands for.

    Returns:
        ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    where = {name: home for home, names in homes.items() for name in names}
    modules = dict(modules or {})

    def get(name: str) -> Any:
        if name in modules:
            value = importlib.import_module(f"{package}.{modules[name]}")
        elif name in where:
            value = getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        vars(importlib.import_module(package))[name] = value
        return value

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *where, *modules})

    return get, names, sorted({*where, *modules})
