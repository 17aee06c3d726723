"""ShakeDrop against loops in NumPy, and the distribution of what it draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax.models._shake_drop import ShakeDrop, shake_drop

RNG = np.random.default_rng(0)


def factors(layer, number, key=0):
    """The factors of the values and of the gradients for each image, by what they do to ones."""
    ones = jnp.ones((number, 1, 1, 1))
    call = lambda x: layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(key)})
    values, pull_back = jax.vjp(call, ones)
    return np.asarray(values).ravel(), np.asarray(pull_back(ones)[0]).ravel()


@pytest.mark.parametrize("number", [6, 1], ids=["image", "batch"])
def test_values_and_gradients_are_those_of_a_loop(number):
    x, g = RNG.normal(size=(2, 6, 3, 2, 4)).astype(np.float32)
    gate = np.array([1, 0, 0, 1, 0, 0], np.float32)[-number:]
    alpha = RNG.uniform(-1, 1, number).astype(np.float32)
    beta = RNG.uniform(0, 1, number).astype(np.float32)
    expected, expected_gradient = np.empty_like(x), np.empty_like(x)
    for image in range(6):
        i = image if number == 6 else 0
        expected[image] = x[image] if gate[i] else alpha[i] * x[image]
        expected_gradient[image] = g[image] if gate[i] else beta[i] * g[image]
    draws = [draw.reshape(number, 1, 1, 1) for draw in (gate, alpha, beta)]
    values, pull_back = jax.vjp(lambda x: shake_drop(x, *draws), x)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull_back(g)[0], expected_gradient, rtol=1e-6)
    # Forward-mode differentiation, which Hessian-vector products use, has the same derivative.
    _, tangent = jax.jvp(lambda x: shake_drop(x, *draws), (x,), (g,))
    np.testing.assert_allclose(tangent, expected_gradient, rtol=1e-6)


def test_half_precision_is_kept():
    x = jnp.ones((2, 1, 1, 1), jnp.bfloat16)
    layer = ShakeDrop(0.5)
    assert layer.apply({}, x, train=False).dtype == jnp.bfloat16
    rngs = {"dropout": jax.random.key(0)}
    assert layer.apply({}, x, train=True, rngs=rngs).dtype == jnp.bfloat16


@pytest.mark.slow
def test_images_are_drawn_independently():
    number, p = 4000, 0.3
    values, gradients = factors(ShakeDrop(p, alpha=(-1, 0.5), beta=(0.25, 1)), number)
    kept = values == 1
    np.testing.assert_array_equal(kept, gradients == 1)
    assert abs(kept.mean() - p) < 4 * np.sqrt(p * (1 - p) / number)
    alpha, beta = values[~kept], gradients[~kept]
    for draws, low, high in [(alpha, -1, 0.5), (beta, 0.25, 1)]:
        uniform = (draws - low) / (high - low)
        assert uniform.min() > -1e-6
        assert uniform.max() < 1 + 1e-6
        counts, _ = np.histogram(uniform, bins=4, range=(-1e-6, 1 + 1e-6))
        quarter = len(draws) / 4
        assert np.abs(counts - quarter).max() < 4 * np.sqrt(quarter)
    assert abs(np.corrcoef(alpha, beta)[0, 1]) < 4 / np.sqrt(len(alpha))


def test_a_batch_is_drawn_at_once():
    keep = []
    for key in range(20):
        values, gradients = factors(ShakeDrop(0.5, level="batch"), 5, key)
        assert len(set(values)) == len(set(gradients)) == 1
        keep.append(values[0] == 1)
    assert 0 < sum(keep) < 20


def test_evaluation_is_the_expectation():
    layer, number = ShakeDrop(0.75, alpha=(-0.5, 1)), 4000
    values, _ = factors(layer, number)
    x = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)
    evaluated = layer.apply({}, x, train=False)  # needs no random stream
    np.testing.assert_allclose(evaluated, (0.75 + 0.25 * 0.25) * x, rtol=1e-6)
    error = values.std() / np.sqrt(number)
    assert abs(values.mean() - (0.75 + 0.25 * 0.25)) < 4 * error


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep_probability": 1.5}, ValueError, r"keep_probability must be in \[0, 1\], got 1.5"),
        ({"keep_probability": True}, TypeError, "keep_probability must be a number, got True"),
        ({"alpha": (0, 1, 2)}, TypeError, "alpha must be a pair of numbers"),
        ({"alpha": (0, "1")}, TypeError, r"alpha\[1\] must be a number, got '1'"),
        ({"beta": (0, float("inf"))}, ValueError, r"beta\[1\] must be finite, got inf"),
        ({"level": "channel"}, ValueError, "level must be one of 'image', 'batch'; got 'channel'"),
    ],
)
def test_shake_drop_refuses_bad_options(options, error, message):
    constructor = functools.partial(ShakeDrop, keep_probability=0.5)
    with pytest.raises(error, match=message):
        constructor(**options)
