"""``prune``: a dense network in, a sparse one and its masks out, without training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dst.core import tree
from dst.core.roles import Role
from dst.core.text import shown
from dst.core.tree import Select
from dst.core.typing import Array, Batch, Params, PyTree, Tree
from dst.engine.build_plan import selected
from dst.oneshot.calibrate import Where, as_batches, of_piece
from dst.oneshot.finished import Finished
from dst.oneshot.leaves import Leaves, Progress, whole
from dst.oneshot.loss import Loss, Objective
from dst.oneshot.magnitude import Magnitude
from dst.oneshot.matrix import OneShot
from dst.oneshot.network import DataAllocator, Network, needs_gradients, needs_loss
from dst.oneshot.second_order import compete, competes, curvature_of, needs_curvature
from dst.oneshot.stages import plan
from dst.oneshot.statistics import NEEDS
from dst.rules.allocation import Allocator, Global, allocator
from dst.rules.rule import Rule
from dst.rules.structure import Structure, Unstructured

_WEIGHTS, _MAGNITUDES = Unstructured(), Magnitude()


def prune(
    params: Tree,
    sparsity: float,
    *,
    method: OneShot = _MAGNITUDES,
    forward: Callable[[Params, Batch], PyTree] | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    where: Where | None = None,
    allocation: str | Allocator | DataAllocator = "uniform",
    structure: Structure = _WEIGHTS,
    select: Select | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    stacked: Mapping[str, int] | None = None,
    axes: Mapping[str, str] | None = None,
    roles: Mapping[str, Role] | None = None,
    blocks: str = "auto",
    preserve: bool = False,
    directory: str | os.PathLike[str] | None = None,
    offload: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Tree, dict[str, Array]]:
    """Prunes a trained network once, by magnitude or with calibration data; counts are exact.

    Methods that look at data run the network stage by stage (see :func:`dst.stages`). A stage sees
    all batches with its own weights dense and those before it pruned. Then its matrices are pruned,
    and its results with the new weights enter the next stage.

    Args:
      params: any pytree of weights; not changed.
      sparsity: of the selected weights, in [0, 1).
      method: :class:`dst.Magnitude`, :class:`dst.Wanda`, :class:`dst.SparseGPT`,
        :class:`dst.ALPS`, :class:`dst.DSnoT`, :class:`dst.GBLM`, :class:`dst.OBD`,
        :class:`dst.OBS`, :class:`dst.WoodFisher`, :class:`dst.OBERT`, :class:`dst.CAP` or your own
        :class:`dst.oneshot.OneShot`.
      forward: ``forward(params, batch)``, of any library. Its results do not matter. Magnitudes and
        second-order methods need none; with it, layers that a loop stacks in one leaf are known.
      batches: calibration data: pytrees of arrays, all of one shape.
      loss: ``loss(params, batch)``, one number; for methods and allocations that read it.
      where: ``where(batch)``: bool, which rows count, as for :func:`dst.calibrate`.
      allocation: ``uniform``, ``er``, ``erk``, an allocator, :class:`dst.OWL`,
        :class:`dst.ECoFLaP` or :class:`dst.EvoPress`; with magnitudes also ``global`` and ``lamp``,
        where the weights of all layers compete. Second-order methods let them compete unless their
        ``scope`` is ``layer``.
      structure: what is switched: weights, N:M, blocks, channels, ...
      select, overrides, stacked, axes, roles: as for :func:`dst.sparsify`.
      blocks: ``auto``, or ``matrix``: matrices see the pruned ones before them, also within a
        block of the network (true-sequential).
      preserve: whether weights that are zero stay zero.
      directory: where every finished stage is kept. The same call goes on after them, with equal
        bits at the end. Delete it afterwards. None: nothing is kept.
      offload: whether what enters a stage waits in the memory of the host, not of the device.
      progress: called with a :class:`dst.oneshot.Progress` after every stage.

    Returns:
      The pruned parameters, of the same tree, dtypes and placement, and bool masks by leaf path.
      To continue training with these masks, pass them to ``dst.FromMasks``.

    Raises:
      ValueError: as :func:`dst.sparsify` and :func:`dst.stages`, naming the leaf or argument at
        fault; inputs that are not finite; a directory with stages of another pruning.
      OSError: a stage could not be written.

    Example:
      >>> import dst, jax.numpy as jnp
      >>> params, masks = dst.prune({"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}, 0.5)
      >>> params["w"].tolist()
      [[0.0, -3.0], [2.0, 0.0]]

    References: the methods name theirs; LAMP, Lee et al. 2021 (arXiv 2010.07611).
    Checked against: the formulas, in NumPy (``tests/oneshot/test_magnitude.py``,
    ``tests/oneshot/test_prune.py``).
    """
    if not isinstance(method, OneShot) or getattr(method, "needs", None) not in NEEDS:
        raise ValueError(
            "method must be a one-shot method such as dst.Wanda(), with `needs` of "
            f"{', '.join(NEEDS)}, got {shown(method)}."
        )
    survey = {
        "select": select,
        "overrides": overrides,
        "stacked": stacked,
        "axes": axes,
        "roles": roles,
    }
    if isinstance(method, Magnitude):
        if isinstance(allocation, DataAllocator):
            if method.scope == "global":
                raise ValueError(
                    "allocation: Magnitude('global') lets all layers compete, got "
                    f"{type(allocation).__name__} beside it. Use one of the two."
                )
        elif (
            forward is None
            or batches is None
            or method.scope == "global"
            or isinstance(allocator(allocation), Global)
        ):
            return method.of_leaves(params, sparsity, allocation, structure, survey, preserve)
    Rule(sparsity, structure)  # raises where the two do not fit
    leaves = selected(tree.survey(params, **survey), sparsity)  # type: ignore[arg-type]
    chosen = {x.path: x for x in leaves if x.sparse}
    if not chosen:
        return params, {}
    for who in (method, allocation):
        if needs_loss(who) and loss is None:
            raise ValueError(
                f"{type(who).__name__} reads the loss: give loss=, such as loss(params, batch)."
            )
    competing = competes(method, allocation)
    data = [] if batches is None else as_batches(batches)
    run = Leaves(params, method, structure, chosen, preserve)
    objective = None if loss is None else Objective(loss, params)
    dense: Network | None = None
    if forward is None or not data:
        _check_given(method, allocation, data)
        pieces = [whole(i, chosen[p]) for i, p in enumerate(run.paths) if p in chosen]
        stages = [[x] for x in pieces] if needs_curvature(method) else [pieces]
    else:
        traced = plan(forward, params, data[0], chosen, blocks)
        dense = Network(traced, run, data, sparsity, method, objective, where, offload)
        pieces, stages = dense.pieces, [list(x.pieces) for x in traced.stages]
        if needs_gradients(method):
            run.gradients = dense.loss.gradients(run.leaves, data, chosen)
    number = 0

    def say(doing: str) -> None:
        if progress is not None:
            progress(Progress(number, len(stages), (), doing))

    run.curvature = curvature_of(method, objective, run.leaves, data, pieces, say)
    if isinstance(allocation, DataAllocator):
        assert dense is not None  # checked above
        _check_free(allocation, run)
        run.sparsities = allocation.shares(dense)
    else:
        run.sparsities = run.allocated("uniform" if competing else allocation, sparsity, pieces)
    if competing:
        compete(run, method, pieces, sparsity)  # type: ignore[arg-type]
    walk = None if dense is None or method.needs == "nothing" else dense.live_walk()
    kept = None
    if directory is not None:
        reads = objective is not None and data and needs_curvature(method)
        value = objective(run.leaves, data[0]) if objective is not None and reads else None
        entered = (str(stages), data) if walk is None else (str(walk.plan), walk.entered())
        kept = Finished(directory, run.identity(*entered, value))
    for number, stage in enumerate(stages):
        solved = None if kept is None else kept.read(number, [x.name for x in stage])
        if solved is None:
            sources = [] if walk is None else walk.statistics(number)
            solved = [run.solve(x, of_piece(x, sources) if sources else None) for x in stage]
            del sources
            if kept is not None:
                kept.write(number, solved)
        pruned = [run.put(piece, x) for piece, x in zip(stage, solved, strict=True)]
        if progress is not None:
            progress(Progress(number, len(stages), tuple(pruned)))
        if walk is not None:
            walk.advance(number)
    return run.result(params)


def _check_given(method: OneShot, allocation: Any, data: Sequence[Batch]) -> None:
    """Raises where a forward pass or batches are needed that were not given."""
    of_data = isinstance(allocation, DataAllocator)
    if method.needs == "nothing" and not of_data:
        if not needs_loss(method) or (data and not needs_gradients(method)):
            return
        if not needs_gradients(method):
            raise ValueError(
                f"{type(method).__name__} looks at calibration data: give batches=, each of which "
                "gives one gradient of the loss."
            )
    what = type(allocation if method.needs == "nothing" and of_data else method).__name__
    raise ValueError(
        f"{what} looks at calibration data: give forward=, such as forward(params, batch), and "
        "batches=."
    )


def _check_free(allocation: DataAllocator, run: Leaves) -> None:
    if any(x is not None for x in run.own.values()):
        raise ValueError(
            f"allocation: {type(allocation).__name__} gives every block a sparsity, but some "
            "leaves have one of their own, by overrides or by an N:M structure. Use 'uniform', or "
            "leave these out."
        )
