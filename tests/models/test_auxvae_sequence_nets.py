"""The comparison encoders of the auxvae entry: shapes, gradients, independence of walks; against loops and pypots."""

import math
import warnings

import numpy as np
import pytest
import torch

from pyrozoo.models.auxvae.baselines.informer import Informer, SparseAttention, sparse_attention
from pyrozoo.models.auxvae.baselines.sequence_encoder import Embedding
from pyrozoo.models.auxvae.baselines.sequence_nets import ENCODERS, TCN, Transformer
from pyrozoo.models.auxvae.baselines.timesnet import Inception, TimesBlock, TimesNet, fold, unfold
from pyrozoo.models.auxvae.nets import receptive_field

pytestmark = pytest.mark.usefixtures("double_precision")

C, WIDTH = 6, 8
every = pytest.mark.parametrize("name", ENCODERS)


def made(name, n_steps=40, seed=0, n_walks=5, **options):
    """An encoder that has seen one batch in training, and other walks."""
    torch.manual_seed(seed)
    encoder = ENCODERS[name](C, n_steps, WIDTH, **options)
    encoder(torch.randn(16, n_steps, C))
    return encoder, torch.randn(n_walks, n_steps, C)


# --- all encoders ---


@every
@pytest.mark.parametrize("n_steps", [8, 9, 37, 40, 61])
@pytest.mark.parametrize("depth", [1, 3])
def test_shapes(name, n_steps, depth):
    encoder, x = made(name, n_steps, depth=depth)
    assert encoder(x).shape == (5, encoder.out_dim)
    h = encoder.features(x)
    assert h.shape == (5, math.ceil(n_steps / 2 ** (depth - 1)) if name == "informer" else n_steps, WIDTH)
    single = encoder.eval()(x[:1])
    assert single.shape == (1, encoder.out_dim)
    assert single.dtype == torch.float64
    assert encoder.float()(x.float()).dtype == torch.float32


@every
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_parameter_gets_a_gradient(name, depth):
    encoder, x = made(name, depth=depth)
    out = encoder(x)
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 1e-10, key


@every
@pytest.mark.parametrize("n_steps", [9, 61])
def test_walks_do_not_see_each_other_in_eval_mode(name, n_steps):
    encoder, x = made(name, n_steps)
    encoder.eval()
    alone = torch.cat([encoder(row[None]) for row in x])
    torch.testing.assert_close(encoder(x), alone, atol=1e-10, rtol=0)
    torch.testing.assert_close(encoder(torch.cat([x[:2], 50 * x[2:]]))[:2], alone[:2], atol=1e-10, rtol=0)
    with torch.no_grad():  # where torch has fused kernels
        torch.testing.assert_close(encoder(x), alone, atol=1e-10, rtol=0)


@every
def test_eval_mode_is_deterministic_and_leaves_the_generator_and_the_buffers(name):
    encoder, x = made(name)
    encoder.eval()
    before, buffers = torch.get_rng_state(), {key: b.clone() for key, b in encoder.named_buffers()}
    first = encoder(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(b, buffers[key]) for key, b in encoder.named_buffers())
    torch.manual_seed(1)
    assert torch.equal(encoder(x), first)


@every
def test_saved_weights_give_the_same_encoder(name):
    encoder, x = made(name)
    other, _ = made(name, seed=1)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.eval()(x), encoder.eval()(x))


@every
def test_training_repeats_bit_for_bit(name):
    results = []
    for _ in range(2):
        encoder, x = made(name)
        optimiser = torch.optim.Adam(encoder.parameters())
        for _ in range(3):
            optimiser.zero_grad()
            encoder(x).square().sum().backward()
            optimiser.step()
        results.append(encoder.eval()(x))
    assert torch.equal(*results)


@every
def test_order_matters(name):
    encoder, x = made(name)
    encoder.eval()
    assert (encoder(x) - encoder(x.flip(1))).abs().max() > 1e-3


@every
@pytest.mark.parametrize("argument", ["n_channels", "n_steps", "width", "depth"])
def test_sizes_below_one_are_refused(name, argument):
    sizes = {"n_channels": C, "n_steps": 40, "width": WIDTH, "depth": 2}
    with pytest.raises(ValueError, match=f"{argument} is 0"):
        ENCODERS[name](**(sizes | {argument: 0}))


@pytest.mark.parametrize(
    ("name", "n_steps", "options", "message"),
    [
        ("tcn", 40, {"kernel": 0}, "kernel is 0"),
        ("transformer", 40, {"heads": 3}, "width 8 is not a multiple of heads 3"),
        ("transformer", 40, {"heads": 0}, "heads is 0"),
        ("informer", 40, {"heads": 16}, "width 8 is not a multiple of heads 16"),
        ("informer", 40, {"factor": 0}, "factor is 0"),
        ("informer", 7, {"depth": 3}, "n_steps 7 is too short for depth 3"),
        ("timesnet", 5, {}, "n_steps 5 has 2 frequencies"),
        ("timesnet", 40, {"top_k": 0}, "top_k is 0"),
        ("timesnet", 40, {"n_kernels": 0}, "n_kernels is 0"),
        ("timesnet", 40, {"momentum": 0.0}, "momentum is 0"),
    ],
)
def test_impossible_options_are_refused(name, n_steps, options, message):
    with pytest.raises(ValueError, match=message):
        ENCODERS[name](C, n_steps, WIDTH, **options)


@every
@pytest.mark.parametrize("shape", [(5, 39, C), (5, 40, C + 1), (40, C)])
def test_walks_of_another_size_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"x has shape .* made for \(B, 40, 6\)"):
        ENCODERS[name](C, 40, WIDTH)(torch.randn(shape))


# --- TCN, Transformer ---


def test_tcn_is_causal_and_sees_its_receptive_field():
    encoder, x = made("tcn", 20, kernel=3, depth=2)
    assert isinstance(encoder, TCN)
    assert encoder.receptive_field == 2 * receptive_field(3, 2) - 1 == 13
    encoder.eval()
    changed = x.clone()
    changed[:, 11:] += torch.randn(5, 9, C)
    before, after = encoder.features(x), encoder.features(changed)
    assert torch.equal(before[:, :11], after[:, :11])
    assert (before[:, 11] != after[:, 11]).any(-1).all()
    x.requires_grad_()
    encoder.features(x)[:, -1].sum().backward()
    assert torch.equal(x.grad.abs().amax((0, 2)) > 0, torch.arange(20) >= 20 - 13)


def test_positions_are_those_of_the_paper():
    embed = Embedding(C, 12, 5, 1)
    for t, i in [(0, 0), (3, 1), (11, 2)]:
        angle = t / 10_000 ** (2 * i / 5)
        assert embed.positions[t, 2 * i].item() == pytest.approx(math.sin(angle))
        if 2 * i + 1 < 5:
            assert embed.positions[t, 2 * i + 1].item() == pytest.approx(math.cos(angle))


def test_layers_of_the_transformer_start_apart():
    encoder = Transformer(C, 40, WIDTH)
    assert not torch.equal(*(layer.linear1.weight for layer in encoder.layers))


# --- Informer ---


def attention_input(n_queries, n_keys, seed=0):
    torch.manual_seed(seed)
    return torch.randn(3, 2, n_queries, 4), torch.randn(3, 2, n_keys, 4), torch.randn(3, 2, n_keys, 4)


def test_attention_with_all_queries_active_is_softmax_attention():
    query, key, value = attention_input(11, 11)
    expected = (query @ key.mT / 2).softmax(-1) @ value
    sampled = torch.randint(11, (11, 4))
    torch.testing.assert_close(sparse_attention(query, key, value, sampled, 11), expected)


def test_layer_with_many_samples_is_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = SparseAttention(11, 8, 2, 99), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(8), ours.value.bias]))  # keys': no effect
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    h = torch.randn(3, 11, 8)
    torch.testing.assert_close(ours(h), theirs(h, h, h)[0])


def test_sparse_attention_by_loops():
    query, key, value = (t.numpy() for t in attention_input(9, 9))
    sampled = np.random.default_rng(0).integers(9, size=(9, 4))
    result = sparse_attention(*map(torch.from_numpy, (query, key, value, sampled)), 3).numpy()
    for b in range(3):
        for h in range(2):
            score = query[b, h] @ key[b, h].T
            sparsity = [score[t, sampled[t]].max() - score[t, sampled[t]].mean() for t in range(9)]
            for t in range(9):
                weight = np.ones(9)
                if t in np.argsort(sparsity)[-3:]:
                    weight = np.exp(score[t] / 2)
                np.testing.assert_allclose(result[b, h, t], weight @ value[b, h] / weight.sum())


def test_keys_are_sampled_in_training_alone():
    encoder, x = made("informer", 61)
    assert isinstance(encoder, Informer)
    assert [layer.attention.n_active for layer in encoder.layers[::2]] == [5 * 5, 5 * 4]
    state = torch.get_rng_state()
    first, second = encoder(x), encoder(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(encoder(x), first)
    other, _ = made("informer", 61, seed=1)
    assert torch.equal(encoder.layers[0].attention.fixed, other.layers[0].attention.fixed)


# --- TimesNet ---


@pytest.mark.parametrize("period", [1, 2, 5, 7, 12, 24])
def test_folding_and_unfolding_is_the_identity(period):
    h = torch.randn(3, 24, 4)
    grid = fold(h, period)
    assert grid.shape == (3, 4, math.ceil(24 / period), period)
    assert torch.equal(unfold(grid, 24), h)
    assert torch.equal(grid[:, :, 1 if period < 24 else 0, 0], h[:, period if period < 24 else 0])


def test_inception_is_the_mean_of_its_convolutions():
    torch.manual_seed(0)
    net, grid = Inception(3, 4, 3), torch.randn(2, 3, 4, 9)
    torch.testing.assert_close(net(grid), torch.stack([conv(grid) for conv in net.convs]).mean(0))


def test_periods_are_found_and_the_own_amplitudes_weigh():
    torch.manual_seed(0)
    block = TimesBlock(48, 1, 2, top_k=2, n_kernels=2, momentum=1.0)
    t = 2 * math.pi * torch.arange(48) / 48
    both = torch.stack([(4 * t).sin() / 8 + (3 * t).cos() / 9, (4 * t).sin() / 9 + (3 * t).cos() / 8.5])[..., None]
    out = block(both)
    assert sorted((block.spectrum.topk(2).indices + 1).tolist()) == [3, 4]
    for row, amplitudes in zip((0, 1), ((24 / 9, 24 / 8), (24 / 8.5, 24 / 9)), strict=True):
        weight = torch.tensor(amplitudes).softmax(0)
        parts = [unfold(block.net(fold(both, 48 // f)), 48)[row] for f in (3, 4)]
        torch.testing.assert_close(out[row], both[row] + weight[0] * parts[0] + weight[1] * parts[1])


def test_eval_mode_has_the_periods_of_training():
    encoder = TimesNet(1, 48, WIDTH, depth=1, top_k=1, momentum=0.5)
    block = encoder.blocks[0]
    amplitude = torch.eye(24)
    assert block.frequencies(amplitude[[4]]).tolist() == [4]
    assert block.frequencies(amplitude[[6, 6, 6, 2]]).tolist() == [6]
    expected = torch.zeros(24)
    expected[[4, 6, 2]] = torch.tensor([0.25, 0.375, 0.125])
    torch.testing.assert_close(block.spectrum, expected)
    encoder.eval()
    assert block.frequencies(amplitude[[9, 9]]).tolist() == [6]
    torch.testing.assert_close(block.spectrum, expected)


def test_untrained_blocks_take_the_longest_periods():
    assert TimesBlock(48, 4, 4, 3, 1, 0.1).eval().frequencies(torch.rand(2, 24)).tolist() == [0, 1, 2]


# --- against pypots, where it is installed ---


@pytest.fixture(scope="module")
def pypots_modules():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pypots", exc_type=ImportError)
        from pypots.nn.modules.informer import ProbAttention
        from pypots.nn.modules.timesnet import BackboneTimesNet
    return ProbAttention, BackboneTimesNet


def test_attention_with_all_queries_active_is_that_of_pypots(pypots_modules):
    theirs = pypots_modules[0](mask_flag=False, factor=9, attention_dropout=0.0)
    query, key, value = attention_input(11, 11)
    expected, _ = theirs(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    result = sparse_attention(query, key, value, torch.randint(11, (11, 11)), 11)
    torch.testing.assert_close(result, expected.transpose(1, 2), atol=1e-12, rtol=0)


# Their forward() is not called here: in pypots, as in the code of the paper's authors, the sum of U scores is divided
# by the number of all keys; in algorithm 1, and here, it is a mean. They agree if U = T, but then forward() has u = T.
@pytest.mark.parametrize(("n_steps", "n_active"), [(11, 1), (40, 20), (61, 25)])
def test_attention_with_few_active_queries_is_that_of_pypots(pypots_modules, n_steps, n_active):
    theirs = pypots_modules[0](mask_flag=False, attention_dropout=0.0)
    query, key, value = attention_input(n_steps, n_steps)
    torch.manual_seed(7)
    score, active = theirs._prob_QK(query, key, sample_k=n_steps, n_top=n_active)
    context = theirs._get_initial_context(value, n_steps)
    expected, _ = theirs._update_context(context, value, score / 2, active, n_steps, None)
    torch.manual_seed(7)
    sampled = torch.randint(n_steps, (n_steps, n_steps))
    result = sparse_attention(query, key, value, sampled, n_active)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n_steps", [24, 37])
def test_timesnet_is_that_of_pypots(pypots_modules, n_steps):
    ours, x = made("timesnet", n_steps, depth=2, expansion=2)
    theirs = pypots_modules[1](2, n_steps, 0, 3, WIDTH, 2 * WIDTH, 3)
    with torch.no_grad():
        ours.norm.weight.normal_()
        theirs.layer_norm.load_state_dict(ours.norm.state_dict())
        for block, other in zip(ours.blocks, theirs.model, strict=True):
            for i in (0, 2):
                other.conv[i].kernels.load_state_dict(block.net[i].convs.state_dict())
    embedded = ours.embed(x)
    h, expected = ours.features(x), theirs(embedded)
    torch.testing.assert_close(h, expected, atol=1e-10, rtol=0)
    weight = torch.randn_like(h)
    (h * weight).sum().backward()
    (expected * weight).sum().backward()
    for block, other in zip(ours.blocks, theirs.model, strict=True):
        for a, b in zip(block.net.parameters(), other.conv.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-8)
