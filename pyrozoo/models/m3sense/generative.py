"""A generative relative of M3Sense."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from ...modeling.base import ZooModel
from .model import AFFECT_SIZES, LatentModel
from .nets import classifier

SUMMARIES = ("level", "log spread", "log step")


class Generative(LatentModel):
    """A generative relative: classes have places in the latent space, and latents explain summaries of the signals.

    For windows n and tasks T::

        y_nT ~ Categorical(pi_T), summed out where it is not known
        a_nT ~ N(m_T[y_nT], I_A)
        f_n  ~ N(dec(a_n1, ..., a_nT), diag s^2),   f_n summaries of the signals of window n (`summaries`)

    Here a missing label is informative, and unlabelled windows train the places of the classes. Labels are predicted by
    p(y_T | a_T), proportional to pi_T N(a_T; m_T, I). Not in the paper. gamma weighs y_T and a_T together, which need a
    common scale; 1 is a strict ELBO. Arguments of `AffectModel` and `LatentModel`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate_all
        >>> windows = simulate_all(n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8, "a_dim": 2, "q_hidden": 8}
        >>> tasks = {"anxiety": 2, "stress": 3}
        >>> model = zoo.create_model("m3sense", windows, variant="generative", tasks=tasks, **sizes)
        >>> [tuple(place.shape) for place in model.places]  # m_T: classes, dimensions of the latent
        [(2, 2), (3, 2)]
        >>> fit = zoo.fit(model, "paper", windows, steps=5, progress=False)
        >>> zoo.predict(fit, windows, draws=5).filter(like=".label").shape
        (60, 2)
    """

    def __init__(
        self, modalities: tuple[str, ...], tasks: Mapping[str, int], unimodal: str = "keyless", fusion: str = "cam",
        segment: int = 5, embedding: int = 32, lstm_layers: int = 2, hidden: tuple[int, int] = (64, 64), head: int = 64,
        dropout: float = 0.3, lstm_dropout: float = 0.1, frozen: str = "none", a_dim: int = 16, q_hidden: int = 64,
        gamma: float = 1.0, signal_loc: Mapping[str, float] | None = None,
        signal_scale: Mapping[str, float] | None = None, priors: Mapping[str, Any] | None = None,
        channels: Mapping[str, int] | None = None, inputs: str = "signals", features: Mapping[str, int] | None = None,
        rule: str = "balanced", shares: Mapping[str, Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        given = locals()
        super().__init__(*(given[name] for name in AFFECT_SIZES))
        self._latents(a_dim, q_hidden, gamma)
        self.enumerated = self.targets
        self.dims = {**self.dims, "f": ("summary",)}
        self._networks()
        self.set_priors(priors)

    def _networks(self) -> None:
        self.class_logits = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in self.tasks.values())
        self.places = nn.ParameterList(nn.Parameter(torch.randn(n, self.a_dim)) for n in self.tasks.values())
        n_summaries = len(SUMMARIES) * sum(self.channels.values())
        self.decoder = classifier(self.a_dim * len(self.tasks), self.head_width, n_summaries)
        self.f_log_sd = nn.Parameter(torch.zeros(n_summaries))

    def priors(self) -> dict[str, Any]:
        return {f"a_{task}": functools.partial(self._place, i) for i, task in enumerate(self.tasks)}

    def _place(self, i: int, y: Tensor, *parents: Tensor) -> dist.Distribution:
        """The distribution p(a_T | y_T) of task i."""
        return dist.Normal(self.places[i][y], 1.0).to_event(1)

    def shared_parents(self, f: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Sample the parents that every a_T has in addition to y_T: here there are none."""
        return ()

    def elbo(self, particles: int = 1) -> ELBO:
        return ZooModel.elbo(self, particles)

    def summaries(self, batch: Mapping[str, Any]) -> Tensor:
        """Summaries that the latents explain, (B, 3 C): standardised level, log spread and log step of each channel."""
        parts = []
        for i, name in enumerate(self.modalities):
            standardised = (batch[name] - self.signal_loc[i]) / self.signal_scale[i]
            for signal in standardised[:, :, None].flatten(2).unbind(2):
                spread = (signal.var(1) + 1e-6).log()
                step = (signal.diff(dim=1).square().mean(1) + 1e-8).log()
                parts += [signal.mean(1), 0.5 * spread, 0.25 * step]
        return torch.stack(parts, -1)

    def forward(self, sizes: Mapping[str, int], window: Tensor | None = None, **batch: Any) -> None:
        if "h" not in batch:
            _ = self.representation  # only the guide runs it; named here so that plain SVI trains it, too
        f = self.summaries(batch)
        latents = []
        with self.plate("window", sizes=sizes, window=window):
            with poutine.scale(scale=self.gamma):
                shared = self.shared_parents(f, batch)
                for i, task in enumerate(self.tasks):
                    y, known = self.known(task, batch, f[None])
                    drawn = pyro.sample(
                        f"y_{task}", dist.Categorical(logits=self.class_logits[i]), infer={"enumerate": "parallel"}
                    )
                    ruled_out = torch.where(known & (drawn != y), -math.inf, 0.0).to(f)
                    pyro.factor(f"y_{task}_label", ruled_out)
                    # Broadcast to one shape, so that a user's prior may leave a parent out.
                    parents = torch.broadcast_tensors(drawn, *shared)
                    latents.append(pyro.sample(f"a_{task}", self.prior(f"a_{task}", *parents)))
            loc = self.decoder(torch.cat(latents, -1))
            pyro.sample("f", dist.Normal(loc, 1e-3 + self.f_log_sd.exp()).to_event(1), obs=f)


class DomainGenerative(Generative):
    """`Generative` with a domain d per window: the task in whose situation the window was recorded.

    For windows n and tasks T::

        d_n  ~ Categorical(rho), restricted to the tasks that the window has a label of; summed out if it has none
        y_nT ~ Categorical(pi_T), summed out where it is not known
        a_nT ~ N(m_T[y_nT] + delta_T[d_n], I_A)
        f_n  ~ N(dec(a_n1, ..., a_nT), diag s^2)

    Places of classes can shift between the data sets of the tasks, and p(d | x) shows which task's data a window
    without labels resembles (`domain_probabilities`). Labels are predicted with d summed out. Only differences of delta
    between domains have a meaning: m_T absorbs their common part. From some starts two domains are not separated; fit
    with restarts, of which the best by ELBO predicts. Not in the paper.

    The prior of a_T may be given as a callable of (y, d), index tensors of one shape (..., B). Arguments of
    `AffectModel` and `LatentModel`.

    Raises:
        ValueError: There is one task only, hence one domain.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate_all
        >>> windows = simulate_all(n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8, "a_dim": 2, "q_hidden": 8}
        >>> model = zoo.create_model("m3sense", windows, variant="generative-domain", **sizes)
        >>> tuple(model.shifts.shape)  # delta: task, domain, dimensions of the latent
        (3, 3, 2)
    """

    def _networks(self) -> None:
        if len(self.tasks) < 2:
            raise ValueError(f"tasks: {list(self.tasks)} make one domain; take variant 'generative', or another task")
        super()._networks()
        self.enumerated = ("domain", *self.targets)
        self.domain_logits = nn.Parameter(torch.zeros(len(self.tasks)))
        # Random start, like the places: fits that started at zero ended where latents do not depend on the domain.
        self.shifts = nn.Parameter(torch.randn(len(self.tasks), len(self.tasks), self.a_dim))  # task, domain

    def _place(self, i: int, y: Tensor, *parents: Tensor) -> dist.Distribution:
        """The distribution p(a_T | y_T, d) of task i."""
        (d,) = parents
        return dist.Normal(self.places[i][y] + self.shifts[i][d], 1.0).to_event(1)

    def shared_parents(self, f: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Sample the domain d; where a window is labelled, only the tasks that it has labels of are possible."""
        known = torch.stack([self.known(task, batch, f[None])[1] for task in self.tasks])  # (T, B)
        d = pyro.sample("domain", dist.Categorical(logits=self.domain_logits), infer={"enumerate": "parallel"})
        labelled_here = known[d, torch.arange(known.shape[1], device=d.device)]
        pyro.factor("domain_label", torch.where(known.any(0) & ~labelled_here, -math.inf, 0.0).to(f))
        return (d,)
