"""Files are YAML 1.2: what YAML 1.1 reads as another number is refused, with what to write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.report import reading
from dst.studies.sweep import file
from dst.studies.sweep.spec import SweepError
from dst.train.config import plain_data, yaml12
from dst.train.config import run as config
from dst.train.config.run import ConfigError
from tests.training import ROOT, SMALL

SWEEP = ROOT / "configs/digits/sweep.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("Off", "Off"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("0", 0),
        ("-12", -12),
        ("+12", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-3", 1e-3),
        (".5", 0.5),
        (".5e3", 500.0),
        ("1.", 1.0),
        ("0.10", 0.1),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("2001-12-14", "2001-12-14"),
        ("12e", "12e"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1:1234", "10.0.0.1:1234"),
        ("=", "="),
        ("'1_000'", "1_000"),
        ('"017"', "017"),
        ("!!str 1_000", "1_000"),
        ("!!int 3", 3),
        ("{b: &x {c: 1}, d: {<<: *x}}", {"b": {"c": 1}, "d": {"c": 1}}),
    ],
)
def test_scalars_are_those_of_the_core_schema(text, value):
    assert yaml12.load(f"a: {text}") == {"a": value}
    assert type(yaml12.load(f"a: {text}")["a"]) is type(value)


REFUSED = {
    "1_000": "Write 1000; or",
    "-1_0.5_0": "Write -10.50; or",
    "1_0e3": "Write 10e3; or",
    "017": "Write 17; or",
    "-007": "Write -7; or",
    "00": "Write 0; or",
    "0b11": "Write 3; or",
    "-0x1F": "Write -31; or",
    "0x1_F": "Write 31; or",
    "1:30": "Write 90; or",
    "1:30:00.5": "Write 5400.5; or",
    "!!binary aGVsbG8=": "the tag '!!binary' is not read",
    "!!set {a}": "the tag '!!set' is not read",
    "!!timestamp 2001-12-14": "the tag '!!timestamp' is not read",
    "!!bool yes": "the tag '!!bool' is not read",
    "!!int 1_000": "the tag '!!int' is not read",
    "!mine 1": "the tag '!mine' is not read",
    "!!python/name:os.system x": "the tag '!!python/name:os.system' is not read",
    "1" * 5000: "has too many digits",
    "{b: 1, b: 2}": "the key 'b' is given twice, first in line 2",
    "{<<: {c: 1}, b: 1, b: 2}": "the key 'b' is given twice, first in line 2",
    "[1": "this is no valid YAML: expected",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda x: x[:20])
def test_what_has_another_meaning_elsewhere_is_refused_with_its_line(text, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(f"name: small\na: {text}\n")
    for load in (config.load, file.load):
        with pytest.raises(ConfigError) as error:
            load(path)
        assert REFUSED[text] in str(error.value)
        assert str(error.value).startswith(str(path))
        assert "line 2" in str(error.value) or text == "[1"
        assert len(str(error.value)) < 600


@pytest.mark.parametrize("directive", ["%YAML 1.1", "%YAML 1.3", "%YAML 2.0", "%TAG ! x,2000:"])
def test_directives_of_other_versions_are_refused_with_their_line(directive, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(f"# mine\n{directive}\n---\nname: yes\n")
    for load, place in ((config.load, ": line 2: "), (file.load, ", line 2: ")):
        with pytest.raises(ConfigError) as error:
            load(path)
        assert f"small.yaml{place}the directive '{directive}' is not read" in str(error.value)
    path.write_text("%YAML 1.2\n---\nname: yes\n")
    assert plain_data.read(path) == {"name": "yes"}


def test_the_same_holds_for_overrides_and_for_what_is_read_back(tmp_path):
    with pytest.raises(ConfigError, match="the value of .seed=017. .* Write 17"):
        config.load(ROOT / "configs/digits/rigl.yaml", ["seed=017"])
    (tmp_path / "config.yaml").write_text("%YAML 1.1\n---\nname: x\n")
    (note, *_) = (x for x in reading.read(tmp_path).notes if x.startswith("config.yaml"))
    assert note.startswith("config.yaml is damaged")


def test_a_sweep_names_the_line_of_such_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text, path = SWEEP.read_text(), tmp_path / "sweep.yaml"
    path.write_text(f"{text}run_cap: 1_000\n")
    with pytest.raises(SweepError, match=rf"sweep.yaml, line {text.count(chr(10)) + 1}: '1_000'"):
        file.load(path)


@pytest.mark.parametrize("link", ["{{<<: [{0}]}}", "[{0}]", "{{<<: {{x: [{0}]}}}}"])
def test_sections_that_merge_each_other_many_times_are_refused_at_once(link):
    names = "abcdefghijk"
    bomb = ["a: &a {x: 1, y: 2}"]
    for one, two in zip(names, names[1:], strict=False):
        bomb.append(f"{two}: &{two} {link.format(', '.join([f'*{one}'] * 9))}")
    start = time.process_time()
    with pytest.raises(ValueError, match="aliases stand for more than 100000 values"):
        yaml12.load("\n".join(bomb))
    assert time.process_time() - start < 2


def test_lines_are_those_of_keys_and_entries():
    text = f"{SMALL}\nlist:\n- 1\n- {{a: 2}}\n"
    line, all_lines = yaml12.lines(text), text.split("\n")
    assert all_lines[line(["optimizer", "warmup"]) - 1].startswith("optimizer")
    assert all_lines[line(["list", 1, "a"]) - 1] == "- {a: 2}"
    assert line(["list", 7]) == line(["list"])
    assert line(["nothing"]) == 1


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"\A[-+0-9._:xobeEtruyn~<=!&*%]{1,8}\Z"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_is_written_is_read_back(data):
    assert yaml12.load(yaml12.dump({"a": data})) == {"a": data}


@pytest.mark.parametrize("opening, closing", [("[", "]"), ("{a: ", "}")])
def test_nesting_is_counted_before_it_is_read(opening, closing):
    def nested(depth):
        return f"x:\n  {opening * depth}1{closing * depth}"

    assert yaml12.load(nested(63))
    with pytest.raises(yaml12.Refused, match="^line 2: this is nested too deeply"):
        yaml12.load(nested(64))
