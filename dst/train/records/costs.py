"""What a run costs compared with the dense run; computed before training starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from flax import nnx

import dst.nnx
from dst.core.text import aligned
from dst.core.typing import Array, OptState
from dst.engine.plan import Plan
from dst.flops import Costs, Training, sparsity_at_end


@dataclass(frozen=True)
class RunCosts:
    """The start table of a run with the costs of its network, in multiply-adds per example.

    Attributes:
      plan: every leaf, what it is and why.
      costs: of a forward pass of one example.
      training: of an average step, per example.
    """

    plan: Plan
    costs: Costs
    training: Training

    @cached_property
    def forward(self) -> Callable[[OptState], dict[str, Array]]:
        """:meth:`dst.flops.Costs.metrics`, compiled."""
        return jax.jit(self.costs.metrics)

    def figures(self, sparsity: Mapping[str, float] | None = None) -> dict[str, float]:
        """The figures of ``summary.json``.

        Args:
          sparsity: by leaf path, at the end of the run; None: as planned.

        Returns:
          ``training_cost`` and ``forward_cost`` of the final network, relative to dense;
          ``average_density`` of the selected weights over all steps.
        """
        used = sparsity_at_end(self.plan) if sparsity is None else sparsity
        dense = self.costs.forward()
        return {
            "training_cost": self.training.relative,
            "forward_cost": self.costs.forward(used) / dense if dense else 1.0,
            "average_density": self.training.density,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: ``leaves``, totals and :meth:`figures`."""
        used, costs = sparsity_at_end(self.plan), self.costs
        rows = []
        for leaf in self.plan.leaves:
            use, sparsity = costs.leaves[leaf.path], used.get(leaf.path, 0.0)
            rows.append(
                {
                    "path": leaf.path,
                    "shape": list(leaf.shape),
                    "axes": leaf.axes,
                    "sparse": leaf.path in used,
                    "why": leaf.why,
                    "size": leaf.size,
                    "sparsity": sparsity,
                    "active": round(leaf.size * (1 - sparsity)),
                    "macs_dense": use.macs,
                    "macs": round(use.macs * (1 - sparsity)),
                    "uses": list(use.uses),
                }
            )
        return {
            "leaves": rows,
            "parameters": round(costs.active()),
            "active": round(costs.active(used)),
            "bytes_dense": round(costs.size_bytes()),
            "bytes": round(costs.size_bytes(used)),
            "macs_dense": round(costs.forward()),
            "macs": round(costs.forward(used)),
            "macs_without_parameters": costs.free,
            **self.figures(),
            "not_understood": {path: list(how) for path, how in costs.unknown.items()},
            "notes": list(costs.notes),
        }

    def __str__(self) -> str:
        data = self.to_dict()
        lines = [("leaf", "shape", "axes", "sparsity", "active", "MACs dense", "MACs", "why")]
        for row in data["leaves"]:
            uses = "" if row["macs_dense"] else ", ".join(row["uses"]) or "not used"
            lines.append(
                (
                    row["path"],
                    "x".join(map(str, row["shape"])) or "scalar",
                    row["axes"] or "?",
                    f"{row['sparsity']:.4f}" if row["sparse"] else "dense",
                    f"{row['active']:,}",
                    uses or f"{row['macs_dense']:,}",
                    "" if uses else f"{row['macs']:,}",
                    row["why"],
                )
            )
        text = aligned(lines)
        text.append("")
        text.append(f"parameters: {data['active']:,} of {data['parameters']:,} active at the end")
        text.append(
            f"bytes: {data['bytes']:,} packed with bit masks, {data['bytes_dense']:,} dense"
        )
        text.append(
            f"forward pass: {data['macs']:,} of {data['macs_dense']:,} multiply-adds per "
            f"example, {data['forward_cost']:.4f} of dense"
        )
        if data["macs_without_parameters"]:
            text.append(f"  {data['macs_without_parameters']:,} of them between activations")
        text.append(
            f"training: {data['training_cost']:.4f} of dense; "
            f"average density {data['average_density']:.4f}"
        )
        text += [f"not understood: {p}: {', '.join(x)}" for p, x in data["not_understood"].items()]
        text += [f"note: {note}" for note in data["notes"]]
        text.append(
            "These figures count work that zeros could save; masks over dense arrays save no time."
        )
        return "\n".join(text)


def measure(model: nnx.Module, one: jax.ShapeDtypeStruct, plan: Plan, steps: int) -> RunCosts:
    """Traces a network and counts what its training costs.

    Args:
      model: the network; its variables may be shapes only.
      one: shape and dtype of the input of one example, ``[1, ...]``.
      plan: of the run.
      steps: of training.
    """
    costs = dst.nnx.costs(model, one)
    return RunCosts(plan, costs, costs.training(plan, steps))
