"""Jobs on a cluster: what differs from jobs on this machine (test_jobs has the rest)."""

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from types import SimpleNamespace

import job_functions
import pytest

import pyrozoo as zoo
from pyrozoo.cli import main
from pyrozoo.experiments import jobs as jobs_module
from pyrozoo.experiments.jobs import JobError, on_cluster, run_jobs
from pyrozoo.experiments.running import Outcome

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two processes, whose scheduler gives a job up at the second killed worker."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as local,
    ):
        yield local.scheduler_address


def run(function, jobs, out, **options):
    return run_jobs(function, jobs, out, progress=False, **options)


def indexed(number, **arguments):
    return {f"job{index}": {"index": index, **arguments} for index in range(number)}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_results_are_those_of_this_process(cluster, tmp_path):
    jobs = {f"seed{seed}": {"seed": seed} for seed in range(4)}
    there = run(job_functions.product_of_matrices, jobs, tmp_path / "there", cluster=cluster)
    assert there == run(job_functions.product_of_matrices, jobs, tmp_path / "here")
    assert {result["threads"] for result in there.values()} == {1}
    assert files(tmp_path / "there") == [f"seed{seed}.json" for seed in range(4)]


def test_all_workers_are_used_whatever_n_jobs(cluster, tmp_path):
    with on_cluster(cluster):
        results = run(job_functions.process, indexed(4), tmp_path, n_jobs=1)
    assert len({result["process"] for result in results.values()} - {os.getpid()}) == 2
    here = run(job_functions.process, {"here": {"index": 0}}, tmp_path)
    assert here == {"here": {"process": os.getpid()}}, "the context has ended"


def test_finished_jobs_need_no_cluster(tmp_path):
    first = run(job_functions.process, indexed(1), tmp_path)
    assert run(job_functions.process, indexed(1), tmp_path, cluster="tcp://127.0.0.1:9") == first


# Killed workers take seconds to be there again, so these two tests kill as few as show it all, and only the second runs
# by default.
@pytest.mark.slow
def test_a_killed_worker_loses_nothing(cluster, tmp_path, capfd):
    log = tmp_path / "log"
    jobs = indexed(6, log=str(log), times=2)
    results = run(job_functions.log_and_die, jobs, tmp_path / "out", cluster=cluster, retries=1)
    assert results == {f"job{index}": {"index": index} for index in range(6)}
    assert sorted(log.read_text().split()) == ["0", "1", "2", "2", "2", "3", "4", "5"], "finished jobs are not redone"
    assert files(tmp_path / "out") == [f"job{index}.json" for index in range(6)]
    # The scheduler started the job again after the first kill and gave it up after the second.
    assert capfd.readouterr().err.count("A worker process was killed: starting") == 1


def test_killed_too_often(cluster, tmp_path):
    log = tmp_path / "log"
    jobs = indexed(4, log=str(log), times=2)
    with pytest.raises(BrokenExecutor, match=r"every worker that ran them was killed.*: job2"):
        run(job_functions.log_and_die, jobs, tmp_path / "out", cluster=cluster, retries=0)
    assert files(tmp_path / "out") == ["job0.json", "job1.json", "job3.json"], "the others have ended all the same"
    assert len(run(job_functions.log_and_die, jobs, tmp_path / "out", cluster=cluster, retries=0)) == 4
    assert sorted(log.read_text().split()) == ["0", "1", "2", "2", "2", "3"]


def test_a_failing_job_does_not_stop_the_others(cluster, tmp_path):
    with pytest.raises(JobError, match=r"(?s)2 failed.*ArithmeticError: . is odd") as caught:
        run(job_functions.fail_on_odd, indexed(5), tmp_path, cluster=cluster)
    assert "in fail_on_odd" in str(caught.value.__cause__)
    assert files(tmp_path) == ["job0.json", "job2.json", "job4.json"]


def test_a_function_that_the_workers_cannot_import(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def job(index):\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(JobError, match=r"2 failed.*\n.*only_here"):
        run(only_here.job, indexed(2), tmp_path / "out", cluster=cluster)


def test_stop_and_continue(cluster, tmp_path):
    log, flag, out = tmp_path / "log", tmp_path / "flag", tmp_path / "out"
    jobs = indexed(5, log=str(log), flag=str(flag))

    def interrupt():
        deadline = time.monotonic() + 20
        while not (out / "job0.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(job_functions.log_and_wait, jobs, out, cluster=cluster)
    thread.join()
    assert files(out) == ["job0.json"]
    flag.touch()
    results = run(job_functions.log_and_wait, jobs, out, cluster=cluster)
    assert results == {f"job{index}": {"index": index} for index in range(5)}
    assert log.read_text().split().count("0") == 1


def test_the_command_line(cluster, tmp_path, capsys):
    found = {}

    def experiment(out, profile="quick", jobs=1):
        found.update(run(job_functions.process, indexed(2), out, n_jobs=jobs))
        return Outcome([{"model": "stub"}], {"name": "none", "sha256": "0" * 64, "simulated": True}, [0])

    zoo.register(replace(zoo.card("ssmtl"), name="stub"), SimpleNamespace(EXPERIMENTS={"table1": experiment}))
    try:
        assert main(["reproduce", "stub", "table1", "--cluster", cluster, "--out", str(tmp_path)]) == 0
    finally:
        zoo.unregister("stub")
    assert os.getpid() not in {result["process"] for result in found.values()}
    assert files(tmp_path) == ["job0.json", "job1.json", "record.json", "table.csv"]


# -------------------------------------------------------------------- what is refused before anything is run
def test_workers_with_several_threads(tmp_path):
    options = {"processes": False, "protocol": "tcp://", "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as local,
        pytest.raises(ValueError, match=r"has 2 threads.*start workers with one thread each"),
    ):
        run(job_functions.process, indexed(1), tmp_path, cluster=local.scheduler_address)
    assert files(tmp_path) == []


def test_a_worker_is_no_scheduler(cluster, tmp_path):
    with distributed.Client(cluster, set_as_default=False) as client:
        worker = next(iter(client.nthreads()))
    with pytest.raises(ConnectionError, match=r"no dask scheduler answers at 'tcp:.*', but a dask worker"):
        run(job_functions.process, indexed(1), tmp_path, cluster=worker)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1", "http://127.0.0.1:8787", "", "silent"])
def test_no_answer(tmp_path, monkeypatch, address):
    monkeypatch.setattr(jobs_module, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if address == "silent":
            address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no dask scheduler answers at '{address}'"):
            run(job_functions.process, indexed(1), tmp_path, cluster=address)


def test_missing_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'pyrozoo\[cluster\]'"):
        run(job_functions.process, indexed(1), tmp_path, cluster="tcp://127.0.0.1:9")
    assert main(["reproduce", "ssmtl", "table1", "--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path)]) == 2
