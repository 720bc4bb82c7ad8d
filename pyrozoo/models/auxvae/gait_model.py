"""GaitModel: what all models of loaded walks share."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ...data.batch import Batch
from ...inference.settings import Adam
from ...modeling.base import ZooModel
from ...posterior.streaming import Window
from .data.batches import to_batch
from .data.simulator import resample

Y_LIKELIHOODS = ("laplace", "mae", "mae_lb", "normal", "studentt")
FIXED_SCALES = ("mae", "mae_lb")  # absolute errors: their intervals say nothing
DEGREES_OF_FREEDOM = 4.0
OWN_FLOOR = 0.1  # of a channel's own scale, in its standard deviations over all people


class WalkNormal(dist.Independent):
    """Normal distribution of walks (..., T, S) with one standard deviation per channel, (S,) or for each walk (..., S).

    It equals ``Normal(loc, scale).to_event(2)``, whose log density would expand the scale to all trials and steps at
    the cost of a tenth of a training step.
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.channel_scale = scale
        super().__init__(dist.Normal(loc, scale.unsqueeze(-2)), 2, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WalkNormal:
        """Return the same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        return WalkNormal(self.base_dist.loc.expand(shape), self.channel_scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of walks `value`, (..., T, S): shape (...)."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self.base_dist.loc, self.channel_scale
        squares = (value - loc).square().sum(-2)  # over time first: what follows is of size S
        constant = (scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return -0.5 * (squares / scale**2).sum(-1) - loc.shape[-2] * constant


class GaitModel(ZooModel):
    """Base class of the model and its baselines: standardisation, likelihood of the load, and the site of the style.

    Args:
        n_channels: S, number of sensor channels.
        n_steps: T, number of steps of a loaded walk.
        aux_steps: T0, number of steps of an unloaded walk.
        n_styles: L, number of carrying styles.
        y_likelihood: "laplace", "normal" (eq. 5) or "studentt" (4 degrees of freedom), each with a scale from the
            network; or a Laplace distribution of fixed scale, which is the paper's absolute error up to a constant:
            "mae" in standard deviations of the training loads, "mae_lb" in lb.
        floor: Smallest scale of the load, in standard deviations of the training loads.
        x_loc, x_scale, y_loc, y_scale: Location and scale per channel, (S,), and of the load, in the units of the data:
            networks see (x - x_loc) / x_scale of loaded and unloaded walks, while the sites x and y keep the units of
            the data.
        own_scale: Whether networks see both walks in units of the walker's unloaded walk, see `units`, and not in those
            of all people, in which the differences between people are larger than those that a load makes.

    Raises:
        ValueError: An argument is out of its range or none of its choices.
    """

    dims = {"x": ("time", "channel"), "z": ("latent",)}
    open_groups = ("participant",)
    targets: tuple[str, ...] = ("y", "style")
    enumerated: tuple[str, ...] = ("style",)
    at_least = ("n_styles",)
    joint = True
    # The loss is a sum over trials, so nearly every gradient is cut to the norm of 10: about that of a mean over
    # trials, as the paper has it, to which its weight decay is relative.
    fit_defaults: Mapping[str, Any] = {
        "epochs": 60, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "clip": 10.0,
        "optimizer": functools.partial(Adam, weight_decay=1e-4, fused=True),
    }  # fmt: skip

    def __init__(
        self, n_channels: int, n_steps: int, aux_steps: int, n_styles: int, y_likelihood: str, floor: float,
        x_loc: Any, x_scale: Any, y_loc: float, y_scale: float, own_scale: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("y_likelihood", y_likelihood, Y_LIKELIHOODS)
        if not floor > 0:
            raise ValueError(f"floor: {floor}; a positive scale is needed")
        if self.joint and n_styles < 2:
            raise ValueError(f"n_styles: {n_styles}; use variant 'load-only' (or 'sequence-load-only') without styles")
        self.n_channels, self.n_steps, self.aux_steps, self.n_styles = n_channels, n_steps, aux_steps, n_styles
        self.y_likelihood, self.floor, self.own_scale = y_likelihood, floor, own_scale
        self.set_standardisation("x", x_loc, x_scale, n_channels)
        self.set_standardisation("y", y_loc, y_scale, ())

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Constructor arguments for `data`: S, T, T0, L, and the standardisation by loaded walks x and known loads y.

        Raises:
            ValueError: A channel is constant, or fewer than two different loads are known.
        """
        names = data.coords.get("style_class")
        n_styles = len(names) if names is not None else int(data["style"].max()) + 1 if "style" in data else 0
        flat = data["x"].double().flatten(0, 1)
        loc, scale = flat.mean(0), flat.std(0, unbiased=False)
        constant = scale <= 1e-9 * loc.abs().clamp(min=1e-9)
        if bool(constant.any()):
            channel = (
                data.columns("x", len(loc))[int(constant.nonzero()[0, 0])]
                if "channel" in data.coords
                else int(constant.nonzero()[0, 0])
            )
            raise ValueError(f"x, channel {channel!r}: it never changes; leave it out of the data")
        sizes: dict[str, Any] = {
            "n_channels": len(loc), "n_steps": data["x"].shape[1], "aux_steps": data["x_aux"].shape[1],
            "n_styles": n_styles, "x_loc": loc.tolist(), "x_scale": scale.tolist(),
        }  # fmt: skip
        known = data["y"][data["y_labelled"]].double() if "y" in data else torch.zeros(0)
        if len(known):
            if bool((known == known[0]).all()):
                raise ValueError(f"y: every known load is {known[0]:g}, so there is nothing to learn; add other loads")
            sizes |= {"y_loc": float(known.mean()), "y_scale": float(known.std(unbiased=False))}
        return sizes

    def check(self, data: Batch) -> None:
        if data.n_rows < 2:
            raise ValueError("x: a data set of one trial has no batch statistics; give at least two trials")
        self.require_shapes(data["x"], data["x_aux"])

    def require_shapes(self, x: Tensor, x_aux: Tensor) -> None:
        """Check that walks x (B, T, S) and x_aux (M, T0, S) have the sizes the networks were made for.

        Raises:
            ValueError: Other sizes, or in training a minibatch of one trial.
        """
        for name, walk, steps in (("x", x, self.n_steps), ("x_aux", x_aux, self.aux_steps)):
            if tuple(walk.shape[1:]) != (steps, self.n_channels):
                raise ValueError(
                    f"{name}: walks of {walk.shape[1]} steps x {walk.shape[2]} channels, where the model was made for "
                    f"{steps} x {self.n_channels}; resample, or make a model of these data"
                )
        if self.training and len(x) < 2:
            raise ValueError(
                "row: a minibatch of one trial has no batch statistics (batch norm); choose a batch_size that does not "
                "leave one trial over"
            )

    def units(self, x_aux: Tensor, participant: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Location and scale of every channel in which networks see the walks of each participant or trial.

        With `own_scale` they are the mean m_aux and sqrt(sd_aux^2 + (x_scale / 10)^2) of the unloaded walk over time: a
        channel that hardly moves without a load is not blown up. Otherwise they are x_loc and x_scale.

        Args:
            x_aux: Unloaded walks, (M, T0, S).
            participant: Index of each trial's participant, (B,); None for the units of the participants.

        Returns:
            Location and scale, each (M, S) or (B, S); without `own_scale` (S,).
        """
        if not self.own_scale:
            return self.x_loc, self.x_scale
        loc = x_aux.mean(-2)
        scale = (x_aux.var(-2, unbiased=False) + (OWN_FLOOR * self.x_scale) ** 2).sqrt()
        return (loc, scale) if participant is None else (loc[participant], scale[participant])

    def standardise(self, walk: Tensor, x_aux: Tensor, participant: Tensor | None = None) -> Tensor:
        """Walks as networks see them, in `units`: x (B, T, S) of these participants, or x_aux itself (M, T0, S)."""
        loc, scale = self.units(x_aux, participant)
        return (walk - loc.unsqueeze(-2)).div_(scale.unsqueeze(-2))

    def load_given(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """p(y | style, z) in the units of the data, from a standardised location and scale (eq. 5)."""
        loc, scale = self.y_loc + self.y_scale * loc, scale if self.y_likelihood == "mae_lb" else self.y_scale * scale
        if self.y_likelihood == "normal":
            return dist.Normal(loc, scale)
        if self.y_likelihood == "studentt":
            return dist.StudentT(DEGREES_OF_FREEDOM, loc, scale)
        return dist.Laplace(loc, scale)

    def observe_load(self, p_y: dist.Distribution, y: Tensor | None, labelled: Tensor | None) -> None:
        """Make the site ``y``, observed in the trials with a known load and masked in the others."""
        if y is None:
            y, labelled = torch.zeros_like(p_y.mean), torch.zeros((), dtype=torch.bool, device=self.y_loc.device)
        with poutine.mask(mask=True if labelled is None else labelled):
            pyro.sample("y", p_y, obs=y)

    def sample_style(self, logits: Tensor, style: Tensor | None, labelled: Tensor | None) -> Tensor:
        """Make the site ``style``, summed out where it is unknown and fixed where it is known, in one batch.

        A factor gives the other styles probability 0 where the style is known; obs_mask together with ``infer=`` would
        silently drop the enumeration.

        Args:
            logits: Logits of the styles, (..., B, L).
            style: Known styles, (B,); None if all are unknown.
            labelled: True where the style is known, (B,); None if all are known.

        Returns:
            The style, whose enumeration dimension stands left of the plates.
        """
        drawn = pyro.sample("style", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
        if style is not None:
            known = torch.ones_like(style, dtype=torch.bool) if labelled is None else labelled
            pyro.factor("style_label", torch.where(known & (drawn != style), -math.inf, 0.0).to(self.y_loc))
        return drawn

    def window(self, data: Batch, *, x_aux: Any, length: int, step: int | None = None) -> Window:
        """How a stretch of a walk in progress becomes a trial, for `pyrozoo.stream`.

        Args:
            data: A batch in the layout of the fit.
            x_aux: The walker's unloaded walk, (samples, S), at the rate and in the units of the samples that will come.
            length: Number of samples of a window: as many seconds as the walks of training.
            step: Number of samples between windows; None for a tenth of a window.

        Raises:
            ValueError: Fewer samples than steps of the model, another number of channels, or a value that is not
                finite.
        """
        own = np.asarray(x_aux, dtype=float)
        if own.ndim != 2 or own.shape[1] != self.n_channels or not np.isfinite(own).all():
            raise ValueError(f"x_aux: shape {own.shape}; give finite samples (samples, {self.n_channels} channels)")
        unloaded = resample(own, self.aux_steps)[None]
        resample(np.zeros((length, 1)), self.n_steps)  # refuses a window of too few samples
        channels = tuple(map(str, data.coords["channel"])) if "channel" in data.coords else range(self.n_channels)
        names = tuple(f"{name}" for name in channels)
        styles = data.coords.get("style_class", np.arange(self.n_styles).astype(str))

        def row(walk: np.ndarray) -> Batch:
            return to_batch(
                x=resample(walk, self.n_steps)[None], y=np.array([np.nan]), style=np.array([-1]),
                participant=["walker"], x_aux=unloaded, participants=["walker"], channels=names, styles=styles,
            )  # fmt: skip

        return Window(length, max(1, length // 10) if step is None else step, names, row)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that the argument `name` has one of its choices; raise ValueError if not."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {list(choices)}")
