"""What a run carries from step to step, and where it lies on the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import dst
from dst import models
from dst.train import config
from dst.train.schema import Section

_MODELS = {
    "mlp": models.MLP,
    "convnet": models.ConvNet,
    "lenet5": models.LeNet5,
    "resnet20": models.ResNet20,
    "resnet50": models.ResNet50,
    "wide-resnet": models.WideResNet,
    "mobilenet-v1": models.MobileNetV1,
    "decoder": models.Decoder,
}


class TrainState(NamedTuple):
    """Everything that changes during training; arrays only.

    Batches and random choices are functions of the config's seed and of the count of updates, so
    that with the count these arrays are all that a resumed run needs.

    Attributes:
      params: nested dictionaries of weights; inactive ones are exactly zero.
      opt_state: of the sparse optimizer: masks, count of updates, and the inner state.
      ema: moving average of ``params``, not masked; None where the config asks for none.
      variables: nested dictionaries of what the network carries beside its weights: BatchNorm's
        running statistics, the state of random layers. Empty for most networks.
      skipped: int32 updates that were left out because a number was not finite.
    """

    params: Any
    opt_state: Any
    ema: Any
    variables: Any
    skipped: Any


class Network(NamedTuple):
    """A network without its arrays, in each way in which it is run.

    Attributes:
      train: normalises by the batch and updates the running statistics; random layers are active.
      test: normalises by the running statistics; nothing is random.
      calibrate: as ``train``, but the statistics become those of the batch alone.
    """

    train: Any
    test: Any
    calibrate: Any


def modes(model: nnx.Module) -> Network:
    """The ways to run a network; its arrays may be mere shapes, and its mode is changed."""
    model.train()
    train = nnx.graphdef(model)
    model.eval()
    test = nnx.graphdef(model)
    model.train()
    model.set_attributes(nnx.BatchNorm, momentum=0.0, raise_if_not_found=False)
    return Network(train, test, nnx.graphdef(model))


def parameters(model: nnx.Module) -> Any:
    """The trained weights, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def variables(model: nnx.Module) -> Any:
    """Everything else that a network carries, as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def network(section: Section, shape: Sequence[int], classes: int, seed: int) -> nnx.Module:
    """The network that a config names, with its initial weights."""
    return _MODELS[section.name](shape, classes, **asdict(section.value), rngs=nnx.Rngs(seed))


def initial(model: nnx.Module, tx: dst.SparseTransformation, ema: bool) -> TrainState:
    """The state before the first step; ``ema`` says whether an average is kept."""
    params = parameters(model)
    opt_state = tx.init(params)
    params = dst.apply_masks(params, opt_state)
    # A copy: the step donates its buffers, and one buffer can be given away only once.
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(params, opt_state, average, variables(model), jnp.zeros([], jnp.int32))


class Placement(NamedTuple):
    """Where arrays lie: the state on every device, micro-batches ``[parts, batch, ...]`` spread."""

    state: NamedSharding
    batch: NamedSharding


def placement(mesh: config.Mesh, batch_size: int, parts: int) -> Placement:
    """The placement on this machine's devices.

    Args:
      mesh: how many devices.
      batch_size: examples per optimizer update.
      parts: micro-batches per optimizer update.

    Raises:
      ValueError: more devices than there are, or a batch that they cannot share evenly.
    """
    devices = jax.local_devices()
    n = len(devices) if mesh.data == -1 else mesh.data
    if n > len(devices):
        raise ValueError(f"mesh.data must be at most {len(devices)} on this machine, got {n}.")
    if batch_size % (n * parts):
        raise ValueError(
            f"data.batch_size must be a multiple of {n * parts} ({n} devices x {parts} "
            f"micro-batches), got {batch_size}. Change it, or set mesh.data."
        )
    grid = Mesh(np.array(devices[:n]).reshape(n, mesh.model), ("data", "model"))
    return Placement(
        state=NamedSharding(grid, PartitionSpec()),
        batch=NamedSharding(grid, PartitionSpec(None, "data")),
    )
