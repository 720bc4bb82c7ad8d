"""Guides of the parameters: in closed form, by penalised maximum likelihood, and Gaussian ones trained by SVI."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import biject_to

from ...data.batch import Batch
from ...modeling.guides import ZooGuide, auto
from .frame_hmm import FrameHMM
from .label_model import LabelModel
from .model import StepProcess
from .power import held_out_power
from .process.counts import Counts, labelled_sequences
from .process.evidence import log_probability

LEAST_SD = 0.5  # frames; smaller standard deviations are hidden by the rounding to whole frames
FOLD_STEPS = 30  # iterations of L-BFGS for the process of a fold


class ClosedForm(ZooGuide):
    """The posterior in closed form, from counts and moments: for every site the family of its prior, updated.

    Sticks (Beta), rows of A (Dirichlet) and the start rate (Gamma) are conjugate to the counts, the last up to the
    rounding of waits to frames. Means and standard deviations (LogNormal) combine the prior with the moments of the
    complete segments, whose logarithms are taken to be normal with their delta-method errors (a step at the beginning
    of a recording counts as complete: it has age 1 in the first frame). Segments that the end of a recording cuts off
    are left out, and a recording that ends in non-event counts as one after which no step follows. The text estimates
    parameters by moments, too: with ``duration="cdf"`` this is its model, which its own durations contradict (see the
    README); guide ``ml`` fits that reading by its likelihood.

    The posterior of the power is normal in its logarithm: the mode of p(labels | scores) of subjects, recordings or
    blocks that the process was learned without, and the error of that mode; see `power.held_out_power`.

    Only labelled recordings are used; `solve` computes the posterior.

    Args:
        model: Model whose parameters the guide covers.

    Raises:
        ValueError: A prior is of another family than the default prior.
    """

    def __init__(self, model: LabelModel) -> None:
        super().__init__(model)
        self.families: dict[str, type[dist.Distribution]] = {}
        given = model.marginal_priors()
        for site, default in model.priors().items():
            prior, family = _base(given[site]), type(_base(default))
            if type(prior) is not family:
                raise ValueError(
                    f"guide 'closed-form': the prior of {site!r} is a {type(prior).__name__}; this guide needs a "
                    f"{family.__name__}. Use the guide 'normal' or 'ml'"
                )
            self.families[site] = family
            for name in ARGUMENTS[family]:
                self.register_buffer(f"{site}_{name}", getattr(prior, name).detach().clone())

    def forward(self, **_: Any) -> None:
        for site, family in self.families.items():
            arguments = [getattr(self, f"{site}_{name}") for name in ARGUMENTS[family]]
            posterior = family(*arguments)
            pyro.sample(site, posterior.to_event(len(posterior.batch_shape)))

    def solve(self, train: Batch) -> None:
        """Update every prior by the labelled recordings, and fit the power at the means of the parameters.

        Raises:
            ValueError: No recording is labelled.
        """
        model = self.model
        self._learn(_labelled(train))
        if "power" in self.families:
            found = held_out_power(model, train, self._fold)
            if found is not None:
                self.power_loc.fill_(found[0])
                self.power_scale.fill_(found[1])

    def means(self) -> dict[str, Tensor]:
        """Compute the means of the sites; those of D are at the means of its sticks, which are independent."""
        return {
            site: family(*(getattr(self, f"{site}_{name}") for name in ARGUMENTS[family])).mean
            for site, family in self.families.items()
        }

    def _fold(self, seen: list[np.ndarray]) -> dict[str, Tensor]:
        return self.model.parameters_of(ClosedForm(self.model)._learn(seen).means())

    def _learn(self, seen: list[np.ndarray]) -> ClosedForm:
        for name, value in statistics(self.model, seen).items():
            self._update(name, *value)
        return self

    def _update(self, site: str, *statistic: np.ndarray) -> None:
        if site not in self.families:
            return
        names = [f"{site}_{name}" for name in ARGUMENTS[self.families[site]]]
        own = [getattr(self, name) for name in names]
        given = [torch.as_tensor(value).to(own[0]) for value in statistic]
        if self.families[site] is dist.LogNormal:  # estimates of the logarithm, and errors: inf without data
            precision = 1 / own[1] ** 2 + 1 / given[1] ** 2
            given = [(own[0] / own[1] ** 2 + given[0] / given[1] ** 2) / precision - own[0], precision**-0.5 - own[1]]
        for name, value, change in zip(names, own, given, strict=True):
            setattr(self, name, value + change)


ARGUMENTS: dict[type[dist.Distribution], tuple[str, ...]] = {
    dist.Beta: ("concentration1", "concentration0"), dist.Gamma: ("concentration", "rate"),
    dist.Dirichlet: ("concentration",), dist.LogNormal: ("loc", "scale"),
}  # fmt: skip


def _base(prior: dist.Distribution) -> dist.Distribution:
    while isinstance(prior, torch.distributions.Independent):
        prior = prior.base_dist
    return prior


def _labelled(train: Batch) -> list[np.ndarray]:
    """List the labelled sequences; ValueError if there are none, since the guides that solve need them."""
    seen = labelled_sequences(train)
    if not seen:
        raise ValueError(
            "label: no recording is labelled, and this guide learns from labelled ones only; label some, or fit "
            "unlabelled ones by SVI: guide 'normal' of a model with unlabelled=True"
        )
    return seen


def statistics(model: LabelModel, seen: list[np.ndarray]) -> dict[str, tuple]:
    """Compute site -> increments of its prior's parameters by label sequences; for LogNormal (estimate, error)."""
    if isinstance(model, FrameHMM):
        moves = np.zeros((model.n_labels, model.n_labels))
        for labels in seen:
            both = (labels[:-1] >= 0) & (labels[1:] >= 0)
            np.add.at(moves, (labels[:-1][both], labels[1:][both]), 1)
        first = [z[0] for z in seen if z[0] >= 0]
        return {"A": (moves,), "initial": (np.bincount(first, minlength=model.n_labels),)}
    return _of_steps(model, Counts.of(seen, model.n_labels - 1))


def _of_steps(model: StepProcess, counts: Counts) -> dict[str, tuple]:
    h, k = model.pairs.h, model.pairs.k
    n = np.array([counts.transitions.get(pair, 0) for pair in zip(h.tolist(), k.tolist(), strict=True)], dtype=float)
    later = np.array([n[i + 1 :][h[i + 1 :] == h[i]].sum() for i in range(len(n))])
    later = later + (counts.ends[h] if model.end else 0)
    waits = np.array(counts.waits, dtype=float)
    pairs = [(int(h[i]), int(k[i])) for i in model.pairs.later]
    out: dict[str, tuple] = {
        "stick": (n[model.open], later[model.open]),
        "start_rate": (len(waits), (waits - 0.5).sum() / model.rate),  # half a frame: the wait began within a frame
    }
    for kind, segments in (("duration", counts.durations), ("gap", [counts.gaps.get(pair, []) for pair in pairs])):
        found = np.array([_moments(np.array(own, dtype=float) / model.rate, model.rate) for own in segments])
        found = found.reshape(-1, 2, 2)  # also where there is no pair of steps
        out |= {f"{kind}_mean": tuple(found[:, 0].T), f"{kind}_sd": tuple(found[:, 1].T)}
    empty = np.array([counts.direct.get(pairs[i], 0) for i in model.pairs.touching], dtype=float)
    return out | {"direct": (empty, n[model.pairs.later][model.pairs.touching] - empty)}


def _moments(seconds: np.ndarray, rate: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Estimate (log mean, its error), (log sd, its error) from complete segments; errors are infinite without data."""
    n = len(seconds)
    if n == 0:
        return (0.0, math.inf), (0.0, math.inf)
    mean = seconds.mean()
    if n == 1:  # one segment gives the mean, with an error that is typical of durations
        return (math.log(mean), 0.3), (0.0, math.inf)
    sd = max(seconds.std(ddof=1), LEAST_SD / rate)
    return (math.log(mean), sd / mean / math.sqrt(n)), (math.log(sd), 1 / math.sqrt(2 * (n - 1)))


class MaximumLikelihood(ZooGuide):
    """A point estimate: the maximum of the labels' likelihood times the priors on the scale of logarithms and logits.

    On that scale weak priors keep parameters finite for which there are only one or two observations (a gap seen once
    has no spread). The likelihood includes the segments that ends of recordings cut off, and sums unknown labels out.
    The process is fitted by L-BFGS, then the power as by `ClosedForm`, for which every fold is fitted anew, by
    `FOLD_STEPS` iterations that start at the whole fit. Only labelled recordings are used; to use unlabelled ones,
    too, take ``AutoDelta`` and SVI.

    Args:
        model: Model whose parameters the guide covers.
        penalty: Weight of the log priors, that of the power included; 0 for maximum likelihood, where standard
            deviations are kept above half a frame.
        steps: Number of iterations of L-BFGS.
    """

    def __init__(self, model: LabelModel, penalty: float = 1.0, steps: int = 200) -> None:
        super().__init__(model)
        self.penalty, self.steps = penalty, steps
        self.transforms, self.events = {}, {}
        for site, prior in model.marginal_priors().items():
            self.transforms[site], self.events[site] = biject_to(prior.support), prior.event_dim
            setattr(self, f"at_{site}", nn.Parameter(self.transforms[site].inv(_centre(prior)).detach().clone()))

    def values(self) -> dict[str, Tensor]:
        """Compute the values of the sites at the current parameters."""
        return {site: transform(getattr(self, f"at_{site}")) for site, transform in self.transforms.items()}

    def forward(self, **_: Any) -> None:
        for site, value in self.values().items():
            pyro.sample(site, dist.Delta(value, event_dim=self.events[site]))

    def solve(self, train: Batch) -> None:
        """Maximise the penalised likelihood of the labelled recordings, then fit the power.

        Raises:
            ValueError: No recording is labelled.
        """
        model = self.model
        seen = _labelled(train)
        sites = [site for site in self.transforms if site != "power"]
        start = {site: getattr(self, f"at_{site}") for site in sites}
        inner = {site: value.detach().double().requires_grad_() for site, value in start.items()}
        self._maximise(model, inner, np.concatenate(seen), np.array([len(z) for z in seen]), self.steps)
        for site, value in inner.items():
            if not self.penalty and site.endswith("_sd"):
                least = self.transforms[site].inv(torch.full_like(value, LEAST_SD / model.rate))
                value = torch.maximum(value, least)
            start[site].data.copy_(value.detach())
        if "power" in self.transforms:
            found = held_out_power(model, train, self._fold, self.penalty)
            if found is not None:
                value = torch.tensor(found[0]).exp().to(self.at_power)
                self.at_power.data.copy_(self.transforms["power"].inv(value))

    def _fold(self, seen: list[np.ndarray]) -> dict[str, Tensor]:
        """Fit the process to some label sequences, from the whole fit on."""
        inner = {
            site: getattr(self, f"at_{site}").detach().double().clone().requires_grad_()
            for site in self.transforms
            if site != "power"
        }
        lengths = np.array([len(z) for z in seen])
        self._maximise(self.model, inner, np.concatenate(seen), lengths, FOLD_STEPS)
        with torch.no_grad():
            return self.model.parameters_of(self._bounded(self.model, inner))

    def _bounded(self, model: LabelModel, inner: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values of the sites; without a penalty, standard deviations of at least half a frame."""
        values = {site: self.transforms[site](u) for site, u in inner.items()}
        if not self.penalty:
            low = LEAST_SD / model.rate
            values = {site: v.clamp(min=low) if site.endswith("_sd") else v for site, v in values.items()}
        return values

    def _maximise(
        self, model: LabelModel, inner: dict[str, Tensor], labels: np.ndarray, lengths: np.ndarray, steps: int
    ) -> None:
        optimiser = torch.optim.LBFGS(
            list(inner.values()), max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-10
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            values, density = self._bounded(model, inner), torch.zeros(())  # equal durations have no maximum in sd
            priors = model.marginal_priors() if self.penalty else {}
            for site, u in inner.items() if self.penalty else ():
                jacobian = self.transforms[site].log_abs_det_jacobian(u, values[site]).sum()
                density = density + priors[site].log_prob(values[site]).sum() + jacobian
            process = model.process(model.parameters_of(values))
            value = -log_probability(process, labels, lengths).sum() - self.penalty * density
            value.backward()
            return value

        optimiser.step(loss)


def _centre(prior: dist.Distribution) -> Tensor:
    """Choose the start value: the median of a log-normal prior, else the mean, else the image of 0."""
    base = _base(prior)
    if isinstance(base, dist.LogNormal):
        return base.loc.exp()
    try:
        mean = prior.mean
    except NotImplementedError:
        mean = torch.tensor(math.inf)
    if bool(torch.isfinite(mean).all()) and bool(prior.support.check(mean).all()):
        return mean
    return biject_to(prior.support)(torch.zeros(biject_to(prior.support).inverse_shape(prior.shape())))


GUIDES: dict[str, Callable[[LabelModel], nn.Module]] = {
    "closed-form": ClosedForm,
    "ml": MaximumLikelihood,
    "normal": auto(AutoNormal),
}
