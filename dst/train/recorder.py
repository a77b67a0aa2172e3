"""A run directory for a training loop of the user's own, for reports and sweeps."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax.numpy as jnp
from flax import nnx

import dst
from dst.core import checks
from dst.core.files import write_json
from dst.core.tree import parameters
from dst.core.typing import Array, OptState
from dst.flops import Costs
from dst.train.config import plain_data
from dst.train.config.run import METHOD
from dst.train.records import loggers, run_dir, summary
from dst.train.records.compile_time import CompileTime
from dst.train.records.costs import RunCosts
from dst.train.records.json_lines import JsonLines
from dst.train.state import TrainState
from dst.train.step import observe


class Recorder:
    """Writes the run directory of a loop of your own: config, metrics, masks and summary.

    ``dst report`` shows it. Checkpoints stay what they are in your loop.

    Args:
      where: the directory. A trial of ``dst sweep`` has its own, whatever stands here.
      optimizer: the transformation of :func:`dst.sparsify`, or a :class:`dst.nnx.Optimizer`.
        For a dense baseline, wrap the inner optimizer with ``dst.Dense()``.
      state: of the optimizer before the first update, for the initial masks. A
        :class:`dst.nnx.Optimizer` has it.
      settings: what defines the run, as plain data: ``{"seed": 0, "data": {"name": "mine"}}``. The
        method is filled in.
      costs: of a forward pass of one example, from :func:`dst.flops.trace` or
        :func:`dst.nnx.costs`; adds costs relative to dense to the figures.
      test_labels: over how many labels the scores are means; adds their resolution to the report.
      log_every: updates between records of training values, >= 1.
      start: updates done before; above 0 the records of that directory go on from there.
      overwrite: whether an earlier run in the directory is replaced.

    Raises:
      DirectoryError: the directory holds something, and neither ``start`` nor ``overwrite`` is set.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from tempfile import TemporaryDirectory
      >>> tx = dst.sparsify(optax.sgd(0.1), dst.SET(sparsity=0.5, every=2, stop=4))
      >>> params = {"w": jnp.ones((4, 4))}
      >>> state = tx.init(params)
      >>> params = dst.apply_masks(params, state)
      >>> with TemporaryDirectory() as folder, Recorder(f"{folder}/run", tx, state) as recorder:
      ...     for step in range(1, 6):
      ...         updates, state = tx.update({"w": params["w"]}, state, params)
      ...         params = optax.apply_updates(params, updates)
      ...         recorder.step(step, state, params, loss=(params["w"] ** 2).sum())
      ...     figures = recorder.finish(state, params, accuracy=0.5)
      >>> figures["topology_steps"], figures["accuracy"]
      (1, 0.5)
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        optimizer: dst.SparseTransformation | nnx.Optimizer,
        state: OptState | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        costs: Costs | None = None,
        test_labels: int = 0,
        log_every: int = 50,
        start: int = 0,
        overwrite: bool = False,
    ):
        checks.integer("log_every", log_every, at_least=1)
        checks.integer("start", start, at_least=0)
        tx = optimizer.tx if isinstance(optimizer, nnx.Optimizer) else optimizer
        if not isinstance(tx, dst.SparseTransformation):
            raise ValueError(
                "optimizer must be what dst.sparsify returns or a dst.nnx.Optimizer, got a "
                f"{type(tx).__name__}. For a dense run, wrap it with dst.Dense()."
            )
        trial = os.environ.get(run_dir.DIRECTORY)
        self.where = Path(trial or where)
        self._tx, self._costs, self._labels = tx, costs, test_labels
        self._log_every, self._step = log_every, start
        self._scores: dict[str, int | float] = {}  # the last ones
        self._since, self._logged = time.perf_counter(), start
        self._start, self._compiling = self._since, CompileTime()
        if start:
            run_dir.check_run(self.where)
            self._lock = run_dir.lock(self.where)
        else:
            config = {"name": self.where.resolve().name, **_method(tx), **(settings or {})}
            replace = overwrite or trial is not None  # a trial starts again
            self._lock = run_dir.create(self.where, plain_data.to_yaml(config), replace)
            first = optimizer if state is None else state
            if isinstance(first, nnx.Optimizer) or state is not None:
                dst.save_masks(self.where / run_dir.MASKS_INITIAL, dst.masks(_arrays(first)))
        self._file = JsonLines(self.where / run_dir.METRICS, start)
        self._compiling.__enter__()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; a run that has not finished stays without a summary."""
        self._compiling.__exit__()
        self._file.close(None)
        self._lock.close()

    def step(self, step: int, state: Any, params: Any, **values: Array | float) -> None:
        """Call it after every update.

        Args:
          step: updates done, counted from 1.
          state: of the optimizer after the update, or the :class:`dst.nnx.Optimizer`.
          params: after the update, or the NNX model.
          values: scalars of the update by name, such as ``loss`` and ``learning_rate``. They are
            read from the device every ``log_every`` updates only.
        """
        self._step = step
        if self._tx.fires(step - 1):
            self._log("topology", observe(_trained(state, params)))
        if step % self._log_every == 0:
            now = time.perf_counter()
            speed = (step - self._logged) / max(now - self._since, 1e-9)
            self._log("train", {**values, "steps_per_second": speed})
            self._since, self._logged = now, step

    def evaluate(self, step: int, state: Any, params: Any, **scores: Array | float) -> None:
        """Records scores on test data: ``accuracy``, ``loss``, or what you measure.

        Args:
          step: updates done.
          state, params: as in :meth:`step`.
          scores: scalars by name.
        """
        self._step, self._scores = step, loggers.finite(scores)
        self._log("eval", {**scores, **observe(_trained(state, params))})

    def finish(self, state: Any, params: Any, **scores: Array | float) -> dict[str, Any]:
        """Writes final masks and ``summary.json``. Then ``dst report`` has all it needs.

        Args:
          state, params: at the end, as in :meth:`step`.
          scores: final ones; none where :meth:`evaluate` has recorded them.

        Returns:
          The figures of ``summary.json``.
        """
        if scores:
            self.evaluate(self._step, state, params, **scores)
        last = _trained(state, params)
        dst.save_masks(self.where / run_dir.MASKS_FINAL, dst.masks(last.opt_state))
        seconds = time.perf_counter() - self._start
        figures = summary.make(
            last, self._file.records(), self._step, seconds, self._compiling.seconds, self._labels
        )
        figures = self._scores | figures  # scores of the user's own, too
        if self._costs is not None and self._step:
            plan = self._tx.plan(last.weights)
            relative = RunCosts(plan, self._costs, self._costs.training(plan, self._step))
            figures |= relative.figures({x["path"]: x["sparsity"] for x in figures["layers"]})
        write_json(self.where / run_dir.SUMMARY, figures)
        return figures

    def _log(self, kind: str, values: Mapping[str, Any]) -> None:
        self._file.log(self._step, kind, loggers.finite(values))


def _arrays(state: Any) -> OptState:
    return nnx.as_pure(state.opt_state) if isinstance(state, nnx.Optimizer) else state


def _trained(state: Any, params: Any) -> TrainState:
    if isinstance(params, (nnx.Module, nnx.State)):
        params = nnx.to_pure_dict(parameters(params))
    return TrainState(params, _arrays(state), None, {}, jnp.zeros([], jnp.int32))


def _method(tx: dst.SparseTransformation) -> dict[str, Any]:
    """The method as it stands in a config, where it can stand there."""
    try:
        plain = METHOD.dump(tx.method)
    except TypeError:  # of the user's own, or a rule
        plain = type(tx.method).__name__
    return {"method": {"name": plain} if isinstance(plain, str) else plain}
