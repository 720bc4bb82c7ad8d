"""auxvae: the ELBO and its gradients equal a hand-written one; predictions equal equation 15."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from auxvae_small import SIZES, small_model, trials
from torch import nn
from torch.nn import functional

import pyrozoo as zoo
from pyrozoo.inference.copies import default_dtype, isolated
from pyrozoo.inference.losses import Loss
from pyrozoo.models.auxvae.local_guide import PaperGuide, StyleAwareGuide

EXACT = 1e-10


def built(data, variant="auxvae", guide="paper", **arguments):
    model = small_model(data, variant, **arguments)
    with default_dtype(torch.float64), isolated(1):
        module = zoo.create_guide(model, guide).eval()
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, module


def standardised(model, data):
    """x and x_aux as the networks see them."""
    x, x_aux = data["x"], data["x_aux"]
    return model.standardise(x, x_aux, data["participant"]), model.standardise(x_aux, x_aux)


def loss_and_gradients(model, guide, data, seed=3):
    parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    with default_dtype(torch.float64), isolated(seed):
        loss = Loss(model, guide, model.elbo())(data)
    loss.backward()
    return loss.item(), [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def by_hand(model, guide, data, seed=3):
    """Equation 14 written out, with the style summed out by logsumexp row by row where it is not known."""
    x, x_aux, who, y = data["x"], data["x_aux"], data["participant"], data["y"]
    if model.own_scale:
        spread = ((x_aux - x_aux.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
        own_loc, own_scale = x_aux.mean(1, keepdim=True), (spread + 0.01 * model.x_scale**2) ** 0.5
        x_std, aux_std = (x - own_loc[who]) / own_scale[who], (x_aux - own_loc) / own_scale
        x_loc, x_scale = own_loc[who], own_scale[who]
    else:
        x_std, aux_std = ((v - model.x_loc) / model.x_scale for v in (x, x_aux))
        x_loc, x_scale = model.x_loc, model.x_scale
    n = len(x)
    out = guide.head(guide.encoder(x_std, aux_std, who))
    loc, raw = out.chunk(2, -1)
    q = torch.distributions.Normal(loc, 1e-3 + functional.softplus(raw - 2.0))
    with isolated(seed):
        z = q.rsample()
    kl = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(-1)
    h_aux = None if model.aux is None else model.aux(aux_std)[who]
    mean = x_loc + x_scale * model.decoder(z, h_aux)
    sd = x_scale * (0.5**0.5 if model.x_log_sd is None else 1e-3 + model.x_log_sd.exp())
    log_x = torch.distributions.Normal(mean, sd).log_prob(x).sum((-1, -2))
    seen = data["labelled"]

    def log_y(style):
        m, s = model.load_head(z, style)
        family = {
            "normal": torch.distributions.Normal,
            "studentt": lambda a, b: torch.distributions.StudentT(4.0, a, b),
        }.get(model.y_likelihood, torch.distributions.Laplace)
        return torch.where(seen, family(model.y_loc + model.y_scale * m, model.y_scale * s).log_prob(y), 0.0)

    if not model.joint:
        supervised = log_y(None)
    else:
        log_pi = torch.log_softmax(model.classifier(z), -1)
        terms = torch.stack([log_pi[:, k] + log_y(torch.full((n,), k)) for k in range(4)])
        given = terms.gather(0, data["style"][None])[0]
        supervised = torch.where(data["style_labelled"], given, terms.logsumexp(0))
    loss = -(model.recon_weight * log_x + supervised - model.beta * kl).sum()
    parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.item(), [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=EXACT)
    for own, other in zip(found[1], expected[1], strict=True):
        assert torch.allclose(own, other, rtol=1e-9, atol=EXACT)


@pytest.mark.parametrize("known", ["hidden", "observed", "mixed"])
@pytest.mark.parametrize("fusion", ["cross", "concat", "none"])
def test_the_elbo_and_its_gradients_are_those_of_a_hand_marginalised_loss(known, fusion):
    data = trials(known=known)
    model, guide = built(data, fusion=fusion, beta=0.3)
    same(loss_and_gradients(model, guide, data), by_hand(model, guide, data))


@pytest.mark.parametrize("fusion", ["cross", "concat", "none", "departure", "learned-departure"])
def test_walks_on_the_walkers_own_scale_have_the_loss_written_by_hand(fusion):
    data = trials()
    model, guide = built(data, fusion=fusion, own_scale=True, beta=0.3)
    same(loss_and_gradients(model, guide, data), by_hand(model, guide, data))


def test_an_absolute_error_in_lb_has_a_scale_of_one_lb():
    data = trials()
    model, _ = built(data, y_likelihood="mae_lb")
    loc, scale = model.load_head(torch.zeros(3, model.z_dim, dtype=torch.float64), torch.zeros(3, dtype=torch.long))
    p_y = model.load_given(loc, scale)
    assert torch.allclose(p_y.log_prob(p_y.mean + 2.0), torch.tensor(-2.0 - math.log(2.0), dtype=torch.float64))


@pytest.mark.parametrize("y_likelihood", ["laplace", "mae", "normal", "studentt"])
@pytest.mark.parametrize("x_likelihood", ["normal", "mse"])
def test_every_likelihood_is_the_one_it_is_called(y_likelihood, x_likelihood):
    data = trials()
    model, guide = built(data, y_likelihood=y_likelihood, x_likelihood=x_likelihood, recon_weight=0.7)
    same(loss_and_gradients(model, guide, data), by_hand(model, guide, data))


@pytest.mark.parametrize("fusion", ["cross", "none"])
def test_without_the_style_the_loss_has_no_term_of_it(fusion):
    data = trials()
    model, guide = built(data, "load-only", fusion=fusion)
    same(loss_and_gradients(model, guide, data), by_hand(model, guide, data))


def test_the_papers_loss_is_a_mean_squared_error_a_cross_entropy_and_a_mean_absolute_error():
    data = trials(known="observed")
    data = data.with_tensors({"labelled": torch.ones_like(data["labelled"])})
    model, guide = built(data, x_likelihood="mse", y_likelihood="mae")
    loss, _ = loss_and_gradients(model, guide, data)
    with torch.no_grad(), isolated(3):
        x, aux = standardised(model, data)
        q = guide.posterior(guide.head(guide.encoder(x, aux, data["participant"]))).base_dist
        z = q.rsample()
        kl = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum()
        mse = ((x - model.decoder(z, model.aux(aux)[data["participant"]])) ** 2).mean((-1, -2)).sum()
        ce = functional.cross_entropy(model.classifier(z), data["style"], reduction="sum")
        mae = ((data["y"] - model.y_loc) / model.y_scale - model.load_head(z, data["style"])[0]).abs().sum()
    per_row = 0.5 * math.log(math.pi) + float(model.x_scale.log().mean()) + math.log(2 * float(model.y_scale))
    assert loss == pytest.approx(float(mse + ce + mae + kl) + len(x) * per_row, rel=EXACT)


@pytest.mark.parametrize("known", ["hidden", "observed", "mixed"])
def test_a_style_dependent_prior_of_z_is_summed_over_with_the_style(known):
    data = trials(known=known)
    model, guide = built(data, z_prior="style")
    loss, _ = loss_and_gradients(model, guide, data)
    with torch.no_grad(), isolated(3):
        (x, aux), who = standardised(model, data), data["participant"]
        q = guide.posterior(guide.head(guide.encoder(x, aux, who)))
        z = q.rsample()
        p_x = model.reconstruct(z, model.aux(aux)[who], model.units(data["x_aux"], who))
        terms = []
        for k in range(4):
            p_z = dist.Normal(model.style_loc[k], model.style_log_sd[k].exp()).to_event(1)
            p_y = model.load_given(*model.load_head(z, torch.full((len(x),), k)))
            terms.append(
                torch.log_softmax(model.style_logits, -1)[k] + p_z.log_prob(z)
                + torch.where(data["labelled"], p_y.log_prob(data["y"]), 0.0)
            )  # fmt: skip
        terms = torch.stack(terms)
        own = torch.where(data["style_labelled"], terms.gather(0, data["style"][None])[0], terms.logsumexp(0))
        expected = -(model.recon_weight * p_x.log_prob(data["x"]) + own - q.log_prob(z)).sum()
    assert loss == pytest.approx(float(expected), rel=EXACT)


@pytest.mark.parametrize("known", ["hidden", "observed", "mixed"])
def test_a_guide_with_its_own_style_averages_over_it(known):
    data = trials(known=known)
    model, guide = built(data, "style-in-guide", "style_aware")
    assert isinstance(guide, StyleAwareGuide)
    loss, _ = loss_and_gradients(model, guide, data)
    with torch.no_grad(), isolated(3):
        (x, aux), who = standardised(model, data), data["participant"]
        features = guide.encoder(x, aux, who)
        log_q = torch.log_softmax(guide.classifier(features), -1)
        q = guide.posterior(guide.head(features))
        z = q.rsample()
        log_pi = torch.log_softmax(model.classifier(z), -1)
        p_x = model.reconstruct(z, model.aux(aux)[who], model.units(data["x_aux"], who))
        total = model.recon_weight * p_x.log_prob(data["x"])
        total = total + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)
        for k in range(4):
            carried = torch.where(data["style_labelled"], data["style"], k)
            p_y = model.load_given(*model.load_head(z, carried))
            term = log_pi.gather(-1, carried[:, None])[:, 0]
            term = term + torch.where(data["labelled"], p_y.log_prob(data["y"]), 0.0)
            term = term - torch.where(data["style_labelled"], 0.0, log_q[:, k])
            total = total + log_q[:, k].exp() * term
        head = log_q.gather(-1, data["style"][:, None])[:, 0]
        total = total + torch.where(data["style_labelled"], head, 0.0)
    assert loss == pytest.approx(-float(total.sum()), rel=EXACT)


def test_an_enumerated_style_stays_in_the_trace_of_a_mixed_batch():
    data = trials(known="mixed")
    model, guide = built(data)
    from pyrozoo.posterior.traces import pair

    drawn = pair(model, guide, data)
    assert drawn.model.nodes["style"]["infer"]["_enumerate_dim"] is not None
    assert drawn.model.nodes["style"]["value"].numel() == 4


def short_fit(data, variant="auxvae", guide="paper", **arguments):
    model = zoo.create_model("auxvae", data, variant=variant, **{**SIZES, **arguments})
    return zoo.fit(model, guide, data, epochs=3, batch_size=7, progress=False, seed=0)


def test_predictions_are_equation_15():
    data = trials(dtype=torch.float32)
    fit = short_fit(data)
    table = zoo.predict(fit, data, draws=4000, seed=0)
    model, guide = fit.model, fit.guide
    with torch.no_grad(), isolated(5):
        x, aux = standardised(model, data)
        z = guide.posterior(guide.head(guide.encoder(x, aux, data["participant"]))).sample((4000,))
        pi = torch.softmax(model.classifier(z), -1)
        mean = torch.stack([model.load_head(z, torch.full(z.shape[:-1], k))[0] for k in range(4)], -1)
        y_hat = model.y_loc + model.y_scale * (pi * mean).sum(-1)
        se = y_hat.std(0) / math.sqrt(4000)
    difference = (torch.tensor(table["y.mean"].tolist()) - y_hat.mean(0)).abs()
    assert bool((difference < 5 * 2**0.5 * se + 1e-4).all())
    names = [c for c in table if c.startswith("style.p[")]
    assert np.allclose(table[names].to_numpy(), pi.mean(0).numpy(), atol=0.02)
    assert np.allclose(table[names].sum(axis=1), 1.0, atol=1e-6)


def test_the_exact_prediction_agrees_with_pyros_predictive():
    data = trials(dtype=torch.float32).hide()
    fit = short_fit(trials(dtype=torch.float32))
    exact = zoo.predict(fit, data, draws=2000)
    with isolated(0), torch.no_grad():
        free = pyro.poutine.uncondition(fit.model)
        drawn = pyro.infer.Predictive(free, guide=fit.guide, num_samples=400, parallel=True)(**data)["y"]
    assert drawn.shape == (400, data.n_rows)
    error = (torch.tensor(exact["y.mean"].tolist()) - drawn.mean(0)).abs()
    assert bool((error < 5 * drawn.std(0) / math.sqrt(400)).all())
    inside = (drawn > torch.tensor(exact["y.q05"].tolist())) & (drawn < torch.tensor(exact["y.q95"].tolist()))
    assert inside.double().mean() == pytest.approx(0.9, abs=0.02)


def test_participants_that_were_not_in_training_are_predicted_from_their_own_unloaded_walk():
    fit = short_fit(trials(dtype=torch.float32))
    new = trials(n=6, people=2, seed=9, dtype=torch.float32)
    renamed = zoo.Batch.from_arrays(
        rows={k: new[k] for k in ("x", "y", "style")}, groups={"participant": np.array(["N0", "N1"] * 3)},
        tables={"participant": {"x_aux": new["x_aux"]}}, labels={"y": np.ones(6, bool), "style": np.ones(6, bool)},
        coords={"participant": np.array(["N0", "N1"])},
    )  # fmt: skip
    other = renamed.with_tables("participant", {"x_aux": new["x_aux"] + 3.0})
    first, second = (zoo.predict(fit, batch, draws=20)["y.mean"] for batch in (renamed, other))
    assert np.isfinite(first).all()
    assert not np.allclose(first, second)


def test_each_unloaded_walk_is_encoded_once_per_network_and_step():
    data = trials(n=14, people=3)
    model, guide = built(data)
    seen = []
    for stream in (model.aux, guide.encoder.aux):
        stream.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    loss_and_gradients(model, guide, data)
    assert seen == [3, 3]


def test_prediction_does_not_pay_for_the_decoder():
    data = trials(dtype=torch.float32)
    fit = short_fit(data)

    def refuse(*_):
        raise AssertionError("the decoder ran")

    fit.model.decoder.register_forward_hook(refuse)
    zoo.predict(fit, data, draws=5)
    zoo.log_predictive(fit, data, "y", draws=2)


def test_no_auxiliary_walk_reaches_a_model_without_fusion():
    data = trials()
    model, guide = built(data, fusion="none")
    other = data.with_tables("participant", {"x_aux": data["x_aux"] * 5 + 1})
    assert loss_and_gradients(model, guide, data)[0] == loss_and_gradients(model, guide, other)[0]
    assert not any(isinstance(m, nn.MultiheadAttention) for m in guide.modules())


def test_attention_is_the_formula_of_the_paper():
    data = trials()
    _, guide = built(data)
    assert isinstance(guide, PaperGuide)
    attention = guide.encoder.attention.to_aux
    h, h_aux = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    found, _ = attention(h, h_aux, h_aux, need_weights=False)
    w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    heads = []
    for p in range(2):
        part = slice(2 * p, 2 * p + 2)
        a = torch.softmax((h @ w_q[part].T) @ (h_aux @ w_k[part].T).mT / 2**0.5, -1)
        heads.append(a @ (h_aux @ w_v[part].T))
    assert torch.allclose(found, torch.cat(heads, -1) @ attention.out_proj.weight.T, atol=1e-12)
