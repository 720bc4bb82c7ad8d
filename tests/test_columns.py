"""The columns of predictions: what is made is found again, whatever the names."""

import numpy as np
import pandas as pd
import pytest

from pyrozoo.posterior import columns

NAMES = ["flow", "a.mean", "b].sd", "p[c]", "[d", "3"]


def test_a_target_of_one_component_has_its_name():
    assert columns.component_names("y", 1, ["flow"]) == ["y"]
    assert columns.component_names("y", 2) == ["y[0]", "y[1]"]


def test_components_are_found_again_whatever_their_names():
    made = columns.component_names("y", len(NAMES), NAMES)
    parts = {}
    for j, name in enumerate(made):
        parts |= columns.columns_of(name, columns.summary([j], [10 + j], {0.05: [20 + j], 0.975: [30 + j]}))
    table = pd.DataFrame({"yy.mean": [0], "y2[a].mean": [0], **parts, "y[flow].lower": [0]})
    assert len(parts) == 4 * len(NAMES)
    assert columns.components(table, "y") == made
    for start, quantity in enumerate(("mean", "sd", "q05", "q97.5")):
        expected = 10 * start + np.arange(len(NAMES))
        np.testing.assert_array_equal(columns.component_values(table, "y", quantity), expected[None])
    assert columns.components(table, made[1]) == [made[1]], "a component stands for itself"
    assert columns.components(table, "z") == []


def test_classes_are_found_again_whatever_their_names():
    p = np.random.default_rng(0).dirichlet(np.ones(len(NAMES)), 5)
    made = columns.class_columns("k", np.array(NAMES), p.argmax(1), p)
    table = pd.DataFrame({"k2.p[x]": 0.0, **made, "y.mean": 0.0})
    assert list(made)[:2] == ["k.label", "k.p[flow]"]
    assert columns.classes(table, "k") == NAMES
    np.testing.assert_array_equal(columns.probabilities(table, "k"), p)
    np.testing.assert_array_equal(columns.probabilities(table, "k", NAMES[::-1]), p[:, ::-1])
    assert table["k.label"].tolist() == [NAMES[i] for i in p.argmax(1)]
    assert columns.components(table, "k") == []
    assert columns.is_discrete(table, "k")
    assert not columns.is_discrete(table, "y")


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (0.5, ("q25", "q75")),
        (0.8, ("q10", "q90")),
        (0.9, ("q05", "q95")),
        (0.95, ("q2.5", "q97.5")),
        (0.85, ("q7.5", "q92.5")),
    ],
)
def test_ends_of_central_intervals(level, names):
    assert columns.interval_names(level) == names
    low, high = columns.tails(level)
    assert (f"{low:.3g}", f"{high:.3g}") == (f"{(1 - level) / 2:.3g}", f"{(1 + level) / 2:.3g}")
    assert high - low == pytest.approx(level)
