"""Pictures of ArviZ objects: what they say, what they refuse, and that both versions of ArviZ give the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import draw

import pyrozoo as zoo
from pyrozoo import plots
from pyrozoo.plots.predictive import shared_bins
from pyrozoo.posterior.draws import Draws
from pyrozoo.posterior.export import _arviz, from_draws, smoothed_weights

OTHER_PYTHON = os.environ.get("PYROZOO_ARVIZ1_PYTHON")
OF_DRAWS = ("forest", "posterior", "trace", "rank", "pair", "prior_posterior", "psense")
OF_DATA = ("ppc", "ppc_pit", "loo_pit")


def made(chains=1, n=60, rows=40, shift=0.0, seed=0, classes=False):
    """An object of two contexts per unit, and a target on half of the rows."""
    rng = np.random.default_rng(seed)
    lead = (chains, n)
    c = shift + rng.normal(size=(*lead, 2, 2)) * [0.5, 0.1]
    y = rng.normal(size=rows)
    predicted = rng.normal(size=(*lead, rows))
    if classes:
        y, predicted = rng.integers(0, 3, rows).astype(float), rng.integers(0, 3, (*lead, rows))
    y[::2] = np.nan
    return from_draws(
        Draws(
            {
                "posterior": {"c": c},
                "prior": {"c": rng.normal(size=(*lead, 2, 2))},
                "log_prior": {"c": -0.5 * (c**2).sum(-1)},
                "posterior_predictive": {"y": predicted},
                "log_likelihood": {"y": np.where(np.isnan(y), np.nan, -0.5 * (y - 0.1 * c[..., :1, 0]) ** 2)},
                "observed_data": {"y": y},
            },
            {"c": ("unit", "context"), "y": ("row",)},
            {"unit": np.array(["A", "B"])},
            plates=("unit", "row"),
            targets=("y",),
        )
    )


@pytest.mark.parametrize("name", OF_DRAWS)
def test_choosing_and_titles_are_alike(name):
    function = getattr(plots, name)
    text = draw(function(made(chains=2), "c", coords={"unit": "B"}))
    assert "c[B, 0]" in text
    assert "c[A, 0]" not in text
    with pytest.raises(KeyError, match=r"no variable \['d'\]"):
        function(made(), "d")
    with pytest.raises(KeyError, match=r"coords: unit has no \['Z'\]; it has \['A', 'B'\]"):
        function(made(), "c", coords={"unit": ["Z"]})


@pytest.mark.parametrize("name", ["forest", "posterior"])
def test_the_title_states_the_interval(name):
    function = getattr(plots, name)
    assert "90% equal-tailed interval" in draw(function(made(), coords={"unit": "A"}))
    assert "94% highest-density interval" in draw(function(made(), width=0.94, interval="hdi", coords={"unit": "A"}))
    with pytest.raises(ValueError, match=r"'eti' .* or 'hdi'"):
        function(made(), interval="90%")
    with pytest.raises(ValueError, match="between 0 and 1"):
        function(made(), width=90)


def test_forest_draws_the_intervals_of_the_draws():
    idata = made()
    values = idata["posterior"]["c"].values[0, :, 1, 0]
    ax = plots.forest({"a": idata, "b": made(shift=3.0)}, "c", coords={"unit": "B", "context": [0]}, truth=[0.5]).axes[
        0
    ]
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), np.quantile(values, [0.05, 0.95]))
    np.testing.assert_allclose(ax.get_lines()[1].get_xdata(), np.quantile(values, [0.25, 0.75]))
    text = draw(ax)
    for words in ("a", "b", "truth", "c[B, 0]"):
        assert words in text.split(" | ")
    with pytest.raises(ValueError, match="names: 3 for 4 lines"):
        plots.forest(idata, names=list("abc"))


def test_the_shortest_interval_is_shorter_than_that_of_equal_tails():
    gamma = from_draws(Draws({"posterior": {"s": np.random.default_rng(0).gamma(1.0, size=(1, 500))}}))
    ends = [plots.forest(gamma, interval=kind).axes[0].get_lines()[0].get_xdata() for kind in ("hdi", "eti")]
    assert np.diff(ends[0]) < np.diff(ends[1])
    assert ends[0][0] < ends[1][0]


def test_too_many_numbers_are_refused_with_their_axes():
    wide = from_draws(Draws({"posterior": {"z": np.zeros((1, 30, 300))}}, {"z": ("row",)}))
    for name in OF_DRAWS[:5]:
        with pytest.raises(ValueError, match=r"300 numbers to show, .*'row': 300.*choose by var_names and coords"):
            getattr(plots, name)(wide)
    with pytest.raises(ValueError, match="makes no pair"):
        plots.pair(wide, coords={"row": 1})
    with pytest.raises(KeyError, match=r"no axis \['unit'\]; axes are \['chain', 'draw', 'row'\]"):
        plots.forest(wide, coords={"unit": 1})


def test_missing_groups_are_named_with_the_remedy():
    alone = from_draws(Draws({"posterior": {"z": np.zeros((1, 30))}}))
    with pytest.raises(ValueError, match=r"no group 'prior'; draw it by to_arviz\(..., prior=True\)"):
        plots.prior_posterior(alone)
    with pytest.raises(ValueError, match="no group 'log_prior'"):
        plots.psense(alone)
    with pytest.raises(ValueError, match="no group 'observed_data'; give data with observed targets"):
        plots.ppc(alone)


@pytest.mark.parametrize("chains", [1, 2])
def test_rank_shows_chains_or_halves_that_disagree(chains):
    apart = np.arange(200.0).reshape(chains, -1)
    ax = plots.rank(from_draws(Draws({"posterior": {"s": apart}}))).axes[0]
    heights = np.stack([patch.get_data().values for patch in ax.patches if hasattr(patch, "get_data")])
    assert heights.max() > 1.9  # ordered draws: one half has all low ranks
    assert ("first half" in draw(ax)) is (chains == 1)
    even = from_draws(Draws({"posterior": {"s": np.random.default_rng(0).normal(size=(chains, 400))}}))
    heights = [p.get_data().values for p in plots.rank(even).axes[0].patches if hasattr(p, "get_data")]
    assert np.max(heights) < 1.9
    with pytest.raises(ValueError, match="too few for ranks"):
        plots.rank(from_draws(Draws({"posterior": {"s": np.zeros((1, 10))}})))


def test_prior_posterior_says_how_much_narrower():
    text = draw(plots.prior_posterior(made(n=2000), "c", coords={"unit": "A", "context": 1}))
    assert "sd × 0.10" in text


def test_psense_of_an_object_is_the_shift_under_a_power_of_the_prior():
    # Posterior N(1, 1/4), prior N(0, 1): with the prior's square root the mean is 4 / 3.5, with its square 4 / 5.
    c = 1.0 + 0.5 * np.random.default_rng(0).normal(size=(1, 4000))
    idata = from_draws(Draws({"posterior": {"c": c}, "log_prior": {"c": -0.5 * c**2}}))
    line = plots.psense(idata, powers=(0.5, 2.0)).get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), [(4 / 3.5 - 1) / 0.5, 0.0, -0.4], atol=0.03)
    with pytest.raises(ValueError, match="positive numbers other than 1"):
        plots.psense(idata, powers=(1.0,))


def test_ppc_counts_classes_and_shares_bins_of_numbers():
    text = draw(plots.ppc(made(classes=True)))
    assert "y, 20 values" in text
    assert "mean and 90% of 60 replications" in text
    ax = plots.ppc(made(classes=True)).axes[0]
    observed = made(classes=True)["observed_data"]["y"].values
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], np.bincount(observed, minlength=3) / 20)
    assert "90% of replications" in draw(plots.ppc(made()))
    edges = shared_bins(np.array([0.0, 4.0]), np.array([-100.0, 4.5]))
    assert edges[[0, -1]].tolist() == [-1.0, 4.5]


def test_vectors_have_a_panel_for_each_component():
    rng = np.random.default_rng(0)
    groups = {
        "observed_data": {"x": rng.normal(size=(9, 2))},
        "posterior_predictive": {"x": rng.normal(size=(1, 20, 9, 2))},
        "log_likelihood": {"x": np.zeros((1, 20, 9))},
    }
    idata = from_draws(Draws(groups, {"x": ("row", "input")}, {"input": np.array(["u", "p"])}))
    assert [ax.get_title() for ax in plots.ppc(idata).axes] == ["x[u], 9 values", "x[p], 9 values"]
    assert [ax.get_title() for ax in plots.ppc(idata, coords={"input": "p"}).axes] == ["x[p], 9 values"]
    with pytest.raises(ValueError, match="x: 18 observed values, but 9 log likelihoods, of row"):
        plots.loo_pit(idata)


def pit_object(scale, rows=400):
    rng = np.random.default_rng(0)
    y, mu = rng.normal(size=rows), rng.normal(size=(1, 300, rows)) * scale
    density = -0.5 * (y - 0.01 * rng.normal(size=(1, 300, 1))) ** 2
    return from_draws(
        Draws(
            {"observed_data": {"y": y}, "posterior_predictive": {"y": mu}, "log_likelihood": {"y": density}},
            {"y": ("row",)},
        )
    )


@pytest.mark.parametrize("name", ["ppc_pit", "loo_pit"])
def test_pit_leaves_the_band_where_intervals_are_too_narrow_or_too_wide(name):
    objects = {"right": pit_object(1.0), "narrow": pit_object(0.5), "wide": pit_object(2.0)}
    ax = getattr(plots, name)(objects).axes[0]
    curves = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    band = np.sqrt(np.log(2 / 0.1) / 800)
    assert np.abs(curves["right"]).max() < band
    assert curves["narrow"][:100].max() > band < -curves["narrow"][100:].min()
    assert -curves["wide"][:100].min() > band < curves["wide"][100:].max()


def test_smoothed_weights_sum_to_one_and_constant_ratios_have_no_tail():
    ratios = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 0.0]
    weights, k = smoothed_weights(ratios)
    np.testing.assert_allclose(weights.sum(0), 1.0)
    assert np.corrcoef(weights[:, 0], np.exp(ratios[:, 0]))[0, 1] > 0.9
    assert k[1] == -np.inf
    np.testing.assert_allclose(weights[:, 1], 1 / 200)


def test_ratios_without_a_tail_are_their_own_weights():
    rng = np.random.default_rng(0)
    two = np.where(np.arange(200) < 120, np.log(3.0), 0.0)  # a draw of one state or of another: no tail to fit
    rounding = 1e-7 * rng.normal(size=200)
    weights, k = smoothed_weights(np.stack([two, -1.0 + rounding], axis=1))
    assert (k == -np.inf).all()
    np.testing.assert_allclose(weights[[0, -1], 0], np.array([3.0, 1.0]) / (3 * 120 + 80))
    np.testing.assert_allclose(weights[:, 1], 1 / 200, rtol=1e-5)


def test_nan_among_observed_values_is_refused():
    draws = Draws(
        {"observed_data": {"y": np.array([1.0, np.nan])}, "posterior_predictive": {"y": np.zeros((1, 20, 2))}},
        {"y": ("row",)},
    )
    with pytest.raises(ValueError, match=r"y holds NaN: .*observed_only=True"):
        plots.ppc(from_draws(draws, observed_only=False))


# -------------------------------------------------------------------- every entry, both versions
# Entry -> latent, axis to choose from, target.
ENTRIES = {
    "ssmtl": ("c", "unit", "y"),
    "auxvae": ("z", "row", "y"),
    "m3sense": ("a_stress", "window", "y_stress"),
    "medication": ("duration_mean", "step", "label"),
}
REFUSED = {("medication", "loo_pit"): "cannot be left out one at a time"}
DRAW_ALL = """
import sys, warnings
from pathlib import Path
package, folder, version = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
sys.path.insert(0, package)
from pyrozoo import plots
from pyrozoo.posterior.draws import Draws
from pyrozoo.posterior.export import _arviz, from_draws

entries, refused = eval(sys.argv[4]), eval(sys.argv[5])
assert _arviz().__version__.startswith(version)
if version == "1":
    assert "torch" not in sys.modules
drawn = []
for entry, (latent, axis, target) in entries.items():
    idata = from_draws(Draws.load(folder / f"{entry}.npz"))
    few = {axis: idata["posterior"][axis].values[:2].tolist()}
    for name in sys.argv[6].split():
        of_data = name in ("ppc", "ppc_pit", "loo_pit")
        try:
            figure = getattr(plots, name)(idata, target if of_data else latent, coords=None if of_data else few)
        except ValueError as error:
            assert refused.get((entry, name), "never") in str(error), (entry, name, error)
            continue
        assert (entry, name) not in refused
        figure = getattr(figure, "figure", figure) if name == "psense" else figure
        figure.savefig(folder / f"{version}-{entry}-{name}.png", dpi=50)
        texts = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]
        drawn.append((entry, name, " | ".join(t for t in texts if t)))
(folder / f"{version}.txt").write_text("\\n".join(" ".join(map(str, one)).replace("\\n", "/") for one in drawn))
"""


@pytest.fixture(scope="module")
def saved_draws(tmp_path_factory):
    """Draws of every entry's reference fit, or of a short fit to its tiny data, in files."""
    from pyrozoo.modeling import registry

    folder = tmp_path_factory.mktemp("draws")
    for entry in ENTRIES:
        parts = registry.entry(entry).parts
        data, arguments = parts.tiny(0)
        variant = next(iter(parts.VARIANTS.values()))
        taken = variant.__init__.__code__.co_varnames
        model = zoo.create_model(entry, data, **{k: v for k, v in arguments.items() if k in taken})
        guide = next(iter(parts.GUIDES))
        few = {} if guide == "closed-form" else {"epochs": 3}
        fit = zoo.fit(model, guide, data, progress=False, restarts=2, **few)
        zoo.draw(fit, data, draws=60, prior=True).save(folder / f"{entry}.npz")
    return folder


def found_version():
    return _arviz().__version__[0]


def under(version, code, folder, *arguments):
    """Runs code with ArviZ 0.x or 1.x, and returns the lines that it leaves in the folder."""
    python = sys.executable if version == found_version() else OTHER_PYTHON
    if python is None:
        pytest.skip("no interpreter with this version of ArviZ: PYROZOO_ARVIZ1_PYTHON names one with 1.x")
    command = [python, "-c", code, Path(zoo.__file__).parents[1], folder, version, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / f"{version}.txt").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_plot_of_every_entry_says_the_same_under_both_versions(saved_draws):
    said = {
        version: under(version, DRAW_ALL, saved_draws, repr(ENTRIES), repr(REFUSED), " ".join(OF_DRAWS + OF_DATA))
        for version in "01"
    }
    assert len(said["0"]) == len(ENTRIES) * (len(OF_DRAWS) + len(OF_DATA)) - len(REFUSED)
    assert said["0"] == said["1"]
    if "PYROZOO_SHEET" in os.environ:  # a file for the sheet of all pictures, as docs/plots.png
        contact_sheet(saved_draws, os.environ["PYROZOO_SHEET"])


# ArviZ's own function -> its versions, and whether it is of a target (of discrete ones only), of latents or of neither.
PLAIN = {
    "plot_posterior": ("0", "latent"),
    "plot_dist": ("1", "latent"),
    "plot_trace": ("01", "latent"),
    "plot_trace_dist": ("1", "latent"),
    "plot_forest": ("01", "latent"),
    "plot_pair": ("01", "latent"),
    "plot_rank": ("01", "latent"),
    "plot_ess": ("01", "latent"),
    "plot_dist_comparison": ("0", "latent"),
    "plot_prior_posterior": ("1", "latent"),
    "plot_psense_dist": ("1", "latent"),
    "plot_ppc": ("0", "target"),
    "plot_ppc_dist": ("1", "target"),
    "plot_bpv": ("0", "target"),
    "plot_ppc_pit": ("1", "target"),
    "plot_separation": ("0", "discrete"),
    "plot_ppc_rootogram": ("1", "discrete"),
    "plot_ppc_pava": ("1", "discrete"),
    "plot_loo_pit": ("01", "target"),
    "plot_khat": ("01", "loo"),
    "plot_compare": ("01", "compare"),
}
# What ArviZ refuses of an export, as docs/plots.md says: frames cannot be left out of a recording one at a time; and
# Pareto smoothing of ArviZ 1.x needs a log likelihood that differs between draws, which that of m3sense does not
# before a variant puts something random into it.
ARVIZ_REFUSES = {("01", "medication", "plot_loo_pit"): r"628|out of bounds"} | {
    ("1", "m3sense", name): "tail values|ELPD"
    for name in ("plot_loo_pit", "plot_khat", "plot_compare", "plot_psense_dist")
}
PLAIN_CALLS = """
import re, sys, warnings
from pathlib import Path
package, folder, version = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
sys.path.insert(0, package)
import matplotlib
matplotlib.use("Agg")
import arviz as az
import matplotlib.pyplot as plt
from pyrozoo.posterior.draws import Draws
from pyrozoo.posterior.export import from_draws

assert az.__version__.startswith(version)
warnings.simplefilter("ignore")
drawn = []
for entry, (latent, axis, target) in eval(sys.argv[4]).items():
    idata = from_draws(Draws.load(folder / f"{entry}.npz"))
    few = {axis: idata["posterior"][axis].values[:2].tolist()}
    discrete = idata["observed_data"][target].dtype.kind in "iu"
    for name, (versions, kind) in eval(sys.argv[5]).items():
        if version not in versions or (kind == "discrete" and not discrete):
            continue
        refused = [why for (v, *key), why in eval(sys.argv[6]).items() if version in v and key == [entry, name]]
        plot = getattr(az, name)
        try:
            if kind == "loo":
                plot(az.loo(idata, var_name=target, pointwise=True))
            elif kind == "compare":
                plot(az.compare({"a": idata, "b": idata}, var_name=target))
            elif kind == "latent":
                plot(idata, var_names=latent, coords=few)
            elif name in ("plot_separation", "plot_loo_pit") and version == "0":
                plot(idata, y=target, **({"y_hat": target} if name == "plot_separation" else {}))
            else:
                plot(idata, var_names=[target] if version == "0" else target)
        except (ValueError, IndexError) as error:
            assert refused and re.search(refused[0], str(error)), (entry, name, error)
            continue
        assert not refused, (entry, name)
        plt.savefig(folder / f"plain-{version}-{entry}-{name}.png", dpi=50)
        plt.close("all")
        drawn.append(f"{entry} {name}")
(folder / f"{version}.txt").write_text("\\n".join(drawn))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["0", "1"])
def test_the_plain_calls_of_arviz_draw_every_entry(saved_draws, version):
    drawn = under(version, PLAIN_CALLS, saved_draws, repr(ENTRIES), repr(PLAIN), repr(ARVIZ_REFUSES))
    refused = [key for key in ARVIZ_REFUSES if version in key[0]]
    assert len(drawn) == sum(
        version in versions for entry in ENTRIES for versions, kind in PLAIN.values()
        if kind != "discrete" or entry in ("m3sense", "medication")
    ) - len(refused)  # fmt: skip
    assert ("m3sense plot_ppc_rootogram" in drawn) == (version == "1")


def contact_sheet(folder, path, width=230):
    """One small picture of all pictures in the folder: a line per kind, a column per entry and version of ArviZ."""
    from PIL import Image, ImageDraw

    columns = [(entry, version) for entry in ENTRIES for version in "01"]
    lines, top = [], 14
    for name in OF_DRAWS + OF_DATA:
        files = [folder / f"{version}-{entry}-{name}.png" for entry, version in columns]
        thumbs = [
            Image.open(file).convert("RGB") if file.exists() else Image.new("RGB", (9, 6), "#eee") for file in files
        ]
        thumbs = [
            im.resize((width - 6, (width - 6) * im.height // im.width), Image.Resampling.LANCZOS) for im in thumbs
        ]
        line = Image.new("RGB", (width * len(columns), top + max(im.height for im in thumbs)), "white")
        for i, (im, (entry, version)) in enumerate(zip(thumbs, columns, strict=True)):
            line.paste(im, (i * width, top))
            label = f"{name}: {entry}, ArviZ {version}.x" + ("" if files[i].exists() else " (refused)")
            ImageDraw.Draw(line).text((i * width + 3, 1), label, fill="black")
        lines.append(line)
    sheet = Image.new("RGB", (lines[0].width, sum(line.height for line in lines)), "white")
    for i, line in enumerate(lines):
        sheet.paste(line, (0, sum(above.height for above in lines[:i])))
    sheet.quantize(64).save(path, optimize=True)


def test_the_table_of_questions_names_calls_that_there_are():
    page = (Path(zoo.__file__).parents[1] / "docs" / "plots.md").read_text()
    named = set(re.findall(r"`zoo\.plots\.(\w+)\(", page))
    assert named >= {*OF_DRAWS, *OF_DATA, "khat", "compare"}
    assert all(hasattr(plots, name) for name in named)
    assert all(hasattr(zoo, name) for name in re.findall(r"`zoo\.(\w+)\(", page))
