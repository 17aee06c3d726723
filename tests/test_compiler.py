"""What the compiler has got wrong: sums of products, on CPUs, in jax 0.10.2 (jax-ml/jax#39103)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize(("units", "inputs", "batch"), [(9, 60, 500), (9, 784, 100), (3, 30, 500)])
def test_the_part_across_a_direction_is_computed_right(units, inputs, batch):
    """It is what priors, spheres and Gram-Schmidt are made of."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(units, inputs)).astype(np.float32)
    z = rng.normal(size=(batch, units, inputs)).astype(np.float32)
    across = jax.jit(lambda w, z: z - w * jnp.sum(w * z, axis=-1, keepdims=True))
    expected = z - w * np.sum(w * z, axis=-1, keepdims=True)
    np.testing.assert_allclose(across(w, z), expected, atol=1e-2)


def test_sums_of_squares_after_a_product_are_computed_right():
    x = np.zeros((32_769, 3), np.float32)
    x[:, 0] = np.arange(len(x)) % 1000
    square = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))
    np.testing.assert_allclose(square(x), np.sum(x**2, axis=1), rtol=1e-6)
