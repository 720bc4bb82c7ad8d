import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import vae
import variants

SIZES = vae.Sizes(images=6, pixels=10, hidden=7, z_dim=3)


@pytest.fixture(scope="module")
def numpyro_ssmtl():
    pytest.importorskip("numpyro", reason="pip install -c constraints.txt -e .[bench]")
    import numpyro_ssmtl

    return numpyro_ssmtl


@pytest.fixture
def training():
    train = variants.data(12, 3)
    return variants.zoo_training(variants.model_for(train, 8), train, 12)


@pytest.mark.parametrize("particles", [1, 3])
def test_numpyro_has_the_loss_and_the_gradients_of_the_zoo(numpyro_ssmtl, particles):
    different = numpyro_ssmtl.disagreement_numpyro(rows=12, particles=particles, units=3, width=8)
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10


def test_the_agreement_would_notice_another_objective(numpyro_ssmtl, monkeypatch):
    original = numpyro_ssmtl.NumPyroSSMTL

    def without_head(training):
        ssmtl = original(training)
        ssmtl.alpha = 0.0
        return ssmtl

    monkeypatch.setattr(numpyro_ssmtl, "NumPyroSSMTL", without_head)
    assert numpyro_ssmtl.disagreement_numpyro(rows=12, particles=1, units=3, width=8)["gradients"] > 1e-3


def test_double_precision_is_switched_back(numpyro_ssmtl, training):
    numpyro_ssmtl.disagreement_numpyro(rows=12, particles=1, units=3, width=8)
    variant, _ = numpyro_ssmtl.numpyro_variant(training, 12, 1)
    assert variant.params["c_loc"].dtype == np.float32
    assert torch.get_default_dtype() == torch.float32


def test_numpyro_trains_alike_wherever_rows_are_looked_up_and_in_a_compiled_loop(numpyro_ssmtl, training):
    zoo = [p.detach().clone() for p in training.loss.parameters()]
    inside, outside, loop = (numpyro_ssmtl.NumPyroTraining(training, 12, 2, g) for g in ("inside", "outside", "inside"))
    before = _flat(inside.params)
    losses = [[float(one.step()) for _ in range(3)] for one in (inside, outside)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(loop.steps(3), losses[0], rtol=1e-4)
    assert all((old != new).any() for old, new in zip(before, _flat(inside.params), strict=True))
    assert all(torch.equal(old, new) for old, new in zip(zoo, training.loss.parameters(), strict=True))
    with pytest.raises(ValueError, match="looks rows up inside"):
        outside.steps(3)


def test_numpyro_minibatches_are_half_labelled(numpyro_ssmtl, training):
    strata = training.train.strata
    variant, _ = numpyro_ssmtl.numpyro_variant(training, 12, 1)
    for _ in range(3):
        chosen = next(variant._indices)
        assert np.isin(chosen[:6], strata["labelled"]).all()
        assert np.isin(chosen[6:], strata["unlabelled"]).all()


def test_what_numpyro_cannot_do_is_said(numpyro_ssmtl, training):
    with pytest.raises(ValueError, match="'somewhere' is none of"):
        numpyro_ssmtl.NumPyroTraining(training, 12, 1, "somewhere")
    with pytest.raises(ValueError, match="rows: 100; too few"):
        numpyro_ssmtl.NumPyroTraining(training, 100, 1).step()


def test_jax_uses_one_thread(numpyro_ssmtl):
    code = """
import os, time, numpyro_ssmtl, jax, jax.numpy as jnp
square, x = jax.jit(lambda x: x @ x), jnp.ones((1000, 1000))
square(x).block_until_ready()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(5):
    square(x).block_until_ready()
print((time.process_time() - cpu) / (time.perf_counter() - wall))
"""
    at = Path(numpyro_ssmtl.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=at, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2


def test_the_vae_by_hand_has_the_loss_and_the_gradients_of_pyro():
    different = vae.disagreement(SIZES)
    assert different["loss"] < 1e-12
    assert different["gradients"] < 1e-10


def test_the_vae_trains_by_hand(monkeypatch):
    copies, original = [], vae.plain_copy
    monkeypatch.setattr(vae, "plain_copy", lambda *given: copies.append(original(*given)) or copies[-1])
    vae.plain_step(SIZES)()
    start = original(*vae.pyro_vae(SIZES)[:2], SIZES)
    assert all((own != old).any() for own, old in zip(copies[0].parameters(), start.parameters(), strict=True))


def test_svi_trains_all_of_the_vae():
    (model, guide, arguments), (*start, _) = vae.pyro_vae(SIZES), vae.pyro_vae(SIZES)
    with pyro.get_param_store().scope():
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(*arguments)
    for part, before in zip((model, guide), start, strict=True):
        assert all((own != old).any() for own, old in zip(part.parameters(), before.parameters(), strict=True))


def test_the_floor_multiplies_what_a_step_does():
    counted = []
    for step in (vae.floor(vae.products(SIZES)), vae.plain_step(SIZES)):
        with FlopCounterMode(display=False) as counter:
            step()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] == 2 * 6 * (2 * 10 * 7 + 3 * (7 * 6 + 3 * 7 + 7 * 10))


def test_images_are_binary_and_the_same_each_time():
    images = vae.simulated(SIZES)
    assert set(images.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(images, vae.simulated(SIZES))


def _flat(params):
    own = [params[name] for name in ("c_loc", "c_log_scale")]
    return own + [array for name in ("g_y", "g_z", "decoder") for layer in params[name] for array in layer]
