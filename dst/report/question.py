"""What a run asks, and the settings that define the question."""

from __future__ import annotations

from collections.abc import Mapping

from dst.report.contents import Run, number
from dst.report.tiles import final

_METHODS = {
    "rigl": "RigL",
    "rigl-itop": "RigL with ITOP's settings",
    "set": "SET",
    "set-itop": "SET with ITOP's settings",
    "gmp": "gradual magnitude pruning",
    "static": "a static mask",
}
_DEFINING = ("sparsity", "allocation", "drop_fraction", "every", "start", "stop", "structure")
# What a run asks, by the figure that answers it.
_QUESTIONS = {
    "accuracy": "How accurate does {model} become on {data}",
    "bits_per_byte": "With how few bits per byte does {model} predict {data}",
}


def question(run: Run) -> str:
    """What the run asks, in one sentence: model, data, method, sparsity."""
    data = run.section("data").get("name") or "its data"
    start = _QUESTIONS[run.headline()].format(model=model_words(run), data=data)
    if run.dense():
        return f"{start} with all of its weights in use?"
    name = str(run.section("method").get("name") or "the method")
    target = number(run.section("method").get("sparsity"))
    if target is None:
        target = final(run, "sparsity")
    how_many = "some" if target is None else f"{100 * target:.4g} %"
    return (
        f"{start} when {_METHODS.get(name, name)} keeps {how_many} of its selected weights at zero?"
    )


def model_words(run: Run) -> str:
    """The model with its sizes, as ``mlp (hidden 300, 100)``."""
    section = run.section("model")
    name = section.pop("name", None)
    if not name:
        return "the model"
    details = [
        f"{key.replace('_', ' ')} {', '.join(map(str, v)) if isinstance(v, list) else v}"
        for key, v in section.items()
        if isinstance(v, int | float | str | list)
    ]
    return f"{name} ({'; '.join(map(str, details[:4]))})" if details else f"{name}"


def settings(run: Run) -> list[str]:
    """The settings that define the question, as short labels."""
    method, optimizer = run.section("method"), run.section("optimizer")
    found = {"method": method.get("name"), **{key: method.get(key) for key in _DEFINING}}
    found |= {"optimizer": optimizer.get("name"), "learning_rate": optimizer.get("learning_rate")}
    found["seed"] = run.config.get("seed")
    named = {k: v.get("name") if isinstance(v, Mapping) else v for k, v in found.items()}
    return [f"{k.replace('_', ' ')} {v}" for k, v in named.items() if v is not None]
