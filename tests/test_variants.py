"""Variants of the algorithms: a late fork, a limit of the distance, averages, kept momentum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax
from experiments.engine.algorithms import ALGORITHMS, learning_rate_schedule
from experiments.engine.ascent import at_ascent
from experiments.engine.config import TrainConfig
from experiments.engine.plan import hyper_of
from experiments.engine.settings import NEWER
from experiments.engine.train import train

STEPS = 12
CURVES = jnp.array([1.0, 0.3, 2.0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def path(config, replicas):
    """Parameters and evaluated points (STEPS, y, 3) on a quadratic, with noise of each replica."""
    algorithm = ALGORITHMS[config.algorithm.name]
    tx = optax.with_extra_args_support(algorithm.make(config, hyper_of(config), STEPS))
    start = jax.random.normal(jax.random.key(1), (replicas, 3))
    noise = jax.random.normal(jax.random.key(2), (STEPS, replicas, 3))

    def step(carry, noise):
        params, state = carry
        updates, state = tx.update(CURVES * params + 0.1 * noise, state, params)
        params = optax.apply_updates(params, updates)
        shown = {"params": params, "final": flatjax.eval_params(state, params)}
        if config.algorithm.name == "esgd":
            shown["anchor"] = flatjax.eval_params(state, params, which="anchor")
        return (params, state), shown

    return jax.lax.scan(step, (start, tx.init(start)), noise)[1]


def config_of(algorithm, **settings):
    return TrainConfig.of(algorithm=algorithm, learning_rate=0.05, weight_decay=0.0, **settings)


def spread(points):
    """Distance of the replicas to their center, relative to their norm; for every step."""
    away = points - points.mean(axis=1, keepdims=True)
    return np.sqrt((away**2).sum((1, 2)) / (points**2).sum((1, 2)))


def test_a_fork_is_one_network_and_then_several():
    config = config_of("fork", replicas=3, fork_at=0.5)
    apart = spread(np.asarray(path(config, 3)["params"]))
    np.testing.assert_allclose(apart[:6], 0, atol=1e-6)
    assert (np.diff(apart[5:10]) > 0).all()
    rate = learning_rate_schedule(config, hyper_of(config), STEPS)
    rates = [float(rate(step)) for step in (0, 3, 6, 11)]
    np.testing.assert_allclose(rates, [0.05, 0.0375, 0.025, 0.025], rtol=1e-6)


def test_independent_replicas_are_sgd_after_the_fork():
    """Without a fork ahead of it, a replica is the base optimizer."""
    alone = path(config_of("fork", replicas=2, fork_at=0.01), 2)["params"]
    config = config_of("swa", average_start=0.01)
    np.testing.assert_allclose(alone, path(config, 2)["params"], rtol=1e-6)


@pytest.mark.parametrize("start", [0.2, 0.6])
def test_replicas_stay_within_the_distance_and_meet(start):
    free = spread(np.asarray(path(config_of("rsgd", gamma=0.0), 3)["params"]))
    limited = spread(np.asarray(path(config_of("rsgd", distance=start), 3)["params"]))
    target = start * (1 - np.arange(STEPS) / (STEPS - 1))
    assert free.min() > 0.3
    # The norm shrinks with the distance, so that it takes a few steps to reach the target.
    assert (limited[3:] <= 1.15 * target[3:] + 1e-6).all()
    assert limited[3] > 0.5 * target[3]
    assert limited[-1] < 1e-6


def test_gradients_are_taken_away_from_the_center():
    """A loop in NumPy, with SGD and the pull of three replicas."""
    rate, rho, decay = 0.05, 0.3, np.exp(-0.05 * 1.0)
    config = config_of("rsgd", gamma=1.0, gamma_factor=1.0, ascent=rho, momentum=0.0)
    config = config.changed(schedule="constant")
    found = np.asarray(path(config, 3)["params"])
    w = x = np.asarray(jax.random.normal(jax.random.key(1), (3, 3)))
    noise = np.asarray(jax.random.normal(jax.random.key(2), (STEPS, 3, 3)))
    for step in range(STEPS):
        w = w - rate * (np.asarray(CURVES) * x + 0.1 * noise[step])
        w = w.mean(axis=0) + decay * (w - w.mean(axis=0))
        away = w - w.mean(axis=0)
        x = w + rho * away / np.sqrt((away**2).sum(axis=1).mean())
        np.testing.assert_allclose(found[step], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[-1].mean(axis=0), w.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_replicas_that_coincide_are_not_displaced():
    params = jnp.ones((3, 2))
    tx = at_ascent(optax.sgd(0.1), 0.5)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jnp.ones((3, 2)), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.8, rtol=1e-6)


@pytest.mark.slow
def test_the_average_of_entropy_sgd_is_that_of_its_anchors():
    found = path(config_of("esgd", gamma=0.5, inner_steps=3, final_average=0.5), 1)
    ends = np.asarray(found["anchor"])[2::3]  # of four loops
    np.testing.assert_allclose(found["final"][-1], ends[1:].mean(axis=0), rtol=1e-5)
    plain = path(config_of("esgd", gamma=0.5, inner_steps=3), 1)
    np.testing.assert_allclose(plain["final"][-1], ends[-1], rtol=1e-6)


def test_the_average_of_sam_has_no_displaced_weights():
    found = path(config_of("sam", sam_rho=0.5, final_average=0.5), 1)
    steps = np.asarray(found["params"])[1::2]  # every second gradient is taken uphill
    np.testing.assert_allclose(found["final"][-1], steps[2:].mean(axis=0), rtol=1e-5)


def test_momentum_is_kept_between_loops():
    reset, kept = (
        np.asarray(path(config_of("esgd", gamma=0.5, inner_steps=3, reset_inner=flag), 1)["params"])
        for flag in (True, False)
    )
    np.testing.assert_allclose(reset[:3], kept[:3])
    assert np.abs(reset[3] - kept[3]).max() > 1e-3


def test_old_configurations_stay_as_they_are():
    for algorithm in ("sgd", "sam", "esgd", "rsgd"):
        assert not set(NEWER) & set(TrainConfig.of(algorithm=algorithm).to_json())
    changed = config_of("esgd", reset_inner=False, final_average=0.75)
    assert TrainConfig.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"algorithm": "rsgd", "distance": 0.3, "gamma": 1.0}, "distance excludes gamma"),
        ({"algorithm": "rsgd", "distance": 1.5}, "distance must be"),
        ({"algorithm": "rsgd", "ascent": 0.0}, "ascent must be > 0"),
        ({"algorithm": "rsgd", "common_init": True}, "gamma must be given with common_init"),
        ({"algorithm": "parle", "common_init": True, "gamma": 1.0}, "replica_gamma must be given"),
        ({"algorithm": "fork", "fork_at": 1.0}, "fork_at must be"),
        ({"algorithm": "fork", "schedule": "constant"}, "schedule is not a setting of fork"),
        ({"algorithm": "sgd", "final_average": 0.5}, "final_average is not a setting of sgd"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        TrainConfig.of(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "rsgd", "distance": 0.3},
        {"algorithm": "rsgd", "gamma": 1.0},
        {"algorithm": "rsgd", "replicas": 1},
        {"algorithm": "parle", "replica_gamma": 1.0},
    ],
)
def test_replicas_may_start_together_if_their_coupling_is_not_measured(settings):
    assert TrainConfig.of(common_init=True, **settings).algorithm.common_init


@pytest.mark.slow
def test_training_records_the_distance_that_is_limited():
    config = config_of(
        "rsgd",
        distance=0.3,
        replicas=2,
        train_size=200,
        batch_size=40,
        epochs=8,
        local_energy_samples=2,
        local_energy_examples=100,
    )
    history = train(config, progress=False)["history"]
    distances = [record["relative_distance"] for record in history]
    assert distances[-1] < 1e-5 < max(distances) < 0.4
    assert not any("gamma" in record for record in history)
