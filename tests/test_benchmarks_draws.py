import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import draws

import pyrozoo as zoo


def test_all_lines_make_the_same_groups_and_one_by_one_is_not_at_once(monkeypatch):
    fit, data = draws.made("dryer")
    data = data.subset(range(6))
    lines = draws.variants(fit, data, "to_arviz", 4)
    assert list(lines) == ["zoo", "one by one", "Pyro Predictive"]
    sizes = []
    pair = draws.many.pair
    monkeypatch.setattr(draws.many, "pair", lambda *a, **k: sizes.append(k.get("draws", 1)) or pair(*a, **k))
    found, alone, theirs = (line() for line in lines.values())
    assert sizes[-4:] == [1] * 4
    assert 4 in sizes
    for name in ("c", "z"):
        shape = tuple(found["posterior"][name].sizes.values())
        assert tuple(alone["posterior"][name].sizes.values()) == shape
        assert np.prod(theirs["posterior"][name].shape) == np.prod(shape)
    assert theirs["posterior_predictive"]["x"].shape[0] == 4
    assert {"c", "z", "x"} <= set(theirs["log"])


def test_every_function_of_a_case_is_known():
    assert {name for names in draws.OF_CASE.values() for name in names} == set(draws.FUNCTIONS)
    assert set(draws.OF_CASE) == set(draws.CASES)
    assert all(hasattr(zoo, name.split(",")[0]) for name in draws.FUNCTIONS)
