"""The models: steps with durations and gaps (advanced, and as the text has it), and the frame-level chain (vanilla)."""

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

from ...base import ZooModel
from ...batch import Batch
from . import durations
from .checks import check_labels
from .counts import Counts, labelled_sequences
from .evidence import PAD, FrameChain, LabelSequences, SemiMarkov, log_evidence, log_potentials
from .process import READINGS, MarkovChain, Pairs, Process, SemiMarkovProcess, next_step, semi_markov_process

EMISSIONS = ("score", "beta", "scaled")


def outside_plate(value: Tensor, event_dim: int) -> Tensor:
    """Drop the singleton that stands for the recordings' plate in vectorised or replayed draws of a global latent."""
    dim = value.dim() - event_dim - 1
    return value.squeeze(dim) if dim >= 0 else value


def _user_table(table: Sequence[Sequence[float]] | None, n_rows: int, name: str) -> Tensor | None:
    if table is None:
        return None
    found = torch.as_tensor(np.asarray(table, dtype=np.float64))
    if found.dim() != 2 or len(found) != n_rows or found.shape[1] < 2:
        raise ValueError(f"{name}: shape {tuple(found.shape)}; ({n_rows}, 2 or more) is needed")
    durations.tabulated(found)
    return found


class LabelModel(ZooModel):
    """What the models share: labels from a process, and scores whose evidence enters as a factor.

    Generative process::

        parameters of the process, power ~ priors
        for recording r = 1..R:
            label_r ~ process                       observed where labelled
            evidence_r: a factor                    see below

    The factor of a labelled recording is log p(label | score, process, power), its process held fixed: it informs the
    power alone. That of an unlabelled one, with ``unlabelled=True``, is log Z(score | process, power), its power held
    fixed: it informs the process alone. The two cuts keep a classifier's scores, which are no likelihood, from
    overruling the labels (cut posteriors; M. Plummer, Statistics and Computing 25, 2015). Without them the log joint
    is what it says; only gradients are cut, so MCMC, which evaluates the joint, targets it without cuts.

    Shapes: R recordings, F frames of them all end to end, K labels (0 = non-event), S = K − 1 steps.
    ``score`` (F, K) classifier's outputs in [0, 1]; ``label`` (F,) whole numbers; ``labelled`` (R,); ``lengths`` (R,).
    """

    rows = "recording"
    plate_dims = {"recording": -1}
    targets = ("label",)
    default_decoder = "map"
    default_power: float | str = "fit"
    default_floor = 1e-4  # the scores as they are, zeros apart
    fit_defaults = {"steps": 600, "lr": 0.03, "batch_size": 16}

    def _set_up(
        self, names: Sequence[str], emission: str, power: float | str | None, unlabelled: bool, floor: float | None,
        share: Sequence[float] | None,
    ) -> None:  # fmt: skip
        if len(names) < 2:
            raise ValueError(f"names: {list(names)}; the non-event and at least one step are needed")
        if emission not in EMISSIONS:
            raise ValueError(f"emission: {emission!r} is none of {list(EMISSIONS)}")
        floor = self.default_floor if floor is None else floor
        if not 0 < floor < 0.5:
            raise ValueError(f"floor: {floor}; a score between 0 and 0.5 is needed, far below any that means something")
        power = self.default_power if power is None else power
        if power != "fit" and not (isinstance(power, int | float) and math.isfinite(power) and power > 0):
            raise ValueError(f"power: {power!r}; a positive number is needed, or 'fit'")
        if emission == "scaled" and share is None:
            raise ValueError("emission='scaled' needs share: each label's share of the classifier's training frames")
        self.names, self.n_labels = tuple(map(str, names)), len(names)
        self.emission, self.unlabelled, self.floor = emission, unlabelled, floor
        self.fixed_power = None if power == "fit" else float(power)
        self.register_buffer("share", torch.ones(self.n_labels) if share is None else torch.tensor(share))
        if len(self.share) != self.n_labels or not bool((self.share > 0).all()):
            raise ValueError(f"share: {list(share)}; {self.n_labels} positive numbers are needed, one per label")

    # ---------------------------------------------------------------- of the subclasses
    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the process, by the paper's names, from the values of the latent sites."""
        raise NotImplementedError

    def process(self, parameters: Mapping[str, Tensor]) -> Process:
        """The process with these parameters."""
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
        for site, prior in self.priors().items():
            sampled = pyro.sample(site, self.prior(site))
            event_dim = prior.event_dim if isinstance(prior, dist.Distribution) else 0
            values[site] = outside_plate(sampled, event_dim)
        parameters = self.parameters_of(values)
        self.name_parameters(parameters)
        process = self.process(parameters)
        if labelled is None:
            labelled = torch.zeros(len(lengths), dtype=torch.bool, device=lengths.device)
        padded = None if label is None else pad_sequence(label.split(lengths.tolist()), True, PAD)
        with self.plate("recording", sizes=sizes, recording=recording):
            with poutine.mask(mask=labelled):
                pyro.sample("label", self.label_distribution(process, lengths), obs=padded)
            if self._uses_labelled(labelled) or self._uses_unlabelled(labelled):
                pyro.factor("evidence", self._evidence(score, lengths, label, labelled, process, values.get("power")))

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Give parameters that are functions of latents their names in the trace; none by default."""

    def _uses_labelled(self, labelled: Tensor) -> bool:
        return self.fixed_power is None and bool(labelled.any())

    def _uses_unlabelled(self, labelled: Tensor) -> bool:
        return self.unlabelled and not bool(labelled.all())

    def _evidence(
        self, score: Tensor, lengths: Tensor, label: Tensor | None, labelled: Tensor, process: Process,
        power: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The factor of every recording, shape (*lead, R)."""
        fixed = torch.as_tensor(self.fixed_power or 1.0, dtype=torch.double, device=score.device)
        power = fixed if power is None else power.double()
        potentials = self.log_potentials(score)
        of_frame = labelled.repeat_interleave(lengths)
        lead = process.lead
        out = torch.zeros(*lead, len(lengths), dtype=torch.double, device=score.device)
        if self._uses_labelled(labelled):
            own, n, cut = label[of_frame], lengths[labelled], process.detach()
            chosen = power[..., None] * potentials[of_frame].gather(-1, own[:, None])[:, 0]
            total = torch.zeros(*chosen.shape[:-1], len(n), dtype=chosen.dtype, device=score.device)
            recording = torch.arange(len(n), device=score.device).repeat_interleave(n)
            total = total.index_add(-1, recording, chosen)
            prior = cut.log_prob(own.cpu().numpy(), n.cpu().numpy())
            scaled = power[..., None, None] * potentials[of_frame]
            out[..., labelled] = total + prior - log_evidence(scaled, n, cut)
        if self._uses_unlabelled(labelled):
            scaled = power.detach()[..., None, None] * potentials[~of_frame]
            out[..., ~labelled] = log_evidence(scaled, lengths[~labelled], process)
        return out

    def log_potentials(self, score: Tensor) -> Tensor:
        """Log potentials of the labels in every frame, before the power, shape (F, K)."""
        return log_potentials(score, self.emission, self.floor, self.share)

    def power_prior(self) -> dict[str, dist.Distribution]:
        """Prior of the power where it is to be fitted."""
        one = self.share.new_ones(())
        return {"power": dist.LogNormal(0 * one, one)} if self.fixed_power is None else {}

    # ---------------------------------------------------------------- use
    def check(self, data: Batch) -> None:
        """Refuse data that the process cannot have made.

        Raises:
            ValueError: Names the recording, the frame and the remedy.
        """
        check_labels(data, self)

    @torch.no_grad()
    def mean_parameters(self, guide: nn.Module, data: Batch, draws: int = 200) -> tuple[dict[str, Tensor], float]:
        """Posterior means of the process's parameters, and of the power."""
        found, powers = [], []
        for _ in range(draws):
            values = self.guide_values(guide, data)
            found.append(self.parameters_of(values))
            powers.append(float(values["power"]) if "power" in values else self.fixed_power)
        means = {name: torch.stack([own[name].double() for own in found]).mean(0) for name in found[0]}
        return means, float(np.mean(powers))

    def guide_values(self, guide: nn.Module, data: Batch) -> dict[str, Tensor]:
        """One draw of the latents from a guide."""
        nodes = poutine.trace(guide).get_trace(**self.arguments(data)).nodes
        events = {site: prior.event_dim for site, prior in self.priors().items()}
        return {site: outside_plate(nodes[site]["value"], events[site]) for site in events}

    def predict(self, guide: nn.Module, data: Batch, draws: int = 200, decoder: str | None = None) -> pd.DataFrame:
        """Decode every recording: one line per frame, with the label and the posterior marginals of all labels.

        Args:
            guide: Guide of the parameters; they are taken at their posterior means over `draws` draws.
            data: Recordings; their labels, where there are any, are not used.
            draws: Draws for the means.
            decoder: A name in `decode.DECODERS`; the model's default where None.

        Returns:
            Index (recording, frame); ``label.label``, and ``label.p[name]`` of every label.
        """
        from .uses import decode_with

        return decode_with(self, guide, data, decoder, draws=draws).frames()


class StepProcess(LabelModel):
    """The advanced model: steps with durations, gaps that depend on both steps, and an order given by D.

    Generative process of a recording's labels (times in seconds, n frames per second)::

        first label ~ initial
        before the first step: a geometric wait of mean 1 / start_rate
        after step h:  k ~ D[h], or no further step;  gap ~ N(gap_mean[h, k], gap_sd[h, k]^2), in whole frames
        step k:        duration ~ N(duration_mean[k], duration_sd[k]^2), in whole frames
        the end of the recording cuts off whatever is going on

    with ``duration="hazard"``. With ``duration="cdf"``, the text's own reading, the same distribution functions are the
    probabilities to change in each frame::

        p(z_t = k | gap after h, g frames long) = D[h, k] Φ_hk(g + 1)       p(stay) = 1 − Σ_k D[h, k] Φ_hk(g + 1)
        p(z_t = 0 | step k, d frames long) = Ψ_k(d + 1)                     p(stay) = 1 − Ψ_k(d + 1)

    See `LabelModel` for the scores. D is given by `stick`: a share of what earlier pairs of a row have left, so that
    Beta sticks make Dirichlet rows (row h: the pairs (h, k), and no further step).

    Args:
        names: Names of the K labels, the non-event first.
        pairs: Pairs (h, k): step k may follow step h; h = 0: before the first step. All where None: slow, and loose.
        rate: Frames per second.
        duration: Reading of the laws, "hazard" or "cdf".
        law: "normal" (the text) or "lognormal", with the same means and standard deviations.
        emission: "score", "beta" or "scaled"; see `evidence.log_potentials`.
        power: Exponent of the potentials, which makes up for scores that repeat themselves from frame to frame: a
            number, or "fit": a latent, fitted to p(label | score), the default here. The text has 1.
        unlabelled: Let unlabelled recordings inform the process (they bias gaps; see the README).
        floor: Least score; 0.01 by default: no frame rules a label out by more than a hundred to one, however sure the
            classifier was. (1e-4 in the models of the text, which take scores as they are.)
        share: Share of each label, for emission "scaled".
        initial: Probability of a recording's first label, shape (K,); by default a recording begins in non-event.
        alpha: Concentration of every entry of a row of D, the end included.
        typical: Typical duration and gap in seconds, the medians of their priors.
        caps: Ages in frames of steps and of gaps from which on hazards are constant.
        duration_table: Probability to last exactly 1, 2, ... frames, shape (S, n), in place of the law of durations.
        gap_table: The same for the gaps of the pairs with h > 0, shape (P', m), in place of the law of gaps.
        priors: Site -> prior.
    """

    version = "1"
    default_decoder = "mea"
    default_floor = 0.01
    reading = "hazard"
    dims = {
        "stick": ("pair",), "D": ("pair",), "duration_mean": ("step",), "duration_sd": ("step",),
        "gap_mean": ("gap",), "gap_sd": ("gap",), "label": ("frame",),
    }  # fmt: skip

    def __init__(
        self, names: Sequence[str], pairs: Sequence[Sequence[int]] | None = None, rate: float = 1.0,
        duration: str | None = None, law: str = "normal", emission: str = "score", power: float | str | None = None,
        unlabelled: bool = False, floor: float | None = None, share: Sequence[float] | None = None,
        initial: Sequence[float] | None = None, alpha: float = 0.5, typical: Sequence[float] = (5.0, 3.0),
        caps: Sequence[int] | None = None, duration_table: Sequence[Sequence[float]] | None = None,
        gap_table: Sequence[Sequence[float]] | None = None, priors: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(names, emission, power, unlabelled, floor, share)
        n_steps = self.n_labels - 1
        every = [(h, k) for h in range(self.n_labels) for k in range(1, self.n_labels)]
        self.pairs = Pairs.of(every if pairs is None else pairs, n_steps)
        self.reading = duration or self.reading
        if self.reading not in READINGS or law not in durations.LAWS:
            raise ValueError(
                f"duration: {self.reading!r} of {list(READINGS)}, law: {law!r} of {sorted(durations.LAWS)}"
            )
        if not (math.isfinite(rate) and rate > 0 and alpha > 0 and min(typical) > 0):
            raise ValueError(f"rate {rate}, alpha {alpha}, typical {list(typical)}: positive numbers are needed")
        self.rate, self.law, self.alpha = float(rate), law, float(alpha)
        self.register_buffer("typical", torch.tensor(typical))
        self.caps = [max(2, int(10 * self.rate * t)) for t in typical] if caps is None else [int(c) for c in caps]
        if min(self.caps) < 1:
            raise ValueError(f"caps: {self.caps}; ages of at least 1 frame are needed")
        begin = [1.0] + [0.0] * n_steps if initial is None else list(initial)
        if len(begin) != self.n_labels or min(begin) < 0 or abs(sum(begin) - 1) > 1e-6:
            raise ValueError(f"initial: {begin}; {self.n_labels} probabilities that sum to 1 are needed")
        self.register_buffer("initial", torch.tensor(begin, dtype=torch.double))
        self._tables = {"step": _user_table(duration_table, n_steps, "duration_table"),
                        "gap": _user_table(gap_table, len(self.pairs.later), "gap_table")}  # fmt: skip
        if self.reading == "cdf" and any(table is not None for table in self._tables.values()):
            raise ValueError("duration_table and gap_table are laws of durations; they need duration='hazard'")
        labels = self.names
        self.coords = {
            "step": list(labels[1:]), "pair": self.pairs.names(labels),
            "gap": [self.pairs.names(labels)[i] for i in self.pairs.later],
        }  # fmt: skip
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Names, rate, and from the labelled recordings: pairs that occur, first labels, typical times, caps.

        Raises:
            ValueError: Two steps follow each other without a non-event frame between them.
        """
        names = [str(name) for name in data.coords["label_class"]]
        rate = float(data.info.get("rate", 1.0))
        out: dict[str, Any] = {"names": names, "rate": rate}
        seen = labelled_sequences(data)
        if not seen:
            return out
        check_labels(data)
        summary = Counts.of(seen, len(names) - 1)
        first = np.bincount([labels[0] for labels in seen], minlength=len(names)) + 0.5
        frames = np.bincount(np.concatenate(seen), minlength=len(names)) + 1.0
        longest = [max([10, *map(max, filter(len, found))]) for found in (summary.durations, summary.gaps.values())]
        times = [np.concatenate([np.ones(1), *found]) for found in (summary.durations, summary.gaps.values())]
        return out | {
            "pairs": [list(map(int, pair)) for pair in sorted(summary.transitions)] or None,
            "initial": (first / first.sum()).tolist(),
            "share": (frames / frames.sum()).tolist(),
            "typical": [float(np.median(t)) / rate for t in times],
            "caps": [int(1.5 * n) for n in longest],
        }

    def priors(self) -> dict[str, dist.Distribution]:
        """Priors; means and standard deviations in seconds, start_rate per second."""
        like, p = self.typical, self.pairs
        position = np.arange(len(p.h)) - np.searchsorted(p.h, p.h)
        later = np.bincount(p.h, minlength=p.n_steps + 1)[p.h] - position  # pairs after this one, and the end
        alpha = like.new_full((len(p.h),), self.alpha)
        found = {
            "stick": dist.Beta(alpha, alpha * torch.as_tensor(later, device=like.device)).to_event(1),
            "start_rate": dist.Gamma(like.new_tensor(1.0), like.new_tensor(10.0)),
        }
        for kind, n, typical in (("duration", p.n_steps, like[0]), ("gap", len(p.later), like[1])):
            if self._tables["step" if kind == "duration" else kind] is None and n:
                centre, spread = typical.log().expand(n), like.new_ones(n)
                found[f"{kind}_mean"] = dist.LogNormal(centre, spread).to_event(1)
                found[f"{kind}_sd"] = dist.LogNormal(centre + math.log(0.3), spread).to_event(1)
        return found | self.power_prior()

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Show D itself beside its sticks."""
        pyro.deterministic("D", parameters["D"], event_dim=1)

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """D (P,), end (S + 1,), and the sites of the durations and gaps."""
        log_d, log_end = next_step(values["stick"], self.pairs)
        others = {site: value for site, value in values.items() if site not in ("stick", "power")}
        return {"D": log_d.exp(), "end": log_end.exp(), **others}

    def process(self, parameters: Mapping[str, Tensor]) -> SemiMarkovProcess:
        """The process with these parameters, times in seconds."""
        frames = {site: value.double() * self.rate for site, value in parameters.items() if "_mean" in site or "_sd" in site}
        function = durations.renewal if self.reading == "hazard" else durations.distribution_function

        def law(kind: str, name: str, cap: int) -> tuple[Tensor, Tensor]:
            if self._tables[kind] is not None:
                return durations.tabulated(self._tables[kind].to(self.initial.device))
            return function(frames[f"{name}_mean"], frames[f"{name}_sd"], cap + 1, self.law)

        step, p = law("step", "duration", self.caps[0]), self.pairs
        rate = parameters["start_rate"].double()
        each_frame = -torch.expm1(-rate / self.rate)[..., None].expand(*rate.shape, len(p.h) - len(p.later))
        later = law("gap", "gap", self.caps[1]) if len(p.later) else None
        n = self.caps[1] + 1 if later is None else later[0].shape[-1]
        if self.reading == "hazard":
            start = durations.geometric(each_frame, n)
        else:
            start = tuple(t[..., None].expand(*t.shape, n) for t in (each_frame.log(), torch.log1p(-each_frame)))
        gap = start
        if later is not None:
            lead = torch.broadcast_shapes(start[0].shape[:-2], later[0].shape[:-2])
            gap = tuple(
                torch.cat([a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:])], -2)
                for a, b in zip(start, later, strict=True)
            )
        tiny = torch.finfo(torch.double).tiny
        log_d, log_end = (parameters[name].double().clamp(min=tiny).log() for name in ("D", "end"))
        return semi_markov_process(p, log_d, log_end, step, gap, self.initial, self.reading)

    def label_distribution(self, process: Process, lengths: Tensor) -> SemiMarkov:
        """Distribution of the recordings' labels."""
        return SemiMarkov(process, lengths)


class PaperProcess(StepProcess):
    """The advanced model as the text has it: distribution functions as hazards, scores unpowered, one history kept."""

    reading = "cdf"
    default_decoder = "paper"
    default_power = 1.0
    default_floor = 1e-4


class FrameHMM(LabelModel):
    """The vanilla model: a first-order chain over the labels of frames.

    Generative process of a recording::

        z_1 ~ initial;  z_t ~ A[z_{t−1}]
        c_tk ~ Beta(1 + [z_t = k], 2 − [z_t = k])       with emission "beta", the note's density of the scores

    `forward` sums over label sequences by the forward algorithm; `explicit` is the same model written out frame by
    frame for Pyro's enumeration, to be read and changed.

    Args:
        names: Names of the K labels, the non-event first.
        emission, power, unlabelled, floor, share: As of `StepProcess`; the text has power 1.
        alpha: Concentration of every entry of a row of A and of the first label's distribution.
        priors: Site -> prior.
    """

    version = "1"
    default_decoder = "viterbi"
    default_power = 1.0
    dims = {"A": ("from", "to"), "initial": ("label_class",), "label": ("frame",)}

    def __init__(
        self, names: Sequence[str], emission: str = "score", power: float | str | None = None, unlabelled: bool = False,
        floor: float | None = None, share: Sequence[float] | None = None, alpha: float = 0.1,
        priors: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(names, emission, power, unlabelled, floor, share)
        if alpha <= 0:
            raise ValueError(f"alpha: {alpha}; a positive number is needed")
        self.alpha = alpha
        self.coords = {"from": list(self.names), "to": list(self.names)}
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Names, and each label's share of the labelled frames."""
        names = [str(name) for name in data.coords["label_class"]]
        seen = labelled_sequences(data)
        frames = np.bincount(np.concatenate(seen), minlength=len(names)) + 1.0 if seen else None
        return {"names": names} | ({} if frames is None else {"share": (frames / frames.sum()).tolist()})

    def priors(self) -> dict[str, dist.Distribution]:
        """Symmetric Dirichlet rows."""
        rows = self.share.new_full((self.n_labels, self.n_labels), self.alpha)
        found = {"A": dist.Dirichlet(rows).to_event(1), "initial": dist.Dirichlet(rows[0])}
        return found | self.power_prior()

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A (K, K) and initial (K,)."""
        return {site: values[site] for site in ("A", "initial")}

    def process(self, parameters: Mapping[str, Tensor]) -> MarkovChain:
        """The chain with these parameters."""
        return MarkovChain(parameters["initial"].double(), parameters["A"].double())

    def label_distribution(self, process: Process, lengths: Tensor) -> FrameChain:
        """Distribution of the recordings' labels."""
        return FrameChain(process, lengths)

    def explicit(self, score: Tensor, lengths: Tensor, initial: Tensor, A: Tensor) -> None:  # noqa: N803
        """The model written out: z_t enumerated in parallel, Beta emissions, ragged lengths by masks.

        Its TraceEnum_ELBO (empty guide) is minus the log density of the scores. It costs some milliseconds per frame
        and step: for recordings of up to a hundred frames, and for changing the model's structure.

        Args:
            score: Classifier's outputs, shape (F, K), strictly between 0 and 1.
            lengths: Shape (R,).
            initial, A: Probabilities, shapes (K,), (K, K).
        """
        c = pad_sequence(score.split(lengths.tolist()), True, 0.5)
        recordings, classes = pyro.plate("recording", len(lengths), dim=-2), pyro.plate("class", len(A), dim=-1)
        z = None
        for t in pyro.markov(range(c.shape[1])):
            with recordings, poutine.mask(mask=(t < lengths)[:, None]):
                z = pyro.sample(
                    f"z_{t}", dist.Categorical(initial if z is None else A[z]), infer={"enumerate": "parallel"}
                )
                on = (z == torch.arange(len(A), device=z.device)).to(c)
                with classes:
                    pyro.sample(f"c_{t}", dist.Beta(1 + on, 2 - on), obs=c[:, t])
