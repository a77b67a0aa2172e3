"""Whether an optimizer treats every entry of a leaf by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dst.core.typing import Array, PyTree
from dst.engine.flat import Flat

_SIDE, _TOLERANCE = 128, 1e-4  # of the matrix; Adafactor factors moments of this size on


def check_entries(inner: optax.GradientTransformationExtraArgs, values: PyTree, flat: Flat) -> None:
    """Raises where an optimizer looks at more than single entries of a leaf.

    It is tried on a sparse matrix for every sparse leaf, and on its weights in a row.
    """
    random = np.random.default_rng(0)
    mask = random.random((_SIDE, _SIDE)) < 0.2

    def tree(arrays: Sequence[np.ndarray], in_a_row: bool) -> PyTree:
        tiny = [np.ones((1,) * np.ndim(x), np.float32) for x in flat.leaves]
        shaped = [x[mask] if in_a_row else np.where(mask, x, 0) for x in arrays]
        return jax.tree.map(jnp.asarray, flat.rebuild(tiny, shaped))

    drawn = random.normal(size=(3, len(flat.plans), _SIDE, _SIDE)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def updates(in_a_row: bool) -> list[Array]:
        params = tree(drawn[0], in_a_row)
        state, found = inner.init(params), None
        for grads in drawn[1:]:
            found, state = inner.update(tree(grads, in_a_row), state, params)
        return flat.of(found)

    with jax.ensure_compile_time_eval():
        try:
            matrices, rows = (jax.device_get(updates(x)) for x in (False, True))
        except Exception as error:
            raise ValueError(
                'form="packed": the inner optimizer could not be tried on weights in a row: '
                f'{type(error).__name__}: {error!s:.100}. Use form="masked".'
            ) from error
    for path, matrix, row in zip(flat.sparse_paths, matrices, rows, strict=True):
        difference = np.abs(matrix[mask] - row).max()
        if not difference <= _TOLERANCE * np.abs(row).max():
            raise ValueError(
                f'form="packed": the inner optimizer updates the weights of {path} otherwise when '
                "they stand in a row, so it looks at more than single entries. Use one that does "
                'not, such as Adam, or form="masked". A mask of weight decay that looks at ranks: '
                "give a tree of bool."
            )
