"""CHTs (Zhang et al. 2025): growth by the Cannistraci-Hebb rule, without gradients."""

from __future__ import annotations

from typing import Literal

from dst.rules import scores
from dst.rules.allocation import Allocator
from dst.rules.durations import drop_schedule, require_unstructured
from dst.rules.fields import ColdStart, Decay, Share, Sparsity
from dst.rules.method import method, named
from dst.rules.rule import HowMany, Reset, Rule, Which
from dst.rules.sampling import sampled_by_graph, sampled_by_size
from dst.rules.schedule import Duration, resolve, update_schedule
from dst.rules.structure import Structure, Unstructured

_HINT = "CHTs changes topology every 100 steps in Transformers, once per epoch in MLPs."


@named("chts", kind="drop and grow")
@method
class CHTs:
    """Samples what stays by ``|w|``, and what grows by how well the graph predicts a connection.

    What stays is drawn without replacement with chances proportional to ``|w| ** (1 + 2 t / stop)``
    (``removal="soft"``). What grows is drawn likewise by the node-based score CH3-L3 of the
    connections that stay; places with the score 0 come last, at random. Both draws are exact.

    Args:
      sparsity: of the selected weights, in [0, 1). Leaves are matrices.
      allocation: sparsity per layer.
      drop_fraction: zeta, in [0, 1].
      every: steps between topology steps.
      start, stop: first topology step, and the step before which the last one lies.
      decay: ``constant``, ``cosine`` or ``linear``.
      end_drop_fraction: at the end of the decay.
      removal: ``soft`` or by ``magnitude``.
      cold_start: see :class:`dst.Rule`.
      structure: unstructured only.

    Example:
      >>> CHTs(sparsity=0.9, stop=1000).rule().fires(900)
      True

    References:
      Zhang et al. 2025 (arXiv 2501.19107).

    Checked against: biomedical-cybernetics/Cannistraci-Hebb-training at 82b7f63,
    Transformer/dst_scheduler.py (``CH3_L3n_soft``, ``weight_magnitude_soft``); a table by hand and
    a twin in plain loops, tests/methods/test_sampled_growth.py.
    Differs from the code: no removal of neurons without inputs or outputs; random first masks; no
    early stop; what has the score 0 grows only after all else.
    """

    sparsity: Sparsity
    allocation: str | Allocator = "uniform"
    drop_fraction: Share = 0.3
    end_drop_fraction: Share = 0.0
    decay: Decay = "constant"
    removal: Literal["soft", "magnitude"] = "soft"
    every: Duration = 100
    start: Duration | None = None
    stop: Duration = "100%"
    cold_start: ColdStart = "local_count"
    structure: Structure = Unstructured()

    def rule(self, steps: int | None = None) -> Rule:
        """The rule with durations in steps; percentages need ``steps``."""
        require_unstructured(self, "reads a layer as a graph")
        drop, length = scores.magnitude, max(resolve("stop", self.stop, steps, _HINT), 1)
        return Rule(
            self.sparsity,
            self.structure,
            update_schedule(self.every, self.start, self.stop, steps, _HINT),
            HowMany(self.allocation, drop_schedule(self, steps, _HINT)),
            Which(sampled_by_size(length) if self.removal == "soft" else drop, sampled_by_graph),
            Reset(cold_start=self.cold_start),
        )
