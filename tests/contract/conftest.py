import entry_events
import entry_mixture
import pytest

import pyrozoo

TOYS = (entry_mixture, entry_events)


@pytest.fixture(scope="module")
def toys():
    """The two toy entries, registered as third-party code registers them."""
    for module in TOYS:
        pyrozoo.register(module.CARD, module.__name__)
    yield
    for module in TOYS:
        pyrozoo.unregister(module.CARD.name)
