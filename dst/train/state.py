"""What a run carries from step to step, and the network that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import dst
from dst.core.typing import Array, Int, Params, PyTree
from dst.engine.state import SparsifyState, is_packed
from dst.train.config.schema import Section


class TrainState(NamedTuple):
    """Everything that changes during training; arrays only.

    Batches and random choices are functions of the config's seed and of the count of updates, so
    that with the count these arrays are all that a resumed run needs.

    Attributes:
      params: nested dictionaries of weights; inactive ones are exactly zero. In the packed form
        sparse leaves hold active weights only.
      opt_state: of the sparse optimizer: masks, count of updates, and the inner state.
      ema: moving average of ``params``, not masked; None where the config asks for none.
      variables: nested dictionaries of what the network carries beside its weights: BatchNorm's
        running statistics, the state of random layers. Empty for most networks.
      skipped: int32 updates that were left out because a number was not finite.
    """

    params: Params
    opt_state: SparsifyState
    ema: Params | None
    variables: PyTree
    skipped: Int[Array, ""]

    @property
    def weights(self) -> Params:
        """The parameters with their zeros, whatever the form."""
        return weights(self.params, self.opt_state)


def weights(params: Params, opt_state: SparsifyState) -> Params:
    """Parameters with their zeros, from those of a :class:`TrainState`; differentiable."""
    return dst.unpack(params, opt_state) if is_packed(opt_state) else params


def converted(state: TrainState, tx: dst.SparseTransformation) -> TrainState:
    """A state in the other form, at the same step.

    Args:
      state: in the masked or in the packed form.
      tx: of the packed form, which the state has or comes to have.
    """
    if is_packed(state.opt_state):
        params, opt_state = state.weights, dst.unpack_state(state.opt_state, tx)
    else:
        params, opt_state = dst.pack(state.params, tx, state.opt_state)
    return state._replace(params=params, opt_state=opt_state)


class Network(NamedTuple):
    """A network without its arrays, in each way in which it is run.

    Attributes:
      whole: shardings of its weights while it runs.
      train: normalises by the batch and updates the running statistics; random layers are active.
      test: normalises by the running statistics; nothing is random.
      calibrate: as ``train``, but the statistics become those of the batch alone.
    """

    whole: PyTree
    train: nnx.GraphDef
    test: nnx.GraphDef
    calibrate: nnx.GraphDef

    def merge(self, graph: nnx.GraphDef, params: Params, carried: PyTree) -> nnx.Module:
        """The network of one of the graphs with its arrays, to be called inside of a program."""
        return nnx.merge(graph, lax.with_sharding_constraint(params, self.whole), carried)


def modes(model: nnx.Module, whole: PyTree, compute: str) -> Network:
    """The ways to run a network.

    Args:
      model: of arrays or shapes; changed.
      whole: shardings of its weights while it runs.
      compute: type in which its layers multiply and add. They round their float32 weights to it,
        so that gradients are float32 again. Batch norms compute statistics in float32.
    """
    model.set_attributes(dtype=jnp.dtype(compute), raise_if_not_found=False)
    model.train()
    train = nnx.graphdef(model)
    model.eval()
    test = nnx.graphdef(model)
    model.train()
    model.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)
    return Network(whole, train, test, nnx.graphdef(model))


def parameters(model: nnx.Module) -> Params:
    """The trained weights, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def variables(model: nnx.Module) -> PyTree:
    """Everything else that a network carries, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def network(section: Section, shape: Sequence[int], classes: int, seed: int) -> nnx.Module:
    """The network that a config names, with its initial weights."""
    model = section.make(shape=tuple(shape), classes=classes, rngs=nnx.Rngs(seed))
    if not (isinstance(model, nnx.Module) and callable(model)):
        raise ValueError(
            f"model.import: {section.name} must give a flax.nnx.Module that can be called on "
            f"inputs, got {type(model).__name__}."
        )
    return model


def initial(params: Params, carried: PyTree, tx: dst.SparseTransformation, ema: bool) -> TrainState:
    """The state before the first step.

    Args:
      params: the weights, where they are to lie; what has their shape comes to lie there too.
      carried: what the network carries beside them.
      tx: the sparse optimizer.
      ema: whether an average is kept.
    """
    if tx.packed is None:
        opt_state = tx.init(params)
        params = dst.apply_masks(params, opt_state)
    else:
        params, opt_state = dst.pack(params, tx)
    # A copy: the step donates its buffers, and one buffer can be given away only once.
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(params, opt_state, average, carried, jnp.zeros([], jnp.int32))
