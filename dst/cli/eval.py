"""``dst eval``: how well a model predicts text, what it says, and whether it is right in tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dst.cli import task_table
from dst.cli.exits import BAD_INPUT, DONE, fail
from dst.cli.parameters import windows as parsed
from dst.cli.progress import line
from dst.core.files import finite
from dst.core.text import aligned

_FOLLOWING = 20  # tokens of the sample
_CALIBRATION, _BATCH = 32, 8  # windows by which thresholds are chosen, and how many at a time
_ROWS = (
    ("perplexity", "perplexity", ".4g"),
    ("bits per byte", "bits_per_byte", ".4f"),
    ("sparsity of the matrices", "sparsity", ".4f"),
    ("sparsity of their inputs", "activation_sparsity", ".4f"),
    ("agreement of the first choice", "agreement", ".4f"),
    ("KL in nats", "kl", ".4f"),
)
_A_RUN = (
    "MODEL must be a directory as of Hugging Face or a GGUF file, got the run directory {0}. "
    "`dst robustness {0}` judges a classifier. A language model is saved first: "
    "dst.models.save('model', dst.train.Run('{0}').model())."
)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A directory as of Hugging Face, or a GGUF file.")
]
Against = Annotated[
    Path | None, typer.Option(metavar="DENSE", help="The dense model, for agreement and KL.")
]
Text = Annotated[
    str,
    typer.Option(
        metavar="topics|stdlib|FILES",
        help="English or Python that every machine has, or a pattern of files; their held-out "
        "part is read.",
    ),
]
Whole = Annotated[bool, typer.Option("--whole", help="All of the text, not its held-out part.")]
Windows = Annotated[
    str, typer.Option(metavar="NxLENGTH", help="Pieces of text, tokens in each; allxLENGTH: all.")
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Directory or GGUF file; MODEL unless given.")
]
Sample = Annotated[
    str, typer.Option(metavar="TEXT", help="What the model continues, greedily; empty: nothing.")
]
Activations = Annotated[
    str | None,
    typer.Option(
        metavar="cats|chess|teal|top-k",
        help="Make activations of MODEL sparse; the other part of the text chooses thresholds.",
    ),
]
Share = Annotated[
    float | None,
    typer.Option("--activation-sparsity", help="Target of --activations, in [0, 1); 0.5."),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,FILE.jsonl",
        help="Also by tasks: arithmetic-2, arithmetic-3, closing, recall, repetition; of encoders "
        "retrieval; or files of yours. With --against, differences have paired intervals.",
    ),
]
Items = Annotated[
    int | None, typer.Option(help="Items of each task that is made; 200, of retrieval 100.")
]
Seed = Annotated[int, typer.Option(help="Of these items, and of the bootstrap.")]
Normalize = Annotated[
    str,
    typer.Option(
        metavar="nothing|tokens|bytes", help="What divides the log-likelihood of a choice."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def eval(
    model: Model,
    against: Against = None,
    text: Text = "topics",
    whole: Whole = False,
    windows: Windows = "32x256",
    tokenizer: Tokenizer = None,
    sample: Sample = "The capital of France is",
    activations: Activations = None,
    activation_sparsity: Share = None,
    tasks: Tasks = None,
    items: Items = None,
    seed: Seed = 0,
    normalize: Normalize = "nothing",
    as_json: Json = False,
) -> int:
    """Show how well a model predicts text, or is right in tasks."""
    from dst import eval as judge
    from dst.models import Encoder, load

    if (model / "config.yaml").is_file() and not (model / "config.json").is_file():
        return fail(_A_RUN.format(model), BAD_INPUT)
    try:
        method = _method(activations, activation_sparsity, whole)
        chosen = task_table.chosen(tasks, items, seed, normalize)
        count, length = parsed(windows)
        words = _tokenizer(tokenizer or model)
        scan = method is not None  # stacked blocks, which compile faster
        models = [load(path, scan=scan) for path in (model, against) if path is not None]
        task_table.check(chosen, words, models)
        if chosen and isinstance(models[0], Encoder):  # which has no perplexity
            return _print(task_table.judged(chosen, words, models, seed), as_json)
        read = judge.whole(text) if whole else judge.sides(text).held_out
        pieces = judge.consecutive(judge.tokens(words, read), length, count)
        prompt = judge.tokens(words, sample)
        judge.check(pieces, *models)
        if method is not None:
            calibration = judge.tokens(words, judge.sides(text).calibration)
            share = _sparse(models[0], method, calibration, pieces)
        following = _following(prompt, models[0]) if len(prompt) else 0
    except (ValueError, FileNotFoundError) as error:
        return fail(error, BAD_INPUT)
    first, dense = models[0], models[1] if len(models) > 1 else None
    with line("windows") as progress:
        quality = judge.language(first, pieces, tokenizer=words, against=dense, progress=progress)
    found: dict[str, Any] = {"text": text, "whole": whole, "windows": [len(pieces), length]}
    found |= {**asdict(quality), "sparsity": judge.sparsity(first)}
    if method is not None:
        found |= {"activations": activations, "activation_sparsity": share}
    if dense is not None:
        found["against"]["sparsity"] = judge.sparsity(dense)
    if following:
        tokens = [*prompt.tolist(), *judge.generate(first, prompt, following).tolist()]
        found["sample"] = words.decode(tokens, skip_special_tokens=False)
    if chosen:
        found |= task_table.judged(chosen, words, models, seed)
    return _print(found, as_json)


def _print(found: dict[str, Any], as_json: bool) -> int:
    parts = [_table(found)] if "perplexity" in found else []
    if "tasks" in found:
        parts.append(task_table.table(found))
    print(json.dumps(finite(found), indent=2) if as_json else "\n\n".join(parts))
    return DONE


def _tokenizer(path: Path) -> Any:
    from dst import models

    try:
        return models.tokenizer(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} --tokenizer PATH names another place.") from error


def _method(name: str | None, sparsity: float | None, whole: bool) -> Any:
    """The method of sparse activations, or None."""
    from dst.activations import REGISTRY

    if name is None:
        if sparsity is not None:
            raise ValueError("--activation-sparsity needs a method: --activations cats.")
        return None
    if whole:
        raise ValueError("--activations needs the part that --whole would judge: drop one of them.")
    return REGISTRY[name].load()(sparsity=0.5 if sparsity is None else sparsity)


def _sparse(model: Any, method: Any, calibration: np.ndarray, held_out: np.ndarray) -> float:
    """Makes activations sparse; the share of zeros on held-out windows, the mean over layers."""
    from dst import activations
    from dst import eval as judge

    def batches(windows: np.ndarray) -> list[np.ndarray]:
        return [windows[i : i + _BATCH] for i in range(0, len(windows), _BATCH)]

    length = held_out.shape[1]
    drawn = judge.drawn(calibration, length, _CALIBRATION, seed=0)
    activations.apply(model, method, batches(drawn))
    found = activations.measure(model, batches(held_out))
    return float(np.mean([found[name] for name in method.matrices]))


def _following(prompt: np.ndarray, model: Any) -> int:
    """How many tokens of the sample fit into the context."""
    from dst import eval as judge

    if len(prompt) >= model.context:
        raise ValueError(
            f"--sample must be shorter than {model.context} tokens, the context of the model, got "
            f"{len(prompt)}."
        )
    count = min(_FOLLOWING, model.context - len(prompt))
    judge.check(np.pad(prompt, (0, count))[None], model)
    return count


def _table(found: dict[str, Any]) -> str:
    """A row per figure, a column per model."""
    columns = [found] + [found["against"]] * (found["against"] is not None)
    rows = [["", "model", "against"][: 1 + len(columns)]]
    for words, name, form in _ROWS:
        if found.get(name) is not None:
            rows.append([words, *(_cell(x.get(name), form) for x in columns)])
    count, length = found["windows"]
    part = "all of" if found["whole"] else "held out of"
    where = f"{found['tokens']} tokens in {count} windows of {length}, {part} {found['text']}"
    sample = [f"sample: {found['sample']!r}"] if "sample" in found else []
    return "\n".join([*aligned(rows), where, *sample])


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
