"""PyramidNet: its widths and size, the logits of PyTorch, and ShakeDrop in its place."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_logits
from fast import slow

from flatjax import models

N = 2  # blocks of a stage
SMALL = models.PyramidNet(depth=9 * N + 2, alpha=14)


def torch_name(modules):
    """The name in `torch_reference/pyramidnet.py` of a module of ours."""
    if len(modules) == 1:
        names = {"stem_conv": "stem.0", "stem_norm": "stem.1", "logits": "fc", "norm": "norm"}
        return names[modules[0]]
    first, layer = modules
    stage, block = map(int, re.fullmatch(r"stage(\d+)_block(\d+)", first).groups())
    order = ["norm1", "conv1", "norm2", "relu", "conv2", "norm3", "relu", "conv3", "norm4"]
    return f"blocks.{stage * N + block}.branch.{order.index(layer)}"


def size_by_hand(channels, classes):
    """Number of parameters: convolutions, two for every channel of a norm, the dense layer."""
    total, inputs = 27 * 16 + 2 * 16, 16
    for width in channels:
        convolutions = inputs * width + 9 * width * width + width * 4 * width
        total += convolutions + 2 * (inputs + width + width + 4 * width)
        inputs = 4 * width
    return total + 2 * inputs + (inputs + 1) * classes


def test_number_of_parameters():
    # Tracing the large network takes 15 s: the small one shows that the formula is its.
    reference = torch_logits.reference("pyramidnet")
    assert torch_logits.count(SMALL, 16) == size_by_hand(SMALL.channels(), 10)
    assert torch_logits.count(SMALL, 16) == reference["pyramidnet20.parameters"]
    channels = models.pyramidnet272().channels()
    assert len(channels) == 90
    assert channels[-1] == 216
    assert size_by_hand(channels, 10) == reference["pyramidnet272.parameters"] == 26_210_842
    assert size_by_hand(channels, 100) == 26_288_692


@pytest.mark.parametrize("mode", ["eval", slow("train")])
def test_logits_are_those_of_torch(mode):
    # The reference shakes nothing when training; expectations count when not.
    model = SMALL if mode == "eval" else SMALL.clone(final_keep_probability=1.0)
    expected = torch_logits.reference("pyramidnet")[f"pyramidnet20.{mode}"]
    torch_logits.assert_logits_agree(expected, model, 16, torch_name, train=mode == "train")


def test_shake_drop_is_in_every_block_and_less_likely_to_keep_later_ones():
    model = SMALL.clone(
        final_keep_probability=0.4,
        shake_alpha=(-0.5, 1),
        shake_beta=(0.25, 0.5),
        shake_level="batch",
    )
    layers, paths = [], set()

    def collect(next_function, args, kwargs, context):
        if isinstance(context.module, models.ShakeDrop):
            layers.append(context.module)
            paths.add(context.module.path)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(collect):
        torch_logits.init_shapes.__wrapped__(model, 8)
    keep = [layer.keep_probability for layer in layers]
    np.testing.assert_allclose(keep, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert {(layer.alpha, layer.beta, layer.level) for layer in layers} == {
        ((-0.5, 1.0), (0.25, 0.5), "batch")
    }
    assert len(paths) == 6  # linen derives the random numbers of a module from its path


def test_without_shake_drop_training_needs_no_random_stream():
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)

    def train(model):
        variables = torch_logits.init_shapes(model, 8)
        call = lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
        return jax.eval_shape(call, variables, images)

    model = models.PyramidNet(depth=11, alpha=3)
    train(model.clone(final_keep_probability=1.0))
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        train(model)


@pytest.mark.parametrize("shape", [(1, 8, 10, 3), (1, 9, 8, 3)])
def test_pyramidnet_refuses_sizes_that_do_not_halve_twice(shape):
    with pytest.raises(ValueError, match=r"divisible by 4, got \(1, "):
        SMALL.init(jax.random.key(0), np.ones(shape, np.float32), train=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"depth": 2}, ValueError, r"depth must be 9 n \+ 2 with n >= 1, got 2"),
        ({"depth": 100}, ValueError, r"depth must be 9 n \+ 2 with n >= 1, got 100"),
        ({"alpha": 0}, ValueError, "alpha must be >= 1, got 0"),
        ({"width": 1.5}, TypeError, "width must be an int, got 1.5"),
        ({"final_keep_probability": 2}, ValueError, r"final_keep_probability must be in \[0, 1\]"),
        ({"shake_alpha": 1}, TypeError, "shake_alpha must be a pair of numbers, got 1"),
        ({"shake_beta": (1, 0)}, ValueError, "shake_beta must have the lower end first"),
        ({"shake_level": "pixel"}, ValueError, "shake_level must be one of 'image', 'batch'"),
    ],
)
def test_pyramidnet_refuses_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        models.PyramidNet(**options)


def residuals(model, batch=128):
    """Bytes that a step keeps for its backward pass, and the step, not compiled."""
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), "float32")
    init = lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    variables = jax.eval_shape(init, jax.random.key(0))

    def backward(params, stats, images):
        variables = {"params": params, "batch_stats": stats}
        shake = {"dropout": jax.random.key(0)}
        loss = lambda params: model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"], rngs=shake
        )[0].sum()
        return jax.vjp(loss, params)[1]

    kept = jax.eval_shape(backward, variables["params"], variables["batch_stats"], images)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.slow
@pytest.mark.claim("docs/results/deep_networks.md", "a seventh of that")
def test_blocks_that_are_computed_anew_keep_a_seventh():
    assert residuals(SMALL.clone(remat=True)) < residuals(SMALL) / 6


@pytest.mark.slow
def test_blocks_that_are_computed_anew_change_no_number():
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    key = jax.random.key(0)

    def step(model):
        """Initial variables, loss, gradient and statistics: one program."""
        variables = model.init(key, images[:1], train=False)

        def loss(params):
            logits, new = model.apply(
                variables | {"params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return (logits**2).sum(), new

        return variables, jax.value_and_grad(loss, has_aux=True)(variables["params"])

    plain, anew = (jax.jit(step, static_argnums=0)(SMALL.clone(remat=on)) for on in (False, True))
    assert jax.tree.structure(plain) == jax.tree.structure(anew)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, anew)


def test_remat_is_a_bool():
    with pytest.raises(TypeError, match="remat"):
        models.PyramidNet(remat="yes")
