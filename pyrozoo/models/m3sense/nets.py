"""The networks of the paper: plain torch, no Pyro.

Letters in shapes: B windows, K modalities, L segments of a window, E embedding, T tasks, F representation, A latent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

UNIMODAL = ("last", "sum", "keyless", "self")
FUSIONS = ("sum", "concat", "keyless", "hamlet", "cam", "cam-projected")
FROZEN = ("none", "encoders", "representation")
INPUTS = ("signals", "features", "both")
CHANNELS = (64, 32)  # of the co-occurrence convolutions, kernels 1 and 3


class UnimodalEncoder(nn.Module):
    """Features of one modality, (B, samples) or (B, samples, channels) -> (B, E): segments to attention (eq. 2).

    The stages are segments, spatial encoder, LSTM, attention over segments.

    Args:
        segment: Samples per segment; samples in an incomplete last segment are not used.
        embedding: Width E of the features.
        lstm_layers: Number of layers of the LSTM.
        attention: Attention over segments: "last" (the last state), "sum" (of all states), "keyless" (eq. 3 to 5) or
            "self" (as in HAMLET, averaged over segments).
        dropout, lstm_dropout: Dropout probabilities after the embedding, and between LSTM layers.
        channels: Number of channels of the modality, such as the three axes of acceleration.
    """

    def __init__(
        self, segment: int, embedding: int, lstm_layers: int, attention: str, dropout: float, lstm_dropout: float,
        channels: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        first, second = CHANNELS
        self.segment, self.channels = segment, channels
        self.spatial = nn.Sequential(
            nn.Conv1d(channels, first, 1), nn.BatchNorm1d(first), nn.ReLU(),
            nn.Conv1d(first, second, 3), nn.BatchNorm1d(second), nn.ReLU(),
        )  # fmt: skip
        self.embed = nn.Sequential(
            nn.Linear(second * (segment - 2), embedding), nn.BatchNorm1d(embedding), nn.ReLU(), nn.Dropout(dropout)
        )
        self.lstm = nn.LSTM(
            embedding, embedding, lstm_layers, batch_first=True, dropout=lstm_dropout if lstm_layers > 1 else 0.0
        )
        self.kind = attention
        if attention == "keyless":
            self.score = nn.Linear(embedding, 1, bias=False)  # a bias would cancel in the softmax
        if attention == "self":
            self.attend = nn.MultiheadAttention(embedding, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1] // self.segment
        segments = x[:, : n * self.segment].reshape(-1, self.segment, self.channels).mT
        embedded = self.embed(self.spatial(segments).flatten(1)).reshape(x.shape[0], n, -1)
        states, _ = self.lstm(embedded)
        if self.kind == "keyless":
            weights = torch.softmax(self.score(states), 1)  # eq. 4, 5: beta_i = w^T x_i, alpha = softmax(beta)
            return (weights * states).sum(1)  # eq. 3
        if self.kind == "self":
            attended, _ = self.attend(states, states, states, need_weights=False)
            return attended.mean(1)
        return states.sum(1) if self.kind == "sum" else states[:, -1]


class FeatureEncoder(nn.Sequential):
    """Features of one modality from its handcrafted ones, (B, J) -> (B, E): a fully connected layer.

    Args:
        n_features: Number J of handcrafted features.
        embedding: Width E.
        dropout: Dropout probability.
    """

    def __init__(self, n_features: int, embedding: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(n_features, embedding), nn.BatchNorm1d(embedding), nn.ReLU(), nn.Dropout(dropout)
        )  # fmt: skip


class Fusion(nn.Module):
    """Fuse the features of all modalities, (B, K, E), to a vector per task, (T, B, out); T is 1 where tasks share it.

    "cam" is the paper's conditional attention: Q = T_i W^q, K = X^u W^K, V = X^u W^V, X'_T = softmax(Q K^T / sqrt(E)) V
    (eq. 7 to 10; the paper leaves sigma in eq. 10 undefined, here it is softmax); "cam-projected" has X'_T W^f_T in
    its place (eq. 11).

    Args:
        kind: "sum", "concat", "keyless", "hamlet", "cam" or "cam-projected".
        embedding: Width E of the features.
        n_modalities: Number K of modalities.
        n_tasks: Number T of tasks, for "cam" and "cam-projected".
    """

    def __init__(self, kind: str, embedding: int, n_modalities: int, n_tasks: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.BatchNorm1d(n_modalities)
        self.out_dim = embedding * (n_modalities if kind == "concat" else 1)
        if kind == "keyless":
            self.score = nn.Linear(embedding, 1, bias=False)
        if kind == "hamlet":
            self.attend = nn.MultiheadAttention(embedding, 1, batch_first=True)
        if kind.startswith("cam"):
            self.query = nn.Parameter(torch.randn(n_tasks, embedding) / embedding**0.5)  # eq. 7: W^q
            self.key = nn.Linear(embedding, embedding, bias=False)
            self.value = nn.Linear(embedding, embedding, bias=False)
        if kind == "cam-projected":
            self.project = nn.ModuleList(nn.Linear(embedding, embedding, bias=False) for _ in range(n_tasks))

    def forward(self, features: Tensor) -> Tensor:
        features = functional.relu(self.norm(features))
        if self.kind == "concat":
            return features.flatten(1)[None]
        if self.kind == "keyless":
            return (torch.softmax(self.score(features), 1) * features).sum(1)[None]
        if self.kind == "hamlet":
            return self.attend(features, features, features, need_weights=False)[0].sum(1)[None]
        if self.kind.startswith("cam"):
            scores = torch.einsum("te,bke->tbk", self.query, self.key(features)) / features.shape[-1] ** 0.5  # eq. 7, 8
            fused = torch.einsum("tbk,bke->tbe", torch.softmax(scores, -1), self.value(features))  # eq. 9, 10
            if self.kind == "cam":
                return fused
            return torch.stack([project(part) for project, part in zip(self.project, fused, strict=True)])  # eq. 11
        return features.sum(1)[None]


class Representation(nn.Module):
    """All networks up to X_T, {input: (B, samples[, channels]) or (B, J)} -> (T, B, F) (eq. 1); tasks share encoders.

    Args:
        modalities: Names of the modalities whose signals are inputs.
        n_tasks: Number T of tasks.
        segment, embedding, lstm_layers, unimodal, dropout, lstm_dropout: Arguments of every `UnimodalEncoder`.
        fusion: Kind of `Fusion`.
        hidden: Widths of the two fully connected layers after fusion; the last is F.
        frozen: Part that takes no gradient and stays in evaluation mode, whatever mode is set: "none", "encoders" or
            "representation" (all of it).
        channels: Modality -> number of its channels, of those with several.
        features: Name of an input of handcrafted features -> their number.
    """

    def __init__(
        self, modalities: tuple[str, ...], n_tasks: int, segment: int, embedding: int, lstm_layers: int, unimodal: str,
        fusion: str, hidden: tuple[int, int], dropout: float, lstm_dropout: float, frozen: str = "none",
        channels: Mapping[str, int] | None = None, features: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        several = channels or {}
        self.encoders = nn.ModuleDict(
            {
                **{
                    m: UnimodalEncoder(
                        segment, embedding, lstm_layers, unimodal, dropout, lstm_dropout, several.get(m, 1)
                    )
                    for m in modalities
                },
                **{name: FeatureEncoder(n, embedding, dropout) for name, n in (features or {}).items()},
            }
        )
        self.fusion = Fusion(fusion, embedding, len(self.encoders), n_tasks)
        out, (first, last) = self.fusion.out_dim, hidden
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(out), nn.ReLU(), nn.Dropout(dropout), nn.Linear(out, first), nn.ReLU(),
                nn.Linear(first, last), nn.ReLU(),
            )
            for _ in range(n_tasks)
        )  # fmt: skip
        self.frozen = frozen
        for part in {"none": (), "encoders": (self.encoders,), "representation": (self,)}[frozen]:
            part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Representation:
        """Set the mode of the parts that are not frozen; frozen ones stay in evaluation mode (batch norm, dropout)."""
        super().train(mode and self.frozen != "representation")
        if self.frozen == "encoders":
            self.encoders.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()], 1)  # eq. 2
        fused = self.fusion(features)  # eq. 6
        fused = fused.expand(len(self.heads), *fused.shape[1:])
        return torch.stack([head(part) for head, part in zip(self.heads, fused, strict=True)])  # eq. 11


def classifier(in_dim: int, hidden: int, n_classes: int) -> nn.Sequential:
    """Make a task learning network: fully connected layer with ReLU, then logits (eq. 14); linear if `hidden` is 0."""
    if not hidden:
        return nn.Sequential(nn.Linear(in_dim, n_classes))
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))
