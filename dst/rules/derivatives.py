"""What a score looks at in place of the gradient of the loss, where a paper asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dst.core.typing import Array, Params

# Of the parameters: the loss, a scalar, or the outputs of the network, of any shape.
Function = Callable[[Params], Array]


class Derivative(NamedTuple):
    """What :func:`dst.sparsify`'s ``update`` takes as ``grads`` at a topology step.

    Attributes:
      of: ``"loss"``, or ``"ones"``: the outputs of the network for one input of ones.
      take: ``(function, params, selected) ->`` a tree like the parameters; ``selected`` says of
        every leaf whether it is sparse.
      temperature: by which the outputs of the network are divided before the loss.
    """

    of: Literal["loss", "ones"]
    take: Callable[[Function, Params, Sequence[bool]], Params]
    temperature: float = 1.0


def _hessian_gradient(loss: Function, params: Params, selected: Sequence[bool]) -> Params:
    gradient = jax.grad(loss)
    leaves, treedef = jax.tree.flatten(gradient(params))
    pairs = zip(leaves, selected, strict=True)
    at = jax.tree.unflatten(treedef, [g if s else jnp.zeros_like(g) for g, s in pairs])
    return jax.jvp(gradient, (params,), (at,))[1]


def _flow(outputs: Function, params: Params, selected: Sequence[bool]) -> Params:
    sizes = jax.tree.map(jnp.abs, params)
    whole, flow = jax.value_and_grad(lambda p: jnp.sum(outputs(p)))(sizes)
    # Infinite scores would be ties, decided by their index. NaN scores choose nothing.
    parts = [whole, *jax.tree.leaves(flow)]
    finite = jnp.stack([jnp.all(jnp.isfinite(x)) for x in parts]).all()
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan).astype(x.dtype), flow)


#: ``H g``: the Hessian of the loss times its gradient, of selected leaves (GraSP): as if the others
#: were constants. Integer leaves are not allowed.
HESSIAN_GRADIENT = Derivative("loss", _hessian_gradient)
#: ``dR/d|w|``, where R is the sum of the outputs of the network with ``|w|`` in place of each
#: parameter (SynFlow). All of it is NaN where R or any of it overflows.
FLOW = Derivative("ones", _flow)
