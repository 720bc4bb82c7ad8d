"""One fit by several processes: torchrun starts distributed_worker.py, the tests read what its processes wrote."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from distributed_worker import FIT, LONG, data, gradient_cases, matrix_cases, outcome
from torch import distributed as dist

import pyrozoo as zoo

pytestmark = pytest.mark.skipif(not dist.is_available() or os.name != "posix", reason="needs gloo and POSIX signals")


def launch(task, folder, *options):
    """What each of two processes found."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options,
        str(Path(__file__).with_name("distributed_worker.py")), task, str(folder),
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:  # torchrun and all that it started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, said[-4000:]
    return [json.loads((folder / f"{task}-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checks")


@pytest.fixture(scope="module")
def checks(folder):
    return launch("checks", folder)


@pytest.fixture(scope="module")
def fits(checks):
    return [found["fits"] for found in checks]


@pytest.fixture
def one_process(monkeypatch):
    """As torchrun starts a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    yield
    dist.destroy_process_group()


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize("case", gradient_cases())
def test_the_gradients_of_two_processes_are_those_of_one(checks, case):
    for found in checks:
        assert isinstance(found["gradients"][case], float), found["gradients"][case]
        assert found["gradients"][case] < 1e-10


@pytest.mark.slow
def test_the_gradients_of_every_guide_by_two_processes_are_those_of_one(tmp_path):
    for found in launch("matrix", tmp_path):
        assert set(found) == set(matrix_cases())
        assert not {case: value for case, value in found.items() if not isinstance(value, float) or value >= 1e-10}


# ---------------------------------------------------------------- fits
@pytest.mark.parametrize(
    "name", ["plain", "graph", "strata", "present", "batch norm", "whole", "went on", "afterwards"]
)
def test_all_processes_return_the_same_fit(fits, name):
    assert fits[0][name] == fits[1][name]
    assert all(math.isfinite(v) for history in fits[0][name]["history"] for v in history["elbo"])


def test_a_fit_by_two_processes_comes_to_what_one_comes_to(fits):
    model, train, valid = data()
    alone = outcome(zoo.fit(model, "paper", train, valid=valid, restarts=2, **FIT))
    for one, two in zip(alone["history"], fits[0]["plain"]["history"], strict=True):
        one, two = pd.DataFrame(one), pd.DataFrame(two)
        both = min(len(one), len(two))
        for name in ("epoch", "step", "beta", "lr"):
            assert two[name][:both].tolist() == one[name][:both].tolist()
        assert two["elbo"].iloc[0] != one["elbo"].iloc[0]  # other draws
        for name in ("elbo", "valid_elbo"):
            assert two[name].tolist() == pytest.approx(one[name].tolist()[:both], rel=0.05)
    assert alone["weights"][0].keys() == fits[0]["plain"]["weights"][0].keys()


def test_compiled_losses_train_as_eager_ones_do(fits):
    eager, graph = (fits[0][name]["history"][0] for name in ("plain", "graph"))  # a graph takes seconds: one restart
    assert graph["valid_elbo"] == pytest.approx(eager["valid_elbo"], rel=1e-3)


def test_a_fit_does_not_depend_on_the_fits_before_it(fits):
    assert fits[0]["afterwards"] == fits[0]["whole"]


# ---------------------------------------------------------------- restarts
STEPS_LEFT = list(range(12, 24))  # four steps an epoch: on from the end of the third


def test_processes_that_end_early_go_on_to_the_fit_of_an_uninterrupted_run(fits):
    for found in fits:
        assert found["steps of resumed"] == STEPS_LEFT
        assert found["resumed"] == fits[0]["whole"]


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_the_fit_is_that_of_an_uninterrupted_run(tmp_path):
    for found in launch("elastic", tmp_path, "--max-restarts", "2"):
        assert found["restarts"] == 1
        assert found["steps"] == STEPS_LEFT
        assert found["fit"] == found["whole"]


@pytest.mark.parametrize("distributed", [True, False])
def test_a_fit_goes_on_with_fewer_processes(fits, folder, distributed, request, tmp_path):
    if distributed:
        request.getfixturevalue("one_process")
    model, train, _ = data()
    (tmp_path / "run-0.safetensors").write_bytes((folder / "kept" / "run-0.safetensors").read_bytes())
    options = {"checkpoint": tmp_path, "resume": True, "distributed": distributed}
    fitted = zoo.fit(model, "paper", train, **LONG, **options)
    history, whole = fitted.history, pd.DataFrame(fits[0]["whole"]["history"][0])
    assert fitted.status == "finished"
    assert fitted.settings["distributed"] is distributed
    assert history["step"].tolist() == whole["step"].tolist()
    assert history["elbo"].tolist()[:3] == whole["elbo"].tolist()[:3]
    assert history["elbo"].tolist()[3:] != whole["elbo"].tolist()[3:]  # other draws
    assert history["elbo"].tolist() == pytest.approx(whole["elbo"].tolist(), rel=0.1)


def test_a_fit_goes_on_with_more_processes(fits):
    model, train, _ = data()
    alone = outcome(zoo.fit(model, "paper", train, **LONG))["history"][0]
    went_on = fits[0]["went on"]["history"][0]
    assert fits[0]["went on"]["status"] == ["finished"]
    assert went_on["elbo"][:3] == alone["elbo"][:3]
    assert went_on["elbo"] == pytest.approx(alone["elbo"], rel=0.1)
    assert went_on["elbo"][3:] != alone["elbo"][3:]


# ---------------------------------------------------------------- errors
def test_a_process_that_torchrun_did_not_start_is_told_how_to(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    model, train, _ = data()
    with pytest.raises(RuntimeError, match="not started by torchrun; run `torchrun --nproc-per-node 2 YOUR_S"):
        zoo.fit(model, "paper", train, **LONG, distributed=True)
    assert not dist.is_initialized()


def test_lazy_updates_of_tables_are_refused(fits):
    for found in fits:
        kind, text = found["tables"]
        assert kind == "ValueError"
        assert "groups='present': PaperGuide has parameters per group" in text
        assert "use groups='all', or a guide that is amortised over groups" in text


@pytest.mark.parametrize("how", ["validated", "not validated"])
def test_all_processes_fail_where_the_loss_of_one_is_not_finite(fits, how):
    (kind, text), (kind_of_second, text_of_second) = (found[f"not finite, {how}"] for found in fits)
    assert kind == kind_of_second == "NonFiniteLoss"
    assert "step 0: the loss is nan in another process's share; the last good state" in text
    assert "(site 'y_unobserved' has a non-finite value)" in text_of_second


# ---------------------------------------------------------------- benchmark
@pytest.mark.slow
def test_the_benchmark_writes_seconds_of_one_and_of_two_processes(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "ddp.py"
    command = [sys.executable, str(script), "--rows", "100", "--width", "8", "--rounds", "1", "--out"]
    subprocess.run([*command, str(tmp_path / "numbers.json")], check=True, capture_output=True, timeout=120)
    record = json.loads((tmp_path / "numbers.json").read_text())
    table = record["100 rows: 100 steps"]
    assert table.keys() == {"one process", "two processes"}
    assert all(line["min_s"] > 0 for line in table.values())
    assert table["one process"]["ratio"] == 1
    assert record["environment"]["clock"] == "wall"
    assert record["environment"]["threads"] == 1
