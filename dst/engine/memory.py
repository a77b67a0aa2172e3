"""What a rule remembers of the gradients, from step to step."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from dst.engine import lookup as clock
from dst.engine import state
from dst.engine.state import Flat, SparsifyState
from dst.rules.rule import Rule, Seen


def first(rule: Rule, flat: Flat) -> Any:
    """The memory before the first step: a tree like the parameters."""
    if rule.memory is None:
        return flat.map(lambda p: optax.MaskedNode())
    return flat.tree([rule.memory.init(x.astype(jnp.float32)) for x in flat.sparse])


def observe(rule: Rule, flat: Flat, grads: Any, now: SparsifyState) -> SparsifyState:
    """The state after the rule's memory has seen the gradients of this step."""
    if rule.memory is None:
        return now
    left = clock.steps_left(now.count, now.hyper)
    remembered = [
        rule.memory.observe(
            memory, Seen(g.astype(jnp.float32), p.astype(jnp.float32), state.active(m), left)
        )
        for memory, g, p, m in zip(
            flat.of(now.memory), flat.of(grads), flat.sparse, flat.masks(now.masks), strict=True
        )
    ]
    return now._replace(memory=flat.tree(remembered))
