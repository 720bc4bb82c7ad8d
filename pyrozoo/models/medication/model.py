"""The advanced models: steps with durations and gaps, in two readings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ...data.batch import Batch
from .data.validation import check_labels
from .label_model import LabelModel, inside_plate
from .process import durations
from .process.evidence import SemiMarkov
from .process.process import Pairs, Process, SemiMarkovProcess, next_step, semi_markov_process
from .sizes import going_on, text_sizes, touching

USUAL_WAIT = 10.0  # typical wait before the first step where nothing is known of it [s]


class StepProcess(LabelModel):
    """The advanced model: steps with durations, gaps that depend on both steps, and an order given by D.

    Generative process of a recording's labels (times in seconds, n frames per second)::

        first label ~ initial
        before the first step: a geometric wait of mean 1 / start_rate; with wait="gap", what is left of a gap
        after step h:  k ~ D[h], or no further step
        gap:           empty with probability direct[h, k], else ~ N(gap_mean[h, k], gap_sd[h, k]^2), in whole frames
        step k:        duration ~ N(duration_mean[k], duration_sd[k]^2), in whole frames
        the end of the recording cuts off whatever is going on

    with ``duration="hazard"``. With ``duration="cdf"``, the text's own reading, the same distribution functions are the
    probabilities to change in each frame (eq. 2)::

        p(z_t = k | gap after h, g frames long) = D[h, k] Φ_hk(g + 1)       p(stay) = 1 − Σ_k D[h, k] Φ_hk(g + 1)
        p(z_t = 0 | step k, d frames long) = Ψ_k(d + 1)                     p(stay) = 1 − Ψ_k(d + 1)

    The text has ``direct`` 0 (eq. 2, last case). Where it is not, a step h that ends, in either reading, goes straight
    to step k with probability D[h, k] direct[h, k], and into its gap otherwise, where D and its end are those given
    that the gap is not empty. The site ``direct`` exists if the argument of that name is above 0 and below 1, as it is
    made from labelled recordings in which a step follows another one directly.

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
        alpha: Concentration of every entry of a row of D, or of the entry of each pair, shape (P,).
        direct: Probability, before any data, that the gap of a pair of different steps is empty: 0 in the text; 1 if
            there is never a gap.
        end: Concentration of the end, "no further step", of every row of D; `alpha`, or its mean, where None. 0: the
            procedure goes on for as long as the recording does.
        cyclic: Whether recordings hold the procedure over and over: `end` is 0, and a step without a next one is
            followed by the first ones.
        wait: Law of the wait before the first step of a recording that begins in non-event: "rate", memoryless (the
            text), or "gap": what is left of a gap that was going on already, the gaps of all pairs in proportion to
            D and their lengths; without a site `start_rate`. From recordings of several passes, "gap": a memoryless
            wait costs little per frame, so that one long wait could take the place of many steps. The reading "cdf"
            has "rate".
        typical: Typical duration and gap in seconds, the medians of their priors; and, as a third number, the typical
            wait before the first step, the reciprocal of the prior mean of `start_rate`, 10 seconds where it is not
            given.
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
        initial: Sequence[float] | None = None, alpha: float | Sequence[float] = 0.5,
        typical: Sequence[float] = (5.0, 3.0), caps: Sequence[int] | None = None,
        duration_table: Sequence[Sequence[float]] | None = None, gap_table: Sequence[Sequence[float]] | None = None,
        priors: Mapping[str, Any] | None = None, direct: float = 0.0, end: float | None = None, cyclic: bool = False,
        wait: str = "rate",
    ) -> None:  # fmt: skip
        super().__init__()
        self._set_up(names, emission, power, unlabelled, floor, share)
        n_steps = self.n_labels - 1
        every = [(h, k) for h in range(self.n_labels) for k in range(1, self.n_labels)]
        pairs = every if pairs is None else [(int(h), int(k)) for h, k in pairs]
        self.pairs = Pairs.of([*pairs, *_returns(pairs, n_steps)] if cyclic else pairs, n_steps)
        self.reading = duration or self.reading
        if self.reading not in durations.READINGS or law not in durations.LAWS:
            raise ValueError(
                f"duration: {self.reading!r} of {list(durations.READINGS)}, law: {law!r} of {sorted(durations.LAWS)}"
            )
        concentration = np.broadcast_to(np.asarray(alpha, dtype=float), (len(pairs),) if np.ndim(alpha) else ())
        positive = [rate, *np.ravel(concentration), *typical]
        if len(typical) not in (2, 3) or not all(0 < value < math.inf for value in positive):
            raise ValueError(f"rate {rate}, alpha {alpha}, typical {list(typical)}: positive numbers are needed")
        self._set_up_order(pairs, concentration, direct, end, cyclic)
        if wait not in ("rate", "gap"):
            raise ValueError(f"wait: {wait!r} is neither 'rate' nor 'gap'")
        self.wait = wait if self.reading == "hazard" and len(self.pairs.later) else "rate"
        self.rate, self.law, self.alpha = float(rate), law, alpha
        self.register_buffer("typical", torch.tensor(typical))
        usual = [max(2, int(10 * self.rate * t)) for t in typical[:2]]
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
        of_pairs = self.pairs.names(labels)
        gaps = [of_pairs[i] for i in self.pairs.later]
        self.coords = {"step": list(labels[1:]), "pair": of_pairs, "gap": gaps}
        if self.end == 0:
            self.dims = {**self.dims, "stick": ("open_pair",)}
            self.coords["open_pair"] = [of_pairs[i] for i in self.open]
        if self.direct > 0:
            self.dims = {**self.dims, "direct": ("touching",)}
            self.coords["touching"] = [gaps[i] for i in self.pairs.touching]
        self.set_priors(priors)

    def _set_up_order(
        self, pairs: Sequence[tuple[int, int]], alpha: np.ndarray, direct: float, end: float | None, cyclic: bool
    ) -> None:
        """Set `direct`, `end`, the concentration of every pair, and the positions of the pairs that have a stick."""
        if not 0 <= direct <= 1:
            raise ValueError(f"direct: {direct} is not a probability")
        if end is not None and not (math.isfinite(end) and end >= 0):
            raise ValueError(f"end: {end}; a concentration of 0 or more is needed, or None")
        if cyclic and end:
            raise ValueError(f"end: {end}, but cyclic recordings have no end; leave one of the two out")
        p = self.pairs
        given = dict(zip(pairs, alpha.tolist() if alpha.ndim else [float(alpha)] * len(pairs), strict=True))
        usual = float(alpha.mean()) if len(pairs) else 0.0
        of_pair = [given.get(pair, usual) for pair in zip(p.h.tolist(), p.k.tolist(), strict=True)]
        self.direct, self.end = float(direct), 0.0 if cyclic else usual if end is None else float(end)
        self.register_buffer("concentration", torch.tensor(of_pair), persistent=False)
        last = np.r_[p.h[1:] != p.h[:-1], True]  # of its row: without an end, it takes all that is left
        self.open = np.flatnonzero(~last) if self.end == 0 else np.arange(len(p.h))

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Read names and rate, and from the labelled recordings: pairs that occur, first labels, typical times, caps.

        Where steps follow each other directly, also their share (`direct`). Where no recording ends in non-event after
        a step, `end` is 0. Where recordings hold several passes of the procedure, every step may follow every other
        one, pairs that were not seen with the little probability that the number of pairs seen once suggests (A.
        Turing's estimate); the wait before the first step is what is left of a gap; and `end` is as rare as it was, or
        0 where fewer than half of the recordings ended so.
        """
        out, summary = text_sizes(data)
        if summary is None:
            return out
        non_event = not data.info.get("without_non_event")
        return out | touching(summary, out, non_event) | going_on(summary, out, non_event)

    def priors(self) -> dict[str, dist.Distribution]:
        """Priors of the sites; means and standard deviations in seconds, start_rate per second."""
        like, p = self.typical, self.pairs
        alpha = self.concentration
        later = [float(alpha[i + 1 :][torch.as_tensor(p.h[i + 1 :] == p.h[i])].sum()) + self.end for i in self.open]
        found: dict[str, dist.Distribution] = {}
        if len(self.open):
            found["stick"] = dist.Beta(alpha[torch.as_tensor(self.open)], like.new_tensor(later)).to_event(1)
        if self.wait == "rate":
            usual = like[2] if len(like) == 3 else like.new_tensor(USUAL_WAIT)
            found["start_rate"] = dist.Gamma(like.new_tensor(1.0), usual)
        n_gaps = len(p.later) if self.direct < 1 else 0
        for kind, n, typical in (("duration", p.n_steps, like[0]), ("gap", n_gaps, like[1])):
            if self._tables["step" if kind == "duration" else kind] is None and n:
                centre, spread = typical.log().expand(n), like.new_ones(n)
                found[f"{kind}_mean"] = dist.LogNormal(centre, spread).to_event(1)
                found[f"{kind}_sd"] = dist.LogNormal(centre + math.log(0.3), spread).to_event(1)
        if 0 < self.direct < 1 and len(p.touching):
            share = like.new_full((len(p.touching),), self.direct)
            found["direct"] = dist.Beta(share, 1 - share).to_event(1)
        return found | self.power_prior()

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Record D as a deterministic site, in addition to its sticks."""
        pyro.deterministic("D", inside_plate(parameters["D"], 1), event_dim=1)

    def parameters_of(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute D (P,) and the end (S + 1,) from the sticks; the sites of durations and gaps are kept (eq. 2)."""
        stick = values.get("stick")
        if stick is None:  # every step has one next step only
            like = values.get("start_rate", self.initial)
            stick = like.new_zeros(*(like.shape if "start_rate" in values else ()), 0)
        if self.end == 0:
            whole = stick.new_ones(*stick.shape[:-1], len(self.pairs.h))
            stick = whole.index_copy(-1, torch.as_tensor(self.open, device=stick.device), stick)
        log_d, log_end = next_step(stick, self.pairs)
        end = log_end.exp()
        if self.end == 0:
            end = end.new_ones(end.shape)
            end[..., np.unique(self.pairs.h)] = 0.0
        others = {site: value for site, value in values.items() if site not in ("stick", "power")}
        return {"D": log_d.exp(), "end": end, **others}

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
        if not len(p.later):
            gap = nothing, nothing
        elif self.direct == 1 and "gap_mean" not in frames:  # never used
            gap = memoryless(self.initial.new_full((len(p.later),), 0.5), 3)
        else:
            gap = tables("gap", "gap", self.caps[1])  # eq. 2: Φ
        tiny = torch.finfo(torch.double).tiny
        log_d, log_end = (parameters[name].double().clamp(min=tiny).log() for name in ("D", "end"))  # eq. 2: D
        if self.end == 0:
            log_end = torch.where(parameters["end"] == 0, -torch.inf, log_end)
        direct = self._direct(parameters)
        if self.wait == "gap":
            start = self._wait(gap[1], log_d, direct)
        else:
            rate = parameters["start_rate"].double()
            each_frame = -torch.expm1(-rate / self.rate)[..., None].expand(*rate.shape, len(p.h) - len(p.later))
            start = memoryless(each_frame, self.caps[2] + 1)
        return semi_markov_process(p, log_d, log_end, start, gap, step, self.initial, self.reading, direct)

    def _wait(self, gap: Tensor, log_d: Tensor, direct: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tables of the wait for each first step: what is left of the gaps before this step, after any other one."""
        p = self.pairs
        log_rate = log_d[..., torch.as_tensor(p.later, device=log_d.device)]
        if direct is not None:
            log_rate = log_rate + (1 - direct).clamp(min=torch.finfo(torch.double).tiny).log()
        parts = []
        for k in p.k[p.h == 0]:
            own = np.flatnonzero(p.k[p.later] == k)
            at = torch.as_tensor(own if len(own) else np.arange(len(p.later)), device=log_d.device)
            parts.append(durations.residual(gap[..., at, :], log_rate[..., at]))
        if not parts:
            nothing = gap[..., :0, :]
            return nothing, nothing
        exactly, at_least = (torch.stack(tables, -2) for tables in zip(*parts, strict=True))
        return exactly, at_least

    def _direct(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """Probability of an empty gap for every pair with h > 0, 0 if a step follows itself; None if all are 0."""
        p = self.pairs
        if self.direct == 0 or not len(p.touching):
            return None
        own = parameters["direct"].double() if "direct" in parameters else self.initial.new_ones(len(p.touching))
        every = own.new_zeros(*own.shape[:-1], len(p.later))
        return every.index_copy(-1, torch.as_tensor(p.touching, device=own.device), own)

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
        >>> zoo.predict(fit, data, draws=10, decoder="map").columns[0]  # the exact maximum
        'label.label'
    """

    reading = "cdf"
    default_decoder = "paper"
    default_power = 1.0
    default_floor = 1e-4

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Read sizes as `StepProcess` does, but none that the text does not have.

        Raises:
            ValueError: Two steps follow each other without a non-event frame between them.
        """
        check_labels(data)
        return text_sizes(data)[0]


def _returns(pairs: Sequence[tuple[int, int]], n_steps: int) -> list[tuple[int, int]]:
    """Pairs that lead from the steps without a next one to the first ones, or where none is known, to every other."""
    first = [k for h, k in pairs if h == 0]
    last = sorted(set(range(1, n_steps + 1)) - {h for h, _ in pairs})
    every = range(1, n_steps + 1)
    return [(h, k) for h in last for k in (first or [k for k in every if k != h or n_steps == 1])]


def _user_table(table: Sequence[Sequence[float]] | None, n_rows: int, name: str) -> Tensor | None:
    if table is None:
        return None
    found = torch.as_tensor(np.asarray(table, dtype=np.float64))
    if found.dim() != 2 or len(found) != n_rows or found.shape[1] < 2:
        raise ValueError(f"{name}: shape {tuple(found.shape)}; ({n_rows}, 2 or more) is needed")
    durations.tabulated(found)
    return found
