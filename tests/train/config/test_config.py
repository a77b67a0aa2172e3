"""Laws of configs: strict, resolved, repeatable, and refused before anything is written."""

from __future__ import annotations

import dataclasses

import jax
import pytest

import dst
from dst import cli
from dst.train.config import docstrings, plain_data, schema, strict, suggestions
from dst.train.config import run as config
from dst.train.config.lint import advice
from dst.train.data.digits import Digits
from tests.training import CONFIGS, ROOT, SMALL, small, write_small

# Input: overrides of the small config. Expected: what the message must contain.
BAD = {
    "unknown section": (["modle.name=mlp"], ["modle", "Did you mean 'model'?"]),
    "unknown key": (["method.sparsty=0.9"], ["method.sparsty", "Did you mean 'sparsity'?"]),
    "a key of another section": (["steps=5"], ["steps is no", "Did you mean 'train.steps'?"]),
    "a key of another section, near one of its own": (
        ["sparsity=0.9"],
        ["sparsity is no known key", "Did you mean 'method.sparsity'?"],
    ),
    "a key of the wrong section": (
        ["train.batch_size=32"],
        ["train.batch_size", "Did you mean 'data.batch_size'?"],
    ),
    "a key of another section, misspelt": (["learnin_rate=1"], ["'optimizer.learning_rate'?"]),
    "a short name": (["optimizer.lr=1"], ["optimizer.lr", "Did you mean 'learning_rate'?"]),
    "a short name without its section": (["lr=1"], ["Did you mean 'optimizer.learning_rate'?"]),
    "a name of other libraries": (["train.epochs=3"], ["epochs", "Did you mean 'steps'?"]),
    "a name in two sections": (["data.start=3"], ["Did you mean 'method.start' or 'start'?"]),
    "a name in other spelling": (["optimizer.Learning-Rate=1"], ["Did you mean 'learning_rate'?"]),
    "a key of no section": (["optimizer.xyzzy=1"], ["optimizer.xyzzy is no known key. optimizer"]),
    "a data set without its source": (
        ["data.name=cifar10"],
        ["data.name must be one of", "Did you mean 'tfds:cifar10'?"],
    ),
    "unknown method": (["method.name=rigll"], ["method.name", "'rigll'", "Did you mean 'rigl'?"]),
    "unknown model": (["model.name=mpl"], ["model.name", "'convnet'", "Did you mean 'mlp'?"]),
    "unknown optimizer": (["optimizer.name=adamww"], ["optimizer.name", "Did you mean 'adamw'?"]),
    "unknown allocation": (["method.allocation=erkk"], ["allocation.name", "Did you mean 'erk'?"]),
    "unknown key of an allocation": (
        ["method.allocation={'name': 'erk', 'powr': 1}"],
        ["method.allocation.powr", "Did you mean 'power'?"],
    ),
    "unknown choice": (["method.regrow=maybe"], ["method.regrow", "['allow', 'forbid']"]),
    "true is no number": (["method.sparsity=true"], ["method.sparsity", "finite number", "True"]),
    "a string is no number": (["optimizer.learning_rate=fast"], ["learning_rate", "'fast'"]),
    "NaN": (["method.sparsity=.nan"], ["method.sparsity", "finite", "nan"]),
    "infinity": (["optimizer.learning_rate=.inf"], ["learning_rate", "finite", "inf"]),
    "sparsity of 1": (["method.sparsity=1"], ["method.sparsity", "[0, 1)", "got 1"]),
    "sparsity in percent": (["method.sparsity=90"], ["method.sparsity", "Did you mean 0.9?"]),
    "negative sparsity": (["method.sparsity=-0.1"], ["method.sparsity", "[0, 1)", "-0.1"]),
    "a float is no integer": (["train.steps=100.0"], ["train.steps", "an integer", "100.0"]),
    "no steps": (["train.steps=0"], ["train.steps", ">= 1", "got 0"]),
    "a section that is null": (["method=null"], ["method", "'name'", "None"]),
    "a section that is a number": (["train=3"], ["train", "mapping", "3"]),
    "a list with a bad entry": (["model.hidden=[8, 0]"], ["model.hidden[1]", ">= 1", "got 0"]),
    "an empty list": (["model.hidden=[]"], ["model.hidden", "at least one"]),
    "a bad duration": (["method.every=often"], ["method.every", "percentage", "'often'"]),
    "a duration above 100 %": (["method.stop=120%"], ["method.stop", "'120%'"]),
    "an interval of no step": (["train.eval_every=0"], ["train.eval_every", ">= 1", "got 0"]),
    "never fires: stop": (["method.stop=10"], ["method", "never fires", "10"]),
    "never fires: steps": (
        ["method.every=50", "method.stop=null", "method.decay=constant"],
        ["method", "never fires", "40 steps"],
    ),
    "no cadence": (["method={'name': 'set', 'every': None}"], ["method", "SET", "every"]),
    "the ramp ends after training": (
        ["method={'name': 'gmp', 'start': 5, 'stop': 40}"],
        ["method", "after step 40", "would not be reached", "`stop`"],
    ),
    "latent weights are pruned after training": (
        ["method={'name': 'powerprop', 'sparsity': 0.9, 'prune': 40}"],
        ["method", "after step 40", "would not be reached", "`prune`"],
    ),
    "more rounds before training than steps": (
        ["method={'name': 'iterative-snip', 'sparsity': 0.9}"],
        ["method", "after step 299", "would not be reached", "`rounds`"],
    ),
    "a setting of another optimizer": (
        ["optimizer.momentum=0.9"],
        ["optimizer.momentum", "adamw", "belongs to momentum"],
    ),
    "negative clipping": (["optimizer.clip=-1"], ["optimizer.clip", "> 0", "-1"]),
    "batch and micro-batches": (["optimizer.accumulate=7"], ["data.batch_size", "accumulate=7"]),
    "a model of text for images": (["model=decoder"], ["model.name", "'mlp'", "'digits'"]),
    "a model of images for text": (
        ["data=stdlib"],
        ["model.name", "['decoder', 'pretrained']", "'stdlib'"],
    ),
    "heads that do not divide": (
        ["model={'name': 'decoder', 'heads': 3, 'hidden': 8}", "data=stdlib"],
        ["heads must divide width", "width 128, heads 3"],
    ),
    "more held-out text than there is": (
        ["model=decoder", "data={'name': 'stdlib', 'held_out': 999999}"],
        ["data.held_out", "at most", "999999"],
    ),
    "another text": (
        ["model=decoder", "data={'name': 'stdlib', 'python': '2.7.18', 'sha256': '0000'}"],
        ["data.sha256", "0000...", "2.7.18", "data.sha256=null"],
    ),
    "a model axis of no device": (["mesh.model=0"], ["mesh.model", ">= 1", "got 0"]),
    "a name that is a path": (["name=../x"], ["name", "'../x'"]),
    "seed": (["seed=-1"], ["seed", ">= 0", "-1"]),
    "no override": (["seed"], ["key=value", "'seed'"]),
    "unreadable override": (["model.hidden=[1"], ["model.hidden=[1", "neither YAML"]),
    # What only data, network and machine can tell.
    "batch larger than the data": (["data.batch_size=2000"], ["data.batch_size", "1437"]),
    "more devices than there are": (["mesh.data=999"], ["mesh.data", "at most", "999"]),
    "more devices to a layer than there are": (["mesh.model=99"], ["mesh.model", "at most", "99"]),
    "a layer on devices that leave some over": (
        ["mesh.data=-1", "mesh.model=3"],
        ["mesh.model must divide", "got 3"],
    ),
    "a grid of more devices than there are": (
        ["mesh.model=4", "mesh.data=4"],
        ["mesh.data must be at most", "with mesh.model=4, got 4"],
    ),
    "a batch that devices cannot share": (
        ["mesh.data=4", "optimizer.accumulate=2", "data.batch_size=62"],
        ["data.batch_size", "multiple of 8", "got 62"],
    ),
    "devices that share no layer": (
        ["model.hidden=[15]", "mesh.model=2"],
        ["mesh.model would divide no weight among 2", "named mlp or heads", "multiple of 2"],
    ),
    "fully sharded and nothing to shard": (
        ["model.hidden=[15]", "mesh={'data': 7, 'fully_sharded': True}", "data.batch_size=63"],
        ["mesh.fully_sharded would divide no weight among 7", "multiple of 7"],
    ),
    "a pattern without match": (
        ["sparsify.select=hiden/**"],
        ["select", "'hiden/**'", "hidden/0/kernel"],
    ),
    "an override without match": (
        ["sparsify.overrides.last/kernel.sparsity=0.5"],
        ["overrides", "'last/kernel'", "out/kernel"],
    ),
    "layers without weights": (
        ["method.allocation={'name': 'uniform', 'dense': 'hidden/**', 'compensate': True}"],
        ["hidden/0/kernel", "would leave the other layers empty"],
    ),
    "too many poolings": (
        ["model={'name': 'convnet', 'channels': [4, 4, 4, 4], 'hidden': 8}"],
        ["channels", "at most 3"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_exits_with_2_and_leaves_nothing_behind(case, tmp_path, monkeypatch, capsys):
    overrides, parts = BAD[case]
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)
    assert cli.main(["train", "small.yaml", *overrides]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: small.yaml with ")
    for part in parts:
        assert part in message
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: a\nname: b\n", ["line 2", "the key 'name' is given twice"]),
        ("name: [a\n", ["no valid YAML", "line"]),
        ("- a\n", ["mapping", "['a']"]),
        ("", ["mapping", "None"]),
        ("name: a\n", ["model is missing"]),
        (SMALL.replace("learning_rate: 3e-3, ", ""), ["optimizer.learning_rate is missing"]),
        (SMALL.replace("sparsity: 0.8, ", ""), ["method.sparsity is missing"]),
    ],
)
def test_a_bad_file_is_named(text, parts, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    assert cli.main(["train", str(path)]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in [str(path), *parts]), message


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path, capsys):
    write_small(tmp_path)
    assert cli.main(["train", str(tmp_path / "smal.yaml")]) == 2
    assert "Did you mean 'small.yaml'?" in capsys.readouterr().err


def test_yaml_is_read_as_1_2(tmp_path):
    assert small(tmp_path, "optimizer.learning_rate=1e-3").optimizer.value.learning_rate == 1e-3
    assert small(tmp_path, "name=no").name == "no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1e-05", {"a": 1e-5}),
        ("a=True", {"a": True}),
        ("a=true", {"a": True}),
        ("a=None", {"a": None}),
        ("a=null", {"a": None}),
        ("a=", {"a": None}),
        ("a.b=75%", {"a": {"b": "75%"}}),
        ("a={'name': 'rigl', 'x': None}", {"a": {"name": "rigl", "x": None}}),
        ("a={name: rigl}", {"a": {"name": "rigl"}}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_overrides_are_python_or_yaml(text, expected):
    assert plain_data.override(text) == expected


def test_mappings_merge_and_other_values_replace(tmp_path):
    found = small(tmp_path, "method={'drop_fraction': 0.5}", "model.hidden=[9]")
    assert found.method.value == dst.RigL(sparsity=0.8, every=10, stop="75%", drop_fraction=0.5)
    assert found.model.value.hidden == (9,)


def test_allocations_have_names_and_settings(tmp_path):
    uniform = "method.allocation={'name': 'uniform', 'dense': 'hidden/**', 'compensate': True}"
    assert small(tmp_path, uniform).method.value.allocation == dst.Uniform("hidden/**", True)
    assert small(tmp_path, "method.allocation=er").method.value.allocation == "er"
    er = small(tmp_path, "method.allocation={'name': 'er', 'power': 0.5}").method.value.allocation
    assert er == dst.ErdosRenyi(kernel=False, power=0.5)


def test_a_preset_is_its_method_with_other_defaults(tmp_path):
    found = small(tmp_path, "method={'name': 'rigl-itop', 'every': 5}")
    assert found.method.value == dst.rigl_itop(0.8, every=5, stop="75%")
    assert found.method.name == "rigl-itop"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_resolved_config_repeats_the_run(path, tmp_path):
    found = config.load(path)
    copy = tmp_path / "config.yaml"
    copy.write_text(config.dump(found), encoding="utf-8")
    assert config.load(copy) == found
    assert config.dump(config.load(copy)) == config.dump(found)


@pytest.mark.parametrize("option", [*config.METHOD.options.values()], ids=[*config.METHOD.options])
def test_every_method_is_described_field_by_field(option):
    described = docstrings.field_texts(option.type)
    assert {f.name for f in dataclasses.fields(option.type)} <= described.keys()


def test_every_config_class_is_frozen_and_described():
    seen, open_ = set(), [config.Config]
    while open_:
        cls = open_.pop()
        if cls in seen:
            continue
        seen.add(cls)
        assert cls.__dataclass_params__.frozen, cls
        assert {f.name for f in dataclasses.fields(cls)} <= docstrings.field_texts(cls).keys(), cls
        open_ += [t for t in strict.hints(cls).values() if dataclasses.is_dataclass(t)]
        open_ += [o.type for c in strict.hints(cls).values() for o in _options(c)]
    assert {config.MODEL.options["mlp"].type, Digits, config.Mesh, dst.RigL} <= seen


def _options(hint):
    choice = schema.choice_of(hint)
    return choice.options.values() if choice else []


def test_topology_steps_inside_the_warm_up_are_advised_against(tmp_path):
    assert not advice(small(tmp_path))
    (warning,) = advice(small(tmp_path, "optimizer.warmup=20"))
    assert "warm-up" in warning and "method.start=20" in warning


def test_topology_steps_without_learning_rate_are_advised_against(tmp_path):
    (warning,) = advice(small(tmp_path, "method.stop=100%", "method.every=13"))
    assert "step 39" in warning and "method.stop" in warning


def test_an_optimizer_that_a_method_does_badly_with_is_advised_against(tmp_path):
    phases = "method={'name': 'ac-dc', 'sparsity': 0.5, 'every': 5, 'start': 10, 'stop': 30}"
    (warning,) = advice(small(tmp_path, phases))
    assert "authors of ac-dc train with momentum" in warning
    momentum = "optimizer={'name': 'momentum', 'learning_rate': 0.1}"
    assert not advice(small(tmp_path, phases, momentum))
    assert not advice(small(tmp_path, "sparsify.scale=smupar"))
    (warning,) = advice(small(tmp_path, "sparsify.scale=smupar", momentum))
    assert "for Adam-like optimizers" in warning


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA's CPU backend")
def test_convolutions_in_a_loop_on_cpu_are_advised_against(tmp_path):
    image = ["model={'name': 'convnet', 'channels': [2]}", "data.name=digits"]
    loops = ["train.steps_per_call=2", "optimizer.accumulate=2"]
    assert not advice(small(tmp_path, *loops))
    assert not advice(small(tmp_path, *image))
    in_calls, in_parts = advice(small(tmp_path, *image, *loops))
    assert in_calls.startswith("train.steps_per_call: convolutions such as those of convnet")
    assert "optimizer.accumulate=1" in in_parts


def test_another_method_takes_along_what_it_knows():
    path = ROOT / "configs" / "digits" / "rigl.yaml"
    for override in ("method=set", "method.name=set", "method={'name': 'set'}"):
        found = config.load(path, [override, "method.every=50"]).method
        assert (found.name, found.value.sparsity, found.value.every) == ("set", 0.9, 50)
    # RigL has a drop fraction, gradual pruning has not.
    assert config.load(path, ["method=gmp"]).method.value.sparsity == 0.9
    assert config.load(path, ["method=dense"]).method.name == "dense"
    assert config.load(path, ["model=convnet"]).model.value.channels == (16, 32)
    # What an override itself says must be known.
    with pytest.raises(config.ConfigError, match=r"method.drop_fraction is no known key"):
        config.load(path, ["method=gmp", "method.drop_fraction=0.5"])


def test_every_other_word_stands_for_a_key_and_is_none_itself():
    def fields(cls):
        for f in strict.fields(cls):
            yield f.name
            hint = strict.hints(cls)[f.name]
            inner = [o.type for o in _options(hint)]
            for x in [*inner, *([hint] if dataclasses.is_dataclass(hint) else [])]:
                yield from fields(x)

    known = set(fields(config.Config))
    assert set(suggestions.OTHER_WORDS.values()) <= known
    assert not suggestions.OTHER_WORDS.keys() & known
