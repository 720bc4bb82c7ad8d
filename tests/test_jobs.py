import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import job_functions
import pytest
import torch

from pyrozoo.experiments.jobs import JobError, run_jobs

JOBS = {f"ssmtl-seed={seed}": {"a": seed, "b": 1} for seed in range(3)}


def run(function, jobs, out, **options):
    return run_jobs(function, jobs, out, progress=False, **options)


def test_a_folder_that_cannot_be_made_is_found_before_any_job_runs(tmp_path):
    (tmp_path / "out").touch()
    jobs = {"a": {"a": 1, "b": 2, "log": str(tmp_path / "log")}}
    with pytest.raises(NotADirectoryError, match="out is a file; choose another folder"):
        run(job_functions.log_and_add, jobs, tmp_path / "out")
    assert not (tmp_path / "log").exists()


def test_results_and_files(tmp_path):
    results = run(job_functions.add, JOBS, tmp_path / "new" / "folder")
    assert results == {"ssmtl-seed=0": {"sum": 1}, "ssmtl-seed=1": {"sum": 2}, "ssmtl-seed=2": {"sum": 3}}
    assert list(results) == list(JOBS)
    record = json.loads((tmp_path / "new" / "folder" / "ssmtl-seed=2.json").read_text())
    assert record.pop("seconds") >= 0
    assert record == {
        "job": "ssmtl-seed=2",
        "function": "job_functions:add",
        "arguments": {"a": 2, "b": 1},
        "result": {"sum": 3},
    }
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 3


def test_no_jobs(tmp_path):
    assert run(job_functions.add, {}, tmp_path) == {}


def test_finished_jobs_are_never_redone(tmp_path):
    log = tmp_path / "log"
    jobs = {name: {**arguments, "log": str(log)} for name, arguments in JOBS.items()}
    first = run(job_functions.log_and_add, dict(list(jobs.items())[:2]), tmp_path / "out")
    both = run(job_functions.log_and_add, jobs, tmp_path / "out")
    again = run(job_functions.log_and_add, jobs, tmp_path / "out", n_jobs=2)
    assert log.read_text() == "0+1\n1+1\n2+1\n"
    assert both == again
    assert first.items() <= both.items()


def test_results_do_not_depend_on_n_jobs(tmp_path):
    threads = torch.get_num_threads()
    jobs = {f"seed{seed}": {"seed": seed} for seed in range(4)}
    torch.set_num_threads(2)
    try:
        one = run(job_functions.product_of_matrices, jobs, tmp_path / "one", n_jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    two = run(job_functions.product_of_matrices, jobs, tmp_path / "two", n_jobs=2)
    assert one == two
    assert {result["threads"] for result in one.values()} == {1}


def test_a_killed_worker_loses_nothing(tmp_path, capfd):
    jobs = {f"job{index}": {"index": index, "flag": str(tmp_path / "killed")} for index in range(6)}
    results = run(job_functions.die_once, jobs, tmp_path / "out", n_jobs=2)
    assert (tmp_path / "killed").exists()
    assert results == {f"job{index}": {"index": index} for index in range(6)}
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert "A worker process was killed: starting" in capfd.readouterr().err


def test_killed_too_often(tmp_path):
    jobs = {"good": {"a": 1, "b": 1}}
    run(job_functions.add, jobs, tmp_path)
    with pytest.raises(BrokenExecutor):
        run(job_functions.die_always, {"a": {"index": 0}, "b": {"index": 1}}, tmp_path, n_jobs=2, retries=1)
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failing_job_does_not_stop_the_others(tmp_path, n_jobs):
    jobs = {f"job{index}": {"index": index} for index in range(5)}
    with pytest.raises(JobError, match=r"(?s)2 failed.*ArithmeticError: . is odd") as caught:
        run(job_functions.fail_on_odd, jobs, tmp_path, n_jobs=n_jobs)
    assert caught.value.failures == {"job1": "ArithmeticError: 1 is odd", "job3": "ArithmeticError: 3 is odd"}
    assert "in fail_on_odd" in str(caught.value.__cause__)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["job0", "job2", "job4"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (job_functions.leave, "SystemExit: 3"),
        (job_functions.return_object, r"TypeError: result\['object'\] is a object"),
        (job_functions.return_list, "TypeError: a job returns a dict, not a list"),
    ],
)
def test_other_ways_to_fail(tmp_path, function, message):
    with pytest.raises(JobError, match=message):
        run(function, {"job": {"index": 0}}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_not_finite_numbers_become_null(tmp_path):
    jobs = {"job": {"index": 0}}
    expected = {"job": {"loss": None, "values": [1.0, None]}}
    assert run(job_functions.return_not_finite, jobs, tmp_path) == expected
    assert run(job_functions.return_not_finite, jobs, tmp_path) == expected


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (job_functions.add, {"a": 0, "b": 2}, "another arguments"),
        (job_functions.log_and_add, {"a": 0, "b": 1}, "another function"),
    ],
)
def test_a_changed_job_is_refused(tmp_path, function, arguments, message):
    run(job_functions.add, {"job": {"a": 0, "b": 1}}, tmp_path)
    with pytest.raises(ValueError, match=rf"job\.json has {message}.*delete it or choose another folder"):
        run(function, {"new": {"a": 5, "b": 5}, "job": arguments}, tmp_path)
    assert not (tmp_path / "new.json").exists(), "nothing is run before everything is checked"


@pytest.mark.parametrize("content", ['{"job": "ssmtl-se', "", "[]", '{"loss": 3}', "\x80"])
def test_a_truncated_or_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "job.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"job\.json is .*delete it or choose another folder"):
        run(job_functions.add, {"job": {"a": 0, "b": 1}}, tmp_path)
    assert path.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", ".hidden", "a b", "a\n", "-rf", "x" * 201, 3])
def test_bad_names(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a job"):
        run(job_functions.add, {name: {"a": 0, "b": 1}}, tmp_path)


def test_names_that_differ_by_case(tmp_path):
    with pytest.raises(ValueError, match="differ only by case"):
        run(job_functions.add, {"MTL": {"a": 0, "b": 1}, "mtl": {"a": 0, "b": 1}}, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), object(), torch.zeros(1)])
def test_arguments_without_a_json_form(tmp_path, value):
    with pytest.raises(TypeError, match="arguments of job 'job' have no JSON form"):
        run(job_functions.add, {"job": {"a": value, "b": 1}}, tmp_path)


@pytest.mark.parametrize("function", [lambda a, b: {}, run_jobs.__call__, print.__self__])
def test_functions_that_cannot_be_imported(tmp_path, function):
    with pytest.raises(ValueError, match="cannot be imported by name"):
        run(function, {"job": {"a": 0, "b": 1}}, tmp_path)


def test_progress_bar_on_stderr(tmp_path, capfd):
    run_jobs(job_functions.add, dict(list(JOBS.items())[:1]), tmp_path)
    run_jobs(job_functions.add, JOBS, tmp_path)
    captured = capfd.readouterr()
    assert "3/3" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupt_keeps_finished_files(tmp_path, n_jobs):
    code = (
        "import job_functions; from pyrozoo.experiments.jobs import run_jobs; from pathlib import Path; import sys\n"
        "jobs = {f'job{index}': {'index': index} for index in range(4)}\n"
        f"run_jobs(job_functions.sleep_long, jobs, Path({str(tmp_path)!r}), n_jobs={n_jobs})"
    )
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "job0.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["job0.json"]


def test_a_fit_that_is_interrupted_in_a_job_ends_the_run_and_leaves_no_result(tmp_path):
    assert job_functions.interrupted_fit() == {"status": "interrupted"}
    with pytest.raises(KeyboardInterrupt):
        run(job_functions.interrupted_fit, {"a": {}, "b": {}}, tmp_path)
    assert not list(tmp_path.glob("[ab].json"))
    assert job_functions.interrupted_fit() == {"status": "interrupted"}
