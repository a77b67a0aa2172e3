"""Laws of the block form: products are those of the dense matrix, and nothing is lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dst
from dst.forms import blocks

SHAPES = [(24, 16, 4, 2), (8, 24, 8, 1), (12, 12, 2, 6)]  # inputs, outputs, block, slots


def matrix(inputs, outputs, b, slots, dtype=jnp.float32, spare=0):
    """A kernel and an index; the last slots of the first column are not in use."""
    random = np.random.default_rng(inputs + outputs)
    columns = outputs // b
    index = np.stack([np.sort(random.permutation(inputs // b)[:slots]) for _ in range(columns)])
    kernel = random.normal(size=(columns, slots, b, b))
    if spare:
        index[0, -spare:], kernel[0, -spare:] = inputs // b, 0
    kernel = jnp.asarray(kernel.reshape(columns, slots * b, b), dtype)
    return kernel, jnp.asarray(index, jnp.int32)


def by_hand(kernel, index, inputs):
    """The dense matrix, by loops in NumPy."""
    columns, _, b = kernel.shape
    dense = np.zeros((inputs, columns * b), np.float64)
    for c in range(columns):
        for slot, row in enumerate(index[c]):
            if row < inputs // b:
                part = np.asarray(kernel[c, slot * b : (slot + 1) * b], np.float64)
                dense[row * b : (row + 1) * b, c * b : (c + 1) * b] = part
    return dense


CASES = [
    (24, 16, 4, 2, "xla", False, 0),
    (24, 16, 4, 2, "xla", True, 1),
    (8, 24, 8, 1, "xla", False, 0),
    (24, 16, 4, 3, "pallas_gpu", False, 1),
    (16, 8, 8, 2, "pallas_gpu", True, 0),
    (24, 16, 4, 3, "pallas_tpu", True, 1),
    (64, 16, 8, 2, "pallas_tpu", False, 0),
]


@pytest.mark.parametrize(
    ("inputs", "outputs", "b", "slots", "backend", "features_first", "spare"), CASES
)
def test_the_product_and_its_derivatives_are_those_of_the_dense_matrix(
    inputs, outputs, b, slots, backend, features_first, spare
):
    """Kernels of other platforms are interpreted."""
    shape = (inputs, outputs, b, slots)
    kernel, index = matrix(*shape, spare=spare)
    dense = by_hand(np.asarray(kernel), np.asarray(index), inputs)
    x = np.random.default_rng(0).normal(size=(3, 5, inputs))
    weights = np.random.default_rng(1).normal(size=(3, 5, shape[1]))
    given = jnp.asarray(np.moveaxis(x, -1, 0) if features_first else x, jnp.float32)

    def loss(x, kernel):
        y = dst.block_matmul(x, kernel, index, features_first=features_first, backend=backend)
        return (jnp.moveaxis(y, 0, -1) if features_first else y, weights)

    y, _ = jax.jit(loss)(given, kernel)
    np.testing.assert_allclose(y, x @ dense, rtol=1e-5, atol=1e-5)
    total = lambda x, kernel: (loss(x, kernel)[0] * weights).sum()  # noqa: E731
    dx, dkernel = jax.jit(jax.grad(total, (0, 1)))(given, kernel)
    dx = np.moveaxis(np.asarray(dx), 0, -1) if features_first else dx
    np.testing.assert_allclose(dx, weights @ dense.T, rtol=1e-5, atol=1e-5)
    dense_grad = x.reshape(-1, inputs).T @ weights.reshape(-1, shape[1])
    expected = blocks.gather(jnp.asarray(dense_grad), index, (b, b))  # zeros in spare slots
    np.testing.assert_allclose(dkernel, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layers", "dtype"),
    [
        (SHAPES[0], (), jnp.bfloat16),
        (SHAPES[0], (2,), jnp.float32),
        (SHAPES[1], (), jnp.float32),
        (SHAPES[2], (), jnp.float32),
    ],
)
def test_what_is_scattered_is_gathered_again(shape, layers, dtype):
    inputs, outputs, b, slots = shape
    kernel, index = matrix(*shape, dtype, spare=1)
    kernel, index = (jnp.broadcast_to(x, layers + x.shape) for x in (kernel, index))
    dense = blocks.scatter(kernel, index, (*layers, inputs, outputs))
    assert dense.dtype == dtype
    np.testing.assert_array_equal(blocks.gather(dense, index, (b, b)), kernel)
    np.testing.assert_array_equal(blocks.indices(dense != 0, (b, b), slots), index)
    one = dense if not layers else dense[1]
    expected = by_hand(*(np.asarray(x if not layers else x[1]) for x in (kernel, index)), inputs)
    np.testing.assert_array_equal(np.asarray(one, np.float64), expected)
    cotangent = jnp.arange(dense.size, dtype=jnp.float32).reshape(dense.shape).astype(dtype)
    (back,) = jax.vjp(lambda k: blocks.scatter(k, index, dense.shape), kernel)[1](cotangent)
    np.testing.assert_array_equal(back, blocks.gather(cotangent, index, (b, b)))


def test_another_topology_needs_no_compilation():
    kernel, index = matrix(*SHAPES[0])
    traced = []

    @jax.jit
    def product(x, kernel, index):
        traced.append(index)
        return dst.block_matmul(x, kernel, index)

    for shift in range(3):
        product(jnp.ones((2, 24)), kernel, (index + shift) % 6)
    assert len(traced) == 1


def test_types_mix_as_in_a_product_and_sums_are_in_float32():
    kernel, index = matrix(512, 16, 4, 128)
    x = jnp.ones((2, 512), jnp.bfloat16)
    assert dst.block_matmul(x, kernel, index).dtype == jnp.float32
    ones = jnp.ones_like(kernel, jnp.bfloat16)
    assert dst.block_matmul(x, ones, index).tolist() == [[512.0] * 16] * 2  # 256 in bfloat16 sums
    dx = jax.grad(lambda x: dst.block_matmul(x, ones, index).sum())(x)
    assert dx.dtype == jnp.bfloat16 and (dx == 16).all()


@pytest.mark.parametrize(
    ("x", "kernel", "index", "message"),
    [
        ((2, 23), (4, 8, 4), (4, 2), "features in multiples of h"),
        ((2, 24), (4, 8, 4), (4, 3), "the index"),
        ((2, 24), (8, 4), (4, 2), "expected a kernel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, kernel, index, message):
    with pytest.raises(ValueError, match=message):
        dst.block_matmul(jnp.ones(x), jnp.ones(kernel), jnp.ones(index, jnp.int32))


@pytest.mark.parametrize(("backend", "platform"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_kernels_are_translated_for_their_platform(backend, platform, monkeypatch):
    """As far as that goes without the device: to Triton's and Mosaic's own languages."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    shapes = {"x": (512, 256), "kernel": (8, 128, 64), "index": (8, 2)}
    x, kernel, index = (
        jax.ShapeDtypeStruct(s, jnp.int32 if name == "index" else jnp.float32)
        for name, s in shapes.items()
    )

    def step(x, kernel, index):
        def total(x, kernel):
            product = dst.block_matmul(x, kernel, index, features_first=True, backend=name)
            return product.sum()

        return jax.grad(total, (0, 1))(x, kernel)

    name = f"pallas_{backend}"
    program = jax.jit(step).trace(x, kernel, index).lower(lowering_platforms=(platform,))
    assert program.as_text().count("custom_call") >= 2  # of the two derivatives


def test_the_fastest_backend_that_takes_the_shapes_is_chosen_once():
    shapes = ((16, 8), (2, 8, 4), (2, 1))
    assert blocks._fastest(("xla",), shapes, "float32") == "xla"
    tried = blocks._fastest.cache_info().misses
    chosen = blocks._fastest(("xla", "pallas_tpu"), shapes, "float32")
    assert chosen == blocks._fastest(("xla", "pallas_tpu"), shapes, "float32")
    assert blocks._fastest.cache_info().misses == tried + 1
    misfit = ((15, 8), (2, 8, 4), (2, 1))  # of 8 inputs: no backend can
    assert blocks._fastest(("pallas_gpu", "xla"), misfit, "float32") == "pallas_gpu"


def test_an_unknown_backend_is_refused():
    kernel, index = matrix(*SHAPES[0])
    with pytest.raises(ValueError, match="backend must be one of"):
        dst.block_matmul(jnp.ones((2, 24)), kernel, index, backend="cuda")
