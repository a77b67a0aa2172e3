"""Leaf paths, the choice of sparse leaves, and flat views of parameter trees."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import PyTreeDef

from dst.core import checks
from dst.core.typing import Array, Params, PyTree

Select = str | Sequence[str] | Callable[[str, Array], bool]

# Path segments that mark leaves which sparse training leaves dense by default, whatever
# their rank: lookup tables, positions, depthwise kernels, normalisation.
_DENSE_BY_NAME = (
    ("embedding", re.compile(r"embed|^wte$|^tok(en)?s?(_table)?$|vocab", re.IGNORECASE)),
    (
        "position",
        re.compile(r"^pos(ition(s|al)?)?(_?(table|ids?|enc\w*))?$|^wpe$|^cls(_token)?$", re.I),
    ),
    ("bias", re.compile(r"^bias$")),  # of several heads it has two dimensions
    # One window per channel: few weights, each of which all positions need.
    ("depthwise", re.compile(r"depthwise|^(conv_?)?dw(_?\d+)?$", re.IGNORECASE)),
    ("norm", re.compile(r"norm|^(ln|bn|rms)(_?\d+|_[a-z]+)?$", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Leaf:
    """One array of a parameter tree, and what sparse training does with it.

    Attributes:
      path: segments joined by ``/``.
      shape: of the array.
      dtype: of the array.
      sparse: whether it carries a mask.
      why: the reason, in words.
      stacked: number of leading axes that enumerate layers.
      axes: one letter per remaining axis: ``i`` reduced (input), ``o`` kept (output), ``k``
        kernel window; None where a shape of this rank could mean several things.
      settings: what ``overrides`` says for this leaf.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    sparse: bool
    why: str
    stacked: int = 0
    axes: str | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one layer: without the stacked axes."""
        return self.shape[self.stacked :]

    @property
    def layers(self) -> int:
        """Number of layers in the leaf: the product of its stacked axes."""
        return _product(self.shape[: self.stacked])

    @property
    def layer_size(self) -> int:
        """Weights of one layer."""
        return _product(self.layer_shape)

    @property
    def size(self) -> int:
        """Weights of the leaf."""
        return _product(self.shape)

    @property
    def letters(self) -> tuple[str, ...]:
        """One letter per axis that is not stacked: ``i``, ``o`` or ``k``.

        Raises:
          ValueError: where the meaning of the axes is not known.
        """
        if self.axes is None:
            raise ValueError(
                f"{self.path}: a kernel of shape {self.layer_shape} can be read in several ways. "
                f"Say which axes are inputs (i), outputs (o) or kernel window (k): "
                f"axes={{{self.path!r}: {_example_axes(len(self.layer_shape))!r}}}."
            )
        return tuple(self.axes.split())

    @property
    def merged_shape(self) -> tuple[int, ...]:
        """``(*window, inputs, outputs)``: all input axes as one, all output axes as one.

        Raises:
          ValueError: where the meaning of the axes is not known.
        """
        named = list(zip(self.letters, self.layer_shape, strict=True))
        window = tuple(n for name, n in named if name == "k")
        inputs = tuple(n for name, n in named if name == "i")
        outputs = tuple(n for name, n in named if name == "o")
        return window + tuple(_product(group) for group in (inputs, outputs) if group)


def _example_axes(rank: int) -> str:
    return " ".join(["i"] + ["o"] * (rank - 1))


def _product(lengths: Iterable[int]) -> int:
    result = 1
    for n in lengths:
        result *= n
    return result


def flatten(tree: PyTree) -> tuple[list[str], list[Any], PyTreeDef]:
    """Leaf paths, leaves and structure of a parameter tree.

    A path is ``"encoder/0/kernel"``: of an NNX variable, without the ``value`` inside it.
    """
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
    paths = [
        jax.tree_util.keystr(key_path, simple=True, separator="/")
        for key_path, node in nodes
        if not _is_variable(node) or jax.tree.leaves(node)
    ]
    leaves, treedef = jax.tree.flatten(tree)
    return paths, leaves, treedef


def parameters(tree: PyTree) -> PyTree:
    """The parameters of a Flax NNX model or of a state of its variables; other trees as they are.

    Masks, running statistics and the state of random layers are no parameters.
    """
    nnx = sys.modules.get("flax.nnx")  # who has a model has imported it
    if nnx is None or not isinstance(tree, (nnx.Module, nnx.State)):
        return tree
    split = nnx.state if isinstance(tree, nnx.Module) else nnx.filter_state
    params = split(tree, nnx.Param)
    return params if jax.tree.leaves(params) else tree


def _is_variable(node: object) -> bool:
    # By what it can do: the core does not import Flax.
    return hasattr(type(node), "get_metadata") and hasattr(type(node), "get_value")


def is_dense_marker(node: object) -> bool:
    """Whether a node of a mask tree stands for a leaf without mask."""
    return isinstance(node, optax.MaskedNode)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for segment in pattern.strip("/").split("/"):
        if segment == "**":
            parts.append("(?:[^/]+/)*")
            continue
        text = "".join(
            "[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in segment
        )
        parts.append(text + "/")
    return re.compile("".join(parts))


def matches(pattern: str, path: str) -> bool:
    """Whether a path matches: ``*`` and ``?`` inside a segment, ``**`` any number of segments."""
    return _compiled(pattern).fullmatch(path + "/") is not None


def lookup(patterns: Mapping[str, Any] | None, path: str) -> Any | None:
    """The value of the last pattern that matches a path, or None."""
    result = None
    for pattern, value in (patterns or {}).items():
        if matches(pattern, path):
            result = value
    return result


def require_matches(argument: str, patterns: Iterable[str], paths: Sequence[str]) -> None:
    """Raises when a pattern matches no path, and lists the paths."""
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            listed = "\n  ".join(paths)
            raise ValueError(
                f"{argument}: pattern {pattern!r} matches no parameter."
                f"{checks.nearest(pattern, paths)} The paths are:\n  {listed}"
            )


def survey(
    params: Params,
    *,
    select: Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
) -> list[Leaf]:
    """What every leaf of a parameter tree is, in the order of the tree.

    Args:
      params: any pytree whose leaves have a shape and a dtype.
      select: which leaves are sparse: a pattern, patterns (``!pattern`` takes out again) or a
        function ``(path, leaf) -> bool``. Default: floating-point leaves of two or more
        dimensions (stacked axes not counted), except embeddings, positions, norms and depthwise
        kernels, by their names (a shape does not tell a depthwise kernel from one that reads
        gray images).
      overrides: ``{pattern: {"sparsity": s, "structure": x}}``; sparsity 0 means dense.
      stacked: ``{pattern: number of leading axes that enumerate layers}``.
      axes: ``{pattern: "k k i o"}``, one letter per axis that is not stacked.

    Raises:
      ValueError: a pattern that matches nothing, or settings that do not fit a leaf.
    """
    paths, leaves, _ = flatten(params)
    if not paths:
        return []
    select = [select] if isinstance(select, str) else select
    if select is not None and not callable(select):
        require_matches("select", [p.removeprefix("!") for p in select], paths)
    for name, patterns in (("overrides", overrides), ("stacked", stacked), ("axes", axes)):
        require_matches(name, patterns or {}, paths)

    result = []
    for path, leaf in zip(paths, leaves, strict=True):
        depth = lookup(stacked, path) or 0
        checks.integer(f"stacked axes of {path}", depth, at_least=0)
        shape = tuple(leaf.shape)
        if depth >= len(shape) > 0 and depth:
            raise ValueError(
                f"{path} of shape {shape} has no axis left after {depth} stacked ones."
            )
        settings = dict(lookup(overrides, path) or {})
        sparse, why = _choose(path, leaf, len(shape) - depth, select)
        if sparse and settings.get("sparsity") == 0:
            sparse, why = False, "override: sparsity 0"
        result.append(
            Leaf(
                path=path,
                shape=shape,
                dtype=leaf.dtype,
                sparse=sparse,
                why=why,
                stacked=depth,
                axes=_read_axes(path, shape[depth:], lookup(axes, path)),
                settings=settings,
            )
        )
    return result


def _choose(path: str, leaf: Any, rank: int, select: Select | None) -> tuple[bool, str]:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False, f"{leaf.dtype}, not floating-point"
    if callable(select):
        return (True, "selected") if select(path, leaf) else (False, "not selected")
    if select is not None:
        verdict = False
        for pattern in select:
            if matches(pattern.removeprefix("!"), path):
                verdict = not pattern.startswith("!")
        return verdict, "selected" if verdict else "not selected"
    for kind, expression in _DENSE_BY_NAME:
        if any(expression.search(segment) for segment in path.split("/")):
            return False, f"{kind} (by name)"
    if rank < 2:
        return False, f"{rank} dimension{'' if rank == 1 else 's'}"
    return True, f"{rank} dimensions"


def _read_axes(path: str, shape: tuple[int, ...], axes: str | None) -> str | None:
    if axes is not None:
        names = axes.split()
        if len(names) != len(shape) or not set(names) <= {"i", "o", "k"}:
            raise ValueError(
                f"axes of {path} must be {len(shape)} letters out of i (input), o (output) and "
                f"k (kernel window) for shape {shape}, got {axes!r}."
            )
        return " ".join(names)
    if len(shape) <= 2:
        return " ".join("io"[: len(shape)])
    # Kernels of convolutions in two and three dimensions have small windows first (HWIO).
    # Other shapes of this rank are attention projections or convolutions: only the user knows.
    if len(shape) in (4, 5) and max(shape[:-2]) <= 15:
        return " ".join("k" * (len(shape) - 2) + "io")
    return None
