"""Job functions for test_jobs, in a module of their own so that worker processes can import them."""

import os
import signal
import time
from pathlib import Path

import torch


def add(a, b):
    return {"sum": a + b}


def log_and_add(a, b, log):
    """Appends one line per run, by which a test counts the runs."""
    with open(log, "a") as file:
        file.write(f"{a}+{b}\n")
    return {"sum": a + b}


def product_of_matrices(seed):
    """Depends on the number of threads in its last bits when more than one is allowed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 400, generator=generator)
    return {"trace": (x @ x @ x).diagonal().sum().item(), "threads": torch.get_num_threads()}


def die_once(index, flag):
    """The job with index 2 kills its own process the first time."""
    if index == 2 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"index": index}


def die_always(index):
    os.kill(os.getpid(), signal.SIGKILL)


def fail_on_odd(index):
    if index % 2:
        raise ArithmeticError(f"{index} is odd")
    return {"index": index}


def leave(index):
    raise SystemExit(3)


def return_not_finite(index):
    return {"loss": float("nan"), "values": (1.0, float("inf"))}


def return_object(index):
    return {"object": object()}


def return_list(index):
    return [index]


def sleep_long(index):
    time.sleep(0 if index == 0 else 60)
    return {"index": index}


def process(index):
    time.sleep(0.2)
    return {"process": os.getpid()}


def log_and_die(index, log, times):
    """Logs each run; job 2 kills its own process the first `times` times."""
    with open(log, "a") as file:
        file.write(f"{index}\n")
    if index == 2 and Path(log).read_text().split().count("2") <= times:
        time.sleep(0.5)  # the results of jobs that this process finished are under way
        os.kill(os.getpid(), signal.SIGKILL)
    return {"index": index}


def log_and_wait(index, log, flag):
    """All but job 0 end only when the flag is there."""
    with open(log, "a") as file:
        file.write(f"{index}\n")
    deadline = time.monotonic() + 30
    while index and not Path(flag).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return {"index": index}


def interrupted_fit():
    """A fit that is interrupted after its second epoch, as by Ctrl-C."""
    import pyrozoo as zoo
    from pyrozoo.models.ssmtl import simulate

    def interrupt(row):
        if row["epoch"] >= 2:
            raise KeyboardInterrupt

    train, _ = simulate(n_units=2, n_labelled=2, n_unlabelled=0, n_test=1)
    model = zoo.create_model("ssmtl", train, c_dim=1, z_dim=1, width=2)
    fit = zoo.fit(model, "paper", train, steps=50, progress=False, callback=interrupt)
    return {"status": fit.status}
