"""Plain Pyro on models and guides of the zoo: what docs/plain_pyro.md says of each entry, cell by cell."""

import math
import re
import warnings
from pathlib import Path

import pyro
import pytest
from pyro import infer, poutine
from pyro.infer import autoguide

import pyrozoo as zoo
from pyrozoo.modeling import registry

PAGE = Path(zoo.__file__).parents[1] / "docs" / "plain_pyro.md"
ENTRIES = ("ssmtl", "auxvae", "m3sense", "medication")
GUIDES = {"ssmtl": "paper", "auxvae": "paper", "m3sense": "paper", "medication": "normal"}


def made(entry):
    parts = registry.entry(entry).parts
    data, arguments = parts.tiny(0)
    known = next(iter(parts.VARIANTS.values())).__init__.__code__.co_varnames
    return zoo.create_model(entry, data, **{k: v for k, v in arguments.items() if k in known}), data


def svi(model, guide, data, loss):
    step = infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss).step
    losses = [step(**data) for _ in range(2)]  # wake-sleep has two of them
    assert all(math.isfinite(part) for own in losses for part in (own if isinstance(own, tuple) else (own,)))


def with_elbo(make, **options):
    def check(entry):
        model, data = made(entry)
        svi(
            model,
            zoo.create_guide(model, GUIDES[entry]),
            data,
            make(max_plate_nesting=model.max_plate_nesting, **options),
        )

    return check


def with_auto(kind):
    def check(entry):
        model, data = made(entry)
        svi(model, zoo.create_guide(model, kind), data, model.elbo())

    return check


def own_elbo(entry):
    model, data = made(entry)
    svi(model, zoo.create_guide(model, GUIDES[entry]), data, model.elbo())


def wake_sleep(entry):
    model, data = made(entry)
    loss = infer.ReweightedWakeSleep(max_plate_nesting=model.max_plate_nesting)
    svi(model, zoo.create_guide(model, GUIDES[entry]), data, loss)


def nuts(entry):
    model, data = made(entry)
    kernel = infer.NUTS(model, max_tree_depth=1, max_plate_nesting=model.max_plate_nesting)
    infer.MCMC(kernel, num_samples=1, warmup_steps=1, disable_progbar=True).run(**data)


def predictive(entry):
    model, data = made(entry)
    drawn = infer.Predictive(model, guide=zoo.create_guide(model, GUIDES[entry]), num_samples=2)(**data)
    assert set(model.priors()) - set(model.enumerated) <= set(drawn)


def condition_and_do(entry):
    model, data = made(entry)
    site = next(iter(model.priors()))
    value = poutine.trace(model).get_trace(**data).nodes[site]["value"] * 0 + 0.5
    held = poutine.trace(poutine.condition(model, data={site: value})).get_trace(**data)
    assert held.nodes[site]["is_observed"]
    done = poutine.trace(poutine.do(model, data={site: value})).get_trace(**data)
    assert done.nodes.keys() >= held.nodes.keys() - {site}


def rendered(entry):
    model, data = made(entry)
    relations = infer.inspect.get_model_relations(model, model_kwargs=dict(data))  # what graphviz then draws
    nodes = infer.inspect.generate_graph_specification(relations)["node_data"]
    assert set(model.priors()) <= set(nodes)


CHECKS = {
    "`SVI(..., model.elbo())`": own_elbo,
    "`Trace_ELBO`": with_elbo(infer.Trace_ELBO),
    "`TraceEnum_ELBO`": with_elbo(infer.TraceEnum_ELBO),
    "`TraceMeanField_ELBO`": with_elbo(infer.TraceMeanField_ELBO),
    "`RenyiELBO`": with_elbo(infer.RenyiELBO, num_particles=2),
    "`JitTrace_ELBO`": with_elbo(infer.JitTrace_ELBO, ignore_jit_warnings=True),
    "`ReweightedWakeSleep`": wake_sleep,
    "`AutoMultivariateNormal`": with_auto(autoguide.AutoMultivariateNormal),
    "`AutoLowRankMultivariateNormal`": with_auto(autoguide.AutoLowRankMultivariateNormal),
    "`AutoIAFNormal`": with_auto(autoguide.AutoIAFNormal),
    "`AutoStructured`": with_auto(autoguide.AutoStructured),
    "`NUTS`": nuts,
    "`Predictive`": predictive,
    "`poutine.condition`, `do`": condition_and_do,
    "`pyro.render_model`": rendered,
}


def cells():
    """(check, entry, what the page says) of every cell of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    columns = [name.strip() for name in lines[0].strip("|").split("|")][1:]
    for line in lines[2:]:
        name, *said = (cell.strip() for cell in line.strip("|").split("|"))
        yield from ((name, entry, cell) for entry, cell in zip(columns, said, strict=True))


CELLS = list(cells())


def test_the_page_has_a_cell_for_every_check_and_entry():
    assert {(name, entry) for name, entry, _ in CELLS} == {(name, entry) for name in CHECKS for entry in ENTRIES}
    assert all(re.match(r"(yes|no)\b", said) for *_, said in CELLS)


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [pytest.param(*cell, marks=[] if cell[:2] == (CELLS[0][0], "ssmtl") else [pytest.mark.slow]) for cell in CELLS],
)
def test_the_page_says_what_plain_pyro_does(name, entry, said):
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope(), warnings.catch_warnings(action="ignore"):
        if said.startswith("yes"):
            CHECKS[name](entry)
        else:
            with pytest.raises((ValueError, TypeError, RuntimeError, KeyError, AssertionError)):
                CHECKS[name](entry)
