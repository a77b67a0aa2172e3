"""What ``dst init`` writes works as it stands; the schemas that editors use are fresh and right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from dst import cli
from dst.cli import init, schema
from dst.core import files
from dst.studies import sweep
from dst.studies.sweep import command, file
from dst.train.config import plain_data
from dst.train.config import run as config
from tests.training import FILES, ROOT, SWEEPS

STARTER = ROOT / "dst" / "cli" / "starter"
YAML = sorted({*FILES, *SWEEPS, *ROOT.glob("experiments/*/*.yaml"), *STARTER.glob("*.yaml")})
LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


@pytest.fixture(scope="module")
def schemas():
    return {x.name: json.loads(x.read_text()) for x in (STARTER / "schema").iterdir()}


@pytest.mark.parametrize("kind", ["config", "sweep"])
def test_the_stored_schemas_are_those_that_dst_schema_prints(kind):
    stored = (STARTER / "schema" / f"{kind}.json").read_text()
    assert stored == schema.text(sweep=kind == "sweep") + "\n", "run `make schema`"


@pytest.mark.parametrize("path", YAML, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_first_line_of_a_yaml_file_names_its_schema_which_accepts_it(path, schemas):
    target = (path.parent / LINE.match(path.read_text())[1]).resolve()
    kind = "sweep.json" if "\nparameters:" in path.read_text() else "config.json"
    assert target == STARTER / "schema" / kind
    jsonschema.validate(plain_data.read(path), schemas[kind], jsonschema.Draft7Validator)


def test_schemas_are_of_the_draft_that_they_name(schemas):
    for found in schemas.values():
        assert found["$schema"] == jsonschema.Draft7Validator.META_SCHEMA["$schema"]
        jsonschema.Draft7Validator.check_schema(found)


SWEEP = {
    "command": ["dst", "train", str(ROOT / "configs/digits/rigl.yaml"), command.ARGUMENTS],
    "method": "random",
    "run_cap": 3,
    "parameters": {"seed": {"values": [0, 1]}},
}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"methd": "grid"}, ()),
        ({"method": "gird"}, ("method",)),
        ({"run_cap": 0}, ("run_cap",)),
        ({"command": ["dst", "train", "x.yaml"]}, ("command",)),
        ({"metric": {"name": "acuracy"}}, ("metric", "name")),
        (
            {"command": ["python", "-c", command.ARGUMENTS], "metric": {"name": 3}},
            ("metric", "name"),
        ),
        ({"metric": {"name": "accuracy", "goal": "max"}}, ("metric", "goal")),
        ({"early_terminate": {"type": "hyperband"}}, ("early_terminate",)),
        ({"parameters": {}}, ("parameters",)),
        ({"parameters": {"seed": [1, 2]}}, ("parameters", "seed")),
        ({"parameters": {"seed": {"value": 1, "values": [1]}}}, ("parameters", "seed")),
        ({"parameters": {"seed": {"min": 0, "maximum": 1}}}, ("parameters", "seed")),
        ({"parameters": {"x": {"parameters": {"y": {"vals": [1]}}}}}, ("parameters", "x")),
    ],
    ids=str,
)
def test_the_schema_of_sweeps_refuses_what_dst_sweep_refuses(change, where, schemas, tmp_path):
    def errors(data):
        return list(jsonschema.Draft7Validator(schemas["sweep.json"]).iter_errors(data))

    assert not errors(SWEEP)
    assert where in {tuple(x.path) for x in errors(SWEEP | change)}
    path = tmp_path / "sweep.yaml"
    path.write_text(plain_data.to_yaml(SWEEP))
    assert sweep.load(path).trials()
    path.write_text(plain_data.to_yaml(SWEEP | change))
    with pytest.raises(sweep.SweepError):
        sweep.load(path)


@pytest.mark.parametrize(
    "parameter",
    [
        {"value": "set"},
        {"values": [1, 2], "probabilities": [0.5, 0.5]},
        {"min": -3, "max": 3},
        {"min": 0.1, "max": 0.2},
        {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        {"distribution": "q_normal", "mu": 1, "q": 0.5},
        {"parameters": {"learning_rate": {"min": 0.1, "max": 0.2}}},
    ],
    ids=str,
)
def test_the_schema_of_sweeps_accepts_every_kind_of_parameter(parameter, schemas):
    jsonschema.validate(SWEEP | {"parameters": {"optimizer": parameter}}, schemas["sweep.json"])
    if "parameters" not in parameter:
        sweep.distributions.read(parameter)


def test_the_schema_of_sweeps_accepts_any_figure_of_a_script(schemas):
    script = {"command": ["python", "loop.py", command.ARGUMENTS], "metric": {"name": "mine"}}
    jsonschema.validate(SWEEP | script, schemas["sweep.json"])


def test_the_schema_of_sweeps_knows_the_keys_of_configs_dotted_and_nested(schemas):
    properties = schemas["sweep.json"]["properties"]
    assert properties.keys() == {*file.KEYS, *file.THEIRS}
    names = properties["parameters"]["properties"]
    for key in ("seed", "method.sparsity", "method.allocation.name", "optimizer.momentum"):
        assert names[key].get("description") or key.endswith(".name"), key
    nested = names["method"]["anyOf"][1]["properties"]["parameters"]["properties"]
    assert nested["drop_fraction"]["description"]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "my demo"]) == 0
    return Path("my demo")


def test_init_writes_a_config_and_a_sweep_that_load_from_where_it_was_called(demo):
    found = config.load(demo / "train.yaml")
    assert (found.name, found.method.name) == ("my-demo", "rigl")
    trials = sweep.load(demo / "sweep.yaml")
    assert (trials.name, trials.command.config, len(trials.trials())) == (
        "my-demo-sweep",
        demo / "train.yaml",
        18,
    )
    for path in demo.glob("*.yaml"):
        assert (demo / LINE.match(path.read_text())[1]).is_file()
    for path in init.FILES:
        assert not re.search(r"\b(DIR|NAME)\b", (demo / path).read_text())
    assert not list(demo.rglob("*.part"))


def test_the_wheel_has_all_of_the_starter_and_init_writes_all_of_it():
    stored = {str(x.relative_to(STARTER)) for x in STARTER.rglob("*") if x.is_file()}
    assert {x for x in stored if "__pycache__" not in x} == {*init.FILES, *init.SCHEMAS}


def test_init_says_which_commands_come_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "a/b"]) == 0
    out = capsys.readouterr().out
    assert all(x in out for x in ("dst train a/b/train.yaml", "dst sweep a/b/sweep.yaml"))


def test_init_refuses_a_folder_with_such_files_and_leaves_it_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    Path("demo/sweep.yaml").write_text("mine")
    assert cli.main(["init", "demo"]) == 2
    assert "found demo/sweep.yaml. Name another directory" in capsys.readouterr().err
    assert [x.read_text() for x in Path("demo").iterdir()] == ["mine"]
    assert cli.main(["init", "demo/sweep.yaml"]) == 2
    assert "found the file demo/sweep.yaml" in capsys.readouterr().err


def test_init_writes_all_or_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = files.whole

    def full(path):
        if path.name == "loop.py":
            raise OSError(28, "No space left on device", str(path))
        return whole(path)

    monkeypatch.setattr(files, "whole", full)
    assert cli.main(["init", "a/b"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    Path("a").mkdir()
    assert cli.main(["init", "a"]) == 1
    assert [x.name for x in tmp_path.rglob("*")] == ["a"]


def python(*arguments):
    # As a user starts it, on one device; the tests run on several.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.evidence
def test_the_starter_trains_and_sweeps_to_reports_and_its_loop_learns(demo):
    python("-m", "dst.cli", "train", demo / "train.yaml")
    assert json.loads(Path("runs/my-demo/summary.json").read_text())["accuracy"] > 0.9
    assert Path("runs/my-demo/report.html").is_file()
    sweep_ = ("sweep", demo / "sweep.yaml", "--engine", "vectorised")
    assert "18 done" in python("-m", "dst.cli", *sweep_)
    assert Path("runs/my-demo-sweep/report.html").is_file()
    out = python(demo / "loop.py")
    assert float(re.findall(r"test accuracy (\S+)", out)[-1]) > 0.9
    assert "sparsity 0.8998" in out
