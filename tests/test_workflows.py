"""Workflow files, issue forms and the citation are YAML that a code host can read, and name what is in the tree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def read(path):
    return yaml.safe_load(path.read_text())


def test_there_are_workflows_and_forms():
    assert {path.stem for path in WORKFLOWS} == {"docs", "release", "tests"}
    assert {path.stem for path in FORMS} == {"paper", "problem"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_what_it_needs_to_run(path):
    workflow = read(path)
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}  # what writes says so in its own job
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "@" in step.get("uses", "@")  # an action without a version may change any day
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                assert f"\n{target}:" in MAKEFILE


def test_the_tests_run_on_every_python_that_is_promised():
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]["matrix"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    assert matrix["python"] == promised


def test_no_secret_publishes_a_release():
    assert "secrets." not in "".join(path.read_text() for path in WORKFLOWS)
    publish = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}


def test_whoever_reports_a_problem_is_asked_for_versions():
    fields = {field["id"]: field for field in read(ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml")["body"]}
    assert "zoo.show_versions()" in fields["versions"]["attributes"]["label"]
    assert fields["versions"]["validations"]["required"]


def test_the_citation_names_the_licence_and_the_title():
    citation = read(ROOT / "CITATION.cff")
    assert citation["license"] == PROJECT["license"]
    assert citation["title"].startswith(PROJECT["name"])
    assert {"cff-version", "message", "authors"} <= set(citation)
