"""The networks of the paper: plain torch, no Pyro.

Letters in shapes: B trials, P participants among them, T steps of a loaded walk, T0 of an unloaded one, S channels,
T' and T0' steps after pooling, D model dimension, K latent dimension, L carrying styles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPARISONS = ("departure", "learned-departure")  # q(z) reads only how a walk departs from the walker's unloaded one
FUSIONS = ("none", "concat", "cross", *COMPARISONS)
RESIDUALS = ("none", "difference")


def receptive_field(kernel: int, depth: int) -> int:
    """Number of steps on which one output of `depth` dilated convolutions depends, dilation 2^(u-1) (section 3.3.1)."""
    return 1 + (kernel - 1) * (2**depth - 1)


class CausalBlock(nn.Module):
    """Dilated causal convolution, GELU, batch norm (section 3.3.1): (B, C_in, T) -> (B, C_out, T)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, dilation=dilation)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.gelu(self.conv(functional.pad(x, (self.padding, 0)))))


class TransposedBlock(nn.Module):
    """Transposed dilated causal convolution, GELU, batch norm: (B, C_in, T) -> (B, C_out, T)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.surplus = (kernel - 1) * dilation
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel, dilation=dilation)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.norm(functional.gelu(out[..., : out.shape[-1] - self.surplus]))


class Stream(nn.Module):
    """Features of a walk by dilated causal blocks, pointwise projection and max-pooling: (B, T, S) -> (B, T', D)."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], d_model: int, kernel: int, pool: int) -> None:
        super().__init__()
        sizes = (in_channels, *channels)
        self.blocks = nn.Sequential(*(CausalBlock(sizes[u], sizes[u + 1], kernel, 2**u) for u in range(len(channels))))
        self.project = nn.Conv1d(sizes[-1], d_model, 1)
        self.pool = nn.MaxPool1d(pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.project(self.blocks(x.mT))).mT


def by_participant(function: Callable[[Tensor], Tensor], x_aux: Tensor, participant: Tensor) -> Tensor:
    """Apply a network once to the unloaded walk of each participant in the batch, and return the result per trial.

    Args:
        function: Network or function that maps walks (P, T0, S) to (P, ...).
        x_aux: Unloaded walks of all participants, (M, T0, S).
        participant: Index of each trial's participant, (B,).

    Returns:
        Results of the trials, (B, ...).
    """
    present, index = torch.unique(participant, return_inverse=True)
    return function(x_aux[present])[index]


class CrossAttention(nn.Module):
    """Bidirectional multi-head cross-attention (section 3.3.2): (B, T', D), (B, T0', D) -> the same shapes.

    ``H~ = concat_p softmax(H W_Q (H_aux W_K)^T / sqrt(d_k)) H_aux W_V  W_O``, and H~_aux in the other direction, with
    separate weights; d_k = d_v = D / heads. With residual "difference", which is not in the paper, the result is
    LayerNorm(H - H~): how a walk differs from what attention finds in the other one.
    """

    def __init__(self, d_model: int, heads: int, residual: str) -> None:
        super().__init__()
        self.residual = residual
        self.to_aux = nn.MultiheadAttention(d_model, heads, bias=False, batch_first=True)
        self.to_loaded = nn.MultiheadAttention(d_model, heads, bias=False, batch_first=True)
        if residual == "difference":
            self.norm, self.norm_aux = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, h: Tensor, h_aux: Tensor) -> tuple[Tensor, Tensor]:
        attended, _ = self.to_aux(h, h_aux, h_aux, need_weights=False)
        attended_aux, _ = self.to_loaded(h_aux, h, h, need_weights=False)
        if self.residual == "difference":
            return self.norm(h - attended), self.norm_aux(h_aux - attended_aux)
        return attended, attended_aux


def summaries(walk: Tensor) -> Tensor:
    """Mean, log standard deviation and log mean absolute step of every channel: (..., T, S) -> (..., 3 S)."""
    mean, step = walk.mean(-2), walk.diff(dim=-2).abs().mean(-2)
    spread = (walk - mean.unsqueeze(-2)).square().mean(-2).sqrt()
    return torch.cat([mean, *(part.clamp(min=1e-6).log() for part in (spread, step))], -1)


def gait_phase(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the gait phase at every step, from one channel of walks: (B, T) -> (B, T) each.

    The stride frequency of a walk is where the channel's spectrum is largest, from three strides per walk on; the phase
    is that of the channel between half of that frequency and one and a half of it (its analytic signal).
    """
    steps = signal.shape[-1]
    time, bins = (torch.arange(n, dtype=signal.dtype, device=signal.device) for n in (steps, steps // 2 + 1))
    angle = 2 * torch.pi / steps * time[:, None] * bins
    cos, sin = angle.cos(), angle.sin()
    centred = signal - signal.mean(-1, keepdim=True)
    window = torch.hann_window(steps, dtype=signal.dtype, device=signal.device)
    power = ((centred * window) @ cos).square() + ((centred * window) @ sin).square()
    slowest = min(3, steps // 4)
    stride = slowest + power[:, slowest : max(slowest + 1, steps // 4)].argmax(-1, keepdim=True)
    near = (2 * bins > stride) & (2 * bins < 3 * stride)
    real, imag = (centred @ cos) * near, -(centred @ sin) * near
    real, imag = real @ cos.mT - imag @ sin.mT, real @ sin.mT + imag @ cos.mT
    size = (real.square() + imag.square()).clamp(min=1e-12).sqrt()
    return real / size, imag / size


def cycle(walk: Tensor, reference: int) -> Tensor:
    """First two harmonics of the average gait cycle of every channel: (B, T, S) -> (2, B, 2, S), real and imaginary.

    The cycle runs along `gait_phase` of the reference channel, so that neither the pace nor its changes count.
    """
    cos, sin = gait_phase(walk[..., reference])
    waves = torch.stack([cos, cos.square() - sin.square(), -sin, -2 * sin * cos], -2)
    found = waves @ (walk - walk.mean(-2, keepdim=True)) * (2 / walk.shape[-2])
    return torch.stack(found.chunk(2, -2))


def departures(x: Tensor, x_aux: Tensor, participant: Tensor, reference: int) -> dict[str, Tensor]:
    """How walks x (B, T, S) depart from the unloaded ones x_aux (M, T0, S) of their participants, by kind.

    Of every channel: the differences of its `summaries` ("mean", "spread", "step", (B, S) each); that of its mean in
    units of the walker's own standard deviation ("own mean"), and of its standard deviation itself ("sd"); and the
    cosine and sine of how far its first two harmonics are turned in the gait cycle ("turned", (B, 4 S)), less where a
    harmonic is smaller than a tenth of the channel's standard deviation without a load.
    """

    def described(walk: Tensor) -> Tensor:
        return torch.cat([summaries(walk), *(part.flatten(1) for part in cycle(walk, reference))], -1)

    n = x.shape[-1]
    own, loaded = by_participant(described, x_aux, participant), described(x)
    mean, spread, step = (loaded[:, : 3 * n] - own[:, : 3 * n]).chunk(3, -1)
    sd, sd_own = (part[:, n : 2 * n].exp() for part in (loaded, own))
    (real, imag), (real_own, imag_own) = (part[:, 3 * n :].chunk(2, -1) for part in (loaded, own))
    floor = (0.1 * sd_own).square().repeat(1, 2)
    size, size_own = real.square() + imag.square() + floor, real_own.square() + imag_own.square() + floor
    cos, sin = real * real_own + imag * imag_own, imag * real_own - real * imag_own
    turned = torch.cat([cos, sin], -1) / (size * size_own).sqrt().repeat(1, 2)
    return {
        "mean": mean, "spread": spread, "step": step, "own mean": mean / (sd_own.square() + 0.01).sqrt(),
        "sd": sd - sd_own, "turned": turned,
    }  # fmt: skip


class Departure(nn.Module):
    """How a walk departs from the walker's unloaded one, (B, 9 S), see `departures`; not in the paper.

    The departures are standardised over the training trials, by batch norm without parameters of its own, and cut at
    five standard deviations. In training, noise is added to them: it restrains what is learned from N trials as a ridge
    penalty of N noise^2 does.

    Args:
        n_channels: S, number of sensor channels.
        noise: Standard deviation of the noise.
        reference: Index of the channel that tells the gait phase.
    """

    per_channel = 9

    def __init__(self, n_channels: int, noise: float, reference: int = 0) -> None:
        super().__init__()
        self.noise, self.reference = noise, reference
        self.norm = nn.BatchNorm1d(self.per_channel * n_channels, affine=False)

    def compared(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> Tensor:
        """Departures of walks before they are standardised: x (B, T, S), x_aux (M, T0, S) -> (B, per_channel S)."""
        return torch.cat(list(departures(x, x_aux, participant, self.reference).values()), -1)

    def forward(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> Tensor:
        """Departures of walks x (B, T, S) from the unloaded ones x_aux (M, T0, S) of their participants: (B, 9 S)."""
        out = self.norm(self.compared(x, x_aux, participant)).clamp(-5.0, 5.0)
        return out + self.noise * torch.randn_like(out) if self.training and self.noise else out


class CycleEncoder(nn.Module):
    """Features of walks from their average gait cycle, by curves and filters that all channels share; not in the paper.

    The average cycle, P = 32 points in phase, follows `gait_phase` of the reference channel: each point is a mean of
    the steps near its phase. The features of a channel are the products of its cycle with learned curves, at first
    its mean and two harmonics; the log mean square of what is left of its cycle, less the mean, by learned filters
    (circular convolutions, at first random); and the log mean square deviation of its steps from the cycle.

    In training the cycle is that of a random stretch of each walk, of a share between `crop` and 1, so that a walk has
    many average cycles. A shift of the walk is part of this; one along the cycle is not, as the alignment undoes it.

    Args:
        reference: Index of the channel that tells the gait phase.
        crop: Smallest share of a walk that is read in training; 1 for whole walks.
    """

    points, n_curves, n_filters, kernel = 32, 5, 6, 7
    per_channel = n_curves + n_filters + 1
    sharpness = 20.0  # of the weights of the steps around a phase, which have a standard deviation of 0.22 rad
    waves: Tensor
    phases: Tensor
    least = 1e-3  # mean square, in units of the walker's own variance, below which a log does not follow

    def __init__(self, reference: int, crop: float) -> None:
        super().__init__()
        self.reference, self.crop = reference, crop
        phase = torch.arange(self.points) * (2 * torch.pi / self.points)
        angle = torch.arange(1, self.points // 2)[:, None] * phase
        # Cosine and sine of every harmonic; the squares of a cycle's products with them sum to its mean square.
        waves = (2**0.5 / self.points) * torch.stack([angle.cos(), angle.sin()], 1).flatten(0, 1)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("phases", torch.stack([phase.cos(), phase.sin()], -1), persistent=False)
        mean = torch.full((1, self.points), 1 / self.points)
        self.curves = nn.Parameter(torch.cat([mean, waves])[: self.n_curves])
        self.filters = nn.Parameter(torch.randn(self.n_filters, self.kernel) / self.kernel**0.5)

    def stretch(self, walk: Tensor) -> Tensor:
        """Which steps of walks (B, T, S) are read: all, or in training a random stretch of each, (B, T)."""
        n, steps = walk.shape[:2]
        length = self.crop + (1 - self.crop) * torch.rand(n, 1).to(walk) if self.training else walk.new_ones(n, 1)
        start = (1 - length) * torch.rand(n, 1).to(walk) if self.training else walk.new_zeros(n, 1)
        place = (torch.arange(steps).to(walk) + 0.5) / steps
        return (place > start) & (place < start + length)

    def forward(self, walk: Tensor) -> Tensor:
        """Features of walks (B, T, S): (B, 12 S)."""
        near = self.phases @ torch.stack(gait_phase(walk[..., self.reference]), -2)  # cosines of distances, (B, P, T)
        weights = (self.sharpness * near).masked_fill(~self.stretch(walk)[:, None], -torch.inf).softmax(-1)
        cycle = weights @ walk
        deviation = (weights @ walk.square() - cycle.square()).mean(1).clamp(min=0.0)

        def power(of: Tensor) -> Tensor:
            return of.square().unflatten(-2, (-1, 2)).sum(-2)

        gain = self.points**2 / 2 * power(self.waves[:, : self.kernel] @ self.filters.mT)  # (harmonics, filters)
        left = gain.mT @ power(self.waves @ cycle)  # mean squares after the filters, by Parseval's theorem
        logs = (torch.cat([left, deviation[:, None]], 1) + self.least).log()
        return torch.cat([self.curves @ cycle, logs], 1).flatten(1)


class LearnedDeparture(Departure):
    """How the features that are learned of a walk depart from those of the walker's unloaded one; not in the paper.

    Both walks are seen in the walker's own units, less the mean of the unloaded walk and over its standard deviation
    (with a floor of 0.1), by one `CycleEncoder`; what is read is the difference of their features, (B, 12 S),
    standardised, cut and with noise in training as in `Departure`. No summary is given.

    Args:
        n_channels, noise, reference: As for `Departure`.
        crop: Smallest share of a walk that is read in training, see `CycleEncoder`.
    """

    per_channel = CycleEncoder.per_channel

    def __init__(self, n_channels: int, noise: float, reference: int = 0, crop: float = 0.5) -> None:
        super().__init__(n_channels, noise, reference)
        self.encoder = CycleEncoder(reference, crop)

    def compared(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> Tensor:
        loc, scale = x_aux.mean(-2, keepdim=True), (x_aux.var(-2, unbiased=False, keepdim=True) + 0.01).sqrt()
        own = by_participant(self.encoder, (x_aux - loc) / scale, participant)
        return self.encoder((x - loc[participant]) / scale[participant]) - own


class Encoder(nn.Module):
    """Features of a loaded walk beside the walker's unloaded one, from which q(z | X, X_aux) is read (eq. 9, 10).

    The fused sequence is averaged within `segments` equal parts of each walk and flattened; the paper does not say how
    (T' + T0') x D becomes a vector.

    Args:
        n_channels: S, number of sensor channels.
        channels, d_model, kernel, pool: Sizes of each `Stream`: channels of its blocks, D, kernel size, pooling window.
        heads: Number of attention heads.
        segments: Number of parts of each walk.
        fusion: "cross", "concat" (X_aux is concatenated to X as further channels), "none" (X alone); "departure",
            see `Departure`, or "learned-departure", see `LearnedDeparture`, which use none of the sizes.
        residual: "none" or "difference", see `CrossAttention`.
        noise, reference: Noise of both departures, and the channel that tells the gait phase.
        crop: Smallest share of a walk that `LearnedDeparture` reads in training.
    """

    def __init__(
        self, n_channels: int, channels: tuple[int, ...], d_model: int, kernel: int, pool: int, heads: int,
        segments: int, fusion: str, residual: str, noise: float = 0.0, reference: int = 0,
        crop: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fusion = fusion
        if fusion in COMPARISONS:
            learned = fusion == "learned-departure"
            self.departure = (
                LearnedDeparture(n_channels, noise, reference, crop) if learned
                else Departure(n_channels, noise, reference)
            )  # fmt: skip
            self.out_dim = self.departure.per_channel * n_channels
            return
        self.loaded = Stream(n_channels * (2 if fusion == "concat" else 1), channels, d_model, kernel, pool)
        if fusion == "cross":
            self.aux = Stream(n_channels, channels, d_model, kernel, pool)
            self.attention = CrossAttention(d_model, heads, residual)
        self.reduce = nn.AdaptiveAvgPool1d(segments)
        self.out_dim = (2 if fusion == "cross" else 1) * segments * d_model

    def sequences(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features over time before and after fusion: lists of (B, T', D) and, with cross-attention, (B, T0', D)."""
        if self.fusion == "concat":
            x = torch.cat([x, x_aux[participant]], -1)
        before = [self.loaded(x)]
        if self.fusion != "cross":
            return before, before
        before.append(by_participant(self.aux, x_aux, participant))
        return before, list(self.attention(*before))

    def forward(self, x: Tensor, x_aux: Tensor, participant: Tensor) -> Tensor:
        """Encode trials: x (B, T, S), x_aux (M, T0, S), participant (B,) -> (B, out_dim)."""
        if self.fusion in COMPARISONS:
            return self.departure(x, x_aux, participant)
        _, fused = self.sequences(x, x_aux, participant)
        return torch.cat([self.reduce(h.mT).flatten(1) for h in fused], -1)


class Decoder(nn.Module):
    """Mean of the loaded walk given z and features of the unloaded one (eq. 6): the mirror of `Stream`.

    A linear layer maps z to T' steps of D features; the features of the unloaded walk are concatenated as further
    channels; transposed dilated blocks follow, whose output is interpolated to T steps.
    """

    def __init__(
        self, z_dim: int, n_channels: int, n_steps: int, channels: tuple[int, ...], d_model: int, kernel: int,
        pool: int, use_aux: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_steps, self.short, self.d_model = n_steps, n_steps // pool, d_model
        self.expand = nn.Linear(z_dim, d_model * self.short)
        sizes, order = (d_model * (2 if use_aux else 1), *reversed(channels)), range(len(channels) - 1, -1, -1)
        self.blocks = nn.Sequential(
            *(TransposedBlock(sizes[u], sizes[u + 1], kernel, 2**u_back) for u, u_back in enumerate(order))
        )
        self.out = nn.Conv1d(sizes[-1], n_channels, 1)

    def forward(self, z: Tensor, h_aux: Tensor | None) -> Tensor:
        """Decode z (..., B, K) and h_aux (B, T0', D): mean walks (..., B, T, S)."""
        leading = z.shape[:-1]
        h = self.expand(z).reshape(-1, self.d_model, self.short)
        if h_aux is not None:
            aux = functional.adaptive_avg_pool1d(h_aux.mT, self.short)
            h = torch.cat([h, aux.expand(*leading, *aux.shape[1:]).reshape(h.shape)], 1)
        out = functional.interpolate(self.blocks(h), self.n_steps)
        return self.out(out).mT.reshape(*leading, self.n_steps, -1)


def head(in_dim: int, out_dim: int, width: int) -> nn.Sequential:
    """Make a predictor on top of a representation: one hidden layer with GELU, (..., in_dim) -> (..., out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, width), nn.GELU(), nn.Linear(width, out_dim))


class LoadHead(nn.Module):
    """Standardised location and scale of the load, given style and representation (eq. 8).

    The first layer is linear in (one-hot style, z), so that its part in z is computed only once for all styles. Without
    `learn_scale` the scale is 1.

    With `levels` the location is a staircase between them: m becomes ``sum_k w_k level_k``, with w_k proportional to
    N(m; level_k, s_k^2) and learned s_k: sharp steps where m tells the level well, none where it does not.

    Args:
        in_dim: K.
        n_styles: L; 0 without styles.
        width: Number of hidden units.
        floor: Smallest scale.
        learn_scale: Whether the scale is learned.
        levels: Standardised loads of training, in ascending order; none for no staircase.
    """

    def __init__(
        self, in_dim: int, n_styles: int, width: int, floor: float, learn_scale: bool, levels: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.from_z = nn.Linear(in_dim, width)
        self.from_style = nn.Parameter(torch.randn(n_styles, width) / width**0.5) if n_styles else None
        self.out = nn.Linear(width, 2 if learn_scale else 1)
        self.floor = floor
        self.step_raw = nn.Parameter(torch.full((len(levels),), -1.5)) if len(levels) else None
        if len(levels):
            self.register_buffer("levels", torch.tensor(levels))
        with torch.no_grad():
            self.out.weight[1:].zero_()

    def forward(self, z: Tensor, style: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return loc and scale, each of the common shape of style (..., B) and z (..., B, K) without K."""
        hidden = self.from_z(z)
        if self.from_style is not None:
            hidden = hidden + self.from_style[style]
        loc, *raw = self.out(functional.gelu(hidden)).unbind(-1)
        if self.step_raw is not None:
            spread = 0.1 + functional.softplus(self.step_raw)
            near = -0.5 * ((loc.unsqueeze(-1) - self.levels) / spread).square() - spread.log()
            loc = (near.softmax(-1) * self.levels).sum(-1)
        return loc, self.floor + functional.softplus(raw[0] - 1.0) if raw else torch.ones_like(loc)


def fill_style(like: Tensor, style: Tensor | None, labelled: Tensor | None) -> tuple[Tensor, Tensor]:
    """Styles (B,) and a mask (B,) that is True where they are known; B is that of `like`, (..., B, L)."""
    if style is None:
        style = torch.zeros(like.shape[-2], dtype=torch.long, device=like.device)
        return style, torch.zeros_like(style, dtype=torch.bool)
    return style, torch.ones_like(style, dtype=torch.bool) if labelled is None else labelled
