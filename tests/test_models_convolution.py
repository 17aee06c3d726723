"""The convolution of our own against XLA's: values, gradients of any order and mode, batching."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import models
from flatjax.models import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
RNG = np.random.default_rng(0)


@pytest.fixture
def single_device(monkeypatch):
    """Several devices have XLA's, and the tests have eight."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def xla(images, kernel, strides, padding):
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT)


def ours(images, kernel, strides, padding):
    found = models.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT)
    assert "custom_jvp" in str(
        jax.make_jaxpr(
            lambda i, k: models.conv_general_dilated(
                i, k, strides, padding, dimension_numbers=LAYOUT
            )
        )(images, kernel)
    )
    return found


@pytest.mark.parametrize(
    ("count", "size", "window", "strides", "padding"),
    [
        (16, (6, 5), (3, 3), (1, 1), "SAME"),
        (7, (7, 6), (3, 3), (2, 2), ((1, 1), (1, 1))),
        (4, (6, 6), (2, 4), (1, 2), "VALID"),
        (2, (9, 8), (7, 7), (2, 2), ((3, 3), (3, 3))),
        (3, (5, 5), (3, 3), (2, 1), ((0, 2), (1, 0))),
    ],
)
def test_values_and_derivatives(single_device, count, size, window, strides, padding):
    images, kernel = draw(count, *size, 2), draw(*window, 2, 3)

    def results(conv):
        def loss(kernel, images):
            return jnp.sum(jnp.sin(conv(images, kernel, strides, padding)))

        gradient = jax.grad(loss)
        along = jnp.ones_like(kernel)
        return jax.jit(
            lambda kernel, images: {
                "value": conv(images, kernel, strides, padding),
                "gradients": jax.grad(loss, (0, 1))(kernel, images),
                "forward": jax.jvp(lambda k: loss(k, images), (kernel,), (along,))[1],
                "forward over reverse": jax.jvp(lambda k: gradient(k, images), (kernel,), (along,))[
                    1
                ],
                "reverse over reverse": jax.grad(lambda i: jnp.vdot(gradient(kernel, i), along))(
                    images
                ),
                "vmapped": jax.vmap(gradient)(
                    jnp.stack([kernel, 2 * kernel]), jnp.stack([images, -images])
                ),
            }
        )(kernel, images)

    expected, found = results(xla), results(ours)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), expected, found
    )


def test_layers_take_it(single_device):
    images = draw(4, 6, 6, 2)
    layers = [
        nn.Conv(3, (3, 3), strides=2, dtype=jnp.bfloat16, **options)
        for options in ({}, {"conv_general_dilated_cls": models.conv_general_dilated_cls})
    ]
    variables = layers[0].init(jax.random.key(0), images)
    loss = lambda layer: lambda v: jnp.sum(layer.apply(v, images).astype(jnp.float32) ** 2)
    expected, found = (jax.grad(loss(layer))(variables) for layer in layers)
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("images", "kernel", "options"),
    [
        ((2, 6, 6, 2), (1, 1, 2, 3), {}),
        ((2, 6, 6, 4), (3, 3, 2, 4), {"feature_group_count": 2}),
        ((2, 6, 6, 2), (3, 3, 2, 3), {"rhs_dilation": (2, 2)}),
        ((2, 2, 6, 6), (3, 2, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    ],
)
def test_all_else_is_left_to_xla(single_device, images, kernel, options):
    options = {"dimension_numbers": LAYOUT} | options
    images, kernel = draw(*images), draw(*kernel)
    found = models.conv_general_dilated(images, kernel, (1, 1), "VALID", **options)
    expected = jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", **options)
    np.testing.assert_array_equal(found, expected)
    assert not convolution._is_ours(images, kernel, options)


def test_several_devices_have_xlas():
    assert not convolution._is_ours(draw(2, 6, 6, 2), draw(3, 3, 2, 3), {})
