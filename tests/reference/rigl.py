"""RigL in plain loops, with plain gradient descent inside."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.reference.exchange import Groups, Layer, cosine, exchanged, per_group


@dataclass
class RigL:
    """Counts updates from 0; topology changes at ``every, 2 every, ...`` before ``stop``.

    The grow score is the magnitude of the mean of the last ``accumulate`` gradients.
    """

    layers: dict[str, Layer]
    drop_fraction: float
    every: int
    stop: int
    rate: float
    rounding: str = "floor"
    regrow: str = "allow"
    regrow_value: str = "keep"
    update_weights: bool = False
    accumulate: int = 1
    groups: dict[str, Groups] = field(default_factory=dict)
    latest: list[dict[str, np.ndarray]] = field(default_factory=list)
    count: int = 0
    changed_at: list[int] = field(default_factory=list)

    def step(self, grads: dict[str, np.ndarray]) -> None:
        t, self.count = self.count, self.count + 1
        self.latest = [*self.latest, grads][-self.accumulate :]
        if t == 0 or t % self.every or t >= self.stop:
            for name, layer in self.layers.items():
                layer.descend(grads[name], self.rate)
            return
        self.changed_at.append(t)
        fraction = cosine(self.drop_fraction, t, self.stop)
        for name, layer in self.layers.items():
            groups = self.groups.get(name)
            total = per_group(layer, groups)
            fresh = layer.exchange(
                kept=[n - exchanged(n, fraction, self.rounding) for n in total],
                total=total,
                drop=np.abs(layer.weights),
                grow=np.abs(np.mean([g[name] for g in self.latest], axis=0).reshape(-1)),
                regrow=self.regrow,
                regrow_value=self.regrow_value,
                groups=groups,
            )
            if self.update_weights:
                layer.descend(grads[name], self.rate, but=fresh)
