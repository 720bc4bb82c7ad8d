import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import tutorial_times

from pyrozoo.posterior import many


def test_the_first_cell_of_one_kind_makes_draws_one_by_one(monkeypatch):
    monkeypatch.setattr(many, "broadcasts", many.broadcasts)  # put back at the end
    exec(tutorial_times.KINDS["one by one"], {})
    assert many.broadcasts(None, None, {}, draws=2) is False
