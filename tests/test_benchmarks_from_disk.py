import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import from_disk as bench


def test_writing_memory_and_steps_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "alone", lambda function, *given: function(*given))
    monkeypatch.setattr(bench, "n_steps", lambda minibatch: 2)
    out = tmp_path / "out.json"
    bench.main(
        [
            "--sizes",
            "2000",
            "4000",
            "--minibatches",
            "40",
            "--rounds",
            "1",
            "--folder",
            str(tmp_path),
            "--out",
            str(out),
        ]
    )
    record = json.loads(out.read_text())
    written = record["writing simulated rows in chunks of 100,000"]
    assert written["4,000"]["rows_per_s"] > 0
    assert set(record["minibatch 40: memory of a fit of 2 steps"]) == {"2,000", "4,000"}
    steps = record["minibatch 40: a step"]
    assert set(steps) == {"2,000", "4,000", "4,000 in memory"}
    assert 1 < steps["4,000"]["units"] <= 40
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"], "the data are removed"


def test_the_variance_of_windows_beside_a_permutation(tmp_path):
    folder = str(tmp_path / "rows")
    bench.write(folder, 2000)
    found = bench.variance(folder, 40, 10)
    assert found["windows"] > 0
    assert found["ratio"] == found["windows"] / found["permutation"]
