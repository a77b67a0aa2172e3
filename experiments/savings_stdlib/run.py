"""A decoder on text in four forms: bits per byte against seconds and against memory.

    python -m experiments.savings_stdlib.run

Records of finished runs are kept and not repeated. Seconds are those of steps that take turns in
one process. They are measured anew each time, so nothing else should run then.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import dst
import dst.nnx
from dst.core.files import write
from dst.report import markdown
from dst.report.spread import spread
from dst.train import data, optimizer, state
from dst.train.config import run as config
from dst.train.data.dataset import indices
from dst.train.objectives.next_token import NextToken

HERE = Path(__file__).parent
SPARSITY, BLOCK = 0.9, 64
EVERY = 20  # steps between topology steps
RATES = (1e-3, 3e-3)
EVAL_EVERY = 100
ROUNDS = 7  # of timing
FORMS = {
    "dense": "black",
    "RigL": "#c1121f",
    "RigL, packed": "#2a6f97",
    "RigL, blocks": "#588157",
}


class Run:
    """One decoder in one form, with its optimizer: what a step changes, and the steps."""

    def __init__(self, settings: config.Config, form: str, rate: float, seed: int):
        steps = settings.train.steps
        self.data = data.load(settings.data)
        self.seed, self.size = seed, settings.data.value.batch_size
        model = state.network(settings.model, self.data.shape, self.data.classes, seed)
        section = settings.optimizer
        section = replace(section, value=replace(section.value, learning_rate=rate))
        inner = optimizer.make(section, steps, {}, 0, state.parameters(model))
        blocks = dst.BalancedBlock(BLOCK, BLOCK)
        method: Any = dst.Dense()
        if form != "dense":
            shared = {"every": EVERY, "start": steps // 10, "stop": steps * 3 // 4}
            structure = {"structure": blocks, "rounding": "ceil"} if "blocks" in form else {}
            method = dst.RigL(SPARSITY, allocation="uniform", **shared, **structure)
        if "blocks" in form:
            dst.nnx.replace_linear(model, None, BLOCK, SPARSITY)
        packed = "packed" if form in ("RigL, packed", "RigL, blocks") else "masked"
        sparse = dst.nnx.Optimizer(model, inner, method, seed=seed, steps=steps, form=packed)
        self.fires = sparse.tx.fires if form != "dense" else lambda count: False
        graph, self.state = nnx.split((model, sparse))

        def loss(model: Any, batch: Any) -> jax.Array:
            return NextToken().loss(model, batch, None)[0]

        def of_values(model: Any, batch: Any) -> jax.Array:
            return loss(dst.nnx.unpack(model) if form == "RigL, packed" else model, batch)

        @partial(jax.jit, donate_argnums=0)
        def hot(state: Any, batch: Any) -> Any:
            model, sparse = nnx.merge(graph, state)
            sparse.update(model, nnx.grad(of_values)(model, batch), topology=False)
            return nnx.state((model, sparse))

        @partial(jax.jit, donate_argnums=0)
        def topology(state: Any, batch: Any) -> Any:
            model, sparse = nnx.merge(graph, state)
            if packed == "masked":
                sparse.update(model, nnx.grad(loss)(model, batch), topology=True)
            else:
                sparse.retopologise(model, nnx.grad(loss)(dst.nnx.unpack(model), batch))
            return nnx.state((model, sparse))

        @jax.jit
        def bits(state: Any, batch: Any) -> jax.Array:
            model, _ = nnx.merge(graph, state)
            scores = NextToken().loss(dst.nnx.unpack(model), batch, None)[1]
            return scores["bits_per_byte"]

        self.steps = {"hot": hot, "topology": topology}
        self.bits, self.graph = bits, graph

    def batch(self, count: int) -> Any:
        """Of a step."""
        train = self.data.train
        return train.take(indices(len(train), self.size, self.seed, count))

    def step(self, kind: str, count: int) -> Any:
        """Changes the state."""
        self.state = self.steps[kind](self.state, self.batch(count))
        return self.state

    def peak(self, kind: str) -> int:
        """Bytes of arguments and temporaries of a compiled step."""
        memory = self.steps[kind].lower(self.state, self.batch(0)).compile().memory_analysis()
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def held_out(self) -> tuple[float, float]:
        """Bits per byte of the half that chooses the rate, and of the half that is reported."""
        test = self.data.test
        rows = np.arange(len(test))
        parts = [
            [float(self.bits(self.state, test.take(some))) for some in np.array_split(half, 8)]
            for half in (rows[::2], rows[1::2])
        ]
        return float(np.mean(parts[0])), float(np.mean(parts[1]))

    def sparsity(self) -> float:
        """Of the seven projections of every block, at the end."""
        _, sparse = nnx.merge(self.graph, self.state)
        return float(dst.metrics(nnx.as_pure(sparse.opt_state))["sparsity"])


def trained(settings: config.Config, form: str, rate: float, seed: int, path: Path) -> dict:
    """The record of a run: read, or made and written."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    run, steps, began = Run(settings, form, rate, seed), settings.train.steps, time.perf_counter()
    curve: list[tuple[int, int, float, float]] = []
    topology = 0
    for count in range(steps):
        fires = run.fires(count)
        topology += fires
        run.step("topology" if fires else "hot", count)
        if (count + 1) % EVAL_EVERY == 0 or count + 1 == steps:
            curve.append((count + 1, topology, *run.held_out()))
            print(
                f"{form}, rate {rate:g}, seed {seed}: step {count + 1} of {steps}, "
                f"{curve[-1][-1]:.3f} bits per byte, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    record = {"curve": curve, "sparsity": run.sparsity() if form != "dense" else 0.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(record))
    return record


def measured(settings: config.Config) -> dict[str, dict[str, float]]:
    """Median seconds of a hot and of a topology step, and the higher peak in bytes, by form."""
    runs = {form: Run(settings, form, RATES[0], 0) for form in FORMS}
    kinds = {form: ("hot",) if form == "dense" else ("hot", "topology") for form in FORMS}
    seconds: dict[str, dict[str, list[float]]] = {f: {k: [] for k in kinds[f]} for f in FORMS}
    for round_ in range(ROUNDS + 1):
        for form, run in runs.items():
            for kind in kinds[form]:
                batch = run.batch(round_)
                began = time.perf_counter()
                run.state = jax.block_until_ready(run.steps[kind](run.state, batch))
                if round_:  # the first one compiles
                    seconds[form][kind].append(time.perf_counter() - began)
    return {
        form: {
            **{kind: float(np.median(x)) for kind, x in seconds[form].items()},
            "peak": max(run.peak(kind) for kind in kinds[form]),
            "hot peak": run.peak("hot"),
        }
        for form, run in runs.items()
    }


def picture(points: dict[str, Any], costs: dict[str, Any], path: Path) -> None:
    """Bits per byte while seconds pass, and at the end beside the peak of memory."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for form, curves in points.items():
        cost = costs[form]
        at = [
            (n - topology) * cost["hot"] + topology * cost.get("topology", 0.0)
            for n, topology, *_ in curves[0]
        ]
        values = np.array([[bits for *_, bits in curve] for curve in curves])
        mean = values.mean(0)
        left.plot(at, mean, color=FORMS[form], label=form)
        left.fill_between(at, values.min(0), values.max(0), color=FORMS[form], alpha=0.15)
        peaks = [cost["hot peak"] / 1e6, cost["peak"] / 1e6]
        right.plot(peaks, [mean[-1]] * 2, color=FORMS[form], linewidth=1)
        right.plot(peaks[:1], mean[-1:], "o", color=FORMS[form])
        right.plot(peaks[1:], mean[-1:], "|", color=FORMS[form])
    left.set_xlabel("seconds of steps")
    left.set_ylabel("bits per byte, held-out text")
    left.legend(frameon=False)
    right.set_xlabel("peak MB: most steps (dot), topology steps (bar)")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Trains what is missing, measures steps, and writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("runs/savings_stdlib"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}: a spread needs two runs.")
    settings = config.load(HERE / "base.yaml")
    rows, points = [], {}
    chosen, found = {}, {}
    for form in FORMS:
        firsts = {
            r: trained(settings, form, r, 0, options.dir / f"{form} {r:g} 0.json") for r in RATES
        }
        rate = chosen[form] = min(RATES, key=lambda r, firsts=firsts: firsts[r]["curve"][-1][2])
        others = range(1, options.seeds)
        found[form] = [
            firsts[rate],
            *(
                trained(settings, form, rate, s, options.dir / f"{form} {rate:g} {s}.json")
                for s in others
            ),
        ]
    costs = measured(settings)
    for form, records in found.items():
        points[form] = [x["curve"] for x in records]
        cost, (steps, topology, *_) = costs[form], points[form][0][-1]
        total = (steps - topology) * cost["hot"] + topology * cost.get("topology", 0.0)
        rows.append(
            [
                form,
                f"{np.mean([x['sparsity'] for x in records]):.1%}",
                f"{chosen[form]:g}",
                spread(curve[-1][-1] for curve in points[form]).words(3),
                f"{total:.0f}",
                f"{cost['hot']:.3f}",
                f"{cost['topology']:.3f}" if "topology" in cost else "",
                f"{cost['hot peak'] / 1e6:.0f}",
                f"{cost['peak'] / 1e6:.0f}",
            ]
        )
    heads = ["form", "sparsity", "rate", "bits per byte", "seconds", "a step", "topology step"]
    table = markdown.table([*heads, "peak, MB", "with topology steps"], rows)
    print(table)
    markdown.write_between(HERE / "README.md", "table", table)
    picture(points, costs, HERE / "figure.svg")


if __name__ == "__main__":
    main()
