import numpy as np
import pandas as pd
import pytest

import pyrozoo as zoo

SMALL = {"c_dim": 2, "z_dim": 2, "width": 6, "depth": 1}
COLUMNS = {"unit": "well", "x": ["u", "v"], "y": "q"}


def frame(units=("a", "b", "c", "d"), n=3, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(rng.normal(size=(n * len(units), 2)), columns=["u", "v"])
    df = df.assign(well=np.repeat(list(units), n), q=df["u"] + rng.normal(size=len(df)))
    return df.assign(q=df["q"].where(np.arange(len(df)) % 3 > 0))


def fitted(df=None, guide="paper", **options):
    data = zoo.Batch.from_dataframe(frame() if df is None else df, **COLUMNS)
    return zoo.fit(zoo.create_model("ssmtl", data, **SMALL), guide, data, **{"steps": 5, "progress": False} | options)


# ---------------------------------------------------------------- the rows of a table keep their index
@pytest.mark.parametrize(
    "index",
    [
        [*range(6), *range(6)],
        list("aabbccddeeff"),
        pd.MultiIndex.from_product([range(6), list("yz")]),
        pd.date_range("2024-01-01", periods=12, freq="h", tz="Europe/Oslo"),
        pd.period_range("2024-01", periods=12, freq="M"),
        pd.CategoricalIndex(list("aabbccddeeff")),
    ],
    ids=["concat", "text", "two levels", "zone", "period", "categories"],
)
def test_predictions_carry_the_index_of_the_table_also_a_repeated_one(index, tmp_path):
    fit, df = fitted(), frame()
    want = zoo.predict(fit, fit.batch(df), draws=5)["y.mean"].to_numpy()
    df.index = index
    df["p"] = zoo.predict(fit, fit.batch(df), draws=5)["y.mean"]
    np.testing.assert_array_equal(df["p"].to_numpy(), want)
    for labels in (True, False):
        batch = fit.batch(df, labels=labels)
        assert zoo.predict(fit, batch, draws=2).index.equals(df.index)
        assert zoo.predict(fit, batch.subset([3, 7]), draws=2).index.equals(df.index[[3, 7]])
    idata = zoo.to_arviz(fit, fit.batch(df), draws=2)
    zoo.save_netcdf(idata, tmp_path / "draws.nc")
    rows = zoo.load_netcdf(tmp_path / "draws.nc")["posterior"]["z"]["row"].to_index()
    assert rows.is_unique
    assert len(rows) == 12
