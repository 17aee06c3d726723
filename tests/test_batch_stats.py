"""Batch statistics measured on data, with linen's batch norm."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flatjax
from flatjax import batch_stats

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(0.5 * i, 1 + i, size=(32, 6)).astype(np.float32) for i in range(4)]


class Network(nn.Module):
    """Two layers with batch norm, the second of which sees what the first has normalised."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=True):
        """Logits."""
        for _ in range(2):
            x = nn.Dense(8)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)
            x = nn.relu(x)
        return nn.Dense(3)(x)


@jax.jit
def initialise(key):
    variables = Network().init(key, BATCHES[0])
    return variables["params"], variables["batch_stats"]


def updater(**options):
    """The forward pass in training mode."""

    @jax.jit
    def update_stats(params, stats, batch):
        variables = {"params": params, "batch_stats": stats}
        return Network(**options).apply(variables, batch, mutable=["batch_stats"])[1]["batch_stats"]

    return update_stats


PARAMS, STATS = initialise(jax.random.key(0))
update_stats = updater()
assert_close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=1e-6)


def by_hand(params, batches):
    """The mean over batches of each batch's mean and variance, layer by layer, in NumPy."""
    params = jax.tree.map(np.float64, params)
    sums = {f"BatchNorm_{i}": {"mean": 0.0, "var": 0.0} for i in range(2)}
    for x in batches:
        for i, stats in enumerate(sums.values()):
            dense, norm = params[f"Dense_{i}"], params[f"BatchNorm_{i}"]
            x = x @ dense["kernel"] + dense["bias"]
            mean, var = x.mean(axis=0), x.var(axis=0)
            stats["mean"] += mean / len(batches)
            stats["var"] += var / len(batches)
            x = np.maximum(norm["scale"] * (x - mean) / np.sqrt(var + 1e-5) + norm["bias"], 0)
    return sums


@pytest.mark.parametrize("count", [1, 4])
def test_reestimated_statistics_are_the_mean_over_batches(count):
    found = batch_stats.reestimate(update_stats, PARAMS, STATS, BATCHES[:count])
    assert_close(found, by_hand(PARAMS, BATCHES[:count]))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_momentum_does_not_matter(momentum):
    found = batch_stats.reestimate(updater(momentum=momentum), PARAMS, STATS, BATCHES)
    assert_close(found, by_hand(PARAMS, BATCHES))


def test_old_statistics_do_not_matter():
    """Only their shapes and dtypes."""
    expected = batch_stats.reestimate(update_stats, PARAMS, STATS, BATCHES)
    bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), STATS)
    found = batch_stats.reestimate(update_stats, PARAMS, bad, BATCHES)
    chex.assert_trees_all_equal(found, expected)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), STATS)
    found = batch_stats.reestimate(update_stats, PARAMS, half, BATCHES)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0, 1e4])
def test_precision_of_statistics_of_any_size(scale):
    """A variance of 1e8 as of 1e-6: neither is lost beside the other, nor beside 1."""
    batches = [scale * batch for batch in BATCHES]
    update_stats = updater(momentum=0.99)
    found = batch_stats.reestimate(update_stats, PARAMS, STATS, batches)["BatchNorm_0"]
    expected = by_hand(PARAMS, batches)["BatchNorm_0"]
    np.testing.assert_allclose(found["var"], expected["var"], rtol=1e-4)


def test_batches_may_be_a_generator_of_anything():
    update = lambda params, stats, batch: update_stats(params, stats, batch["image"])
    found = batch_stats.reestimate(update, PARAMS, STATS, ({"image": b} for b in BATCHES))
    assert_close(found, by_hand(PARAMS, BATCHES))


def test_the_network_in_evaluation_mode_is_then_the_one_of_training():
    """On the batch whose statistics were measured."""
    stats = batch_stats.reestimate(update_stats, PARAMS, STATS, BATCHES[1:2])
    variables = {"params": PARAMS, "batch_stats": stats}
    trained, _ = Network().apply(variables, BATCHES[1], mutable=["batch_stats"])
    evaluated = Network().apply(variables, BATCHES[1], train=False)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=1e-4)


@functools.cache
def three_networks():
    """Independent parameters and their own statistics, stacked."""
    params, stats = flatjax.stack_replicas(initialise, jax.random.split(jax.random.key(1), 3))
    update = jax.jit(flatjax.map_replicas(update_stats, in_axes=(0, 0, None)))
    return params, batch_stats.reestimate(update, params, stats, BATCHES)


def test_statistics_of_stacked_replicas():
    replicas = map(flatjax.unstack_replicas, three_networks())
    for params, stats in zip(*replicas, strict=True):
        assert_close(stats, by_hand(params, BATCHES))


def test_average_is_the_mean_over_replicas():
    stats = {"mean": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "var": jnp.array([[1.0], [2.0]])}
    expected = {"mean": np.array([2.0, 4.0]), "var": np.array([1.5])}
    assert_close(batch_stats.average(stats, replica_axis=0), expected)
    average = functools.partial(batch_stats.average, axis_name="replica")
    assert_close(jax.vmap(average, axis_name="replica", out_axes=None)(stats), expected)


def test_averaged_statistics_are_not_those_of_the_averaged_network():
    """Three independent networks average to one whose layers vary about three times less."""
    params, stats = three_networks()
    center = flatjax.replica_center(params, replica_axis=0)
    right = batch_stats.reestimate(update_stats, center, STATS, BATCHES)["BatchNorm_0"]["var"]
    wrong = batch_stats.average(stats, replica_axis=0)["BatchNorm_0"]["var"]
    assert wrong.mean() > 2 * right.mean()


def test_no_statistics_no_work():
    update = lambda params, stats, batch: pytest.fail("There is nothing to measure.")
    assert batch_stats.reestimate(update, PARAMS, {}, BATCHES) == {}


def test_batch_stats_refuse():
    with pytest.raises(ValueError, match="batches must hold at least one"):
        batch_stats.reestimate(update_stats, PARAMS, STATS, [])
    evaluating = lambda params, stats, batch: stats
    with pytest.raises(ValueError, match="update_stats_fn must move the statistics"):
        batch_stats.reestimate(evaluating, PARAMS, STATS, BATCHES)
    with pytest.raises(ValueError, match="axis_name or replica_axis"):
        batch_stats.average(STATS)
