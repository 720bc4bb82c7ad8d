"""Guides of contexts by name, the relatives of figure 5, and steps that hold only the units of their rows."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyrozoo as zoo
from pyrozoo.inference.copies import isolated
from pyrozoo.inference.losses import Loss
from pyrozoo.inference.minibatches import rows_per_group, sample_minibatches
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.guides import GUIDES, FlowGuide, MVNGuide

pytestmark = pytest.mark.usefixtures("double_precision")

OF_CONTEXTS = ("paper", "mvn", "flow", "delta")


@pytest.fixture
def train():
    return simulate(n_units=5, n_labelled=3, n_unlabelled=9, n_test=2)[0]


def make(train, variant="ssmtl", **arguments):
    return zoo.create_model("ssmtl", train, variant=variant, width=8, depth=1, **arguments)


# ---------------------------------------------------------------- families of q(c)
def q_of(guide, model, train):
    with torch.no_grad():
        return poutine.trace(guide).get_trace(**train).nodes["c"]["fn"]


def test_mvn_has_the_covariance_that_its_parameters_say(train):
    with isolated(0):
        model = make(train, c_dim=3)
        guide = MVNGuide(model)
        assert torch.allclose(
            q_of(guide, model, train).covariance_matrix, math.exp(-6) * torch.eye(3).expand(5, 3, 3)
        )  # as narrow at the start as the paper's guide
        guide.c_tril.data.normal_()
        square = guide.c_tril.detach().reshape(5, 3, 3)
        lower = torch.tril(square, -1) + torch.diag_embed(square.diagonal(dim1=1, dim2=2).exp())
        torch.testing.assert_close(q_of(guide, model, train).covariance_matrix, lower @ lower.mT)


def test_flow_density_integrates_to_one_and_is_that_of_its_draws(train):
    with isolated(0):
        model = make(train, c_dim=1 + 1)
        guide = FlowGuide(model)
        guide.c_loc.data.normal_()
        guide.c_log_scale.data.fill_(0.0)
        for parameter in guide.flow.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        q = q_of(guide, model, train)
        grid = torch.linspace(-9, 9, 241)
        cells = torch.cartesian_prod(grid, grid)[:, None, :].expand(-1, 5, -1)
        with torch.no_grad():
            density = q.log_prob(cells).exp()
        torch.testing.assert_close(density.sum(0) * float(grid[1] - grid[0]) ** 2, torch.ones(5), rtol=2e-3, atol=0)
        draws = q.sample((20_000,))
        mean = (density[..., None] * cells).sum(0) * float(grid[1] - grid[0]) ** 2
        assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / math.sqrt(len(draws)) + 1e-2).all()
        skew = ((draws - draws.mean(0)) ** 3).mean(0) / draws.std(0) ** 3
        assert skew.abs().max() > 0.1  # no normal distribution has that


def test_delta_is_the_maximum_a_posteriori(train):
    with isolated(0):
        model = make(train, c_dim=2)
        guide = zoo.create_guide(model, "delta")
        loss = model.elbo().differentiable_loss(model, guide, **train)
        trace = poutine.trace(guide).get_trace(**train)
        assert trace.nodes["c"]["value"] is not None
        torch.testing.assert_close(trace.nodes["c"]["value"], guide.c_loc)
        assert float(trace.nodes["c"]["fn"].log_prob(guide.c_loc).sum()) == 0.0
        assert torch.isfinite(loss)


@pytest.mark.parametrize("family", ["paper", "mvn", "flow"])
def test_a_guide_of_contexts_finds_a_posterior_that_is_known(train, family):
    """With a decoder that ignores z and is linear in c, the posterior of c is normal, with correlated components."""
    with isolated(0):
        model = make(train, "ml-vae", c_dim=2, z_dim=1, x_loc=0.0, x_scale=1.0)
        weights = torch.tensor([[1.0, 0.8], [0.8, 1.0]])

        def decoder(z, c):
            return c @ weights.T, torch.full_like(c, 0.7) + 0 * z[..., :1]

        model.decoder.forward = decoder
        guide = GUIDES[family](model)
        guide.local.g_z.net[-1].weight.data.zero_()  # q(z | x, c) = p(z)
        x = torch.randn(train["x"].shape)
        batch = train.with_tensors({"x": x})
        own = [p for n, p in guide.named_parameters() if not n.startswith("local.")]
        optimiser = torch.optim.Adam(own, 0.1)
        loss = Loss(model, guide, Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1))
        for step in range(150):
            optimiser.param_groups[0]["lr"] = 0.1 * (1 - 0.95 * step / 150)
            optimiser.zero_grad()
            loss(batch).backward()
            optimiser.step()
        n = 12
        precision = torch.eye(2) + n * weights.T @ weights / 0.49
        sums = torch.zeros(5, 2).index_add(0, batch["unit"], x)
        mean = torch.linalg.solve(precision, (sums @ weights / 0.49).T).T
        q = q_of(guide, model, batch)
        draws = q.sample((4000,))
        sd = precision.inverse().diagonal().sqrt()
        assert ((draws.mean(0) - mean).abs() < 0.35 * sd).all()
        correlation = torch.corrcoef(draws[:, 0].T)[0, 1]
        exact = precision.inverse()[0, 1] / (sd[0] * sd[1])
        assert exact < -0.9
        if family == "paper":
            assert abs(correlation) < 0.1  # what a diagonal covariance cannot have
        else:
            assert abs(correlation - exact) < 0.1


# ---------------------------------------------------------------- relatives of figure 5
def test_ssl_vae_knows_no_units(train):
    model = make(train, "ssl-vae")
    fit = zoo.fit(model, "paper", train, steps=3, progress=False)
    shuffled = train.with_tensors({"unit": train["unit"].flip(0)})
    assert zoo.predict(fit, shuffled, draws=3).equals(zoo.predict(fit, train, draws=3))
    new = simulate(n_units=2, n_labelled=1, n_unlabelled=1, n_test=3, seed=9)[1]
    assert len(zoo.predict(fit, new, draws=3)) == 6  # of units it has never seen
    with pytest.raises(ValueError, match="no contexts"):
        zoo.fit(model, "mvn", train, steps=1, progress=False)


def test_ml_vae_uses_no_label_and_predicts_nothing(train):
    model = make(train, "ml-vae")
    assert model.targets == ()
    batch_size = 20
    one, other = (
        zoo.fit(model, "paper", data, steps=3, progress=False, batch_size=batch_size)
        for data in (train, train.with_tensors({"y": train["y"] + 5.0}))
    )
    assert one.history.equals(other.history)
    with pytest.raises(ValueError, match="no target"):
        zoo.predict(one, train)
    drawn = zoo.draw(one, train, draws=2)
    assert set(drawn.groups["posterior_predictive"]) == {"x"}
    assert drawn.groups["log_likelihood"]["x"].shape == (1, 2, 60)


@pytest.mark.parametrize("variant", ["ssl-vae", "ml-vae"])
def test_elbo_of_a_relative_equals_the_one_by_hand(train, variant):
    with isolated(3):
        model = make(train, variant, z_dim=2)
        guide = zoo.create_guide(model, "paper")
        batch = train.hide()
        drawn = poutine.trace(guide).get_trace(**batch)
        z, x = drawn.nodes["z"]["value"], batch["x"]
        row = guide if variant == "ssl-vae" else guide.local
        inputs = [(x - model.x_loc) / model.x_scale]
        if variant == "ml-vae":
            c = drawn.nodes["c"]["value"]
            inputs.append(c[batch["unit"]])
            loc, scale = model.decoder(z, c[batch["unit"]])
            by_hand = dist.Normal(0.0, 1.0).log_prob(c).sum()
            by_hand = by_hand - dist.Normal(guide.c_loc, guide.c_log_scale.exp()).log_prob(c).sum()
        else:
            loc, scale = model.decoder(z)
            y = drawn.nodes["y_unobserved"]["value"]
            y_loc, y_scale = row.g_y(*inputs)
            by_hand = dist.Normal(model.y_loc + model.y_scale * loc[:, 2:], model.y_scale * scale[:, 2:]).log_prob(y)
            head = dist.Normal(model.y_loc + model.y_scale * y_loc, model.y_scale * y_scale).log_prob(y)
            by_hand = (by_hand - head).sum()
            inputs.append((y - model.y_loc) / model.y_scale)
        by_hand = by_hand + dist.Normal(0.0, 1.0).log_prob(z).sum() - dist.Normal(*row.g_z(*inputs)).log_prob(z).sum()
        p_x = dist.Normal(model.x_loc + model.x_scale * loc[:, :2], model.x_scale * scale[:, :2])
        by_hand = by_hand + p_x.log_prob(x).sum()
        replayed = poutine.replay(guide, trace=drawn)
        elbo = -model.elbo().loss(model, replayed, **batch)
        assert math.isclose(elbo, float(by_hand.detach()), rel_tol=1e-10)


# ---------------------------------------------------------------- only the units of a minibatch
def test_a_minibatch_may_hold_only_the_units_of_its_rows(train):
    counts = rows_per_group(train, None)
    part = train.take([0, 1, 30], group_rows=counts)
    assert part["unit_ids"].tolist() == [0, 2]
    assert part["unit"].tolist() == [0, 0, 1]
    # each row stands for 1 / 12 of its unit; the plate's own scale is 5 / 2, that of the rows 60 / 3
    torch.testing.assert_close(part["unit_weight"], torch.tensor([2 / 12, 1 / 12]) * 20 / 2.5)


def test_group_tables_come_along_for_the_units_present():
    data = zoo.Batch.from_arrays(
        rows={"x": np.arange(4.0)[:, None]}, groups={"unit": ["a", "a", "b", "c"]}, coords={"unit": ["a", "b", "c"]},
        tables={"unit": {"height": np.array([1.0, 2.0, 3.0])}},
    )  # fmt: skip
    part = data.take([3, 0], group_rows=rows_per_group(data, None))
    assert part["height"].tolist() == [1.0, 3.0]
    assert part["unit"].tolist() == [1, 0]


def test_weights_of_an_epoch_count_every_unit_once(train):
    for size in (7, {"labelled": 4, "unlabelled": 9}):
        totals = torch.zeros(train.sizes["unit"])
        parts = list(sample_minibatches(train, size, torch.Generator().manual_seed(0), rows_per_group(train, size)))
        for part in parts:
            share = part.n_rows / train.n_rows if isinstance(size, int) else 1 / len(parts)
            totals[part["unit_ids"]] += share * part["unit_weight"] * 5 / len(part["unit_ids"])
        if isinstance(size, int):
            torch.testing.assert_close(totals, torch.ones(5))
        else:  # ragged strata are unbiased over permutations, not over one partition
            assert math.isclose(float(totals.mean()), 1.0, rel_tol=0.2)


@pytest.mark.parametrize("guide", [*OF_CONTEXTS, "amortized"])
def test_gradients_with_the_units_present_average_to_those_with_all(train, guide):
    """Over the steps of an epoch, for the parameters of every unit, with one draw of the noise."""
    with isolated(1):
        model = make(train)
        module = zoo.create_guide(model, guide)
        batch = train.with_support(module.support) if guide == "amortized" else train
        with torch.no_grad():
            drawn = poutine.trace(module).get_trace(**batch)
        named = {n: p for n, p in module.named_parameters() if n.startswith(("c_", "encoder", "flow"))}

        def gradient(part, positions):
            """Of the terms of the unit plate alone: the entropy of q(c) against its prior."""
            trace = poutine.trace(poutine.replay(module, trace=positions)).get_trace(**part)
            replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(**part)
            trace.compute_log_prob()
            replayed.compute_log_prob()
            term = replayed.nodes["c"]["log_prob_sum"] - trace.nodes["c"]["log_prob_sum"]
            grads = torch.autograd.grad(term, list(named.values()), allow_unused=True)
            return [
                torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(named.values(), grads, strict=True)
            ]

        from pyrozoo.contract.densities import latents_only

        full = gradient(batch, latents_only(drawn))
        parts = list(sample_minibatches(batch, 20, torch.Generator().manual_seed(0), rows_per_group(batch, 20)))
        sums = [torch.zeros_like(p) for p in named.values()]
        for part in parts:
            held = latents_only(drawn, {"row": part["row"], "unit": part["unit_ids"]})
            for total, g in zip(sums, gradient(part, held), strict=True):
                total += part.n_rows / batch.n_rows * g
        for total, exact in zip(sums, full, strict=True):
            torch.testing.assert_close(total, exact, rtol=1e-8, atol=1e-8)


def test_a_step_updates_only_the_units_present(train):
    model = make(train)
    options = {"steps": 1, "progress": False, "batch_size": 2, "seed": 4, "groups": "present"}
    fit = zoo.fit(model, "paper", train, **options)
    start = zoo.fit(model, "paper", train, **{**options, "lr": 1e-30, "lr_groups": {}})
    moved = (fit.guide.c_loc != start.guide.c_loc).any(1)
    assert 1 <= int(moved.sum()) <= 2


def test_fits_with_all_units_and_with_those_present_agree(train):
    model = make(train, c_dim=2)
    options = {"steps": 150, "progress": False, "batch_size": {"labelled": 15, "unlabelled": 15}, "seed": 2}
    elbos = {g: zoo.fit(model, "paper", train, groups=g, **options).best.final_elbo for g in ("all", "present")}
    assert abs(elbos["all"] - elbos["present"]) < 0.35, elbos


def test_present_units_resume_bit_identically(train, tmp_path):
    model = make(train)
    options = {"steps": 12, "batch_size": 10, "progress": False, "groups": "present"}

    def stop(row):
        if row["epoch"] == 0:
            raise KeyboardInterrupt

    whole = zoo.fit(model, "paper", train, **options)
    zoo.fit(model, "paper", train, checkpoint=tmp_path, callback=stop, **options)
    resumed = zoo.fit(model, "paper", train, checkpoint=tmp_path, resume=True, **options)
    assert resumed.history.equals(whole.history)
    assert torch.equal(resumed.guide.c_loc, whole.guide.c_loc)


def test_gradient_norm_and_clip_hold_for_sparse_gradients(train):
    model = make(train)
    options = {"steps": 3, "batch_size": 10, "progress": False, "optimizer": lambda groups: torch.optim.SGD(groups)}
    dense = zoo.fit(model, "delta", train, **options, groups="all", lr=1e-12, lr_groups={})
    sparse = zoo.fit(model, "delta", train, **options, groups="present", lr=1e-12, lr_groups={})
    assert np.isfinite(sparse.history["grad_norm"]).all()
    # the prior's share differs between the two, the data's does not
    np.testing.assert_allclose(sparse.history["grad_norm"], dense.history["grad_norm"], rtol=0.05)
    zoo.fit(model, "paper", train, steps=2, batch_size=10, progress=False, groups="present", clip=1.0)


def test_what_cannot_take_present_units_says_so(train):
    model = make(train)
    with pytest.raises(ValueError, match="cannot do with the groups"):
        zoo.fit(model, "normal", train, steps=1, batch_size=10, groups="present", progress=False)
    with pytest.raises(ValueError, match="none of"):
        zoo.fit(model, "paper", train, steps=1, groups="some", progress=False)
    unlabelled = train.relabel(train["unit"].numpy() > 0)
    with pytest.raises(ValueError, match="unit 0 has no row in the strata"):
        zoo.fit(
            make(train, "mtl"), "paper", unlabelled, steps=1, progress=False, groups="present",
            batch_size={"labelled": 4, "unlabelled": 0},
        )  # fmt: skip
