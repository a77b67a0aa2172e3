"""The first line of a report is its answer, with the uncertainty, and never more than it knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dst.report import collect, figures, finding, many, neurons, overview, reading, tables, theme
from dst.report.answer import answer
from dst.report.contents import Run
from tests.report.test_many import make


def known(where: Path, labels: int = 1000, **summary) -> Path:
    """Adds to the summary of a run."""
    path = where / "summary.json"
    about = json.loads(path.read_text()) | {"test_labels": labels} | summary
    path.write_text(json.dumps(about))
    return where


def runs(root: Path, table) -> list[Path]:
    """A run for each row of options of `make`."""
    return [known(make(root / f"{i}", **row)) for i, row in enumerate(table)]


def compared(paths):
    return many.compare(collect.collect(paths))


def methods(sparsity: float, one: list[float], two: list[float]) -> list[dict]:
    return [
        {"method": name, "sparsity": sparsity, "seed": seed, "accuracy": value}
        for name, values in (("rigl", one), ("set", two))
        for seed, value in enumerate(values)
    ]


def test_methods_are_compared_at_equal_sparsity_and_two_seeds_give_no_interval(tmp_path):
    table = methods(0.8, [0.98, 0.978], [0.979, 0.98]) + methods(0.9, [0.97, 0.96], [0.965, 0.96])
    table += methods(0.98, [0.88, 0.89], [0.77, 0.786])
    assert answer(compared(runs(tmp_path, table))) == [
        "At 98 % sparsity RigL is 10.7 points above SET (2 seeds: not enough for an interval); "
        "at 80 and 90 % sparsity they are equal within 0.5 points."
    ]


def test_three_seeds_give_a_paired_interval(tmp_path):
    table = methods(0.9, [0.95, 0.93, 0.91], [0.91, 0.88, 0.88])
    # Differences 4, 5 and 3 points: 4 ± 4.302653 / sqrt(3).
    (sentence,) = answer(compared(runs(tmp_path, table)))
    assert sentence == "RigL is 4.0 points above SET (95 % interval 1.5 to 6.5, 3 paired seeds)."


def test_a_difference_of_one_test_label_is_none(tmp_path):
    paths = runs(tmp_path, methods(0.9, [0.95] * 3, [0.949] * 3))
    assert answer(compared(paths)) == ["RigL and SET are equal within 0.1 points (3 paired seeds)."]
    for path in paths:
        known(path, labels=10_000)
    assert "RigL is 0.1 points above SET" in answer(compared(paths))[0]


def test_wide_intervals_are_not_called_equal(tmp_path):
    (sentence,) = answer(compared(runs(tmp_path, methods(0.9, [0.9, 0.8, 0.7], [0.7, 0.8, 0.8]))))
    assert sentence.startswith("No difference is clear: RigL 3.3 points above SET (95 % interval −")


def test_of_many_methods_the_leader_is_named_with_those_it_cannot_be_told_from(tmp_path):
    table = methods(0.9, [0.950, 0.952, 0.948], [0.80, 0.81, 0.80])
    third = [{"seed": s, "accuracy": x} for s, x in enumerate((0.949, 0.952, 0.947))]
    paths = runs(tmp_path, table + third)
    for path in paths[-3:]:
        text = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(text.replace("name: rigl", "name: snfs"))
    (sentence,) = answer(compared(paths))
    assert sentence.startswith("RigL is 14.7 points above SET (95 % interval ")
    assert "and not clearly ahead of SNFS (within " in sentence


def test_a_sweep_of_sparsity_is_judged_by_dense_and_never_by_the_least_sparse(tmp_path):
    table = [
        {"sparsity": sparsity, "seed": seed, "accuracy": value + seed / 1000}
        for sparsity, value in ((0.5, 0.975), (0.8, 0.976), (0.98, 0.91))
        for seed in range(3)
    ]
    paths = runs(tmp_path, table)
    (sentence,) = answer(compared(paths))
    assert sentence == (
        "At 98 % sparsity RigL is 6.5 points below 50 % sparsity (95 % interval 6.5 to 6.5, "
        "3 paired seeds); at 80 % sparsity it is equal within 0.1 points."
    )
    dense = [
        known(make(tmp_path / f"d{seed}", "dense", seed=seed, accuracy=0.976 + seed / 1000))
        for seed in range(3)
    ]
    (sentence,) = answer(compared(paths + dense))
    assert "RigL is 6.6 points below dense (97.7 %) (95 % interval" in sentence
    assert sentence.endswith("at 50 and 80 % sparsity it is equal within 0.1 points.")
    html = many.write_report(paths + dense, tmp_path / "x.html").read_text()
    assert "Best" not in html and "no dense baseline" not in html


def schedule(root: Path, effect: float) -> list[Path]:
    """Every and learning rate; the first matters by ``effect``, the second never."""
    rng = np.random.default_rng(0)
    return runs(
        root,
        [
            {
                "every": every,
                "learning_rate": rate,
                "seed": seed,
                "accuracy": round(0.95 - effect * (every == 30) + rng.normal(scale=0.002), 3),
            }
            for every in (10, 20, 30)
            for rate in (0.1, 0.2, 0.3)
            for seed in range(3)
        ],
    )


def test_a_schedule_that_matters_is_named_with_its_effect(tmp_path):
    (sentence,) = answer(compared(schedule(tmp_path, 0.05)))
    assert sentence.startswith("Every ") and " points above 30 (95 % interval 4." in sentence
    assert "; accuracy is equal within 0." in sentence
    assert sentence.endswith("at all values of learning rate.")


def test_a_sweep_in_which_nothing_differs_says_so(tmp_path):
    comparison = compared(schedule(tmp_path, 0.0))
    (sentence,) = answer(comparison)
    assert sentence.startswith(
        "No setting differs from another by more than the noise: accuracy is equal within 0."
    )
    assert "at all values of every (3 paired seeds)" in sentence
    with theme.style():
        (heat,) = overview.heat_maps(comparison)
        plot = overview.importance(comparison)
    assert heat.svg.count('class="tip"') == 9
    assert ">95.0<" in heat.svg
    assert "What explains no more than the seed is noise." in plot.caption


def test_importances_find_the_setting_that_matters(tmp_path):
    with theme.style():
        plot = overview.importance(compared(schedule(tmp_path, 0.05)))
    labels = [x for x in ("every", "learning rate", "seed") if f">{x}<" in plot.svg]
    assert labels == ["every", "learning rate", "seed"]
    assert plot.svg.index(">every<") < plot.svg.index(">learning rate<")


def test_one_run_of_each_setting_has_no_interval(tmp_path):
    table = [{"every": 10, "accuracy": 0.95}, {"every": 20, "accuracy": 0.9}]
    (sentence,) = answer(compared(runs(tmp_path, table)))
    assert sentence == "Every 10 is 5.0 points above 20 (one seed: no interval)."
    single = answer(compared(runs(tmp_path / "one", table[:1])))
    assert single == ["Test accuracy is 95.0 % (one run: no interval)."]
    unfinished = make(tmp_path / "u", ended=False)
    assert answer(compared([unfinished])) == ["There is no answer yet, because no run has ended."]


def test_a_method_has_one_colour_in_all_figures_and_dense_is_a_line_in_each(tmp_path):
    table = [
        {"method": name, "sparsity": s, "learning_rate": rate, "accuracy": 1.7 - s - rate}
        for name in ("rigl", "set")
        for s in (0.8, 0.9)
        for rate in (0.01, 0.02)
    ]
    paths = runs(tmp_path, table)
    paths.append(known(make(tmp_path / "dense", "dense", learning_rate=0.01, accuracy=0.95)))
    comparison = compared(paths)
    hues: dict[str, set[str]] = {}
    for label, look in comparison.looks.items():
        hues.setdefault(label.split(",")[0], set()).add(look.colour)
    assert all(len(x) == 1 for x in hues.values()) and len(set.union(*hues.values())) == 3
    assert hues["dense"] == {theme.INK}
    rates = {look.dash for label, look in comparison.looks.items() if label.startswith("rigl")}
    assert rates == {0, 1}, "the learning rate is a dash pattern"
    with theme.style():
        shown = [
            figures.against_setting(comparison),
            figures.pareto(comparison, "training_cost", "training FLOPs"),
        ]
    for plot in shown:
        assert any(k.label.startswith("dense") and k.colour == "var(--ink)" for k in plot.legend)
        assert "stroke-dasharray" in plot.svg


def test_a_pointer_shows_values_with_the_number_of_labels(tmp_path):
    paths = runs(tmp_path, methods(0.9, [0.95], [0.9]))
    with theme.style():
        plot = figures.against_setting(compared(paths))
    assert "<title>rigl: 95.0 %, 950 of 1,000</title>" in plot.svg
    assert "<title>set: 90.0 %, 900 of 1,000</title>" in plot.svg


def test_every_row_reports_what_the_handbook_asks_for(tmp_path):
    paths = runs(tmp_path, methods(0.9, [0.95, 0.94], [0.9, 0.91]))
    dense = known(make(tmp_path / "dense", "dense", accuracy=0.97))
    for path in paths:
        text = (path / "config.yaml").read_text()
        structure = "structure: {name: nm, n: 2, m: 4}}"
        (path / "config.yaml").write_text(text.replace("every: 10}", f"every: 10, {structure}"))
    comparison = compared([*paths, dense])
    table = tables.means(comparison)
    rows = [dict(zip(table.heads, (x.text for x in row), strict=True)) for row in table.rows]
    rigl = next(row for row in rows if row["method"] == "rigl")
    assert rigl["sparsity of weights"] == rigl["sparsity of the model"] == "90.0 %"
    assert (rigl["training FLOPs"], rigl["inference FLOPs"]) == ("12.0 %", "10.0 %")
    assert (rigl["pattern"], rigl["seeds"]) == ("2:4", "2 (0, 1)")
    assert rigl["dense baseline"] == "97.0 % (−2.5)"
    each = tables.runs(comparison, collect.collect([paths[0]]).trials, tmp_path)
    for heads in (table.heads, each.heads):
        assert {"pattern", "dense baseline", "training FLOPs", "inference FLOPs"} <= {*heads}
    single = tables.single(reading.read(paths[0], masks=False))
    row = dict(zip(single.heads, (x.text for x in single.rows[0]), strict=True))
    assert (row["seeds"], row["pattern"], row["dense baseline"]) == ("1 (0)", "2:4", "none")


def test_a_run_answers_with_its_count_and_an_interval(tmp_path):
    run = reading.read(known(make(tmp_path / "a", accuracy=0.975), labels=360), masks=False)
    first, costs, topology = finding.answer(run)
    assert first == (
        "RigL at 90 % sparsity reaches 97.5 % test accuracy, 351 of 360 (95 % interval 95.3 to "
        "98.7 % over test sets of this size; one seed: none over training)."
    )
    assert "Training takes 12.0 % of the FLOPs of dense training and inference 10.0 %" in costs
    old = reading.read(make(tmp_path / "old"), masks=False)
    assert finding.answer(old)[0].endswith("90.0 % test accuracy (one seed: no interval).")
    under_way = reading.read(make(tmp_path / "u", ended=False), masks=False)
    assert finding.answer(under_way)[0].startswith("So far, after step 20: RigL at 90 %")


def test_training_and_compilation_have_their_own_seconds(tmp_path):
    path = known(make(tmp_path / "a"), seconds=12.0, compile_seconds=9.0)
    (tile,) = [x for x in many.tiles(*both([path])) if x.label == "Training time"]
    assert (tile.value, tile.detail) == ("3.0 s", "and 9.0 s to compile")
    (tile,) = [x for x in many.tiles(*both([make(tmp_path / "old")])) if x.label == "Time"]
    assert tile.value == "2.0 s"


def both(paths):
    read = collect.collect(paths)
    return read, many.compare(read)


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 4, 3)])
def test_neurons_without_inputs_or_outputs_are_named(shape):
    mask = np.ones(shape, bool)
    mask[..., 1, :] = False
    mask[..., 2] = False
    run = Run("x", final={"hidden/kernel": mask})
    assert [str(x) for x in neurons.unconnected(run)] == [
        "hidden/kernel: 1 of 4 inputs are neurons without an output: 1",
        "hidden/kernel: 1 of 3 outputs are neurons without an input: 2",
    ]
    whole = Run("x", final={"hidden/kernel": np.ones(shape, bool)})
    assert neurons.sentence(whole).startswith("Every neuron has an input and an output")
