"""Structure: the unit that is switched, and the group in which counts are exact.

A structure splits the axes of a weight and calls each part group, unit or member. Scores are
summed over the members of a unit. Selection is exact within a group. The mask of a unit is
spread over its members again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol, runtime_checkable

from dst.core import checks
from dst.core.tree import Leaf
from dst.rules.layout import Layout
from dst.rules.transposable import ENUMERATED, BlockPattern


@runtime_checkable
class Structure(Protocol):
    """What a structure must provide: the layout of a leaf.

    A pattern with only one possible sparsity offers it as the attribute ``sparsity``.
    """

    def layout(self, leaf: Leaf) -> Layout:
        """The layout of a leaf. Raises ValueError where the leaf does not fit."""
        ...


def structure_of(leaf: Leaf, default: Structure) -> Structure:
    """The structure that ``overrides`` give to a leaf, or else the default."""
    own: Structure | None = (leaf.settings or {}).get("structure")
    return own or default


@dataclass(frozen=True)
class Unstructured:
    """Single weights are switched; counts are exact in every layer.

    Every slice of a stacked axis is a layer of its own.
    """

    def layout(self, leaf: Leaf) -> Layout:
        stacked = tuple(range(leaf.stacked))
        return Layout(
            shape=leaf.shape,
            split=leaf.shape,
            groups=stacked,
            counts=leaf.shape[: leaf.stacked],
        )


@dataclass(frozen=True)
class NM:
    """``n`` active weights of every ``m`` consecutive ones along the input (reduced) axis.

    Its sparsity is ``1 - n / m`` in every layer, whatever the allocation. Several input axes of a
    kernel count as one, the last running fastest.

    Args:
      n: active per group, at least 1.
      m: size of a group; must divide the input axis.

    References: Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks
    from scratch" (arXiv 2102.04010).
    Checked against: a row by hand,
    tests/methods/test_goldens.py::test_asp_keeps_two_of_four_along_the_inputs.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        checks.integer("n of NM(n, m)", self.n, at_least=1)
        checks.integer("m of NM(n, m)", self.m, at_least=self.n + 1)

    @property
    def sparsity(self) -> Fraction:
        """The only possible sparsity: ``1 - n / m``."""
        return 1 - Fraction(self.n, self.m)

    def layout(self, leaf: Leaf) -> Layout:
        """Groups along the input axes; see :class:`Structure`."""
        return _layout(leaf, self, {"i": ("group", self.m, "unit"), "o": "group", "k": "group"})


@dataclass(frozen=True)
class TransposableNM:
    """``n`` active weights of every ``m`` consecutive ones along the inputs, and along the outputs.

    The transposed kernel, by which gradients go back, is N:M too. Patterns are chosen whole, in
    blocks of ``m`` inputs by ``m`` outputs. The ``exact`` search maximises the sum of the scores of
    a block over all patterns, 90 for 2:4. The ``greedy`` one takes the best connection that its row
    and its column still have room for, then the next. Where that fills all rows, the sum is at
    least half of the largest. Other rows are filled by swaps.

    Args:
      n: active along either axis, at least 1.
      m: must divide the input axis and the output axis.
      search: ``exact``, up to 4 weights per block side, or ``greedy``; ``auto``: the first where it
        can be had.

    Raises:
      ValueError: an exact search over larger blocks.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params = {"w": jnp.array([[3.0, 2.0], [2.5, 0.1]])}
      >>> dst.prune(params, 0.5, structure=dst.TransposableNM(1, 2))[0]["w"].tolist()
      [[0.0, 2.0], [2.5, 0.0]]

    References: Hubara et al. 2021, "Accelerated Sparse Neural Training: A Provable and Efficient
    Method to Find N:M Transposable Masks" (arXiv 2102.08124).
    Checked against: papers-submission/structured_transposable_masks at aecd501,
    dynamic_TNM/src/sparse_ops.py (``update_mask_approx2``, the greedy choice), and
    huyz2023/2by4-pretrain at 0c75543, sparse/transposable_semi_structured.py (the 90 patterns):
    tests/rules/test_transposable.py.
    Differs from these codes: blocks lie in the kernel, where the first one folds ``m * m``
    consecutive weights; rows that greedy choices leave short stay short there; of equal scores the
    lowest index stays; no exact search over large blocks, there by network flow.
    """

    n: int
    m: int
    search: Literal["auto", "exact", "greedy"] = "auto"

    def __post_init__(self) -> None:
        checks.integer("n of TransposableNM(n, m)", self.n, at_least=1)
        checks.integer("m of TransposableNM(n, m)", self.m, at_least=self.n + 1)
        checks.one_of("search of TransposableNM", self.search, ("auto", "exact", "greedy"))
        if self.search == "exact" and self.m > ENUMERATED:
            raise ValueError(
                f"search of TransposableNM: exact compares all patterns, for m up to {ENUMERATED}; "
                f"got {self.n}:{self.m}. Use 'greedy'."
            )

    @property
    def sparsity(self) -> Fraction:
        """The only possible sparsity: ``1 - n / m``."""
        return 1 - Fraction(self.n, self.m)

    def layout(self, leaf: Leaf) -> Layout:
        """Groups along the input axes whose choices a pattern joins; see :class:`Structure`."""
        unit, group = ("group", self.m, "unit"), ("group", self.m, "group")
        along = _layout(leaf, self, {"i": unit, "o": group, "k": "group"})
        across = _layout(leaf, self, {"i": group, "o": unit, "k": "group"})
        rows, columns = (
            tuple(a for a in range(len(x.split)) if a not in x.groups) for x in (along, across)
        )
        exact = self.search != "greedy" and self.m <= ENUMERATED
        return replace(along, pattern=BlockPattern(self.n, self.m, rows, columns, exact))


@dataclass(frozen=True)
class Block:
    """Blocks of ``h`` inputs by ``w`` outputs are switched as units; counts of blocks are exact.

    The kernel of a convolution has separate blocks at each position of its window.

    Args:
      h: inputs; must divide the input axis.
      w: outputs; must divide the output axis.

    References: structured dynamic sparsity in BERT (arXiv 2108.06277).
    Checked against: google-research/jaxpruner at f133ee5, jaxpruner/mask_calculator.py;
    tests/methods/test_goldens.py::test_blocks_are_ranked_by_the_sum_of_their_weights.
    Differs from JaxPruner: pools by sum, which ranks as its average does.
    """

    h: int
    w: int

    def __post_init__(self) -> None:
        checks.integer("h of Block(h, w)", self.h, at_least=1)
        checks.integer("w of Block(h, w)", self.w, at_least=1)

    def layout(self, leaf: Leaf) -> Layout:
        """Units of h x w weights; see :class:`Structure`."""
        h, w = ("unit", self.h, "member"), ("unit", self.w, "member")
        return _layout(leaf, self, {"i": h, "o": w, "k": "unit"})


@dataclass(frozen=True)
class BalancedBlock:
    """Blocks of ``h`` inputs by ``w`` outputs are switched as units, and every block of outputs has
    the same number of them.

    It is what :func:`dst.block_matmul` skips: each block of outputs has the same work.

    Args:
      h: inputs; must divide the input axis.
      w: outputs; must divide the output axis.

    Checked against: counts in NumPy,
    tests/methods/test_structures.py, which draws every pattern with plain loops.
    """

    h: int
    w: int

    def __post_init__(self) -> None:
        checks.integer("h of BalancedBlock(h, w)", self.h, at_least=1)
        checks.integer("w of BalancedBlock(h, w)", self.w, at_least=1)

    def layout(self, leaf: Leaf) -> Layout:
        """Units of h x w weights, a group per block of outputs; see :class:`Structure`."""
        h, w = ("unit", self.h, "member"), ("group", self.w, "member")
        return _layout(leaf, self, {"i": h, "o": w, "k": "unit"})


@dataclass(frozen=True)
class ConstantFanIn:
    """Single weights are switched; every output neuron has the same number of active inputs.

    References: Lasby et al. 2024, "Dynamic sparse training with structured sparsity"
    (arXiv 2305.02299).
    """

    def layout(self, leaf: Leaf) -> Layout:
        """A group per output; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "unit", "o": "group", "k": "unit"})


@dataclass(frozen=True)
class OutputChannel:
    """Whole outputs (columns of a matrix, filters of a convolution) are switched."""

    def layout(self, leaf: Leaf) -> Layout:
        """A unit per output; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "member", "o": "unit", "k": "member"})


@dataclass(frozen=True)
class InputChannel:
    """Whole inputs (rows of a matrix, input channels of a convolution) are switched."""

    def layout(self, leaf: Leaf) -> Layout:
        """A unit per input; see :class:`Structure`."""
        return _layout(leaf, self, {"i": "unit", "o": "member", "k": "member"})


# What a letter of a kernel's axes becomes: one role, or (outer role, chunk, role inside it).
_Role = str | tuple[str, int, str]
_NAMES = {"i": "input", "o": "output"}


def _layout(leaf: Leaf, structure: Structure, roles: dict[str, _Role]) -> Layout:
    parts: list[tuple[int, str]] = [(n, "group") for n in leaf.shape[: leaf.stacked]]
    chunks = {
        letter: _chunks(leaf, structure, letter, role[1])
        for letter, role in roles.items()
        if isinstance(role, tuple)
    }
    for axis, letter in enumerate(leaf.letters):
        role = roles[letter]
        if isinstance(role, str):
            parts.append((leaf.layer_shape[axis], role))
            continue
        inner = chunks[letter][axis]
        outer = leaf.layer_shape[axis] // inner
        parts += [(outer, role[0])] * (outer > 1 or inner == 1)
        parts += [(inner, role[2])] * (inner > 1)
    return Layout(
        shape=leaf.shape,
        split=tuple(n for n, _ in parts),
        groups=tuple(a for a, (_, role) in enumerate(parts) if role == "group"),
        members=tuple(a for a, (_, role) in enumerate(parts) if role == "member"),
        counts=leaf.shape[: leaf.stacked],
    )


def _chunks(leaf: Leaf, structure: Structure, letter: str, size: int) -> dict[int, int]:
    """The length along every axis of a letter of a chunk of ``size`` consecutive positions.

    Axes of the same letter count as one, the last running fastest; they are not merged.
    """
    inside, rest = {}, size
    for axis in reversed([a for a, name in enumerate(leaf.letters) if name == letter]):
        length = leaf.layer_shape[axis]
        inside[axis] = length if rest % length == 0 else rest
        if length % inside[axis]:
            break
        rest //= inside[axis]
    else:
        if rest == 1:
            return inside
    lengths = [
        f"axis {a + leaf.stacked} of length {leaf.layer_shape[a]}"
        for a, name in enumerate(leaf.letters)
        if name == letter
    ]
    raise ValueError(
        f"{leaf.path} of shape {leaf.shape}: {structure} needs {_NAMES[letter]}s in multiples of "
        f"{size}, found {' and '.join(lengths) or 'no such axis'}. Choose another pattern for it, "
        f"or leave it dense: overrides={{{leaf.path!r}: {{'sparsity': 0}}}}."
    )
