import numpy as np
import pyro
import pytest
import torch

import pyrozoo as zoo
from pyrozoo.data.batch import Batch
from pyrozoo.inference.losses import NonFiniteLoss
from pyrozoo.models.ssmtl.data.simulator import simulate
from pyrozoo.models.ssmtl.experiments.figure11 import new_units
from pyrozoo.models.ssmtl.uses import calibration, refinement
from pyrozoo.models.ssmtl.uses.calibration import calibrate
from pyrozoo.models.ssmtl.uses.joining import join
from pyrozoo.models.ssmtl.uses.refinement import refine

pytestmark = pytest.mark.usefixtures("double_precision")

K = 2
QUICK = {"steps": 4, "starts": 2, "candidates": 3, "progress": False}


def trained(variant="ssmtl", guide="paper", steps=3, **options):
    train, _ = simulate(n_units=4, n_labelled=3, n_unlabelled=6, n_test=2)
    model = zoo.create_model("ssmtl", train, variant=variant, c_dim=K, width=6, depth=1, **options)
    return zoo.fit(model, guide, train, steps=steps, progress=False)


@pytest.fixture(scope="module")
def fit(double_precision):
    return trained()


def named(batch, names):
    """The same rows, of units by other names."""
    own = {k: batch[k] for k in ("x", "y")}
    groups = np.asarray(names)[batch["unit"].numpy()]
    return Batch.from_arrays(
        rows=own, groups={"unit": groups}, labels={"y": batch.observed("y")}, coords={"unit": names}, dims=batch.dims
    )


@pytest.fixture(scope="module")
def new(double_precision):
    """Three units of 2, 3 and 4 labelled and 8 unlabelled rows."""
    train, _ = simulate(n_units=3, n_labelled=4, n_unlabelled=8, n_test=2, seed=5)
    place = np.tile(np.arange(12), 3)
    kept = (place < np.repeat([2, 3, 4], 12)) | (place >= 4)
    return named(train.subset(np.flatnonzero(kept)), ["west", "east", "north"])


def contexts(fit):
    return fit.guide.c_loc.detach().clone(), fit.guide.c_log_scale.detach().clone()


def of_unit(batch, unit):
    return batch.subset(np.flatnonzero(batch["unit"].numpy() == unit))


# ---------------------------------------------------------------- a fit of old and new units
def test_a_joined_fit_predicts_each_unit_as_the_fit_it_came_from(fit, new, tmp_path):
    found = calibrate(fit, new, **QUICK)
    joined = zoo.load(zoo.save(join(fit, found), tmp_path / "run"))
    assert joined.prototype.names("unit").tolist() == [0, 1, 2, 3, "west", "east", "north"]
    for name in ("c_loc", "c_log_scale"):
        assert torch.equal(getattr(joined.guide, name), torch.cat([getattr(f.guide, name) for f in (fit, found)]))
    for source in (fit, found):
        own, rows = zoo.predict(source, source.train, seed=1), zoo.predict(joined, source.train, seed=1)
        assert np.abs(own["y.mean"] - rows["y.mean"]).max() < own["y.sd"].mean()


def test_a_joined_fit_is_trained_further_on_all_units(fit, new):
    found = calibrate(fit, new, **QUICK)
    joined = join(fit, found)
    rows = named(new, ["east", "brand new", "north"])
    model = zoo.create_model("ssmtl", rows, c_dim=K, width=6, depth=1)
    warm = zoo.fit(model, "paper", rows, warm_start=joined, steps=1, lr=0.0, lr_groups=None, progress=False)
    want = joined.guide.c_loc[[5, 6]]
    assert torch.equal(warm.guide.c_loc[[0, 2]], want)
    assert warm.guide.c_loc[1].abs().max() < 0.6  # a fresh start near the prior's middle


def test_only_fits_with_the_same_networks_are_joined(fit, new):
    with pytest.raises(ValueError, match="calibrated: its networks are not those of the fit"):
        join(trained(steps=4), calibrate(fit, new, **QUICK))
    with pytest.raises(ValueError, match="fit: its guide is 'mvn'; only contexts of the guide 'paper' are joined"):
        join(trained(guide="mvn"), calibrate(fit, new, **QUICK))


# ---------------------------------------------------------------- what stays as it is
@pytest.mark.parametrize(
    ("guide", "method"),
    [
        ("paper", "robust"), ("paper", "paper"), ("amortized", "robust"), ("normal", "paper"), ("delta", "robust"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in
          [("amortized", "paper"), ("normal", "robust"), ("mvn", "robust"), ("mvn", "paper"), ("delta", "paper")]),
    ],
)  # fmt: skip
def test_networks_are_those_of_the_fit_bit_by_bit_whatever_its_guide(guide, method, new, monkeypatch):
    monkeypatch.setattr(calibration, "PAPER_STEPS", 2)
    source = trained(guide=guide)
    before = {k: v.clone() for k, v in source.model.state_dict().items()}
    before_rows = {k: v.clone() for k, v in source.guide.local.state_dict().items()}
    found = calibrate(source, new, method=method, **QUICK)
    for model in (source.model, found.model):
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for rows in (source.guide.local, found.guide.local):
        assert all(torch.equal(v, before_rows[k]) for k, v in rows.state_dict().items())
    assert found.guide.c_loc.abs().min() > 0


def test_the_callers_random_state_and_parameter_store_stay(fit, new):
    pyro.clear_param_store()
    state = torch.get_rng_state()
    calibrate(fit, new, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(pyro.get_param_store()) == {}


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(fit, new):
    a, b, c = (contexts(calibrate(fit, new, seed=seed, batch_size=20, **QUICK)) for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


# ---------------------------------------------------------------- units apart from each other
def test_units_calibrated_together_are_as_calibrated_alone(fit, new, monkeypatch):
    # Draws are shared out over all units at once, so that only without noise two runs can be the same.
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda shape, dtype, device: torch.zeros(shape))
    together = calibrate(fit, new, **QUICK)
    for unit in range(3):
        alone = calibrate(fit, of_unit(new, unit), **QUICK)
        for a, b in zip(contexts(together), contexts(alone), strict=True):
            torch.testing.assert_close(a[unit], b[0], rtol=1e-9, atol=1e-9)
        assert together.units["objective"].iloc[unit] == pytest.approx(alone.units["objective"].iloc[0], rel=1e-9)


def test_the_kept_start_is_the_best_of_those_optimised(fit, new):
    one, many = (calibrate(fit, new, **{**QUICK, "starts": n, "candidates": 4, "steps": 30}) for n in (1, 5))
    assert (many.units["objective"] >= one.units["objective"] - 0.3).all()
    assert (many.units["lead"] >= 0).all()
    assert one.units["lead"].isna().all()


# ---------------------------------------------------------------- rows of the modes
def changed(batch, rows, names):
    return batch.with_tensors({k: batch[k] + 3.0 * torch.as_tensor(rows)[:, None] for k in names})


@pytest.mark.parametrize("method", ["robust", "paper"])
def test_each_mode_uses_its_rows_and_no_others(fit, new, method, monkeypatch):
    monkeypatch.setattr(calibration, "PAPER_STEPS", 3)
    seen = new.observed("y")
    uses = {"supervised": seen, "unsupervised": ~seen, "semi-supervised": np.ones(len(seen), bool)}
    for mode, used in uses.items():
        before = contexts(calibrate(fit, new, mode=mode, method=method, **QUICK))[0]
        others = contexts(calibrate(fit, changed(new, ~used, ["x", "y"]), mode=mode, method=method, **QUICK))[0]
        assert torch.equal(before, others)
        own = contexts(calibrate(fit, changed(new, used, ["x"]), mode=mode, method=method, **QUICK))[0]
        assert not torch.equal(before, own)
    unlabelled = contexts(calibrate(fit, changed(new, ~seen, ["y"]), method=method, **QUICK))[0]
    assert torch.equal(unlabelled, contexts(calibrate(fit, new, method=method, **QUICK))[0])


@pytest.mark.parametrize("mode", calibration.MODES)
def test_the_training_data_of_the_new_fit_are_the_rows_used(fit, new, mode):
    found = calibrate(fit, new, mode=mode, **QUICK)
    labelled = {"unsupervised": [0, 0, 0]}.get(mode, [2, 3, 4])
    unlabelled = {"supervised": [0, 0, 0]}.get(mode, [8, 8, 8])
    assert found.units["labelled"].tolist() == labelled
    assert found.units["unlabelled"].tolist() == unlabelled
    assert found.units.index.tolist() == ["west", "east", "north"]
    assert found.train.n_rows == sum(labelled) + sum(unlabelled)
    assert zoo.predict(found, new, draws=2)["y.mean"].notna().all()


# ---------------------------------------------------------------- errors
def test_a_unit_without_a_row_to_use_is_named(fit, new):
    hidden = new.relabel(new["unit"].numpy() != 1)
    with pytest.raises(ValueError, match="unit east: it has no labelled row, so supervised calibration"):
        calibrate(fit, hidden, mode="supervised", **QUICK)
    calibrate(fit, hidden, **QUICK)
    full = new.subset(np.flatnonzero(new.observed("y")))
    with pytest.raises(ValueError, match="unit west: it has no unlabelled row"):
        calibrate(fit, full, mode="unsupervised", **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode: 'both' is none of"),
        ({"method": "sgd"}, "method: 'sgd' is none of"),
        ({"start": torch.zeros(7)}, "start: shape"),
        ({"starts": 0}, "starts: 0"),
    ],
)
def test_bad_arguments_are_named(fit, new, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(fit, new, **{**QUICK, **options})


def test_data_of_other_columns_are_refused(fit, new):
    wide = Batch.from_arrays(rows={"x": torch.randn(4, 5), "y": torch.randn(4, 1)}, groups={"unit": [0, 0, 1, 1]},
                             labels={"y": [True] * 4})  # fmt: skip
    with pytest.raises(ValueError, match=r"x: shape \(4, 5\); the networks take \(rows, 2\)"):
        calibrate(fit, wide, **QUICK)
    blind = Batch.from_arrays(rows={"x": new["x"]}, groups={"unit": new.group_names("unit")})
    with pytest.raises(ValueError, match="the target 'y', with NaN where it is not known"):
        calibrate(fit, blind, **QUICK)


def test_mtl_is_calibrated_by_labels_only(new):
    source = trained("mtl")
    with pytest.raises(ValueError, match="needs a model of x, which MTL is not"):
        calibrate(source, new, **QUICK)
    with pytest.raises(ValueError, match="alpha: MTL has no such term"):
        calibrate(source, new, mode="supervised", alpha=0.0, **QUICK)
    found = calibrate(source, new, mode="supervised", **QUICK)
    assert len(zoo.predict(found, new, draws=2)) == new.n_rows
    assert refine(found, draws=500, progress=False).units["refined"].all()


@pytest.mark.parametrize("method", ["robust", "paper"])
def test_what_is_not_finite_is_an_error(fit, new, method, monkeypatch):
    if method == "paper":
        with pytest.raises(NonFiniteLoss) as error:
            calibrate(fit, new, method="paper", start=torch.full((K,), 1e300), progress=False)
    else:
        with pytest.raises(NonFiniteLoss) as error:
            calibrate(fit, new, **{**QUICK, "lr": 1e200})
    assert error.value.fit.units.index.tolist() == ["west", "east", "north"]


# ---------------------------------------------------------------- the paper's method
@pytest.mark.parametrize("mode", calibration.MODES)
def test_a_step_of_the_papers_method_by_hand(fit, new, mode, monkeypatch):
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda shape, dtype, device: torch.zeros(shape))
    monkeypatch.setattr(calibration, "PAPER_STEPS", 1)
    start = torch.tensor([0.3, -0.2])
    found = calibrate(fit, new, mode=mode, method="paper", start=start, progress=False)
    np.testing.assert_allclose(found.guide.c_log_scale.detach().exp() ** 2, 0.1, rtol=1e-12)
    data, model, local = found.train, fit.model, fit.guide.local
    c = start.expand(3, K).clone().requires_grad_()
    own = c[data["unit"]]
    x, seen = (data["x"] - model.x_loc) / model.x_scale, data["labelled"]
    loc, scale = local.g_y(x, own)
    q_y = torch.distributions.Normal(model.y_loc + model.y_scale * loc, model.y_scale * scale)
    y = torch.where(seen[:, None], data["y"], q_y.mean)
    m, s = local.g_z(x, (y - model.y_loc) / model.y_scale, own)
    p_x, p_y = model.decode(m, own)
    standard = torch.distributions.Normal(0.0, 1.0)
    rows = p_x.log_prob(data["x"]) + p_y.log_prob(y) + standard.log_prob(m).sum(-1) + s.log().sum(-1)
    rows = rows - torch.where(seen, torch.zeros(()), q_y.log_prob(y)[:, 0])
    n, n_labelled = (torch.bincount(data["unit"][k], minlength=3) for k in (slice(None), seen))
    share = (n / n_labelled.clamp(min=1))[data["unit"]]
    head = torch.where(seen, share * q_y.log_prob(y)[:, 0], torch.zeros(()))
    (rows.sum() + head.sum() + standard.log_prob(c).sum()).backward()
    mean_gradient = c.grad / n[:, None]  # eq. 20 is a mean over rows
    torch.testing.assert_close(found.guide.c_loc.detach(), start + 1e-4 * mean_gradient, rtol=1e-10, atol=1e-12)


def test_the_papers_method_starts_at_zero_and_takes_100_steps(fit, new):
    found = calibrate(fit, new, method="paper", progress=False)
    assert len(found.history) == 100
    assert set(found.history["lr"]) == {1e-4}


# ---------------------------------------------------------------- the new fit is a fit
def test_a_calibrated_fit_is_saved_loaded_and_drawn_from(fit, new, tmp_path):
    found = calibrate(fit, new, **QUICK)
    again = zoo.load(found.save(tmp_path / "new"))
    assert zoo.predict(found, new, draws=3).equals(zoo.predict(again, new, draws=3))
    posterior = zoo.to_arviz(again, new, draws=4).posterior
    assert posterior["unit"].values.tolist() == ["west", "east", "north"]
    assert posterior["c"].shape == (1, 4, 3, K)
    assert set(zoo.metrics(found, new, draws=5)) >= {"y.rmse", "y.cover90"}
    assert len(zoo.khat(found, draws=25)) == found.train.n_rows
    with pytest.raises(KeyError, match="unknown unit"):
        zoo.predict(found, fit.train, draws=2)


# ---------------------------------------------------------------- a case with a closed form
def linear_gaussian(new):
    """A fit whose networks are linear, with the exact row guide; and each unit's posterior mean and covariance of c."""
    torch.manual_seed(0)
    model = zoo.create_model("ssmtl", None, x_dim=2, y_dim=1, n_units=3, c_dim=K, z_dim=1, depth=0, floor=0.0)
    fit = zoo.fit(model, "paper", new, steps=1, progress=False)
    w_z, w_c, b = torch.randn(3, 1), torch.randn(3, K), torch.randn(3)
    sd = torch.tensor([0.8, 1.1, 0.6])
    total = w_z @ w_z.T + torch.diag(sd**2)  # covariance of (x, y) given c
    gain = total[2:, :2] @ total[:2, :2].inverse()
    y_sd = (total[2:, 2:] - gain @ total[:2, 2:]).sqrt()[0]
    z_precision = 1 + (w_z[:, 0] ** 2 / sd**2).sum()
    z_gain = (w_z.T / sd**2) / z_precision
    with torch.no_grad():
        layers = [fit.model.decoder.net[-1], fit.guide.local.g_y.net[-1], fit.guide.local.g_z.net[-1]]
        locs = [
            (torch.cat([w_z, w_c], 1), b),
            (torch.cat([gain, w_c[2:] - gain @ w_c[:2]], 1), b[2:] - gain @ b[:2]),
            (torch.cat([z_gain, -z_gain @ w_c], 1), -z_gain @ b),
        ]
        for layer, (weight, bias), scale in zip(layers, locs, [sd, y_sd, z_precision.rsqrt()[None]], strict=True):
            layer.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
            layer.bias.copy_(torch.cat([bias, scale.log()]))
        rows = b + torch.randn(new.n_rows, 1) @ w_z.T + torch.randn(3, K)[new["unit"]] @ w_c.T
        rows = rows + sd * torch.randn(new.n_rows, 3)
    seen = new["labelled"]
    data = new.with_tensors({"x": rows[:, :2], "y": torch.where(seen[:, None], rows[:, 2:], torch.zeros(()))})
    means, covs = [], []
    for unit in range(3):
        precision, pull = torch.eye(K), torch.zeros(K)
        for mask, n in ((seen, 3), (~seen, 2)):
            own = rows[mask & (data["unit"] == unit), :n] - b[:n]
            weight = w_c[:n].T @ total[:n, :n].inverse()
            precision, pull = precision + len(own) * weight @ w_c[:n], pull + (own @ weight.T).sum(0)
        covs.append(precision.inverse())
        means.append(covs[-1] @ pull)
    return fit, data, torch.stack(means), torch.stack(covs)


def test_robust_calibration_finds_the_exact_posterior_mean(new):
    fit, data, means, covs = linear_gaussian(new)
    found = calibrate(fit, data, alpha=0.0, steps=200, lr=0.05, particles=128, starts=1, progress=False)
    loc, log_scale = contexts(found)
    sd = covs.inverse().diagonal(dim1=-2, dim2=-1).rsqrt()  # the best of independent normals is this narrow
    assert ((loc - means) / sd).abs().max() < 0.1
    assert (log_scale - sd.log()).abs().max() < 0.1


def test_refinement_finds_the_exact_posterior(new):
    fit, data, means, covs = linear_gaussian(new)
    wrong = calibrate(fit, data, **QUICK)
    with torch.no_grad():
        wrong.guide.c_loc += 0.3
        wrong.guide.c_log_scale -= 1.0
    found = refine(wrong, draws=6000, inner=1, rounds=3, progress=False)
    c = found.guide.contexts(None)
    sd = covs.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((c.mean - means) / sd).abs().max() < 0.08
    relative = (c.covariance_matrix - covs) / (sd[:, :, None] * sd[:, None, :])
    assert relative.abs().max() < 0.12
    assert (found.units["khat"] < 0.5).all()
    assert (found.units["ess"] > 1500).all()
    assert found.units["refined"].all()


def test_the_evidence_is_exact(new):
    fit, data, means, covs = linear_gaussian(new)
    found = refine(calibrate(fit, data, **QUICK), draws=2000, inner=1, rounds=3, progress=False)
    c = torch.distributions.MultivariateNormal(means, covs)
    prior = torch.distributions.Normal(0.0, 1.0)
    rows = refinement._log_likelihood(found.best, fit.prepare(data), means[None], 1)[0]
    exact = prior.log_prob(means).sum(-1) + rows - c.log_prob(means)  # Bayes' rule at any c
    np.testing.assert_allclose(found.units["evidence"], exact, atol=0.05)


def test_a_refined_fit_is_saved_loaded_and_drawn_from(new, tmp_path):
    fit, data, *_ = linear_gaussian(new)
    found = refine(calibrate(fit, data, **QUICK), draws=300, inner=2, rounds=2, progress=False)
    again = zoo.load(found.save(tmp_path / "refined"))
    assert zoo.predict(found, data, draws=3).equals(zoo.predict(again, data, draws=3))
    drawn = zoo.to_arviz(again, data, draws=3)
    assert drawn.posterior["unit"].values.tolist() == ["west", "east", "north"]
    assert np.isfinite(drawn.sample_stats["lq"]).all()


def test_weights_that_cannot_be_used_leave_the_posterior_as_it_was(new):
    fit, data, *_ = linear_gaussian(new)
    with torch.no_grad():
        fit.guide.local.g_z.net[-1].bias[:1] += 4.0  # a row guide far off: the inner estimates are noise
    before = calibrate(fit, data, alpha=0.0, steps=5, progress=False)
    with pytest.warns(UserWarning, match="keep the q"):
        found = refine(before, draws=400, inner=2, rounds=2, progress=False)
    bad = ~found.units["refined"].to_numpy()
    assert bad.any()
    loc, log_scale = contexts(before)
    assert ((found.guide.c_loc - loc).abs() / log_scale.exp())[bad].max() < 0.2


def test_refine_asks_for_the_training_data(fit, new, tmp_path):
    found = calibrate(fit, new, **QUICK)
    with pytest.raises(ValueError, match="pass the training data"):
        refine(zoo.load(found.save(tmp_path / "new")))
    with pytest.raises(ValueError, match="at least 25"):
        refine(found, draws=3)


# ---------------------------------------------------------------- data of the experiment
def test_more_labels_add_rows_to_those_with_fewer():
    (few, test), (many, same) = new_units(7, 2), new_units(7, 5)
    assert torch.equal(test["x"], same["x"])
    assert (few.sizes["labelled"], few.sizes["unlabelled"]) == (40, 400)
    for unit in (0, 19):
        for stratum in ("labelled", "unlabelled"):
            less, more = (b["x"][b.strata[stratum]][b["unit"][b.strata[stratum]] == unit] for b in (few, many))
            assert torch.equal(less, more[: len(less)])
