"""What all tests share: one torch thread, since tiny models on shared cores are many times slower with more."""

import gc

import pytest
import torch

from pyrozoo.inference import covariances
from pyrozoo.inference.copies import default_dtype

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leave out of every garbage collection what stays until the end, modules and tests, and collect less often."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # a trace has thousands: the default takes 3 % of the time


def pytest_collection_modifyitems(items):
    """Benchmarks of decoders come last: by then a worker has compiled what two would compile at once, half a minute."""
    items.sort(key=lambda item: item.path.name == "test_benchmarks_decode.py")


@pytest.fixture(scope="module")
def double_precision():
    """Torch's default floating type is double within the module, where exactness is tested."""
    with default_dtype(torch.float64):
        yield


@pytest.fixture(scope="module")
def short_searches():
    """A tenth of the steps in which label processes search their hyperparameters: for tests that look at neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariances, "STEPS", 10)
        yield
