import errno
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.data.batch import Batch
from pyrozoo.files import sha256_json
from pyrozoo.inference import minibatches
from pyrozoo.inference.copies import default_dtype
from pyrozoo.inference.minibatches import rows_per_group, sample_minibatches
from pyrozoo.models.ssmtl import context_model
from pyrozoo.models.ssmtl.guides import AmortizedGuide
from pyrozoo.models.ssmtl.model import SSMTL
from pyrozoo.store import row_files
from pyrozoo.store import rows as on_disk

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import from_disk

N, M = 1000, 30
COLUMNS = {"unit": "well", "x": ["u", "p"], "y": "q"}


def table(n=N, m=M, seed=0):
    """Rows of wells in random order, some with one row only, a third of the targets missing; simulated noise."""
    rng = np.random.default_rng(seed)
    well = np.minimum(rng.integers(m + 10, size=n), m - 1)
    df = pd.DataFrame({"well": [f"w{i}" for i in well], "u": rng.normal(size=n), "p": rng.normal(5, 2, n)})
    df["q"] = df["u"] * (1 + 0.1 * well) + 0.1 * rng.normal(size=n)
    df.loc[rng.random(n) < 1 / 3, "q"] = np.nan
    return df


def pieces(df, size=137):
    return (df.iloc[start : start + size] for start in range(0, len(df), size))


def write(folder, df=None, size=137, **options):
    return zoo.write_rows(folder, pieces(table() if df is None else df, size), **{**COLUMNS, "support": 8, **options})


@pytest.fixture
def small_windows(monkeypatch):
    """Every threshold far below the size of the test data."""
    monkeypatch.setattr(minibatches, "WINDOW", 128)
    monkeypatch.setattr(minibatches, "BLOCK", 8)
    monkeypatch.setattr(context_model, "WHOLE", 64)
    monkeypatch.setattr(context_model, "CHUNK", 50)
    monkeypatch.setattr(row_files, "BLOCK", 64)


def assert_same(own, other):
    assert dict(own.along) == dict(other.along)
    assert dict(own.sizes) == dict(other.sizes)
    assert (own.rows, own.groups, dict(own.labels), dict(own.dims)) == (
        other.rows, other.groups, dict(other.labels), dict(other.dims)
    )  # fmt: skip
    for kind in ("tensors", "strata", "coords"):
        mine, others = getattr(own, kind), getattr(other, kind)
        assert list(mine) == list(others) if kind != "coords" else set(mine) == set(others)
        for name, value in mine.items():
            assert value.dtype == others[name].dtype
            np.testing.assert_array_equal(np.asarray(value), np.asarray(others[name]), name)
    assert own.sha256 == other.sha256


# ---------------------------------------------------------------- writing and reading
@pytest.mark.parametrize("size", [3, 137, N])
def test_what_is_opened_is_what_a_batch_of_the_whole_table_is(tmp_path, small_windows, size):
    df = table()
    write(tmp_path / "a", df, size, name="wells", simulated=True)
    own = zoo.open_rows(tmp_path / "a", verify=True)
    other = Batch.from_dataframe(df, **COLUMNS, name="wells", simulated=True).with_support(8)
    assert_same(own, other)
    assert dict(own.info) == dict(other.info)
    assert sorted(p.suffix for p in (tmp_path / "a").iterdir())[0] == ".json"
    assert {p.suffix for p in (tmp_path / "a").iterdir()} == {".json", ".npy"}


def test_units_and_rows_of_any_kind(tmp_path):
    df = table(60, 5)
    whole = df.assign(well=pd.to_datetime("2024-01-01") + pd.to_timedelta(df["well"].str[1:].astype(int), "D"))
    whole.index = pd.date_range("2025-01-01", periods=60, freq="h")
    assert_same(write(tmp_path / "times", whole, 7), Batch.from_dataframe(whole, **COLUMNS).with_support(8))
    whole = df.assign(well=df["well"].str[1:].astype(int))
    whole.index += 1000
    assert_same(write(tmp_path / "numbers", whole, 7), Batch.from_dataframe(whole, **COLUMNS).with_support(8))
    own = write(tmp_path / "category", df.astype({"well": "category"}), 7)
    assert_same(own, Batch.from_dataframe(df, **COLUMNS).with_support(8))
    repeated = [part.reset_index(drop=True) for part in pieces(df, 7)]  # as pyarrow's batches are numbered
    own = zoo.write_rows(tmp_path / "repeated", [*repeated[:2], df.iloc[:0], *repeated[2:]], **COLUMNS, support=8)
    assert_same(own, Batch.from_dataframe(pd.concat(repeated, ignore_index=True), **COLUMNS).with_support(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": 5}, "rows.json: not what `write_rows` writes"),
        ({"coords": {"unit": None}}, "rows.json: not what `write_rows` writes"),
        ({"files": {"../b/x": {}}}, "which is no file of this folder"),
    ],
)
def test_a_header_that_was_forged_is_refused_by_its_name(tmp_path, change, message):
    write(tmp_path / "a")
    file = tmp_path / "a" / "rows.json"
    header = json.loads(file.read_text()) | change
    header.pop("sha256")
    file.write_text(json.dumps(header | {"sha256": sha256_json(header)}))
    with pytest.raises(ValueError, match=message):
        zoo.open_rows(tmp_path / "a")


def test_rows_keep_an_index_of_text_of_any_length_and_order(tmp_path):
    df = table(60, 5)
    df.index = [f"{'later ' * (k // 20)}sample {(7 * k) % 30}" for k in range(60)]  # longer ones later, some twice
    own = write(tmp_path / "a", df, 7)
    assert zoo.open_rows(tmp_path / "a", verify=True).names("row").tolist() == own.names("row").tolist() == [*df.index]
    whole = Batch.from_dataframe(df, **COLUMNS).with_support(8)
    assert own.sha256 == whole.sha256
    fit = zoo.fit(zoo.create_model("ssmtl", own, c_dim=2, z_dim=2, width=4, depth=1), "paper", own, steps=1,
                  progress=False)  # fmt: skip
    tables = list(zoo.predict_rows(fit, own, rows=25, draws=2))
    assert [name for part in tables for name in part.index] == [*df.index]
    assert not list((tmp_path / "a").glob("wider*"))


def test_without_targets_labels_or_support(tmp_path):
    df = table(60, 5)
    own = zoo.write_rows(tmp_path / "a", df, unit="well", x="u", support=0, dtype=torch.float64)
    assert_same(own, Batch.from_dataframe(df, unit="well", x="u", dtype=torch.float64))
    unlabelled = df.assign(q=np.nan)
    own = write(tmp_path / "b", unlabelled, 7)
    assert_same(own, Batch.from_dataframe(unlabelled, **COLUMNS).with_support(8))
    assert own.sizes["labelled"] == len(own.strata["labelled"]) == 0


def test_support_rows_are_labelled_first_and_of_the_unit(tmp_path, small_windows):
    own = write(tmp_path / "a", seed=3)
    x, labelled, unit = own["x"].numpy(), own["labelled"].numpy(), own["unit"].numpy()
    for i in range(M):
        real = own["support_mask"][i].numpy()
        assert real.sum() == min(8, (unit == i).sum())
        rows = [np.flatnonzero((x == value).all(1))[0] for value in own["support_x"][i].numpy()[real]]
        assert (unit[rows] == i).all()
        assert len(set(rows)) == len(rows)
        assert labelled[rows].sum() == min(real.sum(), labelled[unit == i].sum())


def test_a_change_in_memory_does_not_reach_the_files(tmp_path):
    own = write(tmp_path / "a")
    before = own["x"][0, 0].item()
    own["x"][0, 0] = 99.0
    assert zoo.open_rows(tmp_path / "a", verify=True)["x"][0, 0].item() == before


# ---------------------------------------------------------------- errors
def test_a_disk_that_is_full_at_once_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyrozoo.store.rows.atomic_write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_bad_value_names_chunk_row_and_column_and_leaves_nothing(tmp_path):
    df = table()
    df.loc[300, "p"] = np.nan
    with pytest.raises(ValueError, match=r"chunk 3, which begins after 274 rows: column 'p', row 300: the value is"):
        write(tmp_path / "a", df)
    assert not (tmp_path / "a").exists()
    with pytest.raises(KeyError, match=r"chunk 1, .*column 'q' is not in the table"):
        write(tmp_path / "a", df.drop(columns="q"))
    with pytest.raises(TypeError, match=r"chunk 1, .*a str; give a pandas data frame"):
        zoo.write_rows(tmp_path / "a", ["x"], **COLUMNS)
    with pytest.raises(ValueError, match="the table has no rows"):
        zoo.write_rows(tmp_path / "a", [], **COLUMNS)
    with pytest.raises(ValueError, match="support: -1"):
        zoo.write_rows(tmp_path / "a", [], **COLUMNS, support=-1)
    assert not (tmp_path / "a").exists()


def test_units_that_change_their_type_or_that_json_cannot_hold(tmp_path):
    first, second = table(20, 3), table(20, 3)
    second["well"] = range(20)
    with pytest.raises(TypeError, match=r"chunk 2, .*units are numbers where those of the first chunk are text"):
        zoo.write_rows(tmp_path / "a", [first, second], **COLUMNS)
    first["well"] = [(i, i) for i in range(20)]
    with pytest.raises(ValueError, match="JSON cannot hold a tuple"):
        zoo.write_rows(tmp_path / "a", first, **COLUMNS)
    with pytest.raises(TypeError, match="no JSON form"):
        zoo.write_rows(tmp_path / "a", table(20, 3), **COLUMNS, source=object())


def test_an_interrupted_writing_is_recognised_and_replaced(tmp_path, monkeypatch):
    def chunks():
        yield from list(pieces(table()))[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(on_disk, "_remove", lambda *_, **__: None)  # killed: nobody tidies up
        with pytest.raises(KeyboardInterrupt):
            zoo.write_rows(tmp_path / "a", chunks(), **COLUMNS)
    assert (tmp_path / "a" / "x.npy").stat().st_size > 3000
    with pytest.raises(ValueError, match=r"incomplete, its writing was interrupted; write the rows again"):
        zoo.open_rows(tmp_path / "a")
    df = table()
    assert_same(write(tmp_path / "a", df), Batch.from_dataframe(df, **COLUMNS).with_support(8))


def test_folders_are_not_replaced_unasked(tmp_path):
    own = write(tmp_path / "a")
    before = own["x"].clone()
    with pytest.raises(FileExistsError, match="choose another folder, or overwrite=True"):
        write(tmp_path / "a")
    write(tmp_path / "a", table(50, 3), overwrite=True)
    assert torch.equal(own["x"], before)
    assert zoo.open_rows(tmp_path / "a").n_rows == 50
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.npy").touch()
    with pytest.raises(FileExistsError, match=r"choose another folder$"):
        write(tmp_path / "b", overwrite=True)
    assert (tmp_path / "b" / "mine.npy").exists()


def damage(folder, how):
    file, header = folder / "x.npy", folder / "rows.json"
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[:-1])
    elif how == "missing":
        file.unlink()
    elif how == "pickle":
        np.save(folder / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
        file.write_bytes((folder / "o.npy").read_bytes().ljust(len(content), b"."))
    elif how == "raw pickle":
        file.write_bytes(pickle.dumps([1]).ljust(len(content), b"."))
    elif how == "other":
        file.write_bytes(content.replace(b"<f4", b"<i4"))
    elif how == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "header cut":
        header.write_text(header.read_text()[:-20])
    elif how == "header edited":
        header.write_text(header.read_text().replace('"w1"', '"w2"'))
    elif how == "format":
        header.write_text(json.dumps({"format": 2}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", r"x.npy: \d+ bytes where \d+ were written; write the rows again"),
        ("missing", r"x.npy: missing; write"),
        ("pickle", r"x.npy: no array of numbers .*opens no pickles; write"),
        ("raw pickle", r"x.npy: no array of numbers .*opens no pickles; write"),
        ("other", r"x.npy: int32 \(1000, 2\), not what was written; write"),
        ("flipped", r"x.npy: changed since it was written; write"),
        ("header cut", r"rows.json is truncated or not the header"),
        ("header edited", r"rows.json: changed since the rows were written"),
        ("format", r"rows.json: format 2, this version reads 1"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, how, message):
    write(tmp_path / "a")
    damage(tmp_path / "a", how)
    with pytest.raises(ValueError, match=message):
        zoo.open_rows(tmp_path / "a", verify=how == "flipped")


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no rows here, it has no rows\.json; make it"):
        zoo.open_rows(tmp_path / "none")


# ---------------------------------------------------------------- minibatches
@pytest.mark.parametrize("n", [1000, 1001, 20_000])
@pytest.mark.parametrize("size", [1, 7, 250, 5000])
def test_every_row_comes_once_and_only_the_last_minibatch_is_shorter(small_windows, n, size):
    generator = torch.Generator().manual_seed(0)
    parts = list(minibatches._shuffled(n, size, generator, mapped=True))
    rows = torch.cat(parts)
    assert torch.equal(rows.sort().values, torch.arange(n))
    assert [len(part) for part in parts] == [size] * (n // size) + [n % size] * (n % size > 0)
    again = torch.cat(list(minibatches._shuffled(n, size, generator, mapped=True)))
    assert not torch.equal(rows, again)
    assert np.corrcoef(rows.numpy(), np.arange(n))[0, 1] < 0.5


def test_variance_of_minibatches_of_rows_that_are_alike(monkeypatch):
    """With K = 32 blocks of 8 equal rows in a window, B = 64: (1 + r B / K) = 3 times that of rows drawn one by one."""
    monkeypatch.setattr(minibatches, "WINDOW", 256)
    monkeypatch.setattr(minibatches, "BLOCK", 8)
    n, size = 256 * 32, 64
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(n // 8, generator=generator).repeat_interleave(8)
    value = (value - value.mean()) / value.std()

    def variance(mapped, reps=150):
        means = [value[r].mean() for _ in range(reps) for r in minibatches._shuffled(n, size, generator, mapped)]
        assert torch.stack(means).mean().abs() < 1e-5  # exact over every epoch
        return size * torch.stack(means).var().item()

    assert variance(False) == pytest.approx(1.0, rel=0.05)
    assert variance(True) == pytest.approx(1 + size / 32 - size / 256, rel=0.1)  # less the window's own rows


@pytest.mark.parametrize("batch_size", [93, {"labelled": 40, "unlabelled": 50}, {"labelled": 40, "unlabelled": 0}])
def test_minibatches_of_a_partition_give_the_exact_sum(tmp_path, small_windows, batch_size):
    """The weighted sums of row terms, and the weights of the units, over an epoch."""
    own = write(tmp_path / "a")
    counts = rows_per_group(own, batch_size)
    part = dict(own.strata) if isinstance(batch_size, dict) else {"all": torch.arange(N)}
    used = torch.cat([rows for name, rows in part.items() if name != "unlabelled" or batch_size["unlabelled"]])
    assert torch.equal(counts["unit"], torch.bincount(own["unit"][used], minlength=M))
    total, units, steps = 0.0, torch.zeros(M, dtype=torch.double), 0
    generator = torch.Generator().manual_seed(0)
    for batch in sample_minibatches(own, batch_size, generator, counts):
        size = len(batch["row"])
        weight = batch["weight"].double() if "weight" in batch.tensors else torch.ones(size, dtype=torch.double)
        if batch_size == 93:  # its share of the epoch, where steps are of unequal size
            weight, share = weight * N / size, size / N
        else:
            weight, share = weight * N / size, None
        steps += 1
        terms = weight @ batch["x"].double()
        units_here = torch.zeros(M, dtype=torch.double).index_add_(
            0, batch["unit_ids"], batch["unit_weight"].double() * M / len(batch["unit_ids"])
        )
        total = total + terms * (1 if share is None else share)
        units += units_here * (1 if share is None else share)
    expected = own["x"][used].double().sum(0)
    if batch_size == 93:
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(units, torch.ones(M, dtype=torch.double), rtol=1e-4, atol=1e-4)
    else:  # the smaller stratum is gone through again in part
        torch.testing.assert_close(total / steps, expected, rtol=0.1, atol=30.0)


def test_counting_rows_leaves_out_strata_that_are_not_used(tmp_path, small_windows):
    own = write(tmp_path / "a")
    memory = Batch.from_dataframe(table(), **COLUMNS)
    for size in (50, {"labelled": 5, "unlabelled": 5}, {"labelled": 5, "unlabelled": 0}):
        assert torch.equal(rows_per_group(own, size)["unit"], rows_per_group(memory, size)["unit"])


def test_rows_on_disk_stay_there_and_minibatches_are_cast(tmp_path):
    own = write(tmp_path / "a").read_to(dtype=torch.float64)
    assert own["x"].dtype == torch.float32
    assert own["support_x"].dtype == torch.float64
    part = own.take(torch.tensor([3, 1]))
    assert part["x"].dtype == torch.float64
    assert part["labelled"].dtype == torch.bool
    assert part.on_disk is None
    for batch in sample_minibatches(own, None, torch.Generator()):
        assert batch["x"].shape == (N, 2)
        assert batch["x"].dtype == torch.float64
    assert own.to(dtype=torch.float64)["x"].dtype == torch.float64


# ---------------------------------------------------------------- fits and predictions
def fit_to(data, guide="amortized", **options):
    model = zoo.create_model("ssmtl", data, width=16, depth=1)
    guide = (lambda model: AmortizedGuide(model, support=8)) if guide == "amortized" else guide
    given = {"steps": 30, "batch_size": {"labelled": 20, "unlabelled": 20}, "groups": "present", "progress": False}
    return zoo.fit(model, guide, data, **{**given, **options})


def assert_same_weights(fit, other):
    for own, others in ((fit.model, other.model), (fit.guide, other.guide)):
        for name, value in own.state_dict().items():
            assert torch.equal(value, others.state_dict()[name]), name


@pytest.mark.parametrize("guide", ["amortized", "paper", "normal"])
def test_a_fit_from_disk_is_the_fit_from_memory(tmp_path, guide):
    own, memory = write(tmp_path / "a"), Batch.from_dataframe(table(), **COLUMNS)
    options = {"groups": "all"} if guide == "normal" else {}
    one, other = (fit_to(data, guide, **options) for data in (own, memory))
    assert_same_weights(one, other)
    part = memory.subset(np.arange(40))
    pd.testing.assert_frame_equal(zoo.predict(one, part, draws=5), zoo.predict(other, part, draws=5))
    assert one.data["sha256"] == Batch.from_dataframe(table(), **COLUMNS).with_support(8).sha256


def test_a_fit_with_windows_learns_resumes_and_warms_a_double_one(tmp_path, small_windows):
    own = write(tmp_path / "a")
    checkpoint = {"checkpoint": tmp_path / "c", "resume": True}
    options = {"steps": 45, "lr": 2e-2, "batch_size": {"labelled": 40, "unlabelled": 20}}
    fit = fit_to(own, **options)
    assert fit.history["elbo"].iloc[-1] > fit.history["elbo"].iloc[0] + 0.5

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit_to(own, **options, callback=stop, **checkpoint)
    assert_same_weights(fit, fit_to(own, **options, **checkpoint))
    with default_dtype(torch.float64):
        double = fit_to(own, steps=1, warm_start=fit, lr=1e-9)
    assert double.model.x_loc.dtype == torch.float64
    known, found = fit.guide.encoder.row[0].weight, double.guide.encoder.row[0].weight
    torch.testing.assert_close(found.float(), known, rtol=1e-5, atol=1e-6)


def test_the_standardisation_by_chunks(tmp_path, small_windows):
    own, memory = write(tmp_path / "a"), Batch.from_dataframe(table(), **COLUMNS)
    sizes = SSMTL.sizes_from(own)
    x, y = memory["x"].double(), memory["y"][memory["labelled"]].double()
    for name, value in (("x", x), ("y", y)):
        assert sizes[f"{name}_loc"] == pytest.approx(value.mean(0).tolist(), rel=1e-13)
        assert sizes[f"{name}_scale"] == pytest.approx(value.std(0, unbiased=False).tolist(), rel=1e-13)
    with pytest.raises(ValueError, match="column 'u': the training values are all 3"):
        SSMTL.sizes_from(write(tmp_path / "b", table().assign(u=3.0)))


def test_support_on_disk_is_left_alone_where_it_is_of_these_rows(tmp_path, monkeypatch):
    own = write(tmp_path / "a")
    with pytest.raises(ValueError, match=r"up to 8 support rows per unit, the guide reads up to 32; write them with"):
        fit_to(own, AmortizedGuide)
    assert own.support_rows("unit") == 8
    for changed in (own.subset(np.arange(500)), own.relabel(np.arange(N) < 500), own.hide(), own.take([0, 1]),
                    own.with_tensors({"x": own["x"] + 1}), own.to(dtype=torch.float64)):  # fmt: skip
        assert changed.support_rows("unit") is None
    part = own.subset(np.arange(500))
    fresh = Batch.from_dataframe(table().iloc[:500], **COLUMNS)
    assert_same_weights(fit_to(part), fit_to(fresh))
    monkeypatch.setattr(Batch, "with_support", lambda *_: pytest.fail("support rows were chosen again"))
    fit_to(own, steps=2)


def test_predictions_come_in_parts_and_draw_only_the_units_of_the_part(tmp_path):
    own = write(tmp_path / "a", table().sort_values("well").reset_index(drop=True))
    fit = fit_to(own, steps=60, lr=1e-2)
    widths = []
    fit.guide.encoder.register_forward_hook(lambda _, given, __: widths.append(len(given[0])))
    parts = list(zoo.predict_rows(fit, own, rows=300, draws=30))
    assert max(widths) < M
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    found, whole = pd.concat(parts), zoo.predict(fit, own, draws=30)
    pd.testing.assert_index_equal(found.index, whole.index)
    close = (found["y.mean"] - whole["y.mean"]).abs() / whole["y.sd"]
    assert close.max() < 1.0
    assert close.mean() < 0.2
    again = next(iter(zoo.predict_rows(fit, own, rows=300, draws=30)))
    pd.testing.assert_frame_equal(parts[0], again)


def test_predictions_of_new_units_and_of_a_guide_that_is_not_amortised(tmp_path):
    own = write(tmp_path / "a")
    new = table(60, 5, seed=1)
    new.loc[:29, "well"] = "new"
    new.loc[30:44, "well"] = "newer"
    batch = Batch.from_dataframe(new, **COLUMNS)
    found = list(zoo.predict_rows(fit_to(own), batch, rows=30, draws=5))
    assert [len(part) for part in found] == [30, 30]
    assert np.isfinite(pd.concat(found)).all().all()
    found = list(zoo.predict_rows(fit_to(own, "paper"), own, rows=600, draws=2))
    assert [len(part) for part in found] == [600, 400]


# ---------------------------------------------------------------- memory
MEMORY = """
    import sys, threading, time
    import numpy as np, pandas as pd, torch
    import pyrozoo as zoo
    from pyrozoo.models.ssmtl.guides import AmortizedGuide
    torch.set_num_threads(1)

    def anonymous():
        line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    def chunks(n, size=20_000):
        for start in range(0, n, size):
            rng = np.random.default_rng(start)
            unit = np.arange(start, start + size) // 200
            u, p = rng.random(size), rng.random(size)
            yield pd.DataFrame({"well": unit, "u": u, "p": p, "q": np.where(rng.random(size) < 0.1, u + p, np.nan)})

    def everything(n):
        data = zoo.write_rows(f"{sys.argv[1]}/{n}", chunks(n), unit="well", x=["u", "p"], y="q", support=8,
                              overwrite=True)
        model = zoo.create_model("ssmtl", data, width=16)
        zoo.fit(model, lambda model: AmortizedGuide(model, support=8), data, steps=2, groups="present", progress=False,
                batch_size={"labelled": 250, "unlabelled": 250})

    def peak(n):
        found, stop = [], threading.Event()
        def watch():
            while not stop.is_set():
                found.append(anonymous())
                time.sleep(0.005)
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        everything(n)
        stop.set()
        thread.join()
        return max(found)

    everything(20_000)
    print(peak(20_000), peak(int(sys.argv[2])))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("n", [400_000, pytest.param(800_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, n):
    """400,000 rows are 15 MB of tensors; what may grow by 13 MB are a window of their order and the names of units."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path, str(n)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    print(small, large)
    assert large - small < 20


def test_the_benchmark_on_small_data(tmp_path, monkeypatch):
    monkeypatch.setattr(from_disk, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(from_disk, "STEPS", {20: 2})
    out = tmp_path / "numbers.json"
    given = ["--rounds", "1", "--sizes", "2000", "4000", "--minibatches", "20", "--folder", str(tmp_path)]
    from_disk.main([*given, "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["minibatch 20: a step"]["4,000"]["units"] > 10
    assert set(record["minibatch 20: a step"]) == {"2,000", "4,000", "4,000 in memory"}
    assert list(tmp_path.iterdir()) == [out]
