"""Laws of resuming: a checkpoint that cannot be restored costs itself alone, and is named.

All sums of these checkpoints are right. So what is wrong shows only when they are restored.
"""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import pytest

from dst import cli
from dst.train import Run, loop, nonfinite, setup
from dst.train.config import run as config
from dst.train.records import checkpoint, manifest
from tests import faults
from tests.faults import records
from tests.training import assert_same, small, states_in


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints of steps 20, 30 and 40."""
    folder = tmp_path_factory.mktemp("finished")
    loop.train(small(folder), folder / "run")
    return folder / "run"


def described(run):
    """The leaves in the manifests of a run."""
    return manifest.read(run / "checkpoints" / "000000030", 30)["leaves"]


def summed(path, leaves):
    """Makes all sums of a checkpoint right, and lets it say that it holds these leaves."""
    manifest.write(path, int(path.name), None, leaves)


def rewritten(run, change):
    """The state of step 30 is another one, as itself says."""
    saved = run / "checkpoints"
    state = change(states_in(run)[30])
    with checkpoint.Writer(saved, keep=9) as writer:
        writer.save(30, state, checkpoint.position(saved, 30))
        writer.finish()


def other_kernel(change):
    def changed(state):
        out = state.params["out"]
        out = {**out, "kernel": change(out["kernel"])}
        return state._replace(params={**state.params, "out": out})

    return changed


def restructured(state):
    return state._replace(variables={"more": jnp.zeros(3)})


def without(state):
    out = {"kernel": state.params["out"]["kernel"]}
    return state._replace(params={**state.params, "out": out})


def break_arrays(path):
    """Bytes that are no arrays any more, in all files of Orbax's key-value store; right sums."""
    leaves = manifest.read(path, int(path.name))["leaves"]
    for file in (path / "state" / "d").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 3 : 2 * len(data) // 3] = bytes(len(data) // 3)
        file.write_bytes(data)
    summed(path, leaves)


def of_another_step(path):
    shutil.rmtree(path / "state")
    shutil.copytree(path.with_name("000000020") / "state", path / "state")


STATES = {
    "another dtype": other_kernel(lambda x: x.astype(jnp.bfloat16)),
    "another shape": other_kernel(lambda x: x[1:]),
    "a leaf more": restructured,
    "a leaf fewer": without,
}
FILES = {
    "broken arrays": break_arrays,
    "no description": lambda path: (path / "state" / "_METADATA").unlink(),
    "no state": lambda path: shutil.rmtree(path / "state"),
    "the state of another step": of_another_step,
    "no position": lambda path: (path / "position.json").unlink(),
    "a position that is none": lambda path: (path / "position.json").write_text("[]"),
    "a position without batches": lambda path: (path / "position.json").write_text("{}"),
}


def _damage(text):
    return next(line for line in text.splitlines() if "is damaged" in line)


def resumes_before(run, finished, capsys):
    """A run without its last checkpoint, and with a bad one before it, ends as if nothing was."""
    shutil.rmtree(run / "checkpoints" / "000000040", ignore_errors=True)
    capsys.readouterr()
    assert cli.main(["resume", str(run)]) == 0
    output = capsys.readouterr()
    assert output.out.count("is damaged") == 1 and "of step 30 is damaged (" in output.out
    assert "resuming at step 20 of 40" in output.out
    assert output.err == ""
    faults.row("sums are right, but not the state", _damage(output.out), "10 steps done again")
    assert records(run) == records(finished)
    assert_same(states_in(run)[40], states_in(finished)[40])


def some(names, *quick):
    """Of the names, only these are tested at every change; the others are slow proofs."""
    slow = pytest.mark.evidence
    return [name if name in quick else pytest.param(name, marks=slow) for name in names]


@pytest.mark.parametrize("admits", some([True, False], False))
@pytest.mark.parametrize("name", some(STATES, "another dtype"))
def test_a_state_that_does_not_fit_is_left_out(name, admits, finished, tmp_path, capsys):
    run, right = tmp_path / "run", described(finished)
    shutil.copytree(finished, run)
    rewritten(run, STATES[name])
    if not admits:
        summed(run / "checkpoints" / "000000030", right)
    assert checkpoint.damage(run / "checkpoints", 30) is None
    resumes_before(run, finished, capsys)


@pytest.mark.parametrize("name", some(FILES, "broken arrays", "the state of another step"))
def test_files_that_cannot_be_read_are_left_out(name, finished, tmp_path, capfd):
    run, right = tmp_path / "run", described(finished)
    shutil.copytree(finished, run)
    path = run / "checkpoints" / "000000030"
    FILES[name](path)
    summed(path, right)
    resumes_before(run, finished, capfd)


def test_without_a_checkpoint_that_can_be_restored_nothing_is_trained(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    for path in (run / "checkpoints").iterdir():
        break_arrays(path)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    assert cli.main(["resume", str(run)]) == 1
    output = capsys.readouterr()
    assert "step 40" in output.err and "nor can one before it" in output.err
    assert "Traceback" not in output.err
    assert {p: p.read_bytes() for p in before} == before


def test_another_network_is_refused_at_once(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    assert cli.main(["resume", str(run), "model.hidden=[17]", "--changed"]) == 1
    output = capsys.readouterr()
    assert "step 40" in output.err and "another network, optimizer or method" in output.err
    assert "damaged" not in output.out + output.err


@pytest.mark.evidence
def test_the_config_of_the_checkpoint_that_is_used_counts(finished, tmp_path, capsys):
    """That of step 20 was trained with another rate than that of step 30."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "000000040")
    faster = ["resume", str(run), "optimizer.learning_rate=1e-2", "--changed"]
    shutil.rmtree(run / "checkpoints" / "000000030")
    assert cli.main(faster) == 0
    shutil.rmtree(run / "checkpoints" / "000000040")
    break_arrays(run / "checkpoints" / "000000030")
    capsys.readouterr()
    assert cli.main(["resume", str(run)]) == 2
    message = capsys.readouterr().err
    assert "optimizer.learning_rate: 0.003 -> 0.01" in message and "--changed" in message


def test_a_rollback_and_a_look_use_the_one_before_too(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for step in (30, 40):
        path = run / "checkpoints" / f"{step:09d}"
        break_arrays(path)
    assert Run(run).step == 20
    like = setup.make(config.load(run / "config.yaml")).begin()
    rollback = nonfinite.Rollback("rollback", run / "checkpoints")
    step, state = rollback.to(nonfinite.Diverged(41, "the loss is nan at step 41."), like)
    assert step == 20
    assert_same(state, checkpoint.restore(run / "checkpoints", 20, like))
    assert capsys.readouterr().out.count("is damaged") == 4
