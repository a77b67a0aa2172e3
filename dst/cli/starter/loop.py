"""A training loop of your own, sparse from its first step by two lines of dst.

python DIR/loop.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import dst

STEPS, BATCH = 600, 64

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(labels))
images, labels = (images[order] / 16).astype("float32"), labels[order].astype("int32")
train = len(labels) * 4 // 5  # the first examples; the others are for tests

scale = jax.nn.initializers.he_normal()
keys = jax.random.split(jax.random.key(0), 2)
params = {
    "hidden": {"kernel": scale(keys[0], (64, 128)), "bias": jnp.zeros(128)},
    "out": {"kernel": scale(keys[1], (128, 10)), "bias": jnp.zeros(10)},
}


def logits(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


method = dst.RigL(sparsity=0.9, every=50, stop=450)
tx = dst.sparsify(optax.adam(3e-3), method)  # line 1: wrap the optimizer
state = tx.init(params)
params = dst.apply_masks(params, state)  # line 2: set the inactive weights to zero


@jax.jit
def step(params, state, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


for i in range(STEPS):
    rows = rng.integers(0, train, BATCH)
    params, state, value = step(params, state, images[rows], labels[rows])
    if (i + 1) % 100 == 0:
        right = logits(params, images[train:]).argmax(-1) == labels[train:]
        print(f"step {i + 1}: loss {value:.4f}, test accuracy {right.mean():.3f}")

print(dst.table(state, params))
