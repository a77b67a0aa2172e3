"""`dst report`: a run directory becomes one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from dst.report import page, pictures, plots, reading
from dst.report.reading import Run
from dst.report.tables import metrics_csv
from dst.report.words import count, duration, figure, percent
from dst.train.objectives.task import FIGURES

REPORT = "report.html"
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
_RS = Markup("R<sub>s</sub>")
_MANY = 8  # layers that still get a colour of their own


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Section:
    """Figures under a heading; ``text`` introduces them, or says why there are none."""

    title: str
    text: str
    plots: tuple[plots.Plot, ...] = ()


def write_report(
    run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes the report of a run, whole or not at all, and returns its path; the logged metrics lie
    beside it as CSV.

    The report holds everything it shows: it asks for nothing from outside and opens offline. It is
    made from the files of the run directory alone; what is missing or damaged is named in it. The
    same files give the same report.

    Args:
      run_dir: the directory that ``dst train`` wrote.
      out: the file; None: ``<run_dir>/report.html``.

    Raises:
      FileNotFoundError: no such directory, or one that holds no file of a run.

    Example:
      >>> write_report("runs/digits-rigl")  # doctest: +SKIP
      PosixPath('runs/digits-rigl/report.html')
    """
    run = reading.read(run_dir)
    with plots.style():
        html = render(run)
    target = Path(out or Path(run_dir) / REPORT)
    page.write(target.with_suffix(".csv"), metrics_csv(run))
    page.write(target, html)
    return target


def render(run: Run) -> str:
    """The report as HTML text; to be called under :func:`dst.report.plots.style`."""
    layers, masks = run.layers(), mask_view(run)
    return page.fill(
        "report.html.j2",
        run=run,
        question=question(run),
        settings=settings(run),
        tiles=tiles(run),
        training=training(run),
        exploration=exploration(run),
        exchange=exchange(run),
        layers=layers,
        sparse=[row for row in layers if row.sparse],
        matrices=[row for row in layers if row.sparse or len(row.shape) > 1],
        over_time=_per_layer(run, "sparsity", "Sparsity over time", "all sparse layers"),
        masks=masks,
        degrees=_degrees(run, masks),
        versions=_versions(run),
    )


def question(run: Run) -> str:
    """What the run asks, in one sentence: model, data, method, sparsity."""
    data = run.section("data").get("name") or "its data"
    start = _QUESTIONS[run.headline()].format(model=model_words(run), data=data)
    if run.dense():
        return f"{start} with all of its weights in use?"
    name = str(run.section("method").get("name") or "the method")
    target = reading.number(run.section("method").get("sparsity"))
    if target is None:
        target = _final(run, "sparsity")
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


def _final(run: Run, key: str) -> float | None:
    """A final figure: the summary's, or else the last logged one."""
    value = reading.number(run.summary.get(key))
    if value is not None:
        return value
    return run.last(key, "eval") if key in FIGURES else run.last(key, "topology", "eval")


def _headline(run: Run) -> Tile:
    """The figure that answers the question, and the best one on the way."""
    name = run.headline()
    known = FIGURES[name]
    steps, values = run.series(name, "eval")
    detail = ""
    if np.isfinite(values).any():
        best = known.best(values[np.isfinite(values)])
        at = steps[np.flatnonzero(values == best)[0]]
        detail = f"best {figure(float(best), known.share)} at step {count(at)}"
    return Tile(f"Test {known.words}", figure(_final(run, name), known.share), detail)


def tiles(run: Run) -> list[Tile]:
    """The key figures."""
    sparse = [row for row in run.layers() if row.sparse]
    known = [row for row in sparse if row.active is not None and row.size is not None]
    active = sum(row.active or 0 for row in known)
    size = sum(row.size or 0 for row in known)
    sparsity = _final(run, "sparsity")
    if sparsity is None and size:
        sparsity = 1 - active / size
    total = [row.size for row in run.layers() if row.size is not None]
    done = reading.number(run.summary.get("steps"))
    if done is None:
        done = run.last_step()
    planned = reading.number(run.section("train").get("steps"))
    _, speeds = run.series("steps_per_second", "train")
    speed = float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else None
    short = planned is not None and done is not None and done < planned
    return [
        _headline(run),
        Tile(
            "Sparsity",
            "dense" if run.dense() else percent(sparsity),
            f"{active:,} of {size:,} selected weights active" if known else "",
        ),
        Tile(
            "Sparsity of the model",
            percent(_final(run, "sparsity_model")),
            f"of all {sum(total):,} parameters" if total and len(total) > len(sparse) else "",
        ),
        Tile(
            Markup("Explored, ") + _RS,
            percent(_final(run, "explored")),
            "selected weights ever active",
        ),
        *_costs(run),
        Tile("Steps", count(done), f"of {count(planned)} planned" if short else ""),
        Tile(
            "Time",
            duration(reading.number(run.summary.get("seconds"))),
            f"{count(speed)} steps per second" if speed is not None else "",
        ),
    ]


def _costs(run: Run) -> list[Tile]:
    """What the run cost beside a dense one; nothing for runs that did not count it."""
    training = reading.number(run.summary.get("training_cost"))
    if training is None:
        return []
    parts = [
        f"{label} {percent(value)}"
        for label, key in (("forward pass", "forward_cost"), ("average density", "average_density"))
        if (value := reading.number(run.summary.get(key))) is not None
    ]
    return [Tile("Training cost, of dense", percent(training), "; ".join(parts))]


def training(run: Run) -> Section:
    """The figures of the task over steps; bits per byte stand for the loss, which they are."""
    marks, _ = run.series("sparsity", "topology")
    shown = []
    first = "loss" if run.headline() == "accuracy" else run.headline()
    for key, is_percent in ((first, False), ("accuracy", True)):
        some = plots.with_average("train", *run.series(key, "train"), plots.SERIES[0])
        for prefix, label, colour in (
            ("", "test", plots.SERIES[7]),
            ("ema_", "test, moving average of the weights", plots.SERIES[4]),
        ):
            scores = run.series(prefix + key, "eval")
            some.append(plots.Line(label, *scores, colour, points=True))
        shown.append(
            plots.lines(
                key.replace("_", " ").capitalize(),
                some,
                percent=is_percent,
                may_log=not is_percent,
                marks=marks,
                until=run.last_step(),
            )
        )
    found = tuple(plot for plot in shown if plot)
    return Section("Training", "" if found else "No training curves: no metrics yet.", found)


def exploration(run: Run) -> Section:
    """R_s over time, of all sparse layers and of each."""
    title = Markup("Explored weights, ") + _RS
    if run.dense():
        return Section(title, "A dense run: no layer is sparse, so there is nothing to explore.")
    plot = _per_layer(run, "explored", "Explored over time", "all sparse layers")
    if plot is None:
        return Section(title, "The metrics do not say which weights were explored.")
    text = _RS + (
        " is the share of the selected weights that have been active at any time so far: the "
        "in-time over-parameterization rate of ITOP. It cannot fall."
    )
    return Section(title, text, (plot,))


def exchange(run: Run) -> Section:
    """What the topology steps dropped and grew."""
    title = "Topology steps"
    if run.dense():
        return Section(title, "A dense run has no topology steps.")
    steps, grown = run.series("grown", "topology")
    _, dropped = run.series("dropped", "topology")
    if not steps.size or steps.size != dropped.size:
        return Section(title, "The metrics hold no topology step.")
    total = (
        f"{steps.size:,} topology steps dropped {np.nansum(dropped):,.0f} connections and grew "
        f"{np.nansum(grown):,.0f}."
    )
    churn = plots.lines(
        "Churn",
        [plots.Line("", *run.series("churn", "topology"), plots.SERIES[4], points=True)],
        percent=True,
        caption="Share of the active connections that a topology step dropped.",
        until=run.last_step(),
    )
    bars = plots.exchange("Grown and dropped", steps, grown, dropped, run.last_step())
    return Section(title, total, (bars, churn) if churn else (bars,))


def _per_layer(run: Run, key: str, title: str, together: str) -> plots.Plot | None:
    """One line per layer and one for all of them."""
    kinds = ("topology", "eval")
    paths = run.paths()
    few = len(paths) <= _MANY
    some = [
        plots.Line(
            path if few else ("each layer" if i == 0 else ""),
            *run.series(f"{key}/{path}", *kinds),
            plots.SERIES[i] if few else plots.MUTED,
            faint=not few,
            holds=True,
        )
        for i, path in enumerate(paths)
    ]
    whole = plots.Line(
        together, *run.series(key, *kinds), plots.INK, width=2.2, dashed=True, holds=True
    )
    if len(paths) == 1:
        some = []
    return plots.lines(title, [*some, whole], percent=True, until=run.last_step())


def mask_view(run: Run) -> pictures.MaskView | None:
    """Pictures of the first sparse layer that has a mask of two or more axes."""
    for path in run.paths():
        view = pictures.look(path, run.initial.get(path), run.final.get(path))
        if view is not None:
            return view
    return None


def _degrees(run: Run, shown: pictures.MaskView | None) -> list[plots.Plot]:
    """In- and out-degrees of the layers without pictures, of the first few."""
    paths = [path for path in run.paths() if shown and path != shown.path]
    return [
        plot
        for path in paths[:_MANY]
        for plot in pictures.degrees(run.initial.get(path), run.final.get(path), f" of {path}")
    ]


def _versions(run: Run) -> str:
    found = run.summary.get("versions")
    if isinstance(found, Mapping):
        return ", ".join(f"{name} {version}" for name, version in found.items())
    return found if isinstance(found, str) else ""
