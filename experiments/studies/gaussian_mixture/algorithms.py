"""Points of the algorithms: results of transformations on finite samples.

Without noise they find the minimum of the risk, with or without replicas. With the noise of a
temperature they sample its Gibbs measure. Only then does coupling change the result.
"""

import jax
import numpy as np
import optax

import flatjax
from experiments.studies.gaussian_mixture.control import limited, paired_error
from experiments.studies.simulations import Point
from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import losses, replicated, simulate

MIXTURE = {"alpha": 1.0, "delta": 1.0, "rho": 0.5}
LOSS = losses.logistic()
LAM = 0.1  # the default ridge


def points(num_features: int, seeds: int) -> list[Point]:
    """Makes all points of this file, at N features; slow ones have fewer."""
    size = (num_features, seeds)
    found = [
        _minimum("gradient descent", optax.sgd(1 / (lam + 1)), lam, steps, *size)
        for lam, steps in ((0.01, 1500), (0.1, 200), (1.0, 50))
    ]
    falling = optax.sgd(optax.exponential_decay(0.3, 3000, 1e-3))
    batch = max(num_features // 10, 1)
    found.append(_minimum("minibatch SGD", falling, LAM, 3000, *size, batch_size=batch))
    coupled = optax.chain(flatjax.couple_replicas(1.0, replica_axis=0), optax.sgd(0.7))
    found.append(_minimum("replicated GD, y=3", coupled, LAM, 300, *size, num_replicas=3))
    momentum = flatjax.replicated_sgd(0.2, 1.0, replica_axis=0, decoupled=False)
    found.append(_minimum("replicated SGD, y=7", momentum, LAM, 300, *size, num_replicas=7))
    large = (2 * num_features, max(seeds // 2, 2))
    found.append(_minimum("gradient descent", optax.sgd(1 / (LAM + 1)), LAM, 200, *large))
    found.append(_minimum("minibatch SGD", falling, LAM, 3000, *large, batch_size=2 * batch))
    found.append(_minimum("replicated GD, y=3", coupled, LAM, 300, *large, num_replicas=3))
    found.append(_minimum("replicated SGD, y=7", momentum, LAM, 300, *large, num_replicas=7))
    found += [_without_ridge(steps, *limited(*size, most=500)) for steps in (100, 1000, 4000)]
    small = limited(*size, most=300)
    found += [_langevin(3, gamma, 1.0, *small) for gamma in (0.1, 1.0)]
    found += [_entropy_sgd(0.1, beta, small[0], seeds) for beta in (0.3, 1.0)]
    return found


def _sample_and_train(key, num_features, tx, lam, **options):
    data_key, key = jax.random.split(key)
    patterns = gm.sample(data_key, num_features, **MIXTURE)
    return patterns, simulate.train(patterns, LOSS, tx, lam=lam, key=key, **options)


def _minimum(name, tx, lam, steps, num_features, seeds, **options):
    """Without lasting noise, all replicas reach the minimum of the risk."""
    theory = gm.erm(LOSS, lam=lam, **MIXTURE)

    def run(key):
        # The start is far away, while a single replica would start at 0.
        options_ = options | {"num_steps": steps, "init_scale": 1.0}
        patterns, found = _sample_and_train(key, num_features, tx, lam, **options_)
        center = np.mean(found.weights, axis=0)
        m, q = gm.overlaps(center, patterns.signal)
        apart = np.mean(np.sum((found.weights - center) ** 2, axis=1)) / num_features
        return {"test_error": paired_error(m, q, patterns, MIXTURE), "q": q, "apart": apart}

    params = {"algorithm": name, "lam": lam, "steps": steps, "num_features": num_features}
    return Point(
        curve=name,
        x=lam,
        params=MIXTURE | params,
        theory={"test_error": theory.test_error, "q": theory.q},
        simulate=run,
        seeds=seeds,
    )


def _without_ridge(steps, num_features, seeds):
    """Gradient descent from 0 approaches the largest margin, exponentially slowly."""
    tx = optax.sgd(0.7)
    limit = gm.max_margin(**MIXTURE).test_error

    def run(key):
        patterns, found = _sample_and_train(key, num_features, tx, 0.0, num_steps=steps)
        m, q = gm.overlaps(found.weights[0], patterns.signal)
        return {"error_before_the_limit": paired_error(m, q, patterns, MIXTURE), "q": q}

    return Point(
        curve="gradient descent without ridge",
        x=steps,
        params=MIXTURE | {"steps": steps, "num_features": num_features},
        theory={"error_before_the_limit": limit},
        simulate=run,
        seeds=seeds,
    )


def _langevin(y, gamma, beta, num_features, seeds):
    """Coupled replicas with thermal noise sample the replicated Gibbs measure."""
    rate = 0.02  # the temperature is too high by a term of this order
    tx = optax.chain(
        flatjax.couple_replicas(gamma, replica_axis=0),
        optax.sgd(rate),
        simulate.add_thermal_noise(rate, beta, 0, replica_axis=0),
    )
    theory = replicated(LOSS, y=y, beta=beta, lam=LAM, gamma=gamma, **MIXTURE)

    def run(key):
        options = {"num_steps": 25_000, "num_replicas": y, "average_from": 0.2}
        patterns, found = _sample_and_train(key, num_features, tx, LAM, **options)
        m = np.mean(gm.overlaps(found.mean, patterns.signal)[0])
        q = np.trace(found.second_moment) / y
        q1 = (np.sum(found.second_moment) - y * q) / (y * (y - 1))
        error = lambda norm: paired_error(m, norm, patterns, MIXTURE)
        barycenter = error((q + (y - 1) * q1) / y)
        return {"test_error": error(q), "barycenter_test_error": barycenter, "q": q, "q1": q1}

    return Point(
        curve=f"coupled Langevin dynamics, y={y}, beta={beta:g}",
        x=gamma,
        params=MIXTURE | {"y": y, "gamma": gamma, "beta": beta, "num_features": num_features},
        theory={
            "test_error": theory.test_error,
            "barycenter_test_error": theory.center_test_error,  # name in the recorded simulations
            "q1": theory.q1,
        },
        simulate=run,
        seeds=seeds,
    )


def _entropy_sgd(gamma, beta, num_features, seeds):
    r"""Entropy-SGD at a temperature: as infinitely many replicas.

    It descends the local entropy. The mean over an inner loop and the anchor's steps must both be
    long; otherwise the anchor keeps thermal noise. Here the outer learning rate falls as 1 / t. Two
    runs on the same sample give the norm of the anchor without its noise.
    """
    tx = flatjax.entropy_sgd(
        outer=optax.sgd(lambda count: 4 / (4 + count)),
        inner=optax.identity(),
        gamma=gamma,
        inner_learning_rate=0.05,
        inner_steps=2000,
        averaging_decay=0.9975,
        noise_scale=1 / np.sqrt(beta),
        replica_axis=0,
        decoupled=False,
    )
    theory = replicated(LOSS, y=np.inf, beta=beta, lam=LAM, gamma=gamma, **MIXTURE)

    def run(key):
        options = {"num_steps": 120_000, "num_replicas": 2}
        patterns, found = _sample_and_train(key, num_features, tx, LAM, **options)
        anchors = flatjax.eval_params(found.opt_state, found.weights)
        m, norms = (np.mean(values) for values in gm.overlaps(anchors, patterns.signal))
        q1 = anchors[0] @ anchors[1] / num_features
        error = lambda norm: paired_error(m, norm, patterns, MIXTURE)
        return {"barycenter_test_error": error(q1), "error_of_one_anchor": error(norms), "q1": q1}

    error = theory.center_test_error
    return Point(
        curve=f"Entropy-SGD, gamma={gamma:g}",
        x=beta,
        params=MIXTURE | {"gamma": gamma, "beta": beta, "num_features": num_features},
        theory={"barycenter_test_error": error, "error_of_one_anchor": error, "q1": theory.q1},
        simulate=run,
        seeds=seeds,
    )
