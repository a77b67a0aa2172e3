"""What each operation of a program makes of the labels of its operands' positions.

An operation that is not known here keeps every position that reaches it: then fewer groups are
found, and those that are found are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn

from dst.flops.products import shape
from dst.oneshot.structured.labels import ANY, KEPT, Labels

_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type copy copy_p cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt "
    "integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow "
    "reduce_precision rem round rsqrt select_n sharding_constraint sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor".split()
)
_ZERO_OF_ZEROS = frozenset(
    "add add_any convert_element_type copy copy_p neg stop_gradient sub".split()
)
_ALONG = frozenset("cumlogsumexp cummax cummin cumprod cumsum".split())


class Axis(NamedTuple):
    """One axis of an array of a program.

    Attributes:
      labels: of its positions.
      zero: whether all elements at a position are zero where all weights with its label are.
      data: whether the array depends on the batch.
    """

    labels: np.ndarray
    zero: bool = False
    data: bool = False


Value = tuple[Axis, ...]


def uniform(atom: Any, label: int) -> Value:
    """An array with one label everywhere."""
    return tuple(Axis(np.full(n, label)) for n in shape(atom))


class Propagation:
    """Labels that travel through the equations of a program.

    Attributes:
      labels: the joined labels.
    """

    def __init__(self) -> None:
        self.labels = Labels()
        self._consumed: set[int] = set()
        self._added: list[set[tuple[int, int]]] = []  # weights that one product reads together
        self._rules: dict[str, Callable[[JaxprEqn, list[Value]], Value | None]] = {
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
            **dict.fromkeys(_ALONG, self._cumulative),
            **dict.fromkeys(("reshape", "squeeze", "expand_dims"), self._reshape),
            **dict.fromkeys(("slice", "dynamic_slice"), self._slice),
            "broadcast_in_dim": self._broadcast,
            "concatenate": self._concatenate,
            "conv_general_dilated": self._convolution,
            "dot_general": self._product,
            "gather": self._gather,
            "pad": self._pad,
            "transpose": lambda eqn, xs: tuple(xs[0][i] for i in eqn.params["permutation"]),
        }
        for name in ("max", "min", "sum", "prod", "and", "or", "xor"):
            self._rules[f"reduce_{name}"] = self._reduction
            self._rules[f"reduce_window_{name}"] = self._windows
        for name in ("argmax", "argmin"):
            self._rules[name] = self._reduction

    def __call__(self, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
        """The results of an equation."""
        rule = self._rules.get(eqn.primitive.name)
        result = None if rule is None else rule(eqn, operands)
        if result is None:
            for x in operands:
                self.keep(x)
            results = [uniform(out, KEPT) for out in eqn.outvars]
        else:
            results = [result]
        data = any(axis.data for x in operands for axis in x)
        return [tuple(axis._replace(data=data) for axis in x) for x in results]

    def consumed(self) -> set[int]:
        """Labels of positions of weights that a product sums over."""
        for pairs in reversed(self._added):  # what is consumed later was added up before
            for one, other in pairs:
                if one in self._consumed:
                    self._consumed.add(other)
        return self._consumed

    def keep(self, axes: Sequence[Axis]) -> None:
        """Says of axes that none of their positions can be removed."""
        for axis in axes:
            self.labels.keep(axis.labels.tolist())

    def _same(self, one: Axis, other: Axis, zero: bool) -> Axis:
        """One axis of two whose positions belong together; one of length 1 is repeated."""
        if len(one.labels) != len(other.labels):
            short, long = sorted((one, other), key=lambda x: len(x.labels))
            self.keep([short])
            return Axis(long.labels)
        if not np.array_equal(one.labels, other.labels):
            self.labels.join(one.labels.tolist(), other.labels.tolist())
        return Axis(np.where(one.labels == ANY, other.labels, one.labels), zero)

    def _elementwise(self, eqn: JaxprEqn, operands: list[Value]) -> Value | None:
        name, out = eqn.primitive.name, uniform(eqn.outvars[0], ANY)
        if any(len(x) not in (0, len(out)) for x in operands):
            return None
        whole = [x for x in operands if x]
        result = []
        for i, axis in enumerate(out):
            zeros = [x[i].zero for x in whole]
            zero = all(zeros) and len(whole) == len(operands) and name in _ZERO_OF_ZEROS
            zero |= any(zeros) and name == "mul"
            for x in whole:
                if not any(y[i].data for y in whole):
                    pairs = zip(axis.labels.tolist(), x[i].labels.tolist(), strict=False)
                    self._added.append(set(pairs))
                axis = self._same(axis, x[i], zero)
            result.append(axis)
        return tuple(result)

    def _cumulative(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        self.keep([operands[0][eqn.params["axis"]]])
        return tuple(Axis(axis.labels) for axis in operands[0])

    def _reduction(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        """Sums, maxima and the like: what they run over must stay complete."""
        along, (x,) = eqn.params["axes"], operands
        self.keep([x[i] for i in along])
        return tuple(Axis(axis.labels) for i, axis in enumerate(x) if i not in along)

    def _windows(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        p, axes = eqn.params, []
        settings = (p["window_dimensions"], p["window_strides"], p["padding"])
        sizes = shape(eqn.outvars[0])
        for axis, n, size, stride, pad in zip(operands[0], sizes, *settings, strict=True):
            if size == stride == 1 and tuple(pad) == (0, 0):
                axes.append(Axis(axis.labels))
            else:
                self.keep([axis])
                axes.append(Axis(np.full(n, KEPT)))
        return tuple(axes)

    def _broadcast(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        axes = list(uniform(eqn.outvars[0], ANY))
        for axis, at in zip(operands[0], eqn.params["broadcast_dimensions"], strict=True):
            if len(axis.labels) == len(axes[at].labels):
                axes[at] = axis
            else:
                self.keep([axis])
        return tuple(axes)

    def _reshape(self, eqn: JaxprEqn, operands: list[Value]) -> Value | None:
        x, target = operands[0], shape(eqn.outvars[0])
        if 0 in target:
            return None
        self.keep([axis for axis in x if len(axis.labels) == 1])
        axes = iter([axis for axis in x if len(axis.labels) > 1])
        result: list[Axis] = []
        for before, after in _segments([len(axis.labels) for axis in x], target):
            own = [next(axes) for _ in before]
            if len(own) == len(after) == 1:
                result += own
            elif len(after) == 1:
                carrying = [a.zero for a in own if self.labels.removable(a.labels)]
                zero = len(carrying) == 1 and carrying[0]
                result.append(Axis(self.labels.merged([a.labels for a in own]), zero))
            elif len(own) == 1:
                parts = self.labels.split(own[0].labels, after)
                result += [Axis(parts[0], own[0].zero), *map(Axis, parts[1:])]
            else:
                self.keep(own)
                result += [Axis(np.full(n, KEPT)) for n in after]
        found = iter(result)
        return tuple(next(found) if n > 1 else Axis(np.full(1, ANY)) for n in target)

    def _slice(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        axes = []
        for axis, n in zip(operands[0], shape(eqn.outvars[0]), strict=True):
            if n < len(axis.labels):  # the program says where it begins and ends
                self.keep([axis])
                axis = Axis(np.full(n, KEPT))
            axes.append(axis)
        return tuple(axes)

    def _pad(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        axes = []
        parts = zip(operands[0], eqn.params["padding_config"], shape(eqn.outvars[0]), strict=True)
        for axis, padding, n in parts:
            if any(padding):
                self.keep([axis])
                axis = Axis(np.full(n, KEPT))
            axes.append(Axis(axis.labels))
        return tuple(axes)

    def _concatenate(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        at, axes = eqn.params["dimension"], list(operands[0])
        zeros = [all(x[i].zero for x in operands) for i in range(len(axes))]
        for i in range(len(axes)):
            if i == at:
                labels = np.concatenate([x[at].labels for x in operands])
                axes[at] = Axis(np.where(labels == ANY, KEPT, labels), zeros[at])
                continue
            for x in operands:
                axes[i] = self._same(axes[i], x[i], zeros[i])
        return tuple(axes)

    def _gather(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        """Rows that indices choose, as of a table: other axes pass."""
        numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        axes = list(uniform(eqn.outvars[0], KEPT))
        outside = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        offsets = iter(numbers.offset_dims)
        for i, axis in enumerate(operands[0]):
            at = None if i in outside else next(offsets)
            if at is None or sizes[i] < len(axis.labels) or i in numbers.start_index_map:
                self.keep([axis])
            else:
                axes[at] = Axis(axis.labels)
        self.keep(operands[1])
        return tuple(axes)

    def _product(self, eqn: JaxprEqn, operands: list[Value]) -> Value:
        (left, right), (summed, batched) = operands, eqn.params["dimension_numbers"]
        for a, b in zip(*summed, strict=True):
            self._sum(left[a], right[b])
        pairs = zip(*batched, strict=True)
        axes = [self._same(left[a], right[b], False) for a, b in pairs]
        for x, own, groups in zip((left, right), summed, batched, strict=True):
            axes += [axis for i, axis in enumerate(x) if i not in (*own, *groups)]
        return tuple(axes)

    def _convolution(self, eqn: JaxprEqn, operands: list[Value]) -> Value | None:
        (data, kernel), p = operands, eqn.params
        if p["feature_group_count"] > 1 or p["batch_group_count"] > 1:
            return None
        numbers = p["dimension_numbers"]
        out, depth, *window = numbers.rhs_spec
        batch, feature, *places = numbers.lhs_spec
        self.keep([*(data[i] for i in places), *(kernel[i] for i in window)])
        self._sum(data[feature], kernel[depth])
        axes = list(uniform(eqn.outvars[0], KEPT))
        axes[numbers.out_spec[0]] = Axis(data[batch].labels)
        axes[numbers.out_spec[1]] = kernel[out]
        return tuple(axes)

    def _sum(self, one: Axis, other: Axis) -> None:
        """A product sums over an axis of both of its sides."""
        self._same(one, other, False)
        if not (one.zero or other.zero):  # then what is removed is not zero in the sum
            self.keep([one, other])
        weights = [axis for axis in (one, other) if not axis.data]
        if weights and weights[-1].zero:  # of two matrices the second reads what the first computes
            self._consumed |= set(weights[-1].labels.tolist())


def _segments(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shortest runs of axes of one shape that hold as many elements as runs of the other."""
    left, right = [n for n in before if n > 1], [n for n in after if n > 1]
    found = []
    while left or right:
        one, other = [left.pop(0)], [right.pop(0)]
        while (a := int(np.prod(one))) != (b := int(np.prod(other))):
            (one if a < b else other).append((left if a < b else right).pop(0))
        found.append((tuple(one), tuple(other)))
    return found
