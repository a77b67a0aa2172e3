"""Whether a train state fits into the memory of this machine at all."""

from __future__ import annotations

import os

import jax

from dst.core.typing import PyTree


def check(state: PyTree) -> None:
    """Raises where a state is larger than the memory of all its devices.

    One that fits may still leave too little room for activations and gradients.

    Args:
      state: arrays or shapes.

    Raises:
      ValueError: with both sizes.
    """
    need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if hasattr(x, "size"))
    have = _available()
    if have is not None and need > have:
        raise ValueError(
            f"the train state has {need / 1e9:.1f} GB, and this machine has {have / 1e9:.1f} GB. "
            "Make the network smaller, or divide it among more devices: mesh.fully_sharded."
        )


def _available() -> int | None:
    """Bytes of memory of all devices of this program; None where nobody says."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        if jax.process_count() > 1 or not hasattr(os, "sysconf"):
            return None
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [size for size in sizes if size is not None]
    return sum(known) * jax.process_count() if len(known) == len(sizes) else None
