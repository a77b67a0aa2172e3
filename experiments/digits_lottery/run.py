"""Lottery tickets on digits: accuracy against remaining weights, five seeds.

    python experiments/digits_lottery/run.py

Every seed is a study below ``runs/digits_lottery``, made from ``configs/digits/lottery.yaml``.
Finished runs are not repeated and interrupted ones are resumed, so the command can be stopped and
started again. At the end one report over all seeds stands in the first study's directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dst.lottery import load, resume, run, write_report
from dst.train import directory

CONFIG = Path(__file__).parents[2] / "configs" / "digits" / "lottery.yaml"


def main() -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many; from 0 on")
    parser.add_argument("--dir", type=Path, default=Path("runs/digits_lottery"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    studies = []
    for seed in range(args.seeds):
        where = args.dir / f"seed-{seed}"
        if (where / directory.CONFIG).is_file():
            resume(where)
        else:
            run(load(CONFIG, [f"seed={seed}", f"name=seed-{seed}", *args.overrides]), where)
        studies.append(where)
    print(write_report(studies[0], studies[1:]))


if __name__ == "__main__":
    main()
