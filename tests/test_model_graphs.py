"""The drawn graphs of the entry pages have the sites, plates and edges of the models as they are now."""

import html
import re
import runpy
from pathlib import Path

import pytest

import pyrozoo as zoo

ROOT = Path(zoo.__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "model_graphs.py"))


@pytest.mark.parametrize("entry", SCRIPT["ENTRIES"])
def test_the_drawn_graph_is_that_of_the_model(entry):
    graph = SCRIPT["graph_of"](entry)
    drawn = (ROOT / "docs" / "graphs" / f"{entry}.svg").read_text()
    kinds = re.findall(r'class="(node|edge|cluster)">\s*<title>(.*?)</title>', drawn)
    found = sorted((kind, html.unescape(title)) for kind, title in kinds)
    plates = [("cluster", f"cluster_{plate}") for plate in graph["plate_groups"] if plate is not None]
    nodes = [("node", site) for site in graph["node_data"]]
    edges = [("edge", f"{source}->{target}") for source, target in graph["edge_list"]]
    assert found == sorted(plates + nodes + edges)


def test_every_entry_page_shows_its_graph():
    for entry in SCRIPT["ENTRIES"]:
        page = (ROOT / "pyrozoo" / "models" / entry / "README.md").read_text()
        assert f"(../../../docs/graphs/{entry}.svg)" in page
