"""The page of a report in a real browser: no error, no request, folding, sorting and switching work."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pyrozoo.reports.content import Picture, Section, Table
from pyrozoo.reports.page import render
from pyrozoo.reports.rules import judge

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH (Debian: apt-get install chromium)")

# Runs after the page's own script, and leaves what it found in the page.
PROBE = """
<script>
const found = {errors: window.seen || []};
const table = document.querySelector("table");
const column = n => [...table.tBodies[0].rows].map(r => r.cells[n].textContent);
const click = n => table.tHead.rows[0].cells[n].querySelector("button").click();
found.before = column(1); click(1); found.up = column(1); click(1); found.down = column(1);
click(0); found.names = column(0);
const details = document.querySelector("#beside");
found.open = details.open; details.querySelector("summary").click(); found.closed = !details.open;
const select = document.querySelector("select");
const shown = () => [...document.querySelectorAll(".part")].map(p => !p.hidden);
found.first = shown(); select.value = "1"; select.dispatchEvent(new Event("change")); found.second = shown();
document.querySelector('a[href="#rule-coverage"]').click();
found.rules = document.querySelector("#rules").open;
found.requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
found.pictures = [...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0);
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const out = document.createElement("pre");
out.id = "found"; out.textContent = JSON.stringify(found); document.body.append(out);
</script>
"""
FIRST = "<script>window.seen = []; addEventListener('error', e => seen.push(e.message));</script>"


def _sections():
    def figure(value):
        drawn = Figure(figsize=(3, 2))
        drawn.subplots().plot([0, value])
        return drawn

    wide = {f"wide {i}": i for i in range(20)}
    numbers = pd.DataFrame({"method": ["a10", "a9", "b"], "error": [10.0, np.nan, -9.5], **wide})
    pictures = Picture("p", {"one": figure(1), "two": figure(2)}, "Lines.")
    blocks = ["A sentence with <angles> & more.", Table("t", numbers, "A table"), pictures]
    marks = [judge("coverage", 20.0, "Too narrow."), judge("mean", -9.0, "It does.")]
    sections = [
        Section("verdict", "Verdict", marks=marks), Section("beside", "Beside", blocks),
        Section("ppc", "PPC", problems=["why"]),
    ]  # fmt: skip
    return sections


@pytest.fixture(scope="module", params=[390, 1400])
def found(request, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    text = render("A page", "About", _sections())
    text = text.replace("<head>", f"<head>{FIRST}").replace("</body>", f"{PROBE}</body>")
    page.write_text(text)
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'profile'}", f"--window-size={request.param},900", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    held = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert held, done.stderr[-2000:]
    return json.loads(html.unescape(held[1])), done.stderr


def test_nothing_goes_wrong_and_nothing_is_asked_for(found):
    state, log = found
    assert state["errors"] == []
    assert "CONSOLE" not in log
    assert state["requests"] == []
    assert state["pictures"]


def test_tables_sort_by_value_and_by_name_and_scroll_inside_the_page(found):
    state, _ = found
    assert state["before"] == ["10.0", "–", "−9.50"]
    assert state["up"] == ["−9.50", "10.0", "–"]
    assert state["down"] == ["10.0", "−9.50", "–"]
    assert state["names"] == ["a9", "a10", "b"]
    assert state["overflow"] <= 0


def test_sections_fold_pictures_switch_and_links_open_what_is_folded(found):
    state, _ = found
    assert state["open"]
    assert state["closed"]
    assert state["first"] == [True, False]
    assert state["second"] == [False, True]
    assert state["rules"]
