"""Laws of the command line."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import typer

import dst
from dst import cli
from dst.cli import exits
from dst.cli.app import app
from dst.core import extras
from dst.methods import KINDS, METHODS, PRESETS, REGISTRY
from tests.training import ROOT, write_small

HEAVY = ["flax", "orbax", "sklearn", "matplotlib", "wandb"]


def python(code):
    """The result of a program in a fresh process."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_bad_config_is_refused_before_anything_heavy_is_loaded(tmp_path):
    result = python(f"""
import sys
from dst import cli
assert cli.main(["train", {str(write_small(tmp_path))!r}, "seed=x"]) == 2
print([m for m in {HEAVY} if m in sys.modules])
from jax._src import xla_bridge
print(list(xla_bridge._backends))
""")
    assert result.stdout.split("\n")[:2] == ["[]", "[]"], result.stderr


def test_help_loads_neither_the_trainer_nor_its_libraries():
    result = python(f"""
import sys
from dst import cli
assert cli.main(["train", "--help"]) == 0
heavy = [m for m in {[*HEAVY, "rich", "ruamel"]} if m in sys.modules]
assert not heavy, heavy
assert "dst.train" not in sys.modules and "dst.studies" not in sys.modules
""")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["trian"], "Did you mean 'train'?"),
        (["train"], "Missing argument 'CONFIG'"),
        (["train", "x.yaml", "--overwrit3"], "--overwrite"),
        (["train", "x.yaml", "--dir"], "'--dir' requires an argument"),
        (["report"], "Missing argument 'DIR'"),
        (["methods", "set", "rigl"], "unexpected extra argument(s) (rigl)"),
        (["sweep", "x.yaml", "--engine", "vmap"], "not one of 'processes', 'vectorised'"),
        (["sweep", "x.yaml", "--workers", "many"], "valid integer"),
        (["launch", "-n", "0", "train", "x.yaml"], "greater than or equal to 1"),
        (["launch", "-n", "2"], "Missing argument 'train|resume'"),
        (["launch", "train", "x.yaml"], "Missing option '--processes' / '-n'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_arguments_exit_with_2_and_say_what_was_expected_and_found(arguments, message, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and message in err
    lines = err.splitlines()
    assert lines[0].startswith("error: dst")
    assert lines[-1].endswith("--help` describes the arguments.")
    if arguments[-1:] != ["--dir"]:  # typer does not say of which command
        assert lines[1].startswith("expected: dst")
    assert lines[-2] == f"found: {' '.join(['dst', *arguments])}"


def test_launch_takes_train_and_resume_only(capsys):
    assert cli.main(["launch", "-n", "2", "sweep", "x.yaml"]) == 2
    assert "expected train or resume with its arguments, found 'sweep'" in capsys.readouterr().err


def test_launch_passes_on_the_options_of_its_command(monkeypatch):
    from dst.train.distributed import launch

    calls = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: calls.append(arguments) or 75)
    words = ["train", "x.yaml", "--dir", "d", "seed=1", "--overwrite"]
    assert cli.main(["launch", "-n", "2", "--devices-per-process", "4", *words]) == 75
    assert calls == [(words, 2, 4)]


@pytest.mark.parametrize(
    "order",
    [
        ["seed=x", "name=a", "--dir", "d"],
        ["--dir", "d", "seed=x", "name=a"],
        ["seed=x", "--dir", "d", "name=a"],
        ["seed=x", "--overwrite", "--dir=d", "name=a"],
    ],
    ids=" ".join,
)
def test_overrides_may_stand_before_between_and_after_options(order, tmp_path, capsys):
    path = str(write_small(tmp_path))
    assert cli.main(["train", path, *order]) == 2
    err = capsys.readouterr().err
    assert f"{path} with seed=x name=a: seed must be an integer, got 'x'" in err


def test_the_version_is_printed_with_and_without_other_arguments(capsys):
    for arguments in (["--version"], ["--version", "train"]):
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out == f"{dst.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell, monkeypatch, capsys):
    # Without detection of the shell, which depends on who runs the tests, the option takes a name.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--show-completion", shell])
    assert stop.value.code == 0
    assert "_DST_COMPLETE=complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"), [("dst ins", "inspect"), ("dst train --over", "--overwrite")]
)
def test_commands_and_options_are_completed(words, expected, monkeypatch, capsys):
    monkeypatch.setenv("_DST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split() == [expected]


def test_sweep_passes_on_its_options(monkeypatch, tmp_path, capsys):
    from dst.studies import sweep
    from dst.train.distributed.signals import Stopped

    calls = []

    def run(spec, where, **options):
        calls.append((spec, str(where), options))
        raise Stopped("stopped by SIGTERM")

    monkeypatch.setattr(sweep, "load", lambda path: str(path))
    monkeypatch.setattr(sweep, "run", run)
    assert cli.main(["sweep", "x.yaml", "--dir", "d", "--batch", "4", "--workers", "2"]) == 75
    options = {"engine": "processes", "workers": 2, "batch": 4, "storage": None}
    assert calls == [("x.yaml", "d", options)]
    assert "stopped by SIGTERM; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "metrics.jsonl"), 1, "'metrics.jsonl'"),
        (KeyboardInterrupt(), 130, "`dst resume` continues the run"),
        (ModuleNotFoundError("", name="optuna.storages"), 2, "pip install 'dst-jax[sweep]'"),
        (ModuleNotFoundError("", name="mine"), 2, "needs the module mine, which is not installed"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_expected_errors_end_in_one_line_and_an_exit_code(error, code, message, capsys):
    def command():
        raise error

    assert exits.guarded(command)() == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_defects_keep_their_traceback():
    def command():
        raise ModuleNotFoundError("", name="dst.trian")

    with pytest.raises(ModuleNotFoundError):
        exits.guarded(command)()


# Python code after which no module of an extra can be imported.
WITHOUT_EXTRAS = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {sorted(extras.EXTRAS)}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
"""


def test_without_extras_the_command_line_names_the_extra_and_prints_version_and_help():
    result = python(f"""{WITHOUT_EXTRAS}
from dst.cli import main
print([main(arguments) for arguments in ([], ["train", "x.yaml"], ["--version"], ["--help"])])
""")
    version, *text, codes = result.stdout.splitlines()
    missing = "needs the module typer, which is not installed: pip install 'dst-jax[train]'"
    assert (version, codes) == (dst.__version__, "[2, 2, 0, 0]")
    assert result.stderr.splitlines() == 2 * [f"error: this {missing}"]
    assert text[-1] == f"The library works as it is. For the commands this {missing}"
    commands = typer.main.get_command(app).commands
    listed = dict(x.split(maxsplit=1) for x in text[text.index("Commands:") + 1 : -2])
    assert listed == {name: x.help for name, x in commands.items()}


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import dst.nnx", "flax"),
        ("import dst; dst.save_masks", "train"),
        ("import dst.models", "flax"),
        ("from dst.models import MLP", "flax"),
        ("import dst.train.config.run", "train"),
        ("from dst.train import Recorder", "train"),
        ("import dst.report", "train"),
        ("import dst.studies.sweep", "sweep"),
    ],
)
def test_without_extras_a_part_of_the_library_names_its_extra(code, extra):
    result = python(f"""{WITHOUT_EXTRAS}
try:
    {code}
except ModuleNotFoundError as error:
    print(error)
""")
    assert f"pip install 'dst-jax[{extra}" in result.stdout, result


# Packages that name what they need as a whole.
WHOLE = ("dst.models", "dst.report", "dst.studies.", "dst.train")


def test_without_extras_no_module_of_these_packages_fails_without_naming_its_extra():
    files = sorted((ROOT / "dst").rglob("*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    modules = [x for x in (x.removesuffix(".__init__") for x in names) if x.startswith(WHOLE)]
    result = python(f"""{WITHOUT_EXTRAS}
import importlib
for name in {modules}:
    try:
        importlib.import_module(name)
        print(name, "is imported")
    except ModuleNotFoundError as error:
        print(error)
""")
    lines = result.stdout.splitlines()
    assert len(lines) == len(modules) > 50, result
    assert not [x for x in lines if "pip install 'dst-jax[" not in x]


def test_an_extra_without_one_of_its_modules_is_named_before_anything_is_imported(monkeypatch):
    extras.check("sweep")
    monkeypatch.setitem(extras.EXTRAS, "no_such_module", "train")
    extras.check("flax")
    with pytest.raises(ModuleNotFoundError, match=r"no_such_module.*'dst-jax\[train\]'"):
        extras.check("train")


def test_a_module_of_dst_that_is_missing_is_a_defect_and_nothing_to_install():
    with pytest.raises(ModuleNotFoundError, match="No module named 'dst.trian'"), extras.required():
        importlib.import_module("dst.trian")


def plain(name):
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_module_is_in_the_extra_that_messages_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    distributions = metadata.packages_distributions()
    for module, extra in extras.EXTRAS.items():
        names = {plain(re.split(r"[\[>=]", x)[0]) for x in offered[extra]}
        assert names & {plain(x) for x in distributions.get(module, names)}, module
    for extra, brings in extras.INCLUDED.items():
        found, open_ = set(), [extra]
        while open_:
            asked = " ".join(offered[open_.pop()])
            found |= (
                new := {x for y in re.findall(r"dst-jax\[(.*?)\]", asked) for x in y.split(",")}
            )
            open_ += new
        assert found == set(brings), extra


@pytest.mark.parametrize("command", ["schema", "--help"])
def test_a_reader_that_stops_early_is_no_error(command):
    with subprocess.Popen(
        [sys.executable, "-m", "dst.cli", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_methods_lists_every_method_by_kind_with_its_line_and_its_evidence(capsys):
    assert cli.main(["methods"]) == 0
    kinds = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")]
    listed = {}
    for kind, *lines in kinds:
        for line, evidence in zip(lines[::2], lines[1::2], strict=True):
            name, python, summary = line.split(maxsplit=2)
            listed[name] = (kind, python, summary.strip(), evidence.strip())
    assert tuple(kind for kind, *_ in kinds) == KINDS
    assert listed.keys() == {*METHODS, *PRESETS}
    for name, method in {**METHODS, **PRESETS}.items():
        kind, python, summary, evidence = listed[name]
        assert kind == REGISTRY[name].facts["kind"]
        assert python == f"dst.{method.__name__}"
        assert summary == " ".join(method.__doc__.partition("\n\n")[0].split())
        against, file = evidence.removeprefix("checked against ").rsplit("; ", 1)
        assert against in " ".join(method.__doc__.split())
        assert (ROOT / file).is_file()


def test_methods_describes_one_method_with_its_settings_and_its_paper(capsys):
    for name, parts in (
        ("rigl", ["dst.RigL(sparsity, ", "drop_fraction=0.3", "1911.11134", "Checked against"]),
        ("set-itop", ["dst.set_itop(", "2102.02887"]),
    ):
        assert cli.main(["methods", name]) == 0
        out = capsys.readouterr().out
        assert all(part in out for part in parts), out
    assert cli.main(["methods", "rgil"]) == 2
    assert "Did you mean 'rigl'?" in capsys.readouterr().err


def test_the_schema_describes_every_method(capsys):
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    methods = [
        arm
        for arm in schema["properties"]["method"]["anyOf"]
        if "name" in arm.get("properties", ())
    ]
    names = [arm["properties"]["name"]["const"] for arm in methods]
    assert names == [*METHODS, *PRESETS]
    rigl = methods[names.index("rigl")]
    assert rigl["required"] == ["name", "sparsity"]
    assert rigl["properties"]["drop_fraction"]["default"] == 0.3
    assert all("description" in x for k, x in rigl["properties"].items() if k != "name")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_screen_that_fails_ends_nothing():
    program = """
from dst.cli.screen import tolerated
with tolerated():
    print("x" * 100_000, flush=True)
    print("still here")
"""
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 0
    assert result.stderr == (
        "warning: stdout: No space left on device. Training continues without a screen.\n"
    )
