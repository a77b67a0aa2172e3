"""Which products of a forward pass consume which parameter: a walk over its jaxpr.

Every value has an origin. A reshape, a cast, a scale or a mask of a parameter leaf keeps its
zeros, so its origin is that leaf. Where such a value meets data in a matrix product or a
convolution, the multiply-adds belong to the leaf.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from dst.core import jaxprs, tree
from dst.core.jaxprs import LAYOUT
from dst.core.typing import ArrayLike, Params
from dst.flops.origins import (
    CONSTANT,
    DATA,
    ELEMENTWISE,
    LOOKUP,
    PRODUCT,
    ZERO,
    Computed,
    Origin,
    Tally,
    Weights,
    is_data,
    paths_of,
)
from dst.flops.products import PRODUCTS, shape, shards, work

# Each element of the result is an element of the first operand, or a function of one that is
# zero at zero.
_KEEPS_ZEROS = frozenset(
    "abs all_gather asin asinh atan atanh broadcast_in_dim cbrt convert_element_type copy copy_p "
    "device_put dynamic_slice erf expand_dims expm1 gather imag integer_pow log1p mesh_cast name "
    "neg pcast ppermute pvary real reduce_precision reshape reshard rev round "
    "sharding_constraint sign sin sinh slice sqrt square squeeze stop_gradient tan tanh "
    "transpose".split()
)
# Where parameters meet data in these, nothing is multiplied out: biases, scales, tokens put in
# front of a sequence.
_ELEMENTWISE = frozenset(
    "add add_any and atan2 clamp concatenate div dynamic_update_slice eq ge gt le lt max min mul "
    "ne nextafter not or pad pow rem scatter scatter-add select_and_gather_add select_n sub".split()
)


def tally(program: ClosedJaxpr, params: Params, constants: int = 0) -> Tally:
    """What a program costs whose first inputs are the leaves of ``params``.

    Args:
      program: a jaxpr, from ``jax.make_jaxpr``.
      params: the tree of parameters that it was traced with; arrays or shapes.
      constants: how many inputs after them do not depend on data; all others are data.
    """
    paths, leaves, _ = tree.flatten(params)
    sizes = {p: math.prod(x.shape) for p, x in zip(paths, leaves, strict=True)}
    weights = [Weights(((p, Fraction(1)),)) for p in paths]
    fixed = [CONSTANT] * constants
    data = [DATA] * (len(program.jaxpr.invars) - len(weights) - constants)
    return _Walk(sizes).body(program, [*weights, *fixed, *data])[1]


@dataclass(frozen=True)
class _Walk:
    sizes: Mapping[str, int]

    def body(
        self, program: ClosedJaxpr | Jaxpr, inputs: Sequence[Origin]
    ) -> tuple[list[Origin], Tally]:
        """Origins of the results of a jaxpr, and what it costs."""
        total = Tally()

        def equation(eqn: JaxprEqn, operands: list[Origin]) -> list[Origin]:
            results, part = self.equation(eqn, operands)
            total.add(part)
            return results

        def literal(x: Literal) -> Origin:
            return ZERO if _is_zero(x.val) else CONSTANT

        results = jaxprs.interpret(
            program, inputs, equation, literal=literal, constant=lambda _: CONSTANT
        )
        return results, total

    def equation(self, eqn: JaxprEqn, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        name = eqn.primitive.name
        if name in PRODUCTS:
            return self.product(eqn, inputs)
        if name == "scan":
            return self.scan(eqn, inputs)
        if name == "while":
            return self.loop(eqn, inputs)
        if name == "cond":
            return self.branches(eqn, inputs)
        if name == "shard_map":
            results, part = self.body(eqn.params["jaxpr"], inputs)
            total = Tally()
            total.add(part, shards(eqn))
            return results, total
        if (body := jaxprs.body(eqn)) is not None:
            return self.body(body, inputs)
        return self.simple(eqn, name, inputs)

    def product(self, eqn: JaxprEqn, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        cost, sides = Tally(), inputs[:2]
        macs, channels = work(eqn)
        data = [is_data(x) for x in sides]
        if not any(data):
            paths = frozenset().union(*map(paths_of, sides))
            if not paths:
                return [CONSTANT], cost
            cost.free += macs
            for x in sides:
                cost.use(x, f"{eqn.primitive.name} without data")
            return [Computed(paths, eqn.primitive.name)], cost
        # Kernels first; rows that data has chosen count as kernels only beside other data.
        kernels = [i for i, x in enumerate(sides) if isinstance(x, Weights) and not x.looked_up]
        if not kernels:
            chosen = [i for i, x in enumerate(sides) if isinstance(x, Weights)]
            kernels = chosen if len(chosen) == 1 and sides[1 - chosen[0]] == DATA else []
        if not kernels:
            cost.free += macs
            for x in sides:
                if isinstance(x, Computed):
                    cost.use(x, f"{eqn.primitive.name} after {x.by}")
            return [DATA], cost
        kernel = sides[kernels[0]]
        assert isinstance(kernel, Weights)
        outputs = math.prod(shape(eqn.outvars[0]))
        for path, share in kernel.shares:
            cost.macs[path] += macs * share
            cost.outputs[path] += outputs * share
            cost.channels[path] += channels[kernels[0]] * share
        cost.free += macs * (1 - sum((share for _, share in kernel.shares), Fraction(0)))
        cost.use(kernel, PRODUCT)
        return [DATA], cost

    def simple(self, eqn: JaxprEqn, name: str, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        cost, results = Tally(), len(eqn.outvars)
        if name == "optimization_barrier":
            return inputs, cost
        if any(map(is_data, inputs)):
            first = inputs[0]
            if isinstance(first, Weights):
                if first.looked_up and name in LAYOUT:
                    return [first], cost
                if name in ("gather", "dynamic_slice"):
                    cost.use(first, LOOKUP)
                    return [replace(first, looked_up=True)], cost
            for x in inputs:
                if not is_data(x):
                    cost.use(x, ELEMENTWISE if name in _ELEMENTWISE else name)
            return [DATA] * results, cost
        if not any(map(paths_of, inputs)):
            kept = inputs and inputs[0] == ZERO and name in LAYOUT
            return [ZERO if kept else CONSTANT] * results, cost
        one = self.without_data(eqn, name, inputs, cost)
        return [one] * results, cost

    def without_data(self, eqn: JaxprEqn, name: str, inputs: list[Origin], cost: Tally) -> Origin:
        """The origin of the result of an operation on parameters and constants."""
        lost = Computed(frozenset().union(*map(paths_of, inputs)), name)
        weights = [x for x in inputs if isinstance(x, Weights)]
        if name in _KEEPS_ZEROS:
            return inputs[0] if weights == inputs[:1] else lost
        if name == "mul" and weights:
            # Of a kernel and its scale, the kernel.
            kept = max(weights, key=lambda x: sum(self.sizes[p] for p in paths_of(x)))
            for x in inputs:
                if x != kept:
                    cost.use(x, ELEMENTWISE)
            return kept
        if name == "div" and isinstance(inputs[0], Weights):
            cost.use(inputs[1], ELEMENTWISE)
            return inputs[0]
        if name in ("add", "add_any", "sub") and ZERO in inputs:
            return next(x for x in inputs if x != ZERO)
        if name == "select_n" and not paths_of(inputs[0]):
            cases = {x for x in inputs[1:] if x != ZERO}
            return cases.pop() if len(cases) == 1 else lost
        if name == "concatenate" and not any(isinstance(x, Computed) for x in inputs):
            whole = math.prod(shape(eqn.outvars[0]))
            shares: dict[str, Fraction] = defaultdict(Fraction)
            for x, operand in zip(inputs, eqn.invars, strict=True):
                for path, share in getattr(x, "shares", ()):
                    shares[path] += share * Fraction(math.prod(shape(operand)), whole)
            return Weights(tuple(shares.items()))
        return lost

    def scan(self, eqn: JaxprEqn, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        consts, carried = eqn.params["num_consts"], eqn.params["num_carry"]
        fixed, carry = inputs[:consts], inputs[consts : consts + carried]
        slices, body = inputs[consts + carried :], eqn.params["jaxpr"]
        cost = Tally()
        while True:
            results, part = self.body(body, [*fixed, *carry, *slices])
            joined = _join(carry, results[:carried], cost)
            if joined == carry:
                break
            carry = joined
        cost.add(part, eqn.params["length"])
        return [*carry, *results[carried:]], cost

    def loop(self, eqn: JaxprEqn, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        consts = eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        fixed, carry = inputs[eqn.params["cond_nconsts"] : consts], inputs[consts:]
        cost = Tally()
        while True:
            results, part = self.body(eqn.params["body_jaxpr"], [*fixed, *carry])
            joined = _join(carry, results, cost)
            if joined == carry:
                break
            carry = joined
        cost.add(part)
        if part.total:
            cost.notes.add("a while loop of unknown length: its products are counted once")
        return carry, cost

    def branches(self, eqn: JaxprEqn, inputs: list[Origin]) -> tuple[list[Origin], Tally]:
        bodies = [self.body(branch, inputs[1:]) for branch in eqn.params["branches"]]
        largest = max((part for _, part in bodies), key=lambda part: part.total)
        cost = Tally()
        results = bodies[0][0]
        for others, part in bodies:
            results = _join(results, others, cost)
            cost.remember(part)
        cost.add(largest)
        if any(part.total != largest.total for _, part in bodies):
            cost.notes.add("a conditional: its most expensive branch is counted")
        if is_data(inputs[0]):
            results = [DATA if x in (CONSTANT, ZERO) else x for x in results]
        return results, cost


def _is_zero(value: ArrayLike) -> bool:
    return getattr(value, "shape", ()) == () and bool(value == 0)


def _join(first: list[Origin], second: list[Origin], cost: Tally) -> list[Origin]:
    """The origins of values that come from one of two places."""
    joined: list[Origin] = []
    for a, b in zip(first, second, strict=True):
        paths = paths_of(a) | paths_of(b)
        if a == b:
            joined.append(a)
        elif is_data(a) or is_data(b):
            for x in (a, b):
                if not is_data(x):
                    cost.use(x, ELEMENTWISE)
            joined.append(DATA)
        else:
            joined.append(Computed(paths, "a choice") if paths else CONSTANT)
    return joined
