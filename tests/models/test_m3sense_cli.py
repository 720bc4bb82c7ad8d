"""The m3sense entry on the command line: files of windows, and what is refused of them."""

import re

import numpy as np
import pandas as pd
import pytest

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.models import m3sense
from pyrozoo.models.m3sense.data.batches import merge
from pyrozoo.models.m3sense.data.window_files import read_windows
from pyrozoo.models.m3sense.entry import read, tables

SMALL = [
    f"--set={text}"
    for text in (
        "embedding=8", "lstm_layers=1", "hidden=(8,8)", "head=8", "a_dim=2", "q_hidden=8", "unimodal=last", "fusion=sum"
    )
]  # fmt: skip


def refuses(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=re.escape(message))


def arrays(n: int = 12, seed: int = 0, **changes) -> dict[str, np.ndarray]:
    """Windows of four people; changes of None leave an array out."""
    rng = np.random.default_rng(seed)
    given = {
        "bvp": rng.standard_normal((n, 40)), "temp": rng.standard_normal((n, 10)) + 33,
        "subject": np.array(["15", "E4", "007", "5E1"])[np.arange(n) % 4],
        "label_stress": np.array(["stress", "baseline", ""])[np.arange(n) % 3],
        "label_calm": np.array([-1, 0, 1])[np.arange(n) % 3], "rates_bvp": 16.0, "rates_temp": 4,
    }  # fmt: skip
    return {name: value for name, value in (given | changes).items() if value is not None}


def saved(path, n: int = 12, **changes) -> str:
    np.savez(path, **arrays(n, **changes))
    return str(path)


def test_the_command_line_fits_and_predicts_windows_in_files(tmp_path, capsys):
    out, table = tmp_path / "run", tmp_path / "labels.csv"
    train = saved(tmp_path / "train.npz")
    assert main(["fit", "m3sense", "--data", train, *SMALL, "--steps", "3", "--out", str(out)]) == 0
    assert "pyrozoo predict" in capsys.readouterr().out
    new = saved(tmp_path / "new.npz", 5, seed=1, label_stress=None, label_calm=None)
    assert main(["predict", str(out), "--data", new, "--out", str(table)]) == 0
    assert "5 lines in" in capsys.readouterr().out
    found = pd.read_csv(table, dtype={"subject": str})
    classes = [f"y_stress.p[{name}]" for name in ("baseline", "stress")]
    assert list(found.columns) == [
        "window", "subject", "y_stress.label", *classes, "y_calm.label", "y_calm.p[0]", "y_calm.p[1]",
    ]  # fmt: skip
    assert found["subject"].tolist() == ["15", "E4", "007", "5E1", "15"]
    assert found[classes].sum(axis=1).to_numpy() == pytest.approx(np.ones(5))
    assert set(found["y_stress.label"]) <= {"baseline", "stress"}
    # The same labels as in Python, and labels of the file change nothing.
    fit = zoo.load(out)
    (own,) = tables(fit, read(new, like=fit.prototype)).values()
    assert own["y_stress.label"].tolist() == found["y_stress.label"].tolist()
    labelled = saved(tmp_path / "labelled.npz", 5, seed=1, label_calm=None, label_other=np.arange(5))
    assert main(["predict", str(out), "--data", labelled, "--out", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_text() == table.read_text()
    for changes, message in (
        ({"temp": None, "rates_temp": None}, "there is no array 'temp', only ['bvp']; the fit needs ['bvp', 'temp']"),
        ({"bvp": np.ones((5, 80)), "temp": np.ones((5, 20))}, "array 'bvp': 80 samples in a window, but 40 in train"),
        ({"rates_bvp": 8.0, "rates_temp": 2.0}, "array 'rates_bvp': 8 Hz, but 16 Hz in training"),
        ({"standardised": "subject"}, "array 'standardised': the signals are standardised by person, but those of the "
                                      "training data are not standardised"),
        ({"label_stress": np.array(["", "", "fear", "", ""]), "label_calm": None},
         "label_stress, row 2: 'fear'; it is none of the classes ['baseline', 'stress']"),
    ):  # fmt: skip
        file = saved(tmp_path / "odd.npz", 5, **({"label_stress": None, "label_calm": None} | changes))
        assert main(["predict", str(out), "--data", file, "--out", str(tmp_path / "none.csv")]) == 2
        error = capsys.readouterr().err
        assert f"odd.npz: {message}" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "none.csv").exists()


def test_what_is_standardised_is_predicted_from_what_is_standardised(tmp_path):
    like = read(saved(tmp_path / "a.npz", standardised="subject"))
    assert like.info["standardised"] == "subject"
    ranked = m3sense.with_features(read_windows(tmp_path / "a.npz"), "ranks")
    again = read(tmp_path / "a.npz", like=ranked)
    assert again["temp_features"].tolist() == ranked["temp_features"].tolist()
    assert read(saved(tmp_path / "b.npz", standardised="subject"), like=like).n_rows == 12
    with refuses("b.npz: array 'standardised': the signals are not standardised, but those of the training data are "
                 "standardised by person; treat both alike"):  # fmt: skip
        read(saved(tmp_path / "b.npz"), like=like)


def test_a_folder_a_rate_or_a_file_without_labels_is_refused(tmp_path, capsys):
    for arguments, message in (
        (["--data", str(tmp_path)], "a folder, whose kind of recordings is not guessed; read it in Python, by read_e4"),
        (["--data", saved(tmp_path / "a.npz"), "--rate", "64"], "--rate: a file of windows names its own rates"),
        (["--data", saved(tmp_path / "b.npz", label_stress=None, label_calm=None)], "b.npz: there is no array label_"),
        (["--data", str(tmp_path / "none.npz")], "none.npz: there is no such file"),
    ):
        assert main(["fit", "m3sense", *arguments, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err


def test_a_file_of_windows_is_a_batch_with_all_its_tasks(tmp_path):
    batch = read_windows(saved(tmp_path / "a.npz"))
    assert batch.coords["subject"].tolist() == ["own/15", "own/E4", "own/007", "own/5E1"]
    assert batch.coords["y_stress_class"].tolist() == ["baseline", "stress"]
    assert batch.coords["y_calm_class"].tolist() == ["0", "1"]
    assert batch["y_stress"].tolist() == [1, 0, 0] * 4
    assert batch.observed("y_stress").tolist() == [True, True, False] * 4
    assert batch.observed("y_calm").tolist() == [False, True, True] * 4
    assert batch.info["rates"] == {"bvp": 16.0, "temp": 4.0}
    assert batch.info["seconds"] == 2.5
    numbered = read_windows(saved(tmp_path / "b.npz", subject=np.arange(12) % 4 + 14), dataset="other")
    assert numbered.coords["subject"].tolist() == [f"other/{k}" for k in (14, 15, 16, 17)]
    assert merge([batch, numbered]).sizes["subject"] == 8
    fixed = read_windows(saved(tmp_path / "c.npz", label_calm=None), classes={"calm": ("no", "yes")})
    assert list(fixed.labels) == ["y_calm"]
    assert not fixed.observed("y_calm").any()


def test_what_is_wrong_in_a_file_of_windows_is_named(tmp_path):
    gap, n = np.ones((12, 40)), 12
    gap[3, 7] = np.nan
    for changes, message in (
        ({"subject": None}, "array 'subject' is missing; the file has ["),
        ({"subject": np.array([None] * n)}, "array 'subject' cannot be read (it holds Python objects"),
        ({"subject": np.arange(n) / 2}, "subject, row 0: 0.0 is a number with decimals; read the column as text"),
        ({"subject": np.array([*"abcdefghijk", ""])}, "subject, row 11: the name is missing"),
        ({"subject": np.array(["a"] * 11 + [np.nan])}, "subject, row 11: the name is missing"),
        ({"subject": np.array([b"a"] * n)}, "subject, row 0: b'a' are bytes; give text"),
        ({"subject": np.array("a")}, "subject: 'a'; give one value per window"),
        ({"subject": np.array([["a"]] * n)}, "subject: ['a'] in the place of one value"),
        ({"bvp": gap}, "bvp, row 3: sample 7 is not finite; interpolate it or leave the window out"),
        ({"bvp": np.ones((n, 0))}, "bvp: the channel is empty; leave the modality out"),
        ({"bvp": np.ones((n, 3))}, "bvp: a window has 3 samples, fewer than a segment of 5"),
        ({"bvp": np.ones((5, 40))}, "bvp: float64 of shape (5, 40); give numbers, (12 windows, samples)"),
        ({"session": np.arange(n)}, "session: int64 of shape (12,)"),
        ({"bvp": None, "temp": None}, "signals: there are none"),
        ({"rates_bvp": 64.0}, "temp: 10 samples at 4 Hz are 2.5 s, but windows of bvp last 0.625 s; the rates do not"),
        ({"rates_bvp": None}, "rates: 'bvp' has signals but no rate"),
        ({"rates_eda": 4.0}, "rates: 'eda' has rate but no signals"),
        ({"rates_bvp": -1.0}, "rates: bvp at -1.0 Hz; give samples per second"),
        ({"rates_bvp": np.ones(2)}, "array 'rates_bvp': float64 of shape (2,); give one number"),
        ({"standardised": "yes"}, "array 'standardised': 'yes'; give 'subject' or 'window'"),
        ({"label_stress": np.array(["stress"] * n)}, "task 'stress': all labelled windows are 'stress'"),
        ({"label_calm": np.full(n, -1)}, "task 'calm': no window has a label"),
        ({"label_calm": np.full(n, -2)}, "label_calm, row 0: -2; classes are numbered"),
        ({"label_calm": np.arange(n) % 2 * 1.0}, "label_calm, row 0: 0.0; give whole numbers"),
        ({"label_calm": np.array(["0", "-1"] * 6)}, "label_calm, row 1: '-1'; it looks like a label that is missing"),
        (
            {"label_calm": np.array(["a", np.nan] * 6)},
            "label_calm, row 1: 'nan'; it looks like a label that is missing",
        ),
        ({"label_calm": np.arange(5)}, "label_calm: shape (5,), expected (12,)"),
        ({"y_calm": np.ones((n, 9))}, "signals: the name 'y_calm' is taken"),
    ):
        with refuses(f"odd.npz: {message}"):
            read_windows(saved(tmp_path / "odd.npz", **changes))


def test_what_is_no_whole_npz_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    whole = (saved(path), path.read_bytes())[1]
    np.save(tmp_path / "one.npy", np.ones(3))
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04", b"\x80\x04N.", (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(content)
        with refuses("a.npz: no npz file, or only a part of one"):
            read_windows(path)
    broken = bytearray(whole)
    broken[300] ^= 0xFF
    path.write_bytes(broken)
    with refuses("a.npz: array 'bvp' cannot be read"):
        read_windows(path)
    with pytest.raises(FileNotFoundError):
        read_windows(tmp_path / "none.npz")


def test_data_that_are_standardised_otherwise_than_those_of_the_fit_are_refused():
    data = m3sense.simulate_all(0, n_subjects=2, n_windows=4, seconds=5.0, rates={"bvp": 8, "eda": 4, "temp": 4})
    model = zoo.create_model("m3sense", data, embedding=4, lstm_layers=1, hidden=(4, 4), head=3, a_dim=2, q_hidden=3)
    fit = zoo.fit(model, "paper", m3sense.standardise(data), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"standardised by None where .* standardised by subject; treat both alike"):
        zoo.predict(fit, data)
