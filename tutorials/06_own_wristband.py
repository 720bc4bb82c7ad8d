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
# # A session of your own wristband, from its files to the clock on the wall
#
# From the raw export of an Empatica E4 and a diary to windows, labels, and a prediction in local time, with the entry
# `m3sense`. The session is made here of **simulated** signals, and the fit that predicts is trained on simulated people
# of the same kind: it is for following the steps, not for using on real ones. It runs in less than a minute.
#
# After it you can turn the export of your wristband and a diary into labelled windows, and predictions into local time.

# %%
# %matplotlib inline
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.dates import DateFormatter

import pyrozoo as zoo
from pyrozoo import plots
from pyrozoo.models import m3sense

smoke = "PYROZOO_SMOKE" in os.environ  # set by the tests
draws = 5 if smoke else 200

# %% [markdown]
# The versions that this page was run with:

# %%
print(*(f"{name} {version(name)}" for name in ("pyro-ppl", "torch", "numpy", "pandas", "arviz")), sep=", ")
print("pyrozoo", zoo.__version__)

# %% [markdown]
# ## 1. The files
#
# An export is a folder with a file for each sensor: the unix time of its start, its rate, then the samples.
# `tags.csv` has the moments at which the button of the wristband was pressed. What happened is in a diary, in local
# time. Here a simulated person, Cleo, rests, then has a stressful task, then sees a funny film.

# %%
made = m3sense.simulate("simulated stress", seed=6, n_subjects=1, n_windows=12)
states = ["baseline", "stress", "amusement"]
order = np.argsort(made["y_stress"].numpy(), kind="stable")
edges = 20 * np.searchsorted(made["y_stress"].numpy()[order], range(4))  # of the states, in seconds from the start
folder, begin, zone = Path("session"), 1644227573, "Europe/Dublin"
folder.mkdir(exist_ok=True)
for name, rate in {"bvp": 64, "eda": 4, "temp": 4}.items():
    samples = made[name].numpy()[order].ravel()
    np.savetxt(folder / f"{name.upper()}.csv", [begin, rate, *samples], fmt="%.6f")
np.savetxt(folder / "tags.csv", begin + edges[:-1] + 0.4, fmt="%.2f")
local = pd.to_datetime(begin + edges, unit="s", utc=True).tz_convert(zone).strftime("%H:%M:%S")
diary = pd.DataFrame({"start": local[:-1], "end": local[1:], "label": states})
diary.to_csv("diary.csv", index=False)
diary

# %% [markdown]
# ## 2. Labels
#
# The reader knows when the recording began; `label_by_table` puts the diary on its time. Times may also be seconds
# from the start, or unix times.

# %%
recordings = m3sense.read_e4(folder, subject="Cleo")
labelled = m3sense.label_by_table(recordings, "diary.csv", "stress", time="clock", zone=zone)
print(*labelled[0].labels, sep="\n")

# %% [markdown]
# A line in the wrong time zone lies outside of the recording, and is an error that says so:

# %%
refused = ""
try:
    m3sense.label_by_table(recordings, "diary.csv", "stress", time="clock", zone="Europe/Paris")
except ValueError as error:
    refused = str(error)
print(refused)

# %% [markdown]
# Without a diary, the tags can do: one name for each stretch between two of them, `None` where there is none.

# %%
by_tags = m3sense.label_by_tags(recordings, ["baseline", "stress"], "stress")
print("tags [s]:", *(f"{tag:.1f}" for tag in recordings[0].tags), "->", by_tags[0].labels)

# %% [markdown]
# ## 3. Windows
#
# Windows of 20 s, with the pulse at 8 samples per second, since the fit was trained on that. Only windows of one label
# are kept, unless `keep_unlabelled=True`. Each knows its person, its begin and end in seconds from the start, the gap
# to the window before, and its unix time.

# %%
windows = m3sense.windows(labelled, rates={"bvp": 8, "eda": 4, "temp": 4}, resample=True)
tagged = m3sense.windows(by_tags, rates={"bvp": 8, "eda": 4, "temp": 4}, resample=True)
print(windows.n_rows, "windows by the diary;", tagged.n_rows, "by the tags,", tagged.info["dropped"])
windows.describe_rows().head(3)

# %% [markdown]
# ## 4. Predictions on the clock
#
# Standardised by person, as the windows of the training were. The table of predictions begins with the same columns.

# %%
fit = zoo.load_reference("m3sense/simulated")
table = zoo.predict(fit, m3sense.standardise(windows), draws=draws)
table[["subject", "begin", "end", "y_stress.label", "y_stress.p[stress]"]].round(2)

# %%
colours = dict(zip(states, (plots.ORANGE, plots.GREEN, plots.BLUE), strict=True))
when = pd.to_datetime(table["unix"], unit="s", utc=True).dt.tz_convert(zone).dt.tz_localize(None)
figure, panel = plt.subplots(figsize=(11, 2.8), layout="constrained")
for start, end, label in labelled[0].labels:
    span = pd.to_datetime([begin + start, begin + end], unit="s", utc=True).tz_convert(zone).tz_localize(None)
    panel.axvspan(*span, color=colours[label], alpha=0.2, lw=0, label=f"diary: {label}")
panel.plot(when + pd.Timedelta(seconds=10), table["y_stress.p[stress]"], "o-", color="black", label="p(stress)")
panel.set(ylabel="probability", xlabel=f"time in {zone}", ylim=(0, 1), title="Cleo (simulated), 7 February 2022")
panel.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
_ = panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

# %% [markdown]
# Stress is more probable while it lasts than before and after it. It is not sure, since this variant is too cautious
# (see [04_m3sense](04_m3sense.ipynb), calibration).
#
# ## 5. The same on the command line
#
# `write_windows` keeps labels and times in one file. The command line reads it, and its table has the times, too:
#
#     pyrozoo fit m3sense --data cleo.npz --variant latent --out runs/cleo
#     pyrozoo predict runs/cleo --data cleo.npz --out labels.csv

# %%
m3sense.write_windows("cleo.npz", m3sense.standardise(windows))
again = m3sense.read_windows("cleo.npz")
print(sorted(np.load("cleo.npz")), again)

# %% [markdown]
# Acceleration, heart rate and beat intervals are modalities, too: `read_e4(folder, modalities=("eda", "acc", "hr"))`,
# then windows of these rates and a model that is trained on them.
#
# **Before you believe a score of your own sessions**: where everybody follows one schedule, the time in the session
# alone tells the label. `pyrozoo reproduce m3sense clock` shows how well.

# %% [markdown]
# ## Check

# %%
stressed = table.loc[windows["y_stress"].numpy() == 1, "y_stress.p[stress]"]
others = table.loc[windows["y_stress"].numpy() != 1, "y_stress.p[stress]"]
claims = {
    "the diary is on the recording's time": labelled[0].labels == tuple(zip(edges, edges[1:], states, strict=False)),
    "another time zone is refused": "outside of the recording" in refused,
    "windows by tags that have two labels are dropped": tagged.info["dropped"]["mixed"] > 0,
    "predictions stand on the clock": str(when.iloc[0]) == "2022-02-07 09:52:53" and len(when) == 12,
    "stress is more probable while it lasts": stressed.min() > others.max(),
    "but not sure": stressed.max() < 0.9,
    "the file keeps the times": again.coords["unix"].tolist() == windows.coords["unix"].tolist(),
}
print(*(f"{'yes' if holds else 'NO ':4}{claim}" for claim, holds in claims.items()), sep="\n")
assert smoke or all(claims.values())

# %% [markdown]
# ## Exercises
#
# **1.** Fit a model of your own to the windows of Cleo: the same variant with the guide `lowrank` and a prior with
# heavy tails. (One person is far too few to learn from; it is for the steps.) ([My own
# guide](../docs/howto/own_guide.md), [My own prior](../docs/howto/own_prior.md))
#
# <details><summary>Answer</summary>
#
# ```python
# import pyro.distributions as dist
#
# cleo = m3sense.standardise(windows)
# own_model = zoo.create_model("m3sense", cleo, variant="latent", priors={"a_stress": dist.StudentT(4.0, 0.0, 1.0)})
# own_fit = zoo.fit(own_model, "lowrank", cleo, steps=3 if smoke else 50, seed=0, progress=False)
# zoo.predict(own_fit, cleo, draws=draws)[["begin", "y_stress.label"]].head(3)
# ```
#
# The same table as from the reference fit, with the times of your windows.
#
# </details>
#
# **2.** The stretch after the last tag has no name. Keep its windows, without a label. ([Missing labels and
# inputs](../docs/howto/missing.md))
#
# <details><summary>Answer</summary>
#
# ```python
# kept = m3sense.windows(by_tags, rates={"bvp": 8, "eda": 4, "temp": 4}, resample=True, keep_unlabelled=True)
# print(tagged.n_rows, kept.n_rows, kept.observed("y_stress").sum())
# ```
#
# Windows that lie in two stretches are left out as before; the others of the last stretch are there, and a fit learns
# from their signals.
#
# </details>
