"""The published results of the paper, as plain data to print beside our own.

Grimstad, Løvland, Imsland, Gunnerud: "A deep latent variable model for semi-supervised multi-unit soft sensing in
industrial processes", arXiv:2407.13310, section 6.3.

Every number is the mean absolute percentage error (MAPE, percent) on test data, summarised over units: its mean and
its 10th, 50th and 90th percentile. The numbers of MTL and SSMTL average 20 network initialisations per unit. They were
obtained on the paper's own data, which are not public: of the synthetic data the paper gives the equations but neither
the distribution of the parameters nor the noise, so our simulated data are similar, not the same.
"""

from __future__ import annotations

from typing import Any

from ....experiments.record import PUBLISHED

REFERENCE = "Grimstad et al., arXiv:2407.13310"
_ERRORS = ("mape", "mape_p10", "mape_p50", "mape_p90")


def _rows(table: str, data: str, errors: dict[tuple[str, int | None], tuple[float, ...]]) -> tuple[dict[str, Any], ...]:
    place = {"source": PUBLISHED, "reference": f"{REFERENCE}, {table}", "data": data}
    return tuple(
        {"model": model, "ratio": ratio, **dict(zip(_ERRORS, error, strict=True)), **place}
        for (model, ratio), error in errors.items()
    )


# The ratio is N^u / N^l, unlabelled to labelled rows of a unit; None where a model uses no unlabelled rows.
TABLE_1 = _rows(
    "Table 1",
    "the paper's own synthetic data: 50 units x (5 labelled, 100 unlabelled, 100 test)",
    {
        ("STL", None): (22.302, 15.638, 22.356, 27.894),
        ("MTL", None): (3.671, 2.676, 3.374, 5.076),
        ("SSMTL", 1): (3.534, 2.720, 3.363, 4.380),
        ("SSMTL", 5): (3.375, 2.602, 3.208, 4.177),
        ("SSMTL", 20): (3.310, 2.434, 3.178, 4.311),
    },
)

TABLE_2 = _rows(
    "Table 2",
    "the paper's own real data, not public: 64 wells x (20 labelled, 400 unlabelled, 20 test)",
    {
        ("STL", None): (14.726, 4.416, 11.620, 27.059),
        ("MTL", None): (11.737, 3.114, 7.219, 25.729),
        ("SSMTL", 1): (10.815, 3.068, 6.729, 24.917),
        ("SSMTL", 5): (10.774, 2.887, 6.887, 24.908),
        ("SSMTL", 20): (10.679, 3.433, 7.182, 24.741),
    },
)
