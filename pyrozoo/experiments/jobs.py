"""Many fits as named jobs: models x folds x seeds, in this process, in worker processes or on a cluster.

A job has a name and JSON keyword arguments for one importable function. Each finished job leaves one JSON file, so that
a run that was interrupted, or lost a worker, goes on where it stopped.
"""

import asyncio
import importlib
import json
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from ..files import atomic_write_json, check_target, jsonable, read_json_object

if TYPE_CHECKING:
    from distributed import Client

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+,@-]{0,199}")
_FIELDS = {"job", "function", "arguments", "result", "seconds"}
_ANSWER_SECONDS = 10.0
# The threads of a dask worker share torch's and NumPy's global random state, so they must not run two jobs at a time.
_ALONE = threading.RLock()
_CLUSTER: ContextVar["Client | None"] = ContextVar("cluster", default=None)


class JobError(RuntimeError):
    """Some jobs failed; all others are finished and their files written.

    Attributes:
        failures: Message of each failed job, by its name.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> jobs = {"good": {"scores": [1.0, 2.0, 3.0]}, "empty": {"scores": []}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         zoo.run_jobs(zoo.scores.summarise, jobs, folder, progress=False)
        ...     except zoo.JobError as error:
        ...         print(error.failures)
        {'empty': 'ValueError: scores is empty'}
    """

    def __init__(self, failures: dict[str, str]):
        self.failures = failures
        lines = [f"  {name}: {message}" for name, message in failures.items()]
        super().__init__(f"{len(failures)} failed job(s); the others are finished and kept:\n" + "\n".join(lines))


class _JobTraceback(Exception):
    """Traceback of a job as text, which can be sent between processes when the exception itself cannot."""

    def __str__(self) -> str:
        return "\n" + self.args[0]


def run_jobs(
    function: Callable[..., dict[str, Any]],
    jobs: Mapping[str, Mapping[str, Any]],
    out: Path,
    n_jobs: int = 1,
    cluster: str | None = None,
    retries: int = 2,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Run `function(**arguments)` for each job that has no result yet, and return all results.

    A finished job leaves `<out>/<name>.json`, written at once and atomically, and a later call does not run it again.
    Every job runs with one thread, so that its result does not depend on `n_jobs`; its random numbers must come from a
    seed among its arguments.

    On a cluster the results come back over the network and are written by this process, so the workers need no access
    to `out`. They must be able to import `function` and pyrozoo, with the same versions of the packages as here and of
    dask as the scheduler; all of them need access to the files that `function` itself reads or writes. If a run is
    stopped, the jobs that are running end on their workers, and their results are lost.

    Args:
        function: Function at the top level of an importable module; it returns a dict that JSON can hold.
        jobs: JSON keyword arguments of each job, by the job's name, which becomes a file name.
        out: Folder of the result files; made if missing.
        n_jobs: Number of worker processes on this machine; 1 runs the jobs in this process. It has no effect on a
            cluster, where every worker is used.
        cluster: Address of a dask scheduler, such as "tcp://10.0.0.5:8786", whose workers run the jobs. None for the
            cluster of an enclosing `on_cluster`, or else this machine.
        retries: Number of times to start again the jobs that were lost with a killed worker. Before that, a cluster's
            scheduler starts each of them several times by itself (`distributed.scheduler.allowed-failures`, 3 more
            times by default), while it goes on with the others.
        progress: Whether to show the number of finished jobs and the time left on standard error.

    Returns:
        Result of each job, in the order of `jobs`, in JSON's types: the same whether it was run now or earlier.

    Raises:
        TypeError: The arguments of a job have no JSON form. Nothing has been run.
        ValueError: `function` is not importable by its name, a job's name is no plain file name, a result file is
            truncated, foreign, or of a job with other arguments, or a worker of the cluster has several threads.
            Nothing has been run.
        OSError: `out` is a file, or may not be made or written to. Nothing has been run.
        ImportError: The cluster needs packages that are not installed. Nothing has been run.
        ConnectionError: No scheduler answers at the address. Nothing has been run. Or the connection to it was lost:
            finished jobs are kept.
        JobError: Jobs raised exceptions, or cannot be imported on the cluster. The traceback of the first of them is
            the cause.
        concurrent.futures.BrokenExecutor: Workers were killed more than `retries` times. Finished jobs are kept.

    Example:
        >>> import tempfile
        >>> import pyrozoo as zoo
        >>> jobs = {"seed-0": {"scores": [1.0, 2.0, 3.0]}, "seed-1": {"scores": [4.0, 5.0]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = zoo.run_jobs(zoo.scores.summarise, jobs, folder, progress=False)
        >>> {name: result["mean"] for name, result in results.items()}
        {'seed-0': 2.0, 'seed-1': 4.5}
    """
    identities = _identify(function, jobs)
    paths = {name: Path(out) / f"{name}.json" for name in jobs}
    for path in [*paths.values()][:1]:
        check_target(path)
    results = {name: _read_result(paths[name], identities[name]) for name in jobs if paths[name].exists()}
    arguments = {name: identities[name]["arguments"] for name in jobs if name not in results}
    failed = {}
    with (
        tqdm(total=len(jobs), initial=len(results), desc="jobs", unit="job", disable=not progress) as bar,
        closing(_outcomes(function, arguments, n_jobs, cluster, retries)) as outcomes,
    ):
        for outcome in outcomes:
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


@contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """Make every `run_jobs` within the context run on a cluster, whatever its `n_jobs`.

    Args:
        address: Address of a dask scheduler, such as "tcp://10.0.0.5:8786"; see `run_jobs`.

    Raises:
        ImportError: The packages for a cluster (``pip install 'pyrozoo[cluster]'``) are not installed.
        ConnectionError: No scheduler answers at the address.

    Example:
        A small cluster within this process stands for a real one:

        >>> import tempfile
        >>> from distributed import LocalCluster
        >>> import pyrozoo as zoo
        >>> jobs = {"seed-0": {"scores": [1.0, 2.0, 3.0]}, "seed-1": {"scores": [4.0, 5.0]}}
        >>> small = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
        >>> with LocalCluster(**small) as cluster, tempfile.TemporaryDirectory() as folder:
        ...     with zoo.on_cluster(cluster.scheduler_address):
        ...         results = zoo.run_jobs(zoo.scores.summarise, jobs, folder, progress=False)
        >>> sorted(results)
        ['seed-0', 'seed-1']
    """
    with _connected(address) as client:
        token = _CLUSTER.set(client)
        try:
            yield
        finally:
            _CLUSTER.reset(token)


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    """Connect to a dask scheduler, or raise within seconds an error that says why not."""
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            "a cluster needs the packages dask and distributed: pip install 'pyrozoo[cluster]'"
        ) from error

    async def identity() -> dict[str, Any]:
        connection = distributed.Security().get_connection_args("client")
        async with distributed.rpc(address, timeout=_ANSWER_SECONDS, connection_args=connection) as scheduler:
            return await asyncio.wait_for(scheduler.identity(), _ANSWER_SECONDS)

    # Asked first, because a Client that fails to connect may hang, now or when it is collected. In a thread, because a
    # notebook has an event loop in this one.
    try:
        with ThreadPoolExecutor(1) as thread:
            kind = thread.submit(asyncio.run, identity()).result()["type"]
    except Exception as error:  # of any kind, where something else than dask answers
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ConnectionError(f"no dask scheduler answers at {address!r} ({reason})") from error
    if kind != "Scheduler":
        raise ConnectionError(f"no dask scheduler answers at {address!r}, but a dask {kind.lower()}")
    with distributed.Client(address, timeout=_ANSWER_SECONDS, set_as_default=False) as client:
        yield client


def _outcomes(
    function: Callable, arguments: dict[str, dict[str, Any]], n_jobs: int, cluster: str | None, retries: int
) -> Generator[dict[str, Any], None, None]:
    """Yield the result of `_run_one` for each job as it ends; start jobs again that were lost with a killed worker."""
    missing = dict(arguments)
    with _connected(cluster) if cluster is not None and missing else nullcontext(_CLUSTER.get()) as client:
        for attempt in range(retries + 1):
            try:
                attempted = _on_machine(function, missing, n_jobs) if client is None else _on(client, function, missing)
                for outcome in attempted:
                    del missing[outcome["job"]]
                    yield outcome
                return
            except BrokenExecutor:
                if attempt == retries:
                    raise
                tqdm.write(f"A worker process was killed: starting {len(missing)} job(s) again.", file=sys.stderr)


def _on_machine(function: Callable, arguments: dict[str, dict[str, Any]], n_jobs: int) -> Iterator[dict[str, Any]]:
    """Run jobs on this machine; with a killed worker process, all running and waiting jobs are lost."""
    # With batch_size="auto" the finished jobs of a killed worker's batch would be lost, too.
    parallel = Parallel(n_jobs=n_jobs, backend="loky", batch_size=1, return_as="generator_unordered")
    yield from parallel([delayed(_run_one)(function, name, arguments[name]) for name in arguments])


def _on(client: "Client", function: Callable, arguments: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run jobs on a cluster; raise for jobs whose workers are always killed, but only after the others have ended.

    joblib's own dask backend cannot do this: it waits forever for a job whose workers were killed.
    """
    from distributed import KilledWorker, as_completed

    threads = client.nthreads()
    if several := sorted(address for address, number in threads.items() if number > 1):
        raise ValueError(
            f"the worker {several[0]} of the cluster has {threads[several[0]]} threads, and jobs share no process: "
            "start workers with one thread each (dask worker --nthreads 1 --nworkers N)"
        )
    if not threads:
        tqdm.write("The cluster has no workers yet: waiting.", file=sys.stderr)

    def run_there(function_name: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        # A local function is sent by value: a worker that cannot import what it is sent would fail without an answer.
        import importlib

        module, _, attribute = function_name.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        return importlib.import_module("pyrozoo.experiments.jobs")._run_one(found, name, arguments)

    # New keys for each run: under an old key the scheduler would return the outcome of the earlier, stopped run.
    run = uuid.uuid4().hex
    waiting = {}
    for position, (name, given) in enumerate(arguments.items()):
        options = {"key": f"{name}-{run}", "pure": False, "priority": -position}
        waiting[client.submit(run_there, _function_name(function), name, given, **options)] = name
    killed = []
    try:
        for future in as_completed(list(waiting), loop=client.loop):
            name = waiting.pop(future)
            try:
                outcome = future.result()
            except KilledWorker:
                killed.append(name)
            except CancelledError as error:
                raise ConnectionError("the connection to the cluster was lost; the finished jobs are kept") from error
            except Exception as error:  # the cluster cannot import the function, for instance
                yield {"job": name, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            else:
                # Otherwise the scheduler would run a finished job again if the worker that keeps its result is killed.
                future.release()
                yield outcome
    finally:
        if waiting:
            client.cancel(list(waiting))
    if killed:
        raise BrokenExecutor(f"every worker that ran them was killed (out of memory?): {', '.join(sorted(killed))}")


def _identify(function: Callable, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields of each job's result file except the result itself, after checking the names."""
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
        # Through JSON and back, so that the job gets exactly the arguments in its file.
        identities[name] = {"job": name, "function": function_name, "arguments": json.loads(text)}
    return identities


def _function_name(function: Callable) -> str:
    """Return "module:name" of a function that worker processes can import; raise ValueError for any other."""
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
    """Return the result in a job's file; raise ValueError if the file belongs to another job."""
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
    """Run one job in the current process; return an exception as text, so that it stops no other job."""
    from ..inference.loop import whole_fits  # here, as torch below

    try:
        with _ALONE, _one_thread(), whole_fits():
            start = time.perf_counter()
            result = function(**arguments)
            seconds = time.perf_counter() - start
        if not isinstance(result, dict):
            raise TypeError(f"a job returns a dict, not a {type(result).__name__}")
        return {"job": name, "result": jsonable(result, "result"), "seconds": seconds}
    except (Exception, SystemExit) as error:
        return {"job": name, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit the numerical libraries to one thread: the last bits of a sum depend on the number of threads."""
    import torch  # here, because the command line imports this module and must answer quickly

    before = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
