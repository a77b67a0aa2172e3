"""The cost of a forward pass and of a training run, by parameter leaf."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dst.core import checks, tree
from dst.core.typing import Array, OptState, Params, PyTree
from dst.engine.plan import Plan
from dst.flops import origins
from dst.flops.tally import tally
from dst.inspect.metrics import masks

CONVENTIONS = ("mac", "mac2", "micronet")


@dataclass(frozen=True)
class LeafCost:
    """One parameter leaf, and the products that consume it.

    Attributes:
      path: of the leaf.
      shape: of the leaf.
      macs: multiply-adds, for the whole input; several uses of one leaf add up.
      outputs: elements of the results of those products.
      channels: output features of those products: what a bias, or a norm folded into one, adds to.
      uses: the ways in which the leaf is consumed: ``product``, ``lookup``, ``elementwise``
        (biases, scales), or in words what the count does not understand.
    """

    path: str
    shape: tuple[int, ...]
    macs: int = 0
    outputs: int = 0
    channels: int = 0
    uses: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Uses that the count does not understand; ``not used`` where there is none at all."""
        known = (origins.PRODUCT, origins.LOOKUP, origins.ELEMENTWISE)
        return tuple(u for u in self.uses if u not in known) if self.uses else ("not used",)


@dataclass(frozen=True)
class Training:
    """What a run costs. All figures count one pass over the traced input per step.

    Attributes:
      operations: of an average training step.
      dense: of a step of the same network with all weights.
      density: active share of the selected weights, averaged over all steps; 1 for dense runs.
    """

    operations: float
    dense: float
    density: float

    @property
    def relative(self) -> float:
        """Cost relative to dense training of as many steps."""
        return self.operations / self.dense if self.dense else 1.0


@dataclass(frozen=True)
class Costs:
    """The cost of a forward pass, by parameter leaf.

    Three conventions count operations, for a leaf with sparsity ``s``:

    * ``mac``: multiply-adds, ``macs (1 - s)``;
    * ``mac2``: multiplications and additions, ``2 macs (1 - s)``;
    * ``micronet``: the same and one operation per output element, for bias and ReLU,
      ``2 macs (1 - s) + outputs``. Published figures of RigL and its relatives are in this one.

    Products between activations (attention) cost their multiply-adds whatever the sparsity.
    Pooling, norms, softmax and other elementwise work is not counted. Padding is: a border pixel
    costs what the others cost, as in all published counts.

    Attributes:
      leaves: every leaf of the parameters by path, in their order.
      free: multiply-adds that no sparsity saves: between activations, or with values in which the
        zeros of parameters are lost.
      notes: what the figures leave open.

    Checked against: the FLOPs and sizes of ResNet-50 in README.md of google-research/rigl at
    d39fc7d; MobileNet-v1 by the rules of its counter, micronet_challenge/counting.py of
    google-research/google-research; tests/flops/test_costs.py.
    """

    leaves: Mapping[str, LeafCost]
    free: int = 0
    notes: tuple[str, ...] = ()

    @property
    def unknown(self) -> Mapping[str, tuple[str, ...]]:
        """Leaves consumed in ways that are not understood, and those ways."""
        return {p: x.unknown for p, x in self.leaves.items() if x.unknown}

    def forward(
        self, sparsity: Mapping[str, float] | None = None, convention: str = "mac"
    ) -> float:
        """Operations of one forward pass.

        Args:
          sparsity: in [0, 1], by leaf path; leaves that are missing are dense.
          convention: ``mac``, ``mac2`` or ``micronet``.

        Raises:
          ValueError: a path that is no leaf, a sparsity outside [0, 1], an unknown convention.
        """
        checks.one_of("convention", convention, CONVENTIONS)
        density = self._density(sparsity)
        per_mac = 1 if convention == "mac" else 2
        total = per_mac * (self.free + sum(x.macs * density[p] for p, x in self.leaves.items()))
        if convention == "micronet":
            total += sum(x.outputs for x in self.leaves.values())
        return float(total)

    def step(
        self,
        sparsity: Mapping[str, float] | None = None,
        gradient: Mapping[str, float] | None = None,
        convention: str = "mac",
    ) -> float:
        """Operations of one training step: forward, gradient of inputs, gradient of weights.

        Each costs as much as a forward pass at the sparsity with which it is computed.

        Args:
          sparsity: of the weights in use, by leaf path.
          gradient: sparsity of the weight gradients; None: that of the weights. ``{}`` is dense
            (SNFS at every step, RigL at topology steps); Top-KAST's set B lies between.
          convention: as in :meth:`forward`.
        """
        used = self.forward(sparsity, convention)
        return 2 * used + (used if gradient is None else self.forward(gradient, convention))

    def training(
        self,
        plan: Plan,
        steps: int,
        *,
        convention: str = "mac",
    ) -> Training:
        """What ``steps`` optimizer updates cost on average, as the plan schedules them.

        A step costs three forward passes at the sparsity of that step. The weight gradient is
        dense at topology steps whose grow score reads gradients, and at steps that an accumulator
        needs. Latent-weight methods need dense gradients at all steps, unless gradients reach a
        smaller set. RigL's paper counts one topology step in ``dT + 1``; its code and this library
        take one in ``every``. Its formula is that of ``every = dT + 1`` and topology until the
        end.

        Args:
          plan: of ``tx.plan(params)``.
          steps: of training.
          convention: as in :meth:`forward`.

        A method may move budget between layers during training (SNFS). It is counted in the
        layers in which the plan starts it.
        """
        checks.integer("steps", steps, at_least=1)
        # Costs are linear in the densities, so averages over steps go through them.
        usage = plan.usage(steps)
        total = 2 * self.forward(usage.weights, convention)
        total += self.forward(usage.gradients, convention)
        selected = {p: x.leaf.size for p, x in plan.sparse.items()}
        active = sum(size * (1 - usage.weights[p]) for p, size in selected.items())
        density = active / sum(selected.values()) if selected else 1.0
        return Training(total, self.step(convention=convention), density)

    def metrics(self, opt_state: OptState) -> dict[str, Array]:
        """Scalars for a logger beside :func:`dst.metrics`; usable under ``jit``.

        Returns:
          ``forward_cost``: float32, multiply-adds of a forward pass with the masks as they are,
          relative to dense.
        """
        whole = max(self.forward(), 1.0)
        cost = jnp.ones([], jnp.float32)
        for path, mask in masks(opt_state).items():
            inactive = 1 - jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32) / mask.size
            cost -= inactive * (self.leaves[path].macs / whole)
        return {"forward_cost": cost}

    def active(self, sparsity: Mapping[str, float] | None = None) -> float:
        """Weights that are not zero; without ``sparsity``, all parameters."""
        density = self._density(sparsity)
        return float(sum(x.size * density[p] for p, x in self.leaves.items()))

    def size_bytes(
        self, sparsity: Mapping[str, float] | None = None, convention: str = "mac"
    ) -> float:
        """Bytes of the weights: 4 per non-zero, and a mask of 1 bit per element of sparse leaves.

        Args:
          sparsity: by leaf path; leaves that are missing are dense.
          convention: ``micronet`` counts leaves that are consumed in products, and one bias of 4
            bytes per output feature, into which norms are folded. The others count all leaves.
        """
        checks.one_of("convention", convention, CONVENTIONS)
        density = self._density(sparsity)
        folded = convention == "micronet"
        bits = 0.0
        for path, x in self.leaves.items():
            if folded and not x.macs:
                continue
            bits += 32 * x.size * density[path] + (x.size if density[path] < 1 else 0)
            bits += 32 * x.channels if folded else 0
        return bits / 8

    def _density(self, sparsity: Mapping[str, float] | None) -> dict[str, float]:
        for path, value in (sparsity or {}).items():
            if path not in self.leaves:
                raise ValueError(
                    f"sparsity: {path!r} is no parameter.{checks.nearest(path, self.leaves)} "
                    f"The paths are: {', '.join(self.leaves)}."
                )
            checks.fraction(f"sparsity of {path}", value)
        return {path: 1 - float((sparsity or {}).get(path, 0)) for path in self.leaves}


def trace(forward: Callable[..., Any], params: Params, *inputs: PyTree, **options: Any) -> Costs:
    """Finds every product in a forward pass that consumes a parameter. Nothing is computed.

    A leaf is followed through reshapes, casts, slices, scales, masks, ``scan``, ``jit``,
    ``checkpoint`` and their like to every ``dot_general`` and convolution. Lookups of embeddings
    cost nothing; a leaf used twice counts twice. What is computed without the input (a table of
    positions) is not counted. A leaf that is consumed in another way is listed in
    ``Costs.unknown``.

    Args:
      forward: ``forward(params, *inputs, **options)``, of any library.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: pytrees of arrays or shapes. The figures are for this input: give a batch of one.
      options: static arguments.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((8, 4)), "b": jnp.zeros(4)}
      >>> x = jax.ShapeDtypeStruct((1, 8), jnp.float32)
      >>> costs = trace(lambda p, x: x @ p["w"] + p["b"][None], params, x)
      >>> costs.leaves["w"].macs, costs.forward({"w": 0.75})
      (32, 8.0)
    """
    return trace_with_state(lambda p, _, *x: forward(p, *x, **options), params, (), *inputs)


def trace_with_state(
    forward: Callable[..., PyTree], params: Params, state: PyTree, *inputs: PyTree
) -> Costs:
    """As :func:`trace`, for a network that has arrays beside its parameters.

    A kernel times a fixed mask, or a scale of its own, still costs its multiply-adds.

    Args:
      forward: ``forward(params, state, *inputs)``.
      params: as in :func:`trace`.
      state: pytree of arrays or shapes that do not depend on the input: running statistics, masks.
      inputs: as in :func:`trace`.
    """
    program = jax.make_jaxpr(forward)(params, state, *inputs)
    total = tally(program, params, len(jax.tree.leaves(state)))
    paths, leaves, _ = tree.flatten(params)
    return Costs(
        leaves={
            path: LeafCost(
                path=path,
                shape=tuple(leaf.shape),
                macs=round(total.macs[path]),
                outputs=round(total.outputs[path]),
                channels=round(total.channels[path]),
                uses=tuple(sorted(total.uses[path])),
            )
            for path, leaf in zip(paths, leaves, strict=True)
        },
        free=round(total.free),
        notes=tuple(sorted(total.notes)),
    )
