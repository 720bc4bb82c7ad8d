import dataclasses
from types import SimpleNamespace

import entry_broken as broken
import entry_mixture
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrozoo as zoo
from pyrozoo import contract
from pyrozoo.modeling.causes import likely_cause


@pytest.fixture
def check():
    """Checks clauses on the toy mixture with another model, and returns the messages of those that fail."""

    def run(model, *codes):
        card = dataclasses.replace(entry_mixture.CARD, name="mistaken")
        zoo.register(card, SimpleNamespace(**{**vars(entry_mixture), "VARIANTS": {next(iter(card.variants)): model}}))
        return {
            result.code: result.message for result in contract.check("mistaken", only=codes, fast=True) if not result.ok
        }

    yield run
    zoo.unregister("mistaken")


def test_a_site_that_does_not_broadcast_is_named_with_its_shape(check):
    messages = check(broken.Reshaped, "C13", "C14")
    assert set(messages) == {"C13", "C14"}
    for message in messages.values():
        assert "Trace Shapes" not in message
        assert "site 'y' (batch shape (" in message
        assert "with all values of " in message
        assert "forward must broadcast over dimensions left of the plates" in message


def test_a_site_with_wrong_numbers_for_several_values(check):
    message = check(broken.FirstClass, "C14")["C14"]
    assert "over 16 assignments one by one" in message
    assert "the density of site 'y' (batch shape (14,), event shape ()) with all values of ['k'] at once" in message


def test_rows_that_depend_on_one_another(check):
    message = check(broken.CrossedRows, "C14")["C14"]
    assert "the density of site 'y' (batch shape (14,), event shape ()) in one row depends on 'k' of another" in message


def test_a_density_that_depends_on_the_random_state(check):
    message = check(broken.RandomDensity, "C13")["C13"]
    assert "the density of site 'y' (batch shape (2,), event shape ()) changes from call to call" in message


def test_a_card_with_a_mistake_is_no_mistake_of_the_model(check, monkeypatch):
    monkeypatch.setattr(contract.inference, "N_DRAWS", 1)
    facts = entry_mixture.CARD.sites
    variant = next(iter(facts))
    wrong = {variant: facts[variant] | {"b": dataclasses.replace(facts[variant]["b"], plates=("row",))}}
    monkeypatch.setattr(entry_mixture, "CARD", dataclasses.replace(entry_mixture.CARD, sites=wrong))
    message = check(entry_mixture.Mixture, "C13")["C13"]
    assert "posterior/b has dims" in message
    assert "likely cause" not in message


# ---------------------------------------------------------------- states in pyro.markov, many draws at once
class Chain(zoo.ZooModel):
    """Four binary states per row; each emission reads the state so many steps back."""

    plate_dims = {"row": -1}
    targets = ()
    enumerated = ("z0", "z1", "z2", "z3")

    def __init__(self, back=0, history=1, centre=False, priors=None):
        super().__init__()
        self.back, self.history, self.centre = back, history, centre
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(torch.zeros(2), 1.0).to_event(1)}

    def forward(self, x, sizes, row=None, **_):
        m = pyro.sample("m", self.prior("m"))
        m = m - m.mean() if self.centre else m
        with self.plate("row", sizes=sizes, row=row):
            states = []
            for t in pyro.markov(range(4), history=self.history):
                stay = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
                probs = stay[states[-1]] if states else stay[0]
                states.append(pyro.sample(f"z{t}", dist.Categorical(probs), infer={"enumerate": "parallel"}))
                z = states[max(0, t - self.back)]
                mean = torch.where(z == 0, m[..., 0], m[..., 1])
                pyro.sample(f"x{t}", dist.Normal(mean, 1.0), obs=x[:, t])


class Point(zoo.ZooGuide):
    def forward(self, **_):
        pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({}, ""),
        ({"back": 2, "history": 3}, ""),
        ({"back": 2}, "'z0', which is out of scope there: pyro.markov keeps only the steps of its history"),
        (
            {"centre": True},
            "'x0' (batch shape (5,), event shape ()) for two draws at once (particles), of shape (2, 5)",
        ),
    ],
)
def test_states_of_a_markov_chain(options, cause):
    torch.manual_seed(0)
    data = zoo.Batch.from_arrays(rows={"x": torch.randn(5, 4)}, name="chain", simulated=True)
    model = Chain(**options)
    with torch.no_grad():
        found = likely_cause(model, Point(model), data)
    assert cause in found
    assert bool(found) == bool(cause)
