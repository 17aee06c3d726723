"""What all deep convolutional networks must do, on tiny ones."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only
from half_precision import assert_only_layers_are_half

from flatjax import models

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(8) % 5

# A model, and whether its convolutions start with a variance of 2 / fan-in or 2 / fan-out.
TINY = {
    "resnet50": (models.resnet50(stage_sizes=(1, 1), width=4), "out"),
    "resnet110": (models.resnet110(stage_sizes=(1, 1), width=8), "out"),
    "densenet": (models.DenseNet(stage_sizes=(1, 1), growth=4), "in"),
    "pyramidnet": (models.PyramidNet(depth=11, alpha=8, width=8), "out"),
}
each_network = pytest.mark.parametrize("name", TINY)
each_network_if_slow = pytest.mark.parametrize("name", only(["resnet110"], TINY))


def network(name, **options):
    return TINY[name][0].clone(num_classes=5, **options)


@functools.cache
def variables_of(name):
    init = jax.jit(functools.partial(network(name).init, train=False))
    # With this generator the program compiles five times as fast as with the default one.
    return init(jax.random.key(0, impl="rbg"), IMAGES[:1])


@functools.cache
def training(name):
    """The loss with new statistics, and its gradient; compiled once for all tests."""
    model = network(name)

    def loss(params, stats, key):
        variables = {"params": params, "batch_stats": stats}
        logits, updates = model.apply(
            variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        loss = -jnp.mean(jax.nn.log_softmax(logits)[np.arange(8), LABELS])
        return loss, updates["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@each_network_if_slow
def test_a_step_along_finite_gradients_lowers_the_loss(name):
    variables = variables_of(name)
    params, stats, key = variables["params"], variables["batch_stats"], jax.random.key(1)
    (loss, _), gradient = training(name)(params, stats, key)
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert path[-1].key != "kernel" or np.linalg.norm(leaf) > 1e-4, path
    params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    (after, _), _ = training(name)(params, stats, key)
    assert after < loss


@pytest.mark.slow
@each_network
def test_running_statistics_have_a_momentum_of_nine_tenths(name):
    params, stats = variables_of(name)["params"], variables_of(name)["batch_stats"]
    filled = lambda value: jax.tree.map(lambda leaf: jnp.full_like(leaf, value), stats)
    update = lambda value: training(name)(params, filled(value), jax.random.key(1))[0][1]
    zero, one = update(0.0), update(1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b - a, 0.9, atol=1e-5), zero, one)
    for path, leaf in jax.tree_util.tree_leaves_with_path(zero):
        assert path[-1].key == "mean" or np.all(leaf > 1e-4), path


@each_network_if_slow
def test_evaluation_needs_no_random_numbers_and_half_precision_is_close(name):
    variables = variables_of(name)
    apply = lambda dtype: jax.jit(functools.partial(network(name, dtype=dtype).apply, train=False))
    logits = apply("float32")(variables, IMAGES)
    assert logits.shape == (8, 5)
    half = apply("bfloat16")(variables, IMAGES)
    assert half.dtype == jnp.float32
    error = np.abs(half - logits).max() / np.abs(logits).max()
    assert 0 < error < 0.03  # rounding to eight bits, some twenty times


@each_network
def test_half_precision_has_float32_variables(name):
    assert_only_layers_are_half(network(name, dtype="bfloat16"), IMAGES)


@each_network_if_slow
def test_variance_of_the_initial_weights(name):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables_of(name)["params"]):
        kind, leaf = path[-1].key, np.asarray(leaf)
        if kind != "kernel":
            assert np.all(leaf == (1 if kind == "scale" else 0)), path
            continue
        *spatial, inputs, outputs = leaf.shape
        if spatial:
            fan = inputs if TINY[name][1] == "in" else outputs
            expected = 2 / (fan * np.prod(spatial))
        else:
            assert np.abs(leaf).max() <= inputs**-0.5
            expected = 1 / (3 * inputs)
        # The sample variance of n normal numbers is off by sqrt(2/n) of itself; allow 4 of these.
        assert abs(np.mean(leaf**2) / expected - 1) < 4 * np.sqrt(2 / leaf.size), path
