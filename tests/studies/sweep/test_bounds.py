"""Sweep files are bounded before anything is counted, drawn or written: the line and the key say
what fits."""

from __future__ import annotations

import time

import pytest

from dst.studies import sweep
from dst.studies.sweep import distributions, storage
from tests.training import write_small

LINE = 9  # of what is tried
FILE = """name: toy
command: [dst, train, small.yaml, "${args_no_hyphens}"]
method: METHOD
run_cap: 4
metric: {name: accuracy, goal: maximize}
early_terminate: {type: hyperband, min_iter: 1}
parameters:
  seed: {values: [0, 1]}
  PARAMETER
"""
RATE = "optimizer.learning_rate: "
HUGE = "1" + "0" * 400
SLOWEST = 20  # seconds of the processor; what is not bounded takes minutes


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)


def loaded(tmp_path, parameter=RATE + "{value: 0.1}", method="random", **replaced):
    text = FILE.replace("METHOD", method).replace("PARAMETER", parameter)
    for key, value in replaced.items():
        (old,) = (x for x in text.splitlines() if x.startswith(f"{key}:"))
        text = text.replace(old, f"{key}: {value}")
    (tmp_path / "toy.yaml").write_text(text)
    return sweep.load("toy.yaml")


def refused(tmp_path, line, expected, *given, **replaced):
    before, start = sorted(tmp_path.iterdir()), time.process_time()
    with pytest.raises(sweep.SweepError) as error:
        loaded(tmp_path, *given, **replaced)
    assert time.process_time() - start < SLOWEST
    message = str(error.value)
    assert message.startswith(f"toy.yaml, line {line}: "), message
    for part in expected:
        assert part in message
    assert len(message) < 600
    assert sorted(tmp_path.iterdir()) == sorted({*before, tmp_path / "toy.yaml"})


GRIDS = {
    "{distribution: q_uniform, min: 0.0, max: 1.0, q: 1.0e-12}": ["has 1000000000001 numbers"],
    "{min: 0, max: 9000000000000000}": ["at most 100000 trials", "9000000000000001 numbers"],
    "{min: 1, max: 100000}": ["the grid has 200000 trials"],
}


@pytest.mark.parametrize("given", GRIDS)
def test_a_grid_is_counted_without_being_made(given, tmp_path):
    line = LINE if "numbers" in GRIDS[given][-1] else 4
    key = ["optimizer.learning_rate: "] if line == LINE else []
    refused(tmp_path, line, [*key, *GRIDS[given]], RATE + given, "grid", run_cap="100000")


NUMBERS = {
    "{distribution: q_uniform, min: 0.0, max: 0.9, q: 1.0e-320}": ["q must be at least 1e-16"],
    "{distribution: q_uniform, min: 0.0, max: 0.9, q: 1.0e300}": ["q must be at most max - min"],
    "{distribution: q_normal, q: 1.0e-320}": ["q must be at least"],
    f"{{min: 1, max: {HUGE}}}": ["max must be a finite number"],
    f"{{distribution: uniform, min: 0.0, max: {HUGE}}}": ["max must be a finite number"],
    "{min: 0, max: 9007199254740993}": ["integers from -9007199254740992 to 9007199254740992"],
    "{distribution: uniform, min: -1.0e308, max: 1.0e308}": ["numbers must stay below 1.8e+308"],
    "{distribution: log_uniform, min: -3, max: 1000}": ["-708 to 708", "log_uniform_values"],
    "{distribution: log_uniform, min: -1.0e9, max: 0}": ["-708 to 708"],
    "{distribution: q_log_uniform, min: -3, max: 1000}": ["-708 to 708"],
    f"{{distribution: log_uniform_values, min: 1.0e-9, max: {HUGE}}}": ["max must be a finite"],
    "{distribution: log_normal, mu: 1000}": ["numbers must stay below", "mu and sigma"],
    "{distribution: log_normal, sigma: 1.0e300}": ["numbers must stay below"],
    "{distribution: normal, mu: 1.0e308, sigma: 1.0e308}": ["numbers must stay below"],
    f"{{distribution: normal, mu: {HUGE}}}": ["mu must be a finite number"],
    "{values: [0.1, 0.2], probabilities: [a, b]}": ["2 numbers >= 0 whose sum is 1", "['a', 'b']"],
    "{values: [0.1, 0.2], probabilities: [.nan, 1.0]}": ["2 numbers >= 0", "[nan, 1.0]"],
    "{values: [0.1, 0.2], probabilities: [1.0, .nan]}": ["2 numbers >= 0", "[1.0, nan]"],
    "{values: [0.1, 0.2], probabilities: [true, false]}": ["2 numbers >= 0", "[True, False]"],
    "{values: [0.1, 0.2], probabilities: [-1, 2]}": ["2 numbers >= 0", "[-1, 2]"],
    "{values: [0.1, 0.2], probabilities: [[1], [0]]}": ["2 numbers >= 0", "[[1], [0]]"],
    f"{{values: [0.1, 0.2], probabilities: [{HUGE}, 0]}}": ["2 numbers >= 0"],
}


@pytest.mark.parametrize("given", NUMBERS, ids=lambda x: x[:60])
def test_numbers_that_cannot_be_drawn_are_refused_with_their_key(given, tmp_path):
    refused(tmp_path, LINE, ["optimizer.learning_rate: ", *NUMBERS[given]], RATE + given)


SECTIONS = {
    ("run_cap", "1000000000"): ["run_cap must be an integer >= 1 and <= 100000"],
    ("run_cap", "1.5"): ["run_cap must be an integer"],
    ("early_terminate", "{type: hyperband, max_iter: 27, s: 100000000}"): [
        "early_terminate.s must be an integer >= 0 and <= 30"
    ],
    ("early_terminate", "{type: hyperband, min_iter: 1, s: {a: 1}}"): ["early_terminate.s must be"],
    ("early_terminate", "{type: hyperband, min_iter: 1, strict: {a: 1}}"): [
        "early_terminate.strict must be true or false"
    ],
    ("early_terminate", "{type: hyperband, min_iter: 1, max_iter: 1000000000000}"): [
        "early_terminate.max_iter must be an integer >= 1 and <= 2147483647"
    ],
    ("early_terminate", f"{{type: hyperband, min_iter: 1, eta: {HUGE}}}"): [
        "early_terminate.eta must be an integer >= 2 and <= 2147483647"
    ],
    ("early_terminate", "{type: hyperband, min_iter: 1, eta: 2.5}"): ["early_terminate.eta must"],
    ("command", "[dst, train, [small.yaml], '${args_no_hyphens}']"): ["command must read"],
    ("command", "[dst, train, small.yaml, [a], '${args_no_hyphens}']"): ["command must read"],
    ("command", "[dst, train, {a: 1}, '${args_no_hyphens}']"): ["command must read"],
    ("command", r'[dst, train, "a\0b", "${args_no_hyphens}"]'): ["expected a YAML file"],
    ("command", "[dst, train, '.', '${args_no_hyphens}']"): ["expected a YAML file"],
}
AT = {"command": 2, "run_cap": 4, "early_terminate": 6}


@pytest.mark.parametrize("given", SECTIONS, ids=lambda x: f"{x[0]}-{x[1][:60]}")
def test_settings_that_no_sweep_can_have_are_refused_with_their_key(given, tmp_path):
    key, value = given
    refused(tmp_path, AT[key], SECTIONS[given], **{key: value})


@pytest.mark.parametrize("eta", [2, 2**31 - 1])
@pytest.mark.parametrize("least", [1, 2**31 - 1])
def test_what_hyperband_may_be_at_most_ends_trials_at_once(eta, least, tmp_path):
    early = f"{{type: hyperband, min_iter: {least}, max_iter: {2**31 - 1}, eta: {eta}}}"
    toy, start = loaded(tmp_path, early_terminate=early), time.process_time()
    one = storage.Storage(toy, tmp_path / "journal").assign()
    assert [one.behind(i, 0.5) for i in range(4)][0] is False
    assert time.process_time() - start < SLOWEST


NAMES = {
    "seed: {value: 3}": (9, "the key 'seed' is given twice, first in line 8"),
    "'a..b': {value: 1}": (9, "the names of keys, such as method.sparsity, got 'a..b'"),
    "'': {value: 1}": (9, "the names of keys, such as method.sparsity, got ''"),
    "'seed=1': {value: 1}": (9, "the names of keys, such as method.sparsity, got 'seed=1'"),
    "method.sparsity: {value: 0.5}\n  method: {parameters: {sparsity: {value: 0.6}}}": (
        10,
        "method.sparsity is given twice, first in line 9",
    ),
    "method: {parameters: {sparsity: {value: 0.6}}}\n  method.sparsity: {value: 0.5}": (
        10,
        "method.sparsity is given twice, first in line 9",
    ),
    "method: {value: {sparsity: 0.6}}\n  method.sparsity: {value: 0.5}": (
        10,
        "method.sparsity is given twice: values of method hold it too",
    ),
    "method.sparsity: {value: 0.5}\n  method: {values: [{every: 9}, {sparsity: 0.6}]}": (
        9,
        "method.sparsity is given twice: values of method hold it too",
    ),
}


@pytest.mark.parametrize("given", NAMES)
def test_a_key_is_given_once_dotted_or_nested(given, tmp_path):
    line, expected = NAMES[given]
    refused(tmp_path, line, [expected], given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("method: {parameters: {sparsity: {value: 0.5}}, value: 3}", "method must have parameters"),
        ("method: {parameters: {}}", "method must have parameters alone, with at least one below"),
        ("method: {parameters: null}", "method must have parameters alone"),
        ("method: {parameters: [1]}", "method must have parameters alone"),
    ],
)
def test_what_is_nested_has_parameters_alone(given, expected, tmp_path):
    refused(tmp_path, LINE, [expected], given)


def test_what_wandb_alone_reads_is_text(tmp_path):
    refused(tmp_path, 10, ["project must be text, got 3"], RATE + "{value: 0.1}\nproject: 3")


def test_a_section_and_another_key_of_it_may_both_vary(tmp_path):
    both = "method: {values: [{name: rigl}, {name: set}]}\n  method.sparsity: {values: [0.5, 0.6]}"
    toy = loaded(tmp_path, both, "grid", run_cap="8")
    assert len({toy.command.load(x).method.value.sparsity for x in toy.trials()}) == 2


def test_more_values_than_can_be_checked_are_refused(tmp_path):
    values = ",".join(map(str, range(2_000)))
    refused(tmp_path, 7, ["at most 1000 values", "got 2002"], f"data.seed: {{values: [{values}]}}")


@pytest.mark.parametrize(
    "parameter", [RATE + "&a {values: [*a]}", "method: &a {parameters: {b: *a}}"]
)
def test_a_section_inside_itself_is_refused_with_a_line(parameter, tmp_path):
    refused(tmp_path, 7, ["aliases stand for more than 100000 values"], parameter)


@pytest.mark.parametrize("name", [x for x in distributions.KEYS if "uniform" in x])
def test_the_widest_ranges_that_are_accepted_draw_finite_numbers(name):
    top = {"log_uniform": 708, "q_log_uniform": 36}.get(name, 2**53)
    low = 1 if name.endswith("values") else -top
    given = {"distribution": name, "min": low, "max": top}
    drawn = [distributions.read(given).at(u) for u in (0.0, 0.3, 0.5, 1 - 2**-53)]
    assert drawn == sorted(drawn) and all(abs(x) < 1e308 for x in drawn)
    if name == "int_uniform":
        assert all(low <= x <= top for x in drawn)
