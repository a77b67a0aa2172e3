"""The hyper-parameters that methods share: their types and ranges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from dst.core import checks


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
Share = Annotated[float, Check(checks.fraction, (("minimum", 0), ("maximum", 1)))]
NotNegative = Annotated[float, Check(checks.at_least_zero, (("minimum", 0),))]
Positive = Annotated[int, Check(partial(checks.integer, at_least=1), (("minimum", 1),))]
Decay = Literal["cosine", "constant", "linear"]
Rounding = Literal["floor", "ceil", "round"]
Regrow = Literal["allow", "forbid"]
RegrowValue = Literal["keep", "zero"]
ColdStart = Literal["local_count", "off"] | Positive
