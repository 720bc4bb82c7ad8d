"""Compiled losses: equal to Pyro's under the same random state, or eager with one line that says why."""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyrozoo
from pyrozoo import CompiledLoss, CompileWarning, fit
from pyrozoo.contract.subject import Subject, guides_of
from pyrozoo.inference import compiling
from pyrozoo.inference.copies import default_dtype
from pyrozoo.inference.losses import Loss
from pyrozoo.modeling import registry
from pyrozoo.modeling.guides import declared

ROWS = 12


@pytest.fixture(autouse=True)
def local_parameters():
    with pyro.settings.context(module_local_params=True), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Regression(PyroModule):
    """y ~ N(f(x) + b, 1) of a network f, b ~ N(0, 1), in a subsampled plate."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x, y, weight=1.0):
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("row", 100, subsample=torch.arange(len(x))), pyro.poutine.scale(scale=weight):
            pyro.sample("y", dist.Normal(self.net(x).squeeze(-1) + b, 1.0), obs=y)


class Point(PyroModule):
    """A guide of b that is reparameterised."""

    def __init__(self):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, *args, **kwargs):
        pyro.sample("b", dist.Normal(self.loc, self.log_scale.exp()))


class Mixture(PyroModule):
    """Classes of the rows, summed out; `guided` samples a latent mean by a score function."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))

    def forward(self, x, y, **_):
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("row", 100, subsample=torch.arange(len(x))):
            k = pyro.sample("k", dist.Categorical(x.new_ones(3) / 3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(self.loc[k] + b, 1.0), obs=y)


def rows(n=ROWS, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=dtype)
    return x, x.sum(-1)


def gradients(loss, *args, seed=1, **kwargs):
    """Loss and gradients under a seed."""
    loss.zero_grad()
    torch.manual_seed(seed)
    value = loss(*args, **kwargs)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in loss.parameters() if p.grad is not None)]


def assert_equal(own, other, tolerance=1e-10):
    assert len(own) == len(other) > 1
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


def move(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def graphs(loss):
    return list(loss._graphs.values())


# ---------------------------------------------------------------- every entry
def svi_subjects():
    for entry in pyrozoo.list_models():
        card = pyrozoo.card(entry if isinstance(entry, str) else entry.name)
        for variant in card.variants:
            for guide in guides_of(card, variant):
                subject = Subject(card.name, variant, guide)
                # A graph takes seconds to capture: one of every entry by default, all others in the slow tests.
                default = variant == next(iter(card.variants)) and subject.leads
                if default:
                    yield pytest.param(subject, ("whole",), id=f"{subject}, whole")
                yield pytest.param(subject, ("whole", "half"), marks=pytest.mark.slow, id=str(subject))


# What runs eagerly, and the word of its line that says why.
EAGER = {
    "medication": "value of a tensor is read",  # its density is computed by compiled loops over frames
    "auxvae/auxvae": "shapes that depend on values",  # the unloaded walks of those participants that are there
    "auxvae/load-only": "shapes that depend on values",
    "auxvae/style-in-guide": "not reparameterised or is enumerated",
    "x flow": "shapes that depend on values",  # Pyro's splines pick the entries inside their bounds
    "x lowrank": "value of a tensor is read",  # Pyro's low-rank normal checks a factorisation
}


@pytest.mark.parametrize(("subject", "sizes"), list(svi_subjects()))
def test_every_entry_is_equal_to_eager_or_says_why_not(subject, sizes):
    with subject.built() as (model, guide, batch):
        if declared(guide, "solve"):
            pytest.skip("solved in closed form")
        eager = Loss(model, guide, model.elbo()).train()
        compiled = CompiledLoss(eager, "graph")
        why = next((words for key, words in EAGER.items() if key in str(subject)), None)
        if why is not None:
            with pytest.warns(CompileWarning, match=why):
                compiled(batch)
            return
        parts = {"whole": batch, "half": batch.take(torch.arange(batch.n_rows // 2))}
        for part, seed in ((parts[size], seed) for i, size in enumerate(sizes) for seed in (2 * i + 1, 2 * i + 2)):
            buffers = {name: value.clone() for name, value in eager.named_buffers()}
            found = gradients(compiled, part, seed=seed)
            after = {name: value.clone() for name, value in eager.named_buffers()}
            eager.load_state_dict(buffers, strict=False)
            assert_equal(found, gradients(eager, part, seed=seed))
            for name, value in eager.named_buffers():
                torch.testing.assert_close(after[name], value)
            move(eager)
        assert len(graphs(compiled)) == len(sizes)


@pytest.mark.parametrize("particles", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_single_precision_and_particles(particles):
    batch = registry.entry("ssmtl").parts.tiny(0)[0].to(dtype=torch.float32)
    model = pyrozoo.create_model("ssmtl", batch, width=8)
    guide = pyrozoo.create_guide(model, "paper")
    eager = Loss(model, guide, model.elbo(particles))
    assert_equal(gradients(CompiledLoss(eager, "graph"), batch), gradients(eager, batch), 1e-5)


# ---------------------------------------------------------------- a loop of one's own
SPACE = pytest.mark.skipif(" " in torch.__file__, reason="torch's compiler fails in a folder with a space in its name")


@pytest.mark.parametrize("mode", ["graph", pytest.param("inductor", marks=SPACE)])
def test_a_drop_in_for_the_elbo_trains_alike(mode):
    losses = {}
    for kind in ("eager", mode):
        torch.manual_seed(0)
        loss = Trace_ELBO()(Regression().double(), Point().double())
        loss = loss if kind == "eager" else CompiledLoss(loss, kind)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
        losses[kind] = []
        for step in range(6):
            x, y = rows(seed=step)
            optimizer.zero_grad()
            value = loss(x, y=y)
            value.backward()
            optimizer.step()
            losses[kind].append(value.item())
    assert losses[mode] == pytest.approx(losses["eager"], rel=1e-10)
    assert losses[mode][-1] != losses[mode][0]
    assert (mode == "graph") == isinstance(graphs(loss)[0].run, torch.fx.GraphModule)
    with pytest.raises(ValueError, match="scale"):  # arguments are validated as before
        dist.Normal(0.0, torch.tensor(-1.0))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO])
def test_elbos_of_pyro(elbo):
    model = Mixture().double() if elbo is TraceEnum_ELBO else Regression().double()
    eager = elbo(num_particles=2, vectorize_particles=True, max_plate_nesting=1)(model, Point().double())
    compiled = CompiledLoss(eager, "graph")
    for seed in (1, 2, 3):
        assert_equal(gradients(compiled, *rows(seed=seed), seed=seed), gradients(eager, *rows(seed=seed), seed=seed))
    assert graphs(compiled)


def test_gradients_accumulate_scale_and_stop():
    eager = Trace_ELBO()(Regression().double(), Point().double())
    compiled = CompiledLoss(eager, "graph")
    (compiled(*rows()) * 2).backward()
    first = [p.grad.clone() for p in eager.parameters()]
    torch.manual_seed(1)
    one, two = compiled(*rows()), compiled(*rows(seed=1))
    (one + two).backward()
    torch.manual_seed(1)
    expected = eager(*rows()), eager(*rows(seed=1))
    own = torch.autograd.grad(sum(expected), list(eager.parameters()))
    for parameter, before, gradient in zip(eager.parameters(), first, own, strict=True):
        torch.testing.assert_close(parameter.grad - before, gradient)
    with torch.no_grad():
        assert not compiled(*rows()).requires_grad


def test_fresh_draws_at_every_call():
    compiled = CompiledLoss(Trace_ELBO()(Regression().double(), Point().double()), "graph")
    values = {compiled(*rows()).item() for _ in range(5)}
    assert len(values) == 5


def test_a_tensor_is_an_input_and_a_number_a_constant():
    eager = Trace_ELBO()(Regression().double(), Point().double())
    compiled = CompiledLoss(eager, "graph", shapes=3)
    for weight in (1.0, 0.5, 0.25):
        weight = torch.tensor(weight)
        assert_equal(gradients(compiled, *rows(), weight=weight), gradients(eager, *rows(), weight=weight))
    assert len(graphs(compiled)) == 1
    with pytest.warns(CompileWarning, match="had 3 shapes"):  # noqa: PT031
        for weight in (1.0, 0.5, 0.25, 0.125):
            assert_equal(gradients(compiled, *rows(), weight=weight), gradients(eager, *rows(), weight=weight))
    assert len(graphs(compiled)) == 3


def test_modes_frozen_parameters_and_types_have_graphs_of_their_own():
    model = Regression()
    model.net.insert(1, nn.Dropout(0.5))
    eager = Trace_ELBO()(model, Point())
    compiled = CompiledLoss(eager, "graph")
    args = rows(dtype=torch.float32)
    train = gradients(compiled, *args)
    eager.eval()
    assert_equal(gradients(compiled, *args), gradients(eager, *args), 1e-5)
    model.net[0].requires_grad_(False)
    frozen = gradients(compiled, *args)
    assert len(frozen) == len(train) - 2
    assert_equal(frozen, gradients(eager, *args), 1e-5)
    compiled.double()
    assert_equal(gradients(compiled, *rows()), gradients(eager, *rows()))


def test_several_models_in_one_process():
    pairs = [Trace_ELBO()(Regression().double(), Point().double()) for _ in range(2)]
    move(pairs[1])
    compiled = [CompiledLoss(pair, "graph") for pair in pairs]
    for _ in range(3):
        for own, eager in zip(compiled, pairs, strict=True):
            assert_equal(gradients(own, *rows()), gradients(eager, *rows()))
            move(eager)


def test_an_autoguide_makes_its_parameters_first():
    model = Regression().double()
    compiled = CompiledLoss(Trace_ELBO()(model, AutoNormal(model)), "graph")
    compiled(*rows())
    assert any("AutoNormal" in name or "locs" in name for name, _ in compiled.named_parameters())
    eager = compiled.loss.double()
    assert_equal(gradients(compiled, *rows()), gradients(eager, *rows()))
    assert graphs(compiled)


# ---------------------------------------------------------------- what cannot be captured
class Reads(Regression):
    def forward(self, x, y):
        if x.mean() > 0:
            x = x + 1.0
        super().forward(x, y)


class Bakes(Regression):
    """NumPy takes a value past the graph."""

    def forward(self, x, y):
        super().forward(x, y + float(np.sum(x.detach().numpy())))


class BakesParameter(Regression):
    def forward(self, x, y):
        super().forward(x, y + float(np.sum(self.net[0].weight.detach().numpy())))


class Ragged(Regression):
    def forward(self, x, y):
        super().forward(x[y > 0], y[y > 0])


class Unsteady(Regression):
    """Random numbers of its own, which the seed does not reach."""

    def forward(self, x, y):
        super().forward(x, y + float(np.random.default_rng().normal()))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Reads, r"the value of a tensor is read: .*test_compiling.py line \d+"),
        (Ragged, "shapes that depend on values"),
        (Unsteady, "differs from the eager loss"),
    ],
)
def test_what_is_no_fixed_sequence_runs_eagerly(model, why):
    eager = Trace_ELBO()(model().double(), Point().double())
    compiled = CompiledLoss(eager, "graph")
    with pytest.warns(CompileWarning, match=why) as caught:
        compiled(*rows())
    assert len(str(caught[0].message).splitlines()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if model is not Unsteady:
            assert_equal(gradients(compiled, *rows()), gradients(eager, *rows()))


@pytest.mark.parametrize("model", [Bakes, BakesParameter])
def test_a_value_that_was_taken_for_a_constant_is_found_out(model):
    eager = Trace_ELBO()(model().double(), Point().double())
    compiled = CompiledLoss(eager, "graph")
    same = rows()
    for _ in range(3):
        compiled(*same)
    changed = same
    if model is Bakes:  # what never changes may be a constant
        assert graphs(compiled)
        changed = rows(seed=1)
    else:
        compiled = CompiledLoss(eager, "graph")
        compiled(*same)
        move(eager)
    with pytest.warns(CompileWarning, match="holds a value that has changed"):
        found = gradients(compiled, *changed)
    assert_equal(found, gradients(eager, *changed))


def test_an_input_that_is_written_to_is_another_input():
    compiled = CompiledLoss(Trace_ELBO()(Bakes().double(), Point().double()), "graph")
    x, y = rows()
    for _ in range(3):
        compiled(x, y)
    x += 1.0
    with pytest.warns(CompileWarning, match="holds a value that has changed"):
        compiled(x, y)


def test_parameters_in_the_global_store_are_left_alone():
    with pyro.settings.context(module_local_params=False), pyro.get_param_store().scope():
        eager = Trace_ELBO()(Regression().double(), Point().double())
        compiled = CompiledLoss(eager, "graph")
        with pytest.warns(CompileWarning, match="module_local_params=True"):
            compiled(*rows())


def test_an_argument_that_requires_a_gradient_gets_one():
    compiled = CompiledLoss(Trace_ELBO()(Regression().double(), Point().double()), "graph")
    x, y = rows()
    x.requires_grad_()
    with pytest.warns(CompileWarning, match="an argument requires a gradient"):
        compiled(x, y).backward()
    assert x.grad is not None


def test_an_argument_that_is_neither_tensor_nor_constant():
    eager = Trace_ELBO()(Regression().double(), Point().double())
    compiled = CompiledLoss(eager, "graph")
    with pytest.warns(CompileWarning, match="neither a tensor nor a constant .*ndarray"):
        compiled(*rows(), weight=np.ones(()))


def test_without_a_compiler_the_graph_is_replayed():
    from torch._inductor import config

    eager = Trace_ELBO()(Regression().double(), Point().double())
    compiled = CompiledLoss(eager, "inductor")
    line = pytest.warns(CompileWarning, match=r"'graph' instead of 'inductor': no C\+\+ compiler")
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}), line:
        found = gradients(compiled, *rows())
    assert_equal(found, gradients(eager, *rows()))
    assert graphs(compiled)


class Recurrent(Regression):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x, y):
        super().forward(self.lstm(x[:, None].expand(-1, 4, -1))[0][:, -1], y)


def test_a_recurrent_layer_is_replayed():
    eager = Trace_ELBO()(Recurrent(), Point())
    compiled = CompiledLoss(eager, "inductor")
    args = rows(dtype=torch.float32)
    with pytest.warns(CompileWarning, match="'graph' instead of 'inductor': a fused recurrent layer"):
        found = gradients(compiled, *args)
    assert_equal(found, gradients(eager, *args), 1e-5)


def test_only_the_first_shape_is_compiled(monkeypatch):
    made = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_: made.append(graph) or graph)
    compiled = CompiledLoss(Trace_ELBO()(Regression().double(), Point().double()), "inductor")
    for n in (ROWS, 5, ROWS, 5):
        compiled(*rows(n))
    assert len(made) == 1
    assert len(graphs(compiled)) == 2


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="'fast' is none of"):
        CompiledLoss(nn.Linear(1, 1), "fast")


# ---------------------------------------------------------------- fit
@pytest.fixture(scope="module")
def data():
    return registry.entry("ssmtl").parts.tiny(0)[0]


def fitted(data, compile, guide="paper", variant=None, name="ssmtl", **settings):
    model = pyrozoo.create_model(name, data, variant=variant, width=8, depth=1)
    return fit(model, guide, data, seed=3, progress=False, compile=compile, **settings)


SETTINGS = {
    "ragged minibatches": {"epochs": 3, "batch_size": 7},
    "strata": {"epochs": 3, "batch_size": {"labelled": 3, "unlabelled": 5}},
    "annealing, 40 steps": {"steps": 40, "batch_size": 10, "anneal": 3},
    "particles, clipping, schedule": {
        "steps": 6,
        "batch_size": None,
        "particles": 3,
        "clip": 1.0,
        "schedule": "cosine",
    },
    "40 steps": {"steps": 40, "batch_size": 10},
    "another optimiser": {"steps": 6, "batch_size": 10, "optimizer": partial(torch.optim.Adam, amsgrad=True)},
}


@pytest.mark.parametrize(
    ("which", "dtype"),
    [
        *((which, torch.float64) for which in SETTINGS if which != "40 steps"),
        pytest.param("40 steps", torch.float32, marks=pytest.mark.slow),
        pytest.param("40 steps", torch.float64, marks=pytest.mark.slow),
    ],
)
def test_a_fit_is_the_same(data, which, dtype):
    data = data.to(dtype=dtype)
    with default_dtype(dtype):
        eager, compiled = (fitted(data, mode, **SETTINGS[which]) for mode in ("none", "graph"))
    # Pyro sums the terms of a loss in double precision.
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(compiled.history.to_numpy(float), eager.history.to_numpy(float), rtol=rtol)
    for own, other in zip(compiled.guide.parameters(), eager.guide.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.slow
@SPACE
def test_a_compiled_fit_is_the_same_but_for_rounding(data):
    eager, compiled = (fitted(data, mode, steps=40, batch_size=10, clip=50.0) for mode in ("none", "inductor"))
    np.testing.assert_allclose(compiled.history.to_numpy(float), eager.history.to_numpy(float), rtol=1e-5)
    for own, other in zip(compiled.guide.parameters(), eager.guide.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0.0, atol=1e-5 * float(other.detach().abs().max()))


def test_a_captured_step_takes_its_rows_and_clips_inside(data):
    model = pyrozoo.create_model("ssmtl", data, width=8)
    guide = pyrozoo.create_guide(model, "paper")
    loss = Loss(model, guide, model.elbo(), data=data)
    step = compiling.CompiledStep(loss, "graph", clip=0.5)
    for seed in (1, 2, 3):
        chosen = torch.randperm(data.n_rows, generator=torch.Generator().manual_seed(seed))[:9], None
        expected = gradients(loss, data.take(chosen[0]), seed=seed)
        torch.manual_seed(seed)
        value, norm = step.gradients(chosen, 1.0)
        found = torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])
        whole = torch.cat([gradient.flatten() for gradient in expected[1:]])
        torch.testing.assert_close(value, expected[0])
        torch.testing.assert_close(norm, whole.norm())
        torch.testing.assert_close(found, whole * 0.5 / norm)
        move(loss)
    assert len(graphs(step)) == 1


def test_resume_is_bit_identical(data, tmp_path):
    settings = {"epochs": 4, "batch_size": data.n_rows // 2, "anneal": 2}  # of one size, which takes one capture
    whole = fitted(data, "graph", **settings)

    def stop(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    settings |= {"checkpoint": tmp_path}
    part = fitted(data, "graph", callback=stop, **settings)
    assert part.status == "interrupted"
    resumed = fitted(data, "graph", resume=True, **settings)
    assert resumed.history.equals(whole.history)
    for own, other in zip(resumed.guide.parameters(), whole.guide.parameters(), strict=True):
        assert torch.equal(own, other)
    with pytest.raises(ValueError, match="made with other settings"):
        fitted(data, "none", resume=True, **settings)


def test_validation_and_early_stopping(data):
    train, valid = data.split(0.3, seed=0)
    settings = {"epochs": 4, "batch_size": 8, "patience": 2, "valid": valid}
    eager, compiled = (fitted(train, mode, **settings) for mode in ("none", "graph"))
    np.testing.assert_allclose(compiled.history["valid_elbo"], eager.history["valid_elbo"], rtol=1e-4)


def test_a_loss_that_is_not_finite_is_named(data):
    model = pyrozoo.create_model("ssmtl", data, width=8)
    with pytest.raises(pyrozoo.NonFiniteLoss, match="the loss is nan"), warnings.catch_warnings():  # noqa: PT012
        warnings.simplefilter("ignore", CompileWarning)
        fit(model, "paper", data, steps=30, lr=1e30, compile="graph", progress=False)


def test_groups_present_say_why_they_run_eagerly(data):
    with pytest.warns(CompileWarning, match="running eagerly|had 8 shapes"):
        result = fitted(data, "graph", steps=2, batch_size=5, groups="present")
    assert result.status == "finished"


def test_auto_goes_by_the_steps_of_the_whole_fit():
    assert compiling.mode_for("auto", compiling.GRAPH_FROM - 1) == "none"
    assert compiling.mode_for("auto", compiling.GRAPH_FROM) == "graph"
    assert compiling.mode_for("auto", compiling.INDUCTOR_FROM) == "inductor"
    assert compiling.mode_for("none", 10**9) == "none"


def test_an_unknown_mode_of_a_fit(data):
    with pytest.raises(ValueError, match=r"compile: 'jit' is none of \['none', 'graph', 'inductor', 'auto'\]"):
        fitted(data, "jit", steps=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["graph", "inductor"])
def test_on_a_gpu_the_step_is_one_cuda_graph(mode):
    eager = Trace_ELBO()(Regression(), Point()).cuda()
    compiled = CompiledLoss(eager, mode)
    for seed in (1, 2, 3, 4):
        args = [tensor.float().cuda() for tensor in rows(seed=seed)]
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompileWarning)
            found = gradients(compiled, *args, seed=seed)
        assert_equal(found, gradients(eager, *args, seed=seed), 1e-5)
        move(eager)
