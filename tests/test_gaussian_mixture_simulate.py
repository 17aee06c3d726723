"""Simulations at finite size: minima and training."""

import jax
import numpy as np
import optax
import pytest
import scipy.optimize
from gaussian_mixture_patterns import design_of, patterns_of

import flatjax
from flatjax.gaussian_mixture import losses, simulate

KEY = jax.random.key(0)


# Minima.


def test_minimum_of_the_square_loss():
    patterns, lam = patterns_of(30, 20), 0.3
    found = simulate.minimise(patterns, losses.square(), lam=lam)
    design = design_of(patterns)
    expected = np.linalg.solve(design.T @ design + lam * np.eye(20), design.sum(0))
    np.testing.assert_allclose(found.weights, expected, atol=1e-5)
    assert found.bias == 0


def test_minimum_of_the_logistic_loss_with_bias():
    patterns, lam = patterns_of(30, 20), 0.1
    found = simulate.minimise(patterns, losses.logistic(), lam=lam, fit_bias=True)
    design, label = design_of(patterns), np.asarray(patterns.label, float)

    def risk(theta):
        fields = design @ theta[:-1] + label * theta[-1]
        pull = -1 / (1 + np.exp(fields))
        value = np.logaddexp(0, -fields).sum() + lam / 2 * theta[:-1] @ theta[:-1]
        return value, np.append(design.T @ pull + lam * theta[:-1], label @ pull)

    options = {"gtol": 1e-10, "ftol": 1e-15, "maxiter": 5000}
    expected = scipy.optimize.minimize(
        risk, np.zeros(21), jac=True, method="L-BFGS-B", options=options
    ).x
    np.testing.assert_allclose(np.append(found.weights, found.bias), expected, atol=2e-5)


def test_minimum_of_the_hinge():
    """It is dual to a quadratic program in a box."""
    patterns, lam = patterns_of(30, 20), 0.2
    found = simulate.minimise(patterns, losses.hinge(), lam=lam)
    design = design_of(patterns)

    def dual(force):
        weights = design.T @ force / lam
        return lam / 2 * weights @ weights - force.sum(), design @ weights - 1

    force = scipy.optimize.minimize(
        dual,
        np.full(30, 0.5),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1)] * 30,
        options={"gtol": 1e-9, "ftol": 1e-15, "maxiter": 5000},
    ).x
    np.testing.assert_allclose(found.weights, design.T @ force / lam, atol=1e-4)


@pytest.mark.slow
def test_a_search_that_is_given_up_shows_no_number():
    found = simulate.minimise(
        patterns_of(30, 20), losses.logistic(), lam=0.01, tolerance=1e-15, max_steps=25
    )
    assert not found.converged
    assert np.isnan(found.weights).all()
    assert np.isnan(found.bias)


def test_arguments_of_minimise():
    with pytest.raises(ValueError, match="lam must be positive"):
        simulate.minimise(patterns_of(5, 5), losses.square(), lam=0.0)
    with pytest.raises(ValueError, match="max_steps must be >= 1"):
        simulate.minimise(patterns_of(5, 5), losses.square(), lam=1.0, max_steps=0)


# Training.


@pytest.mark.slow
def test_coupled_langevin_dynamics_has_the_moments_of_its_gaussian_measure():
    """With the square loss; the learning rate eta makes 1 / h into 1 / h (1 - eta h / 2)."""
    patterns, lam, gamma, beta, rate, y = patterns_of(12, 6), 0.5, 0.7, 4.0, 0.1, 3
    tx = optax.chain(
        flatjax.couple_replicas(gamma, replica_axis=0),
        optax.sgd(rate),
        simulate.add_thermal_noise(rate, beta, 0, replica_axis=0),
    )
    found = simulate.train(
        patterns,
        losses.square(),
        tx,
        lam=lam,
        num_steps=60_000,
        key=KEY,
        num_replicas=y,
        average_from=0.1,
    )
    design = design_of(patterns)
    curvature = design.T @ design + lam * np.eye(6)
    minimum = np.linalg.solve(curvature, design.sum(0))
    h = np.linalg.eigvalsh(curvature)
    variance = lambda h: np.sum(1 / (h * (1 - rate * h / 2))) / beta / 6
    common, apart = variance(h), variance(h + gamma)
    q1 = minimum @ minimum / 6 + (common - apart) / y
    expected = q1 + np.eye(y) * apart
    np.testing.assert_allclose(found.second_moment, expected, atol=0.01)
    np.testing.assert_allclose(found.mean.mean(0), minimum, atol=0.02)


@pytest.mark.slow
def test_full_and_minibatch_gradients_come_to_the_minimum():
    patterns, lam = patterns_of(40, 20), 0.2
    expected = simulate.minimise(patterns, losses.logistic(), lam=lam).weights
    options = {"lam": lam, "num_steps": 2000, "key": KEY, "init_scale": 1.0}
    full = simulate.train(patterns, losses.logistic(), optax.sgd(0.5), **options)
    np.testing.assert_allclose(full.weights[0], expected, atol=1e-4)
    falling = optax.sgd(optax.exponential_decay(0.2, 6000, 1e-3))
    options |= {"batch_size": 8, "num_replicas": 2, "num_steps": 6000}
    batches = simulate.train(patterns, losses.logistic(), falling, **options)
    distance = np.linalg.norm(batches.weights - expected, axis=1)
    assert np.all(distance < 0.05 * np.linalg.norm(expected))
    assert not np.array_equal(batches.weights[0], batches.weights[1])


@pytest.mark.slow
def test_the_key_of_training_is_that_of_all_noise():
    """One transformation serves many keys, whatever key it was made with."""
    patterns = patterns_of(10, 5)
    of = lambda seed: flatjax.entropy_sgd(
        optax.sgd(1.0),
        optax.identity(),
        0.1,
        inner_learning_rate=0.1,
        noise_scale=1.0,
        key=seed,
    )
    run = lambda tx, seed: (
        simulate.train(
            patterns, losses.square(), tx, lam=1.0, num_steps=3, key=jax.random.key(seed)
        ).weights
    )
    first, second = of(0), of(1)
    assert np.array_equal(run(first, 0), run(second, 0))
    assert not np.allclose(run(first, 0), run(first, 1))


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey, int])
@pytest.mark.parametrize("noise", ["thermal", "optax"])
def test_the_key_of_training_is_that_of_the_noise_in_a_chain(noise, make_key):
    def weights(own_seed, seed, impl="threefry2x32"):
        own_key = jax.random.key(own_seed, impl=impl)
        noises = {
            "thermal": simulate.add_thermal_noise(0.05, 5.0, own_key),
            "optax": optax.add_noise(0.05, 0.5, own_key),
        }
        tx = optax.chain(optax.sgd(0.05), noises[noise])
        options = {"lam": 1.0, "num_steps": 3, "key": make_key(seed)}
        return simulate.train(patterns_of(10, 5), losses.square(), tx, **options).weights

    first = weights(0, 1)
    np.testing.assert_array_equal(weights(5, 1), first)
    np.testing.assert_array_equal(weights(0, 1, impl="rbg"), first)
    assert np.abs(weights(0, 2) - first).min() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"num_replicas": 0}, "num_replicas must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"lam": -1.0}, "lam must be"),
        ({"init_scale": -1.0}, "init_scale must be"),
        ({"average_from": 1.0}, "average_from must be"),
    ],
)
def test_arguments_of_train(options, message):
    options = {"lam": 1.0, "num_steps": 3, "key": KEY} | options
    with pytest.raises(ValueError, match=message):
        simulate.train(patterns_of(5, 5), losses.square(), optax.sgd(0.1), **options)


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (0.1, 0.0), (0.1, np.inf)])
def test_arguments_of_add_thermal_noise(arguments):
    with pytest.raises(ValueError, match="must be"):
        simulate.add_thermal_noise(*arguments, KEY)
