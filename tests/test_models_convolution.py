"""The convolution of our own against XLA's: values, gradients of any order and mode, batching."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import devices
from fast import slow
from hypothesis import strategies as st
from properties import holds

import flatjax
from flatjax import models
from flatjax._cpu import _convolution, _gradients

LAYOUT = ("NHWC", "HWIO", "NHWC")
RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def xla(images, kernel, strides, padding):
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT)


def ours(images, kernel, strides, padding):
    found = models.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=LAYOUT)
    assert "convolution_maps" in str(
        jax.make_jaxpr(
            lambda i, k: models.conv_general_dilated(
                i, k, strides, padding, dimension_numbers=LAYOUT
            )
        )(images, kernel)
    )
    return found


@pytest.mark.parametrize(
    ("count", "size", "window", "strides", "padding", "channels"),
    [
        slow(16, (6, 5), (3, 3), (1, 1), "SAME", 2),
        (7, (7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), 40),
        (4, (6, 6), (2, 4), (1, 2), "VALID", 2),
        slow(2, (9, 8), (7, 7), (2, 2), ((3, 3), (3, 3)), 2),
        slow(3, (5, 5), (3, 3), (2, 1), ((0, 2), (1, 0)), 40),
        slow(4, (6, 7), (1, 1), (2, 2), "SAME", 2),
        slow(4, (6, 7), (1, 1), (1, 1), ((0, 0), (0, 0)), 2),
        slow(16, (6, 5), (3, 3), (1, 1), "SAME", 40),
        slow(7, (7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), 2),
        slow(4, (6, 6), (2, 4), (1, 2), "VALID", 40),
        slow(2, (9, 8), (7, 7), (2, 2), ((3, 3), (3, 3)), 40),
        slow(3, (5, 5), (3, 3), (2, 1), ((0, 2), (1, 0)), 2),
        slow(4, (6, 7), (1, 1), (2, 2), "SAME", 40),
        slow(4, (6, 7), (1, 1), (1, 1), ((0, 0), (0, 0)), 40),
    ],
)
def test_values_and_derivatives(count, size, window, strides, padding, channels):
    """Of filters with few weights and with many: channels are 2 or 40."""
    images, kernel = draw(count, *size, channels), draw(*window, channels, 3) / channels**0.5

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
                "vmapped": jax.vmap(jax.grad(loss, (0, 1)))(
                    jnp.stack([kernel, 2 * kernel]), jnp.stack([images, -images])
                ),
                "vmapped over kernels": jax.vmap(jax.grad(loss, (0, 1)), (2, None), 1)(
                    jnp.stack([kernel, 2 * kernel], 2), images
                ),
                "vmapped over images": jax.vmap(jax.grad(loss, (0, 1)), (None, 3))(
                    kernel, jnp.stack([images, -images], 3)
                ),
            }
        )(kernel, images)

    expected, found = results(xla), results(ours)
    atol = 1e-4 if channels == 2 else 5e-4  # longer sums
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=atol)


def test_layers_take_it():
    images = draw(4, 6, 6, 2)
    layers = [
        nn.Conv(3, (3, 3), strides=2, dtype=jnp.bfloat16, **options)
        for options in ({}, {"conv_general_dilated_cls": models.conv_general_dilated_cls})
    ]
    variables = jax.jit(layers[0].init)(jax.random.key(0), images)
    loss = lambda layer: lambda v: jnp.sum(layer.apply(v, images).astype(jnp.float32) ** 2)
    expected, found = (jax.jit(jax.grad(loss(layer)))(variables) for layer in layers)
    chex.assert_type(jax.tree.leaves((found, expected)), jnp.float32)
    chex.assert_trees_all_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("images", "kernel", "options"),
    [
        ((0, 6, 6, 2), (3, 3, 2, 3), {}),
        ((2, 6, 6, 0), (3, 3, 0, 3), {}),
        ((2, 6, 6, 2), (3, 3, 2, 0), {}),
        ((2, 6, 6, 4), (3, 3, 2, 4), {"feature_group_count": 2}),
        ((2, 6, 6, 2), (3, 3, 2, 3), {"rhs_dilation": (2, 2)}),
        ((2, 2, 6, 6), (3, 2, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
    ],
)
def test_all_else_is_left_to_xla(images, kernel, options):
    options = {"dimension_numbers": LAYOUT} | options
    images, kernel = draw(*images), draw(*kernel)
    found = models.conv_general_dilated(images, kernel, (1, 1), "VALID", **options)
    expected = jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", **options)
    np.testing.assert_array_equal(found, expected)
    assert not _convolution._is_ours(images, kernel, options)


def test_it_is_known_for_a_convolution():
    images, kernel = draw(2, 6, 6, 2), draw(3, 3, 2, 3)
    conv = lambda images, kernel: jnp.sum(ours(images, kernel, (1, 1), "SAME"))
    for fn in (conv, jax.grad(conv), jax.grad(conv, 1)):
        assert models.contains_convolution(jax.jit(fn), images, kernel)


def test_on_a_mesh_of_one_device():
    """Types inside `shard_map` say over which axes an array varies; images here do not."""
    images, kernels = draw(4, 6, 6, 8), draw(2, 3, 3, 8, 3)
    loss = lambda kernel, images: jnp.sum(ours(images, kernel, (1, 1), "SAME") ** 2)
    gradients = jax.grad(loss, (0, 1))
    mesh = flatjax.replica_mesh(2, devices(1))
    placed = [
        jax.jit(flatjax.map_replicas(gradients, in_axes=(0, None), **options))(kernels, images)
        for options in ({"mesh": mesh}, {"placement": "vmap"}, {"placement": "unroll"})
    ]
    chex.assert_trees_all_close(*placed, rtol=1e-4, atol=1e-3)


def test_several_devices_have_xlas():
    """A loop over images would gather a batch that is spread over them."""
    mesh = flatjax.replica_mesh(1, devices(2))
    place = lambda spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(spec))
    images, kernel = draw(4, 6, 6, 8), draw(3, 3, 8, 3)
    loss = lambda kernel, images: jnp.sum(ours(images, kernel, (1, 1), "SAME") ** 2)
    gradients = jax.grad(loss, (0, 1))
    sharded = jax.jit(gradients, in_shardings=(place(None), place("data")))
    compiled = sharded.lower(kernel, images).compile().as_text()
    assert "all-gather" not in compiled
    assert " while(" not in compiled
    for a, b in zip(sharded(kernel, images), jax.jit(gradients)(kernel, images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("platform", "channels"), [("cuda", 65), ("tpu", 8)])
@pytest.mark.parametrize("precision", [None, "highest"])
def test_other_platforms_have_xlas(platform, channels, precision):
    """The same convolutions as of `jax.lax`, in gradients under `vmap` too."""
    images, kernels = draw(2, 4, 6, 6, channels), draw(2, 3, 3, channels, 3)

    def convolutions(conv):
        options = {"dimension_numbers": LAYOUT, "precision": precision}
        loss = lambda k, x: jnp.sum(conv(x, k, (2, 2), "SAME", **options) ** 2)

        @jax.jit
        def gradients(kernels, images):
            with jax.default_matmul_precision("high"):
                return jax.vmap(jax.grad(loss, (0, 1)))(kernels, images)

        lowered = gradients.trace(kernels, images).lower(lowering_platforms=(platform,))
        lines = lowered.as_text().splitlines()
        return sorted(re.sub(r"%\w+", "%", line) for line in lines if "convolution" in line)

    assert convolutions(models.conv_general_dilated) == convolutions(jax.lax.conv_general_dilated)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_single_gpu_has_products_where_channels_are_few(num_devices):
    images, kernels = draw(2, 4, 6, 6, 8), draw(2, 3, 3, 8, 3)
    mesh = flatjax.replica_mesh(1, devices(num_devices))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    loss = lambda k, x: jnp.sum(ours(x, k, (1, 1), "SAME") ** 2)
    gradients = jax.jit(jax.vmap(jax.grad(loss, (0, 1))), in_shardings=(None, spread))
    text = gradients.trace(kernels, images).lower(lowering_platforms=("cuda",)).as_text()
    assert ("stablehlo.convolution" in text) == (num_devices > 1)
    assert ("stablehlo.dot_general" in text) == (num_devices == 1)


@pytest.mark.parametrize("dtype", ["float32", slow("bfloat16")])
@pytest.mark.parametrize("of", ["maps", "images", "kernel"])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [((3, 3), (1, 1), ((1, 1), (1, 1))), ((5, 5), (2, 2), ((2, 2), (2, 2)))],
)
def test_products_of_patches_are_convolutions(of, window, strides, padding, dtype):
    geometry = _gradients.Geometry((8, 9), window, strides, padding, None)
    rows, columns = _gradients._map_pixels(geometry)
    shapes = {"images": (4, 8, 9, 3), "kernel": (*window, 3, 5), "maps": (4, rows, columns, 5)}
    operands = [draw(*shape).astype(dtype) for name, shape in shapes.items() if name != of]
    found, expected = (
        jax.jit(functools.partial(fn, of, geometry=geometry))(*operands)
        for fn in (_gradients.by_patches, _gradients.by_xla)
    )
    assert (found.shape, found.dtype) == (shapes[of], jnp.dtype(dtype))
    assert _gradients.has_few_patches(of, *operands, geometry)
    tolerance = 1e-4 if dtype == "float32" else 0.05
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(
        found.astype("float32"), expected.astype("float32"), atol=tolerance * scale
    )


def test_half_precision_sums_in_float32():
    """The kernel's gradient is a sum over images and pixels, here of ones: 2^14 of them."""
    images, kernel = jnp.ones((64, 16, 16, 1), jnp.bfloat16), jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda kernel: ours(images, kernel, (1, 1), "SAME").sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient.squeeze()) == 2**14


def test_replicas_in_loops_use_the_fast_convolution():
    """XLA's CPU backend is fast without groups and with the kernel's channels in their order."""
    images, kernels = draw(3, 8, 6, 6, 8), draw(3, 3, 3, 8, 8)

    def gradient(kernel, images):
        conv = lambda kernel: ours(jnp.sin(ours(images, kernel, (1, 1), "SAME")), *rest(kernel))
        return jax.grad(lambda kernel: jnp.sum(conv(kernel) ** 2))(kernel)

    rest = lambda kernel: (kernel, (2, 2), "SAME")
    step = lambda kernels, _: (kernels - 0.01 * jax.vmap(gradient)(kernels, images), None)
    loop = jax.jit(lambda kernels: jax.lax.scan(step, kernels, length=3)[0])
    lines = loop.lower(kernels).compile().as_text().splitlines()
    convolutions = [line for line in lines if " convolution(" in line]
    assert len(convolutions) == 3 * (2 + 1)  # forward twice, and once to the inner maps
    assert all("dim_labels=b01f_01io->b01f" in line for line in convolutions)
    assert not any("group_count" in line for line in convolutions)


def results_of(conv, images, kernel, *where, **options):
    """Value and both gradients; the name of the error where there is none."""
    try:
        fn = lambda images, kernel: conv(
            images, kernel, *where, dimension_numbers=LAYOUT, **options
        )
        value, pull_back = jax.vjp(fn, images, kernel)
    except (TypeError, ValueError, NotImplementedError) as error:
        return type(error).__name__
    return value, *pull_back(jnp.cos(jnp.arange(1.0 * value.size)).reshape(value.shape))


EMPTY = [
    ((1, 2, 1, 1), (4, 1, 1, 1), (1, 1), "VALID"),
    ((1, 1, 1, 1), (2, 1, 1, 1), (2, 1), "VALID"),
    ((1, 3, 3, 1), (2, 1, 1, 1), (1, 2), ((0, 0), (-1, -2))),
    ((2, 0, 3, 1), (1, 1, 1, 2), (1, 1), "SAME"),
]


@pytest.mark.parametrize(("images", "kernel", "strides", "padding"), EMPTY)
def test_empty_maps(images, kernel, strides, padding):
    operands = draw(*images), draw(*kernel)
    found = results_of(models.conv_general_dilated, *operands, strides, padding)
    expected = results_of(jax.lax.conv_general_dilated, *operands, strides, padding)
    assert found[0].size == 0
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.slow
def test_small_shapes():
    """Value and gradients, or the error, are those of XLA, of nothing too."""

    def check(count, pixels, window, channels, strides, padding, dilation, groups):
        images = draw(count, *pixels, groups * channels[0])
        kernel = draw(*window, channels[0], groups * channels[1])
        options = {"rhs_dilation": dilation, "feature_group_count": groups}
        found, expected = (
            results_of(conv, images, kernel, strides, padding, **options)
            for conv in (models.conv_general_dilated, jax.lax.conv_general_dilated)
        )
        if isinstance(expected, str):
            assert found == expected
        else:
            chex.assert_trees_all_equal_shapes(found, expected)
            chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)

    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    holds(
        check,
        examples=12,
        count=st.integers(0, 2),
        pixels=pair(0, 3),
        window=pair(1, 3),
        channels=pair(0, 2),
        strides=pair(1, 2),
        padding=st.sampled_from(["SAME", "VALID"]) | st.tuples(pair(-1, 2), pair(-1, 2)),
        dilation=st.sampled_from([(1, 1), (1, 1), (2, 1)]),
        groups=st.sampled_from([1, 1, 2]),
    )
