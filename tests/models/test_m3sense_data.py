"""The data of the m3sense entry: readers on miniature folders, windows, splits, features, and bad input."""

import contextlib
import copyreg
import functools
import importlib.util
import operator
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from m3sense_folders import (
    ALL_LABELS,
    RATES,
    T0,
    refuses,
    signal,
    write_e4,
    write_kemocon,
    write_quest,
    write_stress_predict,
    write_survey,
    write_verbio,
    write_wesad,
    zipped,
)

from pyrozoo.models.m3sense.data import pickles, recordings
from pyrozoo.models.m3sense.data.arrays import from_arrays
from pyrozoo.models.m3sense.data.batches import merge, standardise
from pyrozoo.models.m3sense.data.e4 import read_e4, read_nurses
from pyrozoo.models.m3sense.data.kemocon import read_kemocon
from pyrozoo.models.m3sense.data.recordings import Recording, Recordings
from pyrozoo.models.m3sense.data.simulator import simulate
from pyrozoo.models.m3sense.data.splits import leave_subjects_out, split_subjects, split_windows
from pyrozoo.models.m3sense.data.stress_predict import read_stress_predict
from pyrozoo.models.m3sense.data.verbio import read_verbio
from pyrozoo.models.m3sense.data.wesad import minutes_seconds, read_wesad, read_wesad_protocol
from pyrozoo.models.m3sense.data.window_files import read_stress_predict_windows
from pyrozoo.models.m3sense.data.windowing import filtered, fir, low_pass, windows
from pyrozoo.models.m3sense.experiments.baselines import BASELINES, handcrafted

needs_openpyxl = pytest.mark.skipif(importlib.util.find_spec("openpyxl") is None, reason="needs openpyxl")


# ------------------------------------------------------------------ Empatica E4
def test_an_export_is_read_as_it_is(tmp_path):
    (recording,) = read_e4(write_e4(tmp_path / "session"))
    assert (recording.subject, recording.name, recording.task) == ("session", "e4/session", None)
    assert recording.start == T0
    assert dict(recording.rates) == RATES
    assert {name: len(s) for name, s in recording.signals.items()} == {"bvp": 3840, "eda": 240, "temp": 240}
    np.testing.assert_allclose(recording.signals["bvp"], signal("BVP", 60), atol=1e-6)
    assert recording.seconds == 60


def test_headers_may_lack_decimals(tmp_path):
    (recording,) = read_e4(write_e4(tmp_path / "s", decimals=False))
    assert dict(recording.rates) == RATES


@pytest.mark.parametrize("inside", ["", "export/"])
def test_a_zip_file_is_read_like_the_folder(tmp_path, inside):
    folder = write_e4(tmp_path / "s")
    one, other = read_e4(folder)[0], read_e4(zipped(folder, inside))[0]
    for name in RATES:
        np.testing.assert_array_equal(one.signals[name], other.signals[name])


def test_the_first_eda_zero_becomes_the_second_sample_and_is_counted(tmp_path):
    (recording,) = read_e4(write_e4(tmp_path / "s"))
    assert recording.signals["eda"][0] == recording.signals["eda"][1] > 0.3
    assert recording.notes["eda: first sample, a zero, replaced"] == 1


def test_sentinel_temperatures_are_replaced_and_counted(tmp_path):
    (recording,) = read_e4(write_e4(tmp_path / "s", sentinel=3))
    assert recording.signals["temp"].max() < 34
    assert recording.signals["temp"][0] == recording.signals["temp"][3]
    assert recording.notes["temp: samples not measured (382 deg C), replaced"] == 3
    inner, notes = recordings.cleaned("temp", np.array([33.0, 382.2, 382.18, 34.0]))
    assert inner.tolist() == [33.0, 33.0, 33.0, 34.0]
    assert sum(notes.values()) == 2


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("TEMP", "300", "TEMP.csv: row 4: a temperature of 300 is out of the device's range"),
        ("TEMP", "1e308", "TEMP.csv: row 4: a temperature of 1e+308 is out of the device's range"),
        ("EDA", "1e20", "EDA.csv: row 4: a skin conductance of 1e+20 is out of the device's range"),
        ("BVP", "-1e308", "BVP.csv: row 4: a pulse wave of -1e+308 is out of the device's range"),
        ("ACC", "1e9,0,0", "ACC.csv: row 4: an acceleration of 1.5625e+07 is out of the device's range"),
        ("IBI", "1e300,0.8", "IBI.csv: row 4: '1e300,0.8'; expected seconds from the start"),
    ],
)
def test_a_sample_out_of_range_is_refused(tmp_path, file, row, message):
    folder = write_e4(tmp_path / "s")
    first = {"ACC": "0,0,0\n4,4,4\n1,1,64", "IBI": "0, IBI\n1,0.8\n2,0.8"}.get(file, "0\n4\n33")
    (folder / f"{file}.csv").write_text(f"{first}\n{row}\n")
    with refuses(message):
        read_e4(folder, modalities=(file.lower(),))


def test_channels_begin_with_the_last_one(tmp_path):
    (recording,) = read_e4(write_e4(tmp_path / "s"), modalities=("eda", "hr"))
    assert recording.start == T0 + 10
    assert recording.notes["eda: samples before the last channel begins, left out"] == 40
    np.testing.assert_allclose(recording.signals["eda"], signal("EDA", 60)[40:], atol=1e-6)


def test_a_missing_or_empty_file_is_named(tmp_path):
    folder = write_e4(tmp_path / "s")
    (folder / "EDA.csv").unlink()
    with refuses("s/EDA.csv: there is no such file"):
        read_e4(folder)
    (folder / "EDA.csv").write_text("")
    with refuses("EDA.csv: the file is empty"):
        read_e4(folder)
    (folder / "EDA.csv").write_text(f"{T0}\n4\n")
    with refuses("EDA.csv: the channel is empty"):
        read_e4(folder)
    (folder / "EDA.csv").write_text(f"{T0}\n4\n0.1\nx\n")
    with refuses("EDA.csv: row 4: 'x' is not a number"):
        read_e4(folder)
    (folder / "EDA.csv").write_text(f"{T0}\n0\n0.1\n")
    with refuses("rate 0; rows 1 and 2 hold unix seconds and Hz"):
        read_e4(folder)
    (folder / "EDA.csv").write_text("1, 1\n4, 4\n0.1, 0.2\n")
    with refuses("2 columns, expected one"):
        read_e4(folder)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04")
    with refuses("neither a folder nor a whole zip file"):
        read_e4(tmp_path / "bad.zip")
    with refuses("there is no such folder or zip file", FileNotFoundError):
        read_e4(tmp_path / "none")
    with refuses("modalities: 'gyro'; choose among"):
        read_e4(folder, modalities=("gyro",))


def test_a_rate_that_does_not_match_the_other_channels_is_refused(tmp_path):
    file = write_e4(tmp_path / "s") / "EDA.csv"
    file.write_text(file.read_text().replace("\n4.000000\n", "\n32.000000\n"))
    with refuses("s: EDA.csv lasts 7.5 s at 32 Hz and BVP.csv 60 s at 64 Hz; the rates do not match"):
        read_e4(file.parent)


def test_a_folder_keeps_its_whole_name(tmp_path):
    assert read_e4(write_e4(tmp_path / "P1.2"))[0].subject == "P1.2"


# ------------------------------------------------------------------ WESAD
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_wesad_is_read_with_its_classes(tmp_path, protocol):
    (recording,) = read_wesad(write_wesad(tmp_path, protocol=protocol))
    assert recording.name == "wesad/S2"
    assert recording.classes == ("baseline", "stress", "amusement")
    assert [(round(a), round(b), name) for a, b, name in recording.labels] == [
        (20, 40, "baseline"), (40, 60, "stress"), (60, 80, "amusement"), (100, 120, "baseline"),
    ]  # fmt: skip
    np.testing.assert_array_equal(recording.signals["bvp"], signal("BVP", 120))


def python2(value) -> bytes:
    """A pickle as Python 2 writes it, in which the bytes of arrays are text."""
    array = np.asarray(value)
    order = array.dtype.str[0]
    raw = array.tobytes()
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K"
        + bytes([len(array)]) + b"\x85cnumpy\ndtype\nU\x02" + array.dtype.str[1:].encode()
        + b"K\x00K\x01\x87R(K\x03U\x01" + order.encode() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)]) + raw + b"tb."
    )  # fmt: skip


def test_a_pickle_of_python_2_is_read(tmp_path):
    values = np.array([1.5, -2.0, 3e30])
    (tmp_path / "a.pkl").write_bytes(python2(values))
    np.testing.assert_array_equal(pickles.load(tmp_path / "a.pkl"), values)
    (tmp_path / "a.pkl").write_bytes(python2(values.astype(">f8")))
    np.testing.assert_array_equal(pickles.load(tmp_path / "a.pkl"), values)


def test_values_of_all_kinds_come_back_from_a_pickle(tmp_path):
    value = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "n": [None, True, 3, 1 + 2j, "text", b"\xff", {1, 2}], "t": (np.float32(1.5), np.array(["ab", "c"])),
        "again": [1],
    }  # fmt: skip
    value["same"] = value["again"]
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        back = pickles.load(tmp_path / "a.pkl")
        assert back["n"] == value["n"]
        assert back["t"][0] == 1.5
        assert back["same"] is back["again"]
        for key in ("a", "f"):
            np.testing.assert_array_equal(back[key], value[key])
            assert back[key].dtype == value[key].dtype


class Payload:
    """Unpickled by pickle, it calls a function of the file's choice."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_in_a_wesad_folder_does_not_run(tmp_path, protocol):
    traces = [tmp_path / f"ran{k}" for k in range(4)]
    code = [f"__import__('pathlib').Path({str(trace)!r}).touch()" for trace in traces]
    payloads = [
        Payload(eval, code[0]),
        Payload(exec, code[1]),
        Payload(Path.touch, traces[2]),
        Payload(open, str(traces[3]), "w"),
        Payload(getattr, dict, "clear"),
        Payload(getattr, Payload(__import__, "os"), "system"),
        Payload(str, Payload(eval, code[0])),
        Payload(list, Payload(map, Payload(getattr, Payload(importlib.import_module, "builtins"), "exec"), code[1:2])),
        Payload(np.load, str(tmp_path), None, True),
        Payload(np.fromfile, str(tmp_path)),
        Payload(np.memmap, str(traces[3]), "u1", "w+", 0, 8),
        Payload(np.frompyfunc, dict, 1, 1),
        Payload(importlib.import_module, "numpy.f2py"),
        Payload(operator.methodcaller, "touch"),
        Payload(functools.partial, eval, code[0]),
        Payload(pickle.loads, pickle.dumps(Payload(eval, code[0]))),
        np.array([Payload(open, str(traces[3]), "w")], dtype=object),
        {Payload(eval, code[0]): 1},
        [(Payload(eval, code[0]),)],
        eval,
        print,
    ]  # fmt: skip
    for k, payload in enumerate(payloads):
        root = write_wesad(tmp_path / str(k), protocol=protocol, extra=payload)
        with refuses("S2/S2.pkl: "):
            read_wesad(root)
    with refuses(
        f"it calls {'__builtin__' if protocol < 3 else 'builtins'}.eval, which a file of signals does not need"
    ):
        read_wesad(tmp_path / "0")
    assert not any(trace.exists() for trace in traces)
    pickle.loads(pickle.dumps(payloads[0]))  # the payload is a real one
    assert traces[0].exists()


def short(text: str) -> bytes:
    """A text on the stack, as protocol 4 writes it."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


def test_a_pickle_made_by_hand_does_not_run(tmp_path):
    """What no Python object pickles as: every other way to name a function, and to call one."""
    trace, file = tmp_path / "ran", tmp_path / "a.pkl"
    code = f"open({str(trace)!r}, 'w')"
    text = b"X" + len(code).to_bytes(4, "little") + code.encode()
    multi = np.array(0).__reduce__()[0].__module__
    for content in (
        b"c__builtin__\neval\n(V" + code.encode() + b"\ntR.",
        b"(V" + code.encode() + b"\ni__builtin__\neval\n.",  # INST
        b"(cbuiltins\neval\n" + text + b"o.",  # OBJ
        b"\x80\x02cbuiltins\neval\n" + text + b"\x85\x81.",  # NEWOBJ
        b"\x80\x04" + short("builtins") + short("eval") + b"\x93" + text + b"\x85R.",  # STACK_GLOBAL
        b"\x80\x04" + short("builtins") + short("str.__class__") + b"\x93.",
        b"\x80\x04" + short("numpy") + short("dtype.type.mro") + b"\x93.",
        b"\x80\x04" + short("numpy") + short("ndarray.tofile") + b"\x93" + text + b"\x85R.",
        b"\x80\x04" + short("numpy") + short("f2py.os.system") + b"\x93" + text + b"\x85R.",
        b"cnumpy.f2py\nos\n.", b"cnumpy\nload\n.", b"cnumpy.core.multiarray\nfromfile\n.",
        b"c" + multi.encode() + b"\nfrompyfunc\n.", b"cnumpy._core.numeric\nfromfunction\n.",
        b"cnumpy.testing._private.utils\nrunstring\n(V" + code.encode() + b"\n}tR.",
        b"ccopyreg\n_reconstructor\n.", b"c_codecs\ndecode\n.", b"cbuiltins\nobject\n.", b"cbuiltins\ntype\n.",
        b"ccopyreg\nadd_extension\n.", b"c__main__\nx\n.", b"c\n\n.",
        b"Pbuiltins.eval\n.", b"\x80\x02X\x04\x00\x00\x00evalQ.",  # persistent ids
        b"\x80\x02\x82\xf0.", b"\x80\x02\x83\xf0\x00.", b"\x80\x02\x84\xf0\x00\x00\x00.",  # extensions
        b"\x80\x05\x97.", b"\x80\x05\x97\x98.",  # buffers from elsewhere
        b"\x80\x02cbuiltins\nstr\n}X\x05\x00\x00\x00upper" + text + b"sb.",  # BUILD on a type
        b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00function" + text + b"sb.",
    ):  # fmt: skip
        file.write_bytes(content)
        with refuses("a.pkl: "):
            pickles.load(file)
    assert not trace.exists()
    assert str.upper("a") == "A"


def test_an_extension_that_was_used_before_is_not_taken_from_the_cache(tmp_path):
    copyreg.add_extension("builtins", "eval", 240)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is eval  # now in copyreg's cache
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02\x82\xf0X\x03\x00\x00\x001+1\x85R.")
        with refuses("it calls builtins.eval"):
            pickles.load(tmp_path / "a.pkl")
    finally:
        copyreg.remove_extension("builtins", "eval", 240)


def test_a_damaged_pickle_is_refused_or_read_but_nothing_else(tmp_path):
    whole = pickle.dumps({"a": np.arange(3.0), "b": ["x", np.float32(1)]}, protocol=4)
    rng, file = np.random.default_rng(0), tmp_path / "a.pkl"
    for k in range(len(whole)):
        file.write_bytes(whole[:k])
        with refuses("a.pkl: truncated or no pickle of arrays"):
            pickles.load(file)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        file.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            pickles.load(file)


def test_a_pickle_cannot_change_the_reader_or_forge_an_array(tmp_path):
    file = tmp_path / "a.pkl"
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    for content, message in (
        (head + b"N}U\x0c__defaults__)s\x86b.", "it changes a function"),
        (head + b".", "it holds a type or function"),
        (head + b")R.", "it holds an array without content"),
        (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "only numbers, truth values and text are read"),
        (b"\x80\x02U\x01aQ.", "it refers to something outside"),
        (b"\x80\x02]q\x00h\x00a.", "hold one another without end"),
        (b"\x80\x02c_codecs\nencode\nU\x01aU\x03zip\x86R.", "it encodes by 'zip'"),
        (python2(np.arange(3.0)).replace(b"NNNJ", b"U\x01aNNJ"), "structured array"),
        (python2(np.arange(3.0))[:-20], "truncated or no pickle of arrays"),
        (b"", "truncated or no pickle of arrays"),
        (b"\x80\x02(K\x01", "truncated or no pickle of arrays"),
    ):
        file.write_bytes(content)
        with refuses(message):
            pickles.load(file)


def test_what_is_wrong_in_a_wesad_pickle_is_named(tmp_path):
    label = np.ones(120 * 700, np.int32)
    for k, (changes, message) in enumerate((
        ({"label": np.where(np.arange(len(label)) == 7, -1, label)}, "'label', sample 7: -1; labels are 0 to 7"),
        ({"label": label[: 90 * 700]}, "bvp: 7680 samples are 120.0 s at 64 Hz, but the labels last 90.0 s"),
        ({"label": label / 2}, "'label': float64"),
        ({"subject": "S3"}, "'subject' is 'S3', but the file is S2.pkl"),
        ({"signal": {"chest": {}}}, "there is no entry 'wrist', only ['chest']"),
        ({"signal": {"wrist": {"BVP": np.zeros((0, 1))}}}, "bvp: the channel is empty"),
        ({"signal": {"wrist": {"BVP": np.ones((7680, 1)), "TEMP": 1}}}, "there is no entry 'EDA'"),
        ({"signal": {"wrist": {"BVP": np.ones((7680, 3))}}}, "bvp: float64 of shape (7680, 3)"),
    )):  # fmt: skip
        with refuses(f"S2.pkl: {message}"):
            read_wesad(write_wesad(tmp_path / str(k), **changes))
    (tmp_path / "empty").mkdir()
    with refuses("no S2/S2.pkl ... is in it"):
        read_wesad(tmp_path / "empty")
    with refuses("there is no such folder", FileNotFoundError):
        read_wesad(tmp_path / "none")
    write_wesad(tmp_path / "twice")
    write_wesad(tmp_path / "twice/again")
    with refuses("S2.pkl is there twice"):
        read_wesad(tmp_path / "twice")


def test_times_are_minutes_and_seconds(tmp_path):
    assert [minutes_seconds(word) for word in ("50.3", "7.08", "5", "0.1")] == [3030, 428, 300, 10]
    for word in ("7.65", "1.234", "x", "", "-1.2"):
        with refuses("is no time in minutes.seconds"):
            minutes_seconds(word)
    conditions = read_wesad_protocol(write_quest(tmp_path / "S2_quest.csv"))
    assert conditions[:2] == [("Base", 428, 1592), ("TSST", 2395, 3030)]
    with refuses("S2_quest.csv: row '# START': '7.65' is no time"):
        read_wesad_protocol(write_quest(tmp_path / "S2_quest.csv", start="# START;7.65;1;2"))
    with refuses("row '# END': 1 times for 3 conditions"):
        read_wesad_protocol(write_quest(tmp_path / "S2_quest.csv", end="# END;1"))
    with refuses("there is no row '# START'"):
        read_wesad_protocol(write_quest(tmp_path / "S2_quest.csv", start="# BEGIN;1;2;3"))


# ------------------------------------------------------------------ K-EmoCon
@pytest.mark.parametrize("inner", ["raw/", "", "raw/raw/"])
def test_kemocon_is_read_wherever_it_was_unpacked(tmp_path, inner):
    (recording,) = read_kemocon(write_kemocon(tmp_path, inner=inner))
    assert recording.name == "kemocon/1"
    assert recording.start == T0
    assert {name: len(s) for name, s in recording.signals.items()} == {"bvp": 3840, "eda": 240, "temp": 240}
    np.testing.assert_allclose(recording.signals["eda"][1:], signal("EDA", 60)[1:], atol=1e-9)


def test_ratings_end_with_the_debate_and_missing_ones_are_counted(tmp_path):
    (recording,) = read_kemocon(write_kemocon(tmp_path))
    high = "high valence and arousal"
    # The last of eight ends at 60 s; the second and the last have no valence.
    assert [(round(a), round(b), name) for a, b, name in recording.labels] == [
        (20, 25, high), (30, 35, high), (35, 40, high), (40, 45, "other"), (45, 50, "other"), (50, 55, "other"),
    ]  # fmt: skip
    assert recording.notes["labels: ratings without a value, left out"] == 2


def test_of_two_devices_the_persons_own_is_kept(tmp_path):
    (recording,) = read_kemocon(write_kemocon(tmp_path / "a", pid=31, serials=("A99999", "A013E1")))
    assert recording.signals["eda"].mean() > 5
    assert recording.notes["eda: samples of another device, left out"] == 240
    with refuses("samples of devices ['A1', 'A2'], of which it is not known whose"):
        read_kemocon(write_kemocon(tmp_path / "b", serials=("A1", "A2")))


def test_people_who_lack_a_signal_are_skipped_and_named(tmp_path):
    write_kemocon(tmp_path, pid=1)
    write_kemocon(tmp_path, pid=4)
    (tmp_path / "raw/e4_data/1/E4_EDA.csv").unlink()
    found = read_kemocon(tmp_path)
    assert [r.subject for r in found] == ["4"]
    assert found.skipped == {"a file is missing or empty": ["kemocon/1: there is no e4_data/1/E4_EDA.csv"]}
    assert [r.subject for r in read_kemocon(tmp_path, modalities=("bvp", "temp"))] == ["1", "4"]
    (tmp_path / "raw/e4_data/4/E4_BVP.csv").write_text("")
    with refuses("nobody has all of ['bvp', 'eda', 'temp']; kemocon/1"):
        read_kemocon(tmp_path)


def test_a_recording_with_a_gap_is_cut_in_two(tmp_path):
    file = write_kemocon(tmp_path) / "raw/e4_data/1/E4_EDA.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:101] + lines[141:]) + "\n")  # without 25 to 35 s
    first, second = read_kemocon(tmp_path)
    assert first.seconds == pytest.approx(25.0, abs=0.02)
    assert second.start - T0 == pytest.approx(35.0)
    assert second.labels[0][:2] == pytest.approx((0, 5))
    assert first.notes["eda: gaps of 1 s or more, where the recording is cut"] == 1


def test_what_is_wrong_in_kemocon_is_named(tmp_path):
    root = write_kemocon(tmp_path)
    notes = root / "raw/emotion_annotations/self_annotations/P1.self.csv"
    whole, eda = notes.read_text(), root / "raw/e4_data/1/E4_EDA.csv"
    for content, message in (
        (whole.replace("5,3,4,x", "5,7,4,x", 1), "column 'arousal', line 2: 7; ratings are 1 to 5"),
        (whole.replace("5,3,4,x", "5,?,4,x", 1), "column 'arousal', line 2: '?' is not a number"),
        (whole.replace("arousal", "energy"), "column 'arousal' is not there once"),
        (
            "\n".join(whole.splitlines()[::-1][-1:] + whole.splitlines()[:0:-1]),
            "column 'seconds': expected times in order",
        ),
    ):
        notes.write_text(content)
        with refuses(f"P1.self.csv: {message}"):
            read_kemocon(root)
    notes.write_text(whole)
    table = pd.read_csv(eda)
    table.iloc[::2].to_csv(eda, index=False)
    with refuses("eda: 2 samples per second by its times, expected 4"):
        read_kemocon(root)
    table.iloc[::-1].to_csv(eda, index=False)
    with refuses("eda, sample 1: its time is before"):
        read_kemocon(root)
    with refuses("rater: 'me' is none of"):
        read_kemocon(root, rater="me")
    (root / "metadata/subjects.csv").write_text("pid,startTime,endTime\n1,20,10\n")
    with refuses("pid 1: startTime 20.0, endTime 10.0"):
        read_kemocon(root)
    (root / "metadata/subjects.csv").unlink()
    with refuses("there is no metadata/subjects.csv"):
        read_kemocon(root)


# ------------------------------------------------------------------ spreadsheets
def test_without_openpyxl_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "P001/PRE").mkdir(parents=True)
    (tmp_path / "PRE_afterPPT.xlsx").write_bytes(b"")
    with refuses("needs openpyxl; pip install 'pyrozoo[spreadsheets]'", ImportError):
        read_verbio(tmp_path, sessions=("PRE",))
    write_e4(tmp_path / f"15/15_{T0}")
    (tmp_path / "SurveyResults.xlsx").write_bytes(b"")
    with refuses("pip install 'pyrozoo[spreadsheets]'", ImportError):
        read_nurses(tmp_path, labelled=True)
    assert read_nurses(tmp_path)  # signals need no spreadsheets


@needs_openpyxl
def test_verbio_is_read_with_one_label_per_speech(tmp_path):
    found = read_verbio(write_verbio(tmp_path))
    assert [r.name for r in found] == ["verbio/P001", "verbio/P001", "verbio/P004", "verbio/P004"]
    assert [[name for *_, name in r.labels] for r in found] == [["low"], ["high"], ["high"], []]  # 37, 38, 52, none
    assert found[0].classes == ("low", "high")
    np.testing.assert_allclose(found[0].signals["bvp"], signal("BVP", 40), atol=1e-9)


@needs_openpyxl
def test_sessions_of_verbio_that_lack_a_signal_are_skipped(tmp_path):
    (write_verbio(tmp_path) / "P001/POST/E4_EDA_PPT.xlsx").unlink()
    found = read_verbio(tmp_path)
    assert len(found) == 3
    assert found.skipped == {"a file is missing or empty": ["verbio/P001: there is no POST/E4_EDA_PPT.xlsx"]}


@needs_openpyxl
def test_what_is_wrong_in_verbio_is_named(tmp_path):
    root = write_verbio(tmp_path, pids=(1, 4))
    report = root / "PRE/Self_Reports/PRE_afterPPT.xlsx"
    for table, message in (
        ({"PID": ["P001"], "STAI State Score": [99]}, "column 'STAI State Score', line 2: 99; scores are 20 to 80"),
        ({"PID": ["P001", 1], "STAI State Score": [30, 31]}, "column 'PID', line 3: '1' is there twice"),
        ({"PID": ["x"], "STAI State Score": [30]}, "'x' is no participant"),
        ({"PID": ["P001"], "Score": [30]}, "column 'STAI State Score' is not there once"),
    ):
        pd.DataFrame(table).to_excel(report, index=False)
        with refuses(message):
            read_verbio(root)
    report.write_bytes(b"no spreadsheet")
    with refuses("PRE_afterPPT.xlsx: no spreadsheet"):
        read_verbio(root)
    report.unlink()
    with refuses("there is no PRE_afterPPT.xlsx"):
        read_verbio(root)
    with refuses("no folder P001, P002"):
        read_verbio(root / "PRE")


@needs_openpyxl
def test_the_nurses_survey_is_in_local_time(tmp_path):
    eight = 1586869200  # 8:00 in Chicago on 14 April 2020, when it is 13:00 UTC
    write_e4(tmp_path / f"E4/E4_{eight}", seconds=30, start=eight - 10)
    write_e4(tmp_path / f"15/15_{eight}", seconds=30, start=eight)
    write_survey(tmp_path / "SurveyResults.xlsx")
    found = {r.subject: r for r in read_nurses(tmp_path, labelled=True)}
    assert found["E4"].labels == ((10.0, 30.0, "level 2"),)
    assert found["15"].labels == ((0.0, 30.0, "level 0"),)
    assert found["15"].task == "nurse_stress"


@needs_openpyxl
def test_ids_that_a_spreadsheet_changed_are_named(tmp_path):
    eight = 1586869200
    write_e4(tmp_path / f"15/15_{eight}", seconds=30, start=eight)
    write_e4(tmp_path / f"E4/E4_{eight}", seconds=30, start=eight)
    table = pd.read_excel(write_survey(tmp_path / "SurveyResults.xlsx"), dtype=object)
    table.loc[0, "ID"] = 50  # what was 5E1
    table.loc[2, "ID"] = 15.0
    table.to_excel(tmp_path / "SurveyResults.xlsx", index=False)
    found = read_nurses(tmp_path, labelled=True)
    assert {r.subject: len(r.labels) for r in found} == {"15": 1, "E4": 0}
    assert found.skipped == {"reports of somebody who has no session": ["nurses/50"]}
    table.loc[2, "ID"] = 16
    table.to_excel(tmp_path / "SurveyResults.xlsx", index=False)
    with refuses("SurveyResults.xlsx reports on ['16', '50'], but the sessions are of ['15', 'E4']"):
        read_nurses(tmp_path, labelled=True)


# ------------------------------------------------------------------ nurses and Stress-Predict
def test_ids_of_nurses_are_strings_and_one_session_each_is_taken(tmp_path):
    for subject in ("15", "E4", "5C"):
        for k in range(2):
            zipped(write_e4(tmp_path / f"Stress_dataset/{subject}/{subject}_{T0 + k}", seconds=5, start=T0 + k))
    found = read_nurses(tmp_path)
    assert [(r.subject, r.task) for r in found] == [("15", None), ("5C", None), ("E4", None)]
    assert len(read_nurses(tmp_path, sessions="all")) == 6  # a folder and its zip file are one session
    chosen = {tuple(r.start for r in read_nurses(tmp_path, seed=seed)) for seed in range(8)}
    assert len(chosen) > 1
    assert [r.start for r in read_nurses(tmp_path, seed=3)] == [r.start for r in read_nurses(tmp_path, seed=3)]


@pytest.mark.parametrize("inside", ["../", "../../", "a/../../", "/tmp/"])
def test_a_zip_file_that_reaches_outside_is_refused_and_writes_nothing(tmp_path, inside):
    folder = write_e4(tmp_path / f"root/15/15_{T0}", seconds=5)
    path = zipped(folder, inside)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    before = sorted(tmp_path.rglob("*"))
    with refuses(f"15_{T0}.zip/BVP.csv: the zip file holds '{inside}"):
        read_nurses(tmp_path / "root")
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(path.parent.glob("*.csv"))


def test_a_damaged_zip_file_is_refused(tmp_path):
    path = zipped(write_e4(tmp_path / "s", seconds=5))
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("EDA.csv").header_offset + 60
    whole = path.read_bytes()
    for content in (whole[:-30], whole[: len(whole) // 2], whole[:at] + b"9999" + whole[at + 4 :]):
        path.write_bytes(content)
        with refuses("neither a folder nor a whole zip file"):
            read_e4(path)


def test_sessions_with_empty_files_are_skipped_and_named(tmp_path):
    for k in range(2):
        write_e4(tmp_path / f"15/15_{T0 + k}", seconds=5)
    (tmp_path / f"15/15_{T0}/BVP.csv").write_text("")
    for seed in range(4):
        (recording,) = found = read_nurses(tmp_path, seed=seed)
        assert recording.subject == "15"
    found = read_nurses(tmp_path, sessions="all")
    assert len(found) == 1
    (text,) = found.skipped["a file is missing or empty"]
    assert f"15_{T0}/BVP.csv: the file is empty" in text
    (tmp_path / f"15/15_{T0 + 1}/BVP.csv").write_text("")
    with refuses("no session is complete"):
        read_nurses(tmp_path)
    with refuses("no session <ID>_<unix start>.zip is in it"):
        read_nurses(tmp_path / f"15/15_{T0}")
    with refuses("sessions: 'two' is none of"):
        read_nurses(tmp_path, sessions="two")


@pytest.mark.parametrize("layout", ["all", "one each"])
def test_stress_predict_is_read_with_labels_of_every_second(tmp_path, layout):
    found = read_stress_predict(write_stress_predict(tmp_path, layout))
    assert [r.name for r in found] == ["stress_predict/S05", "stress_predict/S12"]
    assert found.skipped == {"there are no labels of this person": ["stress_predict/S01"]}
    for recording in found:
        assert recording.labels == ((10.0, 30.0, "baseline"), (30.0, 60.0, "stress"))
    file = tmp_path / ALL_LABELS if layout == "all" else next(tmp_path.rglob("P5_comb_binary.csv"))
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:5] + lines[10:]))
    assert read_stress_predict(tmp_path)[0].labels[:2] == ((10.0, 14.0, "baseline"), (19.0, 30.0, "baseline"))
    before = [line.replace(str(T0 + 10), str(T0 - 9)) for line in lines]
    file.write_text("".join(before))
    assert read_stress_predict(tmp_path)[0].notes["labels: seconds before or after the signals, left out"] == 1
    for content, message in (
        (whole.replace(",0\n", ",2\n", 1), "line 2: time 10, label 2; expected a time and 0 or 1"),
        (whole.replace(str(T0 + 11), str(T0 + 10)), "line 3: its time is not after the one before"),
        (whole.replace(str(T0)[:4], "1644"), "its times, 2022-02-15 00:57:16 to 2022-02-15 00:58:05 UTC, "),
        (whole.replace(str(T0)[:4], "1644"), "are not those of the recording S05, 60 s from 2020-04-14 17:50:26 UTC"),
    ):
        file.write_text(content)
        with refuses(message) as caught:
            read_stress_predict(tmp_path)
        assert str(caught.value).startswith(f"{file}: ")
    for path in tmp_path.rglob("*binary*.csv"):
        path.unlink()
    with refuses("nobody has labels: neither Improved_All_Combined_hr_rsp_binary.csv nor files P<n>_comb_binary.csv"):
        read_stress_predict(tmp_path)
    with refuses("no folder S01, S02"):
        read_stress_predict(tmp_path / "Processed_data")


def test_labels_of_stress_predict_must_name_participants(tmp_path):
    file = write_stress_predict(tmp_path) / ALL_LABELS
    file.write_text(file.read_text().replace("\n5,", "\nS05,", 1))
    with refuses("column 'Participant', line 2: 'S05' is not a number"):
        read_stress_predict(tmp_path)
    file.write_text(file.read_text().replace("\nS05,", "\n5.5,", 1))
    with refuses("line 2: participant 5.5; expected 2, 3, ..."):
        read_stress_predict(tmp_path)


def test_windows_of_stress_predict_are_read_from_one_file(tmp_path):
    label = np.array([0, 1, 0])
    arrays = {
        "eda_nS": np.full((3, 80), 500), "bvp_x10": np.full((3, 1280), -15), "temp_cC": np.full((3, 80), 3350),
        "label": label, "subject": np.array([2, 2, 11]),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    batch = read_stress_predict_windows(tmp_path / "a.npz")
    assert batch["bvp"].shape == (3, 1280)
    assert [float(batch[m][0, 0]) for m in ("bvp", "eda", "temp")] == pytest.approx([-1.5, 0.5, 33.5])
    assert batch["y_stress"].tolist() == [0, 1, 0]
    assert batch.group_names("subject").tolist() == ["stress_predict/S02"] * 2 + ["stress_predict/S11"]
    for changes, message in (
        ({"label": label + 5}, "labels, row 0: 5; classes are numbered 0 to 1, -1 where unknown"),
        ({"label": label * 0 - 1}, "task 'stress': no window has a label"),
        ({"label": label / 2}, "array 'label': float64; expected whole numbers"),
        ({"subject": np.array([2, 2, 11.5])}, "array 'subject': float64"),
        ({"subject": np.array(2)}, "array 'subject': shape ()"),
        ({"bvp_x10": np.ones((3, 640), int)}, "bvp: 640 samples at 64 Hz are 10 s, but windows of all modalities"),
    ):
        np.savez(tmp_path / "a.npz", **(arrays | changes))
        with refuses(f"a.npz: {message}" if "array" not in message else message):
            read_stress_predict_windows(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", label=label)
    with refuses("a.npz: array 'eda_nS' is missing; the file has ['label']"):
        read_stress_predict_windows(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:40])
    with refuses("a.npz: no npz file, or only a part of one"):
        read_stress_predict_windows(tmp_path / "a.npz")


# ------------------------------------------------------------------ recordings
def recording(seconds: float = 60, subject: str = "A", labels=(), shift: float = 0.0, **changes) -> Recording:
    fields = {
        "subject": subject, "rates": RATES, "dataset": "lab", "labels": labels,
        "signals": {name: signal(name.upper(), seconds, shift) for name in RATES},
    }  # fmt: skip
    if labels:
        fields |= {"task": "stress", "classes": ("baseline", "stress", "amusement")}
    return Recording(**(fields | changes))


def test_a_recording_refuses_what_is_no_signal():
    good = {"eda": np.ones(9)}
    for changes, message in (
        ({"subject": 15}, "subject 15: give a name, as a string ('15', not 15)"),
        ({"signals": {}}, "signals: there are none"),
        ({"signals": {"eda": np.ones((3, 2, 1))}}, "lab/A: eda: shape (3, 2, 1); give samples (n,), or (n, channels)"),
        ({"signals": {"eda": np.ones(0)}}, "lab/A: eda: the channel is empty"),
        ({"signals": {"eda": np.array([1, np.nan])}}, "eda, sample 1: nan is not finite"),
        ({"signals": good, "rates": {}}, "eda: the rate is None"),
        ({"signals": good, "labels": ((0, 1, "x"),), "task": "t", "classes": ("a",)}, "'x' is none of the classes"),
        ({"labels": ((0, 5, "a"), (4, 6, "a")), "task": "t", "classes": ("a",)}, "in order, without overlap"),
        ({"labels": ((0, 5, "a"),)}, "they need a task and its classes"),
    ):
        with refuses(message):
            recording(**({"task": None, "classes": ()} | changes))


def test_what_was_skipped_stays_with_joined_lists():
    one, other = Recordings([recording()], {"gone": ["x"]}), Recordings([], {"gone": ["y"], "bad": ["z"]})
    assert (one + other).skipped == {"gone": ["x", "y"], "bad": ["z"]}
    assert one.skipped == {"gone": ["x"]}


# ------------------------------------------------------------------ filtering
@pytest.mark.parametrize("function", [low_pass, fir])
def test_filters_keep_slow_and_stop_fast_parts_without_delay(function):
    time = np.arange(640) / 64
    slow, fast = np.sin(2 * np.pi * time), np.sin(2 * np.pi * 25 * time)
    out = function(3 + slow + fast, 64.0, 8.0)
    np.testing.assert_allclose(out[64:-64], 3 + slow[64:-64], atol=0.02)


@pytest.mark.parametrize("function", [low_pass, fir])
def test_filters_refuse_what_they_cannot_filter(function):
    with refuses("cutoff: 2 Hz; it must be between 0 and half the rate of 4 Hz"):
        function(np.ones(99), 4.0, 2.0)
    with refuses("cutoff: 0 Hz"):
        function(np.ones(99), 4.0, 0.0)
    with refuses("this filter needs one row of at least"):
        function(np.ones(4), 4.0, 1.0)
    with refuses("sample 3: not finite"):
        function(np.where(np.arange(99) == 3, np.nan, 1.0), 4.0, 1.0)


def test_recordings_are_filtered_by_modality_and_keep_the_rest():
    rough = recording(labels=((0, 20, "stress"),))
    smooth = filtered(Recordings([rough], {"gone": ["x"]}), {"bvp": 0.05})
    assert smooth.skipped == {"gone": ["x"]}
    assert smooth[0].labels == rough.labels
    assert np.std(smooth[0].signals["bvp"]) < 0.2 * np.std(rough.signals["bvp"])
    np.testing.assert_array_equal(smooth[0].signals["eda"], rough.signals["eda"])
    with refuses("lab/A, eda: cutoff: 3 Hz"):
        filtered([rough], {"eda": 3.0})
    with refuses("taps: 4; an odd number"):
        fir(np.ones(99), 64.0, 8.0, taps=4)


# ------------------------------------------------------------------ windows
def test_windows_are_labelled_by_time_and_mixed_ones_dropped_and_counted():
    """0 baseline, 1 mixed, 2 stress, 3 unlabelled, 4 partly labelled, then 7 s."""
    labels = ((0.0, 30.0, "baseline"), (30.0, 60.0, "stress"), (95.0, 107.0, "stress"))
    batch = windows([recording(107, labels=labels)])
    assert batch.n_rows == 2
    assert batch["y_stress"].tolist() == [0, 1]
    np.testing.assert_allclose(batch["eda"][1].numpy(), signal("EDA", 107)[160:240], atol=1e-6)
    assert batch.info["dropped"] == {"mixed": 2, "unlabelled": 1, "remainder_s": 7.0}
    kept = windows([recording(107, labels=labels)], keep_unlabelled=True)
    assert kept["labelled"].tolist() == [True, True, False]
    assert kept.info["dropped"]["mixed"] == 2
    most = windows([recording(107, labels=((0.0, 35.0, "baseline"), (35.0, 60.0, "stress")))], min_share=0.7)
    assert most["y_stress"].tolist() == [0, 0, 1]


def test_neighbouring_stretches_of_one_class_make_a_whole_window():
    labels = ((0.0, 5.0, "stress"), (5.0, 20.0, "stress"), (20.0, 40.0, "baseline"))
    assert windows([recording(40, labels=labels)])["y_stress"].tolist() == [1, 0]


def test_batches_have_the_layout_that_models_read():
    labels = ((0.0, 20.0, "baseline"), (20.0, 40.0, "amusement"))
    batch = windows([recording(40, labels=labels), recording(40, "B", dataset="field")])
    assert batch.rows == "window"
    assert batch.groups == ("subject",)
    assert {m: tuple(batch[m].shape) for m in RATES} == {"bvp": (4, 1280), "eda": (4, 80), "temp": (4, 80)}
    assert batch["bvp"].dtype == torch.get_default_dtype()
    assert batch["y_stress"].dtype == batch["dataset"].dtype == torch.int64
    assert batch["y_stress"].tolist() == [0, 2, 0, 0]
    assert dict(batch.labels) == {"y_stress": "labelled"}
    assert batch["labelled"].tolist() == [True, True, False, False]
    assert batch["dataset"].tolist() == [0, 0, 1, 1]
    assert batch.coords["dataset_class"].tolist() == ["lab", "field"]
    assert batch.coords["y_stress_class"].tolist() == ["baseline", "stress", "amusement"]
    assert batch.group_names("subject").tolist() == ["lab/A", "lab/A", "field/B", "field/B"]
    assert dict(batch.dims) == {m: (f"{m}_time",) for m in RATES}
    info = {key: batch.info[key] for key in ("name", "simulated", "seconds", "rates")}
    assert info == {"name": "lab + field", "simulated": False, "seconds": 20.0, "rates": RATES}


def test_what_readers_replaced_and_skipped_is_in_info(tmp_path):
    write_e4(tmp_path / f"15/15_{T0}", sentinel=2)
    write_e4(tmp_path / f"E4/E4_{T0}")
    write_e4(tmp_path / f"83/83_{T0}")
    (tmp_path / f"83/83_{T0}/EDA.csv").write_text("")
    batch = windows(read_nurses(tmp_path))
    assert batch.n_rows == 6
    assert batch.labels == {}
    assert batch.coords["subject"].tolist() == ["nurses/15", "nurses/E4"]
    assert batch.info["replaced"] == {
        "eda: first sample, a zero, replaced": 2, "temp: samples not measured (382 deg C), replaced": 2,
    }  # fmt: skip
    assert len(batch.info["skipped"]["a file is missing or empty"]) == 1


def test_wesad_makes_windows_of_its_three_classes(tmp_path):
    write_wesad(tmp_path)
    write_wesad(tmp_path, "S10")
    batch = windows(read_wesad(tmp_path))
    assert batch["y_stress"].tolist() == [0, 1, 2, 0] * 2
    assert batch.info["dropped"] == {"mixed": 0, "unlabelled": 4, "remainder_s": 0.0}
    assert batch.coords["subject"].tolist() == ["wesad/S2", "wesad/S10"]


def test_another_rate_is_an_error_unless_resampling_is_asked_for():
    odd = recording(40, rates=RATES | {"bvp": 32.0}, signals={m: signal(m.upper(), 40) for m in RATES})
    with refuses("lab/A: bvp: recorded at 32 Hz, not 64 Hz; change rates= or use resample=True"):
        windows([odd])
    batch = windows([recording(40)], rates={"bvp": 16.0, "temp": 4.0}, resample=True)
    assert batch["bvp"].shape == (2, 320)
    assert "eda" not in batch
    np.testing.assert_allclose(batch["bvp"][0].numpy(), signal("BVP", 40)[::4][:320], atol=0.5)


def test_windows_may_overlap():
    batch = windows([recording(40)], seconds=20, step=5)
    assert batch.n_rows == 5
    assert torch.equal(batch["eda"][1, :60], batch["eda"][0, 20:])


def test_windows_refuse_what_cannot_be_cut():
    both = ((0.0, 20.0, "baseline"), (20.0, 40.0, "stress"))
    for call, message in (
        (lambda: windows([]), "recordings: there are none"),
        (lambda: windows([recording(10)]), "no window of 20 s is left: the longest recording has 10 s"),
        (lambda: windows([recording(40)], seconds=1), "eda: a window has 4 samples, fewer than a segment of 5"),
        (lambda: windows([recording(40)], seconds=1.3), "1.3 s of bvp at 64 Hz is not a whole number of samples"),
        (lambda: windows([recording(40)], step=0.1), "step: 0.1 s of bvp"),
        (lambda: windows([recording(40)], seconds=-1), "seconds, step: -1"),
        (lambda: windows([recording(40)], rates={}), "rates: give at least one modality"),
        (lambda: windows([recording(40)], rates={"acc": 32.0}), "lab/A: acc: the recording lacks this modality"),
        (lambda: windows([recording(40, labels=both)], min_share=0.5), "min_share: 0.5"),
        (lambda: windows([recording(40, labels=both[:1])]), "task 'stress': all labelled windows are 'baseline'"),
        (lambda: windows([recording(40, labels=((5.0, 38.0, "stress"),))]), "2 windows were mixed"),
        (
            lambda: windows([recording(40, task="stress", classes=("a", "b"))], keep_unlabelled=True),
            "task 'stress': no window has a label",
        ),
    ):
        with refuses(message):
            call()


# ------------------------------------------------------------------ anybody's windows
def arrays(n: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"bvp": rng.standard_normal((n, 40)), "temp": rng.standard_normal((n, 10))}


def test_arrays_make_a_batch():
    subject = [15, 15, "E4", "E4", "E4", "007"]
    batch = from_arrays(arrays(), [0, 1, -1, 1, 0, -1], subject, "calm", classes=("no", "yes"), name="mine")
    assert batch["y_calm"].tolist() == [0, 1, 0, 1, 0, 0]
    assert batch.observed("y_calm").tolist() == [True, True, False, True, True, False]
    assert batch.coords["subject"].tolist() == ["own/15", "own/E4", "own/007"]
    assert batch.coords["y_calm_class"].tolist() == ["no", "yes"]
    assert (batch.info["name"], batch.info["simulated"]) == ("mine", False)
    assert from_arrays(arrays(2), list(np.array([0, 1])), list("ab"), "t")["y_t"].tolist() == [0, 1]
    ids = from_arrays(arrays(2), None, np.array([15, 16]), None)
    assert ids.coords["subject"].tolist() == ["own/15", "own/16"]
    assert ids.labels == {}


def test_labels_may_be_names():
    batch = from_arrays(arrays(4), ["stress", None, "baseline", ""], list("abcd"), "stress")
    assert batch.coords["y_stress_class"].tolist() == ["baseline", "stress"]  # in the order of the task
    assert batch["y_stress"].tolist() == [1, 0, 0, 0]
    assert batch.observed("y_stress").tolist() == [True, False, True, False]
    assert from_arrays(arrays(2), ["z", "a"], list("ab"), "t").coords["y_t_class"].tolist() == ["a", "z"]


def test_arrays_that_are_wrong_are_refused():
    good, people = arrays(2), ["a", "b"]
    for signals, labels, subject, task, message in (
        ({}, [0, 1], people, "t", "signals: there are none"),
        ({"y_t": np.ones((2, 9))}, [0, 1], people, "t", "the name 'y_t' is taken"),
        ({"eda": np.ones((3, 9))}, [0, 1], people, "t", "eda: float64 of shape (3, 9); give numbers, (2 windows"),
        ({"eda": np.ones((2, 0))}, [0, 1], people, "t", "eda: the channel is empty"),
        ({"eda": np.ones((2, 4))}, [0, 1], people, "t", "eda: a window has 4 samples, fewer than a segment of 5"),
        ({"eda": np.full((2, 9), np.nan)}, [0, 1], people, "t", "eda, row 0: sample 0 is not finite; interpolate it"),
        (good, [0, -2], people, "t", "labels, row 1: -2; classes are numbered 0 to 0, -1 where unknown"),
        (good, [0.0, 1.0], people, "t", "labels, row 0: 0.0; give whole numbers"),
        (good, [0, 0], people, "t", "task 't': all labelled windows are '0'"),
        (good, [-1, -1], people, "t", "task 't': no window has a label"),
        (good, [0], people, "t", "labels: shape (1,), expected (2,)"),
        (good, None, people, "t", "labels: there are none for the task 't'"),
        (good, [0, 1], people, None, "task: name what the labels are of"),
        (good, [0, 1], [15.0, 8000.0], "t", "subject, row 0: 15.0 is a number with decimals; read the column as text"),
        (good, [0, 1], ["a", " "], "t", "subject, row 1: the name is missing"),
        (good, [0, 1], [15.0, "E4"], "t", "subject, row 0: 15.0 is a number with decimals"),  # not made text by numpy
        (good, [0, 1], pd.Series([np.float32(50.0), "E4"]), "t", "subject, row 0: 50.0 is a number with decimals"),
        (good, [0, 1], ["a", float("nan")], "t", "subject, row 1: the name is missing"),
        (good, [0, 1], ["15", "50.0"], "t", "subject, row 1: 50.0 is a number with decimals"),
        (good, [0, 1], pd.array(["a", None], dtype="string"), "t", "subject, row 1: the name is missing"),
        (good, [0, 1], "ab", "t", "subject: 'ab'; give one value per window"),
        (good, ["a", "nan"], people, "t", "labels, row 1: 'nan'; it looks like a label that is missing"),
        (good, ["a", "-1"], people, "t", "labels, row 1: '-1'; it looks like a label that is missing"),
    ):
        with refuses(message):
            from_arrays(signals, labels, subject, task)
    with refuses("labels, row 0: 'x'; it is none of the classes ['a', 'b']"):
        from_arrays(good, ["x", "a"], people, "t", classes=("a", "b"))
    for rates, message in (
        ({"bvp": 64.0, "temp": 4.0}, "temp: 10 samples at 4 Hz are 2.5 s, but windows of bvp last 0.625 s; the rates"),
        ({"bvp": 16.0}, "rates: 'temp' has signals but no rate"),
    ):
        with refuses(message):
            from_arrays(good, [0, 1], people, "t", rates=rates)
    with refuses("bvp: 40 samples at 16 Hz are 2.5 s, but windows of all modalities should last 20 s"):
        from_arrays(good, [0, 1], people, "t", rates={"bvp": 16.0, "temp": 4.0}, seconds=20.0)


# ------------------------------------------------------------------ batches
def cohort(n_people: int = 4, each: int = 12, dataset: str = "lab", task: str = "stress", seed: int = 0):
    """Windows of several people with balanced labels that shift the temperature."""
    n, rng = n_people * each, np.random.default_rng(seed)
    label = np.tile([0, 1], n // 2)
    person = np.repeat(np.arange(n_people), each)
    signals = {"bvp": rng.standard_normal((n, 40)), "temp": rng.standard_normal((n, 10)) + 3 * label[:, None]}
    signals["temp"] += 10 * person[:, None]
    names = [f"P{k}" for k in person]
    return from_arrays(signals, label, names, task, classes=("baseline", "stress"), dataset=dataset, name=dataset)


def test_standardisation_is_by_person_or_by_window():
    batch = standardise(cohort())
    for name in ("bvp", "temp"):
        for k in range(4):
            own = batch[name][batch["subject"] == k]
            assert own.mean().item() == pytest.approx(0, abs=1e-5)
            assert own.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert batch.info["standardised"] == "subject"
    by_window = standardise(cohort(), by="window")["temp"]
    np.testing.assert_allclose(by_window.mean(1), 0, atol=1e-5)
    with refuses("the data are standardised already, by subject"):
        standardise(batch)
    with refuses("by: 'all' is none of"):
        standardise(cohort(), by="all")
    flat = from_arrays({"eda": np.repeat([[1.0], [2.0]], 9, axis=1)}, None, ["a", "b"], None)
    with refuses("eda, subject 'own/a': it never changes"):
        standardise(flat)


def test_data_sets_of_different_tasks_are_joined():
    one, two = cohort(2, 4), cohort(3, 2, dataset="stage", task="anxiety")
    three = from_arrays(arrays(5), None, ["P0"] * 5, None, dataset="ward", name="ward")
    batch = merge([one, two, three])
    assert batch.n_rows == 8 + 6 + 5
    assert list(batch.labels) == ["y_stress", "y_anxiety"]
    assert batch.observed("y_stress").tolist() == [True] * 8 + [False] * 11
    assert batch.observed("y_anxiety").tolist() == [False] * 8 + [True] * 6 + [False] * 5
    assert batch["dataset"].tolist() == [0] * 8 + [1] * 6 + [2] * 5
    assert batch.sizes["subject"] == 6
    assert batch["y_anxiety"][8:14].tolist() == two["y_anxiety"].tolist()
    assert torch.equal(batch["temp"], torch.cat([one["temp"], two["temp"], three["temp"]]))
    assert batch.info["name"] == "lab + stage + ward"
    assert set(batch.info["parts"]) == {"lab", "stage", "ward"}


def test_classes_of_one_task_are_matched_by_name():
    one = from_arrays(arrays(3), ["stress", "amusement", "baseline"], list("abc"), "stress", dataset="one")
    two = from_arrays(arrays(2), [0, 1], list("ab"), "stress", classes=("stress", "baseline"), dataset="two")
    batch = merge([one, two])
    assert batch.coords["y_stress_class"].tolist() == ["baseline", "stress", "amusement"]
    assert batch["y_stress"].tolist() == [1, 2, 0, 1, 0]


def test_simulated_data_sets_are_joined_and_tasks_without_labels_kept():
    parts = [simulate(f"simulated {name}", n_subjects=2, n_windows=6) for name in ("stress", "work")]
    batch = merge(parts)
    assert batch.info["simulated"]
    assert batch.info["rates"] == RATES
    assert set(batch.labels) == set(parts[0].labels)
    assert batch.observed("y_stress").tolist() == [True] * 12 + [False] * 12
    assert not batch.observed("y_emotion").any()
    train, test = split_subjects(batch, 0.5)
    assert (train.n_rows, test.n_rows) == (18, 6)


def test_data_sets_that_do_not_fit_are_not_joined():
    one = cohort(2, 4)
    for other, message in (
        (cohort(2, 4), "batch 1 (lab): 'lab/P0' is in an earlier batch, too"),
        (from_arrays({"bvp": np.ones((2, 40))}, None, list("ab"), None), "samples in a window {'bvp': 40}, but"),
        (standardise(cohort(2, 4, dataset="x")), "standardised: subject, but None in the first"),
        (cohort(2, 4, dataset="x").take([0, 1]), "it is a minibatch"),
    ):
        with refuses(message):
            merge([one, other])
    with refuses("batches: there are none"):
        merge([])


# ------------------------------------------------------------------ splits
def people(batch) -> set[str]:
    return set(batch.coords["subject"].tolist())


def test_a_split_by_subject_tests_on_other_people_of_every_labelled_data_set():
    ward = from_arrays(arrays(5), None, ["P0"] * 5, None, dataset="ward")
    data = merge([cohort(4), cohort(8, dataset="stage", task="anxiety"), ward])
    train, test = split_subjects(data, 0.25, seed=1)
    assert not people(train) & people(test)
    assert people(train) | people(test) == people(data)
    assert sorted(name.split("/")[0] for name in people(test)) == ["lab", "stage", "stage"]
    assert people(split_subjects(data, 0.25, seed=1)[1]) == people(test)
    assert len({tuple(sorted(people(split_subjects(data, seed=s)[1]))) for s in range(6)}) > 1
    with refuses("test: 1.5; a share in (0, 1)"):
        split_subjects(data, 1.5)
    with refuses("data set 'lab' has one person"):
        split_subjects(cohort(1))
    with refuses("labels: no window has one"):
        split_subjects(ward)


def test_everybody_is_left_out_once():
    data = merge([cohort(4), cohort(5, 2, dataset="stage", task="anxiety")])
    folds = leave_subjects_out(data, 4, seed=2)
    assert all(not people(train) & people(test) for train, test in folds)
    tested = [name for _, test in folds for name in people(test)]
    assert sorted(tested) == sorted(people(data))
    assert [len(people(test)) for _, test in leave_subjects_out(cohort(3), 3)] == [1, 1, 1]
    for number in (1, 5):
        with refuses(f"folds: {number}; from 2 to the number of people of data set 'lab', 4"):
            leave_subjects_out(cohort(4), number)


def test_training_data_must_have_the_classes_of_a_task():
    data = from_arrays(arrays(4), [0, 0, 1, 1], list("aabb"), "t")
    with refuses("task 't': the training data have 1 of its classes"):
        split_subjects(data, 0.5)


def test_the_papers_split_by_window_has_its_shares_and_is_stratified():
    data = merge([cohort(4, 100), cohort(2, 100, dataset="stage", task="anxiety")])
    parts = split_windows(data, seed=3)
    assert [part.n_rows for part in parts] == [157, 53, 330, 60, 217]
    for part in parts[:3]:
        for target in part.labels:
            values = part[target].numpy()[part.observed(target)]
            assert abs(values.mean() - 0.5) < 0.02
    assert not any(parts.unlabelled.observed(target).any() for target in data.labels)
    labelled = sum(parts.semi_supervised.observed(target).sum() for target in data.labels)
    assert labelled == parts.train.n_rows
    assert people(parts.train) == people(parts.test)  # it leaks, as it says
    assert "leaks" in split_windows.__doc__
    rows = torch.cat([part["temp"][:, 0] for part in parts[:4]])
    assert sorted(rows.tolist()) == sorted(data["temp"][:, 0].tolist())
    assert torch.equal(split_windows(data, seed=3).test["temp"], parts.test["temp"])
    with refuses("task 'stress', class 'baseline': 4 windows, fewer than the 12"):
        split_windows(cohort(2, 4))


# ------------------------------------------------------------------ features
def test_features_are_what_they_are_called():
    ramp = np.arange(10.0)[None] * np.array([[1.0], [-2.0]])
    matrix, names = handcrafted(from_arrays({"eda": ramp, "acc": ramp + 1}, None, ["a", "b"], None))
    assert matrix.shape == (2, 16)
    table = dict(zip(names, matrix.T.tolist(), strict=True))
    assert names[0] == "eda_mean"
    assert table["eda_mean"] == [4.5, -9.0]
    assert table["eda_sd"] == pytest.approx(ramp.std(1))
    assert (table["eda_max"], table["eda_min"], table["eda_median"]) == ([9, 0], [0, -18], [4.5, -9])
    assert table["eda_iqr"] == pytest.approx([4.5, 9.0])
    assert table["acc_slope"] == pytest.approx([9.0, -18.0])
    assert table["acc_mean_abs_diff"] == [1, 2]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_what_is_easy_and_repeats(name):
    data = standardise(cohort(4))
    train, test = split_subjects(data, 0.25)
    (x, _), (x_test, _) = handcrafted(train), handcrafted(test)
    found = [BASELINES[name](7).fit(x, train["y_stress"]).predict(x_test) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert (found[0] == test["y_stress"].numpy()).mean() > 0.8


def test_the_paper_has_six_baselines():
    assert list(BASELINES) == ["random forest", "decision tree", "extra trees", "LDA", "linear", "SVM"]


@pytest.mark.parametrize("dtype", [object, "str", "string"])
def test_a_label_missing_in_a_pandas_column_is_unknown(dtype):
    labels = pd.Series(["low", None, "high", "low"], dtype=dtype)
    data = from_arrays({"eda": np.ones((4, 80))}, labels, ["1", "1", "2", "2"], "stress")
    assert data.observed("y_stress").tolist() == [True, False, True, True]
