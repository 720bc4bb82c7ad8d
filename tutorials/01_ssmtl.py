# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Semi-supervised multi-unit soft sensing: the paper, told through its code
#
# B. Grimstad, K. Løvland, L. S. Imsland, V. Gunnerud, *A deep latent variable model for semi-supervised multi-unit soft
# sensing in industrial processes* ([arXiv:2407.13310](https://arxiv.org/abs/2407.13310)). Numbers in parentheses are
# its equations. **All wells on this page are simulated**; section 10 has a real dryer. It runs in about three minutes.
#
# After it you can say what every site of `ssmtl` stands for, predict in units with few labels, adapt to new units, ask
# what if, replace a lost sensor, watch a drifting one, and make intervals that hold.

# %%
# %matplotlib inline
import inspect
import logging
import os
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from pyro import poutine
from sklearn.metrics import roc_auc_score

import pyrozoo as zoo
from pyrozoo import plots, scores
from pyrozoo.models import ssmtl

logging.basicConfig(stream=sys.stdout, format="pyrozoo says: %(message)s")  # its hints belong to this page
smoke = "PYROZOO_SMOKE" in os.environ  # set by the tests, which run every cell but with hardly any training
steps, mtl_steps, calibration_steps, draws, sweeps = (3, 3, 2, 4, 4) if smoke else (3000, 6000, 100, 100, 40)
real_steps = 3 if smoke else 400
if smoke:  # networks that were hardly trained do not suit the sampler of section 7, which says so
    warnings.filterwarnings("ignore", ".* have not converged")

# %% [markdown]
# The versions that this page was run with:

# %%
print(*(f"{name} {version(name)}" for name in ("pyro-ppl", "torch", "numpy", "pandas", "arviz")), sep=", ")
print("pyrozoo", zoo.__version__)

# %% [markdown]
# ## 1. The problem
#
# Many wells of one kind. In each, the choke opening $u$ and the pressure $p$ before the choke are always there,
# $x = (u, p)$; the flow $y = Q$ is measured now and then. Wanted: $Q$ from $x$, in every well, from a handful of flows
# per well. A choke (25) and a pipe with friction (26) tie the three together:
#
# $$Q = \sqrt{-c_1 u^2 + c_2 u^2 p} \quad (27), \qquad p = c_3 - c_4 Q^2 \quad (28).$$
#
# The constants $c_1 \dots c_4$ differ from well to well, and nobody knows them; $c_3$ is a closed well's pressure.
# `simulate` draws wells by algorithm 2 of appendix B, here with the numbers of the paper's experiment: 50 wells with 5
# labelled, 100 unlabelled and 100 test rows each. The paper states neither the distribution of the constants nor the
# noise; ours are in the docstring. In the preset "same-valve" all wells have similar chokes.

# %%
train, test = ssmtl.simulate(
    n_units=50, n_labelled=5, n_unlabelled=100, n_test=100, seed=103, **ssmtl.PRESETS["same-valve"]
)
print(train)
opening = np.linspace(10, 100, 91)


def physics(batch, well):
    """Pressure and flow of a well without noise, against the opening: (27) and (28) solved."""
    c1, c2, c3, c4 = (batch.truth[name][well] for name in ("c1", "c2", "c3", "c4"))
    v2 = (opening / 100) ** 2
    p = (c3 + c1 * c4 * v2) / (1 + c2 * c4 * v2)
    return p, np.sqrt(-c1 * v2 + c2 * v2 * p)


figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for well, colour in zip(range(4), plots.COLOURS, strict=False):
    rows, seen = train["unit"].numpy() == well, train.observed("y")
    (u, p), q = train["x"].numpy().T, train["y"][:, 0].numpy()
    for panel, line in zip(panels, physics(train, well), strict=True):
        panel.plot(opening, line, color=colour, lw=1)
    panels[0].plot(u[rows & ~seen], p[rows & ~seen], ".", color=colour, ms=3, alpha=0.6)
    panels[0].plot(u[rows & seen], p[rows & seen], "o", color=colour, mec="black", label=f"well {well}")
    panels[1].plot(u[rows & seen], q[rows & seen], "o", color=colour, mec="black")
panels[0].plot([], [], "k.", ms=3, label="unlabelled row")
panels[0].plot([], [], "wo", mec="black", label="labelled row")
panels[0].plot([], [], "k-", lw=1, label="truth without noise")
panels[0].set(xlabel="choke opening u [%]", ylabel="pressure p [bar]", title="always measured")
panels[1].set(xlabel="choke opening u [%]", ylabel="flow Q [m³/h]", title="measured five times per well")
legend = figure.legend(loc="outside right center", frameon=False)

# %% [markdown]
# Five flows are few, but 105 pairs $(u, p)$ show a well's whole pressure curve, and the pressure curve is made of the
# same constants as the flow. That is what unlabelled rows have to offer: $c_3$, $c_1/c_2$ and $c_2 c_4$ can be read off
# them. The scale of the flow, $1/\sqrt{c_4}$, can not; it needs labels, or other wells that are alike.
#
# ## 2. The model and the guide, in Pyro
#
#     for unit i = 1..M:        c_i  ~ N(0, I_K)                          context: what makes the unit its own    (1)
#       for row j = 1..N_i:     z_ij ~ N(0, I_D)                          state of the row                        (1)
#                               x_ij | z_ij, c_i ~ N(mu_x, sigma_x^2)     networks of (z, c)                      (1)
#                               y_ij | z_ij, c_i ~ N(mu_y, sigma_y^2)     observed in labelled rows only          (1)
#
#     q(c_i)         = N(m_i, s_i^2)         free numbers of every unit                                          (11)
#     q(y | x, c)    = N(g_y(x, c))          a network; where y is missing; the soft sensor                      (12)
#     q(z | x, y, c) = N(g_z(x, y, c))       a network; all rows                                                 (13)
#
# Below are the same lines as they stand in the code: the statements of `SSMTL.forward`, then of the guide.

# %%
model = zoo.create_model("ssmtl", train, c_dim=4, z_dim=5, width=200, floor=0.05)
guide = zoo.create_guide(model, "paper")


def statements(function):
    """The lines of a function that sample or weigh, without comments."""
    lines = (line.split("  #")[0].strip() for line in inspect.getsource(function).splitlines())
    return [line for line in lines if "pyro.sample(" in line or "pyro.factor(" in line]


print("model", *statements(model.forward), "", sep="\n    ")
print("guide", *statements(guide.forward), *statements(guide.local.forward), sep="\n    ")

# %% [markdown]
# Nothing else is in it: a PyroModule with plates, networks and `sample` statements. A trace shows the shapes, 50 wells
# and 5,250 rows; `obs_mask` splits `y` into an observed and an unobserved part.

# %%
with torch.no_grad():
    trace = poutine.trace(model).get_trace(**train)
print(trace.format_shapes())

# %% [markdown]
# **What alpha does.** The ELBO (14, 15) asks the soft sensor $q(y | x, c)$ only where $y$ is missing, so no label ever
# touches it directly. The paper adds them (20):
#
# $$J = \tfrac1N \mathrm{ELBO} + \alpha \tfrac1{N^l} \textstyle\sum_{labelled} \mathrm{E}_{q(c_i)} \log q(y | x, c_i).$$
#
# In Pyro that is the guide's `factor`, and nothing more. With $\alpha > 0$ the objective is no ELBO: the labelled rows
# count many times, which is good for the soft sensor's mean and makes $q(c)$ too narrow.
#
# ## 3. Fit
#
# The rival is MTL (appendix A): $y \sim N(f(x, c_i), \sigma^2)$ with the same kind of contexts and **the same labels**,
# without unlabelled rows. Both have the settings that were tuned for them on other simulated wells.

# %%
settings = {"seed": 0, "lr": 2e-3, "progress": False}
fit = zoo.fit(model, "paper", train, steps=steps, batch_size={"labelled": None, "unlabelled": 250}, **settings)
mtl_model = zoo.create_model("ssmtl", train, variant="mtl", c_dim=4, width=64, floor=0.02)
mtl = zoo.fit(mtl_model, "paper", train, steps=mtl_steps, batch_size={"labelled": None, "unlabelled": 0}, **settings)
plots.elbo_curves({"SSMTL": fit.history}).figure

# %% [markdown]
# The score of the paper is the mean absolute percentage error (MAPE) of the flow on a unit's test rows. Per well:

# %%
truth, well = test["y"][:, 0].numpy(), test.group_names("unit")


def mape(fitted, batch=test):
    """MAPE of every well [%]."""
    mean = zoo.predict(fitted, batch, draws=draws)["y.mean"].to_numpy()
    return scores.per_group(scores.mape, batch["y"][:, 0].numpy(), mean, batch.group_names("unit"))


def mean_se(values):
    """Mean over wells, and its standard error."""
    return f"{values.mean():5.2f} ± {values.sem():.2f}"


errors = pd.DataFrame({"MTL": mape(mtl), "SSMTL": mape(fit)})
difference = errors["SSMTL"] - errors["MTL"]
print(*(f"MAPE of {name:5} {mean_se(errors[name])} %" for name in errors), sep="\n")
print(f"difference    {mean_se(difference)} %, SSMTL is better in {(difference < 0).sum()} of 50 simulated wells")
figure, panel = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
panel.plot(errors["MTL"], errors["SSMTL"], "o", color=plots.BLUE, mew=0, alpha=0.8, label="a well")
panel.axline((1, 1), slope=1, color="black", lw=1, label="equal")
limits = (0, 1.05 * errors.max().max())
panel.set(xlabel="MAPE of MTL [%]", ylabel="MAPE of SSMTL [%]", xlim=limits, ylim=limits, aspect="equal")
legend = panel.legend()

# %% [markdown]
# Table 1 of the paper in small: unlabelled rows lower the error. It is one data set and one start of the networks; the
# [entry's page](../pyrozoo/models/ssmtl/README.md) has several, with standard errors over them.
#
# ## 4. Does the model fit, and do its intervals hold?
#
# A posterior predictive check draws all rows anew from the fitted model. `p` is the share of replications with a larger
# statistic: near 0 or 1 is a misfit, but with 5,250 rows even a small one shows, so compare the sizes.

# %%
check = zoo.ppc(fit, train, draws=draws // 2).set_index(["component", "statistic"])[["observed", "replicated", "p"]]
check.round(2)

# %%
drawn = zoo.to_arviz(fit, train, draws=draws // 2, sites=["x"])
pressure = drawn.observed_data["input"].values[1]
plots.ppc(drawn, "x", coords={"input": pressure}, title="pressure p [bar], training rows", figsize=(6.8, 4.2))

# %%
levels = (50, 80, 90)
covered = {name: zoo.coverage(f, test, levels=levels, draws=draws) for name, f in {"SSMTL": fit, "MTL": mtl}.items()}
print(pd.concat(covered).round(2))
plots.interval_coverage(covered).figure

# %% [markdown]
# Of the flows, about 98% lie in SSMTL's 90% intervals and 83% in MTL's: the first are too wide, the second too narrow.
# SSMTL's are wide by choice: `floor=0.05` keeps every standard deviation above a twentieth of that of the data, here
# 2.9 m³/h, where the simulated noise is 1 m³/h. The floor stands in for the paper's early stopping, which would cost
# labels. Section 9 corrects both.
#
# The predictive check shows it in the range: replicated openings go from about 7 to 104%, beyond what the data and a
# choke can do; a normal distribution knows no bounds. All means and standard deviations are within 0.5%.
#
# ## 5. What the contexts have learned
#
# No well ever told the model its constants. The posterior means of $c_i$, four numbers per well, in the plane of their
# first two principal components, coloured by true constants:

# %%
report = zoo.latent_report(fit, train, "c", draws=2)
figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
shown = {
    "pressure without flow, c₃ [bar]": train.truth["c3"],
    "diameter of the pipe [cm]": 100 * train.truth["diameter"],
}
for panel, (label, values) in zip(panels, shown.items(), strict=True):
    plots.latent_map(report.means, truth=values, truth_label=label, name="c", ax=panel)
report.probes.round(2).to_frame().T

# %% [markdown]
# `probes` is the share of a true constant's variance, over wells, that a linear map of the posterior means explains in
# cross-validation. The contexts hold what the data tell: nearly all of $c_3$, and most of $c_4$, which goes with the
# fifth power of the diameter. They hold nothing of the pipe's height or friction coefficient: these matter only as
# factors of $c_4$, and vary less.
#
# ## 6. A new well: calibration with frozen networks
#
# The networks know wells by now. Of a new one only $q(c)$ is to be learned (section 6.3), from rows of its own: those
# with a label ("supervised"), those without ("unsupervised"), or both. Twelve new simulated wells, numbered from 0
# again, with 1 or 3 labels, and 10 unlabelled rows per label as in the paper's figure 11. (`method="paper"` is the
# paper's plain gradient descent; the default uses Adam and starts from the contexts of several trained wells.)

# %%
modes = {"supervised": plots.GREEN, "unsupervised": plots.VERMILION, "semi-supervised": plots.BLUE}
n_new, label_counts = 12, (1, 3)
new, calibrated, new_errors = {}, {}, {}
for n in label_counts:  # with one seed, fewer rows are the first of more
    new[n], new_test = ssmtl.simulate(n_new, n, 10 * n, 100, seed=203, **ssmtl.PRESETS["same-valve"])
    for mode in modes:
        calibrated[mode, n] = ssmtl.calibrate(fit, new[n], mode=mode, steps=calibration_steps, progress=False)
        new_errors[mode, n] = mape(calibrated[mode, n], new_test)

with torch.no_grad():  # no data at all: the soft sensor, a network, at the context's prior mean
    x = fit.model.standardise_x(new_test["x"])
    no_data = fit.model.y_given(*fit.guide.local.g_y(x, torch.zeros(len(x), 4))).mean[:, 0].numpy()
new_truth, new_well = new_test["y"][:, 0].numpy(), new_test.group_names("unit")
no_data = scores.per_group(scores.mape, new_truth, no_data, new_well)

print(f"MAPE without data                {mean_se(no_data)} %")
print(
    *(f"N^l = {n}, N^u = {10 * n:2}, {mode:15} {mean_se(values)} %" for (mode, n), values in new_errors.items()),
    sep="\n",
)
gains = {f"unsupervised - no data, {n}": new_errors["unsupervised", n] - no_data for n in label_counts}
gains |= {
    f"semi-supervised - supervised, {n}": new_errors["semi-supervised", n] - new_errors["supervised", n]
    for n in label_counts
}
print("paired differences over the wells:", *(f"  {name}: {mean_se(gain)} %" for name, gain in gains.items()), sep="\n")

# %%
figure, panel = plt.subplots(figsize=(6, 3.8), layout="constrained")
for mode, colour in modes.items():
    values = [new_errors[mode, n] for n in label_counts]
    panel.errorbar(
        label_counts,
        [v.mean() for v in values],
        [v.sem() for v in values],
        color=colour,
        marker="o",
        capsize=3,
        label=mode,
    )
panel.axhline(no_data.mean(), color="black", ls="--", lw=1, label="no data (c = 0)")
panel.set(
    xlabel="labelled rows per new well (and ten times as many unlabelled)", ylabel="MAPE [%], mean of 12 wells ± SE"
)
panel.set(xticks=label_counts, ylim=(0, None))
legend = panel.legend(fontsize=9)

# %% [markdown]
# With one label, ten unlabelled rows take away about half of the error: that is the paper's point at its strongest.
# With three labels there is no clear difference any more. Unlabelled rows alone do little here, which section 1
# explains: the scale of the flow is not in them. The paper's figure 11 shows a gain there too, on its own data.
#
# What the calibration knows of one of these wells, in ArviZ: the posterior of its context from 30 unlabelled rows, from
# 3 labelled ones, and from both.

# %%
one_well = {"unit": [0]}
posteriors = {
    f"{mode}, 3": zoo.to_arviz(calibrated[mode, 3], calibrated[mode, 3].train, draws=2 * draws, sites=["c"])
    for mode in modes
}
plots.forest(posteriors, "c", coords=one_well, figsize=(8, 4.5))

# %% [markdown]
# In some of the four numbers the unsupervised interval does not overlap the others, though all are about one well. So
# $q(c)$ is too narrow. Use it to predict, not to say how well a context is known. (`ssmtl.refine` replaces it by
# importance sampling, and says for which wells that worked.)
#
# ## 7. What if, and what was it
#
# The generative model draws what was not observed. First a question about well 3 of the training data: what pressure
# and what flow at other openings of the choke? (This answers "what if I set it" only because the opening is a cause.)

# %%
asked = 3
answer = ssmtl.what_if(
    fit, asked, {"choke_opening_percent": opening[::5]}, draws=2 * draws, sweeps=sweeps, progress=False
)
figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
true = dict(zip(("pressure_bar", "flow_m3_per_h"), physics(train, asked), strict=True))
for panel, (name, line) in zip(panels, true.items(), strict=True):
    table = answer.table
    panel.fill_between(
        table["choke_opening_percent"],
        table[f"{name}.q05"],
        table[f"{name}.q95"],
        color=plots.SKY,
        alpha=0.4,
        label="90% interval",
    )
    panel.plot(table["choke_opening_percent"], table[f"{name}.mean"], color=plots.BLUE, label="mean")
    panel.plot(opening, line, "k--", lw=1, label="truth without noise")
rows = (train["unit"].numpy() == asked) & train.observed("y")
for panel, values in zip(panels, (train["x"][:, 1], train["y"][:, 0]), strict=True):
    panel.plot(
        train["x"][rows, 0], values[rows], "o", color=plots.VERMILION, mec="black", label="labelled rows of the well"
    )
panels[0].set(xlabel="choke opening u [%]", ylabel="pressure p [bar]", title=f"simulated well {asked}")
panels[1].set(xlabel="choke opening u [%]", ylabel="flow Q [m³/h]")
legend = panels[0].legend(fontsize=9)

# %% [markdown]
# The means follow the truth, within 5 m³/h of flow up to an opening of 80%. Above, where this well has no label, the
# flow comes out a little low.
#
# Then a repair. In some rows the pressure sensor was out of order, and the flow is not measured either: only the
# opening is left. `impute` draws the other two. Four test rows of each well:

# %%
some = test.subset(np.flatnonzero(np.arange(test.n_rows) % 25 == 0)).hide()
lost = np.tile([False, True], (some.n_rows, 1))  # of the inputs u and p
filled = ssmtl.impute(fit, some, lost, draws=draws, sweeps=sweeps, progress=False).table.xs(
    "pressure_bar", level="variable"
)
pressure = some["x"][:, 1].numpy()
usual = pd.Series(train["x"][:, 1].numpy()).groupby(train.group_names("unit")).mean().loc[some.group_names("unit")]
cover = scores.coverage(pressure, filled["q05"], filled["q95"])
imputed = {"rmse": scores.rmse(pressure, filled["mean"]), "cover": cover}
print(f"RMSE of the well's mean pressure    {scores.rmse(pressure, usual):5.2f} bar")
print(f"RMSE of the imputed pressure        {imputed['rmse']:5.2f} bar (the sensor's noise alone: 0.30 bar)")
print(f"pressures inside their 90% interval {imputed['cover']:5.0%}")
plots.predicted_vs_observed(filled.add_prefix("y."), pressure, quantity="pressure p", unit="bar").figure

# %% [markdown]
# The imputed pressures are nearly as good as a sensor. (Their intervals are too wide, again because of the floor.)
#
# ## 8. Surveillance
#
# Rows that the model finds improbable may mean a broken sensor. From row 25 of 50 on, the pressure sensor of ten wells
# drifts, up to 5 bar at the end; the other forty are healthy. `monitor` scores each row by minus its log density, here
# averaged over the last five rows of its well. The alarm threshold comes from clean rows that the model has not seen,
# such that 1% of them would raise an alarm. (Simulated rows have no order in time; here they follow one another as they
# are.)

# %%
reference, later = test.hide().split(0.5, by="last")
sick = list(range(10))
faulty, broken = ssmtl.inject_fault(later, "pressure_bar", "drift", 5.0, units=sick, start=0.5)
watch = ssmtl.monitor(fit, faulty, reference=reference, window=5, draws=draws, progress=False)
scored = watch["score"].notna().to_numpy()
auroc = roc_auc_score(broken[scored], watch["score"][scored])
row = pd.Series(broken).groupby(faulty.group_names("unit")).cumcount().to_numpy()
late = broken & (row >= 40)
alarms = {"healthy rows": watch["alarm"][scored & ~broken].mean(), "faulty rows": watch["alarm"][broken].mean()}
alarms["faulty rows, last ten of a well"] = watch["alarm"][late].mean()
drift = 5.0 * (row - 24) / 25
first = pd.Series(drift).where(broken & watch["alarm"].to_numpy()).groupby(faulty.group_names("unit")).min().median()
print(
    f"AUROC, faulty against healthy rows: {auroc:.2f}",
    *(f"alarms on {k}: {v:.0%}" for k, v in alarms.items()),
    f"drift at the first alarm, median of ten wells: {first:.1f} bar",
    sep="\n",
)

figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
for panel, unit in zip(panels, (0, 1, 10), strict=True):
    own = faulty.group_names("unit") == unit
    panel.plot(row[own], watch["score"][own], color=plots.BLUE, label="score, mean of 5 rows")
    panel.axhline(watch["threshold"].iloc[0], color=plots.VERMILION, ls="--", label="alarm threshold")
    if broken[own].any():
        panel.axvspan(
            row[own & broken].min(), row[own].max(), color=plots.ORANGE, alpha=0.2, lw=0, label="drift, 0 to 5 bar"
        )
    panel.set(xlabel="row of the well", title=f"simulated well {unit}" + ("" if unit in sick else ", healthy"))
panels[0].set(ylabel="minus log density [nats]")
legend = panels[0].legend(fontsize=8)

# %% [markdown]
# The alarm comes when the drift has reached about 2 bar. Below that it drowns in the smallest standard deviation that
# the floor allows the pressure, 1.5 bar; that is what a wide interval costs here. `monitor` also names the most
# surprising sensor (`suspect`), but of two sensors that are tied to each other nobody can tell which one is wrong.
#
# ## 9. Intervals that hold
#
# One label per well that training did not see corrects the intervals (split conformal prediction); here a test row is
# spent on it. (Where there are no others, `zoo.hold_out(train)` keeps one label in five out of training.) It is done
# ten times, with another row of each well, because the promise is a coverage of 90% on average over such choices, over
# wells and over rows: 50 labels can be unlucky.

# %%
place = np.arange(test.n_rows) % 100
kept, rest = [test.subset(np.flatnonzero(place == k)) for k in range(10)], test.subset(np.flatnonzero(place >= 10))
lines = {}
for name, fitted in {"SSMTL": fit, "MTL": mtl}.items():
    lines[name, "its own"] = zoo.coverage(fitted, rest, levels=(90,), draws=draws).iloc[0]
    found = [zoo.conformal(fitted, labels, level=0.9, draws=draws // 2).coverage(rest).iloc[0] for labels in kept]
    lines[name, "conformal"] = pd.DataFrame(found)[["nominal", "empirical", "width"]].mean()
    lines[name, "conformal"]["sd over choices"] = np.std([line["empirical"] for line in found], ddof=1)
intervals = pd.DataFrame(lines).T.astype(float)
intervals.round(3)

# %% [markdown]
# SSMTL's intervals become narrower by almost half, MTL's wider by a third. On average over the ten choices both come
# within four points of 90%; single choices differ by about three (`sd over choices`), by less with more labels.

# %% [markdown]
# ## 10. A real table: rows in time, with gaps
#
# **These data are real**: 30 batches of an industrial dryer, nine sensors, and the level of the tank that collects the
# solvent. Here they are as a plant may have them: a tenth of the readings is lost (this page removes them at random),
# and the level is known five times per batch. Wanted are the levels of the last quarter of every batch, later than all
# that are known.

# %%
dryer = ssmtl.dryer(time=True)
sensors = dryer.columns("x")
df = pd.DataFrame(dryer["x"].numpy(), columns=sensors).assign(batch=dryer.group_names("unit"), clock=dryer.time)
df[sensors] = df[sensors].mask(np.random.default_rng(0).random((len(df), len(sensors))) < 0.1)
df["level"] = dryer["y"][:, 0].numpy()
df = df[df["batch"].isin(df["batch"].unique()[:30])]

rows_of_plant = zoo.Batch.from_dataframe(df, unit="batch", x=sensors, y="level", time="clock", name="dryer with gaps")
past, later = rows_of_plant.split(0.25, by="last")  # in the order of their times
past = past.relabel(ssmtl.draw_labels(past, 5, seed=0))
print(past)
print(f"{1 - float(past['x_seen'].double().mean()):.0%} of the readings are missing")

# %% [markdown]
# An empty cell needs no treatment: it leaves the likelihood of its row, in training and in predictions, and training
# hides a few more (`gaps`), so that the networks know gaps in every sensor. The time of a row is no input; it orders
# the rows, and Gaussian processes on the labels, which predict beside the networks, read it. With `by="last"` the law
# of the intervals is learned on labels that are later than those that its fits have seen, because later rows are asked
# for.

# %%
small = {"steps": real_steps, "batch_size": {"labelled": None, "unlabelled": 100}, "lr": 2e-3, "progress": False}
plant_model = zoo.create_model("ssmtl", past, c_dim=8, z_dim=8, alpha=5.0)
single = zoo.fit(plant_model, "paper", past, seed=0, **small)
crossed = zoo.cross_fitted(plant_model, "paper", past, folds=3, repeats=1, restarts=2, by="last", seed=0, **small)

labels = past.subset(np.flatnonzero(past.observed()))
latest = pd.DataFrame({"batch": labels.group_names("unit"), "clock": labels.time, "level": labels["y"][:, 0].numpy()})
latest = latest.sort_values("clock").groupby("batch")["level"].last()
real = {"one fit": single, "cross-fitted": crossed}
real = {name: zoo.metrics(fitted, later, draws=draws) for name, fitted in real.items()}
real = pd.DataFrame(real).T.rename(columns=lambda name: name.removeprefix("y."))
real.loc["latest level", "rmse"] = scores.rmse(later["y"][:, 0], latest[later.group_names("unit")])
print(f"gaps = {plant_model.gaps}, share of the processes: {crossed.law.parts['y'].w:.2f}")
real[["rmse", "crps", "cover50", "cover80", "cover90"]].round(2)

# %%
seen = np.isin(rows_of_plant.names("row"), labels.names("row"))
shown = rows_of_plant.coords["unit"][[0, 10, 20]].tolist()
plots.unit_lines(
    zoo.predict(crossed, rows_of_plant, draws=draws), rows_of_plant, seen=seen, show=shown, quantity="tank level"
)

# %% [markdown]
# The tank fills, and then its level stands: the latest known level is a rival that neither fit beats here. The
# processes had nearly all of the share by the errors on later labels of the training rows; on the last quarter the
# means with them are worse than those of one fit. What the cross-fit brings are wider intervals: eight in ten levels
# lie inside its 90% interval, of one fit not six in ten. `zoo.report` puts a fit beside the latest value and other
# simple methods without being asked.
#
# ## Check
#
# What this page says in words, once more in numbers.

# %%
observed, replicated = check["observed"].unstack(), check["replicated"].unstack()
cover = {name: float(table["empirical"].iloc[-1]) for name, table in covered.items()}
floor = {"y": 0.05 * float(fit.model.y_scale[0]), "p": 0.05 * float(fit.model.x_scale[1])}
context = {mode: drawn.posterior["c"].sel(unit=0) for mode, drawn in zip(modes, posteriors.values(), strict=True)}
edges = {mode: c.quantile([0.03, 0.97], ("chain", "draw")).values for mode, c in context.items()}
apart = [
    (edges["unsupervised"][0] > edges[mode][1]) | (edges["unsupervised"][1] < edges[mode][0])
    for mode in ("supervised", "semi-supervised")
]
one, three = (gains[f"semi-supervised - supervised, {n}"] for n in label_counts)
flow_line = np.abs(answer.table["flow_m3_per_h.mean"] - true["flow_m3_per_h"][::5])
claims = {
    "the dryer is real, and a tenth of its readings is missing": (
        not dryer.info["simulated"] and 0.095 < 1 - past["x_seen"].double().mean() < 0.105
    ),
    "all scored levels are later than all known ones of their batch": all(
        later.time[later.group_names("unit") == unit].min() > labels.time[labels.group_names("unit") == unit].max()
        for unit in later.coords["unit"]
    ),
    "neither fit beats the latest level": real["rmse"].idxmin() == "latest level",
    "the processes had nearly all of the share": crossed.law.parts["y"].w > 0.9,
    "the cross-fit's means are worse than those of one fit": (
        real.loc["cross-fitted", "rmse"] > real.loc["one fit", "rmse"]
    ),
    "eight in ten levels are inside the cross-fit's 90% interval, not six in ten inside that of one fit": (
        abs(real.loc["cross-fitted", "cover90"] - 0.8) < 0.05 and real.loc["one fit", "cover90"] < 0.6
    ),
    "all wells are simulated": all(batch.info["simulated"] for batch in (train, test, *new.values())),
    "50 wells with 5 labelled, 100 unlabelled and 100 test rows": (
        (np.bincount(train["unit"][train.observed("y")]) == 5).all()
        and (train.n_rows, test.n_rows, train.sizes["unit"]) == (5250, 5000, 50)
    ),
    "SSMTL is better than MTL by more than two standard errors": difference.mean() < -2 * difference.sem(),
    "means and standard deviations of replicated rows are within 0.5%": (
        ((replicated / observed - 1).abs() < 0.005)[["mean", "sd"]].all(axis=None)
    ),
    "replicated openings go from about 7 to 104%": (
        np.allclose(replicated.loc["choke_opening_percent", ["min", "max"]].astype(float), (7, 104), atol=1)
    ),
    "about 98% and 83% of the flows are inside the 90% intervals": (
        np.allclose([*cover.values()], [0.98, 0.83], atol=0.02)
    ),
    "the floor is 2.9 m³/h of flow, 1.5 bar of pressure": (
        np.allclose([floor["y"], floor["p"]], [2.9, 1.5], atol=0.06)
    ),
    "the contexts hold nearly all of c3, most of c4 and diameter": (
        report.probes["c3"] > 0.95 and report.probes[["c4", "diameter"]].min() > 0.7
    ),
    "they hold nothing of height and friction coefficient": report.probes[["height", "friction"]].max() < 0.05,
    "with one label, unlabelled rows take away about half of the error": (
        one.mean() < -2 * one.sem()
        and 0.35 < new_errors["semi-supervised", 1].mean() / new_errors["supervised", 1].mean() < 0.65
    ),
    "with three, there is no clear difference": abs(three.mean()) < 2 * three.sem(),
    "unlabelled rows alone lower the error by less than a quarter": (
        all(new_errors["unsupervised", n].mean() > 0.75 * no_data.mean() for n in label_counts)
    ),
    "in some numbers the unsupervised interval is apart": np.logical_and(*apart).sum() >= 1,
    "the answer is within 5 m³/h of the truth up to 80%": flow_line[opening[::5] <= 80].max() < 5,
    "above, the well has no label, and the flow comes out low": (
        train["x"][rows, 0].max() < 80 and answer.table["flow_m3_per_h.mean"].iloc[-1] < true["flow_m3_per_h"][-1]
    ),
    "imputed pressures are nearly as good as a sensor": imputed["rmse"] < 0.5,
    "their intervals are too wide": imputed["cover"] > 0.97,
    "every one of the last ten faulty rows raises an alarm": alarms["faulty rows, last ten of a well"] == 1,
    "alarms on healthy rows are 3% or less": alarms["healthy rows"] <= 0.03,
    "the alarm comes at a drift of about 2 bar": 1.5 < first < 2.5,
    "conformal intervals come within four points of 90%": (
        (intervals["empirical"].xs("conformal", level=1) - 0.9).abs().max() < 0.04
    ),
    "single choices differ by about three points": np.allclose(intervals["sd over choices"].dropna(), 0.03, atol=0.01),
    "SSMTL's become narrower by almost half, MTL's wider by a third": np.allclose(
        intervals["width"].xs("conformal", level=1) / intervals["width"].xs("its own", level=1), [0.55, 1.33], atol=0.1
    ),
}
print(*(f"{'yes' if holds else 'NO ':4}{claim}" for claim, holds in claims.items()), sep="\n")
assert smoke or all(claims.values())

# %% [markdown]
# ## Exercises
#
# **1.** Swap the prior of the contexts for a Student t of four degrees of freedom. ([My own
# prior](../docs/howto/own_prior.md))
#
# <details><summary>Answer</summary>
#
# ```python
# import pyro.distributions as dist
#
# sizes = {"c_dim": 4, "z_dim": 5, "width": 200, "floor": 0.05}
# heavy = zoo.create_model("ssmtl", train, **sizes, priors={"c": dist.StudentT(4.0, 0.0, 1.0)})
# heavy_fit = zoo.fit(heavy, "paper", train, steps=min(steps, 300), **settings)
# print(zoo.metrics(heavy_fit, test, draws=draws)["y.mape"])
# ```
#
# 300 steps are for a quick look; for a fair comparison with `fit`, take `steps=steps` and the same `batch_size`.
#
# </details>
#
# **2.** Swap the guide: let each well have a full covariance of its context. ([My own
# guide](../docs/howto/own_guide.md))
#
# <details><summary>Answer</summary>
#
# ```python
# full = zoo.fit(model, "mvn", train, steps=min(steps, 300), **settings)
# print(full.guide_name, round(full.best.final_elbo, 2))
# ```
#
# The networks and the sites are the same; only the family of the contexts' posterior is another one.
#
# </details>
