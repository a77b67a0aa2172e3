"""Small networks with units that can be removed, as plain programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.runs import QUICK

RANDOM = np.random.default_rng(11)
WIDTH, SIZE, HIDDEN, LAYERS, HEADS, KEYS = 8, 2, 12, 2, 6, 3


def results(forward, *arguments):
    """What a program returns for each tuple of arguments, in NumPy."""
    program = jax.jit(forward, compiler_options=QUICK)
    return [jax.tree.map(np.asarray, program(*x)) for x in arguments]


def normal(*shape, scale=0.5):
    return (RANDOM.normal(size=shape) * scale).astype(np.float32)


def chain(p, x):
    """Activations that are not zero at zero: removed units count only through what reads them."""
    for i in range(2):
        x = jax.nn.sigmoid(x @ p[f"layer{i}"]["kernel"] + p[f"layer{i}"]["bias"][None])
    return x @ p["out"]["kernel"] + p["out"]["bias"][None]


def layer(n, m):
    return {"kernel": normal(n, m), "bias": normal(m)}


CHAIN = {"layer0": layer(5, 10), "layer1": layer(10, 7), "out": layer(7, 3)}


def images(p, x):
    """Convolution, norm with running statistics, pooling, convolution, flat layer."""

    def convolved(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x = convolved(x, p["first"])
    x = (x - p["mean"][None, None, None]) * lax.rsqrt(p["var"] + 1e-5)[None, None, None]
    x = jax.nn.relu(x * p["scale"][None, None, None] + p["shift"][None, None, None])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jnp.tanh(convolved(x, p["second"]))
    return x.reshape(len(x), -1) @ p["flat"]


IMAGES = {
    "first": normal(3, 3, 2, 6),
    "mean": normal(6),
    "var": np.abs(normal(6)),
    "scale": normal(6),
    "shift": normal(6),
    "second": normal(3, 3, 6, 5),
    "flat": normal(2 * 2 * 5, 4),
}


def joined(p, x):
    """Two branches side by side, and a low-rank change of a kernel."""
    x = jnp.concatenate([jax.nn.gelu(x @ p["left"]), jnp.sin(x @ p["right"])], axis=-1)
    return x @ (p["out"] + p["a"] @ p["b"])


JOINED = {
    "left": normal(5, 6),
    "right": normal(5, 4),
    "out": normal(10, 3),
    "a": normal(10, 4),
    "b": normal(4, 3),
}


def normed(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def block(w, x):
    def heads(y):
        return y.reshape(*y.shape[:2], -1, SIZE)

    n = normed(x) * w["scale"][None, None]
    q, k, v = heads(n @ w["q"]), heads(n @ w["k"]), heads(n @ w["v"])
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.reshape(*x.shape[:2], -1) @ w["o"]
    m = normed(x)
    return x + (jax.nn.silu(m @ w["gate"]) * (m @ w["up"])) @ w["down"]


SHAPES = {
    "q": (WIDTH, HEADS * SIZE),
    "k": (WIDTH, KEYS * SIZE),
    "v": (WIDTH, KEYS * SIZE),
    "o": (HEADS * SIZE, WIDTH),
    "gate": (WIDTH, HIDDEN),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
    "scale": (WIDTH,),
}
BLOCKS = [{n: normal(*s, scale=0.6) for n, s in SHAPES.items()} for _ in range(LAYERS)]
STACKED = {n: np.stack([w[n] for w in BLOCKS]) for n in SHAPES}


def in_a_row(p, x):
    for w in p:
        x = block(w, x)
    return x


def in_a_loop(p, x):
    step = jax.checkpoint(block)
    return lax.scan(lambda x, w: (step(w, x), None), x, p)[0]


VECTORS, TOKENS = normal(9, 5, scale=1.0), normal(2, 5, WIDTH, scale=1.0)
# forward, parameters, batch, units by group
PROGRAMS = {
    "a chain": (chain, CHAIN, VECTORS, {"layer0/kernel": 10, "layer1/kernel": 7}),
    "convolutions": (
        images,
        IMAGES,
        normal(2, 4, 4, 2),
        {"first": 6, "second": 5},
    ),
    "branches": (joined, JOINED, VECTORS, {"left": 6, "right": 4, "a": 4}),
    "a list of blocks": (
        in_a_row,
        BLOCKS,
        TOKENS,
        {f"{i}/{n}": u for i in range(LAYERS) for n, u in (("gate", HIDDEN), ("k", KEYS))},
    ),
    "a scan of blocks": (
        in_a_loop,
        STACKED,
        TOKENS,
        {f"{n}[{i}]": u for i in range(LAYERS) for n, u in (("gate", HIDDEN), ("k", KEYS))},
    ),
}
