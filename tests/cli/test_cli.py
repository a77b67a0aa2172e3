"""Laws of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dst import cli
from dst.methods import METHODS, PRESETS
from tests.training import ROOT, write_small

HEAVY = ["flax", "orbax", "sklearn", "matplotlib", "wandb"]


def test_a_bad_config_is_refused_before_anything_heavy_is_loaded(tmp_path):
    code = f"""
import sys
from dst import cli
from dst.methods import METHODS, PRESETS
assert cli.main(["train", {str(write_small(tmp_path))!r}, "seed=x"]) == 2
print([m for m in {HEAVY} if m in sys.modules])
from jax._src import xla_bridge
print(list(xla_bridge._backends))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train"], ["train", "x.yaml", "--overwrit3"], ["report"]],
)
def test_unknown_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "dst" in capsys.readouterr().err


def test_overrides_may_stand_before_and_after_options(tmp_path, capsys):
    path = str(write_small(tmp_path))
    for order in (["seed=x", "--dir", "d"], ["--dir", "d", "seed=x"]):
        assert cli.main(["train", path, *order]) == 2
        assert "seed must be an integer, got 'x'" in capsys.readouterr().err


def test_methods_lists_every_method_with_its_paper(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    for part in ("rigl", "set-itop", "gmp", "1911.11134", "2102.02887", "drop_fraction=0.3"):
        assert part in out


def test_the_schema_describes_every_method(capsys):
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    methods = [arm for arm in schema["properties"]["method"]["anyOf"] if "properties" in arm]
    names = [arm["properties"]["name"]["const"] for arm in methods]
    assert names == [*METHODS, *PRESETS]
    rigl = methods[names.index("rigl")]
    assert rigl["required"] == ["name", "sparsity"]
    assert rigl["properties"]["drop_fraction"]["default"] == 0.3
    assert all("description" in x for k, x in rigl["properties"].items() if k != "name")
