import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrozoo.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    jsonable,
    read_json_object,
    sha256_file,
)


def test_write_and_replace(tmp_path):
    path = tmp_path / "new" / "file"
    atomic_write_bytes(path, b"old")
    atomic_write_text(path, "µ\n")
    assert path.read_bytes() == "µ\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_mode_follows_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    atomic_write_bytes(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failure_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write_text(path, "old")

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        atomic_write_text(path, "new")
    with pytest.raises(TypeError, match="value is a object"):
        atomic_write_json(path, object())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_a_whole_file(tmp_path):
    code = (
        "import itertools, sys; from pathlib import Path; from pyrozoo.files import atomic_write_bytes\n"
        "for n in itertools.count():\n"
        "    atomic_write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 1_000_000)\n"
        "    print(n, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    content = (tmp_path / "file").read_bytes()
    assert len(content) == 1_000_000
    assert len(set(content)) == 1


def test_jsonable():
    value = {
        "tuple": (1, 2.5, None, True),
        "array": np.array([[1.0, np.nan], [np.inf, -np.inf]]),
        "scalar": np.float32(0.5),
        "integer": np.int64(3),
        "tensor": torch.tensor([1, 2]),
        "text": "±",
    }
    expected = {
        "tuple": [1, 2.5, None, True],
        "array": [[1.0, None], [None, None]],
        "scalar": 0.5,
        "integer": 3,
        "tensor": [1, 2],
        "text": "±",
    }
    assert jsonable(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0, {1, 2}]}, r"value\['a'\]\[1\] is a set"),
        ({"a": {3: 0}}, r"value\['a'\] has the key 3"),
        (b"", "value is a bytes"),
    ],
)
def test_jsonable_names_the_place(value, message):
    with pytest.raises(TypeError, match=message):
        jsonable(value)


def test_json_round_trip_without_nan(tmp_path):
    atomic_write_json(tmp_path / "file.json", {"loss": float("nan"), "site": "ν"})
    assert "NaN" not in (tmp_path / "file.json").read_text()
    assert read_json_object(tmp_path / "file.json", "a test") == {"loss": None, "site": "ν"}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\xfe", b"\x80\x04K\x01."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file is .*not a test"):
        read_json_object(tmp_path / "file", "a test")


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"pyro")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"pyro").hexdigest()


def test_written_json_is_readable_by_a_strict_reader(tmp_path):
    atomic_write_json(tmp_path / "file.json", [np.nan, 1.0])

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads((tmp_path / "file.json").read_text(), parse_constant=refuse) == [None, 1.0]
