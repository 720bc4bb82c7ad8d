"""Many fits as named jobs: models x folds x seeds, in this process, in worker processes or on a cluster.

A job is a name and the JSON keyword arguments of one importable function. Each finished job leaves one JSON file, so a
run that was interrupted, or lost a worker, goes on where it stopped.
"""

import importlib
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from .files import atomic_write_json, jsonable, read_json_object

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+,@-]{0,199}")
_FIELDS = {"job", "function", "arguments", "result", "seconds"}


class JobError(RuntimeError):
    """Some jobs failed; all others are finished and their files written.

    Attributes:
        failures: The message of each failed job, by its name.
    """

    def __init__(self, failures: dict[str, str]):
        self.failures = failures
        lines = [f"  {name}: {message}" for name, message in failures.items()]
        super().__init__(f"{len(failures)} failed job(s); the others are finished and kept:\n" + "\n".join(lines))


class _JobTraceback(Exception):
    """The traceback of a job as text, which travels between processes where the exception itself may not."""

    def __str__(self) -> str:
        return "\n" + self.args[0]


def run_jobs(
    function: Callable[..., dict[str, Any]],
    jobs: Mapping[str, Mapping[str, Any]],
    out: Path,
    n_jobs: int | None = None,
    retries: int = 2,
    progress: bool = True,
    backend: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs `function(**arguments)` for each job that has no result yet, and returns all results.

    A finished job leaves `<out>/<name>.json`, written at once and atomically, and a later call does not run it again.
    Every job runs with one thread, so that its result does not depend on `n_jobs`; its random numbers must come from a
    seed among its arguments.

    Args:
        function: At the top level of an importable module; returns a dict with a JSON form (see `files.jsonable`).
        jobs: The JSON keyword arguments of each job, by the job's name, which becomes a file name.
        out: The folder of the result files; made if missing.
        n_jobs: The number of worker processes; 1 runs the jobs in this process. None means 1, or what an active
            `joblib.parallel_config` says.
        retries: How often the jobs that a killed worker took along are started again.
        progress: Whether to show the number of finished jobs and the time left on standard error.
        backend: A joblib backend. None means "loky", or that of an active `joblib.parallel_config(backend="dask")`,
            which runs the jobs on a cluster.

    Returns:
        The result of each job, in the order of `jobs`, in JSON's types: the same whether it was run now or earlier.

    Raises:
        TypeError: The arguments of a job have no JSON form. Nothing has been run.
        ValueError: `function` is not importable by its name, a job's name is no plain file name, or a result file is
            truncated, foreign, or of a job with other arguments. Nothing has been run.
        JobError: Jobs raised exceptions. The traceback of the first of them is the cause.
        concurrent.futures.BrokenExecutor: Workers were killed more than `retries` times. Finished jobs are kept.
    """
    identities = _identify(function, jobs)
    paths = {name: Path(out) / f"{name}.json" for name in jobs}
    results = {name: _read_result(paths[name], identities[name]) for name in jobs if paths[name].exists()}
    arguments = {name: identities[name]["arguments"] for name in jobs if name not in results}
    failed = {}
    with tqdm(total=len(jobs), initial=len(results), desc="jobs", unit="job", disable=not progress) as bar:
        for outcome in _outcomes(function, arguments, n_jobs, retries, backend):
            name = outcome.pop("job")
            if "error" in outcome:
                failed[name] = outcome
            else:
                atomic_write_json(paths[name], {**identities[name], **outcome})
                results[name] = outcome["result"]
            bar.update()
    if failed:
        first = next(iter(failed.values()))
        raise JobError({name: failed[name]["error"] for name in jobs if name in failed}) from _JobTraceback(
            first["traceback"]
        )
    return {name: results[name] for name in jobs}


def _outcomes(
    function: Callable, arguments: dict[str, dict[str, Any]], n_jobs: int | None, retries: int, backend: str | None
) -> Iterator[dict[str, Any]]:
    """Yields what `_run_one` returns for each job, as the jobs end.

    When a worker process is killed (out of memory, for instance), joblib drops all jobs in flight and those not
    started: they are started again.
    """
    missing = dict(arguments)
    for attempt in range(retries + 1):
        # With batch_size="auto" a killed worker would also take the finished jobs of its batch along.
        parallel = Parallel(n_jobs=n_jobs, backend=backend, batch_size=1, return_as="generator_unordered")
        try:
            for outcome in parallel([delayed(_run_one)(function, name, missing[name]) for name in missing]):
                del missing[outcome["job"]]
                yield outcome
            return
        except BrokenExecutor:
            if attempt == retries:
                raise
            tqdm.write(f"A worker process was killed: starting {len(missing)} job(s) again.", file=sys.stderr)


def _identify(function: Callable, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns what a result file says about each job before it has a result, after checking the names."""
    function_name = _function_name(function)
    seen: dict[str, str] = {}
    identities = {}
    for name, arguments in jobs.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name a job, since it names a file: use up to 200 letters, digits and . _ = + , @ -, "
                "and begin with a letter or digit"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"the job names {other!r} and {name!r} differ only by case: not so on every file system")
        try:
            text = json.dumps(dict(arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the arguments of job {name!r} have no JSON form: {error}") from error
        # Through JSON and back, so that the job gets exactly what its file says it got.
        identities[name] = {"job": name, "function": function_name, "arguments": json.loads(text)}
    return identities


def _function_name(function: Callable) -> str:
    """Returns "module:name" of a function that worker processes can import, and refuses any other."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if module and name and module != "__main__":
        found = importlib.import_module(module)
        if getattr(found, name, None) is function:
            return f"{module}:{name}"
    raise ValueError(
        f"{function!r} cannot be imported by name: jobs need a function at the top level of a module, "
        "not of a script or notebook"
    )


def _read_result(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Returns the result in a job's file if it is of this very job."""
    remedy = "delete it or choose another folder"
    try:
        record = read_json_object(path, "the result of a job")
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    if set(record) != _FIELDS or not isinstance(record["result"], dict):
        raise ValueError(f"{path} is not the result of a job; {remedy}")
    for field, expected in identity.items():
        if record[field] != expected:
            raise ValueError(f"{path} has another {field}: {record[field]!r} instead of {expected!r}; {remedy}")
    return record["result"]


def _run_one(function: Callable[..., dict[str, Any]], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs one job, in whatever process; its exception is returned as text so that it stops no other job."""
    start = time.perf_counter()
    try:
        with _one_thread():
            result = function(**arguments)
        if not isinstance(result, dict):
            raise TypeError(f"a job returns a dict, not a {type(result).__name__}")
        return {"job": name, "result": jsonable(result, "result"), "seconds": time.perf_counter() - start}
    except (Exception, SystemExit) as error:
        return {"job": name, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits the numerical libraries to one thread: sums over threads depend on their number in the last bits."""
    import torch  # here, because the command line imports this module and must answer quickly

    before = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
