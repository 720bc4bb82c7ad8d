"""The tuning record of rules for the shares of networks and processes: that it follows, and what a rule does."""

import json
from pathlib import Path

import numpy as np
import pytest

from pyrozoo.models.ssmtl.experiments import processes, shares

PAGE = Path(processes.FOLDER).parent / "README.md"


@pytest.fixture(scope="module")
def record():
    return json.loads((shares.FOLDER / "shares.json").read_text())


def test_the_record_holds_every_table_and_its_summary_follows(record):
    assert [(row["table"], row["first"]) for row in record["tables"]] == [
        (table, first) for table in shares.USED for first in shares.FIRST
    ]
    assert record["summary"] == shares.summary(record["tables"])


def test_no_rule_is_surely_better_and_the_page_quotes_by_how_much(record):
    page = " ".join(PAGE.read_text().split())
    for row in record["summary"]:
        assert row["mean"] > -2 * row["se"]  # none is surely better
        assert row["worst"] > 0
        if row["scored"] == "quarter" and row["first"] == "networks":
            assert f"{row['mean']:+.3f} ± {row['se']:.3f}" in page
            assert f"{row['worst']:+.3f}" in page


@pytest.mark.parametrize(
    ("rule", "share"), [("squares", 0.65), ("Huber", 0.2), ("bootstrap", 0.55), ("jackknife", 0.6)]
)
def test_one_far_label_turns_squares_more_than_other_rules(rule, share):
    rng, n = np.random.default_rng(0), 250
    networks, process = rng.normal(0, 1.0, n), rng.normal(0, 0.5, n)
    process[17] += 20  # by squares the networks' best share goes from 0.2 to (0.25 + 20^2 / n) / (1.25 + 20^2 / n)
    found = shares.shares(np.stack([networks, process, process]), np.arange(n) % 5, rule, rng)
    assert found.sum() == pytest.approx(1.0)
    assert found[0] == pytest.approx(share, abs=0.1)


def test_a_rule_is_scored_on_rows_that_did_not_choose(monkeypatch):
    monkeypatch.setattr(shares, "HALVES", 2)
    rng = np.random.default_rng(0)
    held, new = ({name: rng.normal(size=n) for name in (*shares.FIRST, "squared", "absolute")} for n in (50, 20))
    rows = shares.scores(held, new, np.arange(50) % 5)
    assert [row["first"] for row in rows] == list(shares.FIRST)
    assert all(row[scored]["squares"] == 0.0 for row in rows for scored in ("quarter", "halves"))
    of = [np.stack([part[name] for name in ("ridge", "squared", "absolute")]) for part in (held, new)]
    own = [shares.shares(of[0], np.arange(50) % 5, rule, rng) for rule in ("squares", "Huber")]
    squares, huber = (np.sqrt(np.mean((each @ of[1]) ** 2)) for each in own)
    assert rows[1]["quarter"]["Huber"] == pytest.approx(np.log(huber / squares))
