import tomllib
from pathlib import Path

import pytest

import pyrozoo
from pyrozoo.data import folders as paths

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "top" / "pyrozoo"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", folder)
    return folder


def test_a_checkout_uses_its_data_folder(package):
    (package.parent / "pyproject.toml").touch()
    (package.parent / "data").mkdir()
    (package / "_data").symlink_to("../data")
    assert paths.data_dir() == package.parent / "data"


def test_an_installed_package_uses_its_copy(package):
    (package / "_data").mkdir()
    (package.parent / "data").mkdir()  # another package of that name in site-packages
    assert paths.data_dir() == package / "_data"


def test_no_data(package):
    with pytest.raises(FileNotFoundError, match="install pyrozoo again"):
        paths.data_dir()


def test_data_path(package):
    (package / "_data" / "dryer").mkdir(parents=True)
    (package / "_data" / "dryer" / "dryer.csv").touch()
    (package / "secret").touch()
    assert paths.data_path("dryer/dryer.csv") == package / "_data" / "dryer" / "dryer.csv"
    for name in ("dreyer", "dryer/other.csv", "../secret", str(package / "secret")):
        with pytest.raises(FileNotFoundError, match="data sets: dryer"):
            paths.data_path(name)


def test_this_checkout_is_found():
    assert paths.data_dir() == Path(__file__).resolve().parents[1] / "data"


def test_the_version_is_the_one_of_the_installed_package():
    assert pyrozoo.__version__ == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
