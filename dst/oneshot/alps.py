"""ALPS: alternate between the best dense weights near a sparse matrix and the best sparse one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dst.core import checks
from dst.core.registry import named
from dst.core.typing import Array, ArrayLike
from dst.oneshot.matrix import Matrix, best_of
from dst.oneshot.solve import dampened, precise
from dst.oneshot.statistics import Needs
from dst.rules.layout import Layout
from dst.rules.structure import NM, Unstructured

# By the change of the mask, relative to the weights that are kept, rho grows by so much.
_LARGE_CHANGE, _CHANGE = 0.1, 0.005
_FAST, _MEDIUM, _SLOW = 1.3, 1.2, 1.1
_SHRINKING = 5.0  # rho is divided by it until the mask starts to change
_LARGEST = 1e6  # rho
_SMALL_CHANGE, _PATIENCE = 3e-4, 30  # a change that ends the search after so many iterations


@named("alps")
@dataclass(frozen=True)
class ALPS:
    """Prunes by ADMM on the layer's output error, then solves for the weights that are kept.

    ``H = X^T X + damping``, scaled to a diagonal of ones; ``W0`` are the dense weights in the same
    scale. ADMM splits the weights into dense ``W`` and sparse ``D``, with multipliers ``V``::

        W = inverse(H + rho I) (H W0 - V + rho D)
        D = the largest of W + V / rho, zero elsewhere
        V = V + rho (W - D)

    All weights of the matrix compete; under N:M, every group of M consecutive inputs keeps N.
    Every few iterations ``rho`` grows, by 1.3, 1.2 or 1.1: faster while more of the mask changes.
    As long as the mask has hardly changed, ``rho`` is too large: it falls to a fifth. The search
    ends when the mask no longer changes. Then conjugate gradients, one per output, minimise the
    error of the weights that are kept. The scaling of ``H`` is their preconditioner.

    Args:
      rho: first penalty, > 0; ``H`` has a diagonal of ones.
      every: iterations between two changes of ``rho``, >= 1.
      iterations: of ADMM, at most, rounded up to a multiple of ``every``; >= 1.
      steps: of the conjugate gradients, >= 0.
      dampening: added to the diagonal of ``X^T X``, relative to its mean, >= 0.

    Raises:
      ValueError: another structure than single weights or N:M; a Gram matrix without
        eigenvalues.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> forward, x = lambda p, x: x @ p["w"], jnp.array([[1.0, 0.5], [0.0, 0.5]])
      >>> params = {"w": jnp.array([[1.0], [2.0]])}
      >>> method = dst.ALPS(dampening=0.0)
      >>> pruned, masks = dst.prune(params, 0.5, method=method, forward=forward, batches=[x])
      >>> pruned["w"].round(4).tolist()
      [[0.0], [3.0]]

    References: Meng et al. 2024, "ALPS: improved optimization for highly sparse one-shot pruning
    for large language models" (arXiv 2406.07831).
    Checked against: mazumder-lab/ALPS at bbdad62, alps.py (ALPS_admm, cg_batch), by a twin in
    NumPy and by identities: tests/oneshot/test_alps.py.
    Differs from its code: counts are rounded as everywhere in dst; the conjugate gradients make
    all their steps; weights of inputs that are always zero become zero without dampening.
    """

    needs: ClassVar[Needs] = "gram"

    rho: float = 0.1
    every: int = 3
    iterations: int = 300
    steps: int = 10
    dampening: float = 0.01

    def __post_init__(self) -> None:
        checks.above_zero("rho of ALPS", self.rho)
        checks.integer("every of ALPS", self.every, at_least=1)
        checks.integer("iterations of ALPS", self.iterations, at_least=1)
        checks.integer("steps of ALPS", self.steps, at_least=0)
        checks.at_least_zero("dampening of ALPS", self.dampening)

    def __call__(self, matrix: Matrix) -> tuple[Array, Array]:
        """Weights and mask."""
        with precise() as dtype:
            return self._solved(matrix, dtype)

    def _solved(self, matrix: Matrix, dtype: DTypeLike) -> tuple[Array, Array]:
        """Weights and mask, solved in one dtype, one group after the other."""
        if not isinstance(matrix.structure, (Unstructured, NM)):
            raise ValueError(
                f"{matrix.name}: ALPS prunes single weights or N:M, got {matrix.structure}. Use "
                "dst.Wanda() or dst.Magnitude() for other structures."
            )
        gram, preserve, found = jnp.asarray(matrix.inputs.gram), matrix.preserve, []
        limits = _Limits(self.rho, self.every, self.iterations, self.steps)
        for i in range(len(matrix.weight)):
            one = replace(matrix, weight=matrix.weight[i : i + 1])
            layout = one.layout()
            keep = one.kept(layout)
            quadratic = _quadratic(gram[i].astype(dtype), self.dampening, matrix.name)
            found.append(_solve(one.weight, quadratic, keep, limits, layout, preserve))
        solved, masks = zip(*found, strict=True)
        return jnp.concatenate(solved), jnp.concatenate(masks)


class _Limits(NamedTuple):
    """Fields of the method that change numbers, not the program."""

    rho: ArrayLike
    every: ArrayLike
    iterations: ArrayLike
    steps: ArrayLike


class _Quadratic(NamedTuple):
    """``H`` scaled to a diagonal of ones.

    Attributes:
      norms: ``[inputs, 1]``: square roots of the diagonal; weights are multiplied by them.
      gram: ``[inputs, inputs]``.
      values, vectors: its eigenvalues ``[inputs]``, and its eigenvectors in columns.
    """

    norms: Array
    gram: Array
    values: Array
    vectors: Array

    def near(self, rho: Array) -> Array:
        """``inverse(H + rho I)``."""
        return _product(self.vectors / (self.values + rho)[None, :], self.vectors.T)


_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def _quadratic(gram: Array, dampening: float, name: str) -> _Quadratic:
    return dampened(lambda value: _decomposed(gram, value), dampening, name)


@jax.jit
def _decomposed(gram: Array, dampening: Array) -> tuple[_Quadratic, Array]:
    """The scaled matrix, and how far its eigenvectors are from giving it back."""
    diagonal = jnp.diagonal(gram)
    norms = jnp.sqrt(diagonal + dampening * jnp.mean(diagonal))
    dead = norms == 0
    scale = jnp.where(dead, 1, norms)
    scaled = gram / scale[:, None] / scale[None, :]
    size = len(diagonal)
    scaled = jnp.where(jnp.eye(size, dtype=bool), 1, scaled)
    values, vectors = jnp.linalg.eigh(scaled)
    values = jnp.maximum(values, 0)  # X^T X has none below zero, but rounding errors
    error = jnp.max(jnp.abs(_product(vectors * values[None, :], vectors.T) - scaled))
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    return _Quadratic(norms[:, None], scaled, values, vectors), error


class _Search(NamedTuple):
    """ADMM: iterations made, rho, whether it has started to grow, and the variables."""

    iteration: Array
    rho: Array
    growing: Array
    done: Array
    dense: Array
    sparse: Array
    dual: Array
    mask: Array


@partial(jax.jit, static_argnames=("layout", "preserve"))
def _solve(
    weight: Array,
    quadratic: _Quadratic,
    keep: ArrayLike,
    limits: _Limits,
    layout: Layout,
    preserve: bool,
) -> tuple[Array, Array]:
    """Of one group: ``[1, inputs, outputs]``."""
    dtype = quadratic.gram.dtype
    target = weight[0].astype(dtype) * quadratic.norms
    goal = _product(quadratic.gram, target)
    kept = jnp.asarray(keep * (weight.size // layout.units), dtype)

    def chosen(values: Array) -> Array:
        return best_of(jnp.abs(values)[None], weight, keep, layout, preserve)[0]

    def search(state: _Search) -> _Search:
        inverse = quadratic.near(state.rho)

        def iteration(_: int, variables: tuple[Array, ...]) -> tuple[Array, ...]:
            sparse, dual = variables[1:3]
            dense = _product(inverse, goal - dual + state.rho * sparse)
            moved = dense + dual / state.rho
            mask = chosen(moved)
            sparse = jnp.where(mask, moved, 0)
            return dense, sparse, dual + state.rho * (dense - sparse), mask

        variables = state.dense, state.sparse, state.dual, state.mask
        dense, sparse, dual, mask = lax.fori_loop(0, limits.every, iteration, variables)
        changed = jnp.sum(mask != state.mask)
        share = changed.astype(dtype) / kept
        growing = state.growing | (share > _CHANGE)
        growth = jnp.where(share > _CHANGE, _MEDIUM, _SLOW)
        growth = jnp.where(share > _LARGE_CHANGE, _FAST, growth)
        rho = jnp.where(growing, state.rho * growth.astype(dtype), state.rho / _SHRINKING)
        restart = ~growing & (changed > 0)
        made = state.iteration + limits.every
        settled = (made > _PATIENCE) & (share < _SMALL_CHANGE)
        return _Search(
            iteration=made,
            rho=jnp.minimum(rho, _LARGEST),
            growing=growing,
            done=(growing & (changed == 0)) | settled,
            dense=jnp.where(restart, target, dense),
            sparse=jnp.where(restart, first, sparse),
            dual=jnp.where(restart, 0, dual),
            mask=mask,
        )

    mask = chosen(target)
    first = jnp.where(mask, target, 0)
    begin = _Search(
        iteration=jnp.zeros([], jnp.int32),
        rho=jnp.asarray(limits.rho, dtype),
        growing=jnp.array(False),
        done=jnp.array(False),
        dense=target,
        sparse=first,
        dual=jnp.zeros_like(target),
        mask=mask,
    )
    end = lax.while_loop(lambda s: ~s.done & (s.iteration < limits.iterations), search, begin)
    mask = chosen(end.dense)
    solved = _refined(quadratic.gram, goal, end.dense, mask, limits.steps)
    solved = jnp.where(mask, solved / jnp.where(quadratic.norms == 0, 1, quadratic.norms), 0)
    return solved.astype(jnp.float32)[None], mask[None]


def _refined(gram: Array, goal: Array, weight: Array, mask: Array, steps: ArrayLike) -> Array:
    """Conjugate gradients towards ``gram @ weight = goal`` on the mask, for each output."""

    def ratio(a: Array, b: Array) -> Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)[None, :]

    def step(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        weight, residual, direction, size = state
        image = _product(gram, direction)
        length = ratio(size, jnp.sum(direction * image, axis=0))
        weight = weight + length * direction
        residual = residual - length * jnp.where(mask, image, 0)
        after = jnp.sum(jnp.square(residual), axis=0)
        return weight, residual, residual + ratio(after, size) * direction, after

    weight = jnp.where(mask, weight, 0)
    residual = jnp.where(mask, goal - _product(gram, weight), 0)
    start = weight, residual, residual, jnp.sum(jnp.square(residual), axis=0)
    return lax.fori_loop(0, steps, step, start)[0]
