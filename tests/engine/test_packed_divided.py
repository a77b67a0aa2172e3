"""Laws of packed arrays on several devices: the same bits, and an equal part on each device."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dst
from tests.runs import QUICK

quick = partial(jax.jit, compiler_options=QUICK)
BLOCKS = {"structure": dst.BalancedBlock(4, 4), "allocation": "uniform"}
CASES = {
    "weights in a row": ((512, 256), {}, dst.RigL(0.9, every=2, stop=20)),
    "blocks": ((2, 32, 64), {"w": 1}, dst.RigL(0.5, every=2, stop=20, **BLOCKS)),
}
pytestmark = pytest.mark.skipif(jax.local_device_count() < 8, reason="needs eight devices")


class Devices:
    """Runs on a mesh: two topology steps with a step between them, and into the other form."""

    def __init__(self, case, rows, columns):
        self.shape, stacked, method = CASES[case]
        self.tx = dst.sparsify(optax.adam(1e-2), method, stacked=stacked, form="packed")
        axes = (AxisType.Auto, AxisType.Auto)
        devices = jax.devices()[: rows * columns]
        mesh = jax.make_mesh((rows, columns), ("rows", "columns"), axes, devices=devices)
        self.whole = NamedSharding(mesh, P())
        self.divided = NamedSharding(mesh, P(*[None] * len(stacked), "rows", "columns"))

    def place(self, tree):
        """Arrays of the shape of the leaf are divided, those on no mesh are on all devices."""

        def place(x):
            if np.shape(x) == self.shape:
                return jax.device_put(x, self.divided)
            on_mesh = x.sharding.device_set == self.whole.device_set
            return x if on_mesh else jax.device_put(x, self.whole)

        return jax.tree.map(place, tree)

    def run(self, weights):
        start = self.place(dst.pack(self.place({"w": weights[0]}), self.tx))
        where = jax.tree.map(lambda x: x.sharding, start)

        @partial(quick, out_shardings=where)
        def change(values, state, grads):
            return self.tx.retopologise(grads, state, values)

        @partial(quick, out_shardings=where)
        def hot(values, state, grads):
            def loss(values):
                return jnp.sum(dst.unpack(values, state)["w"] * grads["w"])

            updates, state = self.tx.update(jax.grad(loss)(values), state, values, topology=False)
            return optax.apply_updates(values, updates), state

        last = start
        for step, grads in zip((change, hot, change), weights[1:], strict=True):
            last = step(*last, self.place({"w": grads}))
        dense = self.place((dst.unpack(*last), dst.unpack_state(last[1], self.tx)))
        return start, last, dst.pack(dense[0], self.tx, dense[1])


@pytest.mark.parametrize("case", CASES)
def test_one_device_and_eight_that_divide_the_slots_have_the_same_bits(case):
    """Weights and gradients have the same bits; inputs and outputs of the leaf are divided."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=CASES[case][0]).astype(np.float32) for _ in range(4)]
    alone, together = Devices(case, 1, 1).run(weights), Devices(case, 4, 2).run(weights)
    for one, many in zip(alone, together, strict=True):
        jax.tree.map(np.testing.assert_array_equal, many, one)
        at, inner = many[1].masks["w"], many[1].inner_state[0]
        for x in (many[0]["w"], inner.mu["w"], inner.nu["w"], at.index, at.marks, at.explored):
            assert x.addressable_shards[0].data.size * 8 == x.size
    start, last, again = together
    assert (dst.masks(start[1])["w"] != dst.masks(last[1])["w"]).any()
    jax.tree.map(np.testing.assert_array_equal, again, last)


def test_what_devices_cannot_divide_equally_is_whole_on_each_of_them():
    """12 active weights on 8 devices."""
    devices = Devices("weights in a row", 4, 2)
    devices.shape = (16, 8)
    tx = dst.sparsify(optax.adam(1e-2), dst.Static(sparsity=1 - 12 / 128), form="packed")
    values, state = dst.pack(devices.place({"w": np.ones((16, 8), np.float32)}), tx)
    assert values["w"].shape == (12,) and values["w"].sharding.is_fully_replicated
    assert not state.masks["w"].explored.sharding.is_fully_replicated  # 16 bytes
