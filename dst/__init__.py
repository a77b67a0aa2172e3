"""Dynamic sparse training in JAX: sparse from the first step to the last.

    tx = dst.sparsify(optax.adamw(1e-3), dst.RigL(sparsity=0.9, every=100, stop=7_500))
    opt_state = tx.init(params)
    params = dst.apply_masks(params, opt_state)

``import dst`` loads what a training loop needs (jax, optax and numpy). ``dst.nnx`` (Flax glue)
and what reads and writes files (``dst.save_masks``, ``dst.load_weights``, ...) are loaded when they
are first used.
"""

from __future__ import annotations

from typing import Any

from dst.allocation import Allocation, ErdosRenyi, Uniform
from dst.explain import Explanation, explain
from dst.invariants import InvariantError, apply_masks, check_invariants
from dst.methods import GMP, SET, Dense, FromMasks, RigL, Static, rigl_itop, set_itop
from dst.rule import Rule
from dst.schedule import Cadence, constant, cosine, cubic, linear
from dst.selection import top_k_mask
from dst.sensitivity import EqualIncrease, Sensitivity, sensitivity
from dst.state import SparsifyState
from dst.structure import Layout, Unstructured
from dst.transform import SparseTransformation, sparsify
from dst.view import compare, explored, masks, metrics, rows, table

__version__ = "0.1.0"

_LAZY = {
    "load_masks": "dst.export",
    "load_weights": "dst.export",
    "nnx": "dst.nnx",
    "save_masks": "dst.export",
    "save_weights": "dst.export",
}

__all__ = [
    "GMP",
    "SET",
    "Allocation",
    "Cadence",
    "Dense",
    "EqualIncrease",
    "ErdosRenyi",
    "Explanation",
    "FromMasks",
    "InvariantError",
    "Layout",
    "RigL",
    "Rule",
    "Sensitivity",
    "SparseTransformation",
    "SparsifyState",
    "Static",
    "Uniform",
    "Unstructured",
    "apply_masks",
    "check_invariants",
    "compare",
    "constant",
    "cosine",
    "cubic",
    "explain",
    "explored",
    "linear",
    "masks",
    "metrics",
    "rigl_itop",
    "rows",
    "sensitivity",
    "set_itop",
    "sparsify",
    "table",
    "top_k_mask",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dst' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LAZY[name])
    return module if name == "nnx" else getattr(module, name)
