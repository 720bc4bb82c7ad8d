import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import decode
import decode_stream
import units

ROOT = Path(__file__).parents[1]
needs_hmmlearn = pytest.mark.skipif(decode._hmmc is None, reason="hmmlearn is not installed")
READINGS = ["hazard", "cdf"]


@pytest.fixture
def short(monkeypatch):
    """Lower caps: the plain forward passes then take milliseconds, and recordings go beyond the caps."""
    original = decode.process_of
    monkeypatch.setattr(decode, "process_of", lambda values, reading: original(values, reading, cap=12))


@needs_hmmlearn
@pytest.mark.parametrize(("variants", "compare", "public"), [
    (decode.viterbi_variants, decode._paths, ["pyrozoo most_probable", "hmmlearn decode"]),
    (decode.smoothing_variants, decode._posteriors, ["pyrozoo marginals", "hmmlearn score_samples"]),
])  # fmt: skip
def test_hmmlearn_finds_the_same(variants, compare, public):
    table = decode.against_hmmlearn(variants, compare, number=3, length=80, rounds=1)
    assert list(table.index) == ["pyrozoo kernel", public[0], "hmmlearn kernel", public[1]]
    assert (table["difference"] < 1e-10).all()
    assert (table.loc["hmmlearn kernel", ["ratio", "ratio_rounds"]] == 1).all()


@needs_hmmlearn
def test_another_path_or_posterior_is_noticed(monkeypatch):
    kernel = decode.chain.viterbi
    monkeypatch.setattr(decode.chain, "viterbi", lambda *args: (kernel(*args)[0][::-1], kernel(*args)[1]))
    with pytest.raises(RuntimeError, match="pyrozoo kernel: differs by inf"):
        decode.against_hmmlearn(decode.viterbi_variants, decode._paths, number=1, length=80, rounds=1)
    expected = [(-1.0, np.full((2, 2), 0.5))]
    assert decode._posteriors([(-1.0, np.array([[0.5, 0.5], [0.6, 0.4]]))], expected) == pytest.approx(0.1)
    assert decode._posteriors([(-1.1, expected[0][1])], expected) == pytest.approx(0.1)


@pytest.mark.parametrize("reading", READINGS)
def test_plain_pytorch_has_the_value_and_the_gradients_of_the_zoo(reading, short):
    table = decode.against_autograd(reading, number=2, length=30, rounds=1)
    assert list(table.index) == [*decode.EVIDENCE, "tables alone"]
    assert (table.loc[list(decode.EVIDENCE), "difference"] < 1e-10).all()
    assert (table.loc["pyrozoo", ["ratio", "ratio_rounds"]] == 1).all()


def test_the_agreement_would_notice_another_process(monkeypatch, short):
    original = decode.hazards

    monkeypatch.setattr(decode, "hazards", lambda process: [table - 1e-6 for table in original(process)])
    with pytest.raises(RuntimeError, match="plain PyTorch, log domain: differs by"):
        decode.against_autograd("hazard", number=2, length=40, rounds=1)


@pytest.mark.parametrize("reading", READINGS)
def test_multiples_of_vanilla_viterbi(reading):
    table = decode.against_viterbi(reading, length=60, rounds=1)
    assert list(table.index) == ["vanilla Viterbi", "single_history", "MAP", "log evidence", "forward-backward"]
    assert (table > 0).all(axis=None)
    assert table.loc["vanilla Viterbi", "ratio"] == 1


def test_long_recordings_go_on():
    [own] = decode.log_scores("hazard", 1, 3000)
    assert own.shape == (3000, 8)
    assert set(own[-1000:].argmax(1)) == set(range(8))


def test_time_and_memory_by_length(monkeypatch):
    monkeypatch.setattr(decode, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # a process takes seconds
    table = decode.against_length(rounds=1, lengths=(50, 100))
    assert list(table.index) == ["MAP, 50", "MAP, 100", "forward-backward, 50", "forward-backward, 100"]
    assert (table[["min_us", "median_us"]] > 0).all(axis=None)
    assert (table.loc[["MAP, 50", "forward-backward, 50"], "ratio"] == 1).all()
    assert units.CLEAR.exists() == bool(table["peak_MB"].notna().all())


@pytest.mark.parametrize("installed", [True, False])
def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys, installed):
    if not installed:
        monkeypatch.setattr(decode, "_hmmc", None)
    for name in ("against_hmmlearn", "against_viterbi", "against_autograd"):
        monkeypatch.setattr(decode, name, lambda *_: pd.DataFrame({"min_ms": {"MAP": 1.5}}))
    decode.main(["--rounds", "1", "--out", str(tmp_path / "numbers.json")])
    record, printed = json.loads((tmp_path / "numbers.json").read_text()), capsys.readouterr().out
    assert record["exact decoding, cdf, 1 x 10000 frames"] == {"MAP": {"min_ms": 1.5}}
    assert record["environment"]["threads"] == 1
    assert "numba" in record["environment"]
    skipped = decode._hmmc is None
    assert printed.count("skipped: hmmlearn is not installed") == (4 if skipped else 0)
    assert (record["Viterbi, 64 x 1000 frames"] is None) == skipped
    assert (record["environment"]["hmmlearn"] == "missing") == skipped


def test_every_number_of_threads_is_timed(monkeypatch):
    monkeypatch.setattr(decode, "THREADS", (1, 2))
    before = decode.torch.get_num_threads()
    table = decode.against_threads(rounds=1, sizes=((1, 60),))
    assert list(table.index) == [
        f"{name}, 1 x 60 frames, {n} threads" for name in ("step_performed", "marginals") for n in (1, 2)
    ]
    assert (table["ratio"].iloc[[0, 2]] == 1).all()
    assert decode.torch.get_num_threads() == before


def test_the_length_comes_alone(monkeypatch, capsys):
    monkeypatch.setattr(decode, "against_length", lambda *given: pd.DataFrame({"min_us": {"MAP": float(given[0])}}))
    decode.main(["--length", "--rounds", "20"])
    assert "MAP       2" in capsys.readouterr().out


def test_the_pages_have_the_numbers_of_the_record():
    record = json.loads((ROOT / "benchmarks" / "records" / "decode.json").read_text())
    readme = (ROOT / "benchmarks" / "README.md").read_text()

    def ratios(digits, titles, line):
        return "; ".join(f"{record[title][line]['ratio']:.{digits}f}" for title in titles)

    for what in ("Viterbi", "forward-backward of the chain"):
        cells = ratios(2, [f"{what}, {n} x {t} frames" for n, t in decode.SIZES], "pyrozoo kernel")
        assert f"| {what}, 1 x 10,000; 64 x 1,000 | {cells} | of hmmlearn's kernel |" in readme
    exact = [f"exact decoding, {reading}, 1 x 10000 frames" for reading in READINGS]
    for line in ("MAP", "log evidence", "forward-backward"):
        assert f"| {line}, hazard; cdf | {ratios(0, exact, line)} | x Viterbi |" in readme
    assert f"| `single_history`, hazard; cdf | {ratios(1, exact, 'single_history')} | x Viterbi |" in readme
    gradients = [f"gradient of the log evidence, {reading}, 8 x 400 frames" for reading in READINGS]
    for name in ("plain PyTorch, log domain", "plain PyTorch, scaled"):
        assert f"| {name}, hazard; cdf | {ratios(1, gradients, name)} | x the zoo's gradient |" in readme

    page = (ROOT / "pyrozoo" / "models" / "medication" / "README.md").read_text()
    us = [record[exact[0]][name]["min_ms"] / 10 for name in ("MAP", "forward-backward")]  # of 10,000 frames
    said = f"exact MAP takes {us[0]:.1f} µs a frame, forward and backward with expected counts {us[1]:.1f} µs"
    assert said in " ".join(page.split())


@pytest.fixture
def here(monkeypatch):
    """What is for fresh processes, which take seconds to start, is called here."""
    monkeypatch.setattr(decode_stream, "fresh", lambda function, *given: function(*given))
    original = decode_stream.folder_peaks
    monkeypatch.setattr(decode_stream, "folder_peaks", lambda *given: original(*given, n_jobs=1))


def test_a_folder_as_a_stream(tmp_path, here, monkeypatch):
    monkeypatch.setattr(decode_stream, "LONGEST_CSV", 300)
    run = decode_stream.saved_fit(tmp_path / "run")
    table = decode_stream.against_files(run, tmp_path / "folders", (1, 2), recordings=1)
    assert list(table.index) == ["1 files", "2 files"]
    assert table["recordings"].tolist() == [1, 2]
    assert table["frames"].is_monotonic_increasing
    assert units.CLEAR.exists() == bool(table["caller_MB"].notna().all())
    table = decode_stream.against_processes(run, tmp_path / "speed", 1, 1, processes=(1,), recordings=1)
    assert table.loc["1 processes", "ratio"] == 1
    assert (table["frames_per_s"] > 0).all()
    table = decode_stream.against_length(run, tmp_path / "length", (300, 400))
    assert len(table) == 6
    assert table.index[-1] == "csv, 300 frames, mea"


def test_the_parts_of_the_stream(monkeypatch, capsys):
    monkeypatch.setattr(decode_stream, "saved_fit", lambda path: path)
    for name in ("against_files", "against_processes", "against_length"):
        monkeypatch.setattr(decode_stream, name, lambda *_, name=name: pd.DataFrame({"MB": {name: 1.5}}))
    decode_stream.main(["--part", "speed"])
    assert "against_processes" in (printed := capsys.readouterr().out)
    assert "against_files" not in printed
    decode_stream.main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("against_files", "against_processes", "against_length"))
