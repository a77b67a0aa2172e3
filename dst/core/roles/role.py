"""What a module says of one of its arrays."""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """What a module says of one of its arrays.

    Attributes:
      kind: the module, for people: ``"nnx.Embed"``.
      axes: one letter per axis as in :class:`dst.core.tree.Leaf`, without axes that enumerate
        layers; None: it does not say.
      sparse: whether the array is a kernel that sparse training takes by default.
    """

    kind: str
    axes: str | None = None
    sparse: bool = True
