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
# # Quickstart
#
# pyrozoo holds models of published papers on sensor data, written in [Pyro](https://pyro.ai). This page fits one of
# them to real data, looks at what the fit can and cannot do, and then to a table of your own.
# The whole page runs in about two minutes on two cores.
#
# After it you can fit a model of the zoo to your own table, score its predictions, look at its posterior in ArviZ, and
# swap its guide and its prior.

# %%
# %matplotlib inline
import logging
import os
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoMultivariateNormal

import pyrozoo as zoo
from pyrozoo import plots
from pyrozoo.models import ssmtl

logging.basicConfig(stream=sys.stdout, format="pyrozoo says: %(message)s")  # its hints belong to this page
smoke = "PYROZOO_SMOKE" in os.environ  # set by the tests, which run every cell but with hardly any training
steps, draws = (3, 4) if smoke else (1000, 100)

# %% [markdown]
# The versions that this page was run with:

# %%
print(*(f"{name} {version(name)}" for name in ("pyro-ppl", "torch", "numpy", "pandas", "arviz")), sep=", ")
print("pyrozoo", zoo.__version__)

# %% [markdown]
# ## What there is
#
# An entry is a paper. Its card says what the model is for, which parts can be swapped by name, and what to beware of.

# %%
card = zoo.card("ssmtl")
print(zoo.list_models(), "\n")
print(f"{card.title} ({card.authors}, {card.year})\n{card.summary}\n")
for title, table in {"guides": card.guides, "data sets": card.datasets}.items():
    print(title, *(f"  {name}: {line}" for name, line in table.items()), "", sep="\n")
print("limitations", *(f"  {line}" for line in card.limitations), sep="\n")

# %% [markdown]
# ## Data
#
# An industrial dryer, 71 batches, real measurements: nine sensors `x`, and `y`, the level of the tank that collects the
# solvent. Every row has its level. To act as if measuring it were expensive, the model gets to see five levels per
# batch, chosen at random; all others are kept for the test. The inputs of the test rows are in the training data: the
# model learns from rows without a level too, which is what "semi-supervised" means.

# %%
data = zoo.load_data("ssmtl", "dryer")
seen = ssmtl.draw_labels(data, per_unit=5, seed=0)
train, test = data.relabel(seen), data.relabel(~seen)
print(train)
print(f"levels: {train.observed('y').sum()} to learn from, {test.observed('y').sum()} to score on")

# %% [markdown]
# ## Model, guide, fit
#
# Each batch has a context `c`, which makes it different from the others, and each row a state `z`; both are latent, and
# together they generate `x` and `y`. Sizes and units come from the data. The second argument of `fit` names the guide,
# the family in which the posterior is sought. `progress=False` keeps the progress bar out of this page.

# %%
model = zoo.create_model("ssmtl", train, c_dim=8, z_dim=12, floor=0.03)
fit = zoo.fit(model, "paper", train, seed=0, steps=steps, progress=False)
plots.elbo_curves({"paper": fit.history}).figure

# %% [markdown]
# The curve still rises at the end: a thousand steps make a quick page, not the best fit.
#
# ## Predict, and score
#
# `predict` hides every level from the model, and gives a table: mean, standard deviation, quantiles. It also says,
# once, that nobody has checked its intervals yet.

# %%
prediction = zoo.predict(fit, test, draws=draws)
prediction.head(3).round(1)

# %%
scores = zoo.metrics(fit, test, draws=draws)
level, batch = data["y"][:, 0].numpy(), data.group_names("unit")
mean_of_five = pd.Series(level[seen]).groupby(batch[seen]).mean().loc[batch].to_numpy()
guess = np.sqrt(np.mean((mean_of_five - level)[~seen] ** 2))
print(f"standard deviation of the level         {level.std():5.1f}")
print(f"RMSE of the mean of a batch's 5 levels  {guess:5.1f}")
print(f"RMSE of the model                       {scores['y.rmse']:5.1f}")
print(f"levels inside their 90% interval        {scores['y.cover90']:5.0%}")

# %% [markdown]
# The means are far better than the guess. (A guess is a weak opponent; the
# [entry's page](../pyrozoo/models/ssmtl/README.md) has strong ones, and says where trees win.)
# **The intervals are too narrow**: 90% intervals should hold 90% of the levels and hold far fewer. Use the means here,
# and do not report the intervals. The cure takes longer than this page: `zoo.cross_fitted(model, "paper", train)` in
# place of `zoo.fit` trains 14 fits, and learns from labels that a fit has not seen how far it errs
# ([Intervals that hold](../docs/howto/intervals.md)). Some batches go better than others; from the best to the worst:

# %%
plots.unit_lines(prediction, data, seen=seen, quantity="tank level")

# %% [markdown]
# Where the line and the black curve part, the ribbon often does not reach it. In unit 25 the level falls to almost
# nothing near the end; none of its five labels shows that, and the model does not see it coming.
#
# ## The posterior, in ArviZ
#
# `to_arviz` draws the posterior, the posterior predictive and the log likelihood together. The result is ArviZ's own
# object: everything ArviZ can do with it is yours. The pictures of `zoo.plots` are the same under every version of
# ArviZ.

# %%
idata = zoo.to_arviz(fit, train, draws=draws, sites=["c", "x"])
zoo.summary(idata, var_names=["c"]).head(4)

# %%
eight = {"unit": list(range(1, 9)), "context": [0]}
plots.forest(idata, "c", coords=eight, width=0.94)

# %% [markdown]
# The first number of the context of eight batches: dot and thin line are the posterior's mean and 94% interval. The
# prior is N(0, 1), whose 94% interval goes from -1.9 to 1.9, so every batch has found its place. The intervals are
# narrower than they should be (the card says so), and another restart may rotate `c`: read how batches differ, not the
# values.
#
# ## Does the model make data like the data?
#
# A posterior predictive check draws the sensors anew from the fitted model and compares. Take one of the nine sensors,
# the temperature in the dryer. `p` is the share of replications with a larger statistic: near 0 or 1 is a misfit.

# %%
check = zoo.ppc(fit, train, draws=draws // 4)
check = check[check["component"] == "DryerTemp"].set_index("statistic")[["observed", "replicated", "p"]]
check.round(2)

# %%
plots.ppc(idata, "x", coords={"input": "DryerTemp"}, figsize=(6.8, 4.2))

# %% [markdown]
# Mean and spread are within 5% of the real ones. The replications vary so little among themselves that `p` notices even
# that, so look at sizes, not at `p` alone. Some replicated temperatures lie beyond all real ones. The large misfit is
# `lag-1 sd`: from one row to the next the replicated temperature jumps more than seven times as far as the real one,
# because the model takes the rows of a batch as exchangeable. For questions about the course in time it is the wrong
# model.
#
# ## Save, load, and a fit that is already there

# %%
folder = fit.save("runs/quickstart", overwrite=True)
again = zoo.load(folder)
print(sorted(path.name for path in folder.iterdir()))
print("same predictions:", zoo.predict(again, test, draws=draws).equals(prediction))

# %% [markdown]
# A saved fit is numbers and JSON: opening one from a stranger runs none of its code. One trained fit ships with the
# package. It has seen the same labels, trained longer, and weighs them more:

# %%
reference = zoo.load_reference("ssmtl/dryer")
longer = zoo.metrics(reference, test, draws=draws)
pd.DataFrame({"this page": scores, "reference": longer}).loc[["y.rmse", "y.crps", "y.cover50", "y.cover90"]].round(2)

# %% [markdown]
# Its means are better (`rmse`) and its intervals worse (`cover90`): it has become too sure of itself.
#
# ## Your own table
#
# One row per observation: a column that names the unit, the inputs, and the target, empty where it was not measured.
# Here is a small **simulated** one: 20 pumps of different size and lift, 40 rows each, the flow known in three of them.

# %%
rng = np.random.default_rng(0)
pump = np.repeat([f"P{i:02d}" for i in range(20)], 40)
size, lift = (np.repeat(rng.uniform(*ends, 20), 40) for ends in ((0.8, 1.2), (10, 30)))
speed = rng.uniform(0.3, 1.0, len(pump))
flow = 50 * size * speed + rng.normal(0, 0.5, len(pump))
power = flow * (lift + 30 * speed**2) / 100 + rng.normal(0, 0.05, len(pump))
known = np.tile(np.arange(40) < 3, 20)
mine = pd.DataFrame({"pump": pump, "speed": speed, "power": power, "flow": np.where(known, flow, np.nan)})
mine.head().round(2)

# %%
columns = {"unit": "pump", "x": ["speed", "power"], "y": "flow"}
pumps = zoo.Batch.from_dataframe(mine, **columns, name="pumps", simulated=True)
truth = zoo.Batch.from_dataframe(mine.assign(flow=flow), **columns).relabel(~known)

small = {"c_dim": 2, "z_dim": 3, "width": 64}
quick = {"steps": min(steps, 300), "seed": 0, "progress": False}
pump_model = zoo.create_model("ssmtl", pumps, **small)
pump_fit = zoo.fit(pump_model, "paper", pumps, **quick)
pump_scores = zoo.metrics(pump_fit, truth, draws=draws)
print(f"standard deviation of the flow  {flow.std():5.1f}")
print(f"RMSE of the model               {pump_scores['y.rmse']:5.1f}")
print(f"flows inside their 90% interval {pump_scores['y.cover90']:5.0%}")

# %% [markdown]
# Here the model is right about how the data come about, nearly, and its 90% intervals hold a little more than they
# should. Whether intervals can be trusted depends on the data: always look.
#
# ## Swap the guide, swap the prior
#
# A guide is swapped by name, or by the class of one of Pyro's AutoGuides; a prior by the name of its site.
# `compare` puts fits side by side by the log predictive density of flows that they have not seen.

# %%
heavy_tails = zoo.create_model("ssmtl", pumps, **small, priors={"c": dist.StudentT(4.0, 0.0, 1.0)})
fits = {
    "paper": pump_fit,
    "amortized guide": zoo.fit(pump_model, "amortized", pumps, **quick),
    "AutoMultivariateNormal": zoo.fit(pump_model, AutoMultivariateNormal, pumps, **quick),
    "Student-t prior": zoo.fit(heavy_tails, "paper", pumps, **quick),
}
comparison = zoo.compare(fits, truth, draws=draws)
comparison["rmse"] = {name: zoo.metrics(found, truth, draws=draws)["y.rmse"] for name, found in fits.items()}
comparison.round(2)

# %% [markdown]
# The Student-t prior changes little. The other two guides are behind after so short a training, with one seed: a reason
# to train them longer, and no verdict on them.
#
# ## Plain Pyro, on the same objects
#
# A model is a PyroModule, a guide too, and a batch is a mapping of tensors. Nothing stands between you and Pyro.

# %%
pyro.set_rng_seed(0)
guide = zoo.create_guide(pump_model, "paper")
svi = pyro.infer.SVI(pump_model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
losses = [svi.step(**pumps) for _ in range(2 if smoke else 100)]
print(f"loss: {losses[0]:.0f} at the first step, {losses[-1]:.0f} at the last")

# %% [markdown]
# ## Check
#
# What this page says in words, once more in numbers.

# %%
found, real, drawn = comparison["rmse"], check["observed"], check["replicated"]
context_sd = idata.posterior["c"].sel(unit=list(range(1, 9)), context=0).std(("chain", "draw"))
claims = {
    "71 batches, nine sensors, five levels seen in each": (
        data.sizes["unit"] == 71 and data["x"].shape[1] == 9 and (np.bincount(train["unit"][seen]) == 5).all()
    ),
    "the error of the model is less than a third of the guess's": scores["y.rmse"] < guess / 3,
    "the 90% intervals hold less than 85% of the levels": scores["y.cover90"] < 0.85,
    "the context of each batch is known five times better than before": float(context_sd.max()) < 1 / 5,
    "mean and spread of the replicated temperature are within 5%": (
        ((drawn / real - 1).abs() < 0.05)[["mean", "sd"]].all()
    ),
    "some replicated temperatures lie beyond all real ones": drawn["min"] < real["min"] and drawn["max"] > real["max"],
    "they jump more than seven times as far": 7 < drawn["lag-1 sd"] / real["lag-1 sd"] < 8,
    "a loaded fit predicts the same, to the bit": zoo.predict(again, test, draws=draws).equals(prediction),
    "the reference has better means": longer["y.rmse"] < scores["y.rmse"],
    "the reference has worse intervals": longer["y.cover90"] < scores["y.cover90"],
    "20 pumps, 40 rows each, three flows known": (
        pumps.sizes["unit"] == 20 and len(mine) == 800 and (mine.groupby("pump")["flow"].count() == 3).all()
    ),
    "the pumps' 90% intervals hold 94 to 99% of the flows": 0.94 < pump_scores["y.cover90"] < 0.99,
    "the Student-t prior changes the error by less than 10%": abs(found["Student-t prior"] / found["paper"] - 1) < 0.1,
    "the other two guides are behind": found[["amortized guide", "AutoMultivariateNormal"]].min() > found["paper"],
    "plain SVI lowers the loss": losses[-1] < losses[0],
}
print(*(f"{'yes' if holds else 'NO ':4}{claim}" for claim, holds in claims.items()), sep="\n")
assert smoke or all(claims.values())

# %% [markdown]
# ## Exercises
#
# **1.** Give the contexts of the pumps a prior that is three times as wide. Does the error change? (priors are set by
# site, [My own prior](../docs/howto/own_prior.md))
#
# <details><summary>Answer</summary>
#
# ```python
# wide = zoo.create_model("ssmtl", pumps, **small, priors={"c": dist.Normal(0.0, 3.0)})
# wide_fit = zoo.fit(wide, "paper", pumps, **quick)
# zoo.compare({"N(0, 1)": pump_fit, "N(0, 3)": wide_fit}, truth, draws=draws)
# ```
#
# `difference` has its standard error beside it; a difference of less than two of them says nothing.
#
# </details>
#
# **2.** Is the guide `mvn`, with a full covariance of each context, wide enough where `paper` is not? (a Pareto k above
# 0.7 says no, [Is my posterior right?](../docs/howto/posterior_right.md))
#
# <details><summary>Answer</summary>
#
# ```python
# mvn_fit = zoo.fit(pump_model, "mvn", pumps, **quick)
# few = pumps.group_names("unit")[:120:40]  # three pumps
# pd.DataFrame({name: zoo.khat(own, pumps, per="unit", only=few, draws=max(25, draws)) for name, own in
#               {"paper": pump_fit, "mvn": mvn_fit}.items()})
# ```
#
# One number for each pump and guide. Where it is above 0.7, read no standard deviation of that context: train longer,
# or take another guide.
#
# </details>
#
# **3.** Have the whole page about the fit of the pumps written, and read its verdict. ([Is this fit worth
# using?](../docs/howto/report.md))
#
# <details><summary>Answer</summary>
#
# ```python
# page = zoo.report(pump_fit, pumps, truth, out="pumps.html", draws=max(25, draws), progress=False)
# print(page)
# ```
#
# Every line asks one question, and says what to do next. `pumps.html` has the pictures.
#
# </details>
