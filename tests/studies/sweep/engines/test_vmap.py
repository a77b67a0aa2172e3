"""Laws of trials in one program: it computes what each program does, and runs are as alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, monitoring

import dst
from dst import cli
from dst.studies import sweep
from dst.studies.sweep.driver import FILE as KEPT
from dst.studies.sweep.engines import batch, groups, merge
from dst.train import loop, setup, work
from dst.train.config import run as config
from dst.train.work import Alone, Update
from tests.faults import records
from tests.studies.sweep.test_spec import write
from tests.training import assert_same, states_in, write_small


def programs(function, numbers, *args):
    return [jax.jit(lambda *x, n=n: function(n, *x)).trace(*args).jaxpr for n in numbers]


def through_calls(n, x):
    @jax.jit
    def inner(y):
        return jnp.where(y > n, y * n, jax.nn.relu(y) - 1.0)

    return inner(x) + n, jax.nn.silu(x) ** 2, n


CASES = {
    "an operand": lambda n, x: x * n + 1,
    "an exponent": lambda n, x: jnp.abs(x) ** jnp.float32(n),
    "through calls": through_calls,
    "beside a loop": lambda n, x: lax.fori_loop(0, 3, lambda i, y: y + i, x) * n,
    "a gradient": lambda n, x: jax.grad(lambda y: jnp.sum(jnp.sin(n * y)))(x),
    "nothing": lambda n, x: jnp.cumsum(x),
}


@pytest.mark.parametrize("case", CASES)
def test_a_merged_program_computes_what_each_does(case):
    numbers, x = [0.5, 3.0, -1.25], jnp.linspace(-2.0, 2.0, 12).reshape(3, 4)
    merged = merge.merged(programs(CASES[case], numbers, x))
    assert (len(merged.places) > 0) == (case != "nothing")
    columns = [np.stack(column) for column in zip(*merged.rows, strict=True)]
    many = jax.vmap(lambda row: merged(row, x), axis_size=3)(columns)
    for i, n in enumerate(numbers):
        expected = jax.tree.leaves(jax.jit(lambda x, n=n: CASES[case](n, x))(x))
        for one, other in zip(expected, many, strict=True):
            np.testing.assert_allclose(other[i], one, rtol=1e-6)


PARTED = {
    "another step": (lambda n, x: x * n if n > 1 else x + n, "`mul`"),
    "another length": (lambda n, x: jnp.concatenate([x] * int(n)), "more than another"),
    "one step more": (lambda n, x: x if n > 1 else x + 1, "more than another|`add`"),
    "a number in a loop": (
        lambda n, x: lax.fori_loop(0, 3, lambda i, y: y * n, x),
        "inside of a loop",
    ),
    "other operands": (lambda n, x: x[0] - x[1] if n > 1 else x[1] - x[0], "`sub`|slice"),
    "an array": (
        lambda n, x: x + np.arange(4.0, dtype=np.float32)[None] * n,
        "array of constants|`add`",
    ),
    "a setting": (lambda n, x: jnp.sum(x, axis=int(n > 1)), "axes|other shapes"),
}


@pytest.mark.parametrize("case", PARTED)
def test_programs_that_differ_in_more_are_refused_with_the_reason(case):
    function, reason = PARTED[case]
    x = jnp.ones((4, 4))
    with pytest.raises(merge.Different, match=reason):
        merge.merged(programs(function, [1.0, 2.0], x))


GRID = """
name: toy
command: [dst, train, small.yaml, "train={'steps_per_call': 4, 'keep': 9}", "${args_no_hyphens}"]
method: grid
metric: {name: accuracy, goal: maximize}
parameters:
  seed: {values: [0, 1]}
  method.sparsity: {values: [0.8, 0.6]}
  method.every: {values: [10, 5]}
  optimizer.learning_rate: {values: [3e-3, 1e-3]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([10, 5, 10, 5], [[0, 2], [1, 3]]),
        ([10, 5, 10, 8], [[0, 2], [1, 3]]),
        ([10, 5, 10, 10], [[0, 2, 3, 1]]),
        ([10, 8, 5], [[0, 1, 2]]),
    ],
)
def test_trials_that_change_topology_at_the_same_steps_share_a_batch(intervals, expected):
    assert groups.equal(intervals) == expected


def results(folder):
    return json.loads((folder / "runs/toy/sweep.json").read_text())


# Batched trials of several intervals, which do not change topology at the same steps: two of them,
# and four, where two continue while others wait. Their settings differ in so many values.
@pytest.mark.parametrize(
    ("count", "values"), [(2, 8), pytest.param(4, 12, marks=pytest.mark.evidence)]
)
def test_trials_in_one_program_are_the_runs_that_they_are_alone(count, values, tmp_path, capsys):
    text = GRID.replace("[10, 5]", "[10, 8, 5, 6]").replace("{values: [0, 1]}", "{min: 0, max: 99}")
    write(tmp_path, text.replace("grid", f"random\nrun_cap: {count}"))
    assert cli.main(["sweep", "toy.yaml", "--engine", "vectorised"]) == 0
    assert f"one program: trials {', '.join(map(str, range(count)))}\n" in capsys.readouterr().out
    chosen = results(tmp_path)["trials"]
    assert [x["state"] for x in chosen] == ["done"] * count
    assert len({x for trial in chosen for x in trial["overrides"]}) == values
    for trial in chosen:
        run, alone = (
            tmp_path / "runs/toy" / trial["directory"],
            tmp_path / "alone" / str(trial["number"]),
        )
        settings = config.load(
            "small.yaml",
            ["mesh.data=1", "train.steps_per_call=4", "train.keep=9", *trial["overrides"]],
        )
        loop.train(settings, alone)
        for name in ("config.yaml", "summary.json", "masks-final.safetensors", "report.html"):
            assert (run / name).is_file()
        shown = (tmp_path / "runs/toy/report.html").read_text(encoding="utf-8")
        assert f"{trial['directory']}/report.html" in shown
        ours, theirs = states_in(run), states_in(alone)
        assert ours.keys() == theirs.keys()
        first = min(step for step in ours if int(ours[step].opt_state.topology.done) == 1)
        for step in (0, first):
            one, other = ours[step].opt_state, theirs[step].opt_state
            for path, mask in dst.masks(one).items():
                np.testing.assert_array_equal(mask, dst.masks(other)[path])
        assert jax.tree.structure(ours[40]) == jax.tree.structure(theirs[40])
        for one, other in zip(
            jax.tree.leaves(ours[first]), jax.tree.leaves(theirs[first]), strict=True
        ):
            assert one.shape == other.shape and one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
        for one, other in zip(records(run), records(alone), strict=True):
            assert one.keys() == other.keys()
            if one["kind"] == "train":
                np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-2)
                assert one["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-6)


def compiled(tmp_path, seeds):
    """How often a sweep of so many seeds compiles each of the programs that trials share."""
    names: list[str] = []

    def heard(event, duration, **more):
        if event.endswith("backend_compile_duration"):
            names.append(str(more.get("fun_name")))

    text = GRID[: GRID.index("  seed")] + f"  seed: {{values: {list(range(seeds))}}}\n"
    write(tmp_path, text)
    monitoring.register_event_duration_secs_listener(heard)
    try:
        arguments = ["--engine", "vectorised", "--dir", f"runs/{seeds}"]
        assert cli.main(["sweep", "toy.yaml", *arguments]) == 0
    finally:
        monitoring.unregister_event_duration_listener(heard)
    shared = ("together", "score", "metrics", "observe")
    return Counter(name for name in names if any(x in name for x in shared))


@pytest.mark.evidence
def test_what_is_compiled_does_not_grow_with_the_number_of_trials(tmp_path):
    jax.clear_caches()
    few = compiled(tmp_path, 2)
    jax.clear_caches()
    assert few == compiled(tmp_path, 4)
    assert few["jit(_together)"] == 1 and few["jit(_together_several)"] == 1
    assert few["jit(score)"] == 1


def test_a_trial_that_waits_for_others_keeps_its_state(tmp_path):
    pieces = setup.make(config.load(write_small(tmp_path)))
    with closing(pieces.batches(0)) as batches:
        drawn = next(batches)
    state, shapes = pieces.begin(), jax.eval_shape(lambda *x: x, *drawn)
    program = batch.Program([batch.trace(pieces, state, shapes, batch.rows(state))] * 3)

    def after(held):
        """What each trial holds after an update."""
        update = work.update(pieces.step)
        wanted = {i: Update(partial(update, x, *drawn, topology=True)) for i, x in held.items()}
        return {i: result[0] for i, result in program.results(wanted).items()}

    one = after({i: Alone(state) for i in range(3)})
    ahead = after({i: one[i] for i in (0, 2)})
    assert_same(ahead[0].state, ahead[2].state)
    assert int(one[1].state.opt_state.count) == 1 and int(ahead[0].state.opt_state.count) == 2
    behind = after({1: one[1]})[1].state
    for x, y in zip(jax.tree.leaves(behind), jax.tree.leaves(ahead[0].state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    alone = pieces.begin()
    for _ in range(2):
        alone, _ = pieces.step(alone, *drawn, topology=True)
    for path, mask in dst.masks(behind.opt_state).items():
        np.testing.assert_array_equal(mask, dst.masks(alone.opt_state)[path])


@pytest.mark.evidence
def test_what_cannot_be_merged_trains_alone_and_the_reason_is_reported(tmp_path, capsys):
    start = GRID[: GRID.index("  seed")]
    write(tmp_path, start + "  optimizer.weight_decay: {values: [0, 0.1]}\n")
    assert cli.main(["sweep", "toy.yaml", "--engine", "vectorised", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "not merged: trial 1: where one computes `add`, another computes `mul`" in out
    assert "not merged: trial 0: no other trial has its settings but for numbers" in out
    assert [x["state"] for x in results(tmp_path)["trials"]] == ["done"] * 2


@pytest.mark.evidence
def test_a_trial_that_fails_leaves_the_others_alone(tmp_path, capsys):
    text = GRID.replace("[0.8, 0.6]", "[0.8]").replace("[10, 5]", "[10]").replace("[0, 1]", "[0]")
    text = text.replace("[3e-3, 1e-3]", "[3e-3, 1.0e+6, 1e-3, 2e-3]")
    # At the second rate each step multiplies every weight by -1e5.
    text = text.replace('"${args', 'optimizer.weight_decay=0.1, "${args')
    write(tmp_path, text)
    (tmp_path / "runs/toy/trials/00003.log").mkdir(parents=True)  # where a file is to be
    (tmp_path / "runs/toy" / KEPT).write_text(text)
    assert cli.main(["sweep", "toy.yaml", "--engine", "vectorised"]) == 1
    assert "one program: trials 0, 1, 2, 3" in capsys.readouterr().out
    states = [x["state"] for x in results(tmp_path)["trials"]]
    assert states == ["done", "failed", "done", "failed"]
    assert "Is a directory" in results(tmp_path)["trials"][3]["error"]
    assert "Diverged" in results(tmp_path)["trials"][1]["error"]


@pytest.mark.evidence
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_stopped_batched_trials_continue_where_they_were(number, tmp_path):
    long = GRID.replace(
        "{'steps_per_call': 4, 'keep': 9}", "{'steps': 400, 'checkpoint_every': 20}"
    )
    write(tmp_path, long.replace("[0.8, 0.6]", "[0.8]"))
    command = [sys.executable, "-m", "dst.cli", "sweep", "toy.yaml", "--engine", "vectorised"]
    process = subprocess.Popen(command, cwd=tmp_path)
    run = tmp_path / "runs/toy/trials/00000"
    while not list(run.glob("checkpoints/0*[2468]0")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait() == (75 if number == signal.SIGTERM else -9)
    assert cli.main(command[3:]) == 0
    assert [x["state"] for x in results(tmp_path)["trials"]] == ["done"] * 8
    for trial in results(tmp_path)["trials"]:
        lines = records(tmp_path / "runs/toy" / trial["directory"])
        assert [x["step"] for x in lines if x["kind"] == "train"] == list(range(5, 401, 5))
    log = (run.with_suffix(".log")).read_text()
    assert "resuming at step" in log


def test_engine_and_batch_are_checked(tmp_path):
    toy = sweep.load(write(tmp_path, GRID))
    with pytest.raises(sweep.SweepError, match="batch must be an integer >= 1, got 0"):
        sweep.run(toy, tmp_path / "run", batch=0)
    with pytest.raises(sweep.SweepError, match="'processes'"):
        sweep.run(toy, tmp_path / "run", engine="threads")
