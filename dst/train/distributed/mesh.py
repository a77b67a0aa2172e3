"""Where arrays lie: the mesh of devices, and which of its axes splits which axis of an array.

Data parallel: every device has all weights and its part of the batch. Fully sharded: weights, and
all that has their shape, are split over the same devices, and gathered for the forward pass.
Tensor parallel: devices share the work inside of the layers, and each has its part of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dst.core.tree import flatten
from dst.train.config.sections import Mesh

# The axis of the mesh that splits an axis of weights, by the name that networks give it. `data`
# splits weights only where they are fully sharded.
RULES = {
    "embed": "data",
    "channels": "data",
    "mlp": "model",
    "heads": "model",
    "filters": "model",
    "vocab": "model",
}


class Placement(NamedTuple):
    """Where the arrays of a run lie.

    Attributes:
      batch: of micro-batches ``[parts, batch, ...]``.
      everywhere: on every device.
      params: shapes of the weights, each with its sharding.
      whole: shardings of the weights in a forward pass, for which `data` does not divide them.
      notes: a line for each axis of the mesh that leaves weights whole.
    """

    batch: NamedSharding
    everywhere: NamedSharding
    params: Any
    whole: Any
    notes: tuple[str, ...]

    def of(self, tree: Any) -> Any:
        """Shardings of a tree of arrays or shapes.

        A leaf lies as the weight whose shape it has and whose path is in its own, as in
        ``opt_state/inner_state/0/mu/out/kernel``; the others are on every device.
        """
        weights = {f"/{path}/": x for path, x in zip(*flatten(self.params)[:2], strict=True)}
        paths, leaves, treedef = flatten(tree)

        def place(path: str, leaf: Any) -> NamedSharding:
            found = [name for name in weights if name in f"/{path}/"]
            if not found:
                return self.everywhere
            weight = weights[max(found, key=len)]
            return weight.sharding if leaf.shape == weight.shape else self.everywhere

        return treedef.unflatten(map(place, paths, leaves))

    def put(self, tree: Any) -> Any:
        """The tree with its arrays where they belong. All processes have the same."""
        return _lay(tree, self.of(tree))

    def keep(self, tree: Any) -> Any:
        """The same inside of a program."""
        return jax.lax.with_sharding_constraint(tree, self.of(tree))

    def spread(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        """Inputs and labels ``[batch, ...]``, divided if that gives equal parts."""
        mesh = self.batch.mesh
        divided = NamedSharding(mesh, PartitionSpec("data"))
        even = len(batch[0]) % mesh.shape["data"] == 0
        sharding = divided if even else self.everywhere
        inputs, labels = _lay(batch, (sharding, sharding))
        return inputs, labels


def placement(mesh: Mesh, batch_size: int, parts: int, model: nnx.Module) -> Placement:
    """The placement on the devices of all processes.

    Args:
      mesh: the devices to be used.
      batch_size: examples per optimizer update.
      parts: micro-batches per optimizer update.
      model: of arrays or shapes; names of its axes are the variables' ``out_sharding``.

    Raises:
      ValueError: more devices than there are, a batch that they cannot share evenly, or a network
        of which they cannot share a single weight.
    """
    grid = _grid(mesh)
    n = grid.shape["data"]
    if batch_size % (n * parts):
        raise ValueError(
            f"data.batch_size must be a multiple of {n * parts} ({n} devices x {parts} "
            f"micro-batches), got {batch_size}. Change it, or set mesh.data."
        )
    variables = nnx.state(model, nnx.Param)
    specs = {
        "/".join(map(str, key)): _split(grid, mesh.fully_sharded, variable)
        for key, variable in nnx.to_flat_state(variables)
    }
    paths, leaves, treedef = flatten(nnx.to_pure_dict(variables))

    def lie(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(grid, spec)

    weights = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie(specs[path]))
        for path, x in zip(paths, leaves, strict=True)
    ]
    matrices = {path: specs[path] for path, x in zip(paths, leaves, strict=True) if x.ndim > 1}
    whole = [
        lie(PartitionSpec(*(axis if axis == "model" else None for axis in specs[path])))
        for path in paths
    ]
    return Placement(
        batch=lie(PartitionSpec(None, "data")),
        everywhere=lie(PartitionSpec()),
        params=treedef.unflatten(weights),
        whole=treedef.unflatten(whole),
        notes=_left_whole(mesh, grid.shape, matrices),
    )


def host() -> AbstractContextManager[Any]:
    """Makes arrays in the memory of the host; on the first device where JAX has no CPU backend.

    A network that is made there never lies whole on one accelerator.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return jax.default_device(None)


def _lay(tree: Any, shardings: Any) -> Any:
    """``jax.device_put``, which with several processes would compare all that they have."""

    def lay(x: Any, sharding: NamedSharding) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        own = np.asarray(x)
        return jax.make_array_from_callback(own.shape, sharding, own.__getitem__)

    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(lay, tree, shardings)


def _grid(mesh: Mesh) -> jax.sharding.Mesh:
    # The devices of a process are neighbours along `data`: what it reads of a batch is one range.
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if mesh.model > len(devices):
        raise ValueError(f"mesh.model must be at most {len(devices)} devices, got {mesh.model}.")
    if mesh.data == -1 and len(devices) % mesh.model:
        raise ValueError(
            f"mesh.model must divide the {len(devices)} devices, got {mesh.model}. Change it, or "
            "set mesh.data to use some of them."
        )
    n = len(devices) // mesh.model if mesh.data == -1 else mesh.data
    if n * mesh.model > len(devices):
        raise ValueError(
            f"mesh.data must be at most {len(devices) // mesh.model}, as there are "
            f"{len(devices)} devices, with mesh.model={mesh.model}, got {n}."
        )
    if jax.process_count() > 1 and n * mesh.model != len(devices):
        raise ValueError(
            f"mesh.data x mesh.model must be {len(devices)}, all devices of all "
            f"{jax.process_count()} processes, got {n} x {mesh.model}."
        )
    return jax.make_mesh(
        (n, mesh.model),
        ("data", "model"),
        (AxisType.Auto, AxisType.Auto),
        devices=devices[: n * mesh.model],
    )


def _split(grid: jax.sharding.Mesh, fully_sharded: bool, variable: Any) -> PartitionSpec:
    """Which axis of the mesh splits which axis of a weight.

    Names decide, where the length is a multiple of the number of devices. Fully sharded, `data`
    splits every matrix that it can: where no name says how, along the longest axis.
    """
    shape, sizes = variable.get_value().shape, grid.shape
    asked = [a for a in ("data",) * fully_sharded + ("model",) if sizes[a] > 1]
    names = variable.get_metadata("out_sharding", None) or (None,) * len(shape)
    found: list[str | None] = [None] * len(shape)
    for i, name in enumerate(names):
        axis = RULES.get(name)
        if axis in asked and axis not in found and shape[i] % sizes[axis] == 0:
            found[i] = axis
    if "data" in asked and "data" not in found and len(shape) > 1:
        free = [i for i, n in enumerate(shape) if not found[i] and n % sizes["data"] == 0]
        if free:
            found[max(free, key=shape.__getitem__)] = "data"
    while found and found[-1] is None:  # as compiled programs describe what they return
        found.pop()
    return PartitionSpec(*found)


def _left_whole(
    mesh: Mesh, sizes: Mapping[str, int], matrices: Mapping[str, PartitionSpec]
) -> tuple[str, ...]:
    """A line for each axis of the mesh that is to split matrices and leaves some whole.

    Raises:
      ValueError: it leaves all of them whole.
    """
    notes = []
    wanted = {"mesh.fully_sharded": ("data", mesh.fully_sharded), "mesh.model": ("model", True)}
    for key, (axis, asked) in wanted.items():
        n = sizes[axis]
        whole = [path for path, spec in matrices.items() if axis not in spec]
        if n == 1 or not asked or not whole:
            continue
        if len(whole) == len(matrices):
            names = " or ".join(name for name in RULES if RULES[name] == axis)
            which = "any axis" if axis == "data" else f"an axis named {names}"
            raise ValueError(
                f"{key} would divide no weight among {n} devices: expected {which} to be a "
                f"multiple of {n} long, found none. Change the widths of the network, or the mesh."
            )
        more = f" and {len(whole) - 3} more" if len(whole) > 3 else ""
        notes.append(
            f"{key} leaves {len(whole)} of {len(matrices)} matrices undivided among {n} devices: "
            f"{', '.join(whole[:3])}{more}"
        )
    return tuple(notes)
