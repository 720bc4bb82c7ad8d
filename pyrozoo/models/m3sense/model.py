"""The paper's model as explicit Pyro, and the variants in which its latents take part in the prediction."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from ...data.batch import Batch
from ...inference.settings import AdamW
from ...modeling.base import ZooModel
from ...posterior.streaming import Window
from .data.batches import features_of, modalities
from .data.live import live_window
from .local_guide import PaperGuide
from .nets import FROZEN, FUSIONS, INPUTS, UNIMODAL, Representation, classifier

RULES = ("balanced", "likeliest")


def n_classes(data: Batch) -> dict[str, int]:
    """Task -> number of its classes, named or not."""
    names = {target.removeprefix("y_"): data.coords.get(f"{target}_class") for target in data.labels}
    return {t: int(data[f"y_{t}"].max()) + 1 if known is None else len(known) for t, known in names.items()}


def class_shares(data: Batch) -> dict[str, tuple[float, ...]]:
    """Task -> share of each of its classes among the windows whose label is known; tasks without any are left out."""
    out = {}
    for task, n in n_classes(data).items():
        seen = data[f"y_{task}"].cpu().numpy()[data.observed(f"y_{task}")]
        if len(seen):
            out[task] = tuple((np.bincount(seen, minlength=n) / len(seen)).tolist())
    return out


def by_rule(rule: str, probabilities: np.ndarray, shares: Sequence[float] | None) -> np.ndarray:
    """Choose a class of every row, positions (N,) from probabilities (N, C), by a rule of `AffectModel`."""
    if rule == "likeliest" or shares is None:
        return probabilities.argmax(1)
    present = np.array(shares) > 0  # a class that training lacks is never chosen
    return np.where(present, probabilities / np.where(present, shares, 1.0), -1.0).argmax(1)


class AffectModel(ZooModel):
    """Base of all variants: modalities, tasks, and the shared encoder, which runs once per step.

    Shapes: a signal of each modality (B, samples), or (B, samples, channels) where it has several channels; its
    handcrafted features ``<modality>_features`` (B, J), see `with_features`; ``y_<task>`` (B,) with a mask of the
    windows where it is known; window (B,); h (T, B, F), the representation X_T of every task, from `encode`.

    Args:
        modalities: Names of the K modalities, which are tensors of the batch.
        tasks: Task -> number of classes.
        unimodal: "last", "sum", "keyless" or "self", see `nets.UnimodalEncoder`.
        fusion: "sum", "concat", "keyless", "hamlet", "cam" or "cam-projected", see `nets.Fusion`.
        segment: Samples per segment (the paper: 5, without a unit).
        embedding: Width E of the embeddings (the paper: 128).
        lstm_layers: Number of layers of each LSTM.
        hidden: Widths of the two layers after fusion; the last is F.
        head: Hidden units of the task learning networks.
        dropout, lstm_dropout: Dropout probabilities of the encoders and heads, and between LSTM layers.
        frozen: Part that is not trained, see `transfer`: "none"; "encoders", the unimodal ones; "representation", all
            up to X_T. Its weights take no gradient, and its batch norm and dropout stay as in evaluation.
        signal_loc, signal_scale: Location and scale of each modality: networks see (signal - loc) / scale.
        channels: Modality -> number of its channels, of those with several, such as three axes of acceleration.
        inputs: What the networks read of every modality: "signals", its handcrafted "features", or "both", each as a
            modality of its own. By default the features where the data have them (`with_features`).
        features: Modality -> number of its handcrafted features.
        rule: How a label follows from the probabilities: "balanced", the class with the largest ratio of probability to
            its share among the labels of training, which is the rule for balanced accuracy; or "likeliest".
        shares: Task -> share of each class among the labels of training; equal ones where it is not given.

    Raises:
        ValueError: An argument out of its range or choices; a signal shorter than a segment.
    """

    rows = "window"
    plate_dims = {"window": -1}
    open_groups = ("subject",)
    at_least = ("tasks",)
    fit_defaults: Mapping[str, Any] = {
        "epochs": 40, "batch_size": 64, "lr": 1e-3, "schedule": "cosine", "clip": 10.0,
        "optimizer": functools.partial(AdamW, weight_decay=1e-2, fused=True),
    }  # fmt: skip

    def __init__(
        self, modalities: tuple[str, ...], tasks: Mapping[str, int], unimodal: str, fusion: str, segment: int,
        embedding: int, lstm_layers: int, hidden: tuple[int, int], head: int, dropout: float, lstm_dropout: float,
        frozen: str, signal_loc: Mapping[str, float] | None, signal_scale: Mapping[str, float] | None,
        channels: Mapping[str, int] | None = None, inputs: str = "signals", features: Mapping[str, int] | None = None,
        rule: str = "balanced", shares: Mapping[str, Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen = (
            ("unimodal", unimodal, UNIMODAL), ("fusion", fusion, FUSIONS), ("frozen", frozen, FROZEN),
            ("inputs", inputs, INPUTS), ("rule", rule, RULES),
        )  # fmt: skip
        for name, value, choices in chosen:
            if value not in choices:
                raise ValueError(f"{name}: {value!r} is none of {list(choices)}")
        if not modalities or not tasks:
            raise ValueError("modalities, tasks: at least one of each is needed")
        if segment < 3:
            raise ValueError(f"segment: {segment}; at least the 3 samples that the convolution sees are needed")
        single = [task for task, n in tasks.items() if n < 2]
        if single:
            raise ValueError(f"tasks: {single[0]!r} has one class, so there is nothing to tell apart; leave it out")
        self.modalities, self.tasks = tuple(modalities), dict(tasks)
        self.inputs, self.rule, self.shares = inputs, rule, dict(shares or {})
        if inputs == "features":  # as many steps for any number of windows, see tuning/stress.json
            kept = {name: value for name, value in type(self).fit_defaults.items() if name != "epochs"}
            self.fit_defaults = {**kept, "steps": 300, "lr": 3e-3}
        lacking = [modality for modality in self.modalities if modality not in (features or {})]
        if inputs != "signals" and lacking:
            raise ValueError(
                f"inputs: {inputs!r}, but {lacking[0]} has no handcrafted features; add them to the data by "
                "pyrozoo.models.m3sense.with_features"
            )
        self.features = {f"{m}_features": (features or {})[m] for m in self.modalities} if inputs != "signals" else {}
        self.channels = {modality: (channels or {}).get(modality, 1) for modality in self.modalities}
        self.segment, self.embedding, self.head_width = segment, embedding, head
        first, last = hidden
        self.out_dim = last
        self.representation = Representation(
            () if inputs == "features" else self.modalities, len(tasks), segment, embedding, lstm_layers, unimodal,
            fusion, (first, last), dropout, lstm_dropout, frozen, self.channels, self.features,
        )  # fmt: skip
        loc = [(signal_loc or {}).get(modality, 0.0) for modality in self.modalities]
        scale = [(signal_scale or {}).get(modality, 1.0) for modality in self.modalities]
        self.set_standardisation("signal", loc, scale, len(loc))
        self.targets = tuple(f"y_{task}" for task in tasks)

    @classmethod
    def sizes_from(cls, data: Batch) -> dict[str, Any]:
        """Modalities, tasks with their classes, and the standardisation of every modality.

        Raises:
            ValueError: A modality never changes; the data have no modality or no task.
        """
        names = modalities(data)
        loc, scale = {}, {}
        for name in names:
            signal = data[name].double()
            loc[name], scale[name] = float(signal.mean()), float(signal.std())
            if not scale[name] > 1e-9 * max(1e-9, abs(loc[name])):
                raise ValueError(f"{name}: it never changes; leave the modality out")
        found = {
            "modalities": tuple(names), "tasks": n_classes(data), "signal_loc": loc, "signal_scale": scale,
            "shares": class_shares(data),
        }  # fmt: skip
        several = {name: data[name].shape[2] for name in names if data[name].dim() == 3}
        found |= {"channels": several} if several else {}
        features = features_of(data)
        return found | {"inputs": "features", "features": features} if features else found

    def check(self, data: Batch) -> None:
        if data.n_rows < 2 and self.representation.frozen != "representation":
            raise ValueError("window: a data set of one window has no batch statistics; give at least two windows")
        self._require_signals(data)

    def _require_signals(self, batch: Mapping[str, Any]) -> None:
        for name in self.modalities:
            if name not in batch:
                raise ValueError(f"{name}: the data lack this modality; make a model of those that are there")
            shape = batch[name].shape[2:]
            if (shape[0] if shape else 1) != self.channels[name]:
                raise ValueError(
                    f"{name}: windows of shape {tuple(batch[name].shape[1:])}; the model reads "
                    f"{self.channels[name]} channel(s); give windows (N, samples, channels) with as many"
                )
            if batch[name].shape[1] < self.segment:
                raise ValueError(
                    f"{name}: windows of {batch[name].shape[1]} samples are shorter than a segment of {self.segment}"
                )
        for name, n in self.features.items():
            if name not in batch or batch[name].shape[1] != n:
                found = f"{batch[name].shape[1]} numbers of each window" if name in batch else "none"
                raise ValueError(
                    f"{name}: the model reads {n} handcrafted features, the data have {found}; add those of the same "
                    "signals, at the rates of training, by pyrozoo.models.m3sense.with_features"
                )
        if len(batch[self.modalities[0]]) < 2 and self.representation.training:
            raise ValueError(
                "window: a minibatch of one window has no batch statistics (batch norm); choose a batch_size that does "
                "not leave one window over"
            )

    def encode(self, **batch: Any) -> Tensor:
        """Compute X_T of every task, (T, B, F): the representation that model and guide share (eq. 1)."""
        self._require_signals(batch)
        signals = {
            name: (batch[name] - self.signal_loc[i]) / self.signal_scale[i] for i, name in enumerate(self.modalities)
        }
        return self.representation({**signals, **{name: batch[name] for name in self.features}})

    def window(self, data: Batch, *, person: Batch | None = None, step: float | None = None) -> Window:
        """How the newest samples of a wristband become a window, for `pyrozoo.stream`; see `live_window`.

        Args:
            data: A batch in the layout of the fit.
            person: Windows of the person who is recorded, not standardised, whose means and standard deviations count.
            step: Seconds between windows; None for windows that follow one another.

        Raises:
            ValueError: The person's windows are missing or differ from those of the fit; `step` is not possible.
        """
        return live_window(data, self.modalities, person, step)

    def process_features(self, data: Batch) -> dict[str, Tensor]:
        """Handcrafted features by modality, (N, J) each; none where the networks read signals alone."""
        return {name: data[name] for name in self.features}

    def decide(self, target: str, probabilities: np.ndarray) -> np.ndarray:
        """Choose a class of every window by `rule`, positions (N,) from probabilities (N, C)."""
        return by_rule(self.rule, probabilities, self.shares.get(target.removeprefix("y_")))

    def known(self, task: str, batch: Mapping[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) of a task, and a mask (B,) of those that are known; without the task, zeros and no known one."""
        y = batch.get(f"y_{task}")
        if y is None:
            y = torch.zeros(like.shape[1], dtype=torch.long, device=like.device)
            return y, torch.zeros_like(y, dtype=torch.bool)
        mask = batch.get(f"y_{task}_labelled")
        return y, torch.ones_like(y, dtype=torch.bool) if mask is None else mask

    def observe(self, task: str, logits: Tensor, batch: Mapping[str, Any], h: Tensor) -> None:
        """Sample the site ``y_<task>``, masked to the windows whose label is known (eq. 14; its loss is eq. 15)."""
        y, known = self.known(task, batch, h)
        with poutine.mask(mask=known):
            pyro.sample(f"y_{task}", dist.Categorical(logits=logits), obs=y)  # eq. 14, 15


class LatentModel(AffectModel):
    """Base of the variants with a latent a_T per task: its prior, its weight, an ELBO with an analytic KL.

    Args:
        a_dim: Dimension A of a task's latent (the paper does not say).
        q_hidden: Hidden units of the networks of q(a_T | X_T).
        gamma: Weight of the alignment term KL[q(a_T | X_T) || p(a_T)] (eq. 16); by default 0.3, as in the paper, in
            "latent" 0.03.
        priors: ``{"a_<task>": distribution}`` in place of the standard normal.
    """

    def _latents(self, a_dim: int, q_hidden: int, gamma: float) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma: {gamma}; a positive weight is needed (variant 'unaligned' has no alignment)")
        self.a_dim, self.q_hidden, self.gamma = a_dim, q_hidden, gamma
        self.row_sites = tuple(f"a_{task}" for task in self.tasks)
        self.dims = {f"a_{task}": ("latent",) for task in self.tasks}

    def priors(self) -> dict[str, Any]:
        return {f"a_{task}": dist.Normal(self.signal_loc.new_zeros(self.a_dim), 1.0).to_event(1) for task in self.tasks}

    def elbo(self, particles: int = 1) -> ELBO:
        """TraceMeanField_ELBO, whose analytic KL (eq. 13) is exact: the prior of a_T depends on no other latent."""
        return TraceMeanField_ELBO(
            num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=self.max_plate_nesting
        )

    def local_guide(self) -> nn.Module:
        return PaperGuide(self)


AFFECT_SIZES = (
    "modalities", "tasks", "unimodal", "fusion", "segment", "embedding", "lstm_layers", "hidden", "head", "dropout",
    "lstm_dropout", "frozen", "signal_loc", "signal_scale", "channels", "inputs", "features", "rule", "shares",
)  # fmt: skip


class M3Sense(LatentModel):
    """The paper's model: labels from the representation, and a latent per task that is pulled to its prior.

    For windows n, of whatever data set, and tasks T::

        a_nT ~ N(0_A, I_A), its log density times gamma                                          (eq. 13)
        y_nT ~ Categorical(F_T(X_T(x_n))), seen on the windows of the task's own data set        (eq. 14)

    With q(a_T | X_T) from the guide (eq. 12) the objective is the paper's, the sum over windows of CE + gamma KL
    (eq. 13, 15, 16). Nothing reads a_T: its posterior can become its prior without any cost, and in measurements it
    does, so that the term soon neither aligns nor learns from unlabelled windows. It stays active in the variants
    "latent" and "generative".

    Reference: "M3Sense: Affect-Agnostic Multitask Representation Learning Using Multimodal Wearable Sensors",
    equations 1 to 16; arguments of `AffectModel` and `LatentModel`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate_all
        >>> windows = simulate_all(n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8, "a_dim": 2, "q_hidden": 8}
        >>> model = zoo.create_model("m3sense", windows, variant="m3sense", **sizes)
        >>> model.tasks
        {'anxiety': 2, 'emotion': 2, 'stress': 3}
        >>> fit = zoo.fit(model, "paper", windows, steps=5, progress=False)
        >>> zoo.predict(fit, windows, draws=10).columns[:3].tolist()
        ['y_anxiety.label', 'y_anxiety.p[low]', 'y_anxiety.p[high]']
    """

    default_gamma = 0.3
    targets_read_latents = False

    def __init__(
        self, modalities: tuple[str, ...], tasks: Mapping[str, int], unimodal: str = "keyless", fusion: str = "cam",
        segment: int = 5, embedding: int = 32, lstm_layers: int = 2, hidden: tuple[int, int] = (64, 64), head: int = 64,
        dropout: float = 0.3, lstm_dropout: float = 0.1, frozen: str = "none", a_dim: int = 16, q_hidden: int = 64,
        gamma: float | None = None, signal_loc: Mapping[str, float] | None = None,
        signal_scale: Mapping[str, float] | None = None, priors: Mapping[str, Any] | None = None,
        channels: Mapping[str, int] | None = None, inputs: str = "signals", features: Mapping[str, int] | None = None,
        rule: str = "balanced", shares: Mapping[str, Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        given = locals()
        super().__init__(*(given[name] for name in AFFECT_SIZES))
        self._latents(a_dim, q_hidden, self.default_gamma if gamma is None else gamma)
        self._networks()
        self.set_priors(priors)

    def _networks(self) -> None:
        self.classifiers = nn.ModuleList(classifier(self.out_dim, self.head_width, n) for n in self.tasks.values())

    def forward(
        self, sizes: Mapping[str, int], window: Tensor | None = None, h: Tensor | None = None, **batch: Any
    ) -> None:
        h = self.encode(**batch) if h is None else h
        with self.plate("window", sizes=sizes, window=window):
            for i, task in enumerate(self.tasks):
                with poutine.scale(scale=self.gamma):
                    a = pyro.sample(f"a_{task}", self.prior(f"a_{task}"))  # eq. 13: p(beta), the prior
                self.observe(task, self.logits(i, h, a), batch, h)  # eq. 14

    def logits(self, i: int, h: Tensor, a: Tensor) -> Tensor:
        """Logits of task i, (..., B, C), from its representation h[i] (eq. 14)."""
        return self.classifiers[i](h[i])


class LatentM3Sense(M3Sense):
    """`M3Sense` with labels from the latent: y_T ~ Categorical(F_T(a_T)), a variational information bottleneck.

    a_T carries the information that the label needs and no more, at the price gamma per nat: the alignment stays
    active. The price is paid on every window for every task, also where another task or none is labelled: with the
    paper's 0.3 a_T keeps little information on a weak label, so the default is a tenth of it. Arguments of
    `AffectModel` and `LatentModel`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate, standardise
        >>> fit = zoo.load_reference("m3sense/simulated")  # of this variant, on signals standardised by person
        >>> type(fit.model).__name__
        'LatentM3Sense'
        >>> new = simulate("simulated stress", seed=1, n_subjects=1, n_windows=6, rates={"bvp": 8})
        >>> zoo.predict(fit, standardise(new), draws=20).filter(like="y_stress.p").columns.tolist()
        ['y_stress.p[baseline]', 'y_stress.p[stress]', 'y_stress.p[amusement]']
    """

    default_gamma = 0.03
    targets_read_latents = True

    def _networks(self) -> None:
        self.classifiers = nn.ModuleList(classifier(self.a_dim, 0, n) for n in self.tasks.values())

    def logits(self, i: int, h: Tensor, a: Tensor) -> Tensor:
        return self.classifiers[i](a)


class Unaligned(AffectModel):
    """The paper's networks without alignment: y_T ~ Categorical(F_T(X_T)) (eq. 14); also for one task alone.

    Arguments of `AffectModel`.

    Example:
        >>> import pyrozoo as zoo
        >>> from pyrozoo.models.m3sense import simulate
        >>> windows = simulate("simulated stress", n_subjects=2, n_windows=6, seconds=5.0, rates={"bvp": 16})
        >>> sizes = {"embedding": 8, "lstm_layers": 1, "hidden": (8, 8), "head": 8}
        >>> model = zoo.create_model("m3sense", windows, variant="unaligned", tasks={"stress": 3}, **sizes)
        >>> fit = zoo.fit(model, "none", windows, steps=20, progress=False)
        >>> zoo.predict(fit, windows).shape  # the label, and the probability of each of three classes
        (12, 4)
    """

    targets_read_latents = False

    def __init__(
        self, modalities: tuple[str, ...], tasks: Mapping[str, int], unimodal: str = "keyless", fusion: str = "cam",
        segment: int = 5, embedding: int = 32, lstm_layers: int = 2, hidden: tuple[int, int] = (64, 64), head: int = 64,
        dropout: float = 0.3, lstm_dropout: float = 0.1, frozen: str = "none",
        signal_loc: Mapping[str, float] | None = None, signal_scale: Mapping[str, float] | None = None,
        priors: Mapping[str, Any] | None = None,
        channels: Mapping[str, int] | None = None, inputs: str = "signals", features: Mapping[str, int] | None = None,
        rule: str = "balanced", shares: Mapping[str, Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        given = locals()
        super().__init__(*(given[name] for name in AFFECT_SIZES))
        self.classifiers = nn.ModuleList(classifier(self.out_dim, head, n) for n in self.tasks.values())
        self.set_priors(priors)

    def forward(
        self, sizes: Mapping[str, int], window: Tensor | None = None, h: Tensor | None = None, **batch: Any
    ) -> None:
        h = self.encode(**batch) if h is None else h
        with self.plate("window", sizes=sizes, window=window):
            for i, task in enumerate(self.tasks):
                self.observe(task, self.classifiers[i](h[i]), batch, h)
