"""The models: steps with durations and gaps (advanced, in two readings), and the frame-level chain (vanilla)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.batch import Batch
from .data.validation import check_labels
from .label_model import LabelModel
from .process import durations
from .process.counts import Counts, labelled_sequences
from .process.evidence import FrameChain, SemiMarkov
from .process.process import MarkovChain, Pairs, Process, SemiMarkovProcess, next_step, semi_markov_process

LONGEST_WAIT = 500  # largest age of the wait before the first step [frames]: the cost of a frame grows with it


class StepProcess(LabelModel):
    """The advanced model: steps with durations, gaps that depend on both steps, and an order given by D.

    Generative process of a recording's labels (times in seconds, n frames per second)::

        first label ~ initial
        before the first step: a geometric wait of mean 1 / start_rate
        after step h:  k ~ D[h], or no further step;  gap ~ N(gap_mean[h, k], gap_sd[h, k]^2), in whole frames
        step k:        duration ~ N(duration_mean[k], duration_sd[k]^2), in whole frames
        the end of the recording cuts off whatever is going on

    with ``duration="hazard"``. With ``duration="cdf"``, the text's own reading, the same distribution functions are the
    probabilities to change in each frame (eq. 2)::

        p(z_t = k | gap after h, g frames long) = D[h, k] Φ_hk(g + 1)       p(stay) = 1 − Σ_k D[h, k] Φ_hk(g + 1)
        p(z_t = 0 | step k, d frames long) = Ψ_k(d + 1)                     p(stay) = 1 − Ψ_k(d + 1)

    See `LabelModel` for the scores. D is computed from `stick`: the share that a pair takes of the probability that the
    earlier pairs of its row have left, so that Beta sticks make Dirichlet rows (row h: the pairs (h, k), and no further
    step).

    Args:
        names: Names of the K labels, the non-event first.
        pairs: Pairs (h, k): step k may follow step h; h = 0: before the first step. All pairs where None, which is slow
            and tells little of the order.
        rate: Frames per second.
        duration: Reading of the laws, "hazard" or "cdf".
        law: Family of the laws of durations and gaps: "normal" (the text) or "lognormal", with the same means and
            standard deviations.
        emission: Potential of a score: "score", "beta" or "scaled"; see `evidence.log_potentials`.
        power: Exponent of the potentials, which corrects for scores that repeat themselves from frame to frame: a
            number, or "fit": a latent, fitted to p(label | score), the default here. The text has 1.
        unlabelled: Whether unlabelled recordings inform the process (they bias gaps; see the README).
        floor: Smallest score, to which lower ones are raised; 0.01 by default: no frame rules a label out by more than
            a hundred to one, however sure the classifier was. (1e-4 in the models of the text, which hardly changes the
            scores.)
        share: Share of each label among the classifier's training frames, shape (K,), for emission "scaled".
        initial: Probability of a recording's first label, shape (K,); by default a recording begins in non-event.
        alpha: Concentration of every entry of a row of D, the end included.
        typical: Typical duration and gap in seconds, the medians of their priors.
        caps: Ages in frames of steps, of gaps, and of the wait before the first step, from which on hazards are
            constant (from data, the last is at most 500, since every frame of it costs time).
        duration_table: Probability to last exactly 1, 2, ... frames, shape (S, n), in place of the law of durations.
        gap_table: Probability that a gap lasts exactly 1, 2, ... frames, for the pairs with h > 0, shape (P', m), in
            place of the law of gaps.
        priors: Site -> prior.

    Raises:
        ValueError: An argument is out of its range or choices, or has the wrong shape; the message names it.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import simulate
        >>> data = simulate("pen", n_recordings=4, difficulty="easy", rate=2.0)
        >>> model = zoo.create_model("medication", data)  # pairs, rate and typical times are read from the data
        >>> model.pairs.names(model.names)[:2]
        ['start → prepare pen and remove cap', 'prepare pen and remove cap → attach needle']
        >>> sorted(model.priors())
        ['duration_mean', 'duration_sd', 'gap_mean', 'gap_sd', 'power', 'start_rate', 'stick']
        >>> names = ["non-event", "shake", "inhale"]
        >>> own = zoo.create_model("medication", names=names, pairs=[(0, 1), (1, 2)], rate=5.0)  # without data
        >>> own.pairs.names(own.names)
        ['start → shake', 'shake → inhale']
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
        if self.reading not in durations.READINGS or law not in durations.LAWS:
            raise ValueError(
                f"duration: {self.reading!r} of {list(durations.READINGS)}, law: {law!r} of {sorted(durations.LAWS)}"
            )
        if not (math.isfinite(rate) and rate > 0 and alpha > 0 and len(typical) == 2 and min(typical) > 0):
            raise ValueError(f"rate {rate}, alpha {alpha}, typical {list(typical)}: positive numbers are needed")
        self.rate, self.law, self.alpha = float(rate), law, float(alpha)
        self.register_buffer("typical", torch.tensor(typical))
        usual = [max(2, int(10 * self.rate * t)) for t in typical]
        self.caps = [*usual, usual[1]] if caps is None else [int(c) for c in caps]
        if len(self.caps) != 3 or min(self.caps) < 1:
            raise ValueError(
                f"caps: {self.caps}; three ages of at least 1 frame are needed: of steps, gaps, first wait"
            )
        begin = [1.0] + [0.0] * n_steps if initial is None else list(initial)
        if len(begin) != self.n_labels or not min(begin) >= 0 or not abs(sum(begin) - 1) < 1e-6:
            raise ValueError(f"initial: {begin}; {self.n_labels} probabilities that sum to 1 are needed")
        self.register_buffer("initial", torch.tensor(begin, dtype=torch.double) / sum(begin))
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
        """Read names and rate, and from the labelled recordings: pairs that occur, first labels, typical times, caps.

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
        lengths = (summary.durations, summary.gaps.values(), [summary.waits])
        longest = [max([10, *map(max, filter(len, found))]) for found in lengths]
        times = [np.concatenate([np.ones(1), *found]) for found in (summary.durations, summary.gaps.values())]
        return out | {
            "pairs": [list(map(int, pair)) for pair in sorted(summary.transitions)] or None,
            "initial": (first / first.sum()).tolist(),
            "share": (frames / frames.sum()).tolist(),
            "typical": [float(np.median(t)) / rate for t in times],
            "caps": [int(1.5 * n) for n in longest[:2]] + [min(int(1.5 * longest[2]), LONGEST_WAIT)],
        }

    def priors(self) -> dict[str, dist.Distribution]:
        """Priors of the sites; means and standard deviations in seconds, start_rate per second."""
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
        """Record D as a deterministic site, in addition to its sticks."""
        pyro.deterministic("D", parameters["D"], event_dim=1)

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute D (P,) and the end (S + 1,) from the sticks; the sites of durations and gaps are kept (eq. 2)."""
        log_d, log_end = next_step(values["stick"], self.pairs)
        others = {site: value for site, value in values.items() if site not in ("stick", "power")}
        return {"D": log_d.exp(), "end": log_end.exp(), **others}

    def process(self, parameters: Mapping[str, Tensor]) -> SemiMarkovProcess:
        """Build the process with these parameters, times in seconds (eq. 2)."""
        frames = {
            site: value.double() * self.rate for site, value in parameters.items() if "_mean" in site or "_sd" in site
        }
        law, memoryless = durations.READINGS[self.reading]

        def tables(kind: str, name: str, cap: int) -> tuple[Tensor, Tensor]:
            table = self._tables[kind]
            if table is not None:
                return durations.tabulated(table.to(self.initial.device))
            return law(frames[f"{name}_mean"], frames[f"{name}_sd"], cap + 1, self.law)

        step, p = tables("step", "duration", self.caps[0]), self.pairs  # eq. 2: Ψ
        nothing = self.initial.new_zeros(0, self.caps[1] + 1)
        gap = tables("gap", "gap", self.caps[1]) if len(p.later) else (nothing, nothing)  # eq. 2: Φ
        rate = parameters["start_rate"].double()
        each_frame = -torch.expm1(-rate / self.rate)[..., None].expand(*rate.shape, len(p.h) - len(p.later))
        start = memoryless(each_frame, self.caps[2] + 1)
        tiny = torch.finfo(torch.double).tiny
        log_d, log_end = (parameters[name].double().clamp(min=tiny).log() for name in ("D", "end"))  # eq. 2: D
        return semi_markov_process(p, log_d, log_end, start, gap, step, self.initial, self.reading)

    def label_distribution(self, process: Process, lengths: Tensor) -> SemiMarkov:
        """Distribution of the recordings' labels, p(z_1, ..., z_T) of eq. 2."""
        return SemiMarkov(process, lengths)


class PaperProcess(StepProcess):
    """The advanced model exactly as in the text (eq. 2): distribution functions as hazards, and power 1.

    By default it decodes by the text's approximate recursion, decoder "paper"; decoder "map" is the exact maximum.
    Arguments of `StepProcess`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import simulate
        >>> data = simulate("pen", n_recordings=4, difficulty="easy", rate=2.0)
        >>> model = zoo.create_model("medication", data, variant="paper")
        >>> model.reading, model.default_decoder, model.fixed_power
        ('cdf', 'paper', 1.0)
        >>> fit = zoo.fit(model, "closed-form", data, progress=False)
        >>> zoo.predict(fit, data, draws=10).columns[0]
        'label.label'
    """

    reading = "cdf"
    default_decoder = "paper"
    default_power = 1.0
    default_floor = 1e-4


class FrameHMM(LabelModel):
    """The vanilla model: a first-order chain over the labels of frames.

    Generative process of a recording::

        z_1 ~ initial;  z_t ~ A[z_{t−1}]                                                              (eq. 1)
        c_tk ~ Beta(1 + [z_t = k], 2 − [z_t = k])       with emission "beta"               (the note to eq. 1)

    `forward` sums over label sequences by the forward algorithm; `explicit` is the same model written out frame by
    frame for Pyro's enumeration, to be read and changed.

    Args:
        names: Names of the K labels, the non-event first.
        rate: Frames per second, at which A holds.
        emission, power, unlabelled, floor, share: Treatment of the scores, see `StepProcess`; here the power is 1 by
            default, as in the text.
        alpha: Concentration of every entry of a row of A and of the first label's distribution.
        priors: Site -> prior.

    Raises:
        ValueError: An argument is out of its range or choices; the message names it.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.medication import simulate
        >>> data = simulate("pen", n_recordings=4, difficulty="easy", rate=2.0)
        >>> model = zoo.create_model("medication", data, variant="frame-hmm")
        >>> fit = zoo.fit(model, "closed-form", data, progress=False)
        >>> labels = zoo.predict(fit, data, draws=10)["label.label"]
        >>> labels.iloc[0], labels.shape == (len(data["label"]),)  # every frame of all recordings
        ('non-event', True)
    """

    version = "1"
    default_decoder = "viterbi"
    default_power = 1.0
    dims = {"A": ("from", "to"), "initial": ("label_class",), "label": ("frame",)}

    def __init__(
        self, names: Sequence[str], rate: float = 1.0, emission: str = "score", power: float | str | None = None,
        unlabelled: bool = False, floor: float | None = None, share: Sequence[float] | None = None, alpha: float = 0.1,
        priors: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(names, emission, power, unlabelled, floor, share)
        if not (math.isfinite(rate) and rate > 0 and alpha > 0):
            raise ValueError(f"rate {rate}, alpha {alpha}: positive numbers are needed")
        self.rate, self.alpha = float(rate), alpha
        self.coords = {"from": list(self.names), "to": list(self.names)}
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Read names, rate, and each label's share of the labelled frames."""
        names, rate = [str(name) for name in data.coords["label_class"]], float(data.info.get("rate", 1.0))
        seen = labelled_sequences(data)
        frames = np.bincount(np.concatenate(seen), minlength=len(names)) + 1.0 if seen else None
        return {"names": names, "rate": rate} | ({} if frames is None else {"share": (frames / frames.sum()).tolist()})

    def priors(self) -> dict[str, dist.Distribution]:
        """Priors of the sites: symmetric Dirichlet distributions of the rows of A and of the first label."""
        rows = self.share.new_full((self.n_labels, self.n_labels), self.alpha)
        found = {"A": dist.Dirichlet(rows).to_event(1), "initial": dist.Dirichlet(rows[0])}
        return found | self.power_prior()

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select A (K, K) and initial (K,) (eq. 1)."""
        return {site: values[site] for site in ("A", "initial")}

    def process(self, parameters: Mapping[str, Tensor]) -> MarkovChain:
        """Build the chain with these parameters (eq. 1)."""
        return MarkovChain(parameters["initial"].double(), parameters["A"].double())

    def label_distribution(self, process: Process, lengths: Tensor) -> FrameChain:
        """Distribution of the recordings' labels, the product of A[z_{t−1}, z_t] in eq. 1."""
        return FrameChain(process, lengths)

    def explicit(self, score: Tensor, lengths: Tensor, initial: Tensor, A: Tensor) -> None:
        """Write the model out in plain Pyro: z_t enumerated in parallel, Beta emissions, ragged lengths by masks.

        The loss of TraceEnum_ELBO with an empty guide is minus the log density of the scores. A step costs some
        milliseconds per frame: use it for recordings of up to a hundred frames, and to change the model's structure.

        Args:
            score: Classifier's outputs, shape (F, K), strictly between 0 and 1.
            lengths: Frames of each recording, shape (R,).
            initial: Probability of the first label, shape (K,).
            A: Transition matrix, shape (K, K).
        """
        c = pad_sequence(score.split(lengths.tolist()), True, 0.5)
        recordings, classes = pyro.plate("recording", len(lengths), dim=-2), pyro.plate("class", len(A), dim=-1)
        z = None
        for t in pyro.markov(range(c.shape[1])):
            with recordings, poutine.mask(mask=(t < lengths)[:, None]):
                z = pyro.sample(  # eq. 1
                    f"z_{t}", dist.Categorical(initial if z is None else A[z]), infer={"enumerate": "parallel"}
                )
                on = (z == torch.arange(len(A), device=z.device)).to(c)
                with classes:
                    pyro.sample(f"c_{t}", dist.Beta(1 + on, 2 - on), obs=c[:, t])  # note to eq. 1: q(z_t)


def _user_table(table: Sequence[Sequence[float]] | None, n_rows: int, name: str) -> Tensor | None:
    if table is None:
        return None
    found = torch.as_tensor(np.asarray(table, dtype=np.float64))
    if found.dim() != 2 or len(found) != n_rows or found.shape[1] < 2:
        raise ValueError(f"{name}: shape {tuple(found.shape)}; ({n_rows}, 2 or more) is needed")
    durations.tabulated(found)
    return found
