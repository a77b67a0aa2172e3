"""Many runs of one method as one program, and learning rates that a validation split chooses.

Runs that differ in values only (seed, sparsity, learning rate) are one program under ``jax.vmap``.
Convolutions are slow there, and slow in loops: XLA's CPU backend brings them into the form of its
fast routine only outside of loops. So runs with such networks are trained one after the other, by a
program of one step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import dst
import dst.nnx
from dst.core.files import write
from dst.core.tree import flatten
from dst.eval.calibration import calibration_error
from dst.train import data, optimizer, state
from dst.train.config import run as config
from dst.train.data.dataset import Batch, Dataset, indices

CHUNK = 100  # steps of one call

Shares = Callable[[str, tuple[int, ...]], float]


class Run(NamedTuple):
    """What differs among the runs of a program.

    Attributes:
      sparsity: in [0, 1).
      seed: of weights, connections and batches.
      rate: peak learning rate.
    """

    sparsity: float
    seed: int
    rate: float


def at_rate(
    inner: optax.GradientTransformation, rate: float, share: Shares | None = None
) -> optax.GradientTransformation:
    """An optimizer made for a learning rate of 1, at a rate that is data.

    Args:
      inner: the optimizer.
      rate: of all leaves.
      share: what a leaf has of the rate, from its path and shape; None: 1.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        return jnp.float32(rate), inner.init(params)

    def update(updates: Any, kept: Any, params: Any = None, **extra: Any) -> Any:
        rate, inner_state = kept
        updates, inner_state = inner.update(updates, inner_state, params, **extra)
        paths, leaves, treedef = flatten(updates)
        shares = [
            1.0 if share is None else share(p, u.shape) for p, u in zip(paths, leaves, strict=True)
        ]
        moved = [u * (rate * x) for u, x in zip(leaves, shares, strict=True)]
        return treedef.unflatten(moved), (rate, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def train(
    settings: config.Config,
    method: Callable[[float], Any],
    runs: Sequence[Run],
    *,
    share: Shares | None = None,
    start: Callable[[Any], Any] = lambda params: params,
    dataset: Dataset | None = None,
    tests: Mapping[str, Batch] | None = None,
) -> list[dict[str, Any]]:
    """Trains classifiers together; what became of each.

    Args:
      settings: model, data, optimizer and length; method, seed and learning rate are the runs'.
      method: from a sparsity.
      runs: that share one program.
      share: of the learning rate, as in :func:`at_rate`.
      start: what becomes of new weights.
      dataset: in place of that of the settings.
      tests: more examples to test on, by name.

    Raises:
      ValueError: a network that carries more than weights.
    """
    steps, size = settings.train.steps, settings.data.value.batch_size
    found = data.load(settings.data) if dataset is None else dataset
    section = replace(
        settings.optimizer, value=replace(settings.optimizer.value, learning_rate=1.0)
    )
    networks = [state.network(settings.model, found.shape, found.classes, r.seed) for r in runs]
    graphdef, _, carried = nnx.split(networks[0], nnx.Param, ...)
    if jax.tree.leaves(carried):
        raise ValueError("runs are trained together only if their networks carry weights alone.")
    scale = settings.sparsify.scale
    txs = [
        dst.sparsify(
            at_rate(optimizer.make(section, steps, {}), r.rate, share),
            method(r.sparsity),
            seed=r.seed,
            steps=steps,
            scale=scale,
            roles=dst.roles(networks[0]),
        )
        for r in runs
    ]
    tx, starts = txs[0], []
    for each, network in zip(txs, networks, strict=True):
        params = dst.scale_init(start(state.parameters(network)), each)
        opt_state = each.init(params)
        starts.append((dst.apply_masks(params, opt_state), opt_state))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    inputs, labels = map(jnp.asarray, found.train.take(np.arange(len(found.train))))
    tested = {"": found.test.take(np.arange(len(found.test))), **(tests or {})}

    def logits(params: Any, x: Any) -> Any:
        return nnx.merge(graphdef, params, carried)(x)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

    def step(carry: Any, chosen: Any, topology: Any) -> Any:
        params, opt_state = carry
        grads = jax.grad(loss)(params, inputs[chosen], labels[chosen])
        updates, opt_state = tx.update(grads, opt_state, params, topology=topology)
        return optax.apply_updates(params, updates), opt_state

    def fires(t: int) -> bool | None:
        return tx.fires(t) if tx.rule.when is not None else None

    @partial(jax.jit, donate_argnums=0)
    def chunk(carry: Any, chosen: Any, topology: Any) -> Any:
        def body(carry: Any, batch: Any) -> tuple[Any, None]:
            chosen, topology = batch  # the flag is the same for all runs, so `cond` stays one
            flag = topology if tx.rule.when is not None else None
            return jax.vmap(partial(step, topology=flag))(carry, chosen), None

        return jax.lax.scan(body, carry, (chosen, topology))[0]

    def together(carry: Any) -> Any:
        for first in range(0, steps, CHUNK):
            counts = range(first, min(first + CHUNK, steps))
            order = np.stack(
                [[indices(len(labels), size, r.seed, t) for r in runs] for t in counts]
            )
            carry = chunk(carry, order, np.array([tx.fires(t) for t in counts]))
        return carry

    one_step = jax.jit(step, static_argnums=2, donate_argnums=0)

    def one_after_the_other(carry: Any) -> Any:
        ends = []
        for i, run in enumerate(runs):
            each = jax.tree.map(lambda x, i=i: x[i], carry)
            for t in range(steps):
                each = one_step(each, indices(len(labels), size, run.seed, t), fires(t))
            ends.append(each)
        return jax.tree.map(lambda *x: jnp.stack(x), *ends)

    convolutions = any(jnp.ndim(x) > 2 for x in jax.tree.leaves(params))
    stacked = one_after_the_other(stacked) if convolutions else together(stacked)

    def judge(params: Any) -> Any:
        figures = {"training_loss": loss(params, inputs, labels)}
        for name, (x, y) in tested.items():
            chances = jax.nn.softmax(logits(params, x))
            end = f", {name}" if name else ""
            figures[f"accuracy{end}"] = jnp.mean(jnp.argmax(chances, -1) == y)
            figures[f"calibration_error{end}"] = calibration_error(chances, y)
        return figures

    judged_one = jax.jit(judge)
    judged = [
        jax.device_get(judged_one(jax.tree.map(lambda x, i=i: x[i], stacked[0])))
        for i in range(len(runs))
    ]
    records = []
    costs = dst.nnx.costs(networks[0], jax.ShapeDtypeStruct((1, *found.shape), found.dtype))
    for i, (run, each) in enumerate(zip(runs, txs, strict=True)):
        params, opt_state = jax.tree.map(lambda x, i=i: x[i], stacked)
        plan, seen = each.plan(params), jax.device_get(dst.metrics(opt_state, params))
        finite = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params))
        if finite:
            dst.check_invariants(opt_state, params)
        records.append(
            {
                **run._asdict(),
                "finite": finite,
                **{name: float(value) for name, value in judged[i].items()},
                "found_sparsity": float(seen["sparsity"]),
                "explored": float(seen["explored"]) if plan.sparse else 1.0,
                "training_cost": costs.training(plan, steps).relative,
            }
        )
    return records


def best_rates(records: Iterable[dict[str, Any]]) -> dict[float, float]:
    """For every sparsity the learning rate of the highest mean accuracy; ties go to the lower."""
    scores: dict[float, dict[float, list[float]]] = {}
    for r in records:
        of_rate = scores.setdefault(r["sparsity"], {})
        of_rate.setdefault(r["rate"], []).append(r["accuracy"])
    return {
        s: max(sorted(rates), key=lambda rate: float(np.mean(rates[rate])))
        for s, rates in scores.items()
    }


def completed(
    path: Path, runs: Sequence[Run], make: Callable[[list[Run]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The records of runs, in their order; those that a file lacks are made, and written to it."""
    had = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    found = {tuple(r[name] for name in Run._fields): r for r in had}
    began, missing = time.perf_counter(), [r for r in runs if tuple(r) not in found]
    if missing:
        found |= {tuple(r[name] for name in Run._fields): r for r in make(missing)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(list(found.values())))
        seconds = time.perf_counter() - began
        print(f"{path.stem}: {len(missing)} runs in {seconds:.0f} s", flush=True)
    return [found[tuple(r)] for r in runs]


def kept(path: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The records of a file; made and written, where there is none."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    began, records = time.perf_counter(), make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(records), encoding="utf-8")
    part.rename(path)
    seconds = time.perf_counter() - began
    print(f"{path.stem}: {len(records)} runs in {seconds:.0f} s", flush=True)
    return records
