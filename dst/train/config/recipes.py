"""Recipes: the settings that the literature uses for a family of networks, with their sources.

``recipe: decoder`` in a config fills in what the user has not set: which weights are sparse, how
sparsity is shared among layers, when and how much topology changes, and how grown weights are
treated under Adam. The saved config holds the values and the recipe's name, so it needs no recipe
to be repeated. A preset (``rigl-itop``) keeps the settings that make it what it is.

Checked against: the source that each setting names; for ``decoder`` Cerebras/modelzoo at f1fd1e0,
src/cerebras/modelzoo/models/nlp/gpt3/configs/sparsity/pretraining/params_gpt3_125m_set75.yaml and
params_gpt3_125m_rigl75.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dst.core import checks
from dst.methods import REGISTRY
from dst.train.config import plain_data
from dst.train.config.schema import Choice, Option

EXCHANGE, GRADUAL, OTHER = "drop and grow", "gradual pruning", "other"
# By what methods say of themselves; other kinds are static, or go ways of their own.
KINDS = {
    x.attribute: kind if (kind := x.facts["kind"]) in (EXCHANGE, GRADUAL) else OTHER
    for x in REGISTRY.values()
}


@dataclass(frozen=True)
class Setting:
    """One value of a recipe.

    Attributes:
      key: section and field of the config.
      value: plain data.
      source: where the value is from.
      kinds: of methods that it is for: those that exchange connections, those that prune
        gradually, others (static masks).
    """

    key: str
    value: Any
    source: str
    kinds: tuple[str, ...] = (EXCHANGE, GRADUAL, OTHER)


_ADAM = Setting(
    "method.cold_start",
    "local_count",
    "SMET (arXiv 2606.00888): a step count of their own for grown weights; with the global one "
    "Adam moves them up to 6.6 times too far. No effect without Adam.",
    (EXCHANGE,),
)


def _exchange(source: str) -> tuple[Setting, ...]:
    """RigL's cadence, which most later work keeps."""
    values = {"every": 100, "stop": "75%", "drop_fraction": 0.3, "decay": "cosine"}
    return (*(Setting(f"method.{k}", v, source, (EXCHANGE,)) for k, v in values.items()), _ADAM)


_UNIFORM_GRADUAL = Setting(
    "method.allocation", "uniform", "Zhu and Gupta 2017 (arXiv 1710.01878)", (GRADUAL,)
)

RECIPES: dict[str, tuple[Setting, ...]] = {
    "mlp": (
        Setting("sparsify.select", None, "SET, RigL: every matrix, the last layer too; no bias"),
        Setting(
            "method.allocation",
            "erk",
            "SET (arXiv 1707.04780); on matrices ER and ERK are one",
            (EXCHANGE, OTHER),
        ),
        *_exchange("RigL (arXiv 1911.11134), section 3; SET in RigL's code"),
        _UNIFORM_GRADUAL,
    ),
    "resnet": (
        Setting(
            "sparsify.select", None, "RigL: every convolution and the last layer; no norm, no bias"
        ),
        Setting(
            "method.allocation",
            "erk",
            "RigL, section 3: the first convolution is sparse too; static: arXiv 2202.02643",
            (EXCHANGE, OTHER),
        ),
        *_exchange("RigL on CIFAR-10: until 75k of 100k steps (on ImageNet 25k of 32k, 78 %)"),
        _UNIFORM_GRADUAL,
        *(
            Setting(f"method.{key}", value, "RigL's pruned ResNet-50: steps of 32k", (GRADUAL,))
            for key, value in (("every", "3.125%"), ("start", "31.25%"), ("stop", "78.125%"))
        ),
    ),
    "vit": (
        Setting(
            "sparsify.select",
            "**/blocks/**/kernel",
            "Sparse-IFT's code (arXiv 2303.11525): patches, positions, class token, norms and head "
            "stay dense",
        ),
        Setting("method.allocation", "uniform", "SRigL on ViT-B/16 (arXiv 2305.02299)"),
        *_exchange("SRigL on ViT-B/16"),
    ),
    "decoder": (
        Setting(
            "sparsify.select",
            "**/blocks/**/kernel",
            "Cerebras' GPT configs, Wanda (arXiv 2306.11695): attention and feed-forward "
            "projections; embedding, norms and head stay dense",
        ),
        Setting("method.allocation", "uniform", "Cerebras' GPT configs; Wanda"),
        *_exchange("Cerebras' GPT-3 125M config for SET and RigL; interval also SMET's"),
        *(
            Setting(
                f"method.{key}",
                value,
                "The Journey Matters (arXiv 2501.12486): pruning from 25 % to 75 % of the compute",
                (GRADUAL,),
            )
            for key, value in (("compute", True), ("start", "25%"), ("stop", "75%"))
        ),
    ),
}


def filled(data: Mapping[str, Any], methods: Choice) -> Mapping[str, Any]:
    """A config as plain data, with what its recipe says wherever the user says nothing.

    Args:
      data: of a config, not yet validated; without the key ``recipe`` it comes back as it is.
      methods: the choice behind the section ``method``.

    Raises:
      ValueError: a recipe that is not there.
    """
    name = data.get("recipe")
    if name is None:
        return data
    checks.one_of("recipe", name, RECIPES)
    given = {key: data.get(key, {}) for key in ("sparsify", "method")}
    if not all(isinstance(section, Mapping) for section in given.values()):
        return data  # a bare name has nothing to fill; anything else validation will refuse
    own, kind = _of_method(given["method"], methods)
    filling: dict[str, dict[str, Any]] = {"sparsify": {}, "method": {}}
    for setting in RECIPES[name]:
        section, key = setting.key.split(".")
        free = key not in given[section]
        if free and (section != "method" or (key in own and kind in setting.kinds)):
            filling[section][key] = setting.value
    return plain_data.merged(data, {key: values for key, values in filling.items() if values})


def _of_method(given: Mapping[str, Any], methods: Choice) -> tuple[set[str], str]:
    """The fields of a method that a recipe may fill, and its kind."""
    name = given.get("name")
    option: Option | None = methods.options.get(name) if isinstance(name, str) else None
    if option is None:
        return set(), OTHER
    own = {f.name for f in fields(option.type)}
    return own - option.defaults.keys(), KINDS.get(option.type.__name__, OTHER)
