import hashlib
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import zipfile
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
    read_npz,
    sha256_file,
)


@pytest.mark.parametrize("order", "<>")
def test_text_of_an_npz_file_that_is_none_is_refused_by_its_array(tmp_path, order):
    np.savez(
        tmp_path / "a.npz",
        ok=np.array(["a", "ä"], dtype=f"{order}U2"),
        bad=np.array([1 << 30], f"{order}u4").view(f"{order}U1"),
    )
    assert read_npz(tmp_path / "a.npz", ["ok"], [])["ok"].tolist() == ["a", "ä"]
    with pytest.raises(
        ValueError, match=r"a.npz: array 'bad' cannot be read \(it holds numbers that are no characters"
    ):
        read_npz(tmp_path / "a.npz")


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


# ------------------------------------------------------------------ npz files
ARRAYS = {"score": np.full((2, 2), 0.5), "name": np.array(["r", "s"]), "rate": np.array(4)}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def with_member(path: Path, content: bytes) -> None:
    """Write an npz file whose only array has this content."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("score.npy", content)


def header_of(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_files_are_read(tmp_path, write):
    arrays = ARRAYS | {"empty": np.zeros((0, 3)), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    write(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert list(read_npz(tmp_path / "a.npz", ["rate"], ["name", "other"])) == ["name", "rate"]
    assert list(read_npz(tmp_path / "a.npz", ["rate"], [])) == ["rate"]
    with pytest.raises(ValueError, match=r"a\.npz: array 'label' is missing; the file has \['score', 'name', 'rate'"):
        read_npz(tmp_path / "a.npz", ["score", "label"])
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_npz_file_is_refused(tmp_path, share):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz: no npz file, or only a part of one \(.*write it again with a\.b"):
        read_npz(tmp_path / "a.npz", writer="a.b")


def test_an_npz_file_damaged_anywhere_is_refused_by_its_name_or_read(tmp_path):
    """Every error of zipfile, zlib and numpy becomes one ValueError; what is not damaged reads as it was written."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **ARRAYS)
    whole, messages = path.read_bytes(), []
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 0xFF
        path.write_bytes(content)
        try:
            found = read_npz(path)
        except ValueError as error:
            messages.append(str(error))
        else:
            read = [found[name] for name in found if name in ARRAYS]
            assert all(any(np.array_equal(array, own) for own in ARRAYS.values()) for array in read)
    assert len(messages) > len(whole) / 2
    assert all(message.startswith(f"{path}: ") for message in messages)


def test_an_encrypted_npz_file_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: array 'score' cannot be read \(.*encrypted.*; write the file again"):
        read_npz(tmp_path / "a.npz")


def test_pickled_arrays_of_an_npz_file_are_refused_and_not_run(tmp_path):
    structured = np.array([(1, Bomb())], dtype=[("a", int), ("b", object)])
    for array in (np.array([Bomb()], dtype=object), structured):
        np.savez(tmp_path / "a.npz", score=array)
        with pytest.raises(ValueError, match=r"a\.npz: array 'score' cannot be read \(it holds Python objects, which"):
            read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "header",
    [header_of((10**15,)), header_of((3,)), header_of((1,), "<f4"), header_of((10**15,), "<U0"), header_of((-1, -1))],
)
def test_npz_headers_that_lie_about_the_size_are_refused(tmp_path, header):
    with_member(tmp_path / "a.npz", header + np.ones(1).tobytes())
    with pytest.raises(ValueError, match=r"a\.npz: array 'score' cannot be read"):
        read_npz(tmp_path / "a.npz")


def test_arrays_larger_than_allowed_are_refused_before_they_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", score=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"a\.npz: its arrays would take 8000128 bytes of memory, more than the 1000"):
        read_npz(tmp_path / "a.npz", largest=1000)
    assert len(read_npz(tmp_path / "a.npz", largest=10**7)["score"]) == 10**6


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x09\x00", b"\x93NUMPY\x01\x00\x40\x1f" + b"(" * 8000, pickle.dumps(Bomb())],
)
def test_members_that_are_no_arrays_are_refused(tmp_path, content):
    with_member(tmp_path / "a.npz", content)
    with pytest.raises(ValueError, match=r"a\.npz: array 'score' cannot be read"):
        read_npz(tmp_path / "a.npz")
