"""Ratios that decide whether sparse training is affordable, measured in one process.

    make bench

Everything is interleaved (A B C A B C ...) and summarised by medians of paired ratios, because
machines are shared and drift. The model is an MLP of 2.9 million weights, batch 128, Adam.
Unstructured masks over dense arrays save no time: what is measured is what they cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from decoder import bench_decoder
from pruning import bench_pruning
from timing import heading, interleaved, ratio, show

import dst
from dst.train import data, optimizer, setup, state, step
from dst.train.config import run as config
from dst.train.data import augment, examples, stream
from dst.train.distributed import mesh
from dst.train.objectives.classification import Classification
from dst.train.records import checkpoint

ROOT = Path(__file__).parents[1]
WIDTHS = (784, 1024, 1024, 1024, 10)
BATCH = 128


def initial_params() -> dict[str, Any]:
    """The parameters of the MLP: LeCun normal kernels, zero biases."""
    keys = jax.random.split(jax.random.key(0), len(WIDTHS) - 1)
    shapes = zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
    return {
        f"layer{i}": {
            "kernel": jax.random.normal(key, (n, m)) / np.sqrt(n),
            "bias": jnp.zeros(m),
        }
        for i, (key, (n, m)) in enumerate(zip(keys, shapes, strict=True))
    }


def loss(params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if i + 1 < len(params) else x
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


class Trainer:
    """A jitted step with donated state, and the state it is at."""

    def __init__(self, tx: optax.GradientTransformation, **update: Any):
        self.params = initial_params()
        self.opt_state = tx.init(self.params)
        if isinstance(tx, dst.SparseTransformation):
            self.params = dst.apply_masks(self.params, self.opt_state)
        self.x = jax.random.normal(jax.random.key(1), (BATCH, WIDTHS[0]))
        self.y = jnp.arange(BATCH) % WIDTHS[-1]

        def step(params: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
            grads = jax.grad(loss)(params, x, y)
            updates, opt_state = tx.update(grads, opt_state, params, **update)
            return optax.apply_updates(params, updates), opt_state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> Any:
        self.params, self.opt_state = self.step(self.params, self.opt_state, self.x, self.y)
        return self.params


def bench_steps(rounds: int) -> list[tuple[str, str, str]]:
    """Hot step, topology step and amortised cost relative to plain Optax."""
    inner = optax.adam(1e-3)
    rigl = dst.RigL(sparsity=0.9, every=100, stop=10**6)
    set_ = dst.SET(sparsity=0.9, every=100, stop=10**6)
    runs: dict[str, Callable[[], Any]] = {
        "plain": Trainer(inner),
        "static": Trainer(dst.sparsify(inner, dst.Static(sparsity=0.9)), topology=False),
        "hot": Trainer(dst.sparsify(inner, rigl), topology=False),
        "cond": Trainer(dst.sparsify(inner, rigl)),
        "rigl": Trainer(dst.sparsify(inner, rigl), topology=True),
        "set": Trainer(dst.sparsify(inner, set_), topology=True),
    }
    s = interleaved(runs, rounds)
    plain = float(np.median(s["plain"])) * 1e3
    hot, rigl_step = ratio(s, "hot", "plain"), ratio(s, "rigl", "plain")
    return [
        ("plain step, Adam, dense", f"{plain:.1f} ms", ""),
        ("hot step, static mask / plain", f"{ratio(s, 'static', 'plain'):.3f}", ""),
        ("hot step, RigL / plain", f"{hot:.3f}", "at most 1.05"),
        ("hot step that asks the schedule (cond) / plain", f"{ratio(s, 'cond', 'plain'):.3f}", ""),
        ("topology step, RigL / plain", f"{rigl_step:.2f}", "at most 3"),
        ("topology step, SET / plain", f"{ratio(s, 'set', 'plain'):.2f}", "at most 3"),
        (
            "one topology step per 100, amortised",
            f"{(rigl_step - hot) / 100:+.2%} of a plain step",
            "at most 3 %",
        ),
    ]


# Their cadence matters to no figure: every step that is measured is a topology step.
TOPOLOGY_STEPS = {
    "SET": dst.SET(0.9, every=100),
    "SNFS": dst.SNFS(0.9, every=100),
    "MEST": dst.MEST(0.9, every=100),
    "GMP": dst.GMP(0.9),
    "GMP, global": dst.GMP(0.9, allocation="global"),
    "GraNet": dst.GraNet(0.9, every=100),
    "AC/DC": dst.ACDC(0.9, every=100),
    "SRigL": dst.SRigL(0.9),
    "RigL, blocks of 2 x 2": dst.RigL(0.9, structure=dst.Block(2, 2)),
    "Top-KAST": dst.TopKAST(0.9, 0.8, every=100),
}
EVERY_STEP = {
    "weight-sparse training, selection at every step": dst.TopKWeights(0.9, anneal=0),
    "SR-STE 2:4": dst.SRSTE(2, 4),
}


def bench_methods(rounds: int) -> list[tuple[str, str, str]]:
    """The topology step of every method relative to RigL's; what chooses at every step relative
    to a plain step."""
    inner = optax.adam(1e-3)
    runs: dict[str, Callable[[], Any]] = {"plain": Trainer(inner)}
    for name, method in ({"RigL": dst.RigL(0.9)} | TOPOLOGY_STEPS | EVERY_STEP).items():
        tx = dst.sparsify(inner, method, steps=10_000)
        runs[name] = Trainer(tx, topology=True)
    s = interleaved(runs, rounds)
    rows = [
        (f"topology step, {name} / RigL's", f"{ratio(s, name, 'RigL'):.2f}", "")
        for name in TOPOLOGY_STEPS
    ]
    return rows + [
        (f"step, {name} / plain", f"{ratio(s, name, 'plain'):.2f}", "") for name in EVERY_STEP
    ]


def bench_selection(rounds: int, exponents: list[int]) -> list[tuple[str, str, str]]:
    """top_k_mask (traced k) against sorting, lax.top_k (static k) and the host."""
    rows = []
    for exponent in exponents:
        repeat = max(3, rounds // (1 if exponent < 20 else 4 if exponent < 24 else 10))
        s = interleaved(selections(2**exponent, 2**exponent // 10), repeat, warmup=1)
        ms = float(np.median(s["top_k_mask"])) * 1e3
        rows.append((f"top_k_mask, n = 2^{exponent}, k = n/10", f"{ms:.2f} ms", ""))
        for name in list(s)[1:]:
            goal = "at least 20" if name == "jnp.sort" and exponent == 20 else ""
            rows.append((f"  {name} / top_k_mask", f"{ratio(s, name, 'top_k_mask'):.1f}", goal))
    return rows


def selections(n: int, k: int) -> dict[str, Callable[[], Any]]:
    """Ways to find the mask of the k largest of n normal numbers."""
    x = jax.random.normal(jax.random.key(n), (n,))
    host = np.asarray(x)
    ours = jax.jit(dst.top_k_mask)
    by_sort = jax.jit(lambda x, k: x >= jnp.sort(x)[n - k])
    by_argsort = jax.jit(lambda x, k: jnp.argsort(jnp.argsort(-x)) < k)
    by_top_k = jax.jit(lambda x: x >= jax.lax.top_k(x, k)[0][-1])
    return {
        "top_k_mask": lambda: ours(x, k),
        "jnp.sort": lambda: by_sort(x, k),
        "jnp.argsort": lambda: by_argsort(x, k),
        "lax.top_k": lambda: by_top_k(x),
        "numpy.partition": lambda: host >= np.partition(host, n - k)[n - k],
    }


def bench_checkpoints(rounds: int) -> list[tuple[str, str, str]]:
    """Steps while a checkpoint is written in the background, beside steps without."""
    run = Trainer(
        dst.sparsify(optax.adam(1e-3), dst.RigL(0.9, every=100, stop=10**6)), topology=False
    )

    def steps(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            run()
        jax.block_until_ready(run.params)
        return time.perf_counter() - start

    steps(20)
    step = steps(50) / 50
    with tempfile.TemporaryDirectory() as folder:
        with checkpoint.Writer(Path(folder), keep=2) as writer:
            blocking, writing, ratios = [], [], []
            for n in range(rounds):
                start = time.perf_counter()
                writer.save(n, (run.params, run.opt_state), {})
                blocking.append(time.perf_counter() - start)
                writer.wait()
                writing.append(time.perf_counter() - start)
            during = max(round(float(np.median(writing)) / step), 1)
            for n in range(rounds):
                start = time.perf_counter()
                writer.save(rounds + n, (run.params, run.opt_state), {})
                steps(during)
                with_ = time.perf_counter() - start
                writer.wait()
                ratios.append(with_ / steps(during))
    ratio_ = float(np.median(ratios))
    size = sum(x.nbytes for x in jax.tree.leaves((run.params, run.opt_state)))
    return [
        (
            f"checkpoint of {size / 1e6:.0f} MB, blocking part",
            f"{np.median(blocking) * 1e3:.1f} ms",
            "",
        ),
        ("  written, without steps beside it", f"{np.median(writing) * 1e3:.0f} ms", ""),
        (f"  {during} steps while it is written / {during} steps", f"{ratio_:.3f}", ""),
        (
            "  100 steps with one checkpoint / 100 steps",
            f"{1 + (ratio_ - 1) * during / 100:.3f}",
            "at most 1.05",
        ),
    ]


class Loop:
    """Steps of a training run one after the other, as a run takes them: looked at once in a while.

    Args:
      call: ``(state, inputs, labels) -> state, metrics``: one update or several.
      begin: the state before the first step.
      calls: that are made at a time.
    """

    def __init__(self, call: Callable[..., Any], begin: Callable[[], Any], calls: int):
        self.call, self.state, self.calls = call, begin(), calls

    def over(self, draw: Callable[[], Any]) -> Callable[[], Any]:
        """A function that makes the calls with the batches that it draws."""

        def run() -> Any:
            for _ in range(self.calls):
                self.state, metrics = self.call(self.state, *draw())
            return metrics

        return run


def bench_input(rounds: int) -> list[tuple[str, str, str]]:
    """Steps with their input, read as a run reads it, over steps with one batch that stays."""
    quickstart = setup.make(config.load(ROOT / "configs/digits/rigl.yaml", ["mesh.data=1"]))
    together = quickstart.config.train.steps_per_call
    digits, (cifar, resnet) = quickstart.batches(0), cifar_shaped()

    def several(state: Any, *batches: Any) -> Any:
        return quickstart.steps(state, *batches, together)[:2]

    # By name: the stream, what draws from it, the loop, updates in a call of it, rounds.
    cases: dict[str, tuple[stream.Batches, Callable[[], Any], Loop, int, int]] = {
        f"quickstart, {together} steps a call": (
            digits,
            lambda: digits.take(together),
            Loop(several, quickstart.begin, 5),
            together,
            rounds,
        ),
        "ResNet-20, CIFAR-shaped": (cifar, lambda: next(cifar), resnet, 1, max(rounds // 10, 5)),
    }
    rows = []
    for name, (batches, draw, loop, updates, turns) in cases.items():
        fixed = draw()
        runs = {"fixed": loop.over(partial(tuple, fixed)), "read": loop.over(draw)}
        s = interleaved(runs, turns, warmup=1)
        batches.close()
        ms = float(np.median(s["fixed"])) / loop.calls / updates * 1e3
        rows.append((f"step, {name}, batch that stays", f"{ms:.2f} ms", ""))
        rows.append(("  with input / without", f"{ratio(s, 'read', 'fixed'):.3f}", "at most 1.05"))
    return rows


def cifar_shaped() -> tuple[stream.Batches, Loop]:
    """ResNet-20 on random images of CIFAR's shape, augmented, 32 at a time: for CPUs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4096, 32, 32, 3), np.uint8)
    split = examples.Examples(
        examples.Arrays(images, np.arange(4096, dtype=np.int32) % 10),
        augment.AUGMENTATIONS["cifar"],
        np.full(3, 120.0),
        np.full(3, 60.0),
    )
    dataset = data.Dataset(split, split, (32, 32, 3), 10)
    network = state.network(config.MODEL.read("resnet20", "model"), (32, 32, 3), 10, 0)
    given = {"name": "momentum", "learning_rate": 0.1}
    settings = config.OPTIMIZER.read(given, "optimizer")
    tx = dst.sparsify(optimizer.make(settings, 1000), dst.RigL(0.9, every=100), steps=1000)
    rate = optimizer.learning_rate(settings.value, 1000)
    placement = mesh.placement(config.Mesh(data=1), 32, 1, network)
    modes = state.modes(network, placement.whole, "float32")
    step_ = step.make(modes, Classification(), tx, rate, None, placement)
    batches = stream.Batches(dataset, 0, (1, 32), placement.batch, 0)

    def begin() -> state.TrainState:
        params = placement.put(state.parameters(network))
        return placement.put(state.initial(params, state.variables(network), tx, False))

    return batches, Loop(partial(step_, topology=False), begin, 1)


def bench_memory() -> list[tuple[str, str, str]]:
    """Bytes of parameters and optimizer state."""
    params = initial_params()

    def size(tree: Any) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(tree))

    inner = optax.adam(1e-3)
    dense = size(params) + size(inner.init(params))
    rows = [("train state, dense, Adam", f"{dense / 1e6:.1f} MB", "")]
    for method in (dst.Static(sparsity=0.9), dst.RigL(sparsity=0.9, every=100, stop=7500)):
        sparse = size(params) + size(dst.sparsify(inner, method).init(params))
        name = type(method).__name__
        rows.append((f"train state, {name} / dense", f"{sparse / dense:.3f}", ""))
    return rows


def main() -> None:
    """Prints one table, part by part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds per figure")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no 2^24")
    options = parser.parse_args()
    rounds = 10 if options.quick else options.rounds
    exponents = [16, 20] if options.quick else [16, 20, 24]
    print(heading(rounds))
    parts: list[Callable[[], list[tuple[str, str, str]]]] = [
        partial(bench_steps, rounds),
        partial(bench_methods, rounds),
        partial(bench_decoder, rounds),
        bench_pruning,
        partial(bench_checkpoints, max(rounds // 3, 5)),
        partial(bench_input, rounds),
        bench_memory,
        partial(bench_selection, rounds, exponents),
    ]
    for part in parts:  # shown as they come: a measurement that is stopped loses one part
        show(part())


if __name__ == "__main__":
    main()
