"""Every picture draws without a warning and says what was done, for how long and in which order."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from pictures import draw

from pyrozoo.models.medication.uses import plots as frame_plots

NAMES = ["no event", "shake", "breathe out", "hold breath"]
TRUTH = np.repeat([0, 1, 0, 2, 0], [10, 20, 5, 40, 25])
MARGINALS = 0.02 + 0.92 * np.eye(4)[TRUTH]


def spans(collection) -> list[tuple[float, float]]:
    """Left and right end of every bar, in seconds."""
    return [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths()]


def test_timeline_draws_a_segment_per_event_in_seconds():
    figure = frame_plots.timeline({"truth": TRUTH, "nothing": np.zeros(100, int)}, NAMES, rate=5.0, title="recording 3")
    text = draw(figure)
    (ax,) = figure.axes
    whole, events, _, none = ax.collections
    assert spans(whole) == [(0.0, 20.0)]
    assert spans(events) == [(2.0, 6.0), (7.0, 15.0)]
    assert spans(none) == []
    assert [tuple(colour[:3]) for colour in events.get_facecolor()] == [
        to_rgb(colour) for colour in frame_plots.STEP_COLOURS[:2]
    ]
    assert [(mark.get_text(), mark.get_position()) for mark in ax.texts] == [("1", (4.0, 0)), ("2", (11.0, 0))]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["truth", "nothing"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # first row on top
    for words in ("time [s]", "1 shake", "3 hold breath", "no event", "recording 3"):
        assert words in text


def test_timeline_shows_what_the_posterior_says():
    figure = frame_plots.timeline(
        {"mea": TRUTH}, NAMES, marginals=MARGINALS, performed=[0.999, 0.7, 0.1], truth=[True, True, False]
    )
    text = draw(figure)
    _, stack, bars = figure.axes
    layers = stack.collections
    assert len(layers) == 4
    assert same_color(layers[-1].get_facecolor(), frame_plots.NON_EVENT)  # on top
    first = layers[0].get_paths()[0].vertices
    assert first[:, 1].max() == pytest.approx(0.94)
    assert (first[:, 0].min(), first[:, 0].max()) == (0.0, 100.0)
    assert [bar.get_width() for bar in bars.patches[3:]] == [0.999, 0.7, 0.1]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["1 shake", "2 breathe out", "3 hold breath"]
    for words in ("posterior\nprobability", "P(step performed)", ">99% | 70% | 10% | done | done | omitted | truth"):
        assert words in text


@pytest.mark.parametrize("n_steps", [1, 12])
def test_timeline_of_one_frame(n_steps):
    names = ["no event", *(f"step {k}" for k in range(n_steps))]
    marginals = np.full((1, n_steps + 1), 1 / (n_steps + 1))
    figure = frame_plots.timeline({"map": [n_steps]}, names, marginals=marginals, performed=np.zeros(n_steps))
    assert f"{n_steps} step {n_steps - 1}" in draw(figure)


def test_timeline_keeps_long_recordings_light():
    labels = np.random.default_rng(0).integers(0, 4, 100_000)
    figure = frame_plots.timeline({"argmax": labels}, NAMES, rate=30, marginals=np.eye(4)[labels])
    ribbon, stack = figure.axes
    assert len(ribbon.collections) == 2
    assert len(ribbon.collections[1].get_paths()) == ((np.diff(labels) != 0) & (labels[1:] > 0)).sum() + (labels[0] > 0)
    assert not ribbon.texts
    assert max(len(layer.get_paths()[0].vertices) for layer in stack.collections) < 5000


def test_step_colours_are_twelve():
    assert len(set(frame_plots.STEP_COLOURS)) == 12


def test_reliability_gives_the_calibration_error():
    confidence = np.repeat([0.6, 0.9], 500)
    correct = np.arange(1000) % 10 < np.repeat([6, 5], 500)
    ax = frame_plots.marginal_reliability(
        {"power 1": (confidence, correct), "honest": (np.full(10, 1.0), np.ones(10, bool))}
    )
    text = draw(ax)
    assert "power 1: 20.0%" in text
    assert "honest: 0.0%" in text
    assert "expected calibration error" in text
    assert "confidence in the label" in text
    np.testing.assert_allclose(ax.get_lines()[1].get_xydata(), [[0.6, 0.6], [0.9, 0.5]])
    np.testing.assert_allclose(ax.collections[0].get_sizes(), [200, 200])


def test_reliability_bins_hold_equal_counts():
    confidence = np.random.default_rng(0).beta(5, 1, 1000)
    ax = frame_plots.marginal_reliability({"a": (confidence, confidence > 0.5)}, quantity="step", bins=8)
    assert "share of frames whose step is right" in draw(ax)
    np.testing.assert_allclose(ax.collections[0].get_sizes(), np.full(8, 50.0))


def test_implied_durations_give_mean_and_sd_of_densities_per_second():
    ages = np.arange(1, 200) / 10
    meant = np.exp(-0.5 * ((ages - 8) / 2) ** 2)
    ends_at = np.array([1.0, 2.0, 3.0, 4.0])
    ax = frame_plots.implied_durations(
        {"Gaussian": (ages, meant / meant.sum()), "CDF as hazard": (ends_at, [0.25, 0.5, 0.25, 0.0])},
        reference="Gaussian",
    )
    text = draw(ax)
    for words in (
        "Gaussian: 8.0 ± 2.0 s",
        "CDF as hazard: 2.00 ± 0.71 s",
        "duration of the step [s]",
        "density [per s]",
    ):
        assert words in text
    first, second = ax.get_lines()
    assert first.get_color() == "#000000"
    assert np.trapezoid(first.get_ydata(), ages) == pytest.approx(1, abs=0.01)
    assert second.get_ydata().tolist() == [0.25, 0.5, 0.25, 0.0]
    dashed = [path.vertices[0, 0] for lines in ax.collections[1:] for path in lines.get_paths()]
    np.testing.assert_allclose(dashed, [8, 2], atol=0.01)


def test_replicated_durations_share_bins_and_legend():
    rng = np.random.default_rng(0)
    observed = {"shake": rng.gamma(9, 0.5, 40), "hold breath": np.zeros(0), "constant": np.full(3, 2.0)}
    replicated = {name: [rng.gamma(9, 0.5, 30) for _ in range(20)] for name in ("shake", "hold breath")}
    replicated["hold breath"][3] = []
    replicated["constant"] = [np.full(2, 2.0)] * 4
    figure = frame_plots.replicated_durations(observed, replicated, names=list(observed), unit="min")
    text = draw(figure).replace("\N{NO-BREAK SPACE}", " ")
    for words in ("shake (n = 40)", "hold breath (n = 0)", "constant (n = 3)", "duration [min]", "density [per min]"):
        assert words in text
    (legend,) = figure.legends
    entries = [entry.get_text() for entry in legend.get_texts()]
    assert entries == ["90% of replications", "mean of replications", "observed"]
    assert not any(ax.get_legend() for ax in figure.axes)
    shake, hold, _ = figure.axes
    (line,) = shake.get_lines()
    band, mean = shake.patches
    edges = mean.get_data().edges
    np.testing.assert_allclose(line.get_xdata(), (edges[1:] + edges[:-1]) / 2)
    np.testing.assert_array_equal(band.get_data().edges, edges)
    assert line.get_ydata() @ np.diff(edges) == pytest.approx(1)
    assert (band.get_data().baseline <= band.get_data().values).all()
    assert not hold.get_lines()


def test_transition_map_writes_values_and_leaves_zeros_empty():
    D = np.array([[0.9, 0.097, 0.003], [0.0, 0.8, 0.2], [0.25, 0.0, 0.0]])
    ax = frame_plots.transition_map(D, ["start", "shake", "hold"], ["shake", "hold", "end"], D * 0.5, D, interval="IQR")
    text = draw(ax)
    assert [mark.get_text() for mark in ax.texts] == [
        *("0.90", "0.45–0.90", "0.10", "0.05–0.10", "<0.01", "<0.01"),
        *("0.80", "0.40–0.80", "0.20", "0.10–0.20", "0.25", "0.12–0.25"),
    ]
    assert ax.texts[-1].get_position()[1] > 2  # rows from top to bottom, the last below
    assert ax.get_ylim() == (3, 0)
    for words in ("last step", "next step", "small type: IQR", "probability"):
        assert words in text
    plain = frame_plots.transition_map(D[:1], ["start"], ["a very long name", "b", "c"])
    assert "IQR" not in draw(plain)
    assert len(plain.texts) == 3


def test_pictures_go_into_given_axes():
    first, second, third = Figure().subplots(1, 3)
    assert frame_plots.marginal_reliability({"a": ([0.5], [True])}, ax=first) is first
    assert frame_plots.implied_durations({"a": ([1, 2], [0.5, 0.5])}, ax=second) is second
    assert frame_plots.transition_map([[1.0]], ["a"], ["b"], ax=third) is third


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frame_plots.timeline({}, NAMES), "no row to draw"),
        (lambda: frame_plots.timeline({"a": TRUTH}, range(14)), "14 labels: there are colours for 1 to 12 steps"),
        (lambda: frame_plots.timeline({"a": TRUTH, "b": TRUTH[1:]}, NAMES), "'b' has 99 frames, 'a' has 100"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES[:2]), "'a' has labels from 0 to 2, of 2 names"),
        (lambda: frame_plots.timeline({"a": TRUTH / 2}, NAMES), "'a' has shape .* needs T whole numbers"),
        (lambda: frame_plots.timeline({"a": 3}, NAMES), "'a' has shape .* needs T whole numbers"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, rate=0), "rate is 0"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, marginals=MARGINALS[1:]), r"marginals has shape \(99, 4\)"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, marginals=2 * MARGINALS), "sum to 1 at every frame"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, performed=[0.5] * 4), r"performed has shape \(4,\), not"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, performed=[0.5, 2, 0]), "performed has a number outside"),
        (lambda: frame_plots.timeline({"a": TRUTH}, NAMES, truth=[True] * 3), "performed, which is not given"),
        (lambda: frame_plots.marginal_reliability({}), "no table"),
        (lambda: frame_plots.marginal_reliability({"a": ([0.5, 0.6], [True])}), "'a': confidence .* are not both"),
        (lambda: frame_plots.marginal_reliability({"a": ([1.5], [True])}), "'a': confidence has a number outside"),
        (lambda: frame_plots.marginal_reliability({"a": ([0.5], [True])}, bins=0), "bins is 0"),
        (lambda: frame_plots.implied_durations({}), "no distribution"),
        (lambda: frame_plots.implied_durations({"a": ([1], [1])}), "'a': ages"),
        (lambda: frame_plots.implied_durations({"a": ([2, 1], [0.5, 0.5])}), "'a': ages do not ascend"),
        (lambda: frame_plots.implied_durations({"a": ([1, 2], [0.5, 0.3])}), "'a': probabilities sum to 0.8"),
        (lambda: frame_plots.implied_durations({"a": ([1, 2], [1, 0])}, reference="b"), "'b' is not among"),
        (lambda: frame_plots.replicated_durations({}, {}, names=[]), "no step"),
        (lambda: frame_plots.replicated_durations({}, {}, names=["a"]), r"observed has no step \['a'\]"),
        (lambda: frame_plots.replicated_durations({"a": []}, {"a": [[]]}, names=["a"]), "'a' has no replicated"),
        (lambda: frame_plots.replicated_durations({"a": [np.nan]}, {"a": [[1]]}, names=["a"]), "not finite"),
        (lambda: frame_plots.transition_map(np.eye(2), ["a"], ["b", "c"]), r"D has shape \(2, 2\), not \(1, 2\)"),
        (lambda: frame_plots.transition_map([[0.7, 0.7]], ["a"], ["b", "c"]), r"more than 1: \['a'\]"),
        (lambda: frame_plots.transition_map([[1]], ["a"], ["b"], low=[[0]]), "both given or neither"),
        (lambda: frame_plots.transition_map([[1]], ["a"], ["b"], [[0.9]], [[0.8]]), "low is above high"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_module_leaves_pyplot_alone():
    script = "import sys, pyrozoo.models.medication.uses.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
