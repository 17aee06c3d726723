"""Pooling is that of flax: values, gradients, ties, inputs that are computed twice."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from test_models import numpy_pool, random_images

from flatjax import models


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (7, 4), (2, 3)])
@pytest.mark.parametrize("window", [1, 2])
def test_pooling_is_flax_pooling(size, window):
    x = random_images(3, *size, 2)
    expected = nn.max_pool(x, (window, window), strides=(window, window))
    np.testing.assert_array_equal(models.max_pool(x, window), expected)
    np.testing.assert_array_equal(models.max_pool(x, window), numpy_pool(x, window))
    expected = nn.avg_pool(x, (window, window), strides=(window, window))
    np.testing.assert_allclose(models.mean_pool(x, window), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [2, 3])
def test_gradient_of_pooling_is_that_of_flax(window):
    x = random_images(2, 7, 6, 3)  # no ties
    weight = random_images(2, 7 // window, 6 // window, 3, seed=1)
    ours = lambda x: jnp.sum(weight * models.max_pool(x, window))
    theirs = lambda x: jnp.sum(weight * nn.max_pool(x, (window,) * 2, strides=(window,) * 2))
    np.testing.assert_array_equal(*(jax.jit(jax.grad(pool))(x) for pool in (ours, theirs)))


def test_pooling_splits_the_gradient_of_ties():
    x = jnp.array([[1.0, 1.0], [0.0, 1.0]])[..., None]
    gradient = jax.jit(jax.grad(lambda x: models.max_pool(x).sum()))(x)[..., 0]
    np.testing.assert_array_equal(gradient, [[1 / 4, 1 / 4], [0, 1 / 2]])


@pytest.mark.slow
def test_the_gradient_of_pooling_is_finite_where_its_input_is_computed_twice():
    """And rounded differently, as XLA does behind batch norm when it optimizes least."""

    def loss(x):
        x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * 1.1 + 0.1
        return jnp.sum(jnp.sin(models.max_pool(nn.relu(x))))

    x = random_images(40, 8, 8, 16)
    options = {"xla_backend_optimization_level": 0}
    if jaxlib.__version__.startswith("0.10."):
        options["xla_cpu_use_fusion_emitters"] = True  # as it is outside of these tests
    compiled = jax.jit(jax.grad(loss), compiler_options=options)(x)
    with jax.disable_jit():
        expected = jax.grad(loss)(x)
    np.testing.assert_allclose(compiled, expected, atol=1e-5)


def test_pooling_takes_any_leading_axes():
    x = random_images(2, 3, 5, 4, 2)
    np.testing.assert_array_equal(models.max_pool(x), jax.vmap(models.max_pool)(x))
    np.testing.assert_array_equal(models.max_pool(x[0, 0]), models.max_pool(x)[0, 0])


@pytest.mark.parametrize(
    ("x", "window", "error", "message"),
    [
        (np.ones((4, 4)), 2, ValueError, r"x must have shape \(\.\.\., H, W, C\).*\(4, 4\)"),
        (np.ones((1, 1, 4, 1)), 2, ValueError, r"H and W >= 2, got \(1, 1, 4, 1\)"),
        (np.ones((4, 4, 1)), 0, ValueError, "window must be >= 1, got 0"),
        (np.ones((4, 4, 1)), 2.0, TypeError, "window must be an int, got 2.0"),
    ],
)
def test_pooling_refuses_bad_input(x, window, error, message):
    for pool in (models.max_pool, models.mean_pool):
        with pytest.raises(error, match=message):
            pool(x, window)
