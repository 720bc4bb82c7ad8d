import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrozoo as zoo
from pyrozoo.inference.minibatches import sample_minibatches
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.model import SSMTL
from pyrozoo.models.ssmtl.nets import SetEncoder

pytestmark = pytest.mark.usefixtures("double_precision")

K, D = 2, 3


@pytest.fixture(autouse=True)
def _own_store():
    yield
    pyro.clear_param_store()


def make(variant="ssmtl", guide="paper", **options):
    """A model and guide with parameters in general position, and their data: 4 + 6 rows of each of 3 units."""
    torch.manual_seed(1)
    train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=6, n_test=2)
    sizes = {"c_dim": K, "width": 7, "depth": 2} | ({"z_dim": D} if variant == "ssmtl" else {})
    model = zoo.create_model("ssmtl", train, variant=variant, **sizes, **options)
    guide = zoo.create_guide(model, guide)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    return model, guide, train


class Noise:
    """The standard normal draws that an ELBO used, in order."""

    def __init__(self, monkeypatch):
        self.drawn = []
        original = torch.distributions.normal._standard_normal

        def recorded(*arguments, **options):
            self.drawn.append(original(*arguments, **options))
            return self.drawn[-1]

        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", recorded)


# ---------------------------------------------------------------- the objective, by hand
def network(layers, *inputs):
    """A ReLU network, layer by layer."""
    h = torch.cat(inputs, -1)
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for layer in linear[:-1]:
        h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    return h @ linear[-1].weight.T + linear[-1].bias


def gaussian_head(net, floor, *inputs):
    out = network(net, *inputs)
    half = out.shape[-1] // 2
    return out[..., :half], floor + out[..., half:].exp()


def log_normal(value, loc, scale):
    return (-0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def loss_of_ssmtl(model, guide, batch, noise, row_scale):
    """-N J of equations 14 to 20 for given noise; `row_scale` (B,) says how many rows of the data a row stands for."""
    eps_c, eps_y, eps_z = noise
    x, y, seen = batch["x"], batch["y"], batch["labelled"]
    sx, sy = (x - model.x_loc) / model.x_scale, (y - model.y_loc) / model.y_scale
    # contexts: eq. 1 and 10
    s_c = guide.c_log_scale.exp()
    c = guide.c_loc + s_c * eps_c
    log_c = (log_normal(c, torch.zeros(K), torch.ones(K)) - log_normal(c, guide.c_loc, s_c)).sum(-1)
    c = c[..., batch["unit"], :]
    sx, sy = sx.expand(*c.shape[:-1], -1), sy.expand(*c.shape[:-1], -1)
    # q(y | x, c): eq. 12; the density of the unstandardised y
    m_y, s_y = gaussian_head(guide.local.g_y.net, model.floor, sx, c)
    y_drawn = m_y + s_y * eps_y
    log_unit = model.y_scale.log().sum()
    log_q_y_drawn = log_normal(y_drawn, m_y, s_y) - log_unit
    log_q_y_seen = log_normal(sy, m_y, s_y) - log_unit
    y_all = torch.where(seen[:, None], sy, y_drawn)
    # q(z | x, y, c): eq. 13
    m_z, s_z = gaussian_head(guide.local.g_z.net, 0.0, sx, y_all, c)
    z = m_z + s_z * eps_z
    log_z = log_normal(z, torch.zeros(D), torch.ones(D)) - log_normal(z, m_z, s_z)
    # p(x, y | z, c): eq. 2
    m, s = gaussian_head(model.decoder.net, model.floor, z, c)
    log_x = log_normal(sx, m[..., :2], s[..., :2]) - model.x_scale.log().sum()
    log_y = log_normal(y_all, m[..., 2:], s[..., 2:]) - log_unit
    # eq. 14 to 18, rows with and without a label, and eq. 19 times N
    rows = log_x + log_y + log_z - torch.where(seen, 0.0, log_q_y_drawn)
    head = model.alpha * batch.sizes["row"] / batch.sizes["labelled"] * torch.where(seen, log_q_y_seen, 0.0)
    return -(log_c + (row_scale * (rows + head)).sum(-1)).mean()


def loss_of_mtl(model, guide, batch, noise, row_scale):
    (eps_c,) = noise
    s_c = guide.c_log_scale.exp()
    c = guide.c_loc + s_c * eps_c
    log_c = (log_normal(c, torch.zeros(K), torch.ones(K)) - log_normal(c, guide.c_loc, s_c)).sum(-1)
    c = c[..., batch["unit"], :]
    x = ((batch["x"] - model.x_loc) / model.x_scale).expand(*c.shape[:-1], -1)
    loc = model.y_loc + model.y_scale * network(model.f, x, c)
    scale = model.y_scale * (model.floor + model.log_sigma.exp())
    rows = torch.where(batch["labelled"], log_normal(batch["y"], loc, scale), 0.0)
    return -(log_c + (row_scale * rows).sum(-1)).mean()


BY_HAND = {"ssmtl": loss_of_ssmtl, "mtl": loss_of_mtl}


def full_batch(train):
    return train, torch.ones(train.n_rows)


def minibatch(train):
    rows = [0, 3, 5, 14, 17, 22, 29]
    return train.take(rows), torch.full((len(rows),), train.n_rows / len(rows))


def stratified(train):
    batch = next(sample_minibatches(train, {"labelled": 5, "unlabelled": 4}, torch.Generator().manual_seed(0)))
    return batch, torch.where(batch["labelled"], train.sizes["labelled"] / 5, train.sizes["unlabelled"] / 4)


def gradients(loss, model, guide):
    parameters = dict(model.named_parameters(prefix="model")) | dict(guide.named_parameters(prefix="guide"))
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(parameters.items(), found, strict=True)}


@pytest.mark.parametrize("rows", [full_batch, minibatch, stratified])
@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize(("variant", "options"), [("ssmtl", {"alpha": 0.0}), ("ssmtl", {"alpha": 1.0}), ("mtl", {})])
def test_loss_and_all_gradients_equal_the_objective_written_by_hand(variant, options, particles, rows, monkeypatch):
    model, guide, train = make(variant, **options)
    batch, row_scale = rows(train)
    noise = Noise(monkeypatch)
    loss = model.elbo(particles).differentiable_loss(model, guide, **batch)
    by_hand = BY_HAND[variant](model, guide, batch, noise.drawn, row_scale)
    lead = () if particles == 1 else (particles,)
    assert noise.drawn[0].shape == (*lead, 3, K)
    torch.testing.assert_close(loss, by_hand, rtol=1e-10, atol=0)
    found, expected = gradients(loss, model, guide), gradients(by_hand, model, guide)
    for name in expected:
        size = expected[name].abs().max()
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10 * float(size), msg=name)
    unused = {name for name, gradient in expected.items() if not gradient.any()}
    assert unused == set()


def test_the_objective_is_linear_in_alpha():
    losses = []
    for alpha in (0.0, 1.0, 3.0):
        model, guide, train = make(alpha=alpha)
        torch.manual_seed(5)
        losses.append(model.elbo().loss(model, guide, **train))
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-9)
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


def test_alpha_has_no_effect_without_labels():
    losses = []
    for alpha in (0.0, 1.0):
        model, guide, train = make(alpha=alpha)
        torch.manual_seed(5)
        losses.append(model.elbo().loss(model, guide, **train.hide()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("variant", ["ssmtl", "mtl"])
def test_the_elbo_is_not_the_one_with_an_analytic_kl(variant):
    elbo = make(variant)[0].elbo()
    assert isinstance(elbo, Trace_ELBO)
    assert not isinstance(elbo, TraceMeanField_ELBO)


def test_labels_that_are_hidden_have_no_influence():
    model, guide, train = make()
    other = train.with_tensors({"y": torch.where(train["labelled"][:, None], train["y"], train["y"] + 7.0)})
    losses = []
    for batch in (train, other):
        torch.manual_seed(3)
        losses.append(model.elbo().loss(model, guide, **batch))
    assert losses[0] == losses[1]


# ---------------------------------------------------------------- contexts
def traced(guide, batch):
    torch.manual_seed(2)
    with torch.no_grad():
        return pyro.poutine.trace(guide).get_trace(**batch).nodes


def contexts(guide, batch):
    return traced(guide, batch)["c"]["fn"].base_dist


def permuted_support(batch, order):
    names = [name for name in batch.tensors if name.startswith("support_")]
    return batch.with_tensors({name: batch[name][:, order] for name in names})


@pytest.mark.parametrize("variant", ["ssmtl", "mtl"])
def test_the_set_encoder_does_not_see_the_order_of_support_rows(variant):
    _, guide, train = make(variant, "amortized")
    batch = train.subset([*range(10), *range(10, 15), *range(20, 29)]).with_support(8)  # units of 8, 5 and 8 rows
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    a, b = contexts(guide, batch), contexts(guide, permuted_support(batch, order))
    torch.testing.assert_close(a.loc, b.loc, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.scale, b.scale, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a.loc[0], a.loc[1])


def test_the_set_encoder_does_not_see_padding():
    _, guide, train = make(guide="amortized")
    batch = train.subset([*range(10), *range(10, 15)]).with_support(8)
    outside = ~batch["support_mask"]
    assert outside.sum() == 3
    changed = batch.with_tensors({"support_x": batch["support_x"] + 9.0 * outside[..., None]})
    torch.testing.assert_close(contexts(guide, batch).loc, contexts(guide, changed).loc, rtol=0, atol=0)


def test_the_set_encoder_reads_labels_only_where_there_are_any():
    _, guide, train = make(guide="amortized")
    batch = train.with_support(10)
    before = contexts(guide, batch).loc
    seen = batch["support_labelled"][..., None]
    unseen_changed = batch.with_tensors({"support_y": batch["support_y"] + 5.0 * ~seen})
    seen_changed = batch.with_tensors({"support_y": batch["support_y"] + 5.0 * seen})
    torch.testing.assert_close(contexts(guide, unseen_changed).loc, before, rtol=0, atol=0)
    assert not torch.allclose(contexts(guide, seen_changed).loc, before)


def test_the_set_encoder_pools_every_unit_by_itself(monkeypatch):
    """As unit after unit from its own rows alone, in however many pieces the units are read."""
    monkeypatch.setattr("pyrozoo.models.ssmtl.nets.PIECE", 3)
    torch.manual_seed(0)
    encoder = SetEncoder(4, 2, 5).double()
    rows = torch.randn(7, 6, 4, dtype=torch.double)
    mask = torch.arange(6) < torch.tensor([6, 4, 1, 6, 3, 5, 2])[:, None]
    labelled = mask & (torch.arange(6) % 2 == 1)  # of the third unit none
    loc, scale = encoder(rows, mask, labelled)
    for i in range(7):
        features = torch.relu(encoder.row(rows[i, mask[i]]))
        marked = features[labelled[i, mask[i]]]
        some = torch.tensor([float(len(marked) > 0)], dtype=torch.double)
        means = features.mean(0), marked.sum(0) / max(1, len(marked))
        own = encoder.head(torch.cat([means[0], features.max(0).values, means[1], some])[None])
        torch.testing.assert_close((loc[i], scale[i]), (own[0][0], own[1][0]), rtol=1e-12, atol=1e-12)


def test_the_amortised_guide_asks_for_support_rows():
    _, guide, train = make(guide="amortized")
    with pytest.raises(ValueError, match=r"pass batch.with_support\(guide.support\)"):
        guide(**train)


@pytest.mark.parametrize("guide_name", ["paper", "normal", "amortized"])
def test_a_units_rows_are_predicted_from_its_own_context(guide_name):
    _, guide, train = make(guide=guide_name)
    batch = train.with_support(10) if guide_name == "amortized" else train
    guide(**batch)  # an AutoGuide has no parameters before its first call
    before = traced(guide, batch)["y_unobserved"]["value"]
    if guide_name == "amortized":
        of_unit = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
        batch = batch.with_tensors({"support_x": batch["support_x"] + 3.0 * of_unit})
    else:
        loc = guide.c_loc if guide_name == "paper" else guide.auto.locs.c_unconstrained
        with torch.no_grad():
            loc[1] += 1.0
    after = traced(guide, batch)["y_unobserved"]["value"]
    changed = (before != after).any(-1)
    assert changed[train["unit"] == 1].all()
    assert not changed[train["unit"] != 1].any()


def test_a_table_with_some_of_the_units_is_predicted_from_their_contexts():
    model, _, train = make()
    fit = zoo.fit(model, "paper", train, steps=2, progress=False)
    part = train.subset(np.flatnonzero(train["unit"].numpy() == 2))
    assert part["unit"].unique().tolist() == [0]
    before = zoo.predict(fit, part, draws=3)
    with torch.no_grad():
        fit.guide.c_loc[0] += 1.0
    assert zoo.predict(fit, part, draws=3).equals(before)
    with torch.no_grad():
        fit.guide.c_loc[2] += 1.0
    assert (zoo.predict(fit, part, draws=3)["y.mean"] != before["y.mean"]).all()


def test_an_unseen_unit_is_predicted_from_its_own_rows_and_known_ones_from_their_training_rows():
    model, _, train = make()
    known, new = train.subset(range(20)), train.subset(range(20, 30))
    model = zoo.create_model("ssmtl", known, c_dim=K, z_dim=D, width=7, depth=2)
    fit = zoo.fit(model, "amortized", known, steps=2, progress=False)
    alone = fit.prepare(new.hide())
    assert alone["support_mask"].shape == (1, 10)
    together = fit.prepare(train.hide())
    training = known.with_support(fit.guide.support)
    for name in ("support_x", "support_y", "support_labelled", "support_mask"):
        torch.testing.assert_close(together[name][:2, : training[name].shape[1]], training[name])
        assert sorted(together[name][2].tolist()) == sorted(alone[name][0].tolist())
    assert training["support_labelled"].any()
    assert not alone["support_labelled"].any()


@pytest.mark.parametrize("variant", ["ssmtl", "mtl"])
def test_a_unit_without_labels_among_others_is_named(variant):
    train, _ = simulate(n_units=4, n_labelled=2, n_unlabelled=2, n_test=1)
    units = train.group_names("unit")
    names = train.names("unit").tolist()
    part = train.relabel(~np.isin(units, names[1:3]))
    model = zoo.create_model("ssmtl", part, variant=variant, width=4)
    with pytest.warns(UserWarning, match=f"unit {names[1]!r} and 1 more without a label"):
        model.check(part)
    model.check(train)
    model.check(train.hide())  # no labels at all: nothing to compare with


@pytest.mark.parametrize("name", ["depth", "floor"])
def test_a_setting_of_the_networks_that_is_no_number_is_refused_by_name(name):
    with pytest.raises(TypeError, match=f"{name}: '0.1'; a number is needed"):
        SSMTL(**{"x_dim": 2, "y_dim": 1, "n_units": 3, name: "0.1"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x_loc": [0.0]}, r"x_loc has the shape \(1,\); give one number, or \(2,\)"),
        ({"y_scale": [[1.0]]}, r"y_scale has the shape \(1, 1\); give one number, or \(1,\)"),
        ({"x_scale": [1.0, 0.0]}, r"x_scale is \[1.0, 0.0\]; give finite positive numbers"),
        ({"y_loc": float("nan")}, r"y_loc is nan; give finite numbers"),
    ],
)
def test_a_standardisation_that_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SSMTL(x_dim=2, y_dim=1, n_units=3, **given)
