"""New groups: a level per group whose prior has latents of its own, from which a group without data is drawn."""

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.poutine import mask

import pyrozoo as zoo


class Levels(zoo.ZooModel):
    """m ~ Normal(0, 1), s ~ HalfNormal(1); level_g ~ Normal(m, s); y ~ Normal(level_g, 0.3)."""

    plate_dims = {"group": -1, "row": -1}

    def __init__(self, priors=None):
        super().__init__()
        self.set_priors(priors)

    def priors(self):
        return {"m": dist.Normal(0.0, 1.0), "s": dist.HalfNormal(1.0), "level": lambda m, s: dist.Normal(m, s)}

    def forward(self, group, sizes, y=None, y_labelled=True, row=None, **_):
        m, s = pyro.sample("m", self.prior("m")), pyro.sample("s", self.prior("s"))
        with self.plate("group", sizes=sizes):
            level = pyro.sample("level", self.prior("level", m, s))
        with self.plate("row", sizes=sizes, row=row), mask(mask=y_labelled):
            pyro.sample("y", dist.Normal(level[..., group], 0.3), obs=y)


def tiny(seed=0, n=12):
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 4
    y = rng.normal(0.5, 0.8, 4)[group] + 0.3 * rng.normal(size=n)
    return zoo.Batch.from_arrays(
        rows={"y": y}, groups={"group": group}, labels={"y": np.arange(n) % 5 > 0}, name="new groups", simulated=True,
    ), {}  # fmt: skip


VARIANTS, GUIDES = {"levels": Levels}, {"normal": zoo.guides.auto(AutoNormal)}
DATASETS = {"simulated": lambda: tiny()[0]}
CARD = zoo.Card(
    name="toy-new-groups", title="Levels of groups", authors="", year=2025, version="1",
    summary="Groups of one population, new ones among them", variants={"levels": "Normal levels"},
    guides={"normal": "AutoNormal"}, datasets={"simulated": "simulated: 12 rows of 4 groups"},
    golden={"levels": -27.865804822687718},
)  # fmt: skip
