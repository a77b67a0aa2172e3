"""The hyper-parameters that methods share: their types and ranges."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from dst.core import checks
from dst.rules.allocation import Allocator, allocator
from dst.rules.schedule import Duration, duration


class Check(NamedTuple):
    """The range of a field, as metadata of its annotation.

    Attributes:
      check: ``check(name, value)`` raises ValueError unless the value is in the range.
      schema: the same range in JSON Schema's words, as pairs.
    """

    check: Callable[[str, Any], None]
    schema: tuple[tuple[str, float], ...]


Sparsity = Annotated[
    float,
    Check(partial(checks.fraction, below_one=True), (("minimum", 0), ("exclusiveMaximum", 1))),
]
BelowOne = Sparsity
Share = Annotated[float, Check(checks.fraction, (("minimum", 0), ("maximum", 1)))]
NotNegative = Annotated[float, Check(checks.at_least_zero, (("minimum", 0),))]
AboveZero = Annotated[float, Check(checks.above_zero, (("exclusiveMinimum", 0),))]
Positive = Annotated[
    int,
    Check(partial(checks.integer, at_least=1), (("minimum", 1), ("maximum", checks.LARGEST))),
]
LearningRate = Annotated[
    float,
    Check(partial(checks.above_zero, at_most=1e6), (("exclusiveMinimum", 0), ("maximum", 1e6))),
]
DEEPEST = 1000  # layers; each is built and compiled by itself
MOST_STAGES = 16  # each doubles the width of the one before
Depth = Annotated[
    int,
    Check(
        partial(checks.integer, at_least=1, at_most=DEEPEST),
        (("minimum", 1), ("maximum", DEEPEST)),
    ),
]
Widths = Annotated[
    tuple[Positive, ...],
    Check(partial(checks.not_empty, at_most=DEEPEST), (("minItems", 1), ("maxItems", DEEPEST))),
]
Stages = Annotated[
    tuple[Depth, ...],
    Check(
        partial(checks.not_empty, at_most=MOST_STAGES),
        (("minItems", 1), ("maxItems", MOST_STAGES)),
    ),
]
Decay = Literal["cosine", "constant", "linear"]
Rounding = Literal["floor", "ceil", "round"]
Regrow = Literal["allow", "forbid"]
RegrowValue = Literal["keep", "zero"]
Moments = Literal["changed", "grown"]
ColdStart = Literal["local_count", "off"] | Positive


def check(name: str, hint: Any, value: Any) -> None:
    """Raises unless a value is what the annotation of its field says.

    Durations, allocations, words of a ``Literal`` and ranges (:class:`Check`) are checked, also
    inside tuples and unions; other types are the type checker's.

    Raises:
      ValueError: with the name, what was expected and what was found.
    """
    if hint == str | Allocator:
        allocator(value)
        return
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in arms:
        return
    if set(get_args(Duration)) <= set(arms):
        duration(name, value)
    words = next((get_args(arm) for arm in arms if get_origin(arm) is Literal), None)
    if words and (len(arms) == 1 or isinstance(value, str)):
        checks.one_of(name, value, words)
        return
    for arm in arms:
        if get_origin(arm) is Annotated:
            for mark in arm.__metadata__:
                if isinstance(mark, Check):
                    mark.check(name, value)
            arm = get_args(arm)[0]
        if get_origin(arm) is tuple and isinstance(value, (tuple, list)):
            for i, item in enumerate(value):
                check(f"{name}[{i}]", get_args(arm)[0], item)
