"""Scores that the wrapped optimizer trains beside latent weights: one node of two arrays each."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dst.core.typing import Array, PyTree
from dst.rules.latent import Latent, LatentLeaf


def _joined(rule: Latent, latent: list[Array], scores: list[Array]) -> list[PyTree]:
    """What the wrapped optimizer sees of every sparse leaf."""
    if rule.scores is None:
        return latent
    return [{"weight": w, "scores": s} for w, s in zip(latent, scores, strict=True)]


def parted(rule: Latent, leaves: Sequence[PyTree]) -> tuple[list[Array], list[Array]]:
    """The way back, in float32."""
    leaves = [jax.tree.map(lambda x: x.astype(jnp.float32), leaf) for leaf in leaves]
    if rule.scores is None:
        return leaves, leaves
    return [x["weight"] for x in leaves], [x["scores"] for x in leaves]


def trained_variables(rule: Latent, leaves: list[LatentLeaf]) -> list[PyTree]:
    """What the wrapped optimizer trains."""
    return _joined(rule, [x.latent for x in leaves], [x.scores for x in leaves])


def gradients(rule: Latent, leaves: list[LatentLeaf]) -> list[PyTree]:
    """The gradients for it."""
    of_scores = rule.gradient if rule.scores is None else rule.scores.gradient
    return _joined(rule, [rule.gradient(x) for x in leaves], [of_scores(x) for x in leaves])


def projected(rule: Latent, leaves: list[LatentLeaf]) -> list[LatentLeaf]:
    """The leaves after what the rule does with scores that an optimizer has moved."""
    if rule.scores is None or (project := rule.scores.project) is None:
        return leaves
    return [x._replace(scores=project(x)) for x in leaves]
