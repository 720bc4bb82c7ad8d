"""The experiments of the medication entry, cut to seconds; and what the zoo's experiments share."""

import csv
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import pyrozoo as zoo
from pyrozoo.experiments import running as experiments
from pyrozoo.experiments.record import OURS_SEMI_SYNTHETIC, OURS_SIMULATED, read_record
from pyrozoo.modeling import registry
from pyrozoo.models.medication import plug_in, simulate, watch_sessions
from pyrozoo.models.medication.data.datasets import watch_sessions_all
from pyrozoo.models.medication.experiments import decoders, implied, report, runs, unlabelled, watch

CARD = zoo.card("medication")


def finite(rows, *names):
    return all(np.isfinite(row[name]) for row in rows for name in names)


# ---------------------------------------------------------------- the watch sessions
@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """The watch experiment on one subject, with one configuration of each kind and no figures."""
    out = tmp_path_factory.mktemp("watch")
    with pytest.MonkeyPatch.context() as patch:
        kept = ("vanilla", "cdf", "cdf-ml", "hazard")
        patch.setattr(watch, "CONFIGURATIONS", {name: watch.CONFIGURATIONS[name] for name in kept})
        patch.setattr(watch, "SMOOTHING", (1000.0,))
        patch.setattr(report, "watch_figures", lambda folder: folder.mkdir())
        record = experiments.run("medication", "watch", profile="smoke", seeds=1, out=out)
        before = {p.name: p.stat().st_mtime_ns for p in (out / "jobs").iterdir()}
        again = experiments.run("medication", "watch", profile="smoke", seeds=1, out=out)
        after = {p.name: p.stat().st_mtime_ns for p in (out / "jobs").iterdir()}
    return out, record, again, before, after


def test_the_record_of_the_watch_sessions_says_that_they_are_semi_synthetic(sessions):
    out, record, *_ = sessions
    assert record["data"] == watch.watch_identity()
    assert (record["data"]["simulated"], record["data"]["semi_synthetic"]) == (False, True)
    assert {row["source"] for row in record["rows"]} == {OURS_SEMI_SYNTHETIC}
    assert record["model"] == f"medication@{CARD.version}"
    assert record["seeds"] == [0]
    with open(out / "table.csv", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == [row["model"] for row in record["rows"]]


def test_every_decoder_of_every_configuration_has_its_row(sessions):
    rows = {row["model"]: row for row in sessions[1]["rows"]}
    expected = {
        label for name in ("vanilla", "cdf", "cdf-ml", "hazard") for label in watch.CONFIGURATIONS[name][3].values()
    }
    smoothed = {
        "cdf, the text's recursion, D + 1000",
        "cdf, exact map, D + 1000",
        "hazard, exact mea, fitted power, D + 1000",
    }
    assert set(rows) == expected | smoothed
    assert finite(rows.values(), "frame_accuracy", "segment_f1", "edit", "least_accuracy")
    assert (rows["argmax of the scores"]["frame_nll"], rows["argmax of the scores"]["power"]) == (None, None)
    with_process = [row for model, row in rows.items() if model != "argmax of the scores"]
    assert finite(with_process, "frame_nll", "power")
    assert all(row["least_accuracy"] == row["frame_accuracy"] for row in rows.values())  # of one subject
    assert rows["hazard, exact mea, fitted power"]["frame_accuracy"] > rows["argmax of the scores"]["frame_accuracy"]


def test_differences_are_those_of_the_rows(sessions):
    _, record, *_ = sessions
    rows = {row["model"]: row["frame_accuracy"] for row in record["rows"]}
    found = record["extra"]["differences"]
    difference, error = found["hazard, exact mea, fitted power - vanilla Viterbi"]
    assert difference == pytest.approx(rows["hazard, exact mea, fitted power"] - rows["vanilla Viterbi"])
    assert error is None
    difference, _ = found["cdf, exact map: D as seen - order unknown"]
    assert difference == pytest.approx(rows["cdf, exact map"] - rows["cdf, exact map, D + 1000"])
    assert len(found) == 7


def test_a_second_call_repeats_no_job(sessions):
    _, record, again, before, after = sessions
    assert len(before) == 6
    assert before == after
    assert (record["extra"]["resumed"], again["extra"]["resumed"]) == (False, True)
    assert again["rows"] == record["rows"]


def test_parameters_come_from_the_other_subjects(monkeypatch):
    train, test = watch_sessions(3)
    fitted = []

    def watched(model, guide, data, **settings):
        fitted.append(data.sha256)
        return zoo.fit(model, guide, data, **settings)

    monkeypatch.setattr(runs, "fit", watched)
    found = runs.watch_run(3, "frame-hmm", "closed-form", ["argmax"])
    assert fitted == [train.sha256]
    argmax = test["score"].argmax(1) == test["label"]
    assert found["argmax"]["frame_accuracy"] == pytest.approx(argmax.double().mean().item())
    assert set(found) == {"argmax", "power", "seconds"}


def test_the_reference_experiment_makes_the_fit_that_ships(tmp_path):
    record = experiments.run("medication", "reference", profile="smoke", out=tmp_path)
    assert {row["source"] for row in record["rows"]} == {OURS_SEMI_SYNTHETIC}
    made, shipped = zoo.load(tmp_path / "fit"), zoo.load_reference("medication/watch")
    assert made.data["sha256"] == shipped.data["sha256"]
    for name, value in made.guide.state_dict().items():
        np.testing.assert_allclose(value, shipped.guide.state_dict()[name], rtol=1e-3, err_msg=name)
    assert record["rows"][0]["power"] == plug_in(made, watch_sessions_all())[1]
    assert record["rows"][0]["power"] == pytest.approx(
        read_record(Path(watch.__file__).parents[1] / "reference" / "watch")["rows"][0]["power"], rel=0.02
    )


# ---------------------------------------------------------------- simulated recordings
@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The decoders experiment at one difficulty, with a model of each kind."""
    out = tmp_path_factory.mktemp("decoders")
    with pytest.MonkeyPatch.context() as patch:
        kept = ("vanilla", "cdf, power 1", "hazard, fitted power")
        patch.setattr(decoders, "MODELS", {name: decoders.MODELS[name] for name in kept})
        patch.setattr(decoders, "DIFFICULTIES", ("medium",))
        record = experiments.run("medication", "decoders", profile="smoke", seeds=2, out=out)
        again = experiments.run("medication", "decoders", profile="smoke", seeds=2, out=out)
    return out, record, again


def test_the_record_of_simulated_recordings_says_so(simulated):
    _, record, again = simulated
    assert {row["source"] for row in record["rows"]} == {OURS_SIMULATED}
    own = [simulate("pen", 10, "medium", seed) for seed in (0, 2)]
    assert record["data"]["sha256"] == hashlib.sha256("".join(batch.sha256 for batch in own).encode()).hexdigest()
    assert (record["seeds"], record["extra"]["resumed"], again["extra"]["resumed"]) == ([0, 1], False, True)
    assert again["rows"] == record["rows"]
    assert again["extra"]["job_seconds"] == record["extra"]["job_seconds"]


def test_every_decoder_of_every_model_has_its_row(simulated):
    rows = simulated[1]["rows"]
    own = ("paper", "map", "marginal", "mea")
    expected = [("no process", "argmax"), ("vanilla", "viterbi")]
    expected += [(name, decoder) for name in ("cdf, power 1", "hazard, fitted power") for decoder in own]
    assert [(row["model"], row["decoder"]) for row in rows] == expected
    assert {(row["device"], row["difficulty"]) for row in rows} == {("pen", "medium")}
    assert finite(rows, "frame_accuracy", "frame_accuracy_se", "segment_f1", "edit")
    assert rows[0]["frame_nll"] is None
    for row in rows:
        assert ("misses_share" in row) == (row["decoder"] == "paper")
        told = row["model"] in ("cdf, power 1", "hazard, fitted power") and row["decoder"] != "mea"
        assert ("auroc" in row) == told


def test_the_recursion_misses_the_maximum_and_never_beats_it(simulated):
    for row in simulated[1]["rows"]:
        if row["decoder"] == "paper":
            assert 0 < row["misses_share"] <= 1
            assert row["misses_nats_median"] > 0
            assert row["misses_largest_gain"] < 1e-9


def test_a_simulated_run_tells_what_was_performed():
    found = runs.simulated_run(
        "pen", "medium", 0, "semi-markov", "closed-form", ["map"], {"power": 0.5}, n_train=20, n_test=20, exactness=True
    )
    assert set(found) == {"map", "power", "misses", "performed", "seconds"}
    assert found["power"] == 0.5
    assert set(found["performed"]) == {"posterior", "map", "paper", "omitted_share"}
    assert 0 < found["performed"]["omitted_share"] < 0.5
    assert found["performed"]["posterior"] > found["performed"]["map"] > found["performed"]["paper"] > 0.5


@pytest.mark.slow
def test_unlabelled_recordings_beside_few_labelled_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "simulate", functools.partial(simulate, rate=1.0))
    record = experiments.run("medication", "unlabelled", profile="smoke", out=tmp_path)
    assert {row["source"] for row in record["rows"]} == {OURS_SIMULATED}
    assert [(row["model"], row["site"]) for row in record["rows"]] == [
        (model, site) for model in ("labelled only", "with unlabelled") for site in unlabelled.SITES
    ]
    assert finite(record["rows"], "rmse", "sd", "cover90", "frame_accuracy", "frame_nll")
    jobs = {
        name: json.loads((tmp_path / "jobs" / f"{name}.json").read_text())["result"]
        for name in ("both-0", "labelled-0")
    }
    difference, _ = record["extra"]["with_unlabelled_minus_labelled"]["gap_mean_rmse"]
    assert difference == pytest.approx(jobs["both-0"]["gap_mean_rmse"] - jobs["labelled-0"]["gap_mean_rmse"])


# ---------------------------------------------------------------- implied durations
KNOWN = [(10, 3, 7.5), (30, 5, 25.0), (50, 10, 37.4), (100, 30, 49.5), (300, 60, 182.9)]
RATES = [(1, 6.04), (5, 4.65), (10, 3.98), (20, 3.33), (30, 2.97)]


@pytest.mark.parametrize(("mean", "sd", "expected"), KNOWN)
def test_a_distribution_function_as_hazard_shortens_durations(mean, sd, expected):
    age, p = implied.implied(mean, sd, "cdf")
    assert p.sum() == pytest.approx(1.0, abs=1e-9)
    assert (age * p).sum() == pytest.approx(expected, abs=0.05)
    # By hand: after d frames it ends with the probability Φ(d + 1).
    ends = norm.cdf((age + 1 - mean) / sd)
    alive = np.r_[1, np.cumprod(1 - ends)[:-1]]
    np.testing.assert_allclose(p, alive * ends, atol=1e-12)


@pytest.mark.parametrize(("mean", "sd", "_"), KNOWN)
def test_the_hazard_reading_returns_the_mean_and_sd(mean, sd, _):
    age, p = implied.implied(mean, sd, "hazard")
    assert p.sum() == pytest.approx(1.0, abs=1e-9)
    found = (age * p).sum()
    assert found == pytest.approx(mean, rel=2e-3)
    assert np.sqrt(((age - found) ** 2 * p).sum()) == pytest.approx(sd, rel=0.01)


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    out = tmp_path_factory.mktemp("implied")
    return out, experiments.run("medication", "implied-durations", out=out)


@pytest.mark.parametrize(("rate", "expected"), RATES)
def test_a_physical_step_is_shorter_the_finer_its_time_is_cut(laws, rate, expected):
    rows = {(r["model"], r["frames_per_s"]): r for r in laws[1]["rows"] if r["mean_s"] == 8.0}
    assert rows["cdf", rate]["implied_mean_s"] == pytest.approx(expected, abs=0.006)
    assert rows["cdf", rate]["bias_percent"] == pytest.approx(100 * (expected / 8 - 1), abs=0.1)
    assert rows["hazard", rate]["implied_mean_s"] == pytest.approx(8.0, abs=0.02)
    assert rows["hazard", rate]["sd_ratio"] == pytest.approx(1.0, abs=0.01)


def test_the_record_of_implied_durations_is_of_no_data(laws):
    out, record = laws
    assert {row["source"] for row in record["rows"]} == {OURS_SIMULATED}
    assert record["data"]["name"] == "no data: laws of durations"
    assert (out / "figures" / "implied_durations.png").stat().st_size > 10_000
    table = {
        (r["model"], r["mean_s"], r["sd_s"]): r["implied_mean_s"] for r in record["rows"] if r["frames_per_s"] == 1
    }
    for mean, sd, expected in KNOWN:
        assert table["cdf", mean, sd] == pytest.approx(expected, abs=0.05)


def test_the_next_step_is_d_in_the_hazard_reading_only(laws):
    shares = laws[1]["extra"]["shares_of_next_steps"]
    np.testing.assert_allclose(shares["hazard"], [0.5, 0.5], atol=1e-9)
    assert sum(shares["cdf"]) == pytest.approx(1.0, abs=1e-6)
    assert abs(shares["cdf"][0] - 0.5) > 0.1


# ---------------------------------------------------------------- what experiments share
def test_experiments_of_the_card_are_those_of_the_entry():
    parts = registry.entry("medication").parts
    assert list(parts.EXPERIMENTS) == list(CARD.experiments)


@pytest.mark.parametrize("name", CARD.experiments)
def test_an_unknown_profile_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"profile: 'huge' is none of \['smoke', 'quick', 'paper'\]"):
        experiments.run("medication", name, profile="huge", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one_version_and_one_data_set(tmp_path):
    data = {"sha256": "0" * 64}
    assert experiments.claim(CARD, tmp_path, data) is False
    (tmp_path / "jobs").mkdir()
    assert experiments.claim(CARD, tmp_path, data) is True
    with pytest.raises(ValueError, match="holds results of another version of the entry, other data"):
        experiments.claim(CARD, tmp_path, {"sha256": "1" * 64})
    with pytest.raises(ValueError, match="choose another folder"):
        experiments.claim(zoo.card("ssmtl"), tmp_path, data)


def test_averages_have_their_standard_errors():
    found = experiments.averages([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}])
    assert found == {"a": 2.0, "a_se": pytest.approx(1.0), "b": 2.0, "b_se": 0.0}
    assert experiments.averages([{"a": 1.0}]) == {"a": 1.0, "a_se": None}


def test_simulated_data_are_identified_by_all_their_batches():
    batches = [simulate("pen", 1, seed=seed) for seed in (0, 1)]
    found = [experiments.simulated_data("two", own)["sha256"] for own in (batches, batches[::-1], batches[:1])]
    assert len(set(found)) == 3
    assert experiments.simulated_data("two", batches) == {"name": "two", "sha256": found[0], "simulated": True}


def test_the_time_of_jobs_counts_those_of_earlier_calls():
    results = {"a": {"seconds": 1.5}, "b": {"seconds": 2.0}}
    assert experiments.timing(results, True) == {"job_seconds": 3.5, "threads_per_job": 1, "resumed": True}


def test_the_tables_of_decoders_on_the_page_are_those_of_the_record():
    folder = Path(zoo.models.medication.__file__).parent
    page = (folder / "README.md").read_text()
    for table in decoders.decoders_tables(read_record(folder / "results" / "decoders")["rows"]):
        assert table in page


def test_the_speed_of_live_decoding_on_the_page_is_that_of_the_record():
    folder = Path(zoo.models.medication.__file__).parent
    speeds = [row["frames_per_s"] for row in read_record(folder / "results" / "live")["rows"]]
    assert f"{min(speeds):.0f} to {max(speeds):.0f} frames per second" in (folder / "README.md").read_text()


def test_memory_and_speed_of_a_folder_on_the_page_are_those_of_the_record():
    folder = Path(zoo.models.medication.__file__).parent
    page = (folder / "README.md").read_text()
    record = json.loads((folder.parents[2] / "benchmarks" / "records" / "decode_stream.json").read_text())
    folders, speed, length = (v for v in record.values() if isinstance(v, dict) and "cpu" not in v)
    for name, row in folders.items():
        cells = [name.split()[0], f"{row['recordings']:,}", f"{row['frames']:,}", f"{row['folder_MB']:.1f}"]
        cells += [f"{row['caller_MB']:.0f}", f"{row['worker_MB']:.0f}"]
        assert f"| {' | '.join(cells)} |" in page
    one, two = (round(row["frames_per_s"], -2) for row in speed.values())
    assert f"{one:,.0f} frames per second with one process and {two:,.0f} with two" in " ".join(page.split())
    for frames in (10_000, 100_000, 1_000_000):
        found = [length.get(f"{kind}, {frames} frames, {how}") for kind in ("npz", "csv") for how in ("map", "mea")]
        cells = [f"{row['all_bytes_per_frame']:,.0f}" if row else "–" for row in found]
        assert f"| {frames:,} | {' | '.join(cells)} |" in page
