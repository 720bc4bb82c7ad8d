import csv
import json
import math

import numpy as np
import pytest

from pyrozoo.experiments.record import (
    OURS_REAL,
    OURS_SEMI_SYNTHETIC,
    OURS_SIMULATED,
    PUBLISHED,
    format_table,
    mean_se,
    paired_difference,
    read_record,
    write_record,
)

REAL = {"name": "dryer", "sha256": "0" * 64, "simulated": False}
ROWS = [
    {"model": "SSMTL", "labels": 5, "rmse": 4.8123, "rmse_se": 0.123, "khat": math.inf},
    {"model": "MTL", "labels": 5, "rmse": np.float64(6.1), "rmse_se": None, "converged": True},
    {"model": "SSMTL", "source": PUBLISHED, "rmse": 4.0},
]


def write(out, rows=ROWS, **changes):
    arguments = {
        "model": "ssmtl",
        "version": "0.1.0",
        "experiment": "dryer",
        "profile": "quick",
        "data": REAL,
        "seeds": [0, 1],
        "wall_time_s": 12.5,
    }
    return write_record(out, rows, **{**arguments, **changes})


def test_record_json(tmp_path):
    record = write(tmp_path / "new", extra={"context_size": 8, "elbo": np.array([1.0, np.nan])})
    assert record == read_record(tmp_path / "new") == read_record(tmp_path / "new" / "record.json")
    assert "NaN" not in (tmp_path / "new" / "record.json").read_text()
    assert record["model"] == "ssmtl@0.1.0"
    assert record["data"] == REAL
    assert record["seeds"] == [0, 1]
    assert record["wall_time_s"] == 12.5
    assert record["extra"] == {"context_size": 8, "elbo": [1.0, None]}
    assert set(record["threads"]) == {"cpu_count", "torch"}
    libraries = {"python", "pyrozoo", "pyro-ppl", "torch", "numpy", "pandas", "arviz", "scikit-learn"}
    assert set(record["library_versions"]) == libraries
    assert record["library_versions"]["numpy"] == np.__version__
    assert [row["source"] for row in record["rows"]] == [OURS_REAL, OURS_REAL, PUBLISHED]
    assert record["rows"][0]["khat"] is None


def test_table_csv(tmp_path):
    write(tmp_path)
    with open(tmp_path / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["model", "source", "labels", "rmse", "rmse_se", "khat", "converged"]
    assert table[0]["khat"] == ""
    assert table[2] == {
        "model": "SSMTL",
        "source": "published (own data)",
        "labels": "",
        "rmse": "4.0",
        "rmse_se": "",
        "khat": "",
        "converged": "",
    }


def test_simulated_data_are_called_simulated(tmp_path):
    record = write(tmp_path, data={**REAL, "simulated": True})
    assert [row["source"] for row in record["rows"]] == [OURS_SIMULATED, OURS_SIMULATED, PUBLISHED]


def test_semi_synthetic_data_are_called_so(tmp_path):
    record = write(tmp_path, data={**REAL, "semi_synthetic": True})
    assert [row["source"] for row in record["rows"]] == [OURS_SEMI_SYNTHETIC, OURS_SEMI_SYNTHETIC, PUBLISHED]
    assert read_record(tmp_path) == record
    with pytest.raises(
        ValueError, match=r"row 0 has the source 'ours .real data.'; with these data it is 'ours .semi-"
    ):
        write(tmp_path, [{"model": "a", "source": OURS_REAL}], data={**REAL, "semi_synthetic": True})


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "no rows"),
        ([{"rmse": 1.0}], {}, "row 0 has no model"),
        ([{"model": "a", "values": [1.0]}], {}, "row 0 is not flat: 'values'"),
        (
            [{"model": "a", "source": OURS_SIMULATED}],
            {},
            "row 0 has the source 'ours .simulated data.'; with these data",
        ),
        (ROWS, {"data": {"name": "dryer", "simulated": False}}, "'sha256'"),
        (ROWS, {"data": {**REAL, "sha256": "xyz"}}, "64 hexadecimal digits"),
        (ROWS, {"data": {**REAL, "simulated": 0}}, "'simulated'. must be a bool"),
        (ROWS, {"version": ""}, "name@version"),
        (ROWS, {"wall_time_s": math.nan}, "'wall_time_s'"),
    ],
)
def test_bad_records_are_not_written(tmp_path, rows, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, rows, **changes)
    assert list(tmp_path.iterdir()) == []


def test_no_json_form(tmp_path):
    with pytest.raises(TypeError, match=r"record\['extra'\]\['model'\] is a object"):
        write(tmp_path, extra={"model": object()})
    assert list(tmp_path.iterdir()) == []


def test_read_refuses_truncated_and_foreign_files(tmp_path):
    record = write(tmp_path)
    path = tmp_path / "record.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"record\.json is truncated or not a result record"):
        read_record(path)
    for field in record:
        path.write_text(json.dumps({key: value for key, value in record.items() if key != field}))
        with pytest.raises(ValueError, match=f"it has no '{field}'; make it again"):
            read_record(path)
    path.write_text(json.dumps({**record, "rows": [{**record["rows"][0], "source": "ours"}]}))
    with pytest.raises(ValueError, match="row 0 has the source 'ours'"):
        read_record(path)
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "nowhere")


def test_mean_se():
    mean, se = mean_se([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert mean_se([3.0]) == (3.0, None)
    for values in ([1.0, math.inf], [1.0, None]):
        mean, se = mean_se(values)
        assert math.isnan(mean)
        assert se is None
    for values in ([], 1.0, [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="one or more values"):
            mean_se(values)


def test_paired_difference_is_sharper_than_the_difference_of_means():
    a, b = np.array([5.0, 9.0, 14.0]), np.array([6.0, 10.5, 15.0])
    difference, se = paired_difference(a, b)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert se == pytest.approx(np.std([1.0, 1.5, 1.0], ddof=1) / math.sqrt(3))
    assert se < mean_se(a)[1]
    with pytest.raises(ValueError, match="same length"):
        paired_difference([1.0], [1.0, 2.0])


def test_format_table(tmp_path):
    expected = """\
model  source                labels         rmse  khat  converged
-----  --------------------  ------  -----------  ----  ---------
SSMTL  ours (real data)           5  4.81 ± 0.12     –          –
MTL    ours (real data)           5          6.1     –        yes
SSMTL  published (own data)       –            4     –          –"""
    assert format_table(write(tmp_path)["rows"]) == expected


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (1234.5678, None, "1235"),
        (0.00012345, None, "0.0001234"),
        (1234.5678, 56.7, "1235 ± 57"),
        (0.5, 0.001234, "0.5000 ± 0.0012"),
        (3, 0.25, "3.00 ± 0.25"),
        (2.0, 0.0, "2"),
        (math.nan, None, "–"),
    ],
)
def test_numbers(value, se, text):
    assert format_table([{"m": value, "m_se": se}]).splitlines()[-1].strip() == text
