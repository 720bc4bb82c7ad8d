import contextlib
import json
import os
import random
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import faults as bench

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")


def test_a_process_is_hit_and_what_it_leaves_is_judged(tmp_path):
    assert bench.hit(lambda: time.sleep(60), signal.SIGKILL, 0.01) == -signal.SIGKILL
    assert bench.ended(bench.forked(lambda: 3)) == 3
    lost = bench._until_killed(2, lambda i: time.sleep(0.2), lambda i, killed: not killed, random.Random(0))
    assert lost == {"kills": 2, "lost": 2}
    assert bench._killed_saves(1, tmp_path, random.Random(0))["lost"] == 0


def reading(answer):
    def read():
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return read


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, "read"),
        (ValueError("wells.csv: no table"), "refused"),
        (ValueError("no table"), "unnamed: ValueError: no table"),
        (ValueError("wells.csv:\nno table"), "raw: several lines of ValueError"),
        (RuntimeError("wells.csv"), "raw: RuntimeError: wells.csv"),
    ],
)
def test_what_a_reader_does_with_a_damaged_file_is_told_apart(tmp_path, answer, outcome):
    (tmp_path / "wells.csv").write_text("well,u\n")
    assert bench.Case(tmp_path / "wells.csv", reading(answer)).outcome(b"x", False) == outcome


def test_a_damaged_copy_differs_and_a_zip_file_often_stays_one(tmp_path):
    path, rng = tmp_path / "a.zip", random.Random(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "u,v\n" + "1,2\n" * 10)
    whole, intact = path.read_bytes(), 0
    copies = [bench.damaged(whole, rng) for _ in range(40)]
    assert sum(copy != whole for copy in copies) > 30
    for copy in copies:
        path.write_bytes(copy)
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            intact += archive.testzip() is None
    assert intact > 20
    assert bench.damaged(b"", rng) == b""


@pytest.mark.slow
def test_every_part_runs_at_its_smallest_size(tmp_path):
    out = tmp_path / "faults.json"
    bench.main(["--sizes", "smoke", "--out", str(out)])
    record = json.loads(out.read_text())
    assert len(record) == 9
    assert record["kills"]["found"]["all"] == {"kills": 5, "lost": 0}
    assert record["4 threads"]["found"]["fit"] == {"calls": 8, "errors": 0, "wrong": 0}
    assert record["one checkpoint, two processes"]["found"]["two processes"]["refused"] == 1
