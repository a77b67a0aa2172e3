"""How likely a language model finds continuations of texts: what tasks and ``lm_eval`` ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core import checks
from dst.core.typing import Array, Int, PyTree
from dst.eval.language import check, logits_of

_STEP = 32  # lengths are padded to a multiple: few programs
_SHARED = 8  # continuations that one row scores, at most

Request = tuple[Sequence[int], Sequence[int]]


def likelihoods(
    model: nnx.Module,
    requests: Sequence[Request],
    *,
    batch: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> list[tuple[float, bool]]:
    """Log-probability of continuations, and whether each is what the model would say greedily.

    ``sum over t of log p(continuation_t | context, continuation before t)``, in nats. Continuations
    that differ in their last token alone share a forward pass. Logits and their softmax are
    float32, sums float64.

    Args:
      model: as for :func:`dst.eval.language`, with a ``context``.
      requests: pairs of tokens: a context of at least one token, and its continuation. Of texts
        that are longer than the context of the model, the first tokens are left out.
      batch: texts at a time, >= 1.
      progress: called as ``progress(done, count)`` after every batch.

    Raises:
      ValueError: a batch below 1; a request without context; tokens that the vocabulary does not
        have.

    Example:
      >>> from dst.models import Decoder
      >>> model = Decoder((8,), 256, width=8, layers=1, heads=2, hidden=8, rngs=nnx.Rngs(0))
      >>> found = likelihoods(model, [([1, 2], [x]) for x in range(256)])
      >>> round(float(sum(np.exp(x) for x, _ in found)), 4), sum(greedy for _, greedy in found)
      (1.0, 1)

    Checked against: the logits of whole sequences in NumPy, tests/eval/test_likelihood.py.
    """
    checks.integer("batch", batch, at_least=1)
    _check(model, requests)
    context = int(model.context)  # type: ignore[attr-defined]
    rows = _rows(requests, context)
    shared = max((len(x) for _, x in rows), default=1)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
    graph, state = nnx.split(model)
    done = 0
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        length = min(-(-max(len(part[0][0]), 1) // _STEP) * _STEP, context)
        tokens = np.zeros((batch, length), np.int32)
        targets = np.zeros((batch, length, shared), np.int32)
        for row, (text, numbers) in enumerate(part):
            tokens[row, : len(text)] = text
            for column, number in enumerate(numbers):
                following = requests[number][1][-len(text) :]
                targets[row, len(text) - len(following) : len(text), column] = following
        logs, same = map(np.asarray, _scores(graph, state, *map(jnp.asarray, (tokens, targets))))
        for row, (text, numbers) in enumerate(part):
            for column, number in enumerate(numbers):
                count = min(len(requests[number][1]), len(text))
                places = row, slice(len(text) - count, len(text)), column
                total = float(logs[places].sum(dtype=np.float64))
                found[number] = total, bool(same[places].all())
            done += len(numbers)
        if progress is not None:
            progress(done, len(requests))
    return found


def _check(model: nnx.Module, requests: Sequence[Request]) -> None:
    for number, (before, _) in enumerate(requests):
        if not len(before):
            raise ValueError(
                f"request {number}: expected a context of at least one token, found none. Begin it "
                "with the token that ends texts."
            )
    known = [x for both in requests for part in both for x in part]
    if known:
        check(np.array([[min(known), max(known)]]), model)


def _rows(requests: Sequence[Request], context: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """What the model reads, longest first, and the numbers of the requests that it answers."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (before, following) in enumerate(requests):
        text = (*before, *following)[-context - 1 : -1]  # the last token is only predicted
        groups.setdefault(text, []).append(number)
    rows = [
        (text, numbers[i : i + _SHARED])
        for text, numbers in groups.items()
        for i in range(0, len(numbers), _SHARED)
    ]
    return sorted(rows, key=lambda x: -len(x[0]))


@partial(jax.jit, static_argnames="graph")
def _scores(
    graph: Any,
    state: PyTree,
    tokens: Int[Array, "batch length"],
    targets: Int[Array, "batch length shared"],
) -> tuple[Array, Array]:
    """``[batch, length, shared]``: float32 log-probability of targets as the next token; whether
    each is the most likely one."""
    logits = logits_of(graph, state, tokens).astype(jnp.float32)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits), targets, axis=-1)
    return logs, jnp.argmax(logits, axis=-1)[..., None] == targets


def divided(
    tokenizer: Any, prompt: str, endings: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The tokens of a prompt, and those of each ending after it.

    Each text is encoded as a whole, because tokens may reach over the border. What all texts begin
    with is the context. What follows in each text is scored.

    Args:
      tokenizer: of :func:`dst.models.tokenizer`.
      prompt: what all texts begin with.
      endings: at least one; none is empty.

    Raises:
      ValueError: no token in front of the endings, or an ending without a token of its own.

    Example:
      >>> divided(dst.models.tokenizer("SmolLM2-135M"), "1 +", [" 2", " 3"])  # doctest: +SKIP
      ([33, 1232], [[216, 34], [216, 35]])
    """
    texts = [prompt, *(prompt + x for x in endings)]
    whole = [x.ids for x in tokenizer.encode_batch(texts, add_special_tokens=False)]
    common = 0
    for column in zip(*whole, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    if not common:
        raise ValueError("expected a prompt with at least one token in front of what follows.")
    rests = [x[common:] for x in whole[1:]]
    for ending, rest in zip(endings, rests, strict=True):
        if not rest:
            raise ValueError(f"the tokenizer has no token for {ending!r}.")
    return whole[0][:common], rests
