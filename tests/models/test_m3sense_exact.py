"""m3sense: the objectives equal hand-written ones, gradients included."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.nn import functional

from pyrozoo import Batch
from pyrozoo.inference.copies import default_dtype, isolated
from pyrozoo.inference.losses import Loss
from pyrozoo.models.m3sense import DomainGenerative
from pyrozoo.models.m3sense.generative import Generative
from pyrozoo.models.m3sense.guides import GUIDES
from pyrozoo.models.m3sense.model import LatentM3Sense, M3Sense, Unaligned

EXACT = 1e-10
TASKS = {"anxiety": 2, "emotion": 2, "stress": 3}
SMALL = {"embedding": 5, "lstm_layers": 1, "hidden": (6, 5), "head": 4}


def windows(n=15, seed=0, labels="mixed"):
    """Random windows of three tasks and an unlabelled set, every window labelled for one task at most, if not several.

    Labels: "mixed", "known" on every window, "missing" on every window, or "several" tasks' on some.
    """
    rng = np.random.default_rng(seed)
    owner = np.arange(n) % (3 if labels == "known" else 4)
    known = {f"y_{task}": (owner == i) & (labels != "missing") for i, task in enumerate(TASKS)}
    if labels == "several":
        known["y_anxiety"] = known["y_anxiety"] | (owner == 2)
    return Batch.from_arrays(
        rows={"bvp": rng.normal(size=(n, 40)), "eda": rng.normal(size=(n, 20)),
              **{f"y_{task}": rng.integers(c, size=n) for task, c in TASKS.items()}},
        labels=known, row_plate="window",
        dims={"bvp": ("bvp_time",), "eda": ("eda_time",)}, dtype=torch.float64, name="random", simulated=True,
        coords={f"y_{task}_class": [f"{task} {k}" for k in range(c)] for task, c in TASKS.items()},
    )  # fmt: skip


def built(kind, data, guide="paper", **arguments):
    with default_dtype(torch.float64), isolated(0):
        extra = {} if kind is Unaligned else {"a_dim": 3, "q_hidden": 4}
        model = kind(**{**kind.sizes_from(data), **SMALL, **extra, **arguments}).eval()
        module = GUIDES[guide](model).eval()
        for parameter in [*model.parameters(), *module.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, module


def loss_and_gradients(model, guide, data):
    parameters = [*model.parameters(), *guide.parameters()]
    for parameter in parameters:
        parameter.grad = None
    with default_dtype(torch.float64), isolated(3):
        loss = Loss(model, guide, model.elbo())(data)
    loss.backward()
    return loss.item(), [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def same(found, loss, model, guide):
    assert found[0] == pytest.approx(loss.item(), rel=EXACT)
    parameters = [*model.parameters(), *guide.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for own, other in zip(found[1], gradients, strict=True):
        assert torch.allclose(own, torch.zeros_like(own) if other is None else other, rtol=1e-9, atol=EXACT)


def masks(data):
    return [data[data.labels[f"y_{task}"]] for task in TASKS]


def test_the_papers_objective_is_cross_entropy_and_gamma_times_an_analytic_kl():
    data = windows()
    model, guide = built(M3Sense, data, gamma=0.3)
    found = loss_and_gradients(model, guide, data)
    h = model.encode(**data)
    loss = torch.zeros((), dtype=torch.float64)
    for i, (task, known) in enumerate(zip(TASKS, masks(data), strict=True)):
        logits = model.classifiers[i](h[i])[known]
        loss = loss + functional.cross_entropy(logits, data[f"y_{task}"][known], reduction="sum")
        loc, raw = guide.networks[i](h[i]).chunk(2, -1)
        sd = 1e-3 + functional.softplus(raw)
        loss = loss + 0.3 * 0.5 * (loc**2 + sd**2 - 1 - 2 * sd.log()).sum()
    same(found, loss, model, guide)


def drawn_latents(model, guide, data):
    """One draw of every latent as the loss makes it, with its distribution."""
    h, out = model.encode(**data), {}
    with isolated(3):
        for i, task in enumerate(TASKS):
            q = guide.posterior(guide.networks[i](h[i]))
            out[task] = q, q.rsample()
    return out


def test_labels_from_the_latent_make_an_information_bottleneck():
    data = windows()
    model, guide = built(LatentM3Sense, data, gamma=0.3)
    found = loss_and_gradients(model, guide, data)
    loss = torch.zeros((), dtype=torch.float64)
    for i, ((task, (q, a)), known) in enumerate(
        zip(drawn_latents(model, guide, data).items(), masks(data), strict=True)
    ):
        logits = model.classifiers[i](a)[known]
        loss = loss + functional.cross_entropy(logits, data[f"y_{task}"][known], reduction="sum")
        standard = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
        loss = loss + 0.3 * torch.distributions.kl_divergence(q.base_dist, standard).sum()
    same(found, loss, model, guide)


@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_missing_labels_are_summed_out_of_the_generative_model(gamma):
    data = windows()
    model, guide = built(Generative, data, gamma=gamma)
    found = loss_and_gradients(model, guide, data)
    latents = drawn_latents(model, guide, data)
    loss = torch.zeros((), dtype=torch.float64)
    for i, ((task, (q, a)), known) in enumerate(zip(latents.items(), masks(data), strict=True)):
        places = dist.Normal(model.places[i][:, None], 1.0).to_event(1).log_prob(a)  # (C, B)
        joint = torch.log_softmax(model.class_logits[i], -1)[:, None] + places
        given = joint.gather(0, data[f"y_{task}"][None])[0]
        loss = loss - gamma * (torch.where(known, given, joint.logsumexp(0)) - q.log_prob(a)).sum()
    loc = model.decoder(torch.cat([a for _, a in latents.values()], -1))
    loss = loss - dist.Normal(loc, 1e-3 + model.f_log_sd.exp()).log_prob(model.summaries(data)).sum()
    same(found, loss, model, guide)


@pytest.mark.parametrize("gamma", [1.0, 0.4])
@pytest.mark.parametrize("labels", ["known", "missing", "mixed", "several"])
def test_domains_and_missing_labels_are_summed_out_together(labels, gamma):
    data = windows(labels=labels)
    model, guide = built(DomainGenerative, data, gamma=gamma)
    found = loss_and_gradients(model, guide, data)
    latents = drawn_latents(model, guide, data)
    joint, log_q = torch.log_softmax(model.domain_logits, -1)[:, None], 0.0  # (D, B)
    for i, ((task, (q, a)), known) in enumerate(zip(latents.items(), masks(data), strict=True)):
        places = model.places[i][:, None, None] + model.shifts[i][:, None]  # (C, D, 1, A)
        terms = torch.log_softmax(model.class_logits[i], -1)[:, None, None]
        terms = terms + dist.Normal(places, 1.0).to_event(1).log_prob(a)  # (C, D, B)
        given = terms[data[f"y_{task}"], :, torch.arange(data.n_rows)].T
        joint, log_q = joint + torch.where(known, given, terms.logsumexp(0)), log_q + q.log_prob(a)
    known = torch.stack(masks(data))
    joint = torch.where(known | ~known.any(0), joint, -torch.inf)
    loss = -gamma * (joint.logsumexp(0) - log_q).sum()
    loc = model.decoder(torch.cat([a for _, a in latents.values()], -1))
    loss = loss - dist.Normal(loc, 1e-3 + model.f_log_sd.exp()).log_prob(model.summaries(data)).sum()
    same(found, loss, model, guide)


def test_domains_need_a_second_task():
    data = windows()
    with pytest.raises(ValueError, match="make one domain; take variant 'generative'"):
        built(DomainGenerative, data, tasks={"stress": 3})


def test_without_alignment_the_loss_is_the_cross_entropy_of_labelled_windows():
    data = windows()
    model, guide = built(Unaligned, data, "none")
    found = loss_and_gradients(model, guide, data)
    h = model.encode(**data)
    loss = sum(
        functional.cross_entropy(model.classifiers[i](h[i])[known], data[f"y_{task}"][known], reduction="sum")
        for i, (task, known) in enumerate(zip(TASKS, masks(data), strict=True))
    )
    same(found, loss, model, guide)


def test_the_encoder_runs_once_per_step():
    data = windows()
    model, guide = built(M3Sense, data)
    calls = []
    model.representation.register_forward_hook(lambda *_: calls.append(1))
    loss_and_gradients(model, guide, data)
    assert len(calls) == 1
