"""Laws of deltas: sums in NumPy, bit by bit; the base comes back; files know their base."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import dst
from dst.forms.deltas import fingerprint

RANDOM = np.random.default_rng(13)


def model(dtype):
    values = {"a": RANDOM.normal(size=(7, 5)), "b": RANDOM.normal(size=9), "c": np.zeros(3)}
    return {k: jnp.asarray(x, dtype) for k, x in values.items()} | {"n": jnp.arange(3)}


def tuned(params, share, scale=1.0):
    def one(x):
        moved = RANDOM.random(x.shape) < share
        return jnp.where(moved, x + (scale * RANDOM.normal(size=x.shape)).astype(x.dtype), x)

    return {k: one(x) if k in "ab" else x for k, x in params.items()}


def equal(one, other):
    assert one.keys() == other.keys()
    for k, x in one.items():
        assert x.dtype == other[k].dtype
        assert np.asarray(x).tobytes() == np.asarray(other[k]).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_delta_gives_the_tuned_model_and_goes_away_without_a_trace(dtype):
    base = model(dtype)
    after = tuned(base, 0.4)
    found = dst.delta(base, after)
    assert found.count == sum(int((after[k] != base[k]).sum()) for k in base)
    assert "c" not in found.leaves and "n" not in found.leaves
    equal(dst.apply_deltas(base, [found]), after)
    equal(dst.revert_deltas(dst.apply_deltas(base, [found]), [found]), base)


def test_deltas_add_up_in_any_order():
    base = model("float32")
    deltas = [dst.delta(base, tuned(base, 0.6, 10.0**i)) for i in (-4, 0, 4)]
    total = {k: np.asarray(x, np.float64) for k, x in base.items()}
    for one in deltas:
        for k, change in one.leaves.items():
            total[k].reshape(-1)[change.indices] += change.changes
    found = dst.apply_deltas(base, deltas)
    for k in "abc":
        np.testing.assert_allclose(found[k], total[k], rtol=1e-7)
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        equal(dst.apply_deltas(base, [deltas[i] for i in order]), found)
        equal(dst.revert_deltas(found, [deltas[i] for i in order]), base)
    equal(dst.apply_deltas(base, []), base)


def test_zeros_of_a_pruned_model_stay_zero():
    base = model("float32")
    masks = {"a": jnp.asarray(RANDOM.random((7, 5)) < 0.4)}
    pruned = base | {"a": jnp.where(masks["a"], base["a"], 0)}
    after = pruned | {"a": pruned["a"] + 0.1, "b": pruned["b"] - 0.2}
    chosen = dst.most_moved(pruned, after, share=0.5, select=["a", "b"], where=masks)
    result = pruned | {k: jnp.where(m, after[k], pruned[k]) for k, m in chosen.items()}
    both = dst.apply_deltas(pruned, [dst.delta(pruned, result)])
    np.testing.assert_array_equal(both["a"] != 0, pruned["a"] != 0)


def test_a_delta_of_another_base_is_refused():
    base = model("float32")
    found = dst.delta(base, tuned(base, 0.5))
    nearly = base | {"c": base["c"].at[0].set(1e-30)}
    with pytest.raises(ValueError, match="delta 1 of 1 was made from another base"):
        dst.apply_deltas(nearly, [found])
    with pytest.raises(ValueError, match="another base"):
        dst.apply_deltas(dst.apply_deltas(base, [found]), [found])
    other = dst.delta(nearly, tuned(nearly, 0.5))
    with pytest.raises(ValueError, match="delta 2 of 2 was made from another base"):
        dst.revert_deltas(base, [found, other])
    two = dst.delta(base, base | {"c": base["c"] + 1})
    with pytest.raises(ValueError, match="Revert all deltas"):
        dst.revert_deltas(dst.apply_deltas(base, [found, two]), [found])
    renamed = {"x" if k == "c" else k: x for k, x in base.items()}
    assert len({fingerprint(x) for x in (base, nearly, renamed)}) == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_keep_every_bit_and_the_base(tmp_path, dtype):
    base = model(dtype)
    found = dst.delta(base, tuned(base, 0.5))
    dst.save_delta(tmp_path / "d.safetensors", found)
    again = dst.load_delta(tmp_path / "d.safetensors")
    assert again.base == found.base == fingerprint(base) and again.count == found.count
    applied = dst.apply_deltas(base, [found])
    equal(dst.apply_deltas(base, [again]), applied)
    equal(dst.revert_deltas(applied, [again]), base)


def test_bad_models_and_files_are_named(tmp_path):
    base = model("float32")
    with pytest.raises(ValueError, match=r"only one of both has \['n'\]"):
        dst.delta(base, {k: base[k] for k in "abc"})
    with pytest.raises(ValueError, match="c must be float32"):
        dst.delta(base, base | {"c": base["c"].astype(jnp.bfloat16)})
    with pytest.raises(ValueError, match="n: expected no change of int32"):
        dst.delta(base, base | {"n": base["n"] + 1})
    with pytest.raises(ValueError, match="b: expected finite weights"):
        dst.delta(base, base | {"b": base["b"] * jnp.nan})
    with pytest.raises(FileNotFoundError, match="no delta file"):
        dst.load_delta(tmp_path / "none")
    dst.save_masks(tmp_path / "masks", {"a": np.ones(3, bool)})
    with pytest.raises(ValueError, match="holds no delta"):
        dst.load_delta(tmp_path / "masks")
    arrays = {f"a/{k}": np.array([2, 1], np.uint32) for k in ("indices", "changes", "before")}
    save_file(arrays, tmp_path / "d", metadata={"dst delta": '{"base": "0", "leaves": ["a"]}'})
    with pytest.raises(ValueError, match="a must have ascending indices"):
        dst.load_delta(tmp_path / "d")
