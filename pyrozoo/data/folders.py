"""Location of the data sets: in a source checkout, or inside the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def data_dir() -> Path:
    """Find the folder of the data sets.

    It is `data/` at the top of a source checkout (including an editable install), and otherwise the copy inside an
    installed package.

    Raises:
        FileNotFoundError: Neither exists.
    """
    checkout = _PACKAGE.parent
    # pyproject.toml tells a checkout from a site-packages folder that happens to hold a package named "data".
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    installed = _PACKAGE / "_data"
    if installed.is_dir():
        return installed
    raise FileNotFoundError(
        f"pyrozoo's data sets are neither in {checkout / 'data'} (source checkout) nor in {installed} (installed "
        "package): install pyrozoo again, from a wheel or from a complete checkout"
    )


def data_path(name: str) -> Path:
    """Find a data set or a file in it.

    Args:
        name: Path relative to the folder of the data sets, such as "dryer" or "dryer/dryer.csv".

    Raises:
        FileNotFoundError: There is no such data set or file; the message lists the data sets there are.
    """
    folder = data_dir()
    path = folder / name
    if path.resolve().is_relative_to(folder.resolve()) and path.exists():
        return path
    available = ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    raise FileNotFoundError(f"no data {name!r} in {folder}; data sets: {available or 'none'}")
