"""JaxPruner beside dst, in one process: RigL and SET on the MLP of ``bench.py``.

    git clone https://github.com/google-research/jaxpruner
    git -C jaxpruner checkout 14f976266e5ceed3b8701df3b5faa2ec7e036a90
    pip install chex ml_collections
    python benchmarks/jaxpruner.py --source jaxpruner

JaxPruner is on no package index, so ``make bench`` leaves it out. It was written for an older JAX:
``shim`` brings back the one function that it misses. Nothing else of it is changed.

Both train at 90 % sparsity with ERK and Adam. Masks change every 100 steps, at what JaxPruner calls
an update step and dst a topology step. Both skip the weights then. JaxPruner looks up its schedule
in every step, as dst does with ``topology=None``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from bench import Trainer, initial_params
from packed import size
from timing import heading, interleaved, ratio, show

import dst

ADDRESS = "https://github.com/google-research/jaxpruner"
SPARSITY, EVERY, STOP, DROPPED = 0.9, 100, 7_500, 0.3
METHODS = {
    "RigL": dst.RigL(SPARSITY, every=EVERY, stop=STOP, drop_fraction=DROPPED),
    "SET": dst.SET(SPARSITY, every=EVERY, stop=STOP, drop_fraction=DROPPED),
}


def shim() -> None:
    """Brings back ``jax.tree_map``, in which None of the first tree stays None."""

    def tree_map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
        def leaf(x: Any, *others: Any) -> Any:
            return None if x is None else function(x, *others)

        return jax.tree.map(leaf, tree, *rest, is_leaf=lambda x: x is None)

    jax.tree_map = tree_map  # type: ignore[attr-defined]


def load(source: Path | None) -> Any:
    """The package in a checkout; ends the program with what to do where there is none."""
    if source is None or not (source / "jaxpruner" / "__init__.py").is_file():
        found = "no --source" if source is None else f"no jaxpruner/__init__.py in {source}"
        raise SystemExit(
            f"--source: expected a checkout of JaxPruner, found {found}. "
            f"Run `git clone {ADDRESS}`, then pass that folder: --source jaxpruner"
        )
    shim()
    sys.path.insert(0, str(source.resolve()))  # before this folder, where this file has its name
    try:
        return import_module("jaxpruner")
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"--source: expected what JaxPruner imports, found no module {error.name}. "
            "Run `pip install chex ml_collections`."
        ) from error


class Theirs(Trainer):
    """Steps of JaxPruner, masked after the jitted step as in its quick start, or inside of it."""

    def __init__(self, updater: Any, inside: bool = False):
        super().__init__(updater.wrap_optax(optax.adam(1e-3)))
        step, mask = self.step.__wrapped__, updater.post_gradient_update

        def whole(*state_and_batch: Any) -> tuple[Any, Any]:
            params, opt_state = step(*state_and_batch)
            return mask(params, opt_state), opt_state

        if inside:
            self.step = jax.jit(whole, donate_argnums=(0, 1))
        self.mask = None if inside else mask

    def __call__(self) -> Any:
        super().__call__()
        if self.mask:
            self.params = self.mask(self.params, self.opt_state)
        return self.params


def updater(package: Any, name: str, every: int) -> Any:
    """An updater from a configuration, as the documentation of JaxPruner makes it."""
    config = import_module("ml_collections").ConfigDict()
    config.algorithm, config.dist_type = name.lower(), "erk"
    config.sparsity, config.drop_fraction = SPARSITY, DROPPED
    config.update_freq, config.update_start_step, config.update_end_step = every, 1, STOP
    return package.create_updater_from_config(config)


def bench_jaxpruner(package: Any, rounds: int) -> list[tuple[str, str, str]]:
    """Rows: what, how much, no goal."""
    inner = optax.adam(1e-3)
    runs: dict[str, Any] = {"plain": Trainer(inner)}
    for name, method in METHODS.items():
        tx, between = dst.sparsify(inner, method), updater(package, name, EVERY)
        runs |= {
            f"hot step, JaxPruner {name}": Theirs(between),
            f"hot step, JaxPruner {name}, masked in the jitted step": Theirs(between, inside=True),
            f"hot step, dst {name}, topology=False": Trainer(tx, topology=False),
            f"hot step, dst {name}, topology=None": Trainer(tx),
            f"update step, JaxPruner {name}": Theirs(updater(package, name, 1)),
            f"topology step, dst {name}": Trainer(tx, topology=True),
        }
    s = interleaved(runs, rounds, warmup=2)
    rows = [("plain step, Adam, dense", f"{float(np.median(s['plain'])) * 1e3:.1f} ms", "")]
    rows += [(f"{name} / plain", f"{ratio(s, name, 'plain'):.2f}", "") for name in list(s)[1:]]
    states = {
        "dense": runs["plain"],
        "JaxPruner RigL": runs["hot step, JaxPruner RigL"],
        "dst RigL": runs["hot step, dst RigL, topology=False"],
    }
    held = {name: size((run.params, run.opt_state)) for name, run in states.items()}
    tx = dst.sparsify(inner, METHODS["RigL"], form="packed")
    held["dst RigL, packed"] = size(dst.pack(initial_params(), tx))
    weights = sum(x.size for x in jax.tree.leaves(initial_params()))
    return rows + [
        (f"train state, {name}, bytes per weight", f"{bytes_ / weights:.2f}", "")
        for name, bytes_ in held.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help=f"a checkout of {ADDRESS}")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds per figure")
    options = parser.parse_args(arguments)
    package = load(options.source)
    print(heading(options.rounds))
    show(bench_jaxpruner(package, options.rounds))


if __name__ == "__main__":
    main()
