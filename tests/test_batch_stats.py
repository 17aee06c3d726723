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


@pytest.mark.claim("docs/faq.md", "test_averaged_statistics_are_not_those_of_the_averaged_network")
def test_averaged_statistics_are_not_those_of_the_averaged_network():
    """Three independent networks average to one whose layers vary about three times less."""
    params, stats = three_networks()
    center = flatjax.replica_center(params, replica_axis=0)
    right = batch_stats.reestimate(update_stats, center, STATS, BATCHES)["BatchNorm_0"]["var"]
    wrong = batch_stats.average(stats, replica_axis=0)["BatchNorm_0"]["var"]
    assert wrong.mean() > 2 * right.mean()


def test_averages_of_counters_and_flags():
    """They have no mean: 2^25 + 1 is no float32."""
    large = 2**25 + 1
    stats = {
        "mean": jnp.array([[1.0], [3.0]]),
        "count": jnp.array([large, large]),
        "first": jnp.array([False, False]),
    }
    average = functools.partial(batch_stats.average, axis_name="replica")
    for found in (
        batch_stats.average(stats, replica_axis=0),
        jax.vmap(average, axis_name="replica", out_axes=None)(stats),
    ):
        chex.assert_trees_all_equal(
            found, {"mean": jnp.array([2.0]), "count": jnp.array(large), "first": jnp.array(False)}
        )
    with pytest.raises(ValueError, match="stats must not hold random keys"):
        batch_stats.average({"key": jax.random.split(jax.random.key(0))}, replica_axis=0)


# Updates of one mean, whose batches are 5 and 7.
SCALAR_BATCHES = [jnp.full(4, 5.0), jnp.full(4, 7.0)]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_statistics_in_half_precision(dtype, momentum):
    """The update is made in float32, where a momentum of 0.99 is known to more than 36%."""
    update = lambda params, stats, batch: momentum * stats + (1 - momentum) * batch.mean()
    found = batch_stats.reestimate(update, None, jnp.zeros(3, dtype), SCALAR_BATCHES)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.astype(float), 6.0, rtol=1e-2 if dtype != jnp.float32 else 1e-4
    )


def test_an_update_that_rounds_its_momentum_away_is_refused():
    def update(params, stats, batch):
        return (0.99 * stats + 0.01 * batch.mean()).astype(jnp.bfloat16)

    with pytest.raises(ValueError, match="must not round the statistics to bfloat16"):
        batch_stats.reestimate(update, None, jnp.zeros(3, jnp.bfloat16), SCALAR_BATCHES)


def test_an_update_in_place():
    """Of what it is given, and of what it has returned before."""
    held = {}

    def update(params, stats, batch):
        stats["mean"] = 0.9 * stats["mean"] + 0.1 * batch.mean()
        held.update(stats)
        return held

    found = batch_stats.reestimate(update, None, {"mean": jnp.array(9.0)}, SCALAR_BATCHES)
    np.testing.assert_allclose(found["mean"], 6.0, rtol=1e-5)


@pytest.mark.parametrize("count", [jnp.array(0), jnp.array(100), jnp.array(0.0), np.int64(10**6)])
def test_counters_are_raised_to_where_the_start_is_forgotten(count):
    """Whether the average is divided by 1 - m^count or not, it is right, and so is the next."""

    def update(params, stats, batch):
        mean = 0.9 * stats["mean"] + 0.1 * batch.mean()
        count = stats["count"] + 1
        return {"mean": mean, "count": count, "debiased": mean / (1 - 0.9**count), **kept}

    kept = {"key": jax.random.key(0), "old key": jax.random.PRNGKey(3), "flag": jnp.array(True)}
    stats = {"mean": jnp.array(0.0), "count": count, "debiased": jnp.array(9.0), **kept}
    found = batch_stats.reestimate(update, None, stats, SCALAR_BATCHES)
    for mean in (found["mean"], found["debiased"], found["mean"] / (1 - 0.9 ** found["count"])):
        np.testing.assert_allclose(mean, 6.0, rtol=1e-5)
    assert found["count"] >= max(count, 100)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, stats)
    chex.assert_trees_all_equal({name: found[name] for name in kept}, kept)
    np.testing.assert_allclose(update(None, found, jnp.array(6.0))["debiased"], 6.0, rtol=1e-5)


def test_nothing_but_counters_is_left_alone():
    stats = {"count": jnp.array(3)}
    assert batch_stats.reestimate(None, None, stats, SCALAR_BATCHES) is stats


def test_a_dead_layer_and_nan():
    update = lambda params, stats, batch: jax.tree.map(
        lambda s, v: 0.9 * s + 0.1 * v, stats, {"dead": jnp.zeros(2), "nan": batch.mean() * jnp.nan}
    )
    stats = {"dead": jnp.ones(2), "nan": jnp.array(0.0)}
    found = batch_stats.reestimate(update, None, stats, SCALAR_BATCHES)
    np.testing.assert_array_equal(found["dead"], 0)
    assert jnp.isnan(found["nan"])


def test_no_statistics_no_work():
    update = lambda params, stats, batch: pytest.fail("There is nothing to measure.")
    assert batch_stats.reestimate(update, PARAMS, {}, BATCHES) == {}


def test_batch_stats_refuse():
    with pytest.raises(ValueError, match="batches must hold at least one"):
        batch_stats.reestimate(update_stats, PARAMS, STATS, [])
    evaluating = lambda params, stats, batch: stats
    with pytest.raises(ValueError, match="update_stats_fn must move the statistics"):
        batch_stats.reestimate(evaluating, PARAMS, STATS, BATCHES)
    squares = lambda params, stats, batch: jnp.sqrt(0.9 * stats**2 + 0.1 * batch.mean() ** 2)
    with pytest.raises(ValueError, match="must change the statistics linearly"):
        batch_stats.reestimate(squares, None, jnp.zeros(3), [jnp.array(0.1)])
    fewer = lambda params, stats, batch: stats[:1]
    with pytest.raises(ValueError, match="must return statistics of the shapes"):
        batch_stats.reestimate(fewer, None, jnp.zeros(3), SCALAR_BATCHES)
    with pytest.raises(ValueError, match="axis_name or replica_axis"):
        batch_stats.average(STATS)
