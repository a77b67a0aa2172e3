"""SET in plain loops, with plain gradient descent inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Groups, Layer, cosine, exchanged, per_group, ranked


@dataclass
class SET:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``.

    ``draw(name, t)`` are the random scores of the inactive connections. With ``floor`` the drop
    fraction decays to it along a cosine; with ``warm_up`` grown weights take growing steps.
    """

    layers: dict[str, Layer]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    draw: Callable[[str, int], np.ndarray]
    signed: bool = False
    floor: float | None = None
    regrow: str = "allow"
    regrow_value: str = "keep"
    warm_up: int | None = None
    rounding: str = "floor"
    groups: dict[str, Groups] = field(default_factory=dict)
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        changing = t > 0 and t % self.every == 0 and t < self.stop
        if changing:
            self.changed_at.append(t)
        fraction = self.drop_fraction
        if self.floor is not None:
            fraction = cosine(fraction, t, self.stop, self.floor)
        for name, layer in self.layers.items():
            fresh: list[int] = []
            if changing:
                groups = self.groups.get(name)
                total = per_group(layer, groups)
                drop = np.abs(layer.weights)
                kept = [n - exchanged(n, fraction, self.rounding) for n in total]
                if self.signed:
                    drop, kept = self._by_sign(layer)
                grow = self.draw(name, t).reshape(-1)
                fresh = layer.exchange(
                    kept, total, drop, grow, self.regrow, self.regrow_value, groups
                )
            layer.descend(grads[name], self.rate, but=fresh, warm_up=self.warm_up)

    def _by_sign(self, layer: Layer) -> tuple[np.ndarray, list[int]]:
        """Scores that keep the paper's choice: of each sign all but those closest to zero."""
        active = [i for i, m in enumerate(layer.mask) if m]
        scores = np.zeros(len(layer.mask))
        kept = 0
        for side in (
            [i for i in active if layer.weights[i] >= 0],
            [i for i in active if layer.weights[i] < 0],
        ):
            stay = len(side) - exchanged(len(side), self.drop_fraction, "floor")
            for i in ranked(np.abs(layer.weights), side)[:stay]:
                scores[i] = 1.0
            kept += stay
        return scores, [kept]
