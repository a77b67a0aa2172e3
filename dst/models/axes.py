"""Names of the axes of weights, set where the weights are created.

A mesh of devices splits axes by their names; dst/train/distributed/mesh.py says which.
"""

from __future__ import annotations

from typing import Any


def axis_names(*axes: str | None) -> dict[str, Any]:
    """Metadata of an ``nnx.Param``: a name for each of its axes, or None.

    The names are what ``nnx.get_partition_spec`` reads. Networks use ``embed`` and ``channels``
    for what passes from block to block, ``mlp``, ``heads`` and ``filters`` for what is inside of
    a block, ``vocab`` and ``layers``.

    Example:
      >>> from flax import nnx
      >>> layer = nnx.Linear(4, 8, kernel_metadata=axis_names("embed", "mlp"), rngs=nnx.Rngs(0))
      >>> layer.kernel.get_metadata("out_sharding")
      ('embed', 'mlp')
    """
    # By default Flax places a variable with names when it is created, and demands a mesh for it.
    return {"out_sharding": axes, "eager_sharding": False}
