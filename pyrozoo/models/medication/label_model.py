"""Base of the entry's models: labels from a process, and scores that enter as a factor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...data.batch import Batch
from ...modeling.base import ZooModel
from ...posterior.many import pairs
from .data.validation import check_labels
from .decoding import decode_with
from .online import LiveDecoding, live_decoding
from .process.evidence import PAD, LabelSequences, log_conditional, log_evidence, log_potentials
from .process.process import Process

EMISSIONS = ("score", "beta", "scaled")


def outside_plate(value: Tensor, event_dim: int) -> Tensor:
    """Drop the dimension of size 1 that vectorised and replayed draws of globals have at the recordings' plate."""
    dim = value.dim() - event_dim - 1
    return value.squeeze(dim) if dim >= 0 else value


def inside_plate(value: Tensor, event_dim: int) -> Tensor:
    """Put back the dimension that `outside_plate` drops, where there are several draws."""
    return value.unsqueeze(-1 - event_dim) if value.dim() > event_dim else value


class LabelModel(ZooModel):
    """Base of the models: labels from a process, and scores whose evidence enters as a factor.

    Generative process::

        parameters of the process, power ~ priors
        for recording r = 1..R:
            label_r ~ process                       observed where labelled (eq. 1 of a chain, eq. 2 of steps)
            evidence_r: a factor                    see below

    The scores enter as q(z_t) of eq. 1 and 2, raised to the power. The factor of a labelled recording is
    log p(label | score, process, power) with the process held fixed: it informs the power alone. The factor of an
    unlabelled one, with ``unlabelled=True``, is log Z(score | process, power) with the power held fixed: it informs the
    process alone. Z sums f(z_1, ..., z_T) of eq. 1 or 2 over all label sequences. The two cuts keep a classifier's
    scores, which are no likelihood, from overruling the labels (cut posteriors; M. Plummer, Statistics and Computing
    25, 2015). Only gradients are cut, the value of the log joint is not: MCMC, which evaluates the joint, does not cut.

    Predictive draws of ``label`` come from the process alone and do not depend on the scores; to infer labels from
    scores, decode. In plain Pyro, leave ``label`` and ``labelled`` out to draw the labels of unlabelled recordings:
    where they are given, their values are used as they are.

    Shapes: R recordings, F frames of them all end to end, K labels (0 = non-event), S = K − 1 steps.
    ``score`` (F, K) classifier's outputs in [0, 1]; ``label`` (F,) whole numbers; ``labelled`` (R,); ``lengths`` (R,).
    """

    rows = "recording"
    plate_dims = {"recording": -1}
    targets = ("label",)
    default_decoder = "map"
    default_power: float | str = "fit"
    default_floor = 1e-4  # the scores as they are, zeros apart
    fit_defaults = {"steps": 1000, "lr": 0.05, "schedule": "cosine", "batch_size": 16}

    def _set_up(
        self, names: Sequence[str], emission: str, power: float | str | None, unlabelled: bool, floor: float | None,
        share: Sequence[float] | None,
    ) -> None:  # fmt: skip
        # Tables may be given as arrays; a run directory keeps lists.
        self.config.update({k: v.tolist() for k, v in self.config.items() if isinstance(v, np.ndarray | Tensor)})
        if len(names) < 2:
            raise ValueError(f"names: {list(names)}; the non-event and at least one step are needed")
        if len(set(map(str, names))) < len(names):
            raise ValueError(f"names: {list(names)}; two labels have the same name")
        if emission not in EMISSIONS:
            raise ValueError(f"emission: {emission!r} is none of {list(EMISSIONS)}")
        floor = self.default_floor if floor is None else floor
        if not 0 < floor < 0.5:
            raise ValueError(f"floor: {floor}; a score between 0 and 0.5 is needed, far below any that means something")
        power = self.default_power if power is None else power
        number = isinstance(power, int | float) and not isinstance(power, bool) and math.isfinite(power) and power > 0
        if power != "fit" and not number:
            raise ValueError(f"power: {power!r}; a positive number is needed, or 'fit'")
        if emission == "scaled" and share is None:
            raise ValueError("emission='scaled' needs share: each label's share of the classifier's training frames")
        self.names, self.n_labels = tuple(map(str, names)), len(names)
        self.emission, self.unlabelled, self.floor = emission, unlabelled, floor
        self.fixed_power = None if power == "fit" else float(power)
        cuts = {
            "p(label | score) informs the power alone": self.fixed_power is None,
            "unlabelled recordings inform the process alone": unlabelled and self.fixed_power is None,
        }
        self.cut = " and ".join(text for text, own in cuts.items() if own)
        self.register_buffer("share", torch.ones(self.n_labels) if share is None else torch.tensor(share))
        if len(self.share) != self.n_labels or not bool((self.share > 0).all()):
            assert share is not None  # ones pass
            raise ValueError(f"share: {list(share)}; {self.n_labels} positive numbers are needed, one per label")

    # ---------------------------------------------------------------- of the subclasses
    def priors(self) -> dict[str, dist.Distribution]:
        """Prior of every latent site; no prior of these models has parents."""
        raise NotImplementedError

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the parameters of the process, by the paper's names, from the values of the latent sites."""
        raise NotImplementedError

    def process(self, parameters: Mapping[str, Tensor]) -> Process:
        """Build the process with these parameters."""
        raise NotImplementedError

    def label_distribution(self, process: Process, lengths: Tensor) -> LabelSequences:
        """Distribution of the recordings' labels."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the generative model
    def forward(
        self, score: Tensor, lengths: Tensor, sizes: Mapping[str, int], label: Tensor | None = None,
        labelled: Tensor | None = None, recording: Tensor | None = None, **_: Any,
    ) -> None:  # fmt: skip
        values = {}
        for site, prior in self.marginal_priors().items():
            values[site] = outside_plate(pyro.sample(site, prior), prior.event_dim)
        parameters = self.parameters_of(values)
        self.name_parameters(parameters)
        process = self.process(parameters)
        if labelled is None:
            labelled = torch.zeros(len(lengths), dtype=torch.bool, device=lengths.device)
        padded = None if label is None else pad_sequence(label.split(lengths.tolist()), True, PAD)
        with self.plate("recording", sizes=sizes, recording=recording):
            with poutine.mask(mask=labelled):
                pyro.sample("label", self.label_distribution(process, lengths), obs=padded)  # eq. 1 or 2: p(z)
            if self._uses_labelled(labelled) or self._uses_unlabelled(labelled):
                # eq. 1 or 2: q(z_t), normalised over all label sequences.
                pyro.factor("evidence", self._evidence(score, lengths, label, labelled, process, values.get("power")))

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Record parameters that are functions of latents as deterministic sites; none by default."""

    def _uses_labelled(self, labelled: Tensor) -> bool:
        return self.fixed_power is None and bool(labelled.any())

    def _uses_unlabelled(self, labelled: Tensor) -> bool:
        return self.unlabelled and not bool(labelled.all())

    def _evidence(
        self, score: Tensor, lengths: Tensor, label: Tensor | None, labelled: Tensor, process: Process,
        power: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Compute every recording's factor, (*lead, R): log f − log Z (eq. 1 or 2) if labelled, log Z if not."""
        fixed = torch.as_tensor(self.fixed_power or 1.0, dtype=torch.double, device=score.device)
        power = fixed if power is None else power.double()
        potentials = self.log_potentials(score)
        of_frame = labelled.repeat_interleave(lengths)
        lead = process.lead
        out = torch.zeros(*lead, len(lengths), dtype=torch.double, device=score.device)
        if self._uses_labelled(labelled):
            assert label is not None  # some recording is labelled
            own, n, cut = label[of_frame], lengths[labelled], process.detach()
            scaled = power[..., None, None] * potentials[of_frame]
            out[..., labelled] = log_conditional(scaled, own, n, cut)  # log f(label) − log Z
        if self._uses_unlabelled(labelled):
            scaled = power.detach()[..., None, None] * potentials[~of_frame]
            out[..., ~labelled] = log_evidence(scaled, lengths[~labelled], process)  # log Z
        return out

    def log_potentials(self, score: Tensor) -> Tensor:
        """Compute log q(z_t) of eq. 1 and 2 for every frame and label, before the power, shape (F, K)."""
        return log_potentials(score, self.emission, self.floor, self.share)

    def power_prior(self) -> dict[str, dist.Distribution]:
        """Prior of the power if it is fitted, as a dictionary; empty if it is fixed."""
        one = self.share.new_ones(())
        return {"power": dist.LogNormal(0 * one, one)} if self.fixed_power is None else {}

    # ---------------------------------------------------------------- use
    def check(self, data: Batch) -> None:
        """Check that the process can generate the labels of the data.

        Raises:
            ValueError: It cannot, or no recording is labelled; the message names recording, frame and remedy.
        """
        check_labels(data, self)
        if not self.unlabelled and not ("label" in data and bool(data["labelled"].any())):
            raise ValueError("label: no recording is labelled, so there is nothing to fit to; label some")

    @torch.no_grad()
    def mean_parameters(self, guide: nn.Module, data: Batch, draws: int = 200) -> tuple[dict[str, Tensor], float]:
        """Estimate posterior means of the process's parameters and of the power from `draws` draws of the guide."""
        found, powers = [], []
        for part in pairs(self, guide, data, draws):
            values = {site: part.by_draw(part.guide.nodes[site]) for site in self.priors()}
            found.append(self.parameters_of(values))
            powers.append(
                values["power"].double()
                if self.fixed_power is None
                else torch.tensor([self.fixed_power], dtype=torch.double)
            )
        means = {name: torch.cat([own[name].double() for own in found]).mean(0) for name in found[0]}
        return means, float(torch.cat(powers).mean())

    def guide_values(self, guide: nn.Module, data: Batch) -> dict[str, Tensor]:
        """Draw the latents once from a guide."""
        nodes = poutine.trace(guide).get_trace(**self.arguments(data)).nodes
        events = {site: prior.event_dim for site, prior in self.priors().items()}
        return {site: outside_plate(nodes[site]["value"], events[site]) for site in events}

    def stream(self, guide: nn.Module, data: Batch, **options: Any) -> LiveDecoding:
        """Decode while frames arrive; for the options see `online.live_decoding`."""
        return live_decoding(self, guide, data, **options)

    def predict(self, guide: nn.Module, data: Batch, draws: int = 200, decoder: str | None = None) -> pd.DataFrame:
        """Decode every recording: one line per frame, with the label and the posterior marginals of all labels.

        Args:
            guide: Guide of the parameters; they are taken at their posterior means over `draws` draws.
            data: Recordings; their labels, where there are any, are not used.
            draws: Number of posterior draws over which the means are taken.
            decoder: A name in `decode.DECODERS`; the model's default where None.

        Returns:
            Table with index (recording, frame) and columns ``label.label`` and, for every label, ``label.p[name]``.
        """
        return decode_with(self, guide, data, decoder, draws=draws).frames()
