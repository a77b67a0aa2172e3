"""A smaller decoder: the same class with fewer hidden neurons or attention heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dst.core import checks
from dst.core.typing import Array, ArrayLike, Batch
from dst.models.biases import add_biases
from dst.models.decoder import Decoder
from dst.oneshot.structured import FLAP, Group, Groups, Magnitude, Member, Removal, UnitScore
from dst.oneshot.structured import modules as structured
from dst.rules.allocation import zeros

_MAGNITUDE = Magnitude()
_NAMES = {
    "neurons": "feed_forward/neurons",
    "heads": "attention/heads",
    "kv_heads": "attention/kv_heads",
}


def smaller(
    model: Decoder,
    *,
    neurons: float = 0.0,
    heads: float = 0.0,
    kv_heads: float = 0.0,
    score: UnitScore = _MAGNITUDE,
    batches: Iterable[ArrayLike] | None = None,
    loss: Callable[[Decoder, Batch], Array] | None = None,
    where: Callable[[Batch], ArrayLike] | None = None,
) -> tuple[Decoder, Removal]:
    """A smaller decoder: every block loses the units of lowest score, equally many in each.

    Its logits are those of the model with the weights of these units set to zero. It computes and
    stores less, and :func:`save` writes it with its new sizes in ``config.json``.

    A neuron is a column of gate and up and a row of down. A head is one query of every position,
    with its rows of the output; each key keeps equally many queries. A head of keys and values goes
    with all of its queries.

    Args:
      model: a decoder, with a list of blocks or with stacked ones; not changed.
      neurons: fraction of the feed-forward neurons of every block, in [0, 1).
      heads: fraction of the queries of every key, in [0, 1).
      kv_heads: fraction of the heads of keys and values, in [0, 1); not together with ``heads``.
      score: :class:`dst.oneshot.structured.Magnitude`, ``Wanda``, ``FLAP``, ``Taylor``. ``FLAP``
        gives all projections of the parts that it changes a bias, unless ``compensate=False``.
      batches: of tokens, int ``[batch, length]``, for scores that look at data.
      loss: ``loss(model, tokens)`` for gradients; None: cross-entropy of the next token.
      where: ``where(tokens)``: bool ``[batch, length]``, which positions count.

    Returns:
      The smaller model, and what was removed: its ``masked`` takes the parameters of the model
      (for ``FLAP`` with the biases).

    Raises:
      ValueError: another model, a fraction outside [0, 1) or so small that nothing is removed,
        ``heads`` with ``kv_heads``, data that the score needs and that is missing.

    Example:
      >>> model = Decoder((8,), 16, width=8, layers=2, heads=4, hidden=12, rngs=nnx.Rngs(0))
      >>> found, _ = smaller(model, neurons=0.25, kv_heads=0.5)
      >>> found.blocks[1].feed_forward.up.out_features, found.blocks[1].attention.heads
      (9, 2)
      >>> found(jnp.zeros((1, 4), int)).shape
      (1, 4, 16)

    References: Ma et al. 2023, LLM-Pruner (arXiv 2305.11627), for coupled structures of a decoder;
    the scores name theirs.

    Checked against: logits of masked models, in tests/models/test_smaller.py.
    """
    if not isinstance(model, Decoder):
        raise ValueError(
            f"smaller: expected a dst.models.Decoder, got {type(model).__name__}. Use "
            "dst.nnx.remove for other Flax models."
        )
    shares = {"neurons": neurons, "heads": heads, "kv_heads": kv_heads}
    for name, share in shares.items():
        checks.fraction(name, share, below_one=True)
    if heads and kv_heads:
        raise ValueError("smaller: expected heads or kv_heads, got both. Call it twice.")
    wanted = {name: share for name, share in shares.items() if share}
    if isinstance(score, FLAP) and score.compensate:
        model = nnx.merge(*nnx.split(model))
        add_biases(model, attention=bool(heads or kv_heads), feed_forward=bool(neurons))
    groups = decoder_groups(model, *wanted)
    for name, share in wanted.items():
        _check_share(name, share, next(x for x in groups if x.name.endswith(_NAMES[name])))
    if not wanted:
        return nnx.merge(*nnx.split(model)), Removal(Groups({}), {})
    found, removal = structured.remove(
        model,
        {f"blocks/*/{_NAMES[name]}": share for name, share in wanted.items()},
        groups=groups,
        score=score,
        batches=batches,
        loss=loss or _next_token,
        wrt=nnx.Param,
        where=where,
    )
    for block in _blocks(found):
        part = block.attention
        part.heads = part.query.out_features // part.rotary.size
        part.kv_heads = part.key.out_features // part.rotary.size
    return found, removal


def decoder_groups(model: Decoder, *kinds: str) -> Groups:
    """The units of a decoder: ``blocks/0/feed_forward/neurons`` and so on.

    Args:
      model: a decoder.
      kinds: of ``neurons``, ``heads`` (queries) and ``kv_heads``.
    """
    found = {}
    for i in range(model.layers):
        block = model.blocks if model.scan else model.blocks[i]
        start, row = ("blocks", i) if model.scan else (f"blocks/{i}", None)
        for kind in kinds:
            name = f"blocks/{i}/{_NAMES[kind]}"
            members, runs = _members(block, kind)
            parts = [
                Member(f"{start}/{path}", row, axis, positions, reads)
                for path, axis, positions, reads in members
            ]
            found[name] = Group(name, tuple(parts), runs)
    return Groups(found)


def _members(block: Any, kind: str) -> tuple[list[tuple[str, int, np.ndarray, bool]], int]:
    """Path, axis, positions, and whether a product sums over them; and the runs of units."""
    part, hidden = block.attention, block.feed_forward
    if kind == "neurons":
        one = np.arange(hidden.up.out_features)[:, None]
        layers = {"gate": (hidden.gate, one), "up": (hidden.up, one)}
        start, last, runs, read = "feed_forward", "down", 1, one
    else:
        size = part.rotary.size
        units = part.heads if kind == "heads" else part.kv_heads
        read = np.arange(part.heads * size).reshape(units, -1)
        layers = {"query": (part.query, read)}
        start, last, runs = "attention", "output", part.kv_heads
        if kind == "kv_heads":
            keys = np.arange(part.kv_heads * size).reshape(units, -1)
            layers |= {"key": (part.key, keys), "value": (part.value, keys)}
            runs = 1
    found = []
    for name, (layer, positions) in layers.items():
        found.append((f"{start}/{name}/kernel", 1, positions, False))
        if layer.bias is not None:
            found.append((f"{start}/{name}/bias", 0, positions, False))
    return [*found, (f"{start}/{last}/kernel", 0, read, True)], runs


def _check_share(name: str, share: float, group: Group) -> None:
    units = group.units // group.runs
    if zeros(units, share) == 0:
        what = {"heads": "queries of each key", "kv_heads": "heads of keys and values"}
        raise ValueError(
            f"{name}: expected a fraction of at least 1/{units}, as a block has {units} "
            f"{what.get(name, name)}, got {share}."
        )


def _blocks(model: Decoder) -> list[Any]:
    return [model.blocks] if model.scan else list(model.blocks)


def _next_token(model: Decoder, tokens: Array) -> Array:
    """Cross-entropy of every token after the first."""
    logits = model(tokens[:, :-1]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.mean(losses)
