"""The paper's generative model (eq. 1 to 8); its ablations and relatives are arguments and variants."""

from __future__ import annotations

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
from .gait_model import FIXED_SCALES, GaitModel, WalkNormal, one_of
from .local_guide import PaperGuide, StyleAwareGuide
from .nets import (
    COMPARISONS,
    FUSIONS,
    RESIDUALS,
    Decoder,
    LoadHead,
    Stream,
    by_participant,
    departures,
    fill_style,
    head,
    receptive_field,
)

X_LIKELIHOODS = ("normal", "mse")
Z_PRIORS = ("standard", "aux", "style")
MOST_LEVELS = 8  # different loads of training, up to which the load is a staircase between them
LEAST_TRIALS = 5  # with each of them, by two people or more
LEAST_STEPS = (
    300  # of training on departures: a handful of people make one minibatch an epoch, and 60 steps learn little
)
LEAST_CROP = 0.2


def warm_up(progress: float) -> float:
    """Weight of the KL term at a share `progress` of training: linear from 0 to 1 in the first 60 %.

    The paper lets it grow over all epochs (section 3.4): `whole_training`.
    """
    return min(1.0, progress / 0.6)


def whole_training(progress: float) -> float:
    """Weight of the KL term at a share `progress` of training, as in the paper: linear from 0 to 1 (section 3.4)."""
    return progress


def levels_of(data: Batch) -> tuple[float, ...]:
    """The different loads of `data` [lb], ascending, if they recur; none where loads may be any.

    They recur if they are at most eight, each known in at least five trials and by at least two people.
    """
    if "y" not in data:
        return ()
    seen = data["y_labelled"]
    loads, people = data["y"][seen].double(), data["participant"][seen]
    found, place, count = loads.unique(return_inverse=True, return_counts=True)
    if len(found) > MOST_LEVELS or bool((count < LEAST_TRIALS).any()):
        return ()
    recur = all(len(people[place == k].unique()) > 1 for k in range(len(found)))
    return tuple(found.tolist()) if recur else ()


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

    The paper's loss is ``recon_weight=None`` (a mean over T S), ``x_likelihood="mse"``, ``beta=1``, and
    ``y_likelihood="mae_lb"`` or ``"mae"``: the text does not name the unit of the absolute error. A strict ELBO has
    ``recon_weight=1`` and ``beta=1``, with any likelihoods; otherwise the density of x is tempered and the objective is
    no bound of the evidence.

    Shapes: x (B, T, S), x_aux (M, T0, S) with one walk per participant, participant (B,), y (B,) [lb], style (B,), the
    masks y_labelled (B,) and style_labelled (B,), row (B,), for a minibatch of B out of N trials.

    Differences from the paper: sigma_X is one number per channel, not an output of the network; the load may have a
    Laplace or Student t density; an unknown style is summed out in training, too.

    Reference: "Gait-Based Hand Load Estimation via Deep Latent Variable Models with Auxiliary Information", eq. 1
    to 15; see also `GaitModel` for the common arguments.

    Args:
        z_dim: K, latent dimension (the paper: 128).
        channels: Numbers of channels of the dilated convolutions, dilations 1, 2, 4 ... (the paper: 256, 128); None for
            (48, 32), or with the departures, where only the decoder has convolutions, (16, 12).
        d_model: D, dimension of the attention (the paper: 64); None for 32, or with the departures 16.
        kernel, pool: Kernel size of the convolutions, and window of the max-pooling.
        heads: Number of attention heads (the paper: 4).
        segments: Number of parts of a walk over which the fused features are averaged before q(z) reads them.
        width: Number of hidden units of the predictors of style and load.
        fusion: "cross" (the paper), "concat" (setting 3 of table 2) or "none" (settings 1 and 2: no x_aux at all). Or
            "departure", which `pyrozoo.create_model` takes for data and is not in the paper: q(z) reads only how
            summaries and phases of a walk differ from those of the walker's unloaded walk, see `Departure`; or
            "learned-departure", where a shared encoder of the average gait cycle learns what is compared, see
            `LearnedDeparture`.
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
        own_scale: Whether networks see walks in units of the walker's unloaded walk, see `GaitModel`. The features of
            "departure" are in both units; with "none", x_aux enters by this scale alone.
        noise: Standard deviation of the noise on the standardised departures in training.
        staircase: Whether the location of the load is a staircase between the loads of training, see `LoadHead`; None:
            only with the departures, if there are `y_levels`. It predicts no load beyond them, and hardly one between
            them: say False where loads may be others. Otherwise the location is a plain regression.
        y_levels: Loads of the staircase [lb], in ascending order. `pyrozoo.create_model` takes those of the data where
            they recur: at most eight different ones, each in five trials or more and by two people or more.
        reference: Index of the channel that tells the gait phase, of a foot or shank.
        crop: Smallest share of a walk that "learned-departure" reads in training, where it averages the gait cycle over
            a random stretch of each walk; 1 for whole walks.

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

    row_sites: tuple[str, ...] = ("z",)
    fit_defaults = {**GaitModel.fit_defaults, "anneal": warm_up, "anneal_sites": ("z",)}
    data_defaults = {"fusion": "departure"}

    def __init__(
        self, n_channels: int, n_steps: int, aux_steps: int, n_styles: int = 4, z_dim: int = 16,
        channels: tuple[int, ...] | None = None, d_model: int | None = None, kernel: int = 3, pool: int = 4,
        heads: int = 4, segments: int = 4, width: int = 64, fusion: str = "cross", attention_residual: str = "none",
        x_likelihood: str = "normal", y_likelihood: str = "laplace", recon_weight: float | None = None,
        beta: float = 0.3, z_prior: str = "standard", floor: float = 0.05, x_loc: Any = None, x_scale: Any = None,
        y_loc: float = 0.0, y_scale: float = 1.0, priors: Mapping[str, Any] | None = None,
        own_scale: bool = False, noise: float = 0.7, staircase: bool | None = None,
        y_levels: tuple[float, ...] = (), reference: int = 0, crop: float = 0.5,
    ) -> None:  # fmt: skip
        small = fusion in COMPARISONS
        channels = ((16, 12) if small else (48, 32)) if channels is None else channels
        d_model = (16 if small else 32) if d_model is None else d_model
        super().__init__(
            n_channels, n_steps, aux_steps, n_styles, y_likelihood, floor, x_loc, x_scale, y_loc, y_scale, own_scale
        )
        if small:
            self.fit_defaults = {**self.fit_defaults, "least_steps": LEAST_STEPS}
        one_of("fusion", fusion, FUSIONS)
        one_of("attention_residual", attention_residual, RESIDUALS)
        one_of("x_likelihood", x_likelihood, X_LIKELIHOODS)
        one_of("z_prior", z_prior, Z_PRIORS)
        for name, weight in (("beta", beta), ("recon_weight", recon_weight)):
            if weight is not None and not weight > 0:
                raise ValueError(f"{name}: {weight}; a positive weight is needed, however small")
        if not noise >= 0:
            raise ValueError(f"noise: {noise}; a standard deviation of at least 0 is needed")
        if not LEAST_CROP <= crop <= 1:
            raise ValueError(f"crop: {crop}; a share of the walk from {LEAST_CROP} to 1 is needed")
        self.z_dim, self.z_prior, self.beta = z_dim, z_prior, beta
        self._require_sizes(channels, d_model, kernel, pool, heads, segments, fusion)
        self._require_prior(z_prior, fusion, beta)
        if staircase and not y_levels:
            raise ValueError(
                f"staircase: the known loads are not at most than {MOST_LEVELS} different ones, each in at least "
                f"{LEAST_TRIALS} trials and by two people; leave it out, or give y_levels"
            )
        if not 0 <= reference < n_channels:
            raise ValueError(f"reference: {reference}; channels are numbered 0 to {n_channels - 1}")
        steps = (small if staircase is None else staircase) and len(y_levels) > 1
        levels = [(level - y_loc) / y_scale for level in y_levels] if steps else []
        self.target_levels = {"y": tuple(y_levels)} if steps else {}
        self.recon_weight = 1.0 / (n_steps * n_channels) if recon_weight is None else recon_weight
        self.encoder_sizes: dict[str, Any] = {
            "n_channels": n_channels, "channels": tuple(channels), "d_model": d_model, "kernel": kernel, "pool": pool,
            "heads": heads, "segments": segments, "fusion": fusion, "residual": attention_residual, "noise": noise,
            "reference": reference, "crop": crop,
        }  # fmt: skip
        use_aux = fusion != "none"
        self.aux = Stream(n_channels, tuple(channels), d_model, kernel, pool) if use_aux else None
        self.decoder = Decoder(z_dim, n_channels, n_steps, tuple(channels), d_model, kernel, pool, use_aux)
        self.x_log_sd = nn.Parameter(torch.zeros(n_channels)) if x_likelihood == "normal" else None
        if self.joint and z_prior != "style":
            self.classifier = head(z_dim, n_styles, width)
        learned = y_likelihood not in FIXED_SCALES
        self.load_head = LoadHead(z_dim, n_styles if self.joint else 0, width, floor, learned, levels)
        if z_prior == "aux":
            self.aux_prior = head(d_model, 2 * z_dim, width)
        if z_prior == "style":
            self.style_logits = nn.Parameter(torch.zeros(n_styles))
            self.style_loc = nn.Parameter(0.1 * torch.randn(n_styles, z_dim))
            self.style_log_sd = nn.Parameter(torch.zeros(n_styles, z_dim))
            # The KL term depends on the style, which is summed out: all its terms must have one scale.
            self.fit_defaults = {**self.fit_defaults, "anneal": None}
        self.set_priors(priors)

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Constructor arguments for `data`, see `GaitModel.sizes_from`; with the loads of training, if they recur.

        The reference channel is the one that changes most without a load: in deg/s, of a foot or shank.
        """
        sizes = super().sizes_from(data)
        moving = data["x_aux"].double().var(1).mean(0)
        return {**sizes, "y_levels": levels_of(data), "reference": int(moving.argmax())}

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

    # ---------------------------------------------------------------- beside the networks
    def process_features(self, data: Batch) -> dict[str, Tensor]:
        """Departures of each walk from the walker's unloaded one, see `nets.departures`; none with fusion "none"."""
        if self.aux is None:
            return {}
        x, x_aux = data["x"].double(), data["x_aux"].double()
        return departures(x, x_aux, data["participant"], self.encoder_sizes["reference"])

    # ---------------------------------------------------------------- likelihoods
    def reconstruct(self, z: Tensor, h_aux: Tensor | None, units: tuple[Tensor, Tensor]) -> dist.Distribution:
        """p(x | x_aux, z) in the units of the data, given z (..., B, K) and features h_aux (B, T0', D) (eq. 3, 6).

        `units` are those of the trials, see `GaitModel.units`.
        """
        mean = self.decoder(z, h_aux)
        sd = mean.new_tensor(0.5**0.5) if self.x_log_sd is None else 1e-3 + self.x_log_sd.exp()
        loc, scale = units
        return WalkNormal(torch.addcmul(loc.unsqueeze(-2), scale.unsqueeze(-2), mean), scale * sd)

    def forward(
        self, x: Tensor, x_aux: Tensor, participant: Tensor, sizes: Mapping[str, int], y: Tensor | None = None,
        y_labelled: Tensor | None = None, style: Tensor | None = None, style_labelled: Tensor | None = None,
        row: Tensor | None = None, targets_only: bool = False, **_: Any,
    ) -> None:  # fmt: skip
        self.require_shapes(x, x_aux)
        h_aux = None
        if self.aux is not None and (self.z_prior == "aux" or not targets_only):
            h_aux = by_participant(self.aux, self.standardise(x_aux, x_aux), participant)
        with self.plate("row", sizes=sizes, row=row):
            parents: tuple[Tensor | None, ...] = (h_aux,) if self.z_prior == "aux" else ()
            if self.z_prior == "style":
                parents = (self.sample_style(self.style_logits, style, style_labelled),)
            with poutine.scale(scale=self.beta):  # eq. 14
                z = pyro.sample("z", self.prior("z", *parents))  # eq. 2
            if not targets_only:
                with poutine.scale(scale=self.recon_weight):
                    pyro.sample("x", self.reconstruct(z, h_aux, self.units(x_aux, participant)), obs=x)  # eq. 3, 6
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

    def elbo(self, particles: int = 1) -> ELBO:
        return TraceEnum_ELBO(
            num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=self.max_plate_nesting,
            strict_enumeration_warning=False,
        )  # fmt: skip
