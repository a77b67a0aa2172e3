"""Laws of studies: rounds of pruning, their controls, searches, copies; killed and continued."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import dst
from dst import cli
from dst.studies import lottery
from dst.studies.lottery import report, tickets
from dst.studies.lottery.config import Tickets, dump, load
from dst.train import loop
from dst.train.config import run as config
from dst.train.records import checkpoint, loggers, run_dir
from tests.training import ROOT, SMALL, STUDIES, states_in

STEPS, REWIND, RATE = 20, 5, 0.3
SHORT = (
    "method=dense",
    f"train={{steps: {STEPS}, log_every: 5, eval_every: 20, checkpoint_every: 10}}",
    "optimizer={name: sgd, clip: null}",
)
LOTTERY = (
    f"lottery={{rounds: 2, prune: {RATE}, rewind: {REWIND}}}",
    "lottery.overrides={'out/kernel': 0.1}",
)
STATIC = "method={name: static, sparsity: 0.5}"
LAYERS = {"hidden/0/kernel": (64 * 16, 0.3), "out/kernel": (16 * 10, 0.1)}


def study(folder, *overrides):
    """A study of the small config."""
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    return load(folder / "small.yaml", [*SHORT, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds with all controls, never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    lottery.run(study(folder, *LOTTERY), folder / "study")
    return folder / "study"


def _weights(run, step=STEPS):
    return dst.load_weights(run / run_dir.weights(step))


def _records(run):
    lines = loggers.read(run / run_dir.METRICS)
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]


def test_every_round_has_the_non_zeros_of_the_formula(finished):
    rows = lottery.read(finished)["rows"]
    for number, row in enumerate(rows):
        expected = {p: lottery.remaining(n, rate, number) for p, (n, rate) in LAYERS.items()}
        assert row["layers"] == expected and row["remaining"] == sum(expected.values())
        names = [f"round-{number:02d}{x}" for x in ("", "-reinit", "-random_masks")]
        for name in names[: 3 if number else 1]:
            weights = _weights(finished / name)
            assert {p: np.count_nonzero(weights[p]) for p in expected} == expected, name


def test_a_round_starts_at_the_rewound_weights_bit_for_bit(finished):
    snapshot = _weights(finished / "round-00", REWIND)
    masks = dst.load_masks(finished / "masks-02.safetensors")
    state = states_in(finished / "round-02")[REWIND]
    layers = {"hidden/0": state.params["hidden"][0], "out": state.params["out"]}
    for layer, arrays in layers.items():
        np.testing.assert_array_equal(arrays["bias"], snapshot[f"{layer}/bias"])
        path = f"{layer}/kernel"
        kept, kernel = snapshot[path][masks[path]], np.asarray(arrays["kernel"])
        assert kernel[masks[path]].tobytes() == kept.tobytes()
        assert not kernel[~masks[path]].any()


def test_masks_are_nested_and_keep_the_largest_trained_weights(finished):
    before = {p: np.ones_like(m) for p, m in _masks(finished, 1).items()}
    for number in (1, 2):
        masks, trained = _masks(finished, number), _weights(finished / f"round-{number - 1:02d}")
        for path, mask in masks.items():
            assert not (mask & ~before[path]).any()
            magnitude = np.abs(trained[path])
            assert magnitude[mask].min() >= magnitude[before[path] & ~mask].max()
        before = masks


def _masks(where, number):
    return dst.load_masks(where / f"masks-{number:02d}.safetensors")


@pytest.mark.evidence
def test_controls_differ_in_one_thing_each(finished):
    ticket, reinit, drawn = (
        finished / f"round-01{name}" for name in ("", "-reinit", "-random_masks")
    )
    first = {r: dst.load_masks(r / run_dir.MASKS_INITIAL) for r in (ticket, reinit, drawn)}
    for path, mask in first[ticket].items():
        assert (first[reinit][path] == mask).all()
        assert first[drawn][path].sum() == mask.sum() and (first[drawn][path] != mask).any()
    files = [(r / "start-weights.safetensors").read_bytes() for r in (ticket, reinit, drawn)]
    assert files[0] == files[2] != files[1]
    starts = [config.load(r / "config.yaml").start.step for r in (ticket, reinit, drawn)]
    assert starts == [REWIND, 0, REWIND]
    seeds = {config.load(r / "config.yaml").seed for r in (ticket, reinit, drawn)}
    assert seeds == {0}, "all see the same batches"


@pytest.mark.evidence
@pytest.mark.parametrize("rewind", ["lr", "finetune"])
@pytest.mark.parametrize("one_shot", [False, True])
def test_trained_weights_are_kept_where_only_the_schedule_is_rewound(rewind, one_shot, tmp_path):
    where, rate = tmp_path / "study", ["lottery.finetune_rate=1e-3"] if rewind == "finetune" else []
    kept = (
        f"lottery={{rounds: 2, prune: 0.3, rewind: {rewind}, one_shot: {one_shot}, controls: []}}"
    )
    lottery.run(study(tmp_path, kept, *rate, "train.keep=9"), where)
    for number in (1, 2):
        source = _weights(where / ("round-00" if one_shot else f"round-{number - 1:02d}"))
        masks = _masks(where, number)
        first = states_in(where / f"round-{number:02d}")[0].params["out"]["kernel"]
        path = "out/kernel"
        assert masks[path].sum() == lottery.remaining(160, 0.3, number)
        np.testing.assert_array_equal(first, np.where(masks[path], source[path], 0))
        smallest = np.abs(source[path])[masks[path]].min()
        if one_shot:
            assert (np.abs(source[path])[~masks[path]] <= smallest).all()


@pytest.mark.evidence
def test_copies_differ_in_the_order_of_batches_only(tmp_path):
    where = tmp_path / "study"
    copies = ("lottery.connectivity=true", "lottery.points=3", "lottery.controls=[]")
    rows = lottery.run(study(tmp_path, *LOTTERY, *copies, "lottery.rounds=1"), where)["rows"]
    pairs = (("round-00-order-1", "round-00-order-2"), ("round-01", "round-01-order-1"))
    for first, second in pairs:
        a, b = (config.load(where / r / "config.yaml") for r in (first, second))
        assert a.seed != b.seed and a.start.step == b.start.step == REWIND
        for name in ("start-weights.safetensors", run_dir.MASKS_INITIAL):
            assert (where / first / name).read_bytes() == (where / second / name).read_bytes()
    for row in rows:
        assert len(row["errors"]) == 3
        assert row["instability"] == lottery.instability(row["errors"])
    # The ends of the line are the runs themselves, by the trainer's own figures.
    end = json.loads((where / "round-01" / "summary.json").read_text())["accuracy"]
    assert rows[1]["errors"][0] == pytest.approx(1 - end, abs=1e-6)
    assert "Instability" in report.write_report(where).read_text()


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_study_killed_inside_and_between_rounds_equals_one_that_was_not(
    finished, tmp_path, monkeypatch
):
    tickets_only = ("lottery.rounds=1", "lottery.controls=[]")
    few = study(tmp_path, *LOTTERY, *tickets_only)
    where, save, prune = tmp_path / "study", checkpoint.Writer.save, tickets.prune

    def dying(run, step):
        def saved(writer, at, *arguments):
            save(writer, at, *arguments)
            if writer.where.parent.name == run and at == step:
                raise Killed

        return saved

    def no_masks(*arguments):
        raise Killed

    moments = [(checkpoint.Writer, "save", dying("round-00", 10)), (tickets, "prune", no_masks)]
    moments += [(checkpoint.Writer, "save", dying("round-01", 10))]
    for i, (place, name, deadly) in enumerate(moments):
        monkeypatch.setattr(place, name, deadly)
        with pytest.raises(Killed):
            if i:
                lottery.resume(where)
            else:
                lottery.run(few, where)
        monkeypatch.setattr(checkpoint.Writer, "save", save)
        monkeypatch.setattr(tickets, "prune", prune)
    before = (where / "round-00" / run_dir.SUMMARY).stat().st_mtime_ns
    result = lottery.resume(where)

    assert (
        result["finished"] and (where / "round-00" / run_dir.SUMMARY).stat().st_mtime_ns == before
    )
    rows = lottery.read(finished)["rows"]
    assert [row["ticket"] for row in result["rows"]] == [row["ticket"] for row in rows[:2]]
    for run in ("round-00", "round-01"):
        assert _records(where / run) == _records(finished / run)
        name = run_dir.weights(STEPS)
        assert (where / run / name).read_bytes() == (finished / run / name).read_bytes()


def test_only_missing_files_are_written_again(finished, tmp_path, monkeypatch):
    where = tmp_path / "study"
    shutil.copytree(finished, where)
    shutil.rmtree(where / "round-02-reinit")
    for name in ("lottery.json", "masks-02.safetensors", "weights-reinit-02.safetensors"):
        (where / name).unlink()
    trained = []
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda c, w: trained.append(w.name) or train(c, w))
    lottery.resume(where)
    assert trained == ["round-02-reinit"]
    for name in ("lottery.json", "masks-02.safetensors", "weights-reinit-02.safetensors"):
        assert (where / name).read_bytes() == (finished / name).read_bytes()
    final = f"round-02-reinit/{run_dir.weights(STEPS)}"
    assert (where / final).read_bytes() == (finished / final).read_bytes()


def test_the_report_needs_nothing_else(finished):
    path = report.write_report(finished)
    html = path.read_text()
    assert path.name == "report.html" and html.count("<svg") == 1
    for text in (
        "remaining weights",
        "random masks of equal layer counts",
        "seed 0",
    ):
        assert text in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    both = report.write_report(finished, [finished]).read_text()
    assert "Mean of 2 seeds" in both


def test_random_search_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    method = "method={'name': 'static', 'sparsity': 0.8}"
    choice = "lottery={'name': 'random_search', 'budget': 2}"
    arguments = ["lottery", "small.yaml", *SHORT, choice]
    assert cli.main(arguments) == 2
    assert "method must be 'static'" in capsys.readouterr().err
    # One section replaces the other key by key.
    data = SMALL.replace("{name: rigl, sparsity: 0.8, every: 10, stop: 75%}", "dense")
    (tmp_path / "small.yaml").write_text(data, encoding="utf-8")
    assert cli.main([*arguments, method]) == 0
    out = capsys.readouterr().out
    assert "best of 2, judged by examples that did not choose it" in out and "report.html" in out

    where = tmp_path / "runs" / "small"
    runs = [where / f"mask-{i:03d}" for i in range(2)]
    masks = [dst.load_masks(run / run_dir.MASKS_FINAL) for run in runs]
    total = sum(m.size for m in masks[0].values())
    for mask in masks:
        assert 0 <= sum(int(m.sum()) for m in mask.values()) - 0.2 * total <= 2
    assert any((masks[0][p] != masks[1][p]).any() for p in masks[0])
    result = lottery.read(where)
    for run, row in zip(runs, result["rows"], strict=True):
        assert np.mean(row["halves"]) == pytest.approx(row["accuracy"], abs=1e-6)
        assert json.loads((run / "summary.json").read_text())["accuracy"] == row["accuracy"]
    # The same initial weights below different masks.
    first, second = (states_in(run)[0].params["out"]["kernel"] for run in runs)
    both = (np.asarray(first) != 0) & (np.asarray(second) != 0)
    assert both.any() and (np.asarray(first)[both] == np.asarray(second)[both]).all()

    assert cli.main([*arguments, method]) == 2
    assert "dst resume runs/small" in capsys.readouterr().err
    assert cli.main(["resume", "runs/small"]) == 0
    assert json.loads((where / "lottery.json").read_text()) == result


def test_two_copies_that_start_at_a_step(tmp_path):
    copies = study(tmp_path, STATIC, *_connectivity())
    result = lottery.run(copies, tmp_path / "study")
    (row,) = result["rows"]
    assert row["at"] == 10 and row["positions"] == [0, 0.5, 1]
    assert row["instability"] == lottery.instability(row["errors"])
    assert not (tmp_path / "study" / "parent" / "summary.json").exists(), "trained to the step only"
    assert "instability" in lottery.table(result)
    assert "position between" in report.write_report(tmp_path / "study").read_text()


def _connectivity():
    return ("lottery={name: connectivity, at: 50%, points: 3}",)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Tickets(rewind="50%"), (10, 20, 3e-3)),
        (Tickets(rewind="lr"), (0, 20, 3e-3)),
        (Tickets(rewind="lr", retrain="25%"), (15, 20, 3e-3)),
        (Tickets(rewind="finetune", retrain=8, finetune_rate=1e-4), (0, 8, 1e-4)),
    ],
    ids=["step", "lr", "lr of a part", "finetune"],
)
def test_where_a_schedule_continues(settings, expected, tmp_path):
    """Rewinding to a step restarts the schedule there, learning-rate rewinding at the
    distance of `retrain` from its end, fine-tuning has a constant rate."""
    again = tickets.retraining(study(tmp_path).config, settings, "round-01", tmp_path, tmp_path)
    assert (again.start.step, again.train.steps, again.optimizer.value.learning_rate) == expected
    constant = settings.rewind == "finetune"
    assert again.optimizer.value.decay == ("constant" if constant else "cosine")
    assert again.optimizer.value.warmup == (0 if constant else 4)


@pytest.mark.parametrize("path", STUDIES["lottery"], ids=lambda p: p.stem)
def test_every_study_in_the_repository_fits_its_network(path):
    assert tickets.prunable_leaves(load(path, ["mesh.data=1"]))


def test_a_study_is_read_back_from_its_own_config(tmp_path):
    first = study(tmp_path, *LOTTERY)
    (tmp_path / "again.yaml").write_text(dump(first), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == first


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["lottery.round=3"], ["lottery.round", "Did you mean 'rounds'?"]),
        (["lottery.name=ticket"], ["lottery.name", "Did you mean 'tickets'?"]),
        (["method={'name': 'static', 'sparsity': 0.5}"], ["method must be 'dense'", "'static'"]),
        (["lottery.rewind=20"], ["lottery.rewind", "before the end", "20"]),
        (["lottery.rewind=finetune"], ["lottery.finetune_rate", "below 1 %"]),
        (["train.snapshots=[5]"], ["train.snapshots", "left out"]),
        (["sparsify.overrides.out/kernel.sparsity=0.5"], ["lottery.overrides"]),
    ],
)
def test_a_bad_study_is_refused(overrides, parts, tmp_path):
    with pytest.raises(config.ConfigError) as error:
        study(tmp_path, *overrides)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_study_that_does_not_fit_its_network_leaves_nothing_behind(tmp_path):
    cases = {
        "lottery.overrides={'last/kernel': 0.1}": "'last/kernel' matches no parameter",
        "lottery={rounding: ceil, rounds: 40}": "would lose all its weights within 40 rounds",
        "sparsify.select=bias": "matches no parameter",
    }
    for override, message in cases.items():
        with pytest.raises(config.ConfigError, match=message):
            lottery.run(study(tmp_path, override), tmp_path / "study")
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


def test_a_study_of_quantities_is_refused_since_it_compares_accuracies(tmp_path):
    rows = np.arange(100.0)
    np.savez(tmp_path / "a.npz", x=rows, y=rows)
    with pytest.raises(config.ConfigError, match="by their accuracy, .*a.npz is of .* 'number'"):
        lottery.run(study(tmp_path, "data.name=npz:a.npz"), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_bad_study_is_refused_before_anything_heavy_is_loaded(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    code = f"""
import sys
from dst import cli
assert cli.main(["lottery", {str(tmp_path / "small.yaml")!r}, "method=dense", "lottery.x=1"]) == 2
print([m for m in ("flax", "orbax", "sklearn", "matplotlib") if m in sys.modules])
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert process.stdout == "[]\n", process.stdout
