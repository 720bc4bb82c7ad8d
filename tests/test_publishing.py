"""Fits with a model card, read from a folder and from a hub's cache."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pyrozoo as zoo


@pytest.fixture(scope="module")
def fit():
    return zoo.load_reference("ssmtl/dryer")


def front_matter(text):
    _, head, body = text.split("---\n", 2)
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.strip().splitlines())}, body


def test_a_published_fit_says_what_it_is_and_can_be_loaded(fit, tmp_path):
    path = zoo.publish(
        fit, tmp_path / "dryer", summary="A dryer's tank level.", data_licence="CC-BY-4.0",
        metrics={"y.rmse": (4.96, 0.08), "y.crps": 2.5}, intended_use="Teaching.", limitations="One dryer.",
    )  # fmt: skip
    head, body = front_matter((path / "README.md").read_text())
    (result,) = head["model-index"][0]["results"]
    assert {m["name"]: m["value"] for m in result["metrics"]} == {"y.rmse": 4.96, "y.crps": 2.5}
    assert head["library_name"] == "pyrozoo"
    for part in (
        "A dryer's tank level.",
        "CC-BY-4.0",
        fit.data["sha256"],
        "0.08",
        "Teaching.",
        "One dryer.",
        "2407.13310",
    ):
        assert part in body
    assert all(line in body for line in zoo.card("ssmtl").limitations)
    assert zoo.load(path).history.equals(fit.history)


@pytest.mark.parametrize(
    ("words", "named"),
    [({"summary": " "}, "summary"), ({"data_licence": ""}, "data_licence"), ({"metrics": {"a": "good"}}, "'a'"),
     ({"metrics": {"a": float("nan")}}, "not finite")],
)  # fmt: skip
def test_what_a_card_needs_is_asked_for_before_anything_is_written(fit, tmp_path, words, named):
    with pytest.raises(ValueError, match=named):
        zoo.publish(fit, tmp_path / "a", **{"summary": "A fit.", "data_licence": "simulated", **words})
    assert not list(tmp_path.iterdir())


def test_an_earlier_fit_is_replaced_only_when_asked_for(fit, tmp_path):
    say = {"summary": "A fit.", "data_licence": "simulated"}
    zoo.publish(fit, tmp_path / "a", **say)
    with pytest.raises(FileExistsError):
        zoo.publish(fit, tmp_path / "a", **say)
    zoo.publish(fit, tmp_path / "a", overwrite=True, **say)
    assert (tmp_path / "a" / "README.md").exists()


def test_a_fit_on_the_hub_is_what_the_client_fetches(fit, tmp_path, monkeypatch):
    path = zoo.publish(fit, tmp_path / "a", summary="A fit.", data_licence="simulated")
    linked = tmp_path / "snapshot"  # a hub's cache holds links to its blobs
    linked.mkdir()
    for file in path.iterdir():
        (linked / file.name).symlink_to(file)
    asked = []
    hub = SimpleNamespace(snapshot_download=lambda name, **options: asked.append((name, options)) or str(linked))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert zoo.load("hf://someone/dryer").history.equals(fit.history)
    assert asked[0][0] == "someone/dryer"
    assert "*.pkl" not in asked[0][1]["allow_patterns"]


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b/c", "hf://../b"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="hf://owner/name"):
        zoo.load(address)


def test_the_client_is_asked_for_by_the_name_of_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="hub"):
        zoo.load("hf://someone/dryer")


def test_the_client_that_is_offline_finds_its_cache(fit, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    path = zoo.publish(fit, tmp_path / "a", summary="A fit.", data_licence="simulated")
    folder = tmp_path / "hub" / "models--someone--dryer"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file in path.iterdir():
        (snapshot / file.name).symlink_to(file)
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert zoo.load("hf://someone/dryer").guide_name == "paper"


def test_versions_are_shown_for_a_report(capsys):
    zoo.show_versions()
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["pyrozoo"] == zoo.__version__
    assert {"python", "torch", "pyro-ppl", "arviz", "system"} <= set(lines)


def test_what_is_cited_is_this_version():
    text = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {zoo.__version__}\n" in text
