"""Nested groups: rows are pupils of a class, and a table of the classes says to which school each belongs."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Schools(zoo.ZooModel):
    """school_j ~ Normal(0, 1), team_k ~ Normal(school_j(k), 0.5), y ~ Normal(team_k, 0.3)."""

    plate_dims = {"school": -1, "team": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"u": dist.Normal(0.0, 1.0), "v": lambda u: dist.Normal(u, 0.5)}

    def forward(self, team, school_of_team, sizes, y=None, y_labelled=True, row=None, **_):
        with self.plate("school", sizes=sizes):
            u = pyro.sample("u", self.prior("u"))
        with self.plate("team", sizes=sizes):
            v = pyro.sample("v", self.prior("v", u[..., school_of_team]))
        with self.plate("row", sizes=sizes, row=row), mask(mask=y_labelled):
            pyro.sample("y", dist.Normal(v[..., team], 0.3), obs=y)


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    school_of_team = np.array([0, 0, 1, 1])
    team, v = np.arange(n) % 4, rng.normal(size=2)[school_of_team] + 0.5 * rng.normal(size=4)
    return zoo.Batch.from_arrays(
        rows={"y": v[team] + 0.3 * rng.normal(size=n)}, groups={"school": school_of_team[team], "team": team},
        tables={"team": {"school_of_team": school_of_team}}, coords={"school": np.arange(2), "team": np.arange(4)},
        labels={"y": np.arange(n) % 5 > 0}, name="nested", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"two levels": Schools}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-nested", title="Pupils in teams in schools", authors="", year=2025, version="1",
    summary="Two levels of groups", variants={"two levels": "Normal levels"}, guides={"normal": "AutoNormal"},
    datasets={"simulated": "simulated: 12 pupils of 4 teams of 2 schools"}, golden={"two levels": -13.787002333188163},
)  # fmt: skip
