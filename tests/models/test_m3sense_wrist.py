"""Recordings of one's own: labels from tables and tags, and windows that know their time and person."""

import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from m3sense_folders import T0, refuses, signal, write_e4, write_stress_predict, write_wesad, zipped

import pyrozoo as zoo
from pyrozoo.cli.main import main
from pyrozoo.experiments import run
from pyrozoo.inference.copies import without_denormals
from pyrozoo.models import m3sense
from pyrozoo.models.m3sense.data.batches import window_numbers
from pyrozoo.models.m3sense.experiments import clock, runs, tables
from pyrozoo.models.m3sense.nets import UnimodalEncoder
from pyrozoo.posterior import target_draws

SMALL = {"embedding": 6, "lstm_layers": 1, "hidden": (6, 5), "head": 4}
START = 1644227573.0  # 2022-02-07 09:52:53 in Dublin, in winter


def recording(seconds=120, subject="S01", start=START, **changes):
    fields = {"signals": {"eda": signal("EDA", seconds)}, "rates": {"eda": 4.0}, "dataset": "lab"}
    return m3sense.Recording(subject, start=start, **(fields | changes))


def table(*lines, **columns):
    return pd.DataFrame([dict(zip(("start", "end", "label"), line, strict=True)) for line in lines]).assign(**columns)


# ------------------------------------------------------------------ labels from a table
@pytest.mark.parametrize(
    ("time", "zone", "first", "middle", "last"),
    [
        ("seconds", None, 7, 67, 127),
        ("unix", None, START + 7, START + 67, START + 127),
        ("clock", "Europe/Dublin", "2022-02-07 09:53:00", "2022-02-07 09:54:00", "2022-02-07 09:55:00"),
        ("clock", "America/New_York", "04:53:00", "04:54:00", "04:55"),
        ("clock", None, "2022-02-07T10:53:00+01:00", "2022-02-07T09:54:00Z", "2022-02-07 09:55:00+00:00"),
    ],
)
def test_a_table_labels_a_recording_in_every_kind_of_time(tmp_path, time, zone, first, middle, last):
    lines = table((middle, last, "talk"), (first, middle, " rest "), (last, last, ""))
    (found,) = m3sense.label_by_table([recording()], lines, "load", time=time, zone=zone)
    assert found.labels == ((7.0, 67.0, "rest"), (67.0, 120.0, "talk"))
    assert (found.task, found.classes) == ("load", ("talk", "rest"))
    assert dict(found.notes) == {"labels: seconds outside of the recording, left out": 7}
    lines.to_csv(tmp_path / "labels.csv", index=False)
    order = ("rest", "talk")
    (again,) = m3sense.label_by_table(
        [recording()], tmp_path / "labels.csv", "load", time=time, zone=zone, classes=order
    )
    assert (again.labels, again.classes) == (found.labels, order)


def test_a_time_of_day_may_pass_midnight():
    late = recording(start=1644278370.0)  # 2022-02-07 23:59:30 UTC
    lines = table(("23:59:40", "00:00:10", "rest"), ("00:00:10", "00:00:50", "talk"))
    (found,) = m3sense.label_by_table([late], lines, "load", time="clock", zone="UTC")
    assert found.labels == ((10.0, 40.0, "rest"), (40.0, 80.0, "talk"))


def test_a_table_of_several_people_finds_their_sessions():
    lines = table(
        (START, START + 30, "rest"), (START + 1e5, START + 1e5 + 20, "talk"), (START + 30, START + 60, "talk"),
        subject=["S01", "S01", "2"],
    )  # fmt: skip
    three = [recording(), recording(start=START + 1e5), recording(subject="2"), recording(subject="S03")]
    found = m3sense.label_by_table(three, lines, "load", time="unix")
    assert [r.labels for r in found] == [
        ((0.0, 30.0, "rest"),), ((0.0, 20.0, "talk"),), ((30.0, 60.0, "talk"),), (),
    ]  # fmt: skip
    assert found[3].task is None


def test_what_is_wrong_in_a_table_of_labels_is_named(tmp_path):
    def refused(message, *lines, recordings=None, columns=None, **options):
        with refuses(message):
            m3sense.label_by_table(recordings or [recording()], table(*lines, **(columns or {})), "load", **options)

    clock = {"time": "clock", "zone": "Europe/Dublin"}
    refused("time: 'hours' is none of", (0, 1, "a"), time="hours")
    refused("column 'start', line 2: 'x' is not a number", ("x", 1, "a"))
    refused("table: column 'end', line 3: nan is not a number", (0, 9, "a"), (9, None, "b"))
    refused("table: line 2: 'nan' is no clock time", (None, "09:54", "b"), **clock)
    refused("line 2: it ends (3) before it begins (9)", (9, 3, "a"))
    refused("line 3: it overlaps line 2", (0, 30, "a"), (20, 40, "b"))
    refused("line 2: 'c' is none of the classes ['a', 'b']", (0, 30, "c"), classes=("a", "b"))
    refused("line 2: from 130 to 140 is outside of the recording, which lasts 120 s", (130, 140, "a"))
    refused("line 2: subject 'S09' has no recording; there are ['S01']", (0, 9, "a"), columns={"subject": "S09"})
    refused("there are 2 recordings; add a column 'subject'", (0, 9, "a"), recordings=[recording()] * 2)
    twice = {"recordings": [recording()] * 2, "columns": {"subject": "S01"}}
    refused("subject 'S01' has 2 recordings; give unix or clock times", (0, 9, "a"), **twice)
    refused("is in two recordings of 'S01'; cut the line", (START, START + 9, "a"), time="unix", **twice)
    refused("the start of lab/S01 is not known", (0, 9, "a"), recordings=[recording(start=0.0)], time="unix")
    refused("line 2: 'nine' is no clock time", ("nine", "09:54", "a"), **clock)
    refused("'09:53' is in no time zone; give zone=", ("09:53", "09:54", "a"), time="clock")
    refused("zone: 'Dublin' is no time zone", ("09:53", "09:54", "a"), time="clock", zone="Dublin")
    refused(
        "is outside of the recording, 2022-02-07 09:52:53 to 2022-02-07 09:54:53 UTC; correct the times, their kind",
        ("2022-02-07 09:53:00", "2022-02-07 09:54:00", "a"), time="clock", zone="Europe/Paris",
    )  # fmt: skip
    refused(
        "2022-10-30 01:30:00 is not one moment in Europe/Dublin, where clocks were changed; write its offset",
        ("2022-10-30 01:30:00", "2022-10-30 01:40:00", "a"), **clock,
    )  # fmt: skip
    long = replace(recording(), signals={"eda": np.ones(4 * 43200)})
    message = "'09:53' is a time of day, and the recording lasts 12 hours"
    refused(message, ("09:53", "09:54", "a"), recordings=[long], **clock)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        m3sense.label_by_table([recording()], tmp_path / "none.csv", "load")
    (tmp_path / "labels.csv").write_text("start,end,label\n0,9,a\n9,,b\n")
    with refuses("labels.csv: line 3: a time is missing; fill it in, or leave the label empty"):
        m3sense.label_by_table([recording()], tmp_path / "labels.csv", "load")
    (tmp_path / "labels.csv").write_text("start,label\n0,a\n")
    with refuses("labels.csv: column 'end' is not there once; the columns are ['start', 'label']"):
        m3sense.label_by_table([recording()], tmp_path / "labels.csv", "load")


# ------------------------------------------------------------------ labels from tags
def test_tags_are_read_with_an_export_and_label_it(tmp_path):
    folder = write_e4(tmp_path / "S07")
    (folder / "tags.csv").write_text(f"{T0 + 50:.2f}\n{T0 + 10:.2f}\n\n{T0 + 30:.2f}\n")
    for path in (folder, zipped(folder)):
        (found,) = m3sense.read_e4(path)
        assert found.tags == (10.0, 30.0, 50.0)
        (labelled,) = m3sense.label_by_tags([found], ["rest", "talk"], "load")
        assert labelled.labels == ((10.0, 30.0, "rest"), (30.0, 50.0, "talk"))
    (some,) = m3sense.label_by_tags([found], {"S07": ["", "talk"]}, "load", classes=("rest", "talk"))
    assert (some.labels, some.classes) == (((30.0, 50.0, "talk"),), ("rest", "talk"))
    with refuses("e4/S07: 3 names, but 3 tags (at 10, 30, 50 s): give a name for every stretch between two tags"):
        m3sense.label_by_tags([found], ["a", "b", "a"], "load")
    with refuses("names: 'S08' has no recording; there are ['S07']"):
        m3sense.label_by_tags([found], {"S08": ["a"]}, "load")
    with refuses("e4/S07: tags at -5, 30 s, but the signals last 60 s; leave out stray tags"):
        m3sense.label_by_tags([replace(found, tags=(-5.0, 30.0))], ["a"], "load")
    (folder / "tags.csv").write_text("1586886626\nnoon\n")
    with refuses("tags.csv: row 2: 'noon' is no unix time"):
        m3sense.read_e4(folder)
    (folder / "tags.csv").rename(folder / "tags_S07.csv")
    (folder / "tags_S08.csv").write_text("")
    with refuses("tags_S07.csv: there is also tags_S08.csv"):
        m3sense.read_e4(folder)


# ------------------------------------------------------------------ windows know their time
def labelled(seconds=300, **changes):
    stretches = ((40.0, 100.0, "low"), (170.0, 260.0, "high"))
    return recording(seconds, task="stress", classes=("low", "high"), labels=stretches, **changes)


def test_windows_know_begin_end_gap_and_clock():
    data = m3sense.windows([labelled(), labelled(subject="S02", start=0.0)], 20.0, {"eda": 4.0})
    times = data.describe_rows()
    first = times[times["subject"] == "lab/S01"]
    assert first["begin"].tolist() == [40, 60, 80, 180, 200, 220, 240]
    assert first["end"].tolist() == [60, 80, 100, 200, 220, 240, 260]
    np.testing.assert_array_equal(first["gap"], [np.nan, 0, 0, 80, 0, 0, 0])
    assert first["unix"].tolist() == [START + begin for begin in first["begin"]]
    assert times["unix"].isna().tolist() == [False] * 7 + [True] * 7
    part = data.subset([9, 3]).describe_rows()
    assert part[["subject", "begin"]].to_numpy().tolist() == [["lab/S02", 80.0], ["lab/S01", 180.0]]
    assert data.take([3, 9]).describe_rows()["begin"].tolist() == [180.0, 80.0]


def test_joined_windows_keep_their_times():
    timed = m3sense.windows([labelled()], 20.0, {"eda": 4.0})
    eda = np.random.default_rng(0).normal(size=(2, 80))
    plain = m3sense.from_arrays({"eda": eda}, None, ["a", "b"], None, rates={"eda": 4.0}, dataset="other")
    both = m3sense.merge([plain, timed])
    np.testing.assert_array_equal(both.coords["begin"], [np.nan, np.nan, *timed.coords["begin"]])
    assert m3sense.merge([plain]).row_coords == ()


def test_windows_of_several_data_sets_are_not_written_to_one_file(tmp_path):
    other = m3sense.windows([recording(dataset="other")], 20.0, {"eda": 4.0})
    with refuses("data: they are of ['lab', 'other']; write a file for each data set"):
        m3sense.write_windows(
            tmp_path / "a.npz", m3sense.merge([m3sense.windows([labelled()], 20.0, {"eda": 4.0}), other])
        )


def test_times_of_arrays():
    eda = {"eda": np.random.default_rng(0).normal(size=(4, 80))}
    data = m3sense.from_arrays(
        eda, None, list("aabb"), None, rates={"eda": 4.0}, begin=[0, 50, 0, 10], start=[START, START, 0, np.nan]
    )
    np.testing.assert_array_equal(data.coords["gap"], [np.nan, 30, np.nan, np.nan])
    np.testing.assert_array_equal(data.coords["unix"], [START, START + 50, 0, np.nan])
    for message, times in (
        ("start: give begin, too", {"start": 0}),
        ("begin: give a number of seconds for each of the 4 windows", {"begin": [1, 2]}),
        ("begin, row 1: nan; give seconds", {"begin": [1, np.nan, 2, 3]}),
    ):
        with refuses(message):
            m3sense.from_arrays(eda, None, list("aabb"), None, rates={"eda": 4.0}, **times)
    with refuses("begin: the duration of a window is not known; give rates=, or seconds="):
        m3sense.from_arrays(eda, None, list("aabb"), None, begin=range(4))


def test_predictions_stand_on_the_clock_in_python_in_arviz_and_on_the_command_line(tmp_path):
    data = m3sense.windows([labelled(), labelled(subject="S02")], 20.0, {"eda": 4.0})
    model = zoo.create_model("m3sense", data, variant="latent", a_dim=2, q_hidden=4, **SMALL)
    fit = zoo.fit(model, "paper", data, steps=2, progress=False)
    found = zoo.predict(fit, data, draws=2)
    assert list(found.columns[:6]) == ["subject", "begin", "end", "gap", "unix", "y_stress.label"]
    assert found["begin"].tolist() == data.coords["begin"].tolist()
    assert any(name.endswith("balanced_accuracy") for name in zoo.metrics(fit, data, draws=2))
    posterior = zoo.to_arviz(fit, data, draws=2)["posterior"]
    assert posterior["begin"].dims == ("window",)
    assert posterior["subject"].values.tolist() == data.group_names("subject").tolist()
    fit.save(tmp_path / "run")
    m3sense.write_windows(tmp_path / "new.npz", data)
    run, new, out = (str(tmp_path / name) for name in ("run", "new.npz", "p.csv"))
    assert main(["predict", run, "--data", new, "--out", out]) == 0
    written = pd.read_csv(tmp_path / "p.csv")
    assert list(written.columns[:6]) == ["window", "subject", "begin", "end", "gap", "unix"]
    assert written["subject"].tolist() == ["S01"] * 7 + ["S02"] * 7
    assert written["unix"].tolist() == data.coords["unix"].tolist()


@pytest.mark.slow
def test_the_commands_of_the_page_run_on_miniature_folders(tmp_path, monkeypatch):
    """Recordings in the layouts in which they are published: WESAD, and exports of an E4 with a diary."""
    monkeypatch.chdir(tmp_path)
    for person in ("S2", "S3"):
        write_wesad(tmp_path, person)
    moments = [T0 + second for second in (0, 40, 60, 110)]
    export = write_e4(tmp_path / "session", seconds=120)
    (export / "tags.csv").write_text("".join(f"{moment:.2f}\n" for moment in moments))
    zipped(export)
    zipped(write_e4(tmp_path / "earlier", seconds=120, start=T0 - 3600))
    local = pd.to_datetime(moments, unit="s", utc=True).tz_convert("Europe/Dublin").strftime("%Y-%m-%d %H:%M:%S")
    table((local[0], local[1], "baseline"), (local[2], local[3], "stress")).to_csv("diary.csv", index=False)
    page = (Path(m3sense.__file__).parent / "README.md").read_text().split("### Your own recordings")[1]
    read, label, stream = re.findall(r"```python no-run\n(.*?)```", page, re.DOTALL)[:3]
    names = {"zoo": zoo, "m3sense": m3sense, "pd": pd}
    exec(compile(read.replace("folds=5", "folds=2"), "README.md", "exec"), names)
    assert len(names["folds"]) == 2
    model = zoo.create_model("m3sense", names["data"], variant="unaligned", **SMALL)
    names["fit"] = zoo.fit(model, "none", names["data"], steps=2, progress=False)
    exec(compile(label, "README.md", "exec"), names)
    assert names["mine"][0].labels == ((0.0, 40.0, "baseline"), (60.0, 110.0, "stress"))
    assert names["table"]["begin"].tolist() == [0.0, 20.0, 60.0, 80.0]
    assert names["when"].iloc[0] == pd.Timestamp(local[0], tz="Europe/Dublin")
    exec(compile(stream, "README.md", "exec"), names)
    assert names["live"].seen == 120 * 64


# ------------------------------------------------------------------ channels
ALL = ("bvp", "eda", "temp", "hr", "acc", "ibi")
HZ = {"bvp": 64.0, "eda": 4.0, "temp": 4.0, "hr": 1.0, "acc": 32.0, "ibi": 4.0}


def test_every_sensor_of_an_export_is_read(tmp_path):
    (found,) = m3sense.read_e4(write_e4(tmp_path / "S07"), modalities=ALL)
    assert tuple(found.signals) == ALL
    assert dict(found.rates) == HZ
    assert found.start == T0 + 10  # the heart rate begins last
    assert found.signals["acc"].shape == (50 * 32, 3)
    np.testing.assert_allclose(found.signals["acc"][:2], [[0, -5 / 64, 1], [1 / 64, -5 / 64, 1]])
    assert found.channels == {"acc": ("x", "y", "z")}
    ibi = found.signals["ibi"]
    assert len(ibi) == 50 * 4 + 4 * 10  # to the end of the signal that ends last
    np.testing.assert_allclose(ibi[[0, 4, 30, -1]], [0.8, 0.8, np.interp(17.5, [15.1, 20.1], [0.9, 0.7]), 0.7])
    assert found.notes["ibi: samples farther than 2 s from a beat, interpolated"] > 100
    data = m3sense.windows([found], 20.0, HZ)
    assert data["acc"].shape == (2, 640, 3)
    assert data.dims["acc"] == ("acc_time", "acc_channel")
    assert data.coords["acc_channel"].tolist() == ["x", "y", "z"]
    smooth = m3sense.filtered([found], {"acc": 5.0})[0].signals["acc"]
    assert smooth.shape == found.signals["acc"].shape
    np.testing.assert_allclose(smooth[100:-100, 2], 1.0, atol=1e-6)


def test_what_is_wrong_with_axes_and_intervals_is_named(tmp_path):
    folder = write_e4(tmp_path / "S07")
    head = f"{T0}, IBI\n"
    for file, content, message in (
        ("ACC.csv", "1,1\n32,32\n1,2\n", "ACC.csv: 2 columns, expected three: start, rate, then samples"),
        ("ACC.csv", "1,1,1\n32,32,32\n1,2,x\n", "ACC.csv: row 3: 'x' is not a number"),
        ("IBI.csv", "", "IBI.csv: row 1: ''; it holds the start"),
        ("IBI.csv", head, "IBI.csv: the channel is empty"),
        ("IBI.csv", f"{head}3,0.8\n2,0.9\n", "IBI.csv: row 3: '2,0.9'; expected seconds from the start, in order"),
        ("IBI.csv", f"{head}3;0.8\n", "IBI.csv: row 2: '3;0.8'; expected seconds"),
    ):
        (folder / file).write_text(content)
        with refuses(message):
            m3sense.read_e4(folder, modalities=("eda", file[:3].lower()))


def accelerated(n=12, seconds=5, rate=8, **options):
    rng = np.random.default_rng(0)
    signals = {
        "acc": rng.normal(size=(n, seconds * rate, 3)) + np.array([0, 5, 9]),
        "eda": rng.normal(size=(n, seconds * 4)),
    }
    names = {"channels": {"acc": "xyz"}, "rates": {"acc": rate, "eda": 4.0}}
    return m3sense.from_arrays(signals, [0, 1] * (n // 2), ["a", "b", "b", "a"] * (n // 4), "load", **names | options)


def test_arrays_may_have_channels():
    data = accelerated()
    assert data.coords["acc_channel"].tolist() == ["x", "y", "z"]
    assert accelerated(channels=None).coords["acc_channel"].tolist() == ["0", "1", "2"]
    own = m3sense.standardise(data)
    for person in (0, 1):
        np.testing.assert_allclose(own["acc"][own["subject"] == person].mean((0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(own["acc"][own["subject"] == person].std((0, 1), correction=0), 1, atol=1e-4)
    assert m3sense.at_rates(data, {"acc": 4.0, "eda": 4.0})["acc"].shape == (12, 20, 3)
    features, names = m3sense.handcrafted(data)
    assert names[:2] + names[8:9] + names[-1:] == ["acc_x_mean", "acc_x_sd", "acc_y_mean", "eda_mean_abs_diff"]
    np.testing.assert_allclose(features[:, 8], data["acc"][..., 1].mean(1), rtol=1e-5)
    both = m3sense.merge([data, accelerated(dataset="other")])
    assert (both["acc"].shape, both.coords["acc_channel"].tolist()) == ((24, 40, 3), ["x", "y", "z"])
    with refuses("cut all windows alike"):
        m3sense.merge([data, accelerated(dataset="other", channels={"acc": "xzy"})])
    with refuses("channels: acc has 3 channels; give as many names, not ['x', 'y']"):
        accelerated(channels={"acc": "xy"})
    with refuses("channels: 'eda' is no modality of several channels; those are ['acc']"):
        accelerated(channels={"eda": ["one"]})


@pytest.mark.parametrize("variant", ["latent", "generative", "unaligned"])
def test_models_read_channels(variant):
    data = m3sense.standardise(accelerated())
    latents = {} if variant == "unaligned" else {"a_dim": 2, "q_hidden": 4}
    model = zoo.create_model("m3sense", data, variant=variant, **SMALL, **latents)
    fit = zoo.fit(model, "none" if variant == "unaligned" else "paper", data, steps=2, progress=False)
    assert zoo.predict(fit, data, draws=2)["y_load.p[0]"].between(0, 1).all()
    signals = {"acc": data["acc"][..., 0], "eda": data["eda"]}
    flat = m3sense.from_arrays(signals, None, ["a"] * 12, None, standardised="subject")
    with refuses("acc: windows of shape (40,); the model reads 3 channel(s)"):
        model.encode(**flat)


def test_an_encoder_reads_the_samples_of_each_channel_in_their_order():
    torch.manual_seed(0)
    encoder = UnimodalEncoder(5, 6, 1, "last", 0.0, 0.0, channels=3).eval()
    x = torch.randn(2, 12, 3)
    segments = torch.stack([x[:, 5 * k : 5 * k + 5].permute(0, 2, 1) for k in (0, 1)], 1)  # (B, segments, channels, 5)
    embedded = torch.stack([encoder.embed(encoder.spatial(segments[:, k]).flatten(1)) for k in (0, 1)], 1)
    torch.testing.assert_close(encoder(x), encoder.lstm(embedded)[0][:, -1])


def test_files_of_windows_keep_channels(tmp_path):
    data = accelerated()
    m3sense.write_windows(tmp_path / "a.npz", data)
    again = m3sense.read_windows(tmp_path / "a.npz")
    assert again.coords["acc_channel"].tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(again["acc"], data["acc"])


# ------------------------------------------------------------------ unlabelled recordings, and the paper's split
def test_exports_in_a_folder_are_unlabelled_windows_of_a_study(tmp_path):
    write_e4(tmp_path / "e4/Ann/monday")
    zipped(write_e4(tmp_path / "Bo")).rename(tmp_path / "e4/Bo.zip")
    write_e4(tmp_path / "e4/Cy")
    (tmp_path / "e4/Cy/EDA.csv").write_text("")
    found = m3sense.read_e4_folder(tmp_path / "e4")
    assert [r.name for r in found] == ["e4/Ann", "e4/Bo"]
    assert list(found.skipped) == ["a file is missing or empty"]
    write_stress_predict(tmp_path / "stress_predict")
    data = m3sense.read_study(tmp_path, (("eda", 4.0), ("temp", 4.0)), seconds=10.0)
    assert data.coords["dataset_class"].tolist() == ["stress_predict", "e4"]
    assert data.observed("y_stress").tolist() == (data["dataset"] == 0).tolist()
    assert int((data["dataset"] == 1).sum()) == 12
    (tmp_path / "empty").mkdir()
    with refuses("no export of an E4 is in it"):
        m3sense.read_e4_folder(tmp_path / "empty")


@pytest.mark.parametrize("split", ["subject", "window"])
def test_the_papers_split_reaches_every_job(tmp_path, monkeypatch, split):
    jobs = {}

    def noted(function, plan, folder, n_jobs=1):
        jobs.update(plan)
        scores, timed = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "majority"), 0.5), {"seconds": 1}
        return {
            name: {f"{t}.{s}": v for t in own.get("tasks", [own.get("task")]) for s, v in scores.items()} | timed
            for name, own in plan.items()
        }

    monkeypatch.setattr(tables, "run_jobs", noted)
    outcome = tables.table2_experiment(tmp_path, "smoke", split=split)
    by_window = {"M3Sense (CAM), by window", "extra trees, by window"}
    models = {row["model"] for row in outcome.rows}
    if split == "window":
        assert all(arguments["split"] == "window" for arguments in jobs.values())
        assert not models & by_window
        assert outcome.extra["configuration"]["split"] == "window"
        assert "every row is by window" in outcome.extra["note"]
    else:
        assert models > by_window
        leaking = [arguments for arguments in jobs.values() if "split" in arguments]
        assert {arguments["model"] for arguments in leaking} == {"M3Sense (CAM)", "extra trees"}
    assert "random forest (published, 10-fold CV)" in outcome.text
    assert "HAMLET (published, own data)" in outcome.text


def test_an_unknown_split_is_refused(tmp_path):
    unknown = refuses("split: 'time' is none of ['subject', 'window']")
    with unknown:
        tables.table2_experiment(tmp_path, "smoke", split="time")
    with unknown:
        runs.parts_of(0, "smoke", None, "time")
    with refuses("split: 'table6' of 'm3sense' takes none"):
        run("m3sense", "table6", out=tmp_path, split="window")


def test_a_long_recording_is_cut_within_a_few_times_the_memory_of_its_windows():
    n = 1_000_000
    signals = {name: np.sin(np.arange(n) * (k + 1) / 40) for k, name in enumerate("abcd")}
    rates = dict.fromkeys(signals, 64.0)
    own = ((0.0, 7000.0, "low"), (7000.0, 15600.0, "high"))
    long = m3sense.Recording("S01", signals, rates, "load", ("low", "high"), own)
    tracemalloc.start()
    try:
        data = m3sense.windows([long], 20.0, rates)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data["a"].shape == (780, 1280)
    assert peak < 3 * 4 * n * 8  # three times the signals in double precision
    np.testing.assert_allclose(data["d"][700], signals["d"][700 * 1280 : 701 * 1280], atol=1e-6)


# ------------------------------------------------------------------ the clock of a session
def test_windows_are_numbered_by_time_within_a_person():
    sessions = [labelled(start=START + 1e4), labelled(subject="S02", start=0.0), labelled()]
    data = m3sense.windows(sessions, 20.0, {"eda": 4.0})
    assert window_numbers(data).tolist() == [*range(7, 14), *range(7), *range(7)]
    plain = m3sense.from_arrays({"eda": np.ones((4, 5))}, None, list("abab"), None)
    assert window_numbers(plain).tolist() == [0, 0, 1, 1]


def test_the_trend_of_a_session_is_taken_out_of_every_channel():
    time = np.tile(np.arange(10.0), 2)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20, 40, 2))
    noise -= noise.mean(1, keepdims=True)  # so that the means of windows are the trend
    signals = {"acc": noise + np.stack([3 * time, (time - 4) ** 2], 1)[:, None], "eda": noise[..., 0] + 5.0}
    data = m3sense.from_arrays(signals, None, np.repeat(["a", "b"], 10), None)
    line = m3sense.detrended(data)["acc"].mean(1).numpy()
    np.testing.assert_allclose(line[:, 0], 13.5, atol=1e-4)
    assert np.ptp(line[:10, 1]) > 5
    flat = m3sense.detrended(data, 2)
    np.testing.assert_allclose(flat["acc"].mean(1), data["acc"].mean((0, 1)).expand(20, 2), atol=1e-4)
    np.testing.assert_allclose(flat["eda"], data["eda"], atol=1e-5)
    assert flat.info["detrended"] == 2
    with refuses("the data are standardised already; take the trend out before"):
        m3sense.detrended(m3sense.standardise(data))
    with refuses("subject 'own/a' has 10 windows; a trend of degree 9 needs 11"):
        m3sense.detrended(data, 9)
    with refuses("degree: 0; a trend has a degree of at least 1"):
        m3sense.detrended(data, 0)


def test_the_clock_is_found_where_everybody_follows_one_schedule(tmp_path, monkeypatch):
    """Signals of noise, and one schedule: the clock knows all, the signals nothing, and both are told apart."""
    with refuses("data: this needs the recordings"):
        clock.clock_experiment(tmp_path, "smoke")
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat([0, 1], 10), 4)
    people = np.repeat(list("abcd"), 20)
    data = m3sense.from_arrays(
        {"eda": rng.normal(size=(80, 40))}, label, people, "stress", classes=("baseline", "stress")
    )
    monkeypatch.setattr(clock, "stress_windows", lambda path, degree=0: m3sense.standardise(data))
    monkeypatch.setattr(clock, "PENALTIES", (1.0,))
    monkeypatch.setattr(clock, "run_jobs", lambda run, plan, folder, n_jobs: {k: run(**v) for k, v in plan.items()})
    outcome = clock.clock_experiment(tmp_path, "smoke", data="schedule.npz")
    balanced = {row["model"]: row["balanced_accuracy"] for row in outcome.rows}
    assert list(balanced) == ["clock", *(f"logistic regression: {inputs}" for inputs in clock.INPUTS)]
    assert balanced["clock"] == 1
    assert balanced["logistic regression: signals"] < 0.7
    assert balanced["logistic regression: signals and clock"] > 0.8


# ------------------------------------------------------------------ cheaper fits and predictions
@pytest.mark.parametrize(("variant", "latents"), [("unaligned", False), ("m3sense", True), ("latent", True)])
def test_prediction_repeats_the_network_only_where_something_is_random(variant, latents, monkeypatch):
    data = m3sense.standardise(accelerated())
    sizes = {"a_dim": 2, "q_hidden": 4} if latents else {}
    model = zoo.create_model("m3sense", data, variant=variant, **SMALL, **sizes)
    fit = zoo.fit(model, "paper" if latents else "none", data, steps=2, progress=False)
    calls = []
    one = target_draws.target_sites
    monkeypatch.setattr(target_draws, "target_sites", lambda model, part: calls.append(part.draws) or one(model, part))
    found = zoo.predict(fit, data, draws=8)
    assert calls == ([8] if variant == "latent" else [1, 1])  # where it is alone, one row has told what the target is
    again = zoo.predict(fit, data, draws=8, seed=1)
    same = np.allclose(found["y_load.p[0]"], again["y_load.p[0]"], rtol=1e-12, atol=0)
    assert same == (variant != "latent")


def test_a_fit_trains_without_denormals_and_restores_the_setting():
    def smallest():
        return float(torch.full((1,), 1e-40) * 1.0)

    before, during = smallest(), []
    data = accelerated()
    model = zoo.create_model("m3sense", data, variant="unaligned", **SMALL)
    zoo.fit(model, "none", data, steps=1, progress=False, callback=lambda *args: during.append(smallest()))
    assert before > 0
    assert set(during) == {0.0}
    assert smallest() == before
    with pytest.raises(RuntimeError, match="stop"), without_denormals():
        raise RuntimeError("stop")
    assert smallest() == before


# ------------------------------------------------------------------ on a watch
@pytest.mark.parametrize(
    ("variant", "guide", "options", "tolerance"),
    [
        ("m3sense", "paper", {"fusion": "cam"}, 1e-5),
        pytest.param("latent", "delta", {"fusion": "concat"}, 1e-5, marks=pytest.mark.slow),
        pytest.param("generative", "delta", {"fusion": "sum", "unimodal": "last"}, 1e-5, marks=pytest.mark.slow),
        pytest.param("unaligned", "none", {"unimodal": "self", "fusion": "hamlet"}, 1e-5, marks=pytest.mark.slow),
        pytest.param("latent", "paper", {"fusion": "keyless"}, 0.05, marks=pytest.mark.slow),
        pytest.param("generative", "paper", {"fusion": "cam"}, 0.05, marks=pytest.mark.slow),
    ],
)
def test_a_program_predicts_like_the_fit(tmp_path, variant, guide, options, tolerance):
    data = m3sense.standardise(accelerated())
    sizes = {} if variant == "unaligned" else {"a_dim": 2, "q_hidden": 4}
    model = zoo.create_model("m3sense", data, variant=variant, **SMALL, **sizes, **options)
    fit = zoo.fit(model, guide, data, steps=20, lr=0.05, progress=False)
    program = m3sense.to_program(fit, tmp_path / "watch.pt2", draws=2000)
    assert program.inputs == {"acc": (40, 3), "eda": (20,)}
    assert program.classes == {"load": ["0", "1"]}
    assert program.bytes == (tmp_path / "watch.pt2").stat().st_size
    facts = {"m3sense.json": ""}
    run = torch.export.load(tmp_path / "watch.pt2", extra_files=facts).module()
    assert json.loads(facts["m3sense.json"])["standardised"] == "subject"
    wanted = zoo.predict(fit, data, draws=2000)[["y_load.p[0]", "y_load.p[1]"]].to_numpy()
    for rows in (slice(None), slice(3, 4)):
        (p,) = run(data["acc"][rows], data["eda"][rows])
        np.testing.assert_allclose(p.detach().numpy(), wanted[rows], atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "tolerance"), [("m3sense", 1e-5), ("latent", 0.05)])
def test_a_program_for_onnx_runtime_predicts_like_the_fit(tmp_path, variant, tolerance):
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed)
    runtime = pytest.importorskip("onnxruntime")
    data = m3sense.standardise(accelerated())
    model = zoo.create_model("m3sense", data, variant=variant, **SMALL, a_dim=2, q_hidden=4)
    fit = zoo.fit(model, "paper", data, steps=20, lr=0.05, progress=False)
    program = m3sense.to_program(fit, tmp_path / "watch.onnx", draws=2000)
    assert [path.name for path in tmp_path.iterdir()] == ["watch.onnx"]
    session = runtime.InferenceSession(program.path)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["m3sense.json"])
    assert facts["classes"] == program.classes == {"load": ["0", "1"]}
    assert [own.name for own in session.get_inputs()] == list(program.inputs) == ["acc", "eda"]
    wanted = zoo.predict(fit, data, draws=2000)[["y_load.p[0]", "y_load.p[1]"]].to_numpy()
    for rows in (slice(None), slice(3, 4)):
        (p,) = session.run(["load"], {name: data[name][rows].numpy() for name in program.inputs})
        np.testing.assert_allclose(p, wanted[rows], atol=tolerance)
    assert program.milliseconds > 0


def test_what_cannot_be_a_program_is_refused(tmp_path):
    data = m3sense.standardise(accelerated())
    model = zoo.create_model("m3sense", data, variant="latent", a_dim=2, q_hidden=4, **SMALL)
    fit = zoo.fit(model, "lowrank", data, steps=1, progress=False)
    with refuses("fit: the guide 'lowrank' cannot be written; fit with 'paper' or 'delta'"):
        m3sense.to_program(fit, tmp_path / "a.pt2")
    with refuses("ends on '.bin'; write a .pt2 (torch.export) or an .onnx file"):
        m3sense.to_program(fit, tmp_path / "a.bin")
    with refuses("cannot be written; variants other than"):
        m3sense.to_program(zoo.load_reference("ssmtl/dryer"), tmp_path / "a.pt2")
