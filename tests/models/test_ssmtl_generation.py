import math

import numpy as np
import pandas as pd
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.inference.copies import isolated
from pyrozoo.models.ssmtl.guides import GUIDES
from pyrozoo.models.ssmtl.uses import generation
from pyrozoo.models.ssmtl.uses.generation import impute, what_if
from pyrozoo.models.ssmtl.uses.sampling import R_HAT, Sampler, groups, nested_r_hat
from pyrozoo.posterior.export import from_draws

pytestmark = pytest.mark.usefixtures("double_precision")

K, D, DX = 2, 3, 4
UNITS = ["north", "south", "east"]


def table(n=20, seed=0):
    """A table of 4 inputs and a target of three units, every third row labelled."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, DX + 1)) @ rng.normal(size=(DX + 1, DX + 1)) + 10 * np.arange(DX + 1)
    df = pd.DataFrame(values, columns=["a", "b", "c", "d", "flow"], index=[f"r{i}" for i in range(n)])
    df.insert(0, "well", np.resize(UNITS, n))
    return df.assign(flow=df["flow"].where(np.arange(n) % 3 == 0))


def batch(df):
    return zoo.Batch.from_dataframe(df, unit="well", x=["a", "b", "c", "d"], y="flow")


@pytest.fixture(scope="module")
def linear(double_precision):
    """A jointly Gaussian fit: linear decoder and row guide, constant scales, weights set by hand."""
    data = batch(table())
    torch.manual_seed(0)
    model = zoo.create_model("ssmtl", data, c_dim=K, z_dim=D, depth=0, floor=0.0)
    fit = zoo.fit(model, "paper", data, steps=1, progress=False)
    with torch.no_grad():
        (layer,) = [m for m in fit.model.decoder.net if isinstance(m, torch.nn.Linear)]
        layer.weight[: DX + 1] = torch.randn(DX + 1, D + K)
        layer.weight[DX + 1 :] = 0.0
        layer.bias[:] = torch.cat([torch.randn(DX + 1), torch.linspace(0.2, 0.6, DX + 1).log()])
        fit.guide.c_loc.normal_()
        fit.guide.c_log_scale.fill_(math.log(0.4))
    set_guide(fit, *posterior(fit))
    return fit


def parts(fit):
    """W_z (V, D), W_c (V, K), bias (V,) and noise sd (V,) of the standardised decoder."""
    (layer,) = [m for m in fit.model.decoder.net if isinstance(m, torch.nn.Linear)]
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return weight[: DX + 1, :D], weight[: DX + 1, D:], bias[: DX + 1], bias[DX + 1 :].exp()


def posterior(fit):
    """Weights of p(z | v, c), and its standard deviations without the correlations: a decent diagonal guide."""
    w_z, w_c, bias, sd = parts(fit)
    precision = torch.eye(D) + w_z.T @ (w_z / sd[:, None] ** 2)
    gain = torch.linalg.solve(precision, (w_z / sd[:, None] ** 2).T)
    return torch.cat([gain, -gain @ w_c], 1), -gain @ bias, precision.diagonal() ** -0.5


def set_guide(fit, weight, bias, scale):
    (layer,) = [m for m in fit.guide.local.g_z.net if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = 0.0, 0.0
        layer.weight[:D], layer.bias[:D], layer.bias[D:] = weight, bias, torch.as_tensor(scale).log()


def closed_form(fit, unit, value, seen):
    """Mean and covariance of the unseen entries of v (V,) given the seen ones, in the units of the data."""
    w_z, w_c, bias, sd = parts(fit)
    loc = torch.cat([fit.model.x_loc, fit.model.y_loc])
    scale = torch.cat([fit.model.x_scale, fit.model.y_scale])
    m, s = fit.guide.c_loc[unit].detach(), fit.guide.c_log_scale[unit].detach().exp()
    covariance = w_z @ w_z.T + torch.diag(sd**2)
    gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    mean = w_c @ m + bias
    mean = mean[~seen] + gain @ ((value - loc) / scale - mean)[seen]
    by_c = w_c[~seen] - gain @ w_c[seen]
    covariance = covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen] + by_c @ torch.diag(s**2) @ by_c.T
    own = scale[~seen]
    return loc[~seen] + own * mean, own[:, None] * covariance * own


PATTERNS = {
    "some inputs, y unobserved": ([True, False, True, False], False),
    "some inputs, y observed": ([False, True, True, False], True),
    "all inputs, y unobserved": ([False] * 4, False),
    "all but one input": ([True, True, True, False], False),
    "no input": ([True] * 4, False),
}


def assert_exact(fit, missing, labelled, draws=1500):
    df = table(3, seed=5).assign(flow=[43.0, 38.0, 45.0])
    found = impute(
        fit, batch(df if labelled else df.assign(flow=np.nan)), np.tile(missing, (3, 1)), draws=draws, progress=False
    )
    seen = torch.tensor([not m for m in missing] + [labelled])
    value = torch.as_tensor(df[["a", "b", "c", "d", "flow"]].to_numpy())
    posterior = found.draws.groups["posterior"]
    drawn = torch.as_tensor(np.concatenate([posterior["x"][0], posterior["y"][0]], -1))
    for row in range(3):
        mean, covariance = closed_form(fit, row, value[row], seen)
        sample = drawn[:, row][:, ~seen]
        sd = covariance.diagonal().sqrt()
        assert ((sample.mean(0) - mean).abs() < 4.5 * sd / draws**0.5).all()
        # of a normal distribution, a sample covariance has the standard error sqrt((C_ij^2 + C_ii C_jj) / n)
        error = ((covariance**2 + torch.outer(sd**2, sd**2)) / draws).sqrt()
        assert ((sample.T.cov().reshape(covariance.shape) - covariance).abs() < 4.5 * error).all()
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_draws_are_exact_where_everything_is_gaussian(linear, pattern):
    assert_exact(linear, *PATTERNS[pattern])


BAD_GUIDES = {
    "wrong place": lambda w, b, s: (-w, b + 1.0, s),
    "ten times too narrow": lambda w, b, s: (w, b, s / 10),
    "ten times too wide": lambda w, b, s: (w, b, s * 10),
    "blind": lambda w, b, s: (0 * w, 0 * b + 3.0, 0 * s + 0.05),
}


@pytest.mark.parametrize("kind", BAD_GUIDES)
def test_a_bad_row_guide_does_not_change_the_answer(linear, kind):
    good = posterior(linear)
    set_guide(linear, *BAD_GUIDES[kind](*good))
    try:
        assert_exact(linear, *PATTERNS["some inputs, y unobserved"])
    finally:
        set_guide(linear, *good)


def test_no_row_guide_and_small_chunks_give_the_same_answer(linear, monkeypatch):
    monkeypatch.setattr(generation, "RowGuide", type("Other", (), {}))
    monkeypatch.setattr(generation, "CHUNK", 1500)
    found = assert_exact(linear, *PATTERNS["some inputs, y unobserved"])
    assert list(found.acceptance.index) == ["differences"]


# ---------------------------------------------------------------- where the exact answer has two modes
ONE_SCALE = {"x_loc": 0.0, "x_scale": 1.0, "y_loc": 0.0, "y_scale": 1.0}


def folded():
    """x = |z|, y = z, both with noise: given x, y has two modes; row networks untrained."""
    df = pd.DataFrame({"well": ["w"] * 4, "a": [0.0, 2.0, 1.0, 1.0], "flow": [-1.0, 1.0, 1.0, -1.0]})
    data = zoo.Batch.from_dataframe(df, unit="well", x=["a"], y="flow")
    model = zoo.create_model("ssmtl", data, c_dim=1, z_dim=1, width=2, depth=1, floor=0.0, **ONE_SCALE)
    fit = zoo.fit(model, "paper", data, steps=1, progress=False)
    first, second = [m for m in fit.model.decoder.net if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        first.weight[:], first.bias[:] = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.0
        second.weight[:] = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
        second.bias[:] = torch.tensor([0.0, 0.0, math.log(0.1), math.log(0.1)])
    return fit


def test_both_modes_are_found_in_their_shares():
    found = what_if(folded(), "w", {"a": [0.5, 1.5]}, draws=2000, progress=False)
    y = found.draws.groups["posterior"]["y"][0, :, :, 0]
    assert (np.abs((y > 0).mean(0) - 0.5) < 4 * 0.5 / 2000**0.5).all()
    # |z| given |x - |z|| of sd 0.1 and a standard normal z: normal, away from 0
    variance = 1 / (1 + 1 / 0.1**2)
    assert np.abs(y[:, 1]).mean() == pytest.approx(1.5 * variance / 0.1**2, abs=4 * 0.15 / 2000**0.5)
    assert np.abs(y[:, 1]).std() == pytest.approx((variance + 0.1**2) ** 0.5, rel=4 / (2 * 2000) ** 0.5)


# ---------------------------------------------------------------- convergence
def test_r_hat_is_one_for_forgotten_starts_and_large_for_remembered_ones():
    torch.manual_seed(0)
    free = [torch.randn(50, 200, 1) for _ in range(10)]
    assert (nested_r_hat(free) - 1).abs().max() < 0.05
    start = 0.8 * torch.randn(50, 10, 1)[:, groups(200, torch.device("cpu"))]
    assert nested_r_hat([values + start for values in free]).median() > R_HAT


def test_chains_that_do_not_move_are_reported(linear, monkeypatch):
    monkeypatch.setattr(Sampler, "sweep", lambda self, state, rows: state)
    with pytest.warns(UserWarning, match=r"entries have not converged; the worst is '[abcd]|flow' of row 'r\d"):
        found = impute(linear, batch(table()), table_mask(20), draws=100, progress=False)
    assert found.table["r_hat"].max() > R_HAT


def table_mask(n):
    return np.random.default_rng(3).random((n, DX)) < 0.4


# ---------------------------------------------------------------- what goes in and comes out
FEW = {"draws": 20, "sweeps": 5, "progress": False}  # whether chains find the posterior is looked at above


def test_values_at_missing_entries_do_not_matter(linear):
    mask = table_mask(20)
    df = table()
    other = df.copy()
    other.loc[:, ["a", "b", "c", "d"]] = df[["a", "b", "c", "d"]].mask(mask, 1e9)
    first, second = (impute(linear, batch(t), mask, **FEW) for t in (df, other))
    pd.testing.assert_frame_equal(first.table, second.table)
    seen = ~np.concatenate([mask, df[["flow"]].isna()], 1)
    assert np.array_equal(first.completed(draw=3).to_numpy()[seen], df.iloc[:, 1:].to_numpy()[seen])


def test_a_data_frame_says_itself_what_is_missing(linear):
    mask, df = table_mask(20), table()
    holes = df.copy()
    holes.loc[:, ["a", "b", "c", "d"]] = df[["a", "b", "c", "d"]].mask(mask)
    from_frame = impute(linear, holes, **FEW)
    pd.testing.assert_frame_equal(from_frame.table, impute(linear, batch(df), mask, **FEW).table)
    expected = holes.drop(columns="well").isna().stack()
    assert list(from_frame.table.index) == list(expected[expected].index)
    assert not from_frame.completed().isna().any(axis=None)
    without_target = impute(linear, holes.drop(columns="flow"), **FEW)
    assert set(without_target.table.xs("flow", level="variable").index) == set(df.index)


def test_draws_go_to_arviz_and_agree_with_the_table(linear):
    found = impute(linear, batch(table()), table_mask(20), **FEW)
    idata = from_draws(found.draws, observed_only=False)
    drawn = idata["posterior"]["x"].sel(input="b")
    assert drawn.dims == ("chain", "draw", "row")
    assert drawn.shape == (1, 20, 20)
    for row in found.table.xs("b", level="variable").itertuples():
        values = drawn.sel(row=row.Index).to_numpy()
        assert row.mean == pytest.approx(values.mean())
        assert row.q05 == pytest.approx(np.quantile(values, 0.05))
    assert np.array_equal(np.isnan(idata["observed_data"]["x"]), table_mask(20))


def test_same_seed_same_draws_and_the_callers_random_state_stays(linear):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    tables = [what_if(linear, "south", {"a": 1.0}, seed=s, **FEW).table for s in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_what_if_is_imputation_of_the_other_entries(linear):
    chosen = {"c": [19.0, 21.0], "a": 0.5}
    found = what_if(linear, "east", chosen, draws=1500, progress=False).table
    assert list(found.index) == [0, 1]
    assert list(found["a"]) == [0.5, 0.5]
    assert list(found["c"]) == chosen["c"]
    for point in range(2):
        value = torch.tensor([0.5, 0.0, chosen["c"][point], 0.0, 0.0])
        seen = torch.tensor([True, False, True, False, False])
        mean, covariance = closed_form(linear, UNITS.index("east"), value, seen)
        for name, m, v in zip(["b", "d", "flow"], mean, covariance.diagonal(), strict=True):
            assert found[f"{name}.mean"][point] == pytest.approx(float(m), abs=4.5 * float(v / 1500) ** 0.5)
            assert found[f"{name}.sd"][point] == pytest.approx(float(v) ** 0.5, rel=4.5 / (2 * 1500) ** 0.5)
    everything = what_if(linear, "east", dict.fromkeys("abcd", 20.0), **FEW).table
    assert {c for c in everything if c.endswith(".mean")} == {"flow.mean"}
    assert len(what_if(linear, "east", {}, **FEW).table) == 1


@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_gives_its_own_contexts(guide):
    data = batch(table())
    torch.manual_seed(0)
    model = zoo.create_model("ssmtl", data, c_dim=K, z_dim=D, width=4, depth=1)
    fit = zoo.fit(model, guide, data, steps=2, progress=False)
    with isolated(0), torch.no_grad():
        c = generation._contexts(fit, fit.prepare(fit.prototype), 4000).detach()
    posterior = zoo.draw(fit, data, draws=200, predictive=False).groups["posterior"]["c"][0]
    assert c.shape == (4000, 3, K)
    assert np.allclose(c.mean(0), posterior.mean(0), atol=5 * posterior.std() / 200**0.5)
    assert np.allclose(c.std(0), posterior.std(0), rtol=0.3, atol=1e-12)
    assert np.isfinite(impute(fit, data, table_mask(20), **FEW).table.to_numpy()).all()


def test_an_amortised_guide_reads_only_complete_rows_of_a_new_unit():
    data = batch(table())
    model = zoo.create_model("ssmtl", data, c_dim=K, z_dim=D, width=4, depth=1)
    fit = zoo.fit(model, "amortized", data, steps=2, progress=False)
    new, mask = table(6, seed=4).assign(well="new"), np.zeros((6, DX), bool)
    mask[:3, 1] = True
    other = new.copy()
    other.iloc[:3, 2] = -1e6
    first, second = (impute(fit, batch(t), mask, **FEW).table for t in (new, other))
    pd.testing.assert_frame_equal(first, second)
    with pytest.raises(ValueError, match=r"unit 'new'.*none of its rows has all inputs"):
        impute(fit, batch(new), np.ones((6, DX), bool), progress=False)


# ---------------------------------------------------------------- errors
def test_errors_say_what_is_wrong_and_what_there_is(linear):
    data = batch(table())
    with pytest.raises(ValueError, match=r"missing: torch.bool of shape \(20, 3\); give booleans of shape \(20, 4\)"):
        impute(linear, data, np.zeros((20, 3), bool))
    with pytest.raises(ValueError, match="give booleans"):
        impute(linear, data, np.zeros((20, 4)))
    with pytest.raises(ValueError, match="nothing to draw"):
        impute(linear, batch(table().assign(flow=1.0)))
    with pytest.raises(KeyError, match=r"unknown unit.*'west'"):
        impute(linear, batch(table().assign(well="west")), table_mask(20))
    with pytest.raises(KeyError, match=r"unknown unit 'west'; the fit has .*'north', 'south', 'east'"):
        what_if(linear, "west", {"a": 1.0})
    with pytest.raises(KeyError, match=r"unknown input 'flow'; the fit has \['a', 'b', 'c', 'd'\]"):
        what_if(linear, "east", {"flow": 1.0})
    with pytest.raises(ValueError, match=r"x: different numbers of points, \{'a': 2, 'b': 3\}"):
        what_if(linear, "east", {"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(ValueError, match="x\\['a'\\]: give a finite number"):
        what_if(linear, "east", {"a": np.nan})
    with pytest.raises(ValueError, match="draws: 0"):
        what_if(linear, "east", {}, draws=0)


def test_a_model_without_a_density_of_the_inputs_is_refused():
    data = batch(table())
    fit = zoo.fit(
        zoo.create_model("ssmtl", data, variant="mtl", c_dim=K, width=4), "paper", data, steps=1, progress=False
    )
    for call in (lambda: impute(fit, data, table_mask(20)), lambda: what_if(fit, "east", {"a": 1.0})):
        with pytest.raises(TypeError, match="not from MTL; fit variant 'ssmtl'"):
            call()
