"""The weights of a model that pruning selects, and how many of them are zero."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

import dst.nnx
from dst.core import tree


def sparsity(model: nnx.Module) -> float:
    """The share of zeros in the matrices of a model, those that ``dst.nnx.prune`` selects.

    Embeddings and norms do not count; of a :class:`dst.models.Decoder`, the output head neither.

    Example:
      >>> model = nnx.Linear(2, 4, rngs=nnx.Rngs(0))
      >>> masks = dst.nnx.prune(model, 0.75)
      >>> sparsity(model)
      0.75

    Checked against: NumPy's count, tests/eval/test_language.py.
    """
    params = nnx.state(model, nnx.Param)
    sparse = {x.path for x in tree.survey(params, roles=dst.nnx.roles(model)) if x.sparse}
    paths, leaves, _ = tree.flatten(params)
    chosen = [x for path, x in zip(paths, leaves, strict=True) if path in sparse]
    zeros = sum(x.size - int(jnp.count_nonzero(x)) for x in chosen)
    return zeros / max(sum(x.size for x in chosen), 1)
