"""What zeros save in memory and time, beside dense networks.

    make bench-savings

Ratios are medians of pairs that take turns in one process. On a GPU or TPU the same command
measures the backends that this device has.
"""

from __future__ import annotations

import argparse

import optax
from bench import Trainer, initial_params, loss
from blocks import bench_blocks
from deploy import bench_deploy
from packed import bench_packed
from timing import heading, show


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds per figure")
    rounds = parser.parse_args().rounds
    print(heading(rounds))
    plain = Trainer(optax.adam(1e-3))
    batch = plain.x, plain.y
    show(
        bench_packed(loss, initial_params, batch, plain, rounds)
        + bench_blocks(rounds)
        + bench_deploy(rounds)
    )


if __name__ == "__main__":
    main()
