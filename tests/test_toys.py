"""The toy of every shape of data in CONTRIBUTING's table: it keeps the contract, is short, and is linked there."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import pyrozoo as zoo
from pyrozoo import contract

REPOSITORY = Path(__file__).parents[1]
TOYS = sorted(path.stem for path in (REPOSITORY / "tests" / "toys").glob("*.py"))
QUICK = ("C2", "C3", "C4", "C5", "C6", "C12", "C14", "C16", "C18", "C19")  # those without a fit or another process


@pytest.fixture
def toy(request):
    module = importlib.import_module(f"toys.{request.param}")
    zoo.register(module.CARD, module.__name__)
    yield module
    zoo.unregister(module.CARD.name)


def failed(name, **options):
    return [result for result in contract.check(name, **options) if not result.ok]


@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_a_toy_keeps_the_clauses_of_its_density(toy):
    assert failed(toy.CARD.name, only=QUICK, fast=True) == []


@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_a_toy_is_fitted_and_predicts_its_hidden_rows(toy):
    data, arguments = toy.tiny()
    fit = zoo.fit(zoo.create_model(toy.CARD.name, data, **arguments), "normal", data, steps=3, progress=False)
    table = zoo.predict(fit, data, draws=20)
    assert len(table) == data.n_rows
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("toy", TOYS, indirect=True)
def test_a_toy_keeps_the_whole_contract(toy):
    assert failed(toy.CARD.name, slow=True) == []


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_has_less_than_sixty_lines(name):
    assert len((REPOSITORY / "tests" / "toys" / f"{name}.py").read_text().splitlines()) < 60


def test_the_table_of_idioms_links_every_toy():
    linked = re.findall(r"\(tests/toys/(\w+)\.py\)", (REPOSITORY / "CONTRIBUTING.md").read_text())
    assert sorted(set(linked)) == TOYS
