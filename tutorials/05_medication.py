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
# # Decoding the steps of a procedure: the model note, told through its code
#
# *Bayesian Deep Learning Models and Inference in the Article "Assessment of Medication Self-Administration Using
# Artificial Intelligence"*, the note ("the text" below) to M. Zhao, K. Hoti, H. Wang, A. Raghu, D. Katabi (Nature
# Medicine, 2021). Their recordings and their classifier are not public: the insulin-pen recordings of sections 1 to 9
# are **simulated**, the watch sessions of section 10 **semi-synthetic**. It runs in about two minutes on one core.

# %%
# %matplotlib inline
import inspect
import itertools
import math
import os

import arviz as az
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

import pyrozoo as zoo
from pyrozoo import frame_plots, plots
from pyrozoo.models import medication
from pyrozoo.models.medication import decode
from pyrozoo.models.medication.experiments.implied import implied
from pyrozoo.models.medication.uses import decode_recordings, log_scores, plug_in

smoke = "PYROZOO_SMOKE" in os.environ  # set by the tests, which run every cell but with hardly any training
steps, unlabelled_steps, draws, folds = (3, 2, 10, 2) if smoke else (600, 150, 400, 10)

# %% [markdown]
# ## 1. The problem
#
# A classifier looks at every frame of a recording and gives each label a score: 0, the non-event, or one of the steps
# 1..S. It knows nothing of time. A person who takes insulin does the steps in some order, each for some seconds, with
# gaps between them; now and then a step is left out. Wanted: the label of every frame, and which steps were performed.
#
# `simulate` draws labels from such a process, and scores from an imperfect classifier: blurred at the boundaries, with
# noise that lasts for seconds, and with bursts in which it mistakes one label for another. 60 recordings to fit, 60 to
# test, 5 frames per second.

# %%
train, test = (medication.simulate("pen", 60, "medium", seed=seed, rate=5.0) for seed in (0, 1))
names, rate = list(medication.PEN.labels), 5.0
truth = [z.numpy() for z in test["label"].split(test["lengths"].tolist())]
score = [c.numpy() for c in test["score"].split(test["lengths"].tolist())]
print(train)

shown = 3
figure, panel = plt.subplots(figsize=(11, 3.4), layout="constrained")
seconds = len(truth[shown]) / rate
image = panel.imshow(
    score[shown].T, aspect="auto", cmap="Greys", vmin=0, vmax=1, extent=(0, seconds, 7.5, -0.5), interpolation="none"
)
panel.step(
    np.arange(len(truth[shown])) / rate, truth[shown], where="post", color=plots.VERMILION, lw=1.8, label="truth"
)
panel.set_yticks(range(8), [f"{k} {name}" for k, name in enumerate(names)])
panel.set(xlabel="time [s]", title=f"simulated test recording {shown}: the classifier's scores, and the true labels")
panel.legend(loc="upper right")
_ = figure.colorbar(image, ax=panel, label="score")

# %% [markdown]
# Step 6, to hold the needle in the skin, was left out here. Dark patches off the line are the classifier's mistakes;
# they last for seconds, so that smoothing does not remove them.
#
# ## 2. Two models
#
# ### The vanilla model: a chain over frames
#
# $$f(z) = \prod_t p(z_t | z_{t-1}) \, q(z_t), \qquad p(z_t | z_{t-1}) = A_{z_{t-1} z_t}.$$
#
# The text gives $q$ as a density, too: $c_{tk} | z_t \sim \mathrm{Beta}(1 + [z_t = k], \, 2 - [z_t = k])$. With it the
# chain is a hidden Markov model, which Pyro can sum over by itself: `explicit` is the model frame by frame, to be read
# and changed.

# %%
vanilla = zoo.create_model("medication", train, variant="frame-hmm", emission="beta")
source = inspect.getsource(vanilla.explicit)
print(source[source.index("        z = None") :])

# %% [markdown]
# Pyro's enumeration is slow and serves as a proof: on 30 and 20 frames of two recordings its ELBO is the log evidence
# that the compiled forward algorithm finds. (With all labels summed out there is no latent left, hence no guide.)

# %%
vanilla_fit = zoo.fit(vanilla, "closed-form", train, progress=False)
chain, _ = plug_in(vanilla_fit, train)
cut = [score[shown][200:230], score[shown][260:280]]
c = torch.as_tensor(np.concatenate(cut)).double().clamp(vanilla.floor, 1 - vanilla.floor)
lengths = torch.tensor([len(part) for part in cut])
loss = TraceEnum_ELBO(max_plate_nesting=2).loss
enumerated = -loss(vanilla.explicit, lambda *_: None, c, lengths, chain.initial, chain.transition)
potentials = vanilla.log_potentials(c).numpy()
forward = decode.log_evidence(np.split(potentials, [len(cut[0])]), chain).sum()
print(f"TraceEnum_ELBO {enumerated:.9f}", f"forward algorithm {forward:.9f}", sep="\n")

# %% [markdown]
# What the chain lacks: after a step comes a non-event, and in it the last step is forgotten. So $A_{0k}$ is the same
# after every step, and a step lasts geometrically long, most probably one frame.
#
# ### The advanced model: a process that remembers
#
# $f(z) = \prod_t p(z_t | z_{1:t-1}) q(z_t)$, with $h$ the last step and $g$ the number of frames that $z_{t-1}$ has
# lasted; $D_{hk}$ the probability that step $k$ follows step $h$; $\Phi_{hk}$ and $\Psi_k$ the distribution functions
# of the gap between them and of the duration of step $k$, both Gaussian. The text in Python:


# %%
def gaussian_cdf(x, mean, sd):
    return 0.5 * math.erfc((mean - x) / sd / math.sqrt(2))


def p_next(history, k, D, start, gap, duration):
    """p(z_t = k | z_{1:t-1}), the five cases of the text (which says nothing of a first step: a constant hazard)."""
    last = history[-1]
    g = len(list(itertools.takewhile(lambda z: z == last, reversed(history))))
    if last > 0:
        end = gaussian_cdf(g + 1, *duration[last])
        return {last: 1 - end, 0: end}.get(k, 0.0)
    h = next((z for z in reversed(history) if z > 0), 0)
    enter = {j: D[h, j] * (gaussian_cdf(g + 1, *gap[h, j]) if h else start) for j in (1, 2)}
    return enter[k] if k > 0 else 1 - sum(enter.values())


# %% [markdown]
# The text finds the best $z$ approximately, "since the first-order Markovian no longer holds". But look at what
# `p_next` uses of a history: $z_{t-1}$, how long it has lasted, and the last step. **The process is first-order on
# (label, age, last step)**, and everything a hidden Markov model can do is exact on these states: the most probable
# sequence, the evidence, marginals, sampled sequences. The kernels of this entry do that. Two steps and eight frames
# have few enough sequences to try them all:

# %%
duration, gap = {1: (2.5, 1.0), 2: (2.0, 0.8)}, {(1, 1): (3.0, 1.2), (1, 2): (1.5, 0.7), (2, 1): (2.0, 1.0)}
D, start = {(0, 1): 0.8, (0, 2): 0.2, (1, 1): 0.1, (1, 2): 0.7, (2, 1): 0.3, (2, 2): 0.0}, 0.4
gap[2, 2] = (1.0, 1.0)  # does not matter: D is 0
pairs = sorted(key for key, value in D.items() if value)
tiny = medication.PaperProcess(["non-event", "one", "two"], pairs=pairs, caps=[10, 10])
table = lambda values, i: torch.tensor([own[i] for own in values], dtype=torch.double)  # noqa: E731
laws = {"duration": [duration[k] for k in (1, 2)], "gap": [gap[pair] for pair in pairs if pair[0]]}
given = {f"{kind}_{what}": table(own, i) for kind, own in laws.items() for i, what in enumerate(("mean", "sd"))}
given |= {
    "D": torch.tensor([D[pair] for pair in pairs], dtype=torch.double),
    "end": torch.tensor([1 - sum(D[h, k] for k in (1, 2)) for h in range(3)], dtype=torch.double),
    "start_rate": torch.tensor(-math.log1p(-start), dtype=torch.double),
}
process = tiny.process(given)

n_frames = 8
log_score = np.random.default_rng(0).normal(size=(n_frames, 3))
sequences, value = [(0,)], {(0,): log_score[0, 0]}  # a recording begins in non-event
for t in range(1, n_frames):
    grown = {(*z, k): value[z] + log_score[t, k] for z in value for k in range(3)}
    p = {z: p_next(z[:-1], z[-1], D, start, gap, duration) for z in grown}
    value = {z: grown[z] + math.log(p[z]) for z in grown if p[z] > 0}
sequences, values = np.array(list(value)), np.array(list(value.values()))
weight = np.exp(values - np.logaddexp.reduce(values))
[(best, best_score)] = decode.most_probable([log_score], process)
by_hand = {
    "log evidence": (np.logaddexp.reduce(values), decode.log_evidence([log_score], process)[0]),
    "score of the best sequence": (values.max(), best_score),
    **{
        f"P({name} performed)": (weight[(sequences == k).any(1)].sum(), own)
        for k, (name, own) in enumerate(
            zip(("one", "two"), decode.step_performed([log_score], process)[0], strict=True), 1
        )
    },
    "P(z_5 = two)": (weight[sequences[:, 4] == 2].sum(), decode.marginals([log_score], process)[0][4, 2]),
}
print(f"{len(sequences)} possible sequences; the best one: {sequences[values.argmax()]}, kernel: {best}")
exact_table = pd.DataFrame(by_hand, index=["all sequences, one by one", "kernel"]).T
exact_table

# %% [markdown]
# In Pyro the process is one distribution over label sequences (`SemiMarkov`, with `log_prob` and `sample`), so the
# model is short. Its sampling statements and the shapes of a trace:

# %%
model = zoo.create_model("medication", train)
lines = (line.split("  #")[0].strip() for line in inspect.getsource(type(model).forward).splitlines())
print(*(line for line in lines if "pyro.sample(" in line or "pyro.factor(" in line), "", sep="\n")
with torch.no_grad():
    print(poutine.trace(model).get_trace(**train).format_shapes())

# %% [markdown]
# 13 pairs are all that occurred. `label` is observed where a recording is labelled. `evidence` is a factor, no
# likelihood: section 6 and 9 say why.
#
# ## 3. Two readings of Φ and Ψ
#
# Taken by the letter, $\Psi_k(g + 1)$ is the probability that a step ends in the next frame: a distribution function in
# the place of a **hazard**. It then gets a chance to end the step in every frame, and the more frames there are in a
# second, the more chances. A step that was meant to last 8 ± 2.5 s:

# %%
meant = "meant, and what the renewal reading has"
curves, shorter = {}, {}
for fps in (1, 5, 30):
    age, probability = implied(8.0 * fps, 2.5 * fps, "cdf")
    curves[f"the text at {fps} frames per second"] = age / fps, probability
    shorter[fps] = float(age @ probability) / fps
age, probability = implied(8.0 * 30, 2.5 * 30, "hazard")
curves[meant] = age / 30, probability
frame_plots.implied_durations(curves, reference=meant).figure

# %% [markdown]
# The other reading makes durations follow the Gaussian: the hazard is $P(d) / P(\ge d)$, a renewal process. It needs no
# more parameters and means the same at every frame rate. In the zoo:
#
# | | variant | durations | scores | decoder |
# |---|---|---|---|---|
# | vanilla | `frame-hmm` | geometric | as they are | Viterbi |
# | the text | `paper`: `PaperProcess` | distribution function as hazard (`duration="cdf"`) | as they are | one history |
# | default | `semi-markov`: `StepProcess` | renewal (`duration="hazard"`) | raised to a fitted power | exact |
#
# The simulated labels come from a renewal process, so the second reading is true here by construction.
#
# ## 4. Fit
#
# With labelled recordings nothing has to be trained: counts and moments update the priors (guide `closed-form`).

# %%
fit = zoo.fit(model, "closed-form", train, progress=False)
sites = ["D", "duration_mean", "duration_sd", "gap_mean", "gap_sd", "power"]
one = train.subset([0])  # parameters are the same for all recordings; to draw them one will do
posterior = zoo.to_arviz(fit, one, draws=draws, sites=sites, predictive=False)
true_of = {
    "duration_mean": medication.PEN.duration_mean,
    "D": np.array([medication.PEN.next_step[pair] for pair in sorted(medication.PEN.next_step)]),
}
durations = az.summary(posterior, var_names=["duration_mean"], kind="stats", hdi_prob=0.9).round(2)
durations.assign(truth=true_of["duration_mean"])

# %%
short = [f"{h or 'start'} → {k}" for h, k in sorted(medication.PEN.next_step)]
renamed = posterior.assign_coords(pair=short, step=names[1:])
figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for panel, (site, title) in zip(
    panels,
    {"duration_mean": "mean duration of a step [s]", "D": "probability of the next step, D"}.items(),
    strict=True,
):
    labels = azlabels = az.labels.NoVarLabeller()
    az.plot_forest(
        renamed, var_names=[site], combined=True, hdi_prob=0.9, ax=panel, labeller=labels, colors=plots.BLUE,
        textsize=9,
    )  # fmt: skip
    places = sorted(panel.get_yticks(), reverse=True)
    panel.plot(true_of[site], places, "x", color=plots.VERMILION, ms=8, mew=2, label="truth of the simulator", zorder=5)
    panel.set_title(f"{title}: 90% intervals", fontsize=10)
legend = panels[1].legend(loc="center", frameon=False)

# %% [markdown]
# Rare pairs have wide intervals. A row of D and the probability that no step follows are Dirichlet, built from sticks
# (`stick`); `D` is their function.
#
# ### Other guides
#
# `ml` maximises the penalised likelihood; `normal` is Pyro's AutoNormal, trained by SVI. The label sequence is
# integrated out, or observed, so any guide of the parameters will do. To keep SVI short, the power is held at what
# `closed-form` found: then labelled recordings cost one evaluation of `log_prob` each.

# %%
_, power = plug_in(fit, one)
ml = zoo.fit(model, "ml", train, progress=False)
known_power = zoo.create_model("medication", train, power=power)
svi = {"steps": steps, "lr": 0.1, "schedule": "cosine", "batch_size": None, "progress": False}
normal = zoo.fit(known_power, "normal", train, seed=0, **svi)
by_guide = {"closed-form": fit, "ml": ml, "normal": normal}
chosen = [("duration_mean", 5, 8.0), ("duration_sd", 5, 2.5), ("gap_mean", 0, 2.0), ("gap_mean", 9, 2.5), ("D", 9, 0.08)]


def parameters(fitted, n=draws):
    """Draws of the parameters, site -> (n, ...)."""
    own = [site for site in sites if site != "power"]
    return {k: v[0] for k, v in zoo.draw(fitted, one, draws=n, sites=own, predictive=False).groups["posterior"].items()}


drawn = {name: parameters(fitted) for name, fitted in by_guide.items()}
lines = {}
for site, place, true in chosen:
    axis = model.coords[model.dims[site][0]]
    line = {name: f"{own[site][:, place].mean():.2f} ± {own[site][:, place].std():.2f}" for name, own in drawn.items()}
    lines[f"{site}[{axis[place]}]"] = {"truth": f"{true:g}", **line}
pd.DataFrame(lines).T

# %% [markdown]
# The same posterior within its width, and a point without width from `ml`.
#
# ### Another prior
#
# With 60 recordings a prior hardly shows; with six it does. Instructions of insulin pens say to hold the needle for 6
# to 10 s. Said as a prior of that step's mean, LogNormal with 6 and 10 s two standard deviations apart from the middle:

# %%
few = train.subset(range(6))
few_model = zoo.create_model("medication", few)
loc, scale = few_model.typical[0].log().expand(7).clone(), torch.ones(7)
loc[5], scale[5] = math.log(6 * 10) / 2, math.log(10 / 6) / 4
instructed = {"duration_mean": dist.LogNormal(loc, scale).to_event(1)}
with_prior = {
    "default prior": few_model,
    "instructions": zoo.create_model("medication", few, priors=instructed),
}
held_mean = {}
for name, own in with_prior.items():
    found = parameters(zoo.fit(own, "closed-form", few, progress=False))["duration_mean"][:, 5]
    held_mean[name] = found
    print(f"mean time to hold the needle, {name:13}: {found.mean():.2f} ± {found.std():.2f} s (truth 8 s)")
try:
    zoo.fit(zoo.create_model("medication", few, priors={"duration_mean": dist.Gamma(4.0, 0.5)}), "closed-form", few)
except ValueError as error:
    print(error)

# %% [markdown]
# ## 5. Decode
#
# The fit's parameters at their posterior means, and every decoder on the test recordings. `map` is the exact maximum of
# what the text maximises approximately; `mea` is the possible sequence with the largest sum of posterior marginals, the
# default of `semi-markov`. Segment F1 asks for an overlap of half (IoU 0.5); the edit score compares the order of steps
# only.

# %%
text = zoo.fit(zoo.create_model("medication", train, variant="paper"), "closed-form", train, progress=False)
chain_fit = zoo.fit(zoo.create_model("medication", train, variant="frame-hmm"), "closed-form", train, progress=False)
ways = {
    "argmax of the scores": (chain_fit, "argmax"),
    "vanilla: Viterbi": (chain_fit, "viterbi"),
    "the text: one history": (text, "paper"),
    "the text's process: exact map": (text, "map"),
    "renewal: one history": (fit, "paper"),
    "renewal: exact map": (fit, "map"),
    "renewal: exact mea": (fit, "mea"),
}
decoded = {name: decode_recordings(fitted, test, decoder) for name, (fitted, decoder) in ways.items()}
scored = pd.DataFrame({name: own.scores(test) for name, own in decoded.items()}).T
shown_scores = scored[["frame_accuracy", "segment_f1", "edit"]]
right = {name: np.array([(a == b).mean() for a, b in zip(own.labels, truth, strict=True)]) for name, own in decoded.items()}


def difference(a, b):
    """Mean difference of frame accuracy over recordings, and its standard error."""
    gain = right[a] - right[b]
    return f"{gain.mean():+.3f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f}"


print("frame accuracy, per recording:")
for a, b in (
    ("the text's process: exact map", "the text: one history"),
    ("renewal: exact map", "renewal: one history"),
    ("renewal: exact mea", "the text's process: exact map"),
):
    print(f"  {a} - {b}: {difference(a, b)}")
shown_scores.round(3)

# %% [markdown]
# ### How often the recursion misses


# %%
def misses(fitted):
    process, power = plug_in(fitted, train)
    own = log_scores(fitted.model, test, power)
    best, found = (decode.most_probable(own, process, single_history=single) for single in (False, True))
    lost = np.array([a[1] - b[1] for a, b in zip(best, found, strict=True)])
    changed = np.array([(a[0] != b[0]).mean() for a, b in zip(best, found, strict=True)])
    missed = lost > 1e-6
    return {
        "recordings missed": missed.mean(),
        "nats lost there, median": np.median(lost[missed]),
        "frames that differ": changed[missed].mean(),
        "least loss": lost.min(),
    }


missed = pd.DataFrame({"the text": misses(text), "renewal": misses(fit)}).T
missed.round(3)

# %% [markdown]
# The recursion keeps one history for each label, and all gaps share one label: of the histories that are in a gap now,
# only the best survives. The others had another last step, or entered the gap at another time, and might have won
# seconds later. Ordered steps with gaps between them are where this hurts most.
#
# ### One recording
#
# Picked because every decoder gives another answer: the dose was not dialled (step 4). Ribbons above, posterior
# marginals below, and at the right the posterior probability that a step was performed at all.

# %%
order = ["argmax of the scores", "vanilla: Viterbi", "the text: one history", "renewal: exact map", "renewal: exact mea"]


def show(i):
    own = decoded["renewal: exact mea"]
    rows = {"truth": truth[i], **{name: decoded[name].labels[i] for name in order}}
    really = [(truth[i] == k).any() for k in range(1, 8)]
    return frame_plots.timeline(
        rows, names, rate=rate, marginals=own.marginals[i], performed=own.performed.iloc[i], truth=really,
        title=f"simulated test recording {own.names[i]}",
    )  # fmt: skip


telling = 47
show(telling)

# %% [markdown]
# The single best sequence leaves out step 2 as well, the recursion of the text most steps. The posterior says step 4
# was probably not performed, step 2 probably was, and how sure it is of either.
#
# ## 6. The power: scores repeat themselves
#
# The product $\prod_t q(z_t)$ counts every frame as news. But a classifier that errs in one frame errs in the next:
# five frames of a second are not five witnesses. Taken as they are, scores outvote durations and order, and posteriors
# are far too sure. `semi-markov` raises scores to a power, fitted to the labelled recordings: the maximum of
# $p(\mathrm{labels} | \mathrm{scores}, \mathrm{power})$, the process held fixed. The fraction of a witness that a frame
# is should fall with the frame rate; of the same simulated classifier at four rates:

# %%
powers = {}
for fps in (1.0, 2.0, 5.0, 10.0):
    own = train if fps == rate else medication.simulate("pen", 60, "medium", seed=0, rate=fps)
    found = fit if fps == rate else zoo.fit(zoo.create_model("medication", own), "closed-form", own, progress=False)
    powers[fps] = plug_in(found, own)[1]
powers = pd.DataFrame({"power": powers}).rename_axis("frames per second")
powers.assign(**{"power x frames per second": powers["power"] * powers.index}).round(2)

# %% [markdown]
# Ten times the frames, about as much evidence in a second. What the power does to the marginals of the test recordings:

# %%
plain = zoo.fit(zoo.create_model("medication", train, power=1.0), "closed-form", train, progress=False)
marginals = {"power 1": decode_recordings(plain, test), f"power {power:.2f}, fitted": decoded["renewal: exact mea"]}
reliable, calibration = {}, {}
every_frame = np.concatenate(truth)
for name, own in marginals.items():
    gamma = np.concatenate(own.marginals)
    confidence, correct = gamma.max(1), gamma.argmax(1) == every_frame
    reliable[name] = confidence, correct
    calibration[name] = {
        "mean confidence": confidence.mean(),
        "frames right": correct.mean(),
        "frame NLL [nats]": own.scores(test)["frame_nll"],
    }
calibration = pd.DataFrame(calibration).T
print(calibration.round(3))
frame_plots.reliability(reliable).figure

# %% [markdown]
# Hardly a label changes, but the probabilities begin to mean something. (On recordings like those that the power was
# fitted to; section 10 has a person for whom it is wrong.)
#
# ## 7. Questions to the posterior
#
# ### Was a step performed at all?
#
# $1 - Z_{\text{without } k} / Z$, by two forward passes. The most probable sequence gives only yes or no. On all steps of
# all test recordings, with an omission as what is to be detected:

# %%
has = lambda paths: np.array([[(z == k).any() for k in range(1, 8)] for z in paths])  # noqa: E731
really = has(truth)
p_omitted = 1 - decoded["renewal: exact mea"].performed.to_numpy()
omitted, said = ~really.ravel(), ~has(decoded["renewal: exact map"].labels).ravel()
false_alarms, found, _ = roc_curve(omitted, p_omitted.ravel())
area = {"posterior": roc_auc_score(omitted, p_omitted.ravel()), "yes or no of the map": roc_auc_score(omitted, said)}
half = p_omitted.ravel() > 0.5
print(f"{omitted.sum()} omissions among {omitted.size} steps of simulated recordings")
for name, alarm in {"yes or no of the map": said, "posterior above 50%": half}.items():
    print(f"  {name}: {(alarm & omitted).sum()} found, {(alarm & ~omitted).sum()} false alarms")
figure, panel = plt.subplots(figsize=(5.4, 4.4), layout="constrained")
panel.plot(false_alarms, found, color=plots.BLUE, label=f"posterior, AUROC {area['posterior']:.2f}", drawstyle="steps-post")
at = (said & ~omitted).sum() / (~omitted).sum(), (said & omitted).sum() / omitted.sum()
panel.plot(*at, "o", color=plots.VERMILION, ms=9, label=f"most probable sequence, AUROC {area['yes or no of the map']:.2f}")
panel.set(xlabel="false alarms: share of performed steps", ylabel="share of omissions found", xlim=(-0.01, 0.4))
panel.set_ylim(0, 1.03)
_ = panel.legend(loc="lower right")

# %% [markdown]
# The posterior can be cut where the costs of a false alarm and of a miss say. Five of the omissions stay above 50%
# "performed": there the classifier saw something that was not.
#
# ### Was the needle held for at least 6 s?
#
# Any question can be put to sequences drawn from the posterior:

# %%
process, power = plug_in(fit, train)
paths = decode.sample_paths(log_scores(fit.model, test, power), process, draws)


def longest(z, k=6):
    """Longest segment of step k in seconds, 0 where it was not performed."""
    label, begin, stop = runs(z)
    return max(((stop - begin) / rate)[label == k], default=0.0)


held = np.array([[longest(z) for z in own] for own in paths])
truly_held = np.array([longest(z) for z in truth])
p_held = (held >= 6).mean(1)
asked = 15
figure, panels = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
panels[0].hist(held[asked], bins=np.arange(3.9, 10, 0.2), color=plots.SKY, label="sequences from the posterior")
panels[0].axvline(truly_held[asked], color=plots.VERMILION, lw=2, label="truth")
panels[0].axvline(6, color="black", ls="--", label="instructions: 6 s")
panels[0].set(
    xlabel="needle held [s]", ylabel="sequences", title=f"recording {asked}: P(at least 6 s) = {p_held[asked]:.0%}"
)
panels[1].plot(truly_held, p_held, "o", color=plots.BLUE, alpha=0.7, mew=0)
panels[1].axvline(6, color="black", ls="--")
panels[1].set(xlabel="needle truly held [s]", ylabel="P(at least 6 s)", title="all 60 simulated test recordings")
panels[0].legend(fontsize=8)
print(f"held for at least 6 s: {(truly_held >= 6).sum()} of 60; the probabilities sum to {p_held.sum():.1f}")
print(f"AUROC {roc_auc_score(truly_held >= 6, p_held):.2f}")

# %% [markdown]
# ## 8. Does the model look like the data?
#
# `replicate` draws recordings of the same lengths from the posterior predictive. Durations of the steps:

# %%
check = replicate(fit, train, draws=max(20, draws // 8))
observed, replicated = check.values("duration")
frame_plots.replicated_durations(observed, replicated, names=names[1:])

# %% [markdown]
# The same for the text's process, fitted by moments (as the text has it) and by likelihood; and the number of steps:

# %%
text_ml = zoo.fit(zoo.create_model("medication", train, variant="paper"), "ml", train, progress=False)
checks = {
    "renewal": check,
    "text, by moments": replicate(text, train, draws=20),
    "text, by likelihood": replicate(text_ml, train, draws=20),
}
means = {"observed [s]": pd.Series({name: own.mean() for name, own in observed.items()})}
for name, own in checks.items():
    means[f"{name} [s]"] = own.replicated.query("kind == 'duration'").groupby("name")["seconds"].mean()
held_parameter = {name: float(parameters(f, 20)["duration_mean"][:, 5].mean()) for name, f in {"text, by moments": text, "text, by likelihood": text_ml}.items()}  # noqa: E501
print(*(f"mean of Ψ for holding the needle, {name}: {value:.1f} s" for name, value in held_parameter.items()), sep="\n")
duration_means = pd.DataFrame(means).loc[names[1:]]
duration_means.round(1)
