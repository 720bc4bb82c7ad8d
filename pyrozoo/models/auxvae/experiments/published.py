"""The published results of the paper, as plain data to print beside our own.

Gao, Lim, Chung: "Gait-Based Hand Load Estimation via Deep Latent Variable Models with Auxiliary Information", tables 1
to 3: accuracy of the carrying style and mean absolute error of the load in lb, leave-one-participant-out, on the
paper's own recordings of 22 people, which are not public. The paper does not say what its ± is. Table 3 is captioned
otherwise, but section 4.3.3 reads it as the baselines without auxiliary input and joint prediction, and table 1 as with
both.
"""

from __future__ import annotations

from typing import Any

from ....experiments.record import PUBLISHED

REFERENCE = "Gao, Lim, Chung"


def _rows(table: str, scores: dict[str, tuple[float | None, float | None, float, float]]) -> list[dict[str, Any]]:
    place = {"source": PUBLISHED, "reference": f"{REFERENCE}, {table}", "data": "the paper's own, 22 people"}
    names = ("accuracy", "accuracy_se", "mae", "mae_se")
    return [{"model": model, **dict(zip(names, values, strict=True)), **place} for model, values in scores.items()]


TABLE_1 = _rows(
    "Table 1",
    {
        "LSTM": (0.874, 0.033, 8.752, 0.332),
        "TCN": (0.974, 0.002, 7.593, 0.176),
        "Transformer": (0.949, 0.008, 7.440, 0.217),
        "Informer": (0.964, 0.008, 7.434, 0.380),
        "TimesNet": (0.948, 0.013, 8.040, 0.189),
        "AuxVAE": (0.982, 0.007, 5.670, 0.185),
    },
)
TABLE_2 = _rows(
    "Table 2",
    {
        "1: no x_aux, no style": (None, None, 8.036, 0.292),
        "2: no x_aux, style": (0.957, 0.010, 7.896, 0.221),
        "3: concatenation, style": (0.955, 0.012, 7.130, 0.214),
        "4: cross-attention, no style": (None, None, 6.746, 0.446),
        "5: cross-attention, style": (0.982, 0.007, 5.670, 0.185),
    },
)
TABLE_3 = _rows(
    "Table 3",
    {
        "LSTM": (None, None, 8.336, 0.410),
        "TCN": (None, None, 6.613, 0.184),
        "Transformer": (None, None, 9.316, 0.715),
        "Informer": (None, None, 7.461, 0.351),
        "TimesNet": (None, None, 8.307, 1.070),
    },
)
