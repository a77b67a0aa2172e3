"""The report of many runs: seeds are averaged, nothing unfinished counts, nothing is hidden."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from dst import cli
from dst.report import answer, collect, curves, figures, groups, many, tables, words
from dst.studies.sweep import driver as sweeps
from dst.train.records.run_dir import DirectoryError
from tests import browser
from tests.report.test_run import Page

CONFIG = """\
name: "{name}"
model: {{name: mlp, hidden: [12]}}
data: {{name: digits}}
optimizer: {{name: adamw, learning_rate: {learning_rate}}}
method: {method}
train: {{steps: 40}}
seed: {seed}
"""
METHODS = {  # options that only one of them has, too
    "rigl": "{{name: rigl, sparsity: {sparsity}, regrow: allow, every: {every}}}",
    "set": "{{name: set, sparsity: {sparsity}, signed: false, every: {every}}}",
    "dense": "{{name: dense}}",
}


def make(
    where: Path,
    method: str = "rigl",
    *,
    sparsity: float = 0.9,
    seed: int = 0,
    accuracy: float = 0.9,
    every: int = 10,
    learning_rate: float = 0.001,
    ended: bool = True,
) -> Path:
    """A run directory as training leaves it."""
    where.mkdir(parents=True)
    text = METHODS[method].format(sparsity=sparsity, every=every)
    about = {"name": where.name, "seed": seed, "learning_rate": learning_rate}
    (where / "config.yaml").write_text(CONFIG.format(method=text, **about))
    sparse = 0.0 if method == "dense" else sparsity
    lines = []
    for step in (10, 20, 30, 40):
        common = {"sparsity": sparse, "explored": 1 - sparse + step / 1000}
        if method != "dense":
            lines.append({"step": step, "kind": "topology", "churn": 0.3 - step / 200} | common)
        lines.append({"step": step, "kind": "train", "loss": 10 / step + seed})
        score = accuracy - (40 - step) / 100
        lines.append({"step": step, "kind": "eval", "loss": 5 / step, "accuracy": score} | common)
    lines = lines if ended else lines[: len(lines) // 2]
    (where / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"accuracy": accuracy, "loss": 0.125, "steps": 40, "seconds": 2.0}
    summary |= {"sparsity": sparse, "sparsity_model": sparse, "explored": 1 - sparse}
    summary |= {"training_cost": 1.2 * (1 - sparse), "forward_cost": 1 - sparse}
    if ended:
        (where / "summary.json").write_text(json.dumps(summary | {"layers": []}))
    return where


def make_sweep(where: Path) -> Path:
    """Two methods, three sparsities, three seeds; accuracy falls with sparsity, RigL leads."""
    rows = []
    for method in ("rigl", "set"):
        for sparsity in (0.9, 0.95, 0.98):
            for seed in range(3):
                accuracy = 1.8 - sparsity + seed / 100 - 0.03 * (method == "set")
                number = f"{len(rows):05d}"
                about = {"sparsity": sparsity, "seed": seed, "accuracy": accuracy}
                make(where / "trials" / number, method, **about)
                rows.append(
                    {
                        "number": len(rows),
                        "state": "done",
                        "settings": {
                            "method.name": method,
                            "method.sparsity": sparsity,
                            "seed": seed,
                        },
                        "value": accuracy,
                        "error": None,
                        "directory": f"trials/{number}",
                    }
                )
    about = {"name": "toy", "metric": "accuracy", "goal": "maximize", "best": 2}
    (where / "sweep.json").write_text(json.dumps({**about, "trials": rows}))
    (where / "sweep.yaml").write_text("name: toy\nmetric: {name: accuracy, goal: maximize}\n")
    return where


def change(where: Path, number: int, **row) -> Path:
    """Changes what ``sweep.json`` says of a trial; returns the trial's directory."""
    results = json.loads((where / "sweep.json").read_text())
    results["trials"][number] |= row
    (where / "sweep.json").write_text(json.dumps(results))
    return where / "trials" / f"{number:05d}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished sweep with its report; not to be changed."""
    where = make_sweep(tmp_path_factory.mktemp("kept") / "toy")
    many.write_report([where])
    return where


@pytest.fixture
def toy(tmp_path):
    return make_sweep(tmp_path / "toy")


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def layout(*runs: Path) -> groups.Layout:
    return many.compare(collect.collect(runs)).layout


def test_runs_that_differ_in_their_seed_only_are_one_group(kept):
    comparison = many.compare(collect.collect([kept]))
    assert list(comparison.keys) == ["method.name", "method.sparsity"]
    assert [len(group.trials) for group in comparison.groups] == [3] * 6
    assert comparison.layout == groups.Layout("method.sparsity", ("method.name",), ())
    means = [group.mean("accuracy") for group in comparison.groups]
    np.testing.assert_allclose(means, [0.91, 0.86, 0.83, 0.88, 0.83, 0.80], atol=1e-12)


def test_parts_named_by_import_path_are_one_setting_with_those_named(tmp_path):
    runs = [make(tmp_path / "a"), make(tmp_path / "b")]
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(text.replace("name: rigl", "import: 'mine:Pruner'"))
    comparison = many.compare(collect.collect(runs))
    assert list(comparison.lines()) == ["mine:Pruner", "rigl"]


def test_a_setting_that_repeats_another_is_left_out():
    def trial(**settings):
        named = {key.replace("__", "."): value for key, value in settings.items()}
        return collect.Trial("x", Path("x"), "done", settings=named)

    same = [trial(method__sparsity=s, sparsity=s, seed=n) for s in (0.5, 0.9) for n in (0, 1)]
    assert groups.varying(same) == ["method.sparsity"]
    # Runs of another program have keys of their own; they do not tell these runs apart again.
    origins = [trial(data__name="a", train__steps=5, recipe=None), trial(data__name="b")]
    assert groups.varying(origins) == ["data.name"]
    # What changes with the sparsity, and is not it, is told.
    rates = [trial(method__sparsity=s, rate=r) for s, r in ((0.5, 1), (0.9, 2))]
    assert groups.varying(rates) == ["method.sparsity", "rate"]


def test_intervals_are_students_from_three_seeds_on(tmp_path):
    scores = (0.90, 0.92, 0.94)
    runs = [make(tmp_path / f"{i}", seed=i, accuracy=x) for i, x in enumerate(scores)]
    (group,) = many.compare(collect.collect(runs)).groups
    # 4.302653 is the 97.5 % point of Student's distribution with two degrees of freedom.
    assert group.half("accuracy") == pytest.approx(4.302653 * 0.02 / np.sqrt(3), rel=1e-6)
    (pair,) = many.compare(collect.collect(runs[:2])).groups
    assert pair.half("accuracy") is None


def test_the_horizontal_axis_is_sparsity_or_the_number_of_most_values(tmp_path):
    a = make(tmp_path / "a", every=10, learning_rate=0.1)
    b = make(tmp_path / "b", every=20, learning_rate=0.1)
    c = make(tmp_path / "c", every=30, learning_rate=0.2)
    d = make(tmp_path / "d", sparsity=0.8)
    e = make(tmp_path / "e", "set")
    assert layout(a, b, c).x == "method.every"
    assert layout(a, b, c).line == ("optimizer.learning_rate",)
    assert layout(a, d).x == "method.sparsity"
    assert layout(a, e) == groups.Layout("optimizer.learning_rate", ("method.name",), ())
    assert layout(d, e).x == "method.sparsity"
    f = make(tmp_path / "f", "set", every=20)
    assert layout(d, make(tmp_path / "g", "set", sparsity=0.8, every=20)).line == ("method.name",)
    assert groups.following(collect.collect([d, f]).trials) == ["method.every"]
    assert layout(a) == groups.Layout(None, (), ())


def test_numbers_that_would_make_too_many_lines_tell_none_apart(tmp_path):
    rng = np.random.default_rng(0)
    runs = [
        make(tmp_path / f"{i}", sparsity=s, learning_rate=r, accuracy=0.9 - r)
        for i, (s, r) in enumerate(zip(rng.random(10), rng.random(10), strict=True))
    ]
    result = layout(*runs)
    assert result == groups.Layout("method.sparsity", (), ("optimizer.learning_rate",))
    text = page(many.write_report(runs, tmp_path / "all.html")).text
    assert "Points of one colour differ in learning rate." in text
    assert "All settings" in text


def test_what_no_cost_and_no_figure_beats_is_the_front():
    rng = np.random.default_rng(1)
    cost, gain = rng.integers(0, 12, (2, 60)) / 10.0
    best = figures.front(cost, gain)
    for i in range(60):
        beaten = ((cost <= cost[i]) & (gain > gain[i])) | ((cost < cost[i]) & (gain >= gain[i]))
        same = [j for j in best if (cost[j], gain[j]) == (cost[i], gain[i])]
        assert len(same) == (not beaten.any())
    assert list(cost[best]) == sorted(cost[best])


def test_a_curve_is_the_mean_over_seeds_at_the_steps_they_share(kept, tmp_path):
    comparison = many.compare(collect.collect([kept]))
    kind = next(x for x in curves.kinds(comparison) if x.title == "Training loss")
    curve = curves.curves(comparison, kind)[0]
    assert curve.runs == 3
    np.testing.assert_allclose(curve.values, [10 / step + 1 for step in (10, 20, 30, 40)])
    one, two = make(tmp_path / "a", seed=0), make(tmp_path / "b", seed=2)
    lines = (two / "metrics.jsonl").read_text().splitlines()[3:]
    (two / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (curve,) = curves.curves(many.compare(collect.collect([one, two])), kind)
    assert curve.steps.tolist() == [20, 30, 40]


def test_what_has_not_ended_counts_in_no_figure(toy):
    before = many.compare(collect.collect([toy])).groups[0].mean("accuracy")
    (toy / "trials/00000/summary.json").unlink()
    change(toy, 1, state="failed", error="disk full")
    group = many.compare(collect.collect([toy])).groups[0]
    assert len(group.trials) == 3 and group.values("accuracy").size == 1
    assert before == pytest.approx(0.91) and group.mean("accuracy") == pytest.approx(0.92)


def test_the_table_of_runs_has_the_settings_of_each(kept):
    runs = collect.collect([kept])
    table = tables.runs(many.compare(runs), runs.trials, kept)
    for key, head in (("method.name", "method"), ("method.sparsity", "sparsity"), ("seed", "seed")):
        column = [row[table.heads.index(head)].text for row in table.rows]
        assert column == [words.worded(trial.settings[key]) for trial in runs.trials]


def test_every_trial_is_listed_with_its_state_and_its_error(toy):
    evil = "<script>alert(1)</script>"
    change(toy, 0, state="failed", error=evil)
    for number in (2, 3):
        (toy / f"trials/{number:05d}/summary.json").unlink()
    lock = toy / "trials/00002/lock"
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.with_name("metrics.jsonl").write_bytes(b"\xff{")
    (toy / "trials/00003/lock").write_text(f"process {2**30} on {socket.gethostname()}\n")
    change(toy, 4, state="pruned")
    gone = change(toy, 5, state="waiting")
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    target = many.write_report([toy])
    states = [row["state"] for row in rows(target.with_suffix(".csv"))]
    expected = ["failed", "done", "running", "unfinished", "pruned", "waiting"]
    assert states == expected + ["done"] * 12
    assert lock.read_text().startswith("process"), "the lock of a run is not touched"
    text = page(target).text
    assert "13 done, 1 failed, 1 running, 1 unfinished, 1 pruned, 1 waiting" in text
    assert evil in text and text.count("What is missing") == 1
    assert "2 runs, 00002, 00003: summary.json is missing" in text
    assert "00002: metrics.jsonl holds no metrics yet" in text
    # The sweep has the settings of a trial that has not started.
    assert rows(target.with_suffix(".csv"))[5]["method.sparsity"] == "0.95"


@pytest.mark.parametrize("name", ["sweep.json", "sweep.yaml"])
@pytest.mark.parametrize("harm", ["absent", "noise", "list"])
def test_a_damaged_sweep_shows_its_trials_and_names_what_is_missing(toy, name, harm):
    if harm == "absent":
        (toy / name).unlink()
    else:
        (toy / name).write_bytes(b"\xff{[\x00 :\n\x9f!" if harm == "noise" else b"[1, 2]")
    (toy / "trials/99999").mkdir()
    runs = collect.collect([toy])
    state = "missing" if harm == "absent" else "damaged"
    assert [f"{name} is {state}" in note for note in runs.notes] == [True, False]
    assert runs.notes[1].endswith("99999 is left out: it holds no file of a run.")
    assert [trial.state for trial in runs.trials] == ["done"] * 18
    (sentence,) = answer.answer(many.compare(runs))
    assert sentence.startswith("At 98 % sparsity RigL is 3.0 points above SET (95 % interval")


def test_a_sweep_without_trials_has_a_report(tmp_path):
    where = tmp_path / "new"
    (where / "trials").mkdir(parents=True)
    text = page(many.write_report([where])).text
    assert "has no trials yet" in text and "There are no final figures yet" in text


def test_the_names_of_a_sweeps_files_are_those_that_it_writes():
    names = (collect.FILE, collect.JOURNAL, collect.RESULTS)
    assert names == (sweeps.FILE, sweeps.JOURNAL, sweeps.RESULTS)


def test_the_page_asks_for_nothing_and_runs_one_script(kept):
    result = page(kept / "report.html")
    for tag, name, value in result.attributes:
        assert "://" not in value, (tag, name, value)
        if name in ("src", "srcset", "xlink:href", "data", "action"):
            assert value.startswith("data:"), (tag, name, value)
    html = (kept / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for _, _, value in result.attributes if "default-src" in value]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    ids = [value for _, name, value in result.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) == set(ids)


def test_links_lead_to_run_directories_and_commands_repeat_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make(Path("my runs/a&b #1"))
    (run / "report.html").write_text("")
    target = many.write_report([run, make(tmp_path / "b", "set")], "out.html")
    links = [v for t, n, v in page(target).attributes if (t, n) == ("a", "href")]
    assert links[1:3] == ["my%20runs/a%26b%20%231/", "my%20runs/a%26b%20%231/report.html"]
    assert not any(link.startswith("/") for link in links)
    assert "dst train 'my runs/a&b #1/config.yaml'" in page(target).text
    assert Path("out.csv").is_file() and Path("out-curves.csv").is_file()


def test_the_same_data_is_there_as_csv(kept):
    table = rows(kept / "report.csv")
    assert len(table) == 18
    first = table[0]
    assert (first["method.name"], first["method.sparsity"], first["seed"]) == ("rigl", "0.9", "0")
    assert float(first["accuracy"]) == 0.9 and float(first["training_cost"]) == 1.2 * (1 - 0.9)
    points = [x for x in rows(kept / "report-curves.csv") if x["curve"] == "Test accuracy"]
    assert len(points) == 6 * 4
    assert points[3] | {"mean": ""} == {
        "method.name": "rigl",
        "method.sparsity": "0.9",
        "runs": "3",
        "ended": "True",
        "curve": "Test accuracy",
        "step": "40.0",
        "mean": "",
    }
    assert float(points[3]["mean"]) == pytest.approx(0.91)
    saved = [v for _, _, v in page(kept / "report.html").attributes if v.startswith("data:text")]
    assert len(saved) == 1


def test_the_page_says_what_is_asked_what_varies_and_what_bands_are(kept):
    text = page(kept / "report.html").text
    assert (
        "How does the accuracy of mlp (hidden 12) on digits depend on method and sparsity?" in text
    )
    for part in (
        "method: rigl, set",
        "sparsity: 0.9, 0.95, 0.98",
        "seed: 0, 1, 2",
        "Points are means over 3 seeds; small points are single runs. Bands are 95 % t intervals",
        "At 98 % sparsity RigL is 3.0 points above SET (95 % interval 3.0 to 3.0, 3 paired seeds)",
        "There is no dense baseline. To add one: dst train",
        "Pareto front, cheapest first: rigl, sparsity 0.98; rigl, sparsity 0.95; rigl, sparsity",
        "learning_rate: 0.001",
        "dst train",
    ):
        assert part in text, part
    for title in ("Training loss", "Test loss", "Sparsity", "Explored weights", "Churn"):
        assert f"<figcaption>{title}</figcaption>" in (kept / "report.html").read_text()


def test_a_run_without_the_setting_is_a_horizontal_line(tmp_path):
    runs = [make(tmp_path / f"{x}", sparsity=x, accuracy=1.5 - x) for x in (0.8, 0.9)]
    runs.append(make(tmp_path / "dense", "dense", accuracy=0.95))
    comparison = many.compare(collect.collect(runs))
    assert comparison.layout.x == "method.sparsity"
    plot = figures.against_setting(comparison)
    assert plot.caption == "Horizontal lines are runs without a sparsity. Each point is one run."
    assert [key.label for key in plot.legend] == ["dense", "rigl"]


def test_the_same_files_give_the_same_bytes(kept):
    first = (kept / "report.html").read_bytes()
    assert many.write_report([kept]).read_bytes() == first


def test_a_run_that_is_named_twice_counts_once(kept):
    runs = collect.collect([kept, kept / "trials/00003", f"{kept}/../toy"])
    assert len(runs.trials) == 18


@pytest.mark.parametrize("make_", ["nothing", "empty", "file"])
def test_what_is_no_run_sweep_or_study_is_refused(tmp_path, make_, capsys, kept):
    where = tmp_path / "other"
    if make_ == "empty":
        where.mkdir()
        (where / "sweep.yaml").write_text("")  # a sweep file is no sweep's directory
    elif make_ == "file":
        where.write_text("")
    with pytest.raises(DirectoryError, match="is not a run, sweep or study: expected .* found"):
        collect.collect([kept, where])
    assert cli.main(["report", str(kept), str(where)]) == 2
    assert "Give directories that `dst train`, `dst sweep`" in capsys.readouterr().err
    assert cli.main(["report", str(kept), "--out", str(tmp_path / "x.pdf")]) == 2
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_writes_runs_compared_or_one_sweep(tmp_path, monkeypatch, capsys, toy):
    monkeypatch.chdir(tmp_path)
    runs = [f"toy/trials/0000{i}" for i in (0, 3)]
    assert cli.main(["report", *runs]) == 0
    assert cli.main(["report", "toy"]) == 0
    assert cli.main(["report", runs[0], "--out", "one.html"]) == 0
    written = ["comparison.html", "toy/report.html", "one.html"]
    assert capsys.readouterr().out.split("\n")[:3] == [f"report: {x}" for x in written]
    assert "Comparison of 2 runs" in page(Path("comparison.html")).text


@pytest.fixture
def chromium(tmp_path):
    if browser.BROWSER is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with browser.Browser(tmp_path / "profile") as opened:
        yield opened


@pytest.mark.evidence
def test_the_browser_hears_of_errors_and_of_requests(chromium, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        """<meta http-equiv="Content-Security-Policy" content="script-src 'none'">
        <script>1</script><img src="other.png">"""
    )
    chromium.open(bad, width=390)
    assert any("Content Security Policy" in text for text in chromium.errors)
    assert any("ERR_FILE_NOT_FOUND" in text for text in chromium.errors)
    assert chromium.requests == [bad.as_uri(), (tmp_path / "other.png").as_uri()]


@pytest.mark.evidence
def test_a_browser_finds_no_error_and_asks_for_nothing(chromium, toy):
    cli.main(["report", str(toy / "trials/00000")])
    pages = [many.write_report([toy]), toy / "trials/00000/report.html"]
    tiles = '[...document.querySelectorAll(".tiles > div")].map(x => x.offsetTop)'
    for target in pages:
        for width in (390, 1200):
            for dark in (False, True):
                chromium.open(target, width=width, dark=dark)
                wide = chromium.run("document.documentElement.scrollWidth")
                assert wide <= chromium.run("window.innerWidth") == width
                assert width < 1200 or len(set(chromium.run(tiles))) == 1, "tiles are in one row"
        shown = chromium.run('document.querySelectorAll("circle.tip > title").length')
        assert shown == chromium.run('document.querySelectorAll("circle.tip").length') > 10
    assert not chromium.errors
    asked = {x for x in chromium.requests if not x.startswith("data:")}
    assert asked == {target.resolve().as_uri() for target in pages}


COLUMN = """
[...document.querySelector("section:nth-last-of-type(2) table").tBodies[0].rows]
  .map(row => row.cells[{}].textContent)
"""
HEAD = 'document.querySelector("section:nth-last-of-type(2) thead").rows[0].cells[{}]'


@pytest.mark.evidence
def test_a_click_sorts_and_so_does_a_key(chromium, toy):
    (toy / "trials/00004/summary.json").unlink()
    chromium.open(many.write_report([toy]), width=1200)
    runs = chromium.run(COLUMN.format(0))
    assert runs == sorted(runs)
    accuracy = next(
        i for i in range(20) if "accuracy" == chromium.run(f"{HEAD.format(i)}.innerText")
    )
    chromium.run(f"{HEAD.format(accuracy)}.firstChild.click()")
    rising = chromium.run(COLUMN.format(accuracy))
    numbers = [float(x.removesuffix(" %")) for x in rising[:-1]]
    assert numbers == sorted(numbers) and rising[-1] == "–", "what is unknown stays last"
    assert chromium.run(f"{HEAD.format(accuracy)}.ariaSort") == "ascending"
    chromium.run(f"{HEAD.format(accuracy - 1)}.firstChild.focus()")
    chromium.press("Tab")
    chromium.press("Enter")
    falling = chromium.run(COLUMN.format(accuracy))
    numbers = [float(x.removesuffix(" %")) for x in falling[:-1]]
    assert numbers == sorted(numbers, reverse=True) and falling[-1] == "–"
    assert chromium.run(f"{HEAD.format(accuracy)}.ariaSort") == "descending"
    chromium.run(f"{HEAD.format(2)}.firstChild.click()")
    states = chromium.run(COLUMN.format(2))
    assert states == sorted(states)
    assert chromium.run('document.querySelectorAll("[aria-sort]").length') == 1
    assert not chromium.errors


@pytest.mark.evidence
def test_tables_are_there_without_scripts(chromium, toy):
    chromium.open(many.write_report([toy]), width=1200, script=False)
    assert len(chromium.run(COLUMN.format(0))) == 18
    assert chromium.run('document.querySelectorAll("th button").length') == 0
