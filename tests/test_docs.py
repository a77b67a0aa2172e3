"""The documentation: its links lead somewhere, its examples run, and nothing is missing in it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import generate
import links
import pytest
import reference
import typer

import dst
from dst import cli
from dst.cli.app import app
from dst.studies import sweep
from dst.studies.continual import config as continual
from dst.studies.lottery import config as lottery
from dst.train.config import docstrings, json_schema, plain_data
from dst.train.config import run as config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    + [x for x in DOCS.rglob("*.md") if not x.is_relative_to(links.GENERATED)]
    + list((ROOT / "experiments").glob("*/README.md"))
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    """The code of these languages in a page."""
    return [code for language, code in FENCE.findall(page.read_text()) if language in languages]


@pytest.fixture(scope="module")
def generated():
    """Names of the pages that a build makes."""
    return {links.GENERATED / x for x in generate.pages()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_or_to_addresses(page, generated):
    for target in links.links(page.read_text()):
        if links.inside(target):
            file = Path(os.path.normpath(page.parent / unquote(target.partition("#")[0])))
            assert file.exists() or file in generated, target
        elif not target.startswith("#"):
            parts = urlsplit(target)
            assert parts.scheme == "https" and "." in parts.netloc, target


def test_a_link_to_no_file_ends_the_build():
    page = DOCS / "index.md"
    with pytest.raises(ValueError, match=r"found none: missing\.md"):
        links.rewritten("[x](missing.md)", page, page)
    assert links.rewritten("`[x](missing.md)`", page, page) == "`[x](missing.md)`"
    readme = ROOT / "README.md"
    text = links.rewritten("[x](experiments/meshes/README.md#table)", readme, page)
    assert text == "[x](generated/experiments/meshes.md#table)"


def test_methods_and_first_words_of_generated_pages_are_linked_as_pages_of_the_site():
    origin, page = ROOT / "README.md", DOCS / "index.md"
    for target, there in {
        "dst/methods/sr_ste.py": "generated/methods/sr-ste.md",
        "docs/intro/methods.md": "generated/methods/index.md",
        "docs/intro/configuration.md": "generated/configuration.md",
    }.items():
        assert links.rewritten(f"[x]({target})", origin, page) == f"[x]({there})"


# Each trains or compiles for ten seconds and more.
SLOW = [
    f"docs/howto/{x}.md"
    for x in ("recover", "blocks", "caches", "prune", "robustness", "continual")
]


# README's script is run by tests/test_adoption.py.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(x, marks=[pytest.mark.evidence] if name(x) in SLOW else [])
        for x in PAGES[3:]
        if blocks(x, "python")
    ],
    ids=name,
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in blocks(page, "python"):
        exec(compile(code, name(page), "exec", dont_inherit=True), names)


def lines_of(page):
    """Every ``dst ...`` line of a page's blocks, and every ``dst COMMAND ...`` within its text."""
    text = page.read_text()
    lines = [line for code in blocks(page, "", "sh", "bash") for line in code.splitlines()]
    inline = re.findall(r"`(dst [a-z]+ [^`…]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines += [x.replace("\n", " ") for x in inline if "..." not in x]
    return [shlex.split(x, comments=True) for x in lines if re.match(r"dst [a-z]", x.strip())]


def parsed(words):
    """The command that the words name, and its arguments; nothing is executed.

    Raises:
      TyperException: the command line would refuse them.
    """
    command = typer.main.get_command(app).commands[words[0]]
    arguments = command.make_context(words[0], words[1:]).params
    return parsed(arguments["arguments"]) if words[0] == "launch" else (words[0], arguments)


@pytest.mark.parametrize("page", [x for x in PAGES if lines_of(x)], ids=name)
def test_the_commands_of_a_page_are_accepted(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in lines_of(page):
        if ">" in words:
            words = words[: words.index(">")]
        command, arguments = parsed(words[1:])
        file = str(arguments.get("config") or arguments.get("file"))
        if not file.startswith("configs/"):
            continue
        overrides = [x for x in arguments.get("overrides") or () if x != "..."]
        if command == "sweep":
            assert sweep.load(file).trials()
        elif command in ("lottery", "continual"):
            {"lottery": lottery, "continual": continual}[command].load(file, overrides)
        else:
            config.load(file, overrides)


@pytest.mark.parametrize("page", [x for x in PAGES if blocks(x, "yaml")], ids=name)
def test_the_configs_of_a_page_load(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "yaml"):
        file = tmp_path / "page.yaml"
        file.write_text(text)
        if "apiVersion" in text:  # of Kubernetes
            continue
        data = plain_data.read(file)
        if "command" in data:
            if "mine.py" in data["command"]:  # of the reader
                (tmp_path / "mine.py").touch()
                file.write_text(text.replace("mine.py", str(tmp_path / "mine.py")))
            assert sweep.load(file).trials()
        elif "model" in data:
            config.load(file)
        elif "data" in data:
            config.DATA.read(data["data"], "data")


def test_every_method_has_a_page_with_its_formula_its_keys_and_its_source():
    index = generate.methods()
    for key, option in config.METHOD.options.items():
        thing = reference.method_object(key)
        page = generate.method(key)
        assert f"]({key}.md)" in index
        assert re.search(rf"auto(class|function):: dst\.{thing.__name__}$", page, re.MULTILINE)
        for field in json_schema.defaults(option):
            assert f"| `{field}` |" in page, (key, field)
        (shortest,) = re.findall(r"```yaml\nmethod: (.*)\n```", page)
        found = config.METHOD.read(plain_data.override(f"method={shortest}")["method"], "method")
        assert found.name == key and found.value.rule(10_000)
        assert "Checked against" in docstrings.paragraphs(thing), key


def test_methods_that_were_measured_show_their_rows():
    page = generate.method("rigl")
    assert "](../experiments/methods_mnist5k.md)" in page
    table = (ROOT / "experiments/methods_mnist5k/README.md").read_text()
    rows = re.findall(r"^\| RigL(?:,.*?)? \|.*$", table, re.MULTILINE)
    assert len(rows) > 1 and all(row in page for row in rows)
    others = re.findall(r"^\| SET \|.*$", table, re.MULTILINE)
    assert others and others[0] not in page and others[0] in generate.method("set")


def keys_of(found):
    """Keys of a schema, and of the sections in it."""
    for key, entry in found.get("properties", {}).items():
        yield key
        yield from keys_of(entry)
    for arm in found.get("anyOf", ()):
        yield from keys_of(arm)


def test_the_reference_has_every_key_of_the_schema():
    text = reference.page()
    sections = dict(re.findall(r"^\(config-([\w-]+)\)=\n(.*?)(?=^\(config-|\Z)", text, re.M | re.S))
    top = json_schema.json_schema(config.Config)["properties"]
    for section, entry in top.items():
        assert f"| `{section}` |" in text.partition("(config-")[0]
        if section == "method":  # each has a section of its own
            continue
        for key in set(keys_of(entry)) - {"name"}:
            assert f"`{key}`" in sections[section], (section, key)
    for key, option in config.METHOD.options.items():
        for field in json_schema.defaults(option):
            assert f"| `{field}` |" in sections[f"method-{key}"], (key, field)
    for key in set(keys_of(lottery.json_schema())) - {"name"}:
        assert f"| `{key}` |" in sections["lottery"], key
    for key in set(keys_of(continual.json_schema())) - {"name"}:
        assert f"| `{key}` |" in sections["continual"] + sections["strategy"], key


def test_every_public_name_is_documented():
    api = (DOCS / "api.md").read_text()
    documented = set(re.findall(r"auto\w+:: dst\.([\w.]+)", api))
    documented |= {reference.method_object(key).__name__ for key in config.METHOD.options}
    assert set(dst.__all__) | set(dst._LAZY) <= documented
    for part in ("nnx", "flops", "rules.scores", "models", "activations"):
        module = importlib.import_module(f"dst.{part}")
        whole = f"automodule:: dst.{part}" in api
        assert whole or {f"{part}.{x}" for x in module.__all__} <= documented


def messages():
    """Strings of the package, with … where something is put in."""
    for file in (ROOT / "dst").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (x.value if isinstance(x, ast.Constant) else "…" for x in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_page_of_the_command_line_shows_the_help_that_commands_print(capsys):
    page = generate.command_line()  # which sets the width of a terminal, too
    for words in ([], *([x] for x in typer.main.get_command(app).commands)):
        assert cli.main([*words, "--help"]) == 0
        assert f"```text\n{capsys.readouterr().out.strip()}\n```" in page


def test_messages_in_troubleshooting_are_those_of_the_code():
    text = (DOCS / "troubleshooting.md").read_text()
    headings = re.findall(r"^### `(.*)`$", text, re.MULTILINE)
    quoted = [message for heading in headings for message in heading.split("`, `")]
    known = list(messages())
    assert len(quoted) > 15
    for message in quoted:
        parts = [re.escape(x.strip()) for x in message.split("…") if x.strip()]
        assert any(re.search(".*".join(parts), x, re.DOTALL) for x in known), message


def test_pages_include_what_the_readme_has():
    for page in PAGES:
        for file, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", page.read_text(), re.S):
            text = (page.parent / file).read_text()
            for mark in re.findall(r':(?:start-after|end-before): "(.*)"', options):
                assert text.count(mark) == 1, (name(page), mark)


def build(where, **environment):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", str(DOCS), where]
    done = subprocess.run(
        [*command[:-1], str(where)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.evidence
def test_data_made_as_the_page_says_trains_with_the_config_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = DOCS / "howto" / "data.md"
    for code in blocks(page, "python"):
        exec(compile(code, name(page), "exec", dont_inherit=True), {"__name__": "page"})
    Path("rings.yaml").write_text(blocks(page, "yaml")[0])
    assert cli.main(["train", "rings.yaml"]) == 0
    summary = json.loads(Path("runs/rings/summary.json").read_text())
    assert summary["accuracy"] > 0.9


@pytest.mark.evidence
def test_the_site_builds_without_warnings_and_links_to_nothing_missing(tmp_path):
    build(tmp_path)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not urlsplit(target).scheme:
                assert (page.parent / unquote(target)).exists(), (page.name, target)
            elif "src=" in target:
                raise AssertionError(target)


@pytest.mark.evidence
def test_the_site_builds_with_its_notebooks_executed(tmp_path):
    if not list((ROOT / "notebooks").glob("*.ipynb")):
        pytest.skip("there are no notebooks")
    build(tmp_path, DST_DOCS_EXECUTE="1", DST_FAST="1")
