"""The paper's generative model (eq. 1 to 8); its ablations and relatives are arguments and variants."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.nn import functional

from ...data.batch import Batch
from ...modeling.base import ZooModel
from .local_guide import PaperGuide, StyleAwareGuide
from .nets import FUSIONS, RESIDUALS, Decoder, LoadHead, Stream, by_participant, fill_style, head, receptive_field

X_LIKELIHOODS = ("normal", "mse")
Y_LIKELIHOODS = ("laplace", "mae", "normal", "studentt")
Z_PRIORS = ("standard", "aux", "style")
DEGREES_OF_FREEDOM = 4.0


class WalkNormal(dist.Independent):
    """Normal distribution of walks (..., T, S) with one standard deviation per channel, (S,).

    It equals ``Normal(loc, scale).to_event(2)``, whose log density would expand the scale to all trials and steps at
    the cost of a tenth of a training step.
    """

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.channel_scale = scale
        super().__init__(dist.Normal(loc, scale), 2, validate_args=validate_args)

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
        constant = (scale.log() + 0.5 * math.log(2 * math.pi)).sum()
        return -0.5 * (squares / scale**2).sum(-1) - loc.shape[-2] * constant


def warm_up(progress: float) -> float:
    """Weight of the KL term at a share `progress` of training: linear from 0 to 1 in the first 60 % (section 3.2.2)."""
    return min(1.0, progress / 0.6)


class GaitModel(ZooModel):
    """Base class of the model and its baselines: standardisation, likelihood of the load, and the site of the style.

    Args:
        n_channels: S, number of sensor channels.
        n_steps: T, number of steps of a loaded walk.
        aux_steps: T0, number of steps of an unloaded walk.
        n_styles: L, number of carrying styles.
        y_likelihood: "laplace", "normal" (eq. 5) or "studentt" (4 degrees of freedom), each with a scale from the
            network; or "mae", a Laplace distribution of fixed scale: the paper's loss up to a constant.
        floor: Smallest scale of the load, in standard deviations of the training loads.
        x_loc, x_scale, y_loc, y_scale: Location and scale per channel, (S,), and of the load, in the units of the data:
            networks see (x - x_loc) / x_scale of loaded and unloaded walks, while the sites x and y keep the units of
            the data.

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
        "optimizer": functools.partial(torch.optim.Adam, weight_decay=1e-4, fused=True),
    }  # fmt: skip

    def __init__(
        self, n_channels: int, n_steps: int, aux_steps: int, n_styles: int, y_likelihood: str, floor: float,
        x_loc: Any, x_scale: Any, y_loc: float, y_scale: float,
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("y_likelihood", y_likelihood, Y_LIKELIHOODS)
        if not floor > 0:
            raise ValueError(f"floor: {floor}; a positive scale is needed")
        if self.joint and n_styles < 2:
            raise ValueError(f"n_styles: {n_styles}; use variant 'load-only' (or 'sequence-load-only') without styles")
        self.n_channels, self.n_steps, self.aux_steps, self.n_styles = n_channels, n_steps, aux_steps, n_styles
        self.y_likelihood, self.floor = y_likelihood, floor
        for name, value, size in (("x_loc", x_loc, n_channels), ("x_scale", x_scale, n_channels),
                                  ("y_loc", y_loc, ()), ("y_scale", y_scale, ())):  # fmt: skip
            default = 0.0 if name.endswith("loc") else 1.0
            tensor = torch.as_tensor(default if value is None else value, dtype=torch.get_default_dtype())
            self.register_buffer(name, tensor.expand(size).clone())

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

    def standardise(self, walk: Tensor) -> Tensor:
        """Standardise a walk, (..., S), for the networks: (walk - x_loc) / x_scale."""
        return (walk - self.x_loc).div_(self.x_scale)

    def load_given(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """p(y | style, z) in the units of the data, from a standardised location and scale (eq. 5)."""
        loc, scale = self.y_loc + self.y_scale * loc, self.y_scale * scale
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


class AuxVAE(GaitModel):
    """Hand load from loaded gait and the walker's own unloaded gait, with the carrying style as auxiliary output.

    Generative process, for trials n = 1..N of participants p(n)::

        z_n     ~ N(0_K, I_K)                                      (eq. 2)
        x_n     ~ N(mu_X(x_aux_p(n), z_n), diag sigma_X^2)         (eq. 3, 6)
        style_n ~ Categorical(pi(z_n)), seen on some trials        (eq. 4, 7)
        y_n     ~ N(mu_y(style_n, z_n), sigma_y(style_n, z_n)^2)   (eq. 5, 8; a Laplace by default)

    The objective is the paper's (eq. 13, 14), with the style summed out exactly where it is unknown::

        E_q[recon_weight log p(x | x_aux, z) + log p(style | z) + log p(y | style, z)] - beta KL[q || p(z)]

    `zoo.predict` computes the predictive mean of the load by summing over the styles and averaging over S draws of z
    (eq. 15)::

        y_hat = 1/S sum_s sum_l pi_l(z_s) mu_y(l, z_s),   z_s ~ q(z | x, x_aux)

    The paper's loss is ``recon_weight=None`` (a mean over T S), ``x_likelihood="mse"``, ``y_likelihood="mae"`` and
    ``beta=1``. A strict ELBO has ``recon_weight=1`` and ``beta=1``, with any likelihoods; otherwise the density of x is
    tempered and the objective is no bound of the evidence.

    Shapes: x (B, T, S), x_aux (M, T0, S) with one walk per participant, participant (B,), y (B,) [lb], style (B,), the
    masks y_labelled (B,) and style_labelled (B,), row (B,), for a minibatch of B out of N trials.

    Differences from the paper: sigma_X is one number per channel, not an output of the network; the load may have a
    Laplace or Student t density; an unknown style is summed out in training, too.

    Reference: "Gait-Based Hand Load Estimation via Deep Latent Variable Models with Auxiliary Information", eq. 1
    to 15; see also `GaitModel` for the common arguments.

    Args:
        z_dim: K, latent dimension (the paper: 128).
        channels: Numbers of channels of the dilated convolutions, dilations 1, 2, 4 ... (the paper: 256, 128).
        d_model: D, dimension of the attention (the paper: 64).
        kernel, pool: Kernel size of the convolutions, and window of the max-pooling.
        heads: Number of attention heads (the paper: 4).
        segments: Number of parts of a walk over which the fused features are averaged before q(z) reads them.
        width: Number of hidden units of the predictors of style and load.
        fusion: "cross" (the paper), "concat" (setting 3 of table 2) or "none" (settings 1 and 2: no x_aux at all).
        attention_residual: "none" (the paper) or "difference", see `CrossAttention`.
        x_likelihood: "normal", with a learned standard deviation per channel; or "mse", with variance 1/2 in
            standardised units.
        recon_weight: Weight of log p(x | x_aux, z); None for 1 / (T S).
        beta: Weight of the KL term after annealing. The default was chosen on simulations with seeds from 100 on, the
            same for all rows of table 2: with 1 and the mean over T S too little information passes z; with less than
            the default, intervals become too narrow.
        z_prior: "standard" (eq. 2); "aux" for p(z | x_aux); "style" for p(style) p(z | style) in place of
            p(z) p(style | z).
        priors: Distribution ``{"z": ...}`` that replaces the standard normal prior.

    Raises:
        ValueError: An argument is out of its range, or arguments do not fit together.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, z_dim=2, **small)
        >>> fit = zoo.fit(model, "paper", train, epochs=2, progress=False)
        >>> zoo.predict(fit, test, draws=10)[["y.mean", "y.sd", "style.label"]].shape
        (32, 3)
    """

    row_sites = ("z",)
    fit_defaults = {**GaitModel.fit_defaults, "anneal": warm_up, "anneal_sites": ("z",)}

    def __init__(
        self, n_channels: int, n_steps: int, aux_steps: int, n_styles: int = 4, z_dim: int = 16,
        channels: tuple[int, ...] = (48, 32), d_model: int = 32, kernel: int = 3, pool: int = 4, heads: int = 4,
        segments: int = 4, width: int = 64, fusion: str = "cross", attention_residual: str = "none",
        x_likelihood: str = "normal", y_likelihood: str = "laplace", recon_weight: float | None = None,
        beta: float = 0.3, z_prior: str = "standard", floor: float = 0.05, x_loc: Any = None, x_scale: Any = None,
        y_loc: float = 0.0, y_scale: float = 1.0, priors: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(n_channels, n_steps, aux_steps, n_styles, y_likelihood, floor, x_loc, x_scale, y_loc, y_scale)
        one_of("fusion", fusion, FUSIONS)
        one_of("attention_residual", attention_residual, RESIDUALS)
        one_of("x_likelihood", x_likelihood, X_LIKELIHOODS)
        one_of("z_prior", z_prior, Z_PRIORS)
        for name, weight in (("beta", beta), ("recon_weight", recon_weight)):
            if weight is not None and not weight > 0:
                raise ValueError(f"{name}: {weight}; a positive weight is needed, however small")
        self.z_dim, self.z_prior, self.beta = z_dim, z_prior, beta
        self._require_sizes(channels, d_model, kernel, pool, heads, segments, fusion)
        self._require_prior(z_prior, fusion, beta)
        self.recon_weight = 1.0 / (n_steps * n_channels) if recon_weight is None else recon_weight
        self.encoder_sizes = {
            "n_channels": n_channels, "channels": tuple(channels), "d_model": d_model, "kernel": kernel, "pool": pool,
            "heads": heads, "segments": segments, "fusion": fusion, "residual": attention_residual,
        }  # fmt: skip
        use_aux = fusion != "none"
        self.aux = Stream(n_channels, tuple(channels), d_model, kernel, pool) if use_aux else None
        self.decoder = Decoder(z_dim, n_channels, n_steps, tuple(channels), d_model, kernel, pool, use_aux)
        self.x_log_sd = nn.Parameter(torch.zeros(n_channels)) if x_likelihood == "normal" else None
        if self.joint and z_prior != "style":
            self.classifier = head(z_dim, n_styles, width)
        self.load_head = LoadHead(z_dim, n_styles if self.joint else 0, width, floor, y_likelihood != "mae")
        if z_prior == "aux":
            self.aux_prior = head(d_model, 2 * z_dim, width)
        if z_prior == "style":
            self.style_logits = nn.Parameter(torch.zeros(n_styles))
            self.style_loc = nn.Parameter(0.1 * torch.randn(n_styles, z_dim))
            self.style_log_sd = nn.Parameter(torch.zeros(n_styles, z_dim))
            # The KL term depends on the style, which is summed out: all its terms must have one scale.
            self.fit_defaults = {**self.fit_defaults, "anneal": None}
        self.set_priors(priors)

    def _require_sizes(
        self, channels: tuple[int, ...], d_model: int, kernel: int, pool: int, heads: int, segments: int, fusion: str
    ) -> None:
        sizes = {"z_dim": self.z_dim, "d_model": d_model, "kernel": kernel, "pool": pool, "heads": heads,
                 "segments": segments, "channels": min(channels, default=0)}  # fmt: skip
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: {size}; whole numbers of at least 1 are needed")
        if d_model % heads:
            raise ValueError(f"d_model: {d_model} does not divide into {heads} heads; choose a multiple")
        seen = receptive_field(kernel, len(channels))
        for name, steps in (("n_steps", self.n_steps), ("aux_steps", self.aux_steps)):
            if steps < seen or steps // pool < segments:
                raise ValueError(
                    f"{name}: walks of {steps} steps are too short: the convolutions see {seen} steps, and "
                    f"{segments} segments after pooling by {pool} need {segments * pool}; resample to more steps"
                )
        if fusion == "concat" and self.n_steps != self.aux_steps:
            raise ValueError(
                f"fusion: 'concat' needs loaded and unloaded walks of the same length, not {self.n_steps} and "
                f"{self.aux_steps} steps; resample"
            )

    def _require_prior(self, z_prior: str, fusion: str, beta: float) -> None:
        if z_prior == "aux" and fusion == "none":
            raise ValueError("z_prior: 'aux' reads x_aux, which fusion='none' leaves out; use another fusion")
        if z_prior == "style" and not self.joint:
            raise ValueError("z_prior: 'style' needs a model of the style; use variant 'auxvae'")
        if z_prior == "style" and beta != 1.0:
            raise ValueError(
                f"beta: {beta} with z_prior='style', where z depends on a style that is summed out, and all terms that "
                "do must have one weight; use beta=1"
            )

    # ---------------------------------------------------------------- priors of z
    def priors(self) -> dict[str, Any]:
        if self.z_prior == "aux":
            return {"z": self._prior_given_aux}
        if self.z_prior == "style":
            return {"z": self._prior_given_style}
        return {"z": dist.Normal(self.y_loc.new_zeros(self.z_dim), 1.0).to_event(1)}

    def _prior_given_aux(self, h_aux: Tensor) -> dist.Distribution:
        """p(z | x_aux), given features of the unloaded walks, (B, T0', D)."""
        loc, raw = self.aux_prior(h_aux.mean(1)).chunk(2, -1)
        return dist.Normal(loc, self.floor + functional.softplus(raw)).to_event(1)

    def _prior_given_style(self, style: Tensor) -> dist.Distribution:
        """p(z | style), given styles (...)."""
        return dist.Normal(self.style_loc[style], self.style_log_sd[style].exp()).to_event(1)

    # ---------------------------------------------------------------- likelihoods
    def reconstruct(self, z: Tensor, h_aux: Tensor | None) -> dist.Distribution:
        """p(x | x_aux, z) in the units of the data, given z (..., B, K) and features h_aux (B, T0', D) (eq. 3, 6)."""
        mean = self.decoder(z, h_aux)
        sd = mean.new_tensor(0.5**0.5) if self.x_log_sd is None else 1e-3 + self.x_log_sd.exp()
        return WalkNormal(torch.addcmul(self.x_loc, self.x_scale, mean), self.x_scale * sd)

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, sizes: Mapping[str, int], y: Tensor | None = None,
        y_labelled: Tensor | None = None, style: Tensor | None = None, style_labelled: Tensor | None = None,
        row: Tensor | None = None, targets_only: bool = False, **_: Any,
    ) -> None:  # fmt: skip
        self.require_shapes(x, x_aux)
        needs_aux = self.aux is not None and (self.z_prior == "aux" or not targets_only)
        h_aux = by_participant(self.aux, self.standardise(x_aux), participant) if needs_aux else None
        with self.plate("row", sizes=sizes, row=row):
            parents: tuple[Tensor, ...] = (h_aux,) if self.z_prior == "aux" else ()
            if self.z_prior == "style":
                parents = (self.sample_style(self.style_logits, style, style_labelled),)
            with poutine.scale(scale=self.beta):  # eq. 14
                z = pyro.sample("z", self.prior("z", *parents))  # eq. 2
            if not targets_only:
                with poutine.scale(scale=self.recon_weight):
                    pyro.sample("x", self.reconstruct(z, h_aux), obs=x)  # eq. 3, 6
            carried: Tensor | None = None
            if self.z_prior == "style":
                carried = parents[0]
            elif self.joint:
                carried = self.sample_style(self.classifier(z), style, style_labelled)  # eq. 4, 7
            # eq. 5, 8. zoo.predict sums its mean over the styles and averages it over draws of z: eq. 15.
            self.observe_load(self.load_given(*self.load_head(z, carried)), y, y_labelled)

    def local_guide(self) -> nn.Module:
        return (StyleAwareGuide if "style_unobserved" in self.row_sites else PaperGuide)(self)


class LoadOnly(AuxVAE):
    """`AuxVAE` without the auxiliary output, so without styles (settings 1 and 4 of table 2, figure 5).

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, variant="load-only", z_dim=2, **small)
        >>> fit = zoo.fit(model, "paper", train, epochs=2, progress=False)
        >>> zoo.predict(fit, test, draws=10)[["y.mean", "y.sd"]].shape
        (32, 2)
    """

    joint = False
    targets = ("y",)
    enumerated = ()


class StyleInGuide(AuxVAE):
    """`AuxVAE` whose guide has a separate posterior q(style | x, x_aux), which is enumerated in the guide.

    The style of the trials where it is unknown is the latent site ``style_unobserved``, which the guide covers.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.auxvae import participant_folds, simulate
        >>> walks = simulate(n_participants=4, n_steps=40, duration_s=3.0)
        >>> train, test = participant_folds(walks, folds=2)[0]
        >>> small = {"channels": (4, 3), "d_model": 4, "heads": 2, "segments": 2}
        >>> model = zoo.create_model("auxvae", train, variant="style-in-guide", z_dim=2, **small)
        >>> fit = zoo.fit(model, "style_aware", train, epochs=2, progress=False)
        >>> zoo.predict(fit, test, draws=10)[["y.mean", "y.sd", "style.label"]].shape
        (32, 3)
    """

    row_sites = ("z", "style_unobserved")
    enumerated = ()

    def _require_prior(self, z_prior: str, fusion: str, beta: float) -> None:
        if z_prior == "style":
            raise ValueError("z_prior: 'style' sums the style out in the model; use variant 'auxvae'")
        super()._require_prior(z_prior, fusion, beta)

    def sample_style(self, logits: Tensor, style: Tensor | None, labelled: Tensor | None) -> Tensor:
        style, labelled = fill_style(logits, style, labelled)
        return pyro.sample("style", dist.Categorical(logits=logits), obs=style, obs_mask=labelled)

    def elbo(self, guide: Any, batch: Mapping[str, Any], particles: int = 1) -> ELBO:
        return TraceEnum_ELBO(
            num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=self.max_plate_nesting,
            strict_enumeration_warning=False,
        )  # fmt: skip


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that the argument `name` has one of its choices; raise ValueError if not."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {list(choices)}")
