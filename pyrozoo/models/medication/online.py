"""Decoding while frames arrive: filtering, fixed-lag smoothing, steps performed so far, alarms."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...data.batch import Batch
from ...modeling.base import ZooModel
from ...posterior.columns import class_columns
from .data.recordings import checked_score
from .process import online
from .process.process import SemiMarkovProcess

RARE = 0.02  # next steps of a smaller probability count as none when an omitted step is looked for
SHORTEST = 0.01  # quantile of a step's duration below which it is too short


@dataclass(frozen=True)
class Alarm:
    """Something that went wrong in a procedure.

    Attributes:
        frame: Frame after which it was noticed, counted from 0.
        kind: "omitted" or "too short".
        step: Name of the step.
        probability: Posterior probability of it.

    Example:
        >>> from pyrozoo.models.medication import Alarm
        >>> alarm = Alarm(frame=120, kind="omitted", step="shake", probability=0.97)
        >>> f"frame {alarm.frame}: {alarm.step} {alarm.kind}"
        'frame 120: shake omitted'
    """

    frame: int
    kind: str
    step: str
    probability: float


class LiveDecoding:
    """A recording that is decoded while its frames arrive; see `pyrozoo.stream`.

    The process and the power are those of a fit, at their posterior means. Everything is exact: the probabilities `now`
    are those given all frames so far, and the frames that `push` settles have the marginals that
    `decode_recordings` gives them for the recording up to `lag` later. Memory and time per frame do not grow.

    A step is omitted if it was not performed, and no way leads to it any more by next steps of a probability of 0.02 or
    more (in cyclic recordings every step can follow). That a step was too short is looked for among the frames that
    were settled within the last two lags.

    Attributes:
        frame: Number of frames so far.
        alarms: What has exceeded the level of alarms so far.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models import medication
        >>> fit = zoo.load_reference("medication/watch")
        >>> train, test = medication.watch_sessions(fold=0)
        >>> scores = test["score"][: test["lengths"][0]].numpy()
        >>> live = zoo.stream(fit, lag=4.0)
        >>> _ = live.push(scores[:100])
        >>> live.frame, live.now.idxmax()
        (100, 'forward elevation')
        >>> float(live.performed["abduction"]) > 0.99, float(live.performed.iloc[-1]) < 0.5
        (True, True)
        >>> live.alarms
        []
    """

    def __init__(self, model: ZooModel, process: Any, power: float, lag: int, alarm: float = 0.9) -> None:
        steps = isinstance(process, SemiMarkovProcess)
        self._model, self._power, self._lag, self._level = model, power, lag, alarm
        self._process = online.hazards(process.graph() if steps else process.arrays())
        self._names, k = list(model.names), model.n_labels
        first = k - 1 if steps else 0
        self._blocked = [-1, *(first + step for step in range(1, k))]  # whose filter holds the paths without a step
        self._lost = [_cannot_reach(process, step) if steps else np.zeros(0, int) for step in range(1, k)]
        self._shortest = _shortest(process) if steps else np.zeros(k, np.int64)
        self._states: list[np.ndarray] = []
        self._window: deque[tuple[np.ndarray, np.ndarray]] = deque()  # states and scores of the frames not settled
        self._short: deque[np.ndarray] = deque(maxlen=max(1, 2 * lag))
        self._raised: set[tuple[str, str]] = set()
        self.frame = 0
        self.alarms: list[Alarm] = []
        self._now = np.full(k, np.nan)
        self._performed, self._omitted, self._early = np.zeros((3, k - 1))

    @property
    def now(self) -> pd.Series:
        """Probability of every label in the newest frame, given all so far."""
        return pd.Series(self._now, pd.Index(self._names, name="label"))

    @property
    def performed(self) -> pd.Series:
        """Probability of every step that it was performed so far."""
        return self._of_steps(self._performed)

    @property
    def omitted(self) -> pd.Series:
        """Probability of every step that it was not performed so far, and cannot follow any more."""
        return self._of_steps(self._omitted)

    @property
    def too_short(self) -> pd.Series:
        """Expected number of times, lately, that a step ended sooner than 99 of 100 do."""
        return self._of_steps(self._early)

    def _of_steps(self, values: np.ndarray) -> pd.Series:
        return pd.Series(values, pd.Index(self._names[1:], name="step"))

    @property
    def n_states(self) -> int:
        """Numbers that are kept: the weights of all states, of the filters and of the frames that are not settled."""
        return sum(state.size for state in [*self._states, *(state for state, _ in self._window)])

    def push(self, samples: Any) -> pd.DataFrame:
        """Take new frames, and return those that are settled now.

        Args:
            samples: Scores of new frames, shape (n, K), or of one, (K,); NaN for all labels where it is missing.

        Returns:
            Table with index ``frame`` and the columns ``label.label`` and, for every label, ``label.p[name]``: the
            frames that are `lag` old, given all frames up to now. Empty while there is none.

        Raises:
            ValueError: Scores of another number of labels, or no probabilities.
        """
        score = np.atleast_2d(np.asarray(samples, dtype=float))
        if not len(score):
            return self._table(self.frame, [])
        checked = torch.as_tensor(checked_score("the live recording", score, self._names))
        potentials = self._power * self._model.log_potentials(checked).double().numpy()
        first = self.frame - len(self._window)
        return self._table(first, [row for own in potentials for row in self._advance(own)])

    def finish(self) -> pd.DataFrame:
        """Return the frames that are not settled yet, given all, in a table like that of `push`."""
        first, rows = self.frame - len(self._window), []
        if self._window:
            after = np.zeros_like(self._window[-1][0])
            for i in range(len(self._window) - 1, -1, -1):
                state, _ = self._window[i]
                rows.append(online.marginal(self._process, state, after, len(self._names)))
                if i:
                    after = online.earlier(self._process, after, self._window[i][1])
        self._window.clear()
        return self._table(first, rows[::-1])

    def _advance(self, score: np.ndarray) -> list[np.ndarray]:
        """Take one frame of potentials, and return the marginals of the frame that it settles, if any."""
        if self._states:
            pairs = zip(self._states, self._blocked, strict=True)
            new = [online.next_frame(self._process, state, score, blocked) for state, blocked in pairs]
        else:
            new = [online.first_frame(self._process, score, b) for b in self._blocked]
        scale = online.total(new[0])
        if scale == -np.inf:
            raise ValueError(f"frame {self.frame}: the process allows no label sequence; allow more pairs")
        self._states = [state - scale for state in new]
        self._window.append((self._states[0], score))
        self.frame += 1
        nothing = np.zeros_like(self._states[0])
        self._now = online.marginal(self._process, self._states[0], nothing, len(self._names))
        for i, state in enumerate(self._states[1:]):
            self._performed[i] = -np.expm1(min(online.total(state), 0.0))
            self._omitted[i] = np.exp(min(online.total(state[self._lost[i]]), 0.0)) if len(self._lost[i]) else 0.0
        settled = [self._settle()] if len(self._window) > self._lag else []
        self._watch()
        return settled

    def _settle(self) -> np.ndarray:
        """Smooth the oldest frame that waits, and look whether a step ended too soon after it."""
        after = np.zeros_like(self._states[0])
        early = np.zeros(len(self._names))
        for i in range(len(self._window) - 1, 0, -1):
            score = self._window[i][1]
            if i == 1:
                state, before = self._window[0][0], online.earlier(self._process, after, score)
                scale = online.total(state + before)
                early = online.ended_early(self._process, state, after, score, self._shortest, scale)
                after = before
            else:
                after = online.earlier(self._process, after, score)
        state, _ = self._window.popleft()
        self._short.append(early[1:])
        self._early = np.sum(self._short, 0)
        return online.marginal(self._process, state, after, len(self._names))

    def _watch(self) -> None:
        for kind, values in (("omitted", self._omitted), ("too short", self._early)):
            for step, value in zip(self._names[1:], values.tolist(), strict=True):
                known = (kind, step) in self._raised
                if value >= self._level and not known:
                    self.alarms.append(Alarm(self.frame - 1, kind, step, min(value, 1.0)))
                    self._raised.add((kind, step))
                elif kind == "too short" and value < self._level / 2 and known:
                    self._raised.discard((kind, step))

    def _table(self, first: int, rows: list[np.ndarray]) -> pd.DataFrame:
        gamma = np.array(rows).reshape(-1, len(self._names))
        columns = class_columns("label", np.array(self._names, dtype=object), gamma.argmax(1), gamma)
        return pd.DataFrame(columns, index=pd.RangeIndex(first, first + len(gamma), name="frame"))


def live_decoding(
    model: ZooModel, guide: nn.Module, data: Batch, lag: float = 2.0, alarm: float = 0.9, draws: int = 200
) -> LiveDecoding:
    """Start a live decoding with the posterior means of a fit.

    Args:
        model: The model.
        guide: Guide of its parameters.
        data: Data that have gone through `Fit.prepare`; only their layout is used.
        lag: Time that a frame waits for later ones before it is settled [s]; 0 settles it at once.
        alarm: Probability from which on an omitted or too short step is an alarm.
        draws: Number of posterior draws over which the means are taken.

    Raises:
        ValueError: `lag` is negative, or `alarm` no probability.
    """
    if not (np.isfinite(lag) and lag >= 0):
        raise ValueError(f"lag: {lag} is not a time of 0 seconds or more")
    if not 0 < alarm <= 1:
        raise ValueError(f"alarm: {alarm} is not a probability above 0")
    with torch.no_grad():
        parameters, power = model.mean_parameters(guide, data, draws)
        process = model.process(parameters)
    return LiveDecoding(model, process, power, round(lag * model.rate), alarm)


def _cannot_reach(process: SemiMarkovProcess, step: int) -> np.ndarray:
    """Nodes from which no way leads to a step by next steps that are not rare."""
    graph, n_labels = process.graph(), process.n_labels
    old = np.exp(graph.log_survive[graph.source, graph.cap[graph.source] - 1] + graph.log_leave)
    # Of what is older than the cap, this part leaves by the arc in the end; none where nothing leaves any more.
    leaving = -np.expm1(graph.log_stay[graph.source])
    old = np.where(leaving > 1e-12, old / np.maximum(leaving, 1e-12), 0.0)
    ages = np.arange(graph.log_length.shape[1]) < graph.cap[graph.source][:, None] - 1
    share = np.where(ages, np.exp(graph.log_length), 0.0).sum(1) + old  # P(leaving by this arc)
    reaches = np.zeros(len(graph.label), bool)
    reaches[n_labels - 1 + step] = True
    for _ in range(len(graph.label)):
        for a in np.flatnonzero(share >= RARE):
            reaches[graph.source[a]] |= reaches[graph.target[a]]
    return np.flatnonzero(~reaches)


def _shortest(process: SemiMarkovProcess) -> np.ndarray:
    """Smallest age in frames of every label that is not too short, shape (K,)."""
    graph, n_labels = process.graph(), process.n_labels
    out = np.ones(n_labels, np.int64)
    for k in range(1, n_labels):
        node = n_labels - 1 + k
        survive = np.exp(graph.log_survive[node, : graph.cap[node]])  # P(at least d)
        out[k] = int((1 - survive <= SHORTEST).sum())
    return out
