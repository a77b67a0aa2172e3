"""Whatever stands in a config or a sweep file: it loads, or an error says what would fit."""

from __future__ import annotations

import copy
import random
import time
import traceback
from pathlib import Path

import pytest

from dst.studies.sweep import file
from dst.studies.sweep.spec import SweepError
from dst.train import setup
from dst.train.config import plain_data
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from dst.train.setup import SetupError

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "configs/digits/rigl.yaml"
STARTS = [DIGITS, ROOT / "configs/stdlib/set.yaml", ROOT / "configs/digits/gmp.yaml"]
SWEEP = ROOT / "configs/digits/sweep.yaml"
SLOWEST = 3  # seconds
LONGEST = 1500  # characters of a message: keys are listed, values are cut

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**10, 2**31, 2**32, 2**63, 10**23, -(10**30)),
    *(0.0, 0.5, 1.0, -0.5, 1e-30, 1e30, 1e308, float("inf"), float("nan"), 100.0, 99.5),
    *(
        "",
        " ",
        "a",
        "a" * 5000,
        "50%",
        "-1%",
        "200%",
        "1e400%",
        "%",
        "nan",
        "é",
        "\x00",
        "../..",
        "/",
    ),
    *("rigl", "digits", "mlp", "tfds:", "tfds:x", "**", "a b", "{", "import", "dst.train:x", "1:2"),
    *([], [[]], {}, {"name": {}}, {"name": []}, {"import": 3}, {"import": "os:system"}, [None]),
    *([10**10], [-1], ["a"], [0], {"a": {"b": {"c": 1}}}, {"": 1}, [1] * 3000, {"name": "rigl"}),
    *(["a"] * 3, {"import": "a" * 5000 + ":b"}, [[1, 2], [3, 4]], {"sparsity": 2}, {"**": 0.5}),
]
DEEP = ["[" * 3000, "{a: " * 500, "&a ", "*a", "? ", "---\n"]


def places(data, path=()):
    """Paths of everything that a mapping holds."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def mutated(data, draw):
    """The data with one to three values replaced, taken out or added."""
    data = copy.deepcopy(data)
    for _ in range(draw.randint(1, 2)):
        found = list(places(data))
        if not found:
            break
        *around, last = draw.choice(found)
        node = data
        for key in around:
            node = node[key]
        match draw.randint(0, 5):
            case 0:
                del node[last]
            case 1 if isinstance(node, dict):
                node[draw.choice(["seed", "name", "import", "x" * 5000, "", "steps", "value"])] = (
                    copy.deepcopy(draw.choice(VALUES))
                )
            case _:
                node[last] = copy.deepcopy(draw.choice(VALUES))
    return data


def scratched(text, draw):
    """The text with characters replaced, taken out or doubled, or cut off."""
    for _ in range(draw.randint(1, 4)):
        i = draw.randrange(len(text)) if text else 0
        match draw.randint(0, 4):
            case 0:
                text = text[:i] + draw.choice("[]{}:,#&*!|>'\"%@`\t\n-0\x01é") + text[i + 1 :]
            case 1:
                text = text[:i] + text[i + 1 :]
            case 2:
                text = text[:i] + text[i : i + 20] + text[i:]
            case 3:
                text = text[:i]
            case 4:
                text = text[:i] + draw.choice(DEEP)
    return text


def defect(load):
    """What is wrong with how a file is read or refused, in words; empty: nothing. And whether it
    was accepted."""
    start, message = time.process_time(), None
    try:
        load()
    except (ConfigError, SetupError, SweepError) as error:
        message = str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{where.filename}:{where.lineno}: {type(error).__name__} {error!s:.200}", False
    if (seconds := time.process_time() - start) > SLOWEST:
        return f"{seconds:.1f} s: {message!s:.200}", message is None
    long = message is not None and len(message) > LONGEST
    return f"{len(message)} characters: {message[-200:]}" if long else "", message is None


def as_text(data):
    return plain_data.to_yaml(data)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.name={}", "method.name must be one of .*got {}"),
        ("data.name=[[]]", "data.name must be one of .*got \\[\\[\\]\\]"),
        ("method.sparsity=" + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("model.hidden=" + "[" * 90 + "]" * 90, r"model.hidden\[0\] must be an integer"),
        ("name=" + "a" * 5000, "name must have at most 100 characters.*got 5000"),
        (
            "method.sparsity=" + "a" * 5000,
            r"method.sparsity must be a finite number, got 'aaa.*\.\.\.",
        ),
        ("optimizer.learning_rate=1e30", "optimizer.learning_rate must be .*<= 1e.06"),
        ("train.steps=100000000000000000000000", "train.steps must be .*2147483647"),
        ("method.stop=100000000000000000000000", "method.stop must be .*2147483647"),
    ],
    ids=lambda x: x[:24],
)
def test_absurd_values_are_refused_in_a_short_message(override, expected):
    with pytest.raises(ConfigError, match=expected) as error:
        config.load(DIGITS, [override])
    assert len(str(error.value)) < LONGEST


BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)


@pytest.mark.parametrize(
    "text",
    [f"{BOMB}\nname: *i\n", "name: &a\n  x: *a\n", f"{BOMB}\nmetric: *i\nname: x\n"],
    ids=["name", "itself", "metric"],
)
def test_aliases_that_stand_for_too_much_are_refused_at_once(text, tmp_path):
    (tmp_path / "bomb.yaml").write_text(text)
    start = time.process_time()
    for load in (config.load, file.load):
        with pytest.raises(ConfigError, match="aliases stand for more than 100000 values"):
            load(tmp_path / "bomb.yaml")
    with pytest.raises(ConfigError, match="aliases stand for more than 100000 values"):
        config.load(DIGITS, ["name=&a [*a]"])
    assert time.process_time() - start < SLOWEST


@pytest.mark.parametrize("width", [10**9, 10**8, 4 * 10**6])
def test_a_network_that_no_memory_holds_is_refused_before_anything_is_written(width):
    asked = config.load(DIGITS, [f"model.hidden=[{width},{width}]"])
    with pytest.raises(SetupError, match="2147483647|this machine has"):
        setup.make(asked)


@pytest.mark.evidence
def test_two_thousand_mutations_of_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, accepted, defects = random.Random(0), 0, []
    written = tmp_path / "config.yaml"
    for start in STARTS:  # what is read and compiled once
        setup.make(config.load(start))
    for i in range(2000):
        start = draw.choice(STARTS)
        overrides = []
        if i % 4 == 3:
            written.write_text(scratched(start.read_text(), draw), encoding="utf-8")
        elif i % 4 == 2:
            written.write_text(start.read_text(), encoding="utf-8")
            key = draw.choice([".".join(map(str, p)) for p in places(plain_data.read(start))])
            overrides = [f"{key}={draw.choice(VALUES)}"]
        else:
            written.write_text(as_text(mutated(dict(plain_data.read(start)), draw)), "utf-8")

        def load(overrides=overrides):
            return setup.make(config.load(written, overrides))

        wrong, good = defect(load)
        accepted += good
        defects += [f"{i}: {wrong}"] if wrong else []
        assert [x.name for x in tmp_path.iterdir()] == ["config.yaml"]
    print(f"{accepted} of 2000 configs were accepted")
    assert not defects, "\n".join(defects)
    assert 100 < accepted < 1500


@pytest.mark.evidence
def test_five_hundred_mutations_of_sweep_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    draw, accepted, defects = random.Random(1), 0, []
    written = tmp_path / "sweep.yaml"
    for i in range(500):
        if i % 2:
            written.write_text(scratched(SWEEP.read_text(), draw), encoding="utf-8")
        else:
            written.write_text(as_text(mutated(dict(plain_data.read(SWEEP)), draw)), "utf-8")
        wrong, good = defect(lambda: file.load(written))
        accepted += good
        defects += [f"{i}: {wrong}"] if wrong else []
        assert [x.name for x in tmp_path.iterdir()] == ["sweep.yaml"]
    print(f"{accepted} of 500 sweep files were accepted")
    assert not defects, "\n".join(defects)
    assert 20 < accepted < 400
