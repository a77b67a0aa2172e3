"""The files around the package: their form, their modes, and that they say what the code says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import dst

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def read(path):
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def commands(workflow):
    """What a workflow runs, line by line."""
    steps = [step for job in read(workflow)["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_run_targets_of_the_makefile_on_pull_requests(path):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"push", "pull_request"} <= read(path)["on"].keys()
    assert all(re.match(r"make (\w+)", x)[1] in targets for x in commands(path))


def test_workflows_run_what_ci_runs_on_the_oldest_python_and_a_newer_one():
    workflow = GITHUB / "workflows" / "test.yml"
    local = re.findall(r"^make \w+", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert local == [re.match(r"make \w+", x)[0] for x in commands(workflow)][: len(local)]
    versions = read(workflow)["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}" and len(versions) == 2


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_issue_forms_have_what_github_asks_of_them(path):
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    assert all(x["type"] == "textarea" and x["attributes"]["label"] for x in form["body"])


def test_hooks_before_a_commit_run_tools_of_this_repository():
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        assert {"id", "name", "entry", "language"} <= hook.keys()
        assert hook["entry"].startswith((".venv/bin/ruff ", "make "))


def test_the_citation_has_version_and_license_of_the_package():
    citation = read(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == dst.__version__
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]


def tracked():
    """The files of the repository with their modes, as git has them."""
    command = ["git", "ls-files", "-s", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git repository")
    lines = (line.partition("\t") for line in listed.stdout.split("\0")[:-1])
    return {name: mode.split()[0] for mode, _, name in lines if (ROOT / name).is_file()}


def test_only_scripts_are_executable():
    for name, mode in tracked().items():
        script = (ROOT / name).read_bytes()[:2] == b"#!"
        assert mode == ("100755" if script else "100644"), name


def test_no_file_is_above_a_megabyte():
    assert not [name for name in tracked() if (ROOT / name).stat().st_size > 10**6]
