"""Depthwise convolution against a loop over kernel and pixels, in both of its forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow

from flatjax._cpu import _depthwise
from flatjax.models._depthwise import DepthwiseConv

RNG = np.random.default_rng(0)


def numpy_terms(x, kernel, stride):
    """Every product of the definition: (b, i, j), (u, v), and the pixel of x, if not beyond."""
    (height, width), size = x.shape[1:3], len(kernel)
    border = (size - 1) // 2
    for i, j in itertools.product(range(-(-height // stride)), range(-(-width // stride))):
        for u, v in itertools.product(range(size), repeat=2):
            row, column = stride * i + u - border, stride * j + v - border
            if 0 <= row < height and 0 <= column < width:
                yield (slice(None), i, j), (u, v, 0), (slice(None), row, column)


@pytest.mark.parametrize("form", ["depthwise_conv", "_grouped"])  # the former has CPU's, here
@pytest.mark.parametrize(
    ("size", "stride", "pixels"), [(3, 1, (5, 6)), (3, 2, (6, 7)), (5, 2, (8, 5)), (5, 1, (2, 1))]
)
def test_values_and_gradients_are_those_of_the_loop(form, size, stride, pixels):
    x = RNG.normal(size=(2, *pixels, 3)).astype(np.float32)
    kernel = RNG.normal(size=(size, size, 1, 3)).astype(np.float32)
    shape = (2, -(-pixels[0] // stride), -(-pixels[1] // stride), 3)
    g = RNG.normal(size=shape).astype(np.float32)
    y, dx, dkernel = np.zeros_like(g), np.zeros_like(x), np.zeros_like(kernel)
    for to, weight, pixel in numpy_terms(x, kernel, stride):
        y[to] += x[pixel] * kernel[weight]
        dx[pixel] += g[to] * kernel[weight]
        dkernel[weight] += (g[to] * x[pixel]).sum(0)

    convolve = lambda x, kernel: getattr(_depthwise, form)(x, kernel, stride)

    @jax.jit
    def values_and_gradients(x, kernel, g):
        values, pull_back = jax.vjp(convolve, x, kernel)
        return values, *pull_back(g)

    for found, expected in zip(values_and_gradients(x, kernel, g), (y, dx, dkernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_rounds_once():
    x = RNG.normal(size=(1, 6, 6, 4)).astype(jnp.bfloat16)
    kernel = RNG.normal(size=(5, 5, 1, 4)).astype(jnp.bfloat16)
    found = _depthwise.depthwise_conv(x, kernel)
    exact = _depthwise.depthwise_conv(x.astype(np.float32), kernel.astype(np.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), exact, rtol=2**-8)


def test_kernels_start_with_a_variance_of_two_over_their_size():
    layer = DepthwiseConv(5, dtype="bfloat16")
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 400)))
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.dtype == np.float32
    # The sample variance of n normal numbers is off by sqrt(2/n) of itself; allow 4 of these.
    assert abs(kernel.var() * 25 / 2 - 1) < 4 * np.sqrt(2 / kernel.size)


@pytest.mark.parametrize("shape", [(0, 3, 3, 2), (2, 0, 3, 2), (2, 3, 0, 2), (1, 1, 1, 2)])
@pytest.mark.parametrize("size", [3, slow(5)])
def test_nothing_and_less_than_a_kernel(shape, size):
    """Empty maps, and those smaller than the kernel: as by XLA, value and gradients."""
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 2)), jnp.float32)

    def results(conv):
        value, pull_back = jax.vjp(lambda x, k: conv(x, k, 2), maps, kernel)
        return value, *pull_back(jnp.cos(value))

    for ours, theirs in zip(
        results(_depthwise.depthwise_conv), results(_depthwise._grouped), strict=True
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
