"""The report of a run shows what the run directory holds, and names what it lacks."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import dst
from dst.io.safetensors import save_masks
from dst.methods import METHODS
from dst.report import question, reading, sections, theme, tiles, write_report

CONFIG = """\
name: small-rigl
model: {name: mlp, hidden: [12]}
data: {name: digits}
method: {name: rigl, sparsity: 0.75, allocation: erk, every: 10}
train: {steps: 40}
seed: 3
"""
SHAPES = {"hidden/kernel": (16, 12), "out/kernel": (12, 4)}
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Every attribute and the text of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"unclosed tags: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def random_masks(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.random(shape) < 0.25 for path, shape in SHAPES.items()}


def sparsities() -> dict[str, float]:
    layers = {
        f"{name}/{path}": value
        for path in SHAPES
        for name, value in (("sparsity", 0.75), ("explored", 0.375))
    }
    return layers | {"sparsity": 0.75, "sparsity_model": 0.7, "explored": 0.375}


def records() -> list[dict]:
    lines = []
    for step in range(10, 41, 10):
        common = sparsities() | {"dropped": 7, "grown": 7}
        lines.append({"step": step, "kind": "topology", "churn": 0.12} | common)
        lines.append({"step": step, "kind": "train", "loss": 1 / step, "accuracy": step / 50})
        lines.append({"step": step, "kind": "eval", "loss": 0.5, "accuracy": 0.9} | common)
    return lines


def summary() -> dict:
    layers = [
        {
            "path": path,
            "shape": list(shape),
            "active": 31 if path == "hidden/kernel" else 17,
            "size": shape[0] * shape[1],
            "sparsity": 0.7712,
            "explored": 0.3333,
            "dropped_total": 4321,
            "grown_total": 4322,
        }
        for path, shape in SHAPES.items()
    ]
    dense = {"path": "out/bias", "shape": [4], "active": 4, "size": 4, "sparsity": 0.0}
    return {
        "accuracy": 0.8765,
        "loss": 0.4,
        "sparsity": 0.7654,
        "sparsity_model": 0.7012,
        "explored": 0.4567,
        "steps": 40,
        "seconds": 83.0,
        "layers": [*layers, dense | dict.fromkeys(("explored", "dropped_total", "grown_total"))],
        "versions": {"jax": "9.8.7"},
    }


def jsonl(lines) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def whole(tmp_path):
    """A run directory in which nothing is missing."""
    where = tmp_path / "run"
    where.mkdir()
    (where / "config.yaml").write_text(CONFIG)
    (where / "metrics.jsonl").write_text(jsonl(records()))
    (where / "summary.json").write_text(json.dumps(summary()))
    save_masks(where / "masks-initial.safetensors", random_masks(0))
    save_masks(where / "masks-final.safetensors", random_masks(1))
    return where


def page(where) -> Page:
    return Page(write_report(where).read_text(encoding="utf-8"))


def notes(text: str) -> str:
    """The text of the part on what is missing."""
    part = re.search(r"What is missing(.*?)In one row", text)
    return part.group(1) if part else ""


def test_the_report_asks_for_nothing_from_outside(whole):
    result = page(whole)
    assert not {"script", "iframe", "object", "embed"} & set(result.tags)
    for tag, name, value in result.attributes:
        assert "://" not in value, (tag, name, value)
        if name in ("src", "href", "srcset", "xlink:href", "data", "action"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    html = (whole / "report.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = [value for tag, name, value in result.attributes if "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_figures_of_the_summary_are_shown(whole):
    text = page(whole).text
    for figure in ("87.6 %", "76.5 %", "70.1 %", "45.7 %", "1 min 23 s", "4,321", "4,322"):
        assert figure in text
    for figure in ("31", "192", "16 × 12", "77.12 %", "33.33 %", "jax 9.8.7", "out/bias"):
        assert figure in text
    assert "48 of 240 selected weights active" in text
    assert "best 90.0 % at step 10" in text


def test_the_question_names_model_data_method_and_sparsity(whole):
    assert (
        "What test accuracy does mlp (hidden 12) reach on digits with RigL at 75 % sparsity?"
    ) in page(whole).text


def test_a_method_that_is_registered_needs_no_line_in_the_report(whole, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Pruner:
        sparsity: float
        a: int = 1
        b: int = 1
        c: int = 1
        d: int = 1
        e: int = 1
        usual: int = 1
        changed: int = 1
        structure: object = dst.Unstructured()

    monkeypatch.setitem(METHODS, "my-pruner", Pruner)
    method = "name: my-pruner, sparsity: 0.5, a: 2, b: 2, c: 2, d: null, e: 2"
    method += ", usual: 1, changed: 3, structure: unstructured"
    text = CONFIG.replace("name: rigl, sparsity: 0.75, allocation: erk, every: 10", method)
    (whole / "config.yaml").write_text(text)
    run = reading.read(whole)
    assert question.question(run).endswith(" on digits with Pruner at 50 % sparsity?")
    shown = ["method my-pruner", "sparsity 0.5", "a 2", "b 2", "c 2", "e 2", "usual 1", "changed 3"]
    assert question.settings(run) == [*shown, "seed 3"]


def test_parts_named_by_import_path_are_called_by_their_last_name(whole):
    (whole / "config.yaml").write_text(
        """\
model: {import: "my.nets:make_vit", depth: 6}
data: {import: "my.data:Spirals", noise: 0.1}
method: {import: "mine:Pruner", sparsity: 0.9}
"""
    )
    sentence = question.question(reading.read(whole))
    assert sentence == (
        "What test accuracy does make_vit (depth 6) reach on Spirals with Pruner at 90 % sparsity?"
    )


def test_figures_of_an_objective_of_the_users_own_are_drawn(whole):
    own = {"loss": 1.5, "mean_error": 0.25}
    lines = [{k: v for k, v in x.items() if k != "accuracy"} for x in records()]
    lines = [x | own if x["kind"] != "topology" else x for x in lines]
    (whole / "metrics.jsonl").write_text(jsonl(lines))
    (whole / "summary.json").write_text(json.dumps({"loss": 1.25}))
    text = page(whole).text
    assert "What test loss does mlp (hidden 12) reach" in text
    assert "Test loss 1.250 best 1.500 at step 10" in text
    titles = [plot.title for plot in sections.training(reading.read(whole)).plots]
    assert titles == ["Loss", "Mean error"]


def test_config_and_the_command_that_repeats_it_are_shown(whole):
    text = page(whole).text
    assert "dst train config.yaml" in text
    assert " ".join(CONFIG.split()) in text


def test_nothing_is_said_to_be_missing_where_nothing_is(whole):
    assert "What is missing" not in page(whole).text


def test_the_same_files_give_the_same_bytes(whole):
    first = write_report(whole).read_bytes()
    theme.matplotlib.rcParams["font.size"] = 17.0
    try:
        assert write_report(whole).read_bytes() == first
        assert theme.matplotlib.rcParams["font.size"] == 17.0
    finally:
        theme.matplotlib.rcParams["font.size"] = 10.0


def test_ids_are_unique_and_every_reference_has_one(whole):
    result = page(whole)
    ids = [value for _, name, value in result.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    html = (whole / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) == set(ids)


def test_figures_follow_light_and_dark(whole):
    html = write_report(whole).read_text(encoding="utf-8")
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'href="data:[^"]*"', "", svg))
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= set(re.findall(r"(--[\w-]+):", html))


def test_text_from_files_is_escaped(whole):
    evil = "<script>alert('x')</script>&\""
    (whole / "config.yaml").write_text(f"name: {json.dumps(evil)}\nmodel: {{name: '<b>'}}\n")
    figures = summary()
    figures["layers"][0]["path"] = evil
    figures["versions"] = {evil: evil}
    (whole / "summary.json").write_text(json.dumps(figures))
    line = {"step": 50, "kind": "eval", "accuracy": 0.5, f"explored/{evil}": 0.5}
    (whole / "metrics.jsonl").write_text(jsonl([*records(), line]))
    masks = {evil: np.eye(16, dtype=bool)}
    save_masks(whole / "masks-initial.safetensors", masks)
    save_masks(whole / "masks-final.safetensors", masks)
    result = page(whole)
    assert "script" not in result.tags and "b" in result.tags
    assert result.text.count(evil) >= 4
    html = (whole / "report.html").read_text(encoding="utf-8")
    assert "<b>&lt;" not in html and "<script" not in html


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "masks-initial.safetensors",
        "masks-final.safetensors",
    ],
)
@pytest.mark.parametrize("harm", ["absent", "empty", "noise"])
def test_a_missing_or_damaged_file_is_named(whole, name, harm):
    if harm == "absent":
        (whole / name).unlink()
    else:
        (whole / name).write_bytes(b"" if harm == "empty" else b"\xff{[\x00 :\n\x9f!")
    text = page(whole).text
    assert name in notes(text)
    if name != "summary.json":
        assert "87.6 %" in text


@pytest.mark.parametrize("only", ["config.yaml", "metrics.jsonl", "summary.json"])
def test_a_run_of_one_file_has_a_report(whole, only):
    for path in whole.iterdir():
        if path.name != only:
            path.unlink()
    missing = notes(page(whole).text)
    assert only not in missing
    assert missing.count("missing") == 4


def test_a_run_under_way_shows_its_last_logged_figures(whole):
    (whole / "summary.json").unlink()
    (whole / "masks-final.safetensors").unlink()
    (whole / "metrics.jsonl").write_text(jsonl(records()[:6]))
    text = page(whole).text
    assert "has not finished" in notes(text)
    assert "90.0 %" in text and "75.0 %" in text and "37.5 %" in text
    assert "of 40 planned" in text
    assert "Mask before training" in text and "Mask after training" not in text


def test_an_incomplete_last_line_is_left_out_and_named(whole):
    lines = jsonl(records())
    (whole / "metrics.jsonl").write_text(lines + '{"step": 50, "kind": "eval", "accu')
    result = page(whole)
    assert "The last line of metrics.jsonl is incomplete" in notes(result.text)
    assert reading.read(whole).lines == sorted(records(), key=lambda line: line["step"])


def test_unreadable_lines_are_counted(whole):
    bad = ['{"kind": "train"}', "[1]", '"text"', '{"step": "a", "kind": "eval"}', "{}", "\x00"]
    (whole / "metrics.jsonl").write_text("\n".join(bad) + "\n" + jsonl(records()))
    assert "6 unreadable lines are left out (line 1, 2, 3, 4, 5, ...)" in notes(page(whole).text)


def test_values_that_are_no_numbers_leave_gaps_and_are_named(whole):
    lines = records()
    odd = iter((float("nan"), float("inf"), None, "text", True, {}, 10**400))
    for line in lines:
        if line["kind"] == "train":
            line["loss"] = next(odd)
        for key in ("grown", "churn", "explored", "sparsity/out/kernel"):
            if key in line and line["step"] == 20:
                line[key] = float("nan")
    (whole / "metrics.jsonl").write_text(jsonl(lines))
    figures = summary() | {"accuracy": float("nan"), "seconds": None, "sparsity": "high"}
    (whole / "summary.json").write_text(json.dumps(figures))
    text = page(whole).text
    note = "The train loss is not a finite number on 4 of 4 lines, first at step 10."
    assert note in notes(text)
    assert "90.0 %" in text, "the last logged accuracy stands in for the summary's"
    assert "nan" not in text.lower().split()


def test_a_dense_run_misses_nothing(whole):
    dense = [
        {k: v for k, v in line.items() if "/" not in k}
        for line in records()
        if line["kind"] != "topology"
    ]
    (whole / "config.yaml").write_text(CONFIG.replace("rigl, sparsity: 0.75", "dense"))
    (whole / "metrics.jsonl").write_text(jsonl(dense))
    figures = summary() | {"layers": summary()["layers"][-1:], "sparsity": 0.0}
    (whole / "summary.json").write_text(json.dumps(figures))
    (whole / "masks-initial.safetensors").unlink()
    save_masks(whole / "masks-final.safetensors", {})
    text = page(whole).text
    assert "What is missing" not in text
    assert "reach on digits when all of its weights are in use?" in text
    assert "This run is dense: no layer is sparse" in text and "A dense run has no masks" in text


def test_a_static_mask_is_said_to_be_the_same(whole):
    (whole / "metrics.jsonl").write_text(
        jsonl(line for line in records() if line["kind"] != "topology")
    )
    save_masks(whole / "masks-final.safetensors", random_masks(0))
    text = page(whole).text
    assert "The mask is the same before and after training." in text
    assert "The metrics contain no topology step." in text and "What changed" not in text


def test_masks_alone_tell_the_sparsity(whole):
    (whole / "metrics.jsonl").unlink()
    (whole / "summary.json").unlink()
    masks = {"w": np.arange(40).reshape(8, 5) < 5}
    save_masks(whole / "masks-initial.safetensors", masks)
    save_masks(whole / "masks-final.safetensors", masks)
    tile = tiles.tiles(reading.read(whole))[1]
    assert (tile.value, tile.detail) == ("87.5 %", "5 of 40 selected weights active")


def test_many_layers_share_one_legend_entry(whole):
    lines = [
        {"step": step, "kind": "eval", "explored": 0.5}
        | {f"explored/{i}": 0.4 + step / 100 for i in range(30)}
        | {f"sparsity/{i}": 0.9 - step / 100 for i in range(30)}
        for step in (1, 2)
    ]
    (whole / "metrics.jsonl").write_text(jsonl(lines))
    (whole / "summary.json").unlink()
    for name in ("initial", "final"):
        (whole / f"masks-{name}.safetensors").unlink()
    plot = sections.exploration(reading.read(whole)).plots[0]
    assert [key.label for key in plot.legend] == ["each layer", "all sparse layers"]
    page(whole)


def test_a_long_run_stays_small(whole):
    lines = [
        {"step": i, "kind": "train", "loss": float(np.sin(i)) + 2, "accuracy": 0.5}
        for i in range(20_000)
    ]
    (whole / "metrics.jsonl").write_text(jsonl(lines))
    assert write_report(whole).stat().st_size < 500_000


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_a_directory_that_is_no_run_is_refused(tmp_path, make):
    where = tmp_path / "other"
    if make == "empty":
        where.mkdir()
        (where / "notes.txt").write_text("")
    elif make == "file":
        where.write_text("")
    with pytest.raises(FileNotFoundError, match="expected .*found .*dst train"):
        write_report(where)
    assert not list(tmp_path.rglob("report.html*"))


def test_the_report_is_written_whole_or_not_at_all(whole, monkeypatch):
    target = write_report(whole)
    before = target.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("dst.report.run.os.replace", broken)
    (whole / "summary.json").unlink()
    with pytest.raises(OSError, match="disk full"):
        write_report(whole)
    assert target.read_bytes() == before


def test_a_run_on_text_reports_bits_per_byte(whole):
    lines = [x | ({"bits_per_byte": 3 - x["step"] / 50} if "loss" in x else {}) for x in records()]
    (whole / "metrics.jsonl").write_text(jsonl(lines))
    (whole / "summary.json").write_text(json.dumps(summary() | {"bits_per_byte": 2.125}))
    text = page(whole).text
    assert "What test bits per byte does mlp (hidden 12) reach on digits with RigL at 75 %" in text
    assert "Test bits per byte 2.125 best 2.200 at step 40" in text
    html = (whole / "report.html").read_text(encoding="utf-8")
    titles = re.findall("<figcaption>(.*?)</figcaption>", html)
    assert titles[:2] == ["Bits per byte", "Accuracy"]
