"""A linear classifier of two classes: its worst inputs and its distances have a closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

RANDOM = np.random.default_rng(5)
N, D = 24, 6
V = RANDOM.normal(size=D).astype(np.float32)
X = RANDOM.normal(size=(N, D)).astype(np.float32)
LABELS = np.where(RANDOM.random(N) < 0.8, X @ V < 0, X @ V > 0).astype(np.int32)
MARGIN = (X.astype(np.float64) @ V) * np.where(LABELS == 0, 1, -1)
DUAL = {"linf": np.abs(V.astype(np.float64)).sum(), "l2": np.linalg.norm(V.astype(np.float64))}


def model(x):
    """Logits ``(x V, 0)``."""
    scores = x @ jnp.asarray(V)
    return jnp.stack([scores, jnp.zeros_like(scores)], axis=-1)


def distances(norm: str) -> np.ndarray:
    """To the plane between the classes; 0 of examples on the wrong side."""
    return np.maximum(MARGIN, 0) / DUAL[norm]
