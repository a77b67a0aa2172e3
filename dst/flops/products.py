"""What one product multiplies: its multiply-adds, the features of its sides, the shards."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from jax.extend.core import JaxprEqn

PRODUCTS = ("dot_general", "ragged_dot_general", "conv_general_dilated")


def shape(atom: Any) -> tuple[int, ...]:
    """Of a value in a jaxpr."""
    return atom.aval.shape  # JAX's types do not know that these abstract values are arrays


def work(eqn: JaxprEqn) -> tuple[Fraction, tuple[int, int]]:
    """Multiply-adds of a product, and the output features that each side would have as kernel."""
    shapes = [shape(x) for x in eqn.invars[:2]]
    outputs = math.prod(shape(eqn.outvars[0]))
    if eqn.primitive.name == "conv_general_dilated":
        out, depth, *window = eqn.params["dimension_numbers"].rhs_spec
        kernel = shapes[1]
        reduced = math.prod(kernel[a] for a in (depth, *window))
        # A dilated input is mostly zeros that no transposed convolution multiplies.
        spread = math.prod(eqn.params["lhs_dilation"])
        return Fraction(outputs * reduced, spread), (kernel[out], kernel[out])
    if eqn.primitive.name == "ragged_dot_general":
        numbers = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    else:
        numbers = eqn.params["dimension_numbers"]
    reduced = [math.prod(s[a] for a in axes) for s, axes in zip(shapes, numbers[0], strict=True)]
    features = [math.prod(s) // max(n, 1) for s, n in zip(shapes, reduced, strict=True)]
    return Fraction(outputs * reduced[0]), (features[0], features[1])


def shards(eqn: JaxprEqn) -> int:
    """How many devices share the work of a ``shard_map``, whose body computes one part of it."""
    used: set[str] = set()
    for specs in (eqn.params.get("in_specs", ()), eqn.params.get("out_specs", ())):
        for spec in specs:
            for axes in spec:
                used |= set(axes if isinstance(axes, tuple) else () if axes is None else (axes,))
    return math.prod(eqn.params["mesh"].shape[a] for a in used)
