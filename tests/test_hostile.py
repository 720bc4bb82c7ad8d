"""Files and arguments made to hang, to fill the memory or to raise a raw error: refused in one line that names them."""

import json
import os
import pickle
import resource
import shutil
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.data.tables import read_table
from pyrozoo.files import read_json_object, read_npz, sha256_file, sha256_json
from pyrozoo.models.m3sense import read_e4, read_wesad
from pyrozoo.models.m3sense.data import e4, pickles

WEIGHTS, PROTOTYPE = "weights.safetensors", "prototype.safetensors"
SECONDS = 10.0  # of CPU time, within which any of these files is refused
MEMORY = 300 << 20  # bytes that may be taken meanwhile


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"well": list("aabb") * 3, "u": rng.normal(size=12), "q": rng.normal(size=12)})
    data = zoo.Batch.from_dataframe(table, unit="well", x=["u"], y="q")
    model = zoo.create_model("ssmtl", data, c_dim=2, z_dim=2, width=4, depth=1)
    folder = tmp_path_factory.mktemp("saved")
    table.to_csv(folder / "wells.csv", index=False)
    return zoo.fit(model, "paper", data, steps=2, progress=False).save(folder / "run")


@pytest.fixture
def run(saved, tmp_path):
    """A copy of a saved run, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def seal(run: Path, **changes) -> None:
    """Change the record as a careful forger would: all hashes fit."""
    record = json.loads((run / "run.json").read_text()) | changes
    record.pop("sha256", None)
    record["sha256"] = sha256_json(record)
    (run / "run.json").write_text(json.dumps(record))


def seal_files(run: Path) -> None:
    seal(run, files={name: sha256_file(run / name) for name in (WEIGHTS, PROTOTYPE)})


def refused(read, path: Path, name: str | None = None, error=ValueError) -> str:
    """The message with which `read` refuses a file: in one line that names it, in bounded time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(error) as caught:
        read(path)
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    message = str(caught.value)
    assert (name or path.name) in message
    assert "\n" not in message
    assert len(message) < 5000
    return message


# ---------------------------------------------------------------- runs: the record
@pytest.mark.parametrize("text", [
    "[" * 10**5, '{"a":' * 10**5, '{"format":' + "9" * 5000 + "}",
    '{"format":1,"sha256":"","a":' + "[" * 900 + "]" * 900 + "}",
])  # fmt: skip
def test_a_record_nested_too_deeply_is_refused(run, text):
    (run / "run.json").write_text(text)
    refused(zoo.load, run, "run.json")


def test_deep_values_of_a_sealed_record_are_refused(run):
    deep: list = []
    for _ in range(400):
        deep = [deep]
    for changes in ({"config": {"c_dim": deep}}, {"runs": deep}, {"priors": {"c": deep}}, {"entry": deep}):
        seal(run, **changes)
        refused(zoo.load, run, "run")


@pytest.mark.parametrize(
    "dtype", ["float99", "int64", "nn", "__class__", "float8_e4m3fn", "", "f" * 10**5, 3, None, ["float32"]]
)
def test_an_unknown_dtype_is_refused(run, dtype):
    seal(run, dtype=dtype)
    assert "dtype" in refused(zoo.load, run, str(run))


@pytest.mark.parametrize("name", ["entry", "model_version", "config", "priors", "guide", "dtype", "settings", "data",
                                  "seconds", "versions", "runs", "format", "files"])  # fmt: skip
def test_values_of_wrong_types_are_refused(run, name):
    original = (run / "run.json").read_text()
    own = json.loads(original)[name]
    for value in (None, 3, "text", True, [], [[]], [3], {}, {"a": 1}, [{}], 1e999):
        if value == own or (name in ("entry", "seconds", "format") and value is None) or value == {}:
            continue
        if name in ("settings", "versions", "priors", "data") and isinstance(value, dict):
            continue  # of any content, or refused for it below
        if (name, type(value)) in (("guide", str), ("seconds", int), ("seconds", float), ("seconds", bool)):
            continue
        seal(run, **{name: value})
        refused(zoo.load, run, str(run))
        (run / "run.json").write_text(original)
    record = json.loads(original)
    del record[name]
    record["sha256"] = sha256_json({key: value for key, value in record.items() if key != "sha256"})
    (run / "run.json").write_text(json.dumps(record))
    refused(zoo.load, run, str(run))


@pytest.mark.parametrize("changes", [
    {"seed": "0"}, {"seed": -1}, {"seed": 1 << 70}, {"seed": True}, {"status": None}, {"history": None},
    {"history": []}, {"history": {"elbo": 3}}, {"history": {"elbo": ["a"]}}, {"history": {"elbo": [1.0], "beta": []}},
])  # fmt: skip
def test_restarts_of_wrong_types_are_refused(run, changes):
    (restart,) = json.loads((run / "run.json").read_text())["runs"]
    seal(run, runs=[restart | changes])
    refused(zoo.load, run, str(run))


@pytest.mark.parametrize("config", [
    {"c_dim": 10**12}, {"width": 10**5}, {"depth": 10**9}, {"n_units": 10**18}, {"c_dim": 10**30}, {"c_dim": -1},
    {"c_dim": "x" * 10}, {"x_loc": [[0.0] * 3]}, {"no_such": 1}, {"c_dim": [2]},
])  # fmt: skip
def test_sizes_that_the_weights_do_not_have_take_no_memory(run, config):
    seal(run, config=json.loads((run / "run.json").read_text())["config"] | config)
    refused(zoo.load, run, str(run))


@pytest.mark.parametrize("prior", [
    3, "Normal", {"name": "Normal"}, {"name": "TorchDistribution", "arguments": {}, "event_dims": 0},
    {"name": "Normal", "arguments": {"loc": "a", "scale": 1.0}, "event_dims": 0},
    {"name": "Normal", "arguments": {"loc": 0.0, "scale": 1.0}, "event_dims": 10**9},
    {"name": "Mixture", "arguments": {"components": 10**10, "size": 2, "spread": 1.0, "seed": 0}},
    {"name": "LearnedScale", "arguments": {"size": 10**12, "base": {
        "name": "Normal", "arguments": {"loc": 0.0, "scale": 1.0}, "event_dims": 0}}},
])  # fmt: skip
def test_priors_that_no_run_has_are_refused(run, prior):
    seal(run, priors={"c": prior})
    refused(zoo.load, run, str(run))


# ---------------------------------------------------------------- runs: the files
@pytest.mark.parametrize("files", [{}, None, [], {WEIGHTS: "0" * 64}, {"/dev/zero": "0" * 64}, {"../../x": "0" * 64}])
def test_a_record_names_its_own_two_files_and_no_others(run, files, monkeypatch):
    opened = []
    monkeypatch.setattr("pyrozoo.store.directory.sha256_file", lambda file: opened.append(file) or sha256_file(file))
    seal(run, files=files)
    refused(zoo.load, run, "run.json")
    assert opened == []


def test_no_further_file_is_opened_though_the_record_names_it(run):
    own = {name: sha256_file(run / name) for name in (WEIGHTS, PROTOTYPE)}
    os.mkfifo(run / "fifo")
    for other in ("/dev/zero", "fifo", "../run/run.json", str(run / "fifo")):
        seal(run, files=own | {other: "0" * 64})
        refused(zoo.load, run, "run.json")
    seal(run, files=own)
    assert zoo.load(run).status == "finished"


@pytest.mark.parametrize("name", ["run.json", WEIGHTS, PROTOTYPE])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop"])
def test_what_is_no_plain_file_is_not_opened(run, name, kind):
    (run / name).unlink()
    if kind == "fifo":
        os.mkfifo(run / name)
    elif kind == "device":
        (run / name).symlink_to("/dev/zero")
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run / name).symlink_to(name)
    refused(zoo.load, run, name, (ValueError, FileNotFoundError))


@pytest.mark.parametrize("name", [WEIGHTS, PROTOTYPE])
def test_declared_sizes_of_tensors_are_checked_against_the_file(run, name):
    def header(**tensors) -> bytes:
        text = json.dumps(tensors).encode()
        return struct.pack("<Q", len(text)) + text

    def tensor(dtype, shape, *offsets):
        return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}

    for content in (
        struct.pack("<Q", 2**63), struct.pack("<Q", 10**12) + b"{}", struct.pack("<Q", 99_999_999) + b"{}",
        header(a=tensor("F32", [10**12], 0, 4 * 10**12)), header(a=tensor("F32", [2**62, 2**62], 0, 4)) + b"0000",
        header(a=tensor("F32", [10**12], 0, 4)) + b"0000", header(a=tensor("F99", [1], 0, 4)) + b"0000",
        header(a=tensor("F32", [1], 2**64 - 4, 4)) + b"0000", header(a=tensor("F32", [0, 2**62, 2**62], 0, 0)),
        header(a=tensor("F32", [-1], 0, 4)) + b"0000", header(a=3), header(__metadata__={"batch": 3}),
        struct.pack("<Q", 10**5) + b"[" * 10**5,
    ):  # fmt: skip
        (run / name).write_bytes(content)
        seal_files(run)
        refused(zoo.load, run, "run")


def prototype_facts(run: Path) -> dict:
    from safetensors import safe_open

    with safe_open(str(run / PROTOTYPE), "pt") as file:
        return json.loads(file.metadata()["batch"])


def write_prototype(run: Path, text: str) -> None:
    from safetensors.torch import load_file

    save_file(load_file(run / PROTOTYPE), run / PROTOTYPE, {"batch": text})
    seal_files(run)


def test_text_of_any_kind_in_a_prototype_is_refused(run):
    facts = prototype_facts(run)
    unit = facts["coords"]["unit"]
    for changes in (
        {"along": 3}, {"along": {}}, {"sizes": {"row": "many"}}, {"sizes": facts["sizes"] | {"unit": 10**12}},
        {"sizes": facts["sizes"] | {"unit": -1}}, {"rows": "nothing"}, {"groups": ["nothing"]}, {"groups": 3},
        {"labels": {"y": "nothing"}}, {"dims": {"x": 3}}, {"info": 3}, {"coords": {"unit": 3}},
        {"coords": {"unit": unit | {"dtype": "V1000000000"}}}, {"coords": {"unit": unit | {"dtype": "9999999f8"}}},
        {"coords": {"unit": unit | {"names": "ab"}}}, {"coords": {"unit": unit | {"names": [[["a"]], ["b"]]}}},
        {"coords": {"unit": unit | {"names": ["a"] * 5}}},
    ):  # fmt: skip
        write_prototype(run, json.dumps(facts | changes))
        refused(zoo.load, run, PROTOTYPE)
    for text in ("[" * 10**5, "", "null", "3", "{}", '{"along":' * 10**4):
        write_prototype(run, text)
        refused(zoo.load, run, PROTOTYPE)


def test_names_take_no_more_memory_than_they_need(run):
    facts = prototype_facts(run)
    facts["coords"]["unit"] = {"dtype": "<U500000000", "names": ["a", "b"]}
    write_prototype(run, json.dumps(facts))
    assert zoo.load(run).prototype.coords["unit"].dtype == np.dtype("<U1")


def test_other_json_files_are_checked_alike(tmp_path):
    file = tmp_path / "record.json"
    file.write_text("[" * 10**5)
    refused(lambda path: read_json_object(path, "a record"), file)
    file.unlink()
    os.mkfifo(file)
    refused(lambda path: read_json_object(path, "a record"), file)


# ---------------------------------------------------------------- pickles
def growing(count: int, step: bytes) -> bytes:
    """A list in a list, and so on: each holds the one before twice."""
    return b"\x80\x02]q\x00" + b"".join(step.replace(b"?", bytes([k])) + b"q" + bytes([k + 1]) for k in range(count))


FROM_BYTES = b"\x80\x02cnumpy.core.numeric\n_frombuffer\n("
UINT8 = b"cnumpy\ndtype\nU\x02u1\x85R"
BILLIONS = b"\x8a\x06" + (10**12).to_bytes(6, "little")  # LONG1
TUPLES = growing(40, b"h?h?\x86")
BOMBS = {
    "a text of 4 GB": b"\x80\x02T\xff\xff\xff\x7f.",
    "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "text of 2^63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b".",
    "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "a frame of 2^40": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "bytes(10**12)": b"\x80\x02cbuiltins\nbytes\n" + BILLIONS + b"\x85R.",
    "bytearray(10**12)": b"\x80\x02cbuiltins\nbytearray\n" + BILLIONS + b"\x85R.",
    "30 lists of two lists": growing(30, b"]h?ah?a") + b".",
    "40 tuples of two tuples": TUPLES + b".",
    "a key of 40 tuples": TUPLES.replace(b"]q\x00", b")q\x00") + b"}h\x28Ns.",
    "a set of 40 tuples": TUPLES.replace(b"]q\x00", b")q\x00") + b"\x8f(h\x28\x90.",
    "a shape of 40 tuples": TUPLES + FROM_BYTES[2:] + b"U\x01a" + UINT8 + b"h\x28tR.",
    "the name of 40 tuples": TUPLES + b"cnumpy\ndtype\nh\x28\x85R.",
    "text of 40 tuples": TUPLES + b"cbuiltins\nstr\nh\x28\x85R.",
    "300 lists in lists": b"]" * 150 + b"a" * 149 + b".",
    "300 tuples in tuples": b"N" + b"\x85" * 300 + b".",
    "300 marks": b"(" * 300 + b".",
    "a list that holds itself": b"\x80\x02]q\x00(h\x00h\x00h\x00e.",
    "an array of U999999999": FROM_BYTES + b"U\x00cnumpy\ndtype\nU\nU999999999\x85RK\x01tR.",
    "an array of shape 10**12": FROM_BYTES + b"U\x01a" + UINT8 + BILLIONS + b"tR.",
    "a number of 300 digits as a length": b"L" + b"9" * 290 + b"L\ncbuiltins\nlist\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_pickle_that_asks_for_much_is_refused(tmp_path, name):
    file = tmp_path / "S2.pkl"
    file.write_bytes(BOMBS[name])
    assert len(BOMBS[name]) < 400
    refused(pickles.load, file)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p999999999999\n"])
def test_the_number_of_a_memo_takes_no_memory(tmp_path, put):
    file = tmp_path / "a.pkl"
    file.write_bytes(b"K\x05" + put + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert pickles.load(file) == 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_content_is_not_copied_any_number_of_times(tmp_path):
    text = b"a" * 100_000
    call = b"c_codecs\nencode\nh\x00U\x06latin1\x86Ra"
    file = tmp_path / "a.pkl"
    file.write_bytes(b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"q\x000](" + call * 3 + b"0.")
    refused(pickles.load, file)
    file.write_bytes(b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"q\x000]" + call * 1000 + b".")
    assert "again and again" in refused(pickles.load, file)


def test_most_instructions_and_depth_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_STEPS", 1000)
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps(list(range(2000))))
    assert "keep signals in arrays" in refused(pickles.load, file)
    file.write_bytes(b"N" + b"\x85" * 900 + b".")
    assert "without end" in refused(pickles.load, file)


def test_a_bomb_or_a_pipe_in_a_wesad_folder_is_named(tmp_path):
    (tmp_path / "S2").mkdir()
    file = tmp_path / "S2" / "S2.pkl"
    file.write_bytes(growing(19, b"]h?ah?a") + b"}U\x07subjecth\x13s.")
    refused(lambda _: read_wesad(tmp_path), file)
    file.unlink()
    os.mkfifo(file)
    refused(lambda _: read_wesad(tmp_path), file)


# ---------------------------------------------------------------- zip files
def write_zip(path: Path, compression=zipfile.ZIP_DEFLATED, **contents: bytes) -> Path:
    plain = dict.fromkeys(("BVP", "EDA", "TEMP"), b"1600000000\n4\n" + b"32.5\n" * 40)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (plain | contents).items():
            archive.writestr(f"{name}.csv", content)
    return path


def patched(path: Path, offset: int, value: bytes) -> Path:
    """Change the entry of the first member in the central directory."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02") + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("offset", "value"), [
    (8, b"\x01"),  # encrypted
    (10, b"\x63"), (10, b"\x0c"), (10, b"\x0e"), (10, b"\x09"),  # other methods of compression
    (20, b"\0\0\0\0"),  # compressed size
    (24, b"\xff\xff\xff\xfe"), (24, b"\1\0\0\0"),  # size
    (16, b"\0\0\0\0"),  # checksum
    (42, b"\xff\xff\xff\x7f"), (42, b"\x01\0\0\0"),  # offset of the member
    (28, b"\xff\xff"), (30, b"\xff\xff"), (4, b"\xff\xff\xff\xff"),  # lengths, versions
])  # fmt: skip
def test_a_damaged_member_is_refused(tmp_path, offset, value):
    path = patched(write_zip(tmp_path / "s.zip"), offset, value)
    refused(read_e4, path, "s.zip/BVP.csv")


def test_a_compression_bomb_is_not_unpacked(tmp_path):
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    size, block = 300 << 20, b"1\n" * (1 << 19)
    raw = b"".join(squeezed.compress(block) for _ in range(size // len(block))) + squeezed.flush()
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BVP.csv", raw)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 10 : at + 12] = content[8:10] = b"\x08\0"  # deflated
    content[at + 24 : at + 28] = content[22:26] = struct.pack("<I", size)
    path.write_bytes(content)
    assert f"{size} bytes, more than" in refused(read_e4, path, "s.zip/BVP.csv")


def test_tables_of_too_many_columns_or_rows_are_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "s.zip", BVP=b"1," * 10**6 + b"1\n" * 3)
    assert "1000001 columns, expected one" in refused(read_e4, path, "s.zip/BVP.csv")
    path = write_zip(tmp_path / "s.zip", BVP=b"9" * 10**6 + b"\n4\nx\n")
    refused(read_e4, path, "s.zip/BVP.csv")
    for start in (b"1e308\n4\n", b"1600000000\n1e300\n", b"1600000000\n1e-300\n"):
        path = write_zip(tmp_path / "s.zip", BVP=start + b"0.5\n" * 40)
        refused(read_e4, path, "s.zip")
    monkeypatch.setattr(e4, "_MOST_ROWS", 30)
    for end in (b"\n", b"\r"):
        path = write_zip(tmp_path / "s.zip", BVP=end.join([b"1"] * 99))
        assert "rows, more than" in refused(read_e4, path, "s.zip/BVP.csv")


def test_a_pipe_is_no_zip_file_and_no_table(tmp_path):
    path = tmp_path / "s.zip"
    os.mkfifo(path)
    refused(read_e4, path)
    refused(read_npz, path)
    refused(lambda file: read_table(str(file), "well", ["u"]), path)
    for reader in (read_npz, lambda file: read_table(str(file), "well", ["u"])):
        refused(reader, Path("/dev/zero"))


def test_any_damage_of_a_zip_file_is_one_error(tmp_path):
    whole = write_zip(tmp_path / "s.zip").read_bytes()
    rng, messages = np.random.default_rng(0), []
    for _ in range(200):
        content = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            content[at] = rng.integers(256)
        (tmp_path / "s.zip").write_bytes(content)
        try:
            read_e4(tmp_path / "s.zip")
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all("s.zip" in message and "\n" not in message for message in messages)


# ---------------------------------------------------------------- the command line
DASHES = "-" * 10**5 + "1"


def last_line(capsys, *arguments: str) -> str:
    """The one line with which a command fails."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line = error.splitlines()[-1]
    assert line.startswith("pyrozoo: error: ")
    assert len(line) < 5000
    return line


@pytest.mark.parametrize(("given", "message"), [
    (["--prior", "c=TorchDistribution()"], "prior TorchDistribution: it is not made of numbers"),
    (["--prior", "c=ExponentialFamily()"], "prior ExponentialFamily: it is not made of numbers"),
    (["--prior", "c=SoftAsymmetricLaplace(1, 1)"], "cannot be repeated along a dimension"),
    (["--prior", "c=" + DASHES], "write it like StudentT(4, 0, 1)"),
    (["--prior", "c=Normal(" + DASHES + ", 1)"], "write it like StudentT(4, 0, 1)"),
    (["--guide", "AutoContinuous"], "AutoContinuous is no guide for this model"),
    (["--guide", "AutoGuide"], "AutoGuide is no guide for this model"),
    (["--guide", "AutoMessenger"], "AutoMessenger is no guide for this model"),
    (["--guide", "AutoNormalMessenger"], "AutoNormalMessenger is no guide for this model"),
    (["--guide", "AutoDiscreteParallel"], "AutoDiscreteParallel is no guide for this model"),
    (["--guide", "AutoCallable"], "AutoCallable is no guide for this model"),
    (["--set", "c_dim=" + DASHES], "is not a number"),
    (["--set", "c_dim=" + "(" * 10**5 + "1"], "is not a number"),
    (["--set", "c_dim=" + "[" * 100 + "]" * 100], "is not a number"),
    (["--set", "c_dim={[]: 1}"], "is not a number"),
    (["--set", "c_dim=" + "9" * 30], "cannot be made with c_dim="),
    (["--x", "a\nb"], "no names of columns"),
    (["--x", "a" * 200_000], "no names of columns"),
    (["--seed", "9" * 5000], "--seed"),
    (["--batch-size", "9" * 30], "pyrozoo: error: "),
    (["--import", ""], "--import : ValueError"),
    (["--import", ".."], "--import ..: TypeError"),
])  # fmt: skip
def test_arguments_of_fit_show_no_traceback(saved, tmp_path, capsys, given, message):
    table = ["--data", str(saved.parent / "wells.csv"), "--unit", "well", "--x", "u", "--y", "q"]
    line = last_line(
        capsys, "fit", "ssmtl", *table, "--steps", "2", "--no-cross-fit", *given, "--out", str(tmp_path / "run")
    )
    assert message in line
    assert not (tmp_path / "run").exists()


def test_hostile_files_of_predict_show_no_traceback(run, saved, tmp_path, capsys):
    command = ["predict", str(run), "--data", str(saved.parent / "wells.csv"), "--out", str(tmp_path / "p.csv")]
    (run / "run.json").write_text("[" * 10**5)
    assert "run.json" in last_line(capsys, *command)
    command[1] = str(saved)
    for content in (
        b"\0" * 100,
        b"well,u\n" + b'"' * 10,
        b"x" * 200_000,
        b'well,u\n"a\n',
        b"well,u\na,1\n" * 3,
        b"\xff\xfe",
    ):
        command[3] = str(tmp_path / "t.csv")
        Path(command[3]).write_bytes(content)
        assert "t.csv" in last_line(capsys, *command)
    command[3] = "/dev/zero"
    assert "/dev/zero: not a plain file" in last_line(capsys, *command)
    assert not (tmp_path / "p.csv").exists()


def test_a_module_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "half": "def f(:",
        "zero": "1 / 0",
        "deep": "x = " + DASHES,
        "lacks": "import no_such_thing",
    }.items():
        Path(f"hostile_{name}.py").write_text(text)
        assert f"--import hostile_{name}: " in last_line(capsys, "list", "--import", f"hostile_{name}")
    assert main(["list", "--import", "hostile_zero", "--debug"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["", "\0", "..", "/", "\udcff", "a" * 10**5, "\n", "%s", "{}", "-"])
def test_odd_words_show_no_traceback(word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        [word], ["show", word], ["check", word], ["fit", word], ["fit", "ssmtl", "--data", word, "--out", "r"],
        ["fit", "ssmtl", "--data", "dryer", "--variant", word or "x", "--steps", "1", "--out", "r"],
        ["predict", word, "--data", "x", "--out", "p.csv"], ["predict", "r", "--data", word, "--out", word],
        ["reproduce", "ssmtl", word], ["reproduce", word, "table1"], ["list", "--import", word],
        ["fit", "medication", "--data", word, "--rate", word, "--out", "r"],
    ):  # fmt: skip
        last_line(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []
