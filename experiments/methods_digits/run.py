"""Test accuracy of LeNet-300-100 on digits for every method at 90, 95 and 98 % sparsity.

    python experiments/methods_digits/run.py

All seeds and sparsities of a method train at once: runs that differ in values only (seed,
counts) are one program under ``jax.vmap``. Finished methods are kept below
``runs/methods_digits`` and not repeated. At the end the table and the picture in this folder are
rewritten.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import dst
import dst.flops
import dst.nnx
from dst.report import markdown
from dst.report.spread import spread
from dst.train import optimizer, state
from dst.train.config import run as config
from dst.train.data import digits
from dst.train.data.dataset import indices

HERE = Path(__file__).parent
SPARSITIES = (0.9, 0.95, 0.98)
CHUNK = 100
E100: dict[str, Any] = {"every": 100, "stop": "75%"}

# Settings are the papers', scaled to 4000 steps where they are numbers of steps.
METHODS: dict[str, Callable[[float], Any]] = {
    "Dense": lambda s: dst.Dense(),
    "Static": lambda s: dst.Static(s),
    "SNIP": lambda s: dst.SNIP(s),
    "SET": lambda s: dst.SET(s, decay="cosine", **E100),
    "SET-ITOP": lambda s: dst.set_itop(s, every=200),
    "SMET": lambda s: dst.smet(s, allocation="erk"),
    "MEST (EM)": lambda s: dst.MEST(
        s, extra=((1 - s) / 5, (1 - s) / 10, 0.0), every=100, allocation="erk"
    ),
    "MEST (EM&S)": lambda s: dst.MEST(
        s, extra=((1 - s) / 2, (1 - s) / 4, 0.0), every=100, soft_bound=True, allocation="erk"
    ),
    "RigL": lambda s: dst.RigL(s, every=100),
    "RigL, 8 gradients": lambda s: dst.RigL(s, every=100, accumulate=8),
    "RigL-ITOP": lambda s: dst.rigl_itop(s, every=200),
    "RigL, 4 x 2 blocks": lambda s: dst.RigL(s, every=100, structure=dst.Block(4, 2)),
    "SRigL": lambda s: dst.SRigL(s, every=100),
    "SRigL, no ablation": lambda s: dst.SRigL(s, every=100, gamma=0.0),
    "SNFS": lambda s: dst.SNFS(s, every=100, allocation="erk"),
    "Top-KAST": lambda s: dst.TopKAST(s, 2 * s - 1, allocation="erk"),
    "Top-k weights": lambda s: dst.TopKWeights(s, allocation="erk"),
    "Edge-popup": lambda s: dst.EdgePopup(s, allocation="erk"),
    "GMP, ERK": lambda s: dst.GMP(s, allocation="erk"),
    "GMP, uniform": lambda s: dst.GMP(s),
    "GMP, global": lambda s: dst.GMP(s, allocation="global"),
    "GMP, LAMP": lambda s: dst.GMP(s, allocation="lamp"),
    "GMP, 25-75 % of compute": lambda s: dst.journey(s, allocation="global"),
    "GraNet": lambda s: dst.GraNet(s, every=100),
    "AC/DC": lambda s: dst.ACDC(s),
}
# What depends on the sparsity lies in the program here (for "compute", when topology steps are), so
# one program serves one sparsity.
ONE_BY_ONE = {"Dense", "Top-KAST", "SNIP", "GMP, 25-75 % of compute"}


def train(make: Callable[[float], Any], sparsities: tuple[float, ...], seeds: int) -> list[dict]:
    """Trains all runs of a method at once; one record per run."""
    settings = config.load(HERE / "base.yaml")
    steps, size = settings.train.steps, settings.data.value.batch_size
    data = digits.load()
    inner = optimizer.make(settings.optimizer, steps, {})
    runs = [(s, seed) for s in sparsities for seed in range(seeds)]
    networks = [state.network(settings.model, data.shape, data.classes, seed) for _, seed in runs]
    graphdef, _ = nnx.split(networks[0])
    txs = [dst.sparsify(inner, make(s), seed=seed, steps=steps) for s, seed in runs]
    tx, states = txs[0], []
    for each, network in zip(txs, networks, strict=True):
        params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
        opt_state = each.init(params)
        states.append((dst.apply_masks(params, opt_state), opt_state))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    def loss(params: Any, x: Any, y: Any) -> Any:
        logits = nnx.merge(graphdef, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: Any, chosen: Any, topology: Any) -> Any:
        params, opt_state = carry
        grads = jax.grad(loss)(params, images[chosen], labels[chosen])
        updates, opt_state = tx.update(grads, opt_state, params, topology=topology)
        return optax.apply_updates(params, updates), opt_state

    def many(carry: Any, batch: Any) -> tuple[Any, None]:
        chosen, topology = batch  # the flag is the same for all runs, so `cond` stays one
        flag = topology if tx.rule.when is not None else None
        return jax.vmap(partial(step, topology=flag))(carry, chosen), None

    @partial(jax.jit, donate_argnums=0)
    def chunk(carry: Any, chosen: Any, topology: Any) -> Any:
        return jax.lax.scan(many, carry, (chosen, topology))[0]

    for start in range(0, steps, CHUNK):
        counts = range(start, min(start + CHUNK, steps))
        chosen = np.stack(
            [[indices(len(data.train), size, seed, t) for _, seed in runs] for t in counts]
        )
        stacked = chunk(stacked, chosen, np.array([tx.fires(t) for t in counts]))

    @jax.jit
    @jax.vmap
    def judge(params: Any) -> Any:
        logits = nnx.merge(graphdef, params)(data.test.images)
        return jnp.mean(jnp.argmax(logits, -1) == data.test.labels)

    accuracy, records = np.asarray(judge(stacked[0])), []
    shape = jax.ShapeDtypeStruct((1, *data.shape), jnp.float32)
    costs = dst.nnx.costs(networks[0], shape)
    for i, ((sparsity, seed), each) in enumerate(zip(runs, txs, strict=True)):
        params, opt_state = jax.tree.map(lambda x, i=i: x[i], stacked)
        plan = each.plan(params)
        found = jax.device_get(dst.metrics(opt_state, params))
        dst.check_invariants(opt_state, params)
        records.append(
            {
                "sparsity": sparsity,
                "seed": seed,
                "accuracy": float(accuracy[i]),
                "found_sparsity": float(found["sparsity"]),
                "explored": float(found["explored"]) if plan.sparse else 1.0,
                "training_cost": costs.training(plan, steps).relative,
            }
        )
    return records


def method_records(name: str, seeds: int, where: Path) -> list[dict]:
    """The runs of a method: read where they are, trained where not."""
    path = where / (name.lower().replace(" ", "-").replace("/", "-") + ".json")
    if path.exists():
        return json.loads(path.read_text())
    began, groups = time.perf_counter(), [SPARSITIES]
    if name in ONE_BY_ONE:
        groups = [(s,) for s in (SPARSITIES[:1] if name == "Dense" else SPARSITIES)]
    records = [r for group in groups for r in train(METHODS[name], group, seeds)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(records))
    part.rename(path)
    print(f"{name}: {len(records)} runs in {time.perf_counter() - began:.0f} s", flush=True)
    return records


def cells(records: list[dict], sparsity: float) -> tuple[str, str, str]:
    """Accuracy with its standard error, cost and R_s of one method at one sparsity."""
    some = [r for r in records if r["sparsity"] == sparsity] or records
    scores = spread(100 * r["accuracy"] for r in some)
    cost = statistics.mean(r["training_cost"] for r in some)
    tried = statistics.mean(r["explored"] for r in some)
    return scores.words(), f"{cost:.3f}", f"{tried:.2f}"


def table(found: dict[str, list[dict]]) -> str:
    """A row per method: per sparsity accuracy, training cost and explored fraction."""
    heads = ["method"]
    for s in SPARSITIES:
        heads += [f"{s:.0%}: accuracy, %", "cost", "R_s"]
    rows = ([name, *(c for s in SPARSITIES for c in cells(x, s))] for name, x in found.items())
    return markdown.table(heads, rows)


def picture(found: dict[str, list[dict]], path: Path) -> None:
    """Mean and standard error of every method at every sparsity."""
    figure = Figure(figsize=(6.4, 0.26 * len(found) + 1), layout="constrained")
    axes = figure.subplots()
    colors = ["#8ecae6", "#2a6f97", "#c1121f"]
    for s, color in zip(SPARSITIES, colors, strict=True):
        some = [[r for r in x if r["sparsity"] == s] or x for x in found.values()]
        wrong = [spread(100 - 100 * r["accuracy"] for r in x) for x in some]
        means, errors = zip(*wrong, strict=True)
        axes.errorbar(means, range(len(means)), xerr=errors, fmt="o", color=color, label=f"{s:.0%}")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks(ticks := [2, 3, 5, 10, 20, 50], [str(x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel("test error, %")
    axes.legend(title="sparsity", frameon=False)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="methods to train; the table needs all")
    parser.add_argument("--dir", type=Path, default=Path("runs/methods_digits"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    names = options.only or list(METHODS)
    found = {name: method_records(name, options.seeds, options.dir) for name in names}
    print(table(found))
    if not options.only:
        markdown.write_between(HERE / "README.md", "table", table(found))
        picture(found, HERE / "accuracy.svg")


if __name__ == "__main__":
    main()
