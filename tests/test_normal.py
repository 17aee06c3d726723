"""Normal numbers: JAX's own, bit for bit."""

import jax
import numpy as np
import pytest
from fast import only

from flatjax._cpu import normal

SIZES = (0, 1, 2, 7, 1000)


def same(key, size):
    expected = jax.random.normal(key, (size,))
    np.testing.assert_array_equal(normal(key, size), expected)
    found = jax.jit(normal, static_argnums=1)(key, size)
    assert found.dtype == expected.dtype
    # Compiled, a polynomial may be contracted to other roundings.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", only([0, 7], SIZES))
@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_keys_of_both_styles(make, size):
    same(make(3), size)
    same(jax.random.fold_in(make(3), 2**31), size)


def test_stacked_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.jit(jax.vmap(lambda key: normal(key, 9)))(keys)
    np.testing.assert_array_equal(found, [jax.random.normal(key, (9,)) for key in keys])


def test_it_is_written_out_for_a_cpu():
    def lowered(key, platform):
        traced = jax.jit(lambda key: normal(key, 9)).trace(key)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    key = jax.random.key(0)
    by_jax = jax.jit(lambda key: jax.random.normal(key, (9,))).trace(key)
    rounds = lambda text: text.count("stablehlo.xor")
    for platform in ("cuda", "tpu"):
        expected = by_jax.lower(lowering_platforms=(platform,)).as_text()
        assert rounds(lowered(key, platform)) == rounds(expected)
    assert rounds(lowered(key, "cpu")) > rounds(by_jax.lower(lowering_platforms=("cpu",)).as_text())
    assert "rng_bit_generator" in lowered(jax.random.key(0, impl="rbg"), "cpu")


@pytest.mark.parametrize("stacked", [False, True])
def test_uniform_numbers_are_made_first(stacked):
    """The compiler does not know that the conditional between the passes is always taken."""
    draw = lambda key: normal(key, 1000)
    key = jax.random.key(0)
    placed = (jax.vmap(draw), jax.random.split(key, 2)) if stacked else (draw, key)
    compiled = jax.jit(placed[0]).lower(placed[1]).compile().as_text()
    assert compiled.count(" conditional(") == 1


def test_what_is_not_written_out_is_left_to_jax():
    same(jax.random.key(0, impl="rbg"), 9)
    with jax.enable_x64(True):
        same(jax.random.key(0), 9)
    with jax.threefry_partitionable(False):
        same(jax.random.key(0), 9)
