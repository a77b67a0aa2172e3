"""Sharding: the mesh of devices, and which of its axes splits which axis of an array.

Data parallel: every device has all weights and its part of the batch. Fully sharded: weights, and
all arrays of their shape, are split over the same devices and gathered for the forward pass.
Tensor parallel: devices share the work inside layers, and each has its part of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dst.core.tree import flatten
from dst.core.typing import PyTree
from dst.engine import places
from dst.train.config.sections import Mesh

# Which axis of the mesh splits a named axis of a weight. `data` splits weights only where they are
# fully sharded.
RULES = {
    "embed": "data",
    "channels": "data",
    "mlp": "model",
    "heads": "model",
    "filters": "model",
    "vocab": "model",
}


class Placement(NamedTuple):
    """The shardings of a run's arrays.

    Attributes:
      batch: sharding of micro-batches ``[parts, batch, ...]``.
      everywhere: the sharding of an array that every device has whole.
      params: pytree of ``jax.ShapeDtypeStruct``, the weights, each with its sharding.
      packed: of packed arrays, by the path of their weight and their shape.
      whole: pytree of shardings of the weights in a forward pass: `data` does not split them.
      notes: a line for each axis of the mesh that leaves weights whole.
    """

    batch: NamedSharding
    everywhere: NamedSharding
    params: PyTree
    whole: PyTree
    notes: tuple[str, ...]
    packed: Mapping[str, Mapping[tuple[int, ...], NamedSharding]] = MappingProxyType({})

    def with_packed(self, masks: PyTree) -> Placement:
        """The same for a state in the packed form.

        Args:
          masks: of the state of :func:`dst.sparsify`; arrays or shapes.
        """
        paths, weights, _ = flatten(self.params)
        whole = dict(zip(paths, weights, strict=True))
        packed = {}
        for path, place in places.by_path(masks).items():
            where = places.division(place, whole[path].sharding)
            arrays = zip(jax.tree.leaves(place), jax.tree.leaves(where), strict=True)
            packed[path] = {x.shape: sharding for x, sharding in arrays}
        return self._replace(packed=packed)

    def of(self, tree: PyTree) -> PyTree:
        """The shardings of a tree of arrays or shapes.

        A leaf is split as the weight of its shape whose path is part of its own, as in
        ``opt_state/inner_state/0/mu/out/kernel``, or as its packed array of that shape. The other
        leaves are on every device.
        """
        weights = {f"/{path}/": x for path, x in zip(*flatten(self.params)[:2], strict=True)}
        paths, leaves, treedef = flatten(tree)

        def place(path: str, leaf: Any) -> NamedSharding:
            names = [name for name in weights if name in f"/{path}/"]
            if not names:
                return self.everywhere
            name = max(names, key=len)
            if leaf.shape == weights[name].shape:
                return weights[name].sharding
            return self.packed.get(name.strip("/"), {}).get(leaf.shape, self.everywhere)

        return treedef.unflatten(map(place, paths, leaves))

    def shapes(self, tree: PyTree) -> PyTree:
        """The shapes of a tree of arrays or shapes, each with its sharding."""

        def shape(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(shape, tree, self.of(tree))

    def put(self, tree: PyTree) -> PyTree:
        """The tree with its arrays on their devices. All processes must hold the same values."""
        return _put(tree, self.of(tree))

    def keep(self, tree: PyTree) -> PyTree:
        """The same inside a compiled function."""
        return jax.lax.with_sharding_constraint(tree, self.of(tree))

    def spread(self, batch: tuple[np.ndarray, np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """Inputs and labels ``[batch, ...]``, split over `data` where the parts are equal."""
        mesh = self.batch.mesh
        divided = NamedSharding(mesh, PartitionSpec("data"))
        even = len(batch[0]) % mesh.shape["data"] == 0
        sharding = divided if even else self.everywhere
        inputs, labels = _put(batch, (sharding, sharding))
        return inputs, labels


def placement(mesh: Mesh, batch_size: int, parts: int, model: nnx.Module) -> Placement:
    """The placement on the devices of all processes.

    Args:
      mesh: the config's section: how many devices split what.
      batch_size: examples per optimizer update.
      parts: micro-batches per optimizer update.
      model: of arrays or shapes; its variables name their axes in ``out_sharding``.

    Raises:
      ValueError: the mesh needs more devices than there are, cannot split the batch evenly, or
        splits no weight of the network.
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

    def sharding(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(grid, spec)

    weights = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(specs[path]))
        for path, x in zip(paths, leaves, strict=True)
    ]
    matrices = {path: specs[path] for path, x in zip(paths, leaves, strict=True) if x.ndim > 1}
    whole = [
        sharding(PartitionSpec(*(axis if axis == "model" else None for axis in specs[path])))
        for path in paths
    ]
    return Placement(
        batch=sharding(PartitionSpec(None, "data")),
        everywhere=sharding(PartitionSpec()),
        params=treedef.unflatten(weights),
        whole=treedef.unflatten(whole),
        notes=_left_whole(mesh, grid.shape, matrices),
    )


def host() -> AbstractContextManager[None]:
    """Within it arrays are created in host memory, so that no accelerator holds the whole network.

    Where JAX has no CPU backend they are created on the first device.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return jax.default_device(None)


def _put(tree: PyTree, shardings: PyTree) -> PyTree:
    """As ``jax.device_put``, but several processes do not compare all their values first."""

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        own = np.asarray(x)
        return jax.make_array_from_callback(own.shape, sharding, own.__getitem__)

    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(put, tree, shardings)


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


def _split(grid: jax.sharding.Mesh, fully_sharded: bool, variable: nnx.Variable) -> PartitionSpec:
    """Which axis of the mesh splits which axis of a weight.

    The names of axes decide, where the length is a multiple of the number of devices. If fully
    sharded, `data` splits every matrix that it can: without a fitting name, along the longest axis.
    """
    shape, sizes = variable.get_value().shape, grid.shape
    wanted = [a for a in ("data",) * fully_sharded + ("model",) if sizes[a] > 1]
    names = variable.get_metadata("out_sharding", None) or (None,) * len(shape)
    axes: list[str | None] = [None] * len(shape)
    for i, name in enumerate(names):
        axis = RULES.get(name)
        if axis in wanted and axis not in axes and shape[i] % sizes[axis] == 0:
            axes[i] = axis
    if "data" in wanted and "data" not in axes and len(shape) > 1:
        free = [i for i, n in enumerate(shape) if not axes[i] and n % sizes["data"] == 0]
        if free:
            axes[max(free, key=shape.__getitem__)] = "data"
    while axes and axes[-1] is None:  # the spec that compiled programs return has no such end
        axes.pop()
    return PartitionSpec(*axes)


def _left_whole(
    mesh: Mesh, sizes: Mapping[str, int], matrices: Mapping[str, PartitionSpec]
) -> tuple[str, ...]:
    """A line for each axis of the mesh that should split matrices and leaves some whole.

    Raises:
      ValueError: an axis leaves all of them whole.
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
