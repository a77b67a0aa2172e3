"""Trained matrices in a form that skips zeros, for inference."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from dst.core import checks, tree
from dst.core.tree import Leaf, Select, flatten, survey
from dst.core.typing import Array, ArrayLike, PyTree
from dst.forms.condensed import pack_condensed
from dst.forms.csr import pack_csr
from dst.forms.matrix import DenseMatrix, Matrix, on_device, weights_of
from dst.forms.nm import NMMatrix, pack_nm

FORMS = ("auto", "condensed", "csr", "dense")
# Below it the dense product is faster: docs/howto/inference.md has the figures.
_MIN_SPARSITY = 0.8
_PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")


def deploy(
    params: PyTree,
    form: str = "auto",
    *,
    min_sparsity: float | None = None,
    select: Select | None = None,
) -> PyTree:
    """Matrices that skip their zeros in products, for inference.

    A :class:`dst.forms.Matrix` multiplies by ``matrix(x)`` and by ``x @ matrix``. So a forward
    function that writes ``x @ kernel`` takes a deployed tree in place of its parameters. Forms:

    * ``"condensed"``: values and inputs of each output, as many slots as the largest fan-in.
    * ``"csr"``: compressed sparse rows, multiplied by SciPy on the host, outside of ``jax.jit``.
    * ``"2:4"`` or another N:M pattern: values, with a byte per place.
    * ``"dense"``: as it is.
    * ``"auto"``: condensed where its slots, spare ones too, are at most ``1 - min_sparsity`` of the
      matrix; dense elsewhere.

    Args:
      params: a matrix ``[inputs, outputs]``, or a pytree of arrays.
      form: one of the above.
      min_sparsity: of the leaves of a tree that are deployed, in [0, 1]. None: 0.8, and with a
        pattern every leaf that has it. A matrix that is given alone takes any form but ``"auto"``
        whatever its sparsity.
      select: which leaves of a tree may be deployed, as in :func:`dst.sparsify`. None: floating-
        point matrices that are no embeddings.

    Returns:
      The matrix in its form. Or a tree like ``params`` with such matrices, where leaves of other
      shapes or of less sparsity are as they were.

    Raises:
      ValueError: an unknown form; a matrix without the pattern; a Flax NNX model.

    Example:
      >>> import jax.numpy as jnp
      >>> kernel = jnp.zeros((64, 8)).at[3].set(2.0)
      >>> matrix = deploy(kernel)
      >>> matrix
      CondensedMatrix(64 x 8, float32, 64 bytes)
      >>> float((jnp.ones(64) @ matrix)[0])
      2.0
      >>> deploy({"kernel": kernel, "bias": jnp.zeros(8)}, "csr")["kernel"]
      CSRMatrix(64 x 8, float32, 100 bytes)

    Checked against: dense products, tests/forms/test_deploy.py.
    """
    pack, pattern = _packer(form)
    least = _MIN_SPARSITY if min_sparsity is None else min_sparsity
    checks.fraction("min_sparsity", least)
    if hasattr(params, "shape") and hasattr(params, "dtype"):
        if form == "auto" and not _pays(params, least):
            return _dense(params)
        return pack(params)
    if tree.parameters(params) is not params:
        raise ValueError(
            "deploy is for arrays and trees of them, got a Flax NNX model, whose layers multiply "
            "by arrays only. Give nnx.to_pure_dict(nnx.state(model, nnx.Param)) and a forward "
            "function that writes x @ kernel."
        )
    if min_sparsity is None and pattern is not None:
        least = 0.0

    def chosen(leaf: Leaf, array: ArrayLike) -> bool:
        if not leaf.sparse or len(leaf.shape) != 2 or leaf.stacked or form == "dense":
            return False
        weight = np.asarray(array)
        if form == "auto":
            return _pays(weight, least)
        if np.count_nonzero(weight == 0) < least * weight.size:
            return False
        return pattern is None or _follows(weight, *pattern)

    _, leaves, treedef = flatten(params)
    found = survey(params, select=select)
    return treedef.unflatten(
        [pack(x) if chosen(leaf, x) else x for leaf, x in zip(found, leaves, strict=True)]
    )


def pattern_of(form: str) -> tuple[int, int] | None:
    """2 and 4 of ``"2:4"``; None for another form."""
    match = _PATTERN.fullmatch(form) if isinstance(form, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _packer(form: str) -> tuple[Callable[[ArrayLike], Matrix], tuple[int, int] | None]:
    """What packs a matrix in a form, and the pattern of the form.

    Raises:
      ValueError: an unknown form.
    """
    pattern = pattern_of(form)
    if pattern is not None:
        n, m = pattern
        return (lambda weight: NMMatrix(pack_nm(_array(weight), n, m), n, m)), pattern
    checks.one_of("form", form, [*FORMS, "2:4"])
    if form == "csr":
        return pack_csr, None
    return (_dense if form == "dense" else pack_condensed), None


def _array(weight: ArrayLike) -> Array:
    return on_device(weights_of(weight))


def _dense(weight: ArrayLike) -> DenseMatrix:
    return DenseMatrix(_array(weight))


def _pays(weight: ArrayLike, min_sparsity: float) -> bool:
    """Whether the slots of the condensed form are few enough."""
    host = weights_of(weight)
    fan_in = int((host != 0).sum(axis=0).max(initial=0))
    return len(host) - fan_in >= min_sparsity * len(host)


def _follows(weight: np.ndarray, n: int, m: int) -> bool:
    """Whether every group of ``m`` inputs has at most ``n`` weights."""
    if len(weight) % m:
        return False
    groups = weight.reshape(-1, m, weight.shape[1])
    return bool(((groups != 0).sum(axis=1) <= n).all())
