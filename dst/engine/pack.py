"""From the masked to the packed form and back."""

from __future__ import annotations

from dst.core.tree import flatten
from dst.core.typing import Array, OptState, Params, PyTree
from dst.engine.places import Places, is_places
from dst.engine.state import SparsifyState, is_packed, raw_states
from dst.engine.transformation import Packed, SparseTransformation


def pack(
    params: Params, tx: SparseTransformation, opt_state: OptState | None = None
) -> tuple[PyTree, OptState]:
    """Values and state to begin a run in the packed form, or to go on in it.

    Args:
      params: the parameters with their zeros.
      tx: ``dst.sparsify(inner, method, form="packed")``.
      opt_state: state of the masked form, of the same optimizer and method: the run goes on from
        its step. None: a new run.

    Returns:
      A tree like ``params`` with an array ``[capacity]`` for every sparse leaf: its active weights
      in the order of their places, then zeros in spare slots. The capacity is the largest number of
      active weights of the schedule, in leaves of 32768 weights or more a little rounded up, so
      that devices can divide it. Those that divide the leaf do. Matrices of the structure
      ``BalancedBlock(h, w)`` become ``[columns, slots * h, w]``, which :func:`dst.block_matmul`
      reads. And the state of ``tx``.

    Raises:
      ValueError: another form; masks with more weights than there are slots; an optimizer that
        looks at more than single entries of a leaf; as ``tx.init`` of the masked form.

    Example:
      >>> import dst, optax, jax.numpy as jnp
      >>> tx = dst.sparsify(optax.adam(1e-3), dst.Static(sparsity=0.75), form="packed")
      >>> values, opt_state = dst.pack({"w": jnp.ones((8, 8)), "b": jnp.zeros(8)}, tx)
      >>> values["w"].shape, dst.unpack(values, opt_state)["w"].shape
      ((16,), (8, 8))
    """
    if opt_state is None:
        return _packed(tx, "pack").pack(params)
    return _packed(tx, "pack").packed(params, _state(opt_state, packed=False))


def unpack_state(opt_state: OptState, tx: SparseTransformation) -> OptState:
    """The state of the masked form at the same step, from that of the packed form.

    With ``dst.unpack(values, opt_state)`` a masked run goes on where the packed one is.

    Args:
      opt_state: of the packed form.
      tx: ``dst.sparsify(inner, method, form="packed")``, whose state it is.

    Returns:
      The state of ``dst.sparsify(inner, method)``. Moments of inactive weights are zero, and the
      ages of inactive weights are not known.

    Raises:
      ValueError: another form.

    Example:
      >>> import dst, optax, jax.numpy as jnp
      >>> tx = dst.sparsify(optax.adam(1e-3), dst.Static(sparsity=0.75), form="packed")
      >>> values, opt_state = dst.pack({"w": jnp.ones((8, 8))}, tx)
      >>> dst.unpack_state(opt_state, tx).inner_state[0].mu["w"].shape
      (8, 8)
    """
    return _packed(tx, "unpack_state").masked_state(_state(opt_state, packed=True))


def unpack(values: PyTree, opt_state: OptState) -> Params:
    """The parameters with their zeros, from packed values; differentiable in the values.

    Args:
      values: of :func:`pack`, or of the steps after it.
      opt_state: the state at the same step; its places are what is read.

    Raises:
      ValueError: a state without packed leaves, or of other values.
    """
    _, flat, treedef = flatten(values)
    for state in raw_states(opt_state):
        places = treedef.flatten_up_to(state.masks)
        if any(map(is_places, places)):
            return treedef.unflatten(
                [_dense(p, v) if is_places(p) else v for p, v in zip(places, flat, strict=True)]
            )
    raise ValueError("unpack: expected the state of dst.pack, found no packed leaf in it.")


def _dense(places: Places, values: Array) -> Array:
    if values.shape != places.marks.shape:
        raise ValueError(
            f"unpack: expected values of shape {places.marks.shape}, got {values.shape}. Give the "
            "state of the same step."
        )
    return places.scatter(values)


def _packed(tx: SparseTransformation, name: str) -> Packed:
    if tx.packed is None:
        raise ValueError(
            f'{name}: expected dst.sparsify(inner, method, form="packed"), got the masked form: '
            "its state comes from tx.init(params)."
        )
    return tx.packed


def _state(opt_state: OptState, *, packed: bool) -> SparsifyState:
    form = "packed" if packed else "masked"
    if not isinstance(opt_state, SparsifyState):
        raise ValueError(
            f"opt_state: expected the state of dst.sparsify in the {form} form, got "
            f"{type(opt_state).__name__}. Chain other transformations inside of dst.sparsify."
        )
    if is_packed(opt_state) != packed:
        raise ValueError(f"opt_state: expected the {form} form, got the other one.")
    return opt_state
