"""Decoding a folder as a stream: the same as the whole batch, to be stopped and continued, with bad files named."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import reusable_executor

import pyrozoo as zoo
from pyrozoo.experiments.jobs import JobError
from pyrozoo.models.medication import decode_folder, decode_recordings, read_performed, read_segments, simulate
from pyrozoo.models.medication.uses import streaming

FEW = 20  # draws for the posterior means
FILES = 4


@pytest.fixture(scope="module")
def test_data():
    """Eight simulated recordings of the pen."""
    return simulate("pen", 2 * FILES, "easy", 1, rate=2.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Saved fits by guide, and one of a chain."""
    place, train = tmp_path_factory.mktemp("runs"), simulate("pen", 20, "easy", 0, rate=2.0)
    found = {}
    for name, variant, guide, options in (
        ("closed-form", "semi-markov", "closed-form", {}),
        ("normal", "semi-markov", "normal", {"steps": 5}),
        ("chain", "frame-hmm", "closed-form", {}),
    ):
        model = zoo.create_model("medication", train, variant=variant)
        zoo.fit(model, guide, train, progress=False, **options).save(place / name)
        found[name] = place / name
    return found


@pytest.fixture(scope="module")
def run(runs):
    return runs["closed-form"]


def write(path, batch, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.repeat(batch.names("recording").astype(str), batch["lengths"].tolist())
    labels = batch.coords["label_class"].astype(str)
    fields = {"score": batch["score"].numpy(), "recording": names, "labels": labels, "rate": 2.0} | changed
    if path.suffix.lower() == ".npz":
        with path.open("wb") as file:
            np.savez(file, **fields)
    else:
        table = pd.DataFrame(fields["score"], columns=labels)
        table.insert(0, "recording", fields["recording"])
        table.to_csv(path, index=False)


@pytest.fixture
def folder(tmp_path, test_data):
    """Two recordings in each of four files."""
    for i in range(FILES):
        write(tmp_path / "in" / f"f{i}.npz", test_data.subset([2 * i, 2 * i + 1]))
    return tmp_path / "in"


def decoded(run, folder, out, **options):
    return decode_folder(run, folder, out, **{"draws": FEW, "n_jobs": 1, "progress": False} | options)


def content(out):
    """Bytes of all tables."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.csv"))}


def counted(monkeypatch, stop_at=None):
    """Count the files that are decoded in this process, and interrupt before one of them."""
    log, original = [], streaming.readers.read

    def read(path, **options):
        if len(log) == stop_at:
            raise KeyboardInterrupt
        log.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(streaming.readers, "read", read)
    return log


# ---------------------------------------------------------------- what is found
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("closed-form", {}),
        ("closed-form", {"decoder": "map"}),
        ("closed-form", {"decoder": "mea", "average": 3, "seed": 4}),
        ("normal", {"decoder": "marginal"}),
        ("chain", {"decoder": "viterbi"}),
    ],
)
def test_it_is_what_decoding_the_whole_batch_gives(runs, folder, tmp_path, test_data, name, options):
    summary = decoded(runs[name], folder, tmp_path / "out", **options)
    whole = decode_recordings(zoo.load(runs[name]), test_data, draws=FEW, **options)
    tables = list(read_segments(tmp_path / "out"))
    found = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(found.drop(columns=["file", "p_performed"]), whole.segments(), check_exact=True)
    performed = pd.concat(read_performed(tmp_path / "out"))
    assert performed.index.names == ["file", "recording"]
    assert list(performed.columns) == list(whole.performed.columns)
    np.testing.assert_allclose(performed.to_numpy(), whole.performed.to_numpy(), rtol=1e-12)
    of_segment = [performed.droplevel(0).loc[r, k] for r, k in zip(found["recording"], found["label"], strict=True)]
    assert found["p_performed"].tolist() == of_segment
    assert [set(table["file"]) for table in tables] == [{f"f{i}.npz"} for i in range(FILES)]
    assert summary.index.tolist() == [f"f{i}.npz" for i in range(FILES)]
    assert summary["recordings"].tolist() == [2] * FILES
    assert summary["frames"].sum() == len(test_data["score"])
    assert summary["segments"].tolist() == [len(table) for table in tables]


def test_recordings_without_any_step_have_probabilities_all_the_same(run, tmp_path, test_data):
    labels = test_data.coords["label_class"]
    score = np.where(np.arange(len(labels)) == 0, 0.93, 0.01) * np.ones((30, 1))
    write(tmp_path / "in" / "none.npz", test_data, score=score, recording=np.repeat(["b", "a"], 15))
    decoded(run, tmp_path / "in", tmp_path / "out", decoder="argmax")
    [segments], [performed] = read_segments(tmp_path / "out"), read_performed(tmp_path / "out")
    assert segments.empty
    assert list(segments.columns)[:2] == ["file", "recording"]
    assert performed.index.tolist() == [("none.npz", "b"), ("none.npz", "a")]
    assert performed.shape == (2, len(labels) - 1)


def test_names_that_cannot_name_a_job_or_are_the_same_but_for_case(run, tmp_path, test_data):
    one = test_data.subset([0])
    names = ["A.npz", "a.npz", "a b.CSV", "deep/a.npz", "deep-a.npz", "ä,\"x'.npz", "_.npz", f"{'long' * 60}.npz"]
    odd = 'NA, "x"\r\n'
    for name in names:
        write(tmp_path / "in" / name, one, recording=np.full(len(one["score"]), odd))
    (tmp_path / "in" / "notes.txt").write_text("no recording")
    write(tmp_path / "in" / ".hidden.npz", one)
    summary = decoded(run, tmp_path / "in", tmp_path / "out", rate=2.0)
    assert summary.index.tolist() == sorted(names)
    found = pd.concat(read_segments(tmp_path / "out"))
    assert set(found["file"]) == set(names)
    assert set(found["recording"]) == {odd}
    assert found.groupby("file").size().nunique() == 1
    jobs = [streaming.job_name(name) for name in names]
    assert len({job.lower() for job in jobs}) == len(names)


# ---------------------------------------------------------------- stopped and continued
def test_an_interrupted_call_goes_on_without_redoing(run, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        log = counted(patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            decoded(run, folder, tmp_path / "out")
        assert log == ["f0.npz", "f1.npz"]
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert len(finished) == 4
    assert len(list(read_segments(tmp_path / "out"))) == 2  # of what there is
    log = counted(monkeypatch)
    shutil.copytree(folder, tmp_path / "moved")  # the content counts, not the place or the times of the files
    summary = decoded(run, tmp_path / "moved", tmp_path / "out")
    assert log == ["f2.npz", "f3.npz"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert decoded(run, folder, tmp_path / "out").equals(summary)
    assert len(log) == 2
    decoded(run, folder, tmp_path / "whole")
    assert content(tmp_path / "whole") == content(tmp_path / "out")


@pytest.mark.slow  # processes start twice
def test_two_workers_give_what_one_gives_even_if_one_is_killed(run, tmp_path, test_data, capfd):
    write(tmp_path / "in" / "b.npz", test_data)
    write(tmp_path / "in" / "c.npz", test_data.subset([3, 0]))
    score = np.tile(test_data["score"].numpy(), (8, 1))
    for name in ("a.npz", "d.npz"):  # long ones: when two files are finished, the last one never is
        write(tmp_path / "in" / name, test_data, score=score, recording=np.full(len(score), name))
    killed = []

    def kill():
        while len(list((tmp_path / "two").glob("*.json"))) < 2:
            time.sleep(0.002)
        # Not get_reusable_executor(): called from another thread, it waits for the one that it would replace.
        killed.append(next(iter(reusable_executor._executor._processes)))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    two = decoded(run, tmp_path / "in", tmp_path / "two", n_jobs=2)
    assert killed
    assert "A worker process was killed" in capfd.readouterr().err
    assert two.equals(decoded(run, tmp_path / "in", tmp_path / "one"))
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert len(list(read_segments(tmp_path / "two"))) == len(two) == 4


# ---------------------------------------------------------------- what is refused
def test_bad_files_are_named_and_the_others_are_done(run, folder, tmp_path, test_data):
    one = test_data.subset([0])
    (folder / "a cut.npz").write_bytes((folder / "f0.npz").read_bytes()[:500])
    write(folder / "cell.csv", one)
    lines = (folder / "cell.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",0.", ",none0.", 1)
    (folder / "cell.csv").write_text("\n".join(lines))
    write(folder / "labels.npz", one, labels=np.array([f"l{k}" for k in range(8)]))
    write(folder / "rate.npz", one, rate=5.0)
    (folder / "gone.npz").symlink_to(tmp_path / "nowhere")
    with pytest.raises(JobError) as error:
        decoded(run, folder, tmp_path / "out", rate=None)
    failures = error.value.failures
    assert list(failures) == ["a cut.npz", "cell.csv", "gone.npz", "labels.npz", "rate.npz"]
    assert "a cut.npz: no npz file, or only a part of one" in failures["a cut.npz"]
    assert "cell.csv: column" in failures["cell.csv"]
    assert "row 3: the cell holds 'none0." in failures["cell.csv"]
    assert "give a score between 0 and 1" in failures["cell.csv"]
    assert "gone.npz: No such file" in failures["gone.npz"]
    assert "give the names of the file" in failures["labels.npz"]
    assert "rate.npz: the recordings have 5 frames per second, the model has 2; resample" in failures["rate.npz"]
    assert len(list(read_segments(tmp_path / "out"))) == FILES
    for name in failures:
        (folder / name).unlink()
    assert len(decoded(run, folder, tmp_path / "out")) == FILES


def test_a_file_whose_name_is_no_text_is_named(run, folder, tmp_path, test_data):
    try:
        write(folder / os.fsdecode(b"\xff.npz"), test_data.subset([0]))
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(JobError, match="its name is not UTF-8; rename it"):
        decoded(run, folder, tmp_path / "out")
    assert len(list(read_segments(tmp_path / "out"))) == FILES


def test_changed_files_fits_and_arguments_are_refused(runs, folder, tmp_path, test_data):
    out = tmp_path / "out"
    decoded(runs["closed-form"], folder, out)
    with pytest.raises(ValueError, match=r"is a result with {'decoder': 'mea'}, not {'decoder': 'map'}; delete .*json"):
        decoded(runs["closed-form"], folder, out, decoder="map")
    with pytest.raises(ValueError, match=r"is a result with {'fit': .*, not {'fit': .*; delete .* another folder"):
        decoded(runs["normal"], folder, out, decoder="mea")
    write(folder / "f1.npz", test_data.subset([0]))
    message = r"in/f1.npz: changed since it was decoded; delete (.*f1.npz.json) to decode the file again"
    with pytest.raises(ValueError, match=message):
        decoded(runs["closed-form"], folder, out)
    (out / "f1.npz.json").unlink()
    assert decoded(runs["closed-form"], folder, out).loc["f1.npz", "recordings"] == 1


def test_a_file_that_changes_while_others_are_decoded_is_not_taken(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_digests", lambda found, *_: (dict.fromkeys(found, "0" * 64), {}))
    with pytest.raises(JobError, match="changed after the folder was listed; wait until it is complete"):
        decoded(run, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_results_that_were_edited_or_lost_are_noticed(run, folder, tmp_path):
    out = tmp_path / "out"
    decoded(run, folder, out)
    table, record = out / "f1.npz.csv", out / "f2.npz.json"
    table.write_text(table.read_text().replace("1.0", "2.0", 1))
    with pytest.raises(ValueError, match=r"f1.npz.csv: changed since it was written; delete .*f1.npz.json"):
        list(read_segments(out))
    table.unlink()
    with pytest.raises(ValueError, match=r"f1.npz.csv: is missing; delete .*f1.npz.json to decode the file again"):
        decoded(run, folder, out)
    (out / "f1.npz.json").unlink()
    whole = record.read_text()
    record.write_text(whole[:100])
    for call in (lambda: decoded(run, folder, out), lambda: list(read_performed(out))):
        with pytest.raises(ValueError, match=r"f2.npz.json is truncated or not .*; delete it or choose another"):
            call()
    record.write_text(json.dumps(json.loads(whole) | {"function": "other:one"}))
    with pytest.raises(ValueError, match="is not a result of decode_folder"):
        list(read_segments(out))


@pytest.mark.parametrize(("memory", "what"), [(1e-6, "f0.npz: to read it"), (1e-4, "recording 'r0': to decode its")])
def test_files_that_need_more_memory_are_named(run, tmp_path, test_data, memory, what):
    write(tmp_path / "in" / "f0.npz", test_data.subset([0]))
    with pytest.raises(JobError, match=rf"{what}.* takes about .* GB, a worker has .* GB; cut it .* fewer n_jobs"):
        decoded(run, tmp_path / "in", tmp_path / "out", memory=memory)


def test_what_cannot_be_started(run, folder, tmp_path):
    for out in (folder, folder / "out"):
        with pytest.raises(ValueError, match=r"is inside .*; put it beside"):
            decoded(run, folder, out)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        decoded(run, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no run; give a folder that"):
        decoded(folder, folder, tmp_path / "out")
    with pytest.raises(ValueError, match="'viterbi' does not decode a process of steps"):
        decoded(run, folder, tmp_path / "out", decoder="viterbi")
    with pytest.raises(ValueError, match="the decoder 'map' plugs in the means"):
        decoded(run, folder, tmp_path / "out", decoder="map", average=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no file of recordings, \.npz or \.csv, is in it"):
        decoded(run, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no such folder of results"):
        read_segments(tmp_path / "out")
    assert not (tmp_path / "out").exists()
