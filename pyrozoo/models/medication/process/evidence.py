"""Evidence of frame scores under a process, differentiable; and the distribution over label sequences.

The evidence log Z(scores) is the log of the sum over all label sequences of f = p(labels) Π_t q(label_t) of eq. 1 or 2.
It is a log density of the scores only where the potentials q are a likelihood (emission "beta"); otherwise it enters a
model as a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from . import chain, kernels, sampling
from .checks import clamped
from .parallel import threaded
from .process import MarkovChain, Process, SemiMarkovProcess

NO_SHAPE = torch.Size()
PAD = -1  # label of the frames beyond a recording's end


class _LogEvidence(torch.autograd.Function):
    """Compute log Z with its exact gradient: expected counts for the tables, posterior marginals for the scores."""

    @staticmethod
    def forward(ctx: Any, log_score: Tensor, lengths: np.ndarray, process: Process, *tables: Tensor) -> Tensor:
        """Compute log Z (L, B) from scores (L, F, K): L leading positions, F frames end to end, B recordings."""
        with_gradient = any(ctx.needs_input_grad)
        stops = np.cumsum(lengths)
        scores = log_score.detach().cpu().double().numpy()
        graphs = [
            process.graph(lead) if isinstance(process, SemiMarkovProcess) else process.arrays(lead)
            for lead in range(len(scores))
        ]
        tasks = [(flat[b - n : b], own) for flat, own in zip(scores, graphs, strict=True)
                 for b, n in zip(stops, lengths, strict=True)]  # fmt: skip

        def each(task: tuple[np.ndarray, Any]) -> tuple:
            return _one(np.ascontiguousarray(task[0]), task[1], with_gradient)

        found = threaded(each, tasks, scores.shape[0] * scores.shape[1])
        out = np.array([own[0] for own in found]).reshape(len(scores), len(lengths))
        if with_gradient:
            n = len(lengths)
            ctx.parts = [[own[1:] for own in found[i * n : (i + 1) * n]] for i in range(len(scores))]
        ctx.like = log_score, tables
        return torch.as_tensor(out, device=log_score.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """Sum the marginals and counts of the recordings, weighted by their gradients."""
        weight = grad.detach().cpu().double().numpy()
        log_score, tables = ctx.like
        by_lead: list[list[np.ndarray]] = []
        for own, parts in zip(weight, ctx.parts, strict=True):
            frames = np.concatenate([w * part[0] for w, part in zip(own, parts, strict=True)])
            counts = [sum(w * part[1][i] for w, part in zip(own, parts, strict=True)) for i in range(len(tables))]
            by_lead.append([frames, *counts])
        gradients = [
            torch.as_tensor(np.stack(found)).to(like).reshape(like.shape)
            for found, like in zip(zip(*by_lead, strict=True), (log_score, *tables), strict=True)
        ]
        return gradients[0], None, None, *gradients[1:]


def _one(log_score: np.ndarray, arrays: Any, with_gradient: bool) -> tuple:
    """Compute the log evidence of one recording, its marginals (T, K) and the gradient by every table."""
    n_frames, n_labels = log_score.shape
    if np.isnan(log_score).any():
        return (np.nan, log_score * np.nan, _like_tables(arrays, np.nan))
    if isinstance(arrays, kernels.Graph):
        log_z, *state = kernels.semi_markov_forward(log_score, arrays, -1)
        if not with_gradient:
            return (log_z,)
        if log_z == -np.inf:
            return (log_z, np.zeros((n_frames, n_labels)), _like_tables(arrays, 0.0))
        marginals, counts = kernels.semi_markov_backward(arrays, log_z, *state)
        return (log_z, marginals, counts)
    initial, transition = arrays
    if not with_gradient:
        return (chain.evidence(log_score, initial, transition),)
    log_z, marginals, counts = chain.posterior(log_score, initial, transition)
    if log_z == -np.inf:
        return (log_z, np.zeros((n_frames, n_labels)), _like_tables(arrays, 0.0))
    # Expected counts are derivatives by log probabilities; the chain's tables are probabilities.
    by_initial = np.divide(marginals[0], initial, out=np.zeros_like(initial), where=initial > 0)
    by_transition = np.divide(counts, transition, out=np.zeros_like(transition), where=transition > 0)
    return (log_z, marginals, (by_initial, by_transition))


def _like_tables(arrays: Any, value: float) -> tuple[np.ndarray, ...]:
    tables = (
        arrays[len(arrays) - len(kernels.ExpectedCounts._fields) :] if isinstance(arrays, kernels.Graph) else arrays
    )
    return tuple(np.full_like(table, value) for table in tables)


def log_evidence(log_score: Tensor, lengths: Tensor, process: Process) -> Tensor:
    """Compute the log evidence log Z of every recording's scores, differentiable in scores and process.

    Args:
        log_score: Log potentials of the labels in every frame, recordings end to end, shape (*lead, F, K), where a
            leading shape is that of the process or absent; -inf rules a label out in its frame (a score of zero needs a
            floor).
        lengths: Frames of each recording, shape (B,), at least 1 each.
        process: Process over labels.

    Returns:
        log Z, shape (*lead, B), in double precision; -inf where no label sequence is possible, NaN for NaN scores.

    Raises:
        ValueError: The leading shapes of scores and process differ.

    Example:
        >>> import torch
        >>> from pyrozoo.models.medication import MarkovChain, log_evidence
        >>> chain = MarkovChain(torch.tensor([0.9, 0.1]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
        >>> scores = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]]).log().requires_grad_()
        >>> log_z = log_evidence(scores, torch.tensor([2, 1]), chain)  # recordings of two frames and of one
        >>> log_z.sum().backward()
        >>> log_z.shape, torch.allclose(scores.grad.sum(-1), torch.ones(3))  # the gradient: marginals of the labels
        (torch.Size([2]), True)
    """
    lead = torch.broadcast_shapes(log_score.shape[:-2], process.lead)
    n = lead.numel()
    flat = log_score.double().expand(*lead, *log_score.shape[-2:]).reshape(n, *log_score.shape[-2:])
    tables = [table.double() for table in process.tables]
    if process.lead != lead:
        raise ValueError(f"scores have the leading shape {tuple(lead)}, the process has {tuple(process.lead)}")
    return _LogEvidence.apply(flat, lengths.cpu().numpy(), process, *tables).reshape(*lead, len(lengths))


def log_probability(process: Process, labels: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Compute the log probability of label sequences end to end, unknown labels (-1) summed out.

    Args:
        process: Process over labels.
        labels: Labels of all recordings, shape (F,), -1 where unknown.
        lengths: Frames of each recording, shape (B,).

    Returns:
        Log probabilities, shape (*lead, B), differentiable in the process.
    """
    recording = np.repeat(np.arange(len(lengths)), lengths)
    whole = np.bincount(recording, labels < 0, len(lengths)) == 0
    if whole.all():
        return process.log_prob(labels, lengths)
    part = ~whole[recording]
    score = torch.as_tensor(clamped(np.zeros((int(part.sum()), process.n_labels)), labels[part]))
    summed = log_evidence(score.expand(*process.lead, *score.shape), torch.as_tensor(lengths[~whole]), process)
    out = torch.zeros(*process.lead, len(lengths), dtype=summed.dtype, device=summed.device)
    out = out.index_copy(-1, torch.as_tensor(np.flatnonzero(~whole), device=out.device), summed)
    if whole.any():
        known = process.log_prob(labels[~part], lengths[whole]).to(out)
        out = out.index_copy(-1, torch.as_tensor(np.flatnonzero(whole), device=out.device), known)
    return out


def log_conditional(log_score: Tensor, labels: Tensor, lengths: Tensor, process: Process) -> Tensor:
    """Compute log p(labels | scores) of recordings: log f(labels) − log Z (eq. 1 or 2), unknown labels summed out.

    Args:
        log_score: Log potentials times the power, shape (*lead, F, K).
        labels: Labels of all frames, shape (F,), -1 where unknown.
        lengths: Frames of each recording, shape (B,).
        process: Process over labels.

    Returns:
        Log probabilities, shape (*lead, B).
    """
    numbers, n = labels.cpu().numpy(), lengths.cpu().numpy()
    if (numbers < 0).any():
        ruled_out = torch.as_tensor(clamped(np.zeros((len(numbers), process.n_labels)), numbers))
        joint = log_evidence(log_score + ruled_out.to(log_score.device), lengths, process)
    else:
        chosen = log_score.gather(-1, labels[:, None].expand(*log_score.shape[:-1], 1))[..., 0]
        joint = torch.zeros(*chosen.shape[:-1], len(n), dtype=chosen.dtype, device=chosen.device)
        recording = torch.arange(len(n), device=chosen.device).repeat_interleave(lengths.to(chosen.device))
        joint = joint.index_add(-1, recording, chosen) + process.log_prob(numbers, n)
    return joint - log_evidence(log_score, lengths, process)


class LabelSequences(TorchDistribution):
    """Distribution over label sequences of given lengths under a process, padded with -1 beyond a recording's end.

    It is a proper distribution: probabilities of all sequences of a length sum to 1. The end of a recording censors the
    last segment, which lasts at least as long as was seen.

    Shapes: batch (*lead, B), event (T,) with T the longest length. ``SemiMarkov`` and ``FrameChain`` are its two kinds.

    Args:
        process: Process over labels.
        lengths: Frames of each recording, shape (B,), at least 1 each.
    """

    arg_constraints: Mapping[str, Any] = {}
    has_rsample = False

    def __init__(self, process: Process, lengths: Tensor, validate_args: bool | None = None) -> None:
        lengths = torch.as_tensor(lengths)
        self.process, self.lengths = process, lengths
        super().__init__(process.lead + lengths.shape, torch.Size([int(lengths.max())]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Labels, or -1 for no frame."""
        return constraints.independent(constraints.integer_interval(PAD, self.process.n_labels - 1), 1)

    @property
    def event_mask(self) -> Tensor:
        """Which entries of a value are frames, shape (B, T)."""
        return torch.arange(self.event_shape[0], device=self.lengths.device) < self.lengths[:, None]

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> LabelSequences:
        """Expand to further leading dimensions, along which the distribution is the same."""
        shape = torch.Size(batch_shape)
        if shape[len(shape) - len(self.batch_shape) :] != self.batch_shape:
            raise ValueError(f"label sequences of batch shape {tuple(self.batch_shape)} cannot become {tuple(shape)}")
        new = type(self)(self.process, self.lengths)
        new._batch_shape = shape
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of label sequences (..., B, T), the end censored; -inf where one is impossible.

        Labels of -1 before a recording's end are unknown: they are summed out.
        """
        mask, lengths = self.event_mask.cpu(), self.lengths.cpu().numpy()
        if not bool(self.support.check(value).all()):
            raise ValueError(f"labels outside 0..{self.process.n_labels - 1}, or -1 beyond a recording's end")
        leads = value.reshape(-1, *value.shape[-2:]).cpu()
        found = torch.stack([log_probability(self.process, own[mask].numpy(), lengths) for own in leads])
        if len(found) > 1 and self.process.lead:
            # One value for each leading position: of each, the log probability under its own process.
            own = found.reshape(len(found), -1, found.shape[-1])
            found = own[torch.arange(len(found)), torch.arange(len(found)) % own.shape[1]]
        shape = value.shape[:-1] if len(leads) > 1 or not self.process.lead else (*self.process.lead, len(lengths))
        return found.reshape(shape).expand(torch.broadcast_shapes(shape, value.shape[:-1], self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = NO_SHAPE) -> Tensor:
        """Draw label sequences, padded with -1; the random state is torch's."""
        shape = torch.Size(sample_shape) + self.batch_shape
        n_lead, n_rows = self.process.lead.numel(), len(self.lengths)
        out = np.full((shape.numel(), self.event_shape[0]), PAD)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        lengths, drawn = self.lengths.tolist(), [self._simulated(lead) for lead in range(n_lead)]
        for i in range(len(out)):
            length = lengths[i % n_rows]
            out[i, :length] = drawn[i // n_rows % n_lead](length, rng)
        return torch.as_tensor(out, device=self.lengths.device).reshape(*shape, -1)

    def _simulated(self, lead: int) -> Callable[[int, np.random.Generator], np.ndarray]:
        if isinstance(self.process, SemiMarkovProcess):
            return partial(sampling.simulate_process, self.process.graph(lead))
        return partial(chain.simulate_chain, *self.process.arrays(lead))


class SemiMarkov(LabelSequences):
    """Distribution of label sequences of the process of steps, gaps and durations (eq. 2); see `LabelSequences`.

    Example:
        >>> import pyrozoo as zoo
        >>> import torch
        >>> from pyrozoo.models.medication import SemiMarkov, plug_in, watch_sessions
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = watch_sessions(fold=0)
        >>> process, power = plug_in(fit, test, draws=10)
        >>> sessions = SemiMarkov(process, torch.tensor([300, 250]))  # lengths in frames
        >>> labels = sessions.sample()
        >>> labels.shape, bool((labels[1, 250:] == -1).all()), bool(torch.isfinite(sessions.log_prob(labels)).all())
        (torch.Size([2, 300]), True, True)
    """

    process: SemiMarkovProcess  # e.g. from `process.semi_markov_process`, or from a model's `process(parameters)`


class FrameChain(LabelSequences):
    """Distribution of label sequences of the frame-level chain (eq. 1); see `LabelSequences`.

    Example:
        >>> import torch
        >>> from pyrozoo.models.medication import FrameChain, MarkovChain
        >>> chain = MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
        >>> recordings = FrameChain(chain, torch.tensor([4]))
        >>> every = torch.cartesian_prod(*[torch.arange(2)] * 4)[:, None]  # all sequences of four frames
        >>> total = recordings.log_prob(every).exp().sum()
        >>> every.shape, round(float(total), 4)
        (torch.Size([16, 1, 4]), 1.0)
    """

    process: MarkovChain


def log_potentials(score: Tensor, emission: str, floor: float, share: Tensor | None = None) -> Tensor:
    """Compute log q(z_t = k) of eq. 1 and 2 for every frame and label from the classifier's scores, before the power.

    Args:
        score: Classifier's outputs c, shape (F, K), in [0, 1].
        emission: "score": log c_k (main text); "beta": log Π_j Beta(c_j | 1 + [j = k], 2 − [j = k]) (note to eq. 1), a
            density of c where its entries are separate sigmoids; "scaled": log c_k − log share_k, which turns a
            classifier's posterior into a likelihood up to a constant.
        floor: Smallest score, to which lower ones are raised (and, for "beta", scores above 1 − floor lowered): a zero
            in one frame would rule a label out for good.
        share: Share of each label among the frames on which the classifier was trained, shape (K,), for "scaled".

    Returns:
        Log potentials, shape (F, K), in double precision; 0 in frames that are missing, whose scores are negative.
    """
    missing = score[:, :1] < 0
    if bool(missing.any()):
        present = log_potentials(torch.where(missing, 0.5, score), emission, floor, share)
        return torch.where(missing, 0.0, present)
    score = score.double()
    if emission == "beta":
        score = score.clamp(floor, 1 - floor)
        absent = torch.log1p(-score)
        return score.log() + absent.sum(-1, keepdim=True) - absent + score.shape[-1] * np.log(2.0)  # 1 / B(α, β) = 2
    log_score = score.clamp(min=floor).log()  # eq. 1 and 2: q(z_t)
    if emission == "score":
        return log_score
    assert share is not None  # "scaled" asks for it
    return log_score - share.double().log()
