"""The vanilla model: a first-order chain over the labels of frames."""

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
from .label_model import LabelModel
from .process.counts import labelled_sequences
from .process.evidence import FrameChain
from .process.process import MarkovChain, Process


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
        known = np.concatenate(seen) if seen else np.zeros(0, int)
        frames = np.bincount(known[known >= 0], minlength=len(names)) + 1.0 if seen else None
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
