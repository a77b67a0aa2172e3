"""One pruning of a pretrained model, from its files to the files of the pruned one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import dst.nnx
from dst import eval as judging
from dst.core.files import finite, write_json
from dst.core.typing import Array
from dst.io.safetensors import save_masks
from dst.models import Encoder, load, save, tokenizer
from dst.oneshot import Progress, StagePlan
from dst.oneshot.network import needs_loss
from dst.oneshot.stages import stages
from dst.studies.pruning.settings import Settings

RESULT, MASKS, REPORT = "pruning.json", "masks.safetensors", "report.html"
_ROWS = 2048  # tokens of a calibration batch

Say = Callable[[str], object]


class Job:
    """A model, its text and what is to be done; nothing has been computed yet.

    Args:
      settings: of the pruning.

    Attributes:
      model: the dense one.
      batches: int32 ``[windows, length]`` each, for calibration; of one window where the method
        reads gradients, as each batch has one.
      held_out: int32 ``[windows, length]``, to judge by.

    Raises:
      FileNotFoundError: no such model.
      ValueError: a model, a tokenizer or a text that cannot be read; windows longer than the
        context; too little text.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        count, length = settings.windows
        text = judging.sides(settings.calibration)
        self.tokenizer = tokenizer(settings.model)
        self.model = load(settings.model)
        if length > self.model.context:
            raise ValueError(
                f"windows must be at most {self.model.context} tokens long, the context of the "
                f"model, got {length}."
            )
        sides = [judging.tokens(self.tokenizer, x) for x in (text.calibration, text.held_out)]
        windows = judging.drawn(sides[0], length, count, settings.seed)
        size = 1 if needs_loss(settings.one_shot()) else _batch(count, length)
        self.batches = [jnp.asarray(x) for x in np.split(windows, count // size)]
        self.held_out = judging.consecutive(sides[1], length, count)

    def plan(self) -> StagePlan:
        """The stages of the pruning."""
        graph, *states = nnx.split(self.model, nnx.Param, ...)
        params, rest = states
        return stages(
            lambda p, x: _forward(nnx.merge(graph, p, rest), x),
            params,
            self.batches[0],
            roles=dst.nnx.roles(self.model),
            **self._leaves(self.settings),
        )

    def prune(
        self,
        directory: str | os.PathLike[str] | None = None,
        progress: Callable[[Progress], None] | None = None,
        settings: Settings | None = None,
    ) -> tuple[Any, dict[str, Array]]:
        """The pruned model and its masks; the dense model stays as it is.

        Args:
          directory: where finished stages are kept.
          progress: called after every stage.
          settings: others with the same model and text; None: those of the job.
        """
        graph, state = nnx.split(self.model)
        pruned = nnx.merge(graph, jax.tree.map(lambda x: x, state))  # of its own, same arrays
        settings = settings or self.settings
        masks = dst.nnx.prune(
            pruned,
            settings.share(),
            forward=_forward,
            batches=self.batches,
            loss=None if isinstance(self.model, Encoder) else _next_token,
            attach_masks=False,
            method=settings.one_shot(),
            structure=settings.pattern(),
            allocation=settings.allocated(),
            **self._leaves(settings),
            preserve=settings.preserve,
            directory=directory,
            progress=progress,
        )
        return pruned, masks

    def _leaves(self, settings: Settings) -> dict[str, Any]:
        """Which leaves are pruned, and in what order."""
        return {
            "select": settings.select or None,
            "stacked": getattr(self.model, "stacked", None),
            "blocks": settings.blocks,
        }

    def judge(self, pruned: Any, say: Say = lambda text: None) -> dict[str, Any]:
        """The figures of both models on held-out text.

        Of decoders perplexity, bits per byte, agreement and divergence; of encoders the mean cosine
        of the embeddings of the windows. None where a figure is NaN or infinite.
        """
        if isinstance(pruned, Encoder):
            return finite({"cosine": judging.cosine(pruned, self.model, self.held_out)})
        quality = judging.language(
            pruned,
            self.held_out,
            tokenizer=self.tokenizer,
            against=self.model,
            progress=lambda done, count: say(f"judged {done} of {count} windows"),
        )
        return finite(asdict(quality))


def run(
    settings: Settings, out: str | os.PathLike[str], say: Say = lambda text: None
) -> dict[str, Any]:
    """Prunes a model and writes it, its masks and its report into a directory.

    Finished stages are kept in ``<out>.part`` until then. The same call goes on after them.

    Args:
      settings: of the pruning.
      out: the directory; new, or empty.
      say: called with lines of progress.

    Returns:
      what ``pruning.json`` holds.

    Raises:
      FileExistsError: something is at the path.
      FileNotFoundError: no such model.
      ValueError: as :class:`Job` and :func:`dst.prune`; a directory with stages of another pruning.
      OSError: a file could not be written.
    """
    target, start = Path(out), time.perf_counter()
    work, job = beside(target, RESULT), Job(settings)
    matrices: list[dict[str, Any]] = []

    def progress(step: Progress) -> None:
        matrices.extend(finite(asdict(x)) for x in step.matrices)
        say(_line(step))

    pruned, masks = job.prune(work / "stages", progress)
    if not masks:
        raise ValueError(f"select: no leaf of {settings.model} is selected, so nothing is pruned.")
    weights = sum(x.size for x in masks.values())
    result = {
        "settings": asdict(settings),
        "version": dst.__version__,
        "weights": weights,
        "sparsity": 1 - sum(int(x.sum()) for x in masks.values()) / weights,
        "matrices": matrices,
        "quality": job.judge(pruned, say),
        "seconds": time.perf_counter() - start,
    }
    from dst.studies.pruning.report import write_report  # loads Matplotlib

    whole = work / "model"
    shutil.rmtree(whole, ignore_errors=True)
    save(whole, pruned, tokenizer=settings.model)
    save_masks(whole / MASKS, masks, packed=True)
    write_json(whole / RESULT, result)
    write_report(result, whole / REPORT)
    whole.replace(target)
    shutil.rmtree(work)
    return result


def beside(target: Path, result: str) -> Path:
    """The directory in which a result is made before it gets its name.

    Raises:
      FileExistsError: something is at the target.
    """
    work = target.with_name(f"{target.name}.part")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if (target / result).exists():
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed at its very end
        raise FileExistsError(f"{target} must be a new or an empty directory. Choose another name.")
    return work


def _line(step: Progress) -> str:
    """A stage in a line: where, how many zeros, the largest error, seconds."""
    if not step.matrices:
        return f"stage {step.stage + 1} of {step.stages}: {step.doing}"
    names = [x.name for x in step.matrices]
    common = os.path.commonpath(names) or "the network"
    where = names[0] if len(names) == 1 else f"{common}, {len(names)} matrices"
    errors = [x.error for x in step.matrices if x.error is not None]
    error = f", relative error at most {max(errors):.2g}" if errors else ""
    zeros = sum(x.sparsity for x in step.matrices) / len(names)
    seconds = sum(x.seconds for x in step.matrices)
    figures = f"{zeros:.1%} zeros{error}, {seconds:.1f} s"
    return f"stage {step.stage + 1} of {step.stages}: {where}, {figures}"


def _forward(model: Any, tokens: Array) -> Any:
    """All matrices of a model at work."""
    found = model(tokens)
    return model.pool(found) if isinstance(model, Encoder) and model.pooler else found


def _next_token(model: Any, tokens: Array) -> Array:
    """The mean cross-entropy of every token but the first."""
    logits = model(tokens)[:, :-1].astype(jnp.float32)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]))


def _batch(count: int, length: int) -> int:
    """Windows per batch: a divisor of their number, so that all have one shape."""
    most = max(_ROWS // length, 1)
    return max(d for d in range(1, min(most, count) + 1) if count % d == 0)
