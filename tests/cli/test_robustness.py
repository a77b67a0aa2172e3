"""Laws of ``dst robustness``: its figures are those of the function; bad input is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from dst import cli
from dst.cli.robustness import _check
from dst.eval import robustness
from dst.train import Run, data, loop
from dst.train.data import digits
from tests.training import SMALL, small

SHORT = ("train.steps=10", "train.eval_every=10", "train.checkpoint_every=10", "method.every=4")
ADVERSARIAL = "objective={'name': 'adversarial', 'epsilon': 0.3, 'norm': 'l2', 'steps': 1}"
FEW = ("--steps", "2", "--restarts", "2", "--examples", "20", "--farthest", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of adversarial training, and configs of runs that have not begun."""
    where = tmp_path_factory.mktemp("runs")
    loop.train(small(where, ADVERSARIAL, *SHORT), where / "run")
    changes = {
        "clean": "",
        "regression": "objective: regression\n",
        "text": "data: {name: stdlib, batch_size: 4, context: 16}\n",
    }
    for name, line in changes.items():
        (where / name).mkdir()
        kept = [x for x in SMALL.splitlines() if not (line and x.startswith(line.split(":")[0]))]
        if name == "text":
            kept = [x for x in kept if not x.startswith("model")]
            line += "model: {name: decoder, width: 16, layers: 1, heads: 2}\n"
        (where / name / "config.yaml").write_text("\n".join(kept) + "\n" + line)
    return where


def test_figures_are_those_of_the_function(folder, capsys):
    assert cli.main(["robustness", str(folder / "run"), *FEW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    test = digits.load().test
    x, y = test.take(np.linspace(0, len(test) - 1, 20).astype(int))
    model = Run(folder / "run").model()
    expected = robustness.judge(
        model, x, y, robustness.Ball(0.3, "l2"), steps=2, restarts=2, farthest=0.5
    )
    assert (found["epsilon"], found["norm"], found["step"]) == (0.3, "l2", 10)
    for name, value in asdict(expected).items():
        if name == "distances":
            value = [None if np.isinf(d) else pytest.approx(d) for d in value]
        assert found[name] == value, name
    assert found["examples"] == 20 and 0 <= found["pgd"] <= found["accuracy"]


def test_the_table_has_a_row_per_figure_and_says_what_the_attack_was(folder, capsys):
    given = ["--epsilon", "0.1", "--norm", "linf", "--clip", "-1,3"]
    assert cli.main(["robustness", str(folder / "run"), *FEW, *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[0] for x in lines[1:4]] == ["clean", "FGSM", "PGD"]
    assert sum(x.startswith(("noise", "blur")) for x in lines) == 10
    assert lines[-1] == ("20 test examples; L-infinity, epsilon 0.1; PGD of 2 steps, 2 restarts")


BAD = {
    "no radius": (["clean"], "--epsilon is needed"),
    "a regression": (["regression"], "need a classifier, but the objective of the run is"),
    "a language model": (["text"], "`dst eval` judges language models"),
    "no run": (["nowhere"], "nowhere"),
    "no numbers": (["run", "--clip", "low"], "--clip must be numbers such as 0,1"),
    "another range": (["run", "--clip", "0,1"], "raw inputs go from"),
    "no examples": (["run", "--examples", "0"], "examples must be an integer >= 1"),
    "an unknown norm": (["run", "--norm", "l1"], "norm must be one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_a_message(folder, case, capsys):
    (run, *options), message = BAD[case]
    assert cli.main(["robustness", str(folder / run), *options]) == 2
    assert message in capsys.readouterr().err


def test_eval_says_what_judges_a_run(folder, capsys):
    assert cli.main(["eval", str(folder / "clean")]) == 2
    assert f"`dst robustness {folder / 'clean'}` judges a classifier" in capsys.readouterr().err


def test_categories_are_refused(tmp_path):
    tokens = np.zeros((4, 3), np.int32)
    dataset = data.from_arrays((tokens, tokens[:, 0]), (tokens, tokens[:, 0]))
    with pytest.raises(ValueError, match="real numbers, but those of the run are .*int32"):
        _check(small(tmp_path), dataset)
