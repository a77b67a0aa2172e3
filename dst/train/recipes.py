"""Recipes: the settings that the literature uses for a family of networks, with their sources.

``recipe: decoder`` in a config fills in what the user has not set: which weights are sparse, how
sparsity is shared among layers, when and how much topology changes, and how grown weights are
treated under Adam. The saved config holds the values and the recipe's name, so it needs no recipe
to be repeated. A preset (``rigl-itop``) keeps the settings that make it what it is.

Checked against: spec 0.10, A5, A12, C1, C2 and N, which describe the papers and their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from dst import checks
from dst.schedule import exact
from dst.train import plain
from dst.train.schema import Choice, Option

EXCHANGE, GRADUAL, OTHER = "exchange", "gradual", "other"


@dataclass(frozen=True)
class Setting:
    """One value of a recipe.

    Attributes:
      key: section and field of the config.
      value: plain data; or a function of the method's sparsity.
      source: where the value is from.
      kinds: of methods that it is for: those that exchange connections, those that prune
        gradually, others (static masks).
    """

    key: str
    value: Any
    source: str
    kinds: tuple[str, ...] = (EXCHANGE, GRADUAL, OTHER)


def _journey(sparsity: float) -> tuple[Fraction, Fraction]:
    """When pruning starts and stops, as shares of the steps, where it does at 25 % and 75 % of
    the compute: a cubic ramp spends little after its start, so both come earlier in steps.

    With compute proportional to active weights, a step costs 1 before the ramp, ``1 - 3s/4`` on
    average during it and ``1 - s`` after it.

    >>> [round(float(x), 6) for x in _journey(0.8)]
    [0.090909, 0.545455]
    """
    s = exact(sparsity)
    ramp, after = 1 - Fraction(3, 4) * s, 1 - s
    mean = 1 / (Fraction(1, 4) + Fraction(1, 2) / ramp + Fraction(1, 4) / after)
    start = mean / 4
    return start, start + mean / 2 / ramp


def _percent(which: int) -> Callable[[float], str]:
    return lambda sparsity: f"{float(100 * _journey(sparsity)[which]):.4f}%"


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
                _percent(which),
                "The Journey Matters (arXiv 2501.12486): pruning from 25 % to 75 % of the compute",
                (GRADUAL,),
            )
            for which, key in enumerate(("start", "stop"))
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
    found: dict[str, dict[str, Any]] = {"sparsify": {}, "method": {}}
    for setting in RECIPES[name]:
        section, key = setting.key.split(".")
        free = key not in given[section]
        if free and (section != "method" or (key in own and kind in setting.kinds)):
            value = setting.value
            if callable(value):
                sparsity = given["method"].get("sparsity")
                if not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
                    continue
                value = value(sparsity)
            found[section][key] = value
    return plain.merged(data, {key: values for key, values in found.items() if values})


def _of_method(given: Mapping[str, Any], methods: Choice) -> tuple[set[str], str]:
    """The fields of a method that a recipe may fill, and its kind."""
    name = given.get("name")
    option: Option | None = methods.options.get(name) if isinstance(name, str) else None
    if option is None:
        return set(), OTHER
    own = {f.name for f in fields(option.type)}
    kind = GRADUAL if "initial_sparsity" in own else EXCHANGE if "drop_fraction" in own else OTHER
    return own - option.defaults.keys(), kind
