"""Leaf paths, the choice of sparse leaves, and flat views of parameter trees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import PyTreeDef

from dst.core import checks, names
from dst.core.patterns import chosen, lookup, matches, require_matches
from dst.core.roles import Role, in_tree
from dst.core.text import shown
from dst.core.typing import Array, Params, PyTree

Select = str | Sequence[str] | Callable[[str, Array], bool]


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
                f"axes={{{self.path!r}: {_example_axes(self.layer_shape)!r}}}. Or ask the model: "
                "roles=dst.roles(model, inputs). If it is no kernel, leave it dense: "
                f"select=['!{self.path}']."
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


def _example_axes(shape: tuple[int, ...]) -> str:
    if len(shape) in (4, 5):
        window = "k" * (len(shape) - 2)
        return " ".join(f"{window}io" if max(shape[:-2]) <= 15 < max(shape) else f"oi{window}")
    return " ".join(["i"] + ["o"] * (len(shape) - 1))


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


def value_of(node: Any) -> Any:
    """What an NNX variable holds; other nodes as they are."""
    return node.get_value() if _is_variable(node) else node


def is_dense_marker(node: object) -> bool:
    """Whether a node of a mask tree stands for a leaf without mask."""
    return isinstance(node, optax.MaskedNode)


def survey(
    params: Params,
    *,
    select: Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
    roles: Mapping[str, Role] | None = None,
) -> list[Leaf]:
    """What every leaf of a parameter tree is, in the order of the tree.

    Args:
      params: any pytree whose leaves have a shape and a dtype.
      select: which leaves are sparse: a pattern, patterns (``!pattern`` takes out again; alone, out
        of the default) or a function ``(path, leaf) -> bool``. Default: floating-point leaves of
        two or more dimensions (stacked axes not counted), except embeddings, positions, norms,
        adapters and depthwise kernels: as `roles` say, or else by their names (a shape does not
        tell a depthwise kernel from one that reads gray images). What is sparse under an unknown
        name is marked a guess.
      overrides: ``{pattern: {"sparsity": s, "structure": x}}``; sparsity 0 means dense.
      stacked: ``{pattern: number of leading axes that enumerate layers}``; of a kernel whose module
        says its axes, those before them.
      axes: ``{pattern: "k k i o"}``, one letter per axis that is not stacked.
      roles: what the modules of the model say, of :func:`dst.roles`. Equinox modules in `params`
        are asked anyway.

    Raises:
      ValueError: a pattern that matches nothing, or settings that do not fit a leaf.
    """
    paths, leaves, _ = flatten(params)
    if not paths:
        return []
    select = [select] if isinstance(select, str) else select
    _check_arguments(select, {"overrides": overrides, "stacked": stacked, "axes": axes})
    if select is not None and not callable(select):
        require_matches("select", [p.removeprefix("!") for p in select], paths)
    for name, patterns in (("overrides", overrides), ("stacked", stacked), ("axes", axes)):
        require_matches(name, patterns or {}, paths)
    roles = in_tree(params) if roles is None else _fitting(roles, paths)

    result = []
    for path, leaf in zip(paths, leaves, strict=True):
        shape, role = tuple(leaf.shape), roles.get(path)
        depth = lookup(stacked, path)
        if depth is None:  # what a module has beside the axes that it knows enumerates layers
            depth = max(len(shape) - len(role.axes.split()), 0) if role and role.axes else 0
        checks.integer(f"stacked axes of {path}", depth, at_least=0)
        depth = min(depth, len(shape))
        settings = dict(lookup(overrides, path) or {})
        sparse, why = _choose(path, leaf, len(shape) - depth, select, role)
        if depth == len(shape) > 0 and (sparse or depth > 1):  # a scalar per layer stays dense
            raise ValueError(
                f"{path} of shape {shape} has no axis left after {depth} stacked ones. Leave it "
                "out of `select`, or out of `stacked`."
            )
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
                axes=_read_axes(path, shape[depth:], lookup(axes, path), sparse, role),
                settings=settings,
            )
        )
    _check_overrides(overrides or {}, result)
    return result


def check_arrays(paths: Sequence[str], leaves: Sequence[Any]) -> None:
    """Raises unless the leaves are arrays, or shapes, with one path each."""
    for path, leaf in zip(paths, leaves, strict=True):
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(
                f"{path or 'the parameters'}: expected an array, got {type(leaf).__name__} "
                f"{str(leaf):.40}. Keep what is no parameter out of the tree, for example with "
                "equinox.partition or nnx.split; a number becomes an array by jnp.asarray."
            )
    known: set[str] = set()
    for path in paths:
        if path in known:
            raise ValueError(
                f"two leaves have the path {path!r}: a key contains '/'. Rename it: masks and "
                "settings go by path."
            )
        known.add(path)


def _check_overrides(overrides: Mapping[str, Mapping[str, Any]], leaves: Sequence[Leaf]) -> None:
    """Raises where a setting reaches no sparse leaf, and would be ignored in silence."""
    for pattern, settings in overrides.items():
        reached = [leaf for leaf in leaves if matches(pattern, leaf.path)]
        if settings.get("sparsity") == 0 or any(leaf.sparse for leaf in reached):
            continue
        raise ValueError(
            f"overrides: {pattern!r} matches no sparse leaf: {reached[0].path} is dense "
            f"({reached[0].why}). Choose it with select=, or leave the override out."
        )


def _check_arguments(select: Any, by_pattern: Mapping[str, Any]) -> None:
    """Raises unless arguments have the form that :func:`survey` reads."""
    strings = isinstance(select, Sequence) and all(isinstance(x, str) for x in select)
    if not (select is None or callable(select) or strings):
        raise ValueError(
            "select must be a pattern, a list of patterns or a function (path, leaf) -> bool, got "
            f"{shown(select)}."
        )
    for name, patterns in by_pattern.items():
        if not (patterns is None or isinstance(patterns, Mapping)):
            raise ValueError(f"{name} must be a mapping by leaf pattern, got {shown(patterns)}.")
    for pattern, settings in (by_pattern["overrides"] or {}).items():
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"overrides of {pattern} must be a mapping such as {{'sparsity': 0.5}}, got "
                f"{shown(settings)}."
            )


def _fitting(roles: Mapping[str, Role], paths: Sequence[str]) -> Mapping[str, Role]:
    """The roles; raises where they are those of another model."""
    if roles and not roles.keys() & set(paths):
        raise ValueError(
            f"roles: none of their paths, such as {next(iter(roles))!r}, is one of the parameters, "
            f"such as {paths[0]!r}. Ask the model whose parameters these are."
        )
    return roles


def _choose(
    path: str, leaf: Any, rank: int, select: Select | None, role: Role | None
) -> tuple[bool, str]:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False, f"{leaf.dtype}, not floating-point"
    if callable(select):
        return (True, "selected") if select(path, leaf) else (False, "not selected")
    if select is not None:
        verdict = chosen(select, path)
        if not verdict or not all(pattern.startswith("!") for pattern in select):
            return verdict, "selected" if verdict else "not selected"
    if role is not None and (not role.sparse or rank > 1):
        return role.sparse, f"{path.rpartition('/')[2]} of {role.kind}"
    if (kind := names.dense_kind(path)) is not None:
        return False, f"{kind} (by name)"
    if rank < 2:
        return False, f"{rank} dimension{'' if rank == 1 else 's'}"
    if _product(leaf.shape) == 0:
        return False, "no weights"
    guess = "" if names.is_kernel(path) else " (a guess: an unknown name)"
    return True, f"{rank} dimensions{guess}"


def _read_axes(
    path: str, shape: tuple[int, ...], axes: str | None, sparse: bool, role: Role | None
) -> str | None:
    if axes is not None:
        letters = axes.split()
        if len(letters) == len(shape) and set(letters) <= {"i", "o", "k"}:
            return " ".join(letters)
        if sparse:
            window = " ".join("k" * (len(shape) - 2))
            hint = f" A convolution of PyTorch's order is 'o i {window}'." if window else ""
            raise ValueError(
                f"axes of {path} must be {len(shape)} letters out of i (input), o (output) and "
                f"k (kernel window) for shape {shape}, got {axes!r}.{hint}"
            )
    if role is not None and role.axes is not None and len(role.axes.split()) == len(shape):
        return role.axes
    if len(shape) <= 2:
        return " ".join("io"[: len(shape)])
    # Kernels of convolutions in two and three dimensions have small windows first (HWIO).
    # Other shapes of this rank are attention projections or convolutions: only the user knows.
    # Where the last axes look like a window too, they may be in PyTorch's order, OIHW.
    last = shape[-2:]
    window_last = last[0] == last[1] and last[0] in (3, 5, 7, 9, 11)
    if len(shape) in (4, 5) and max(shape[:-2]) <= 15 and not window_last:
        return " ".join("k" * (len(shape) - 2) + "io")
    return None
