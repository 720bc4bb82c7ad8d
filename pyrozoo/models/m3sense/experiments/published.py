"""The published results of the paper, as plain data to print beside our own.

Samyoun, Islam, Iqbal, Stankovic: "M3Sense: Affect-Agnostic Multitask Representation Learning Using Multimodal Wearable
Sensors" (2022): top-1 accuracy on VerBIO (anxiety), K-EmoCon (emotion) and WESAD (stress), windows split at random, so
that people are in training and test; the handcrafted models by 10-fold cross-validation (section 5.4.2). An accuracy of
0.752 in emotion for every multitask model suggests the majority class; balanced accuracy is not published. Parameters
are in thousands, times in ms per batch of two on the authors' computer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....experiments.record import PUBLISHED

REFERENCE = "Samyoun et al."
DATA = "VerBIO, K-EmoCon, WESAD, split by window"
DATA_10_FOLD = "VerBIO, K-EmoCon, WESAD, 10-fold cross-validation"
HANDCRAFTED = ("random forest", "decision tree", "extra trees", "LDA", "linear", "SVM")


def _rows(table: str, percent: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    place = {"source": PUBLISHED, "reference": f"{REFERENCE}, {table}"}
    tasks = ("anxiety", "emotion", "stress")
    return [
        {"task": task, "model": model, "accuracy": round(value / 100, 4), **place,
         "data": DATA_10_FOLD if model in HANDCRAFTED else DATA}
        for model, values in percent.items() for task, value in zip(tasks, values, strict=True) if value is not None
    ]  # fmt: skip


TABLE_2 = _rows(
    "Table 2",
    {
        "random forest": (60.0, 46.9, 69.6),
        "decision tree": (50.5, 43.0, 61.8),
        "extra trees": (61.9, 43.9, 71.5),
        "LDA": (37.6, 45.1, 66.1),
        "linear": (40.0, 48.1, 65.3),
        "SVM": (48.0, 49.0, 67.2),
        "Non-Attention": (60.3, 62.0, 82.8),
        "Multimodal-Attention": (60.7, 63.5, 86.1),
        "Keyless": (64.0, 63.5, 82.8),
        "HAMLET": (70.2, 63.5, 86.4),
        "M3Sense (Non-Attention)": (71.5, 75.2, 81.5),
        "M3Sense (Keyless)": (66.7, 75.2, 87.0),
        "M3Sense (HAMLET)": (71.5, 75.2, 81.5),
        "M3Sense (CAM)": (70.3, 75.2, 85.7),
    },
)
TABLE_4 = _rows(
    "Table 4",
    {
        "anxiety + emotion + stress": (60.2, 75.2, 82.7),
        "anxiety + emotion": (63.5, 63.5, None),
        "anxiety + stress": (70.3, None, 85.8),
        "emotion + stress": (None, 75.2, 82.4),
    },
)
# "Without unlabelled data" has no alignment either in the paper.
TABLE_5 = _rows(
    "Table 5",
    {
        "M3Sense (Non-Attention): neither": (54.9, 75.2, 81.5),
        "M3Sense (Non-Attention): both": (71.5, 75.2, 81.5),
        "M3Sense (HAMLET): neither": (52.7, 75.2, 83.6),
        "M3Sense (HAMLET): both": (71.5, 75.2, 81.5),
        "M3Sense (Keyless): neither": (55.0, 75.2, 81.5),
        "M3Sense (Keyless): both": (66.7, 75.2, 87.0),
        "M3Sense (CAM): neither": (51.4, 75.2, 81.7),
        "M3Sense (CAM): both": (70.3, 75.2, 85.7),
    },
)
# Model -> thousands of parameters for one task (three tasks are three models), or for three by one model.
PARAMETERS: Mapping[str, float] = {
    "Non-Attention": 1110, "Multimodal-Attention": 1112, "Keyless": 1113, "HAMLET": 1115,
    "M3Sense (Non-Attention)": 2244, "M3Sense (Keyless)": 2248, "M3Sense (HAMLET)": 2250, "M3Sense (CAM)": 2251,
}  # fmt: skip
# Model -> ms for all three tasks on a batch of two.
TIMES: Mapping[str, float] = {
    "Non-Attention": 426, "Multimodal-Attention": 477, "Keyless": 517, "HAMLET": 583,
    "M3Sense (Non-Attention)": 172, "M3Sense (Keyless)": 191, "M3Sense (HAMLET)": 212, "M3Sense (CAM)": 203,
}  # fmt: skip
