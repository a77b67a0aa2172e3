"""Laws of recipes: they fill what is open, with sources, and leave a config that repeats."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

import pytest
from flax import nnx

import dst
from dst import cli
from dst.train import optimizer, state
from dst.train.config import recipes
from dst.train.config import run as config
from tests.training import small, write_small

FULL = """
name: open
recipe: {recipe}
model: {{name: mlp, hidden: [16]}}
data: {{name: digits, batch_size: 64}}
optimizer: {{name: adamw, learning_rate: 3e-3}}
method: {{name: {method}, sparsity: 0.8}}
train: {{steps: 1000}}
"""


def _load(folder, recipe, method, *overrides):
    path = folder / "open.yaml"
    path.write_text(FULL.format(recipe=recipe, method=method), encoding="utf-8")
    return config.load(path, overrides)


# Expected: what the sources say, written down from them and not from the code.
EXPECTED = {
    ("mlp", "rigl"): ("erk", 100, "75%", 0.3, "cosine"),
    ("mlp", "set"): ("erk", 100, "75%", 0.3, "cosine"),
    ("resnet", "rigl"): ("erk", 100, "75%", 0.3, "cosine"),
    ("vit", "rigl"): ("uniform", 100, "75%", 0.3, "cosine"),
    ("decoder", "set"): ("uniform", 100, "75%", 0.3, "cosine"),
}


@pytest.mark.parametrize(("recipe", "method"), EXPECTED)
def test_what_is_open_gets_the_value_of_the_literature(recipe, method, tmp_path):
    found = _load(tmp_path, recipe, method).method.value
    values = (found.allocation, found.every, found.stop, found.drop_fraction, found.decay)
    assert values == EXPECTED[recipe, method]
    assert found.cold_start == "local_count"


@pytest.mark.parametrize("recipe", recipes.RECIPES)
@pytest.mark.parametrize("method", ["rigl", "set", "gmp", "static", "rigl-itop"])
def test_every_recipe_resolves_and_the_resolved_config_repeats_it(recipe, method, tmp_path):
    found = _load(tmp_path, recipe, method, "train.steps=20000")
    assert found.recipe == recipe
    copy = tmp_path / "config.yaml"
    copy.write_text(config.dump(found), encoding="utf-8")
    assert config.load(copy) == found
    # Also where the recipe is taken out: the values stand in the file.
    assert config.load(copy, ["recipe=null"]) == dataclasses.replace(found, recipe=None)


def test_what_the_user_sets_stays(tmp_path):
    found = _load(
        tmp_path,
        "decoder",
        "rigl",
        "method.every=7",
        "method.allocation=er",
        "method.cold_start=off",
        "sparsify.select=hidden/**",
    )
    assert found.method.value == dst.RigL(
        sparsity=0.8, allocation="er", every=7, cold_start="off", stop="75%"
    )
    assert found.sparsify.select == "hidden/**"


def test_null_is_a_value_that_the_user_sets(tmp_path):
    found = _load(tmp_path, "vit", "rigl", "method.stop=null", "method.decay=constant")
    assert found.method.value.stop is None


def test_a_preset_keeps_what_makes_it_one(tmp_path):
    found = _load(tmp_path, "mlp", "rigl-itop", "train.steps=20000").method.value
    assert found == dst.rigl_itop(0.8, allocation="erk", decay="cosine")
    assert (found.every, found.drop_fraction, found.stop) == (4000, 0.5, "100%")


# Golden numbers of the recipe in compute: steps as shares of training, by final sparsity.
@pytest.mark.parametrize(
    ("sparsity", "start", "stop"),
    [(0.5, 0.16129, 0.677419), (0.8, 0.090909, 0.545455), (0.9, 0.058296, 0.41704)],
)
def test_gradual_pruning_of_decoders_spans_the_middle_half_of_the_compute(
    sparsity, start, stop, tmp_path
):
    found = _load(tmp_path, "decoder", "gmp", f"method.sparsity={sparsity}").method.value
    cadence = found.rule(1_000_000).when
    assert [cadence.first, cadence.last] == pytest.approx([start * 1e6, stop * 1e6], abs=1)
    assert found.allocation == "uniform"


def test_gradual_pruning_of_resnets_is_rigls_baseline(tmp_path):
    found = _load(tmp_path, "resnet", "gmp").method.value
    assert found == dst.GMP(sparsity=0.8, every="3.125%", start="31.25%", stop="78.125%")
    cadence = found.rule(32_000).when
    assert (cadence.first, cadence.last) == (10_000, 25_000)


def test_the_decoder_recipe_selects_the_projections_only(tmp_path):
    found = _load(tmp_path, "decoder", "static", "model=decoder", "data=stdlib")
    model = nnx.eval_shape(lambda: state.network(found.model, (8,), 256, 0))
    tx = dst.sparsify(
        optimizer.make(found.optimizer, 10), found.rule(), select=found.sparsify.select
    )
    plan = tx.plan(state.parameters(model))
    assert {p.split("/")[-2] for p in plan.sparse} == {
        *("query", "key", "value", "output"),
        *("gate", "up", "down"),
    }
    assert {float(x) for x in plan.allocation.sparsity.values()} == {0.8}


def test_an_unknown_recipe_names_the_nearest(tmp_path, capsys):
    assert cli.main(["train", str(write_small(tmp_path)), "recipe=decodr"]) == 2
    message = capsys.readouterr().err
    assert "recipe must be one of" in message and "Did you mean 'decoder'?" in message


def test_without_a_recipe_nothing_is_filled(tmp_path):
    assert small(tmp_path).recipe is None
    assert small(tmp_path, "method.every=9").method.value == dst.RigL(
        sparsity=0.8, every=9, stop="75%"
    )


def test_what_is_wrong_is_still_refused_under_its_own_name(tmp_path):
    for override, message in (
        ("method.sparsity=80", "method.sparsity must be a number"),
        ("method=null", "method must be a mapping"),
        ("method.name=rigll", "Did you mean 'rigl'"),
        ("sparsify=3", "sparsify must be a mapping"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            small(tmp_path, "recipe=decoder", "method.name=gmp", override)


def test_every_setting_has_a_source_and_every_recipe_a_name_in_configs():
    named = get_args(get_type_hints(config.Config)["recipe"])[0]
    assert set(recipes.RECIPES) == set(get_args(named))
    for settings in recipes.RECIPES.values():
        for setting in settings:
            assert setting.source and set(setting.kinds) <= {
                recipes.EXCHANGE,
                recipes.GRADUAL,
                recipes.OTHER,
            }
            section, key = setting.key.split(".")
            owners = {
                "sparsify": [config.Sparsify],
                "method": [o.type for o in config.METHOD.options.values()],
            }
            assert any(key in {f.name for f in dataclasses.fields(o)} for o in owners[section])
