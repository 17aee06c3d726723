"""Points of Gibbs measures: the mean, and the barycenter of replicas."""

import jax
import numpy as np

from experiments.studies.gaussian_mixture.control import limited, paired_error
from experiments.studies.simulations import Point
from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import (
    Replicated,
    losses,
    replicated,
    replicated_sphere,
    sampling,
    simulate,
)

MIXTURE = {"alpha": 1.0, "delta": 1.0, "rho": 0.5}
LOGISTIC = losses.logistic()
LAM = 0.1


def points(num_features: int, seeds: int) -> list[Point]:
    """Makes all points of this file, at N features, or at fewer with more samples."""
    size = limited(num_features, seeds, most=300)
    beta = np.array([0.5, 1.0, 2.0, 4.0])
    alone = replicated_sphere(y=1, beta=beta, **MIXTURE)
    found = [_errors(1, beta[i], None, 0.0, _at(alone, i), *size) for i in range(len(beta))]
    by_beta = {np.inf: [(3, 0.55), (3, 0.7), (3, 0.85), (2, 0.7), (7, 0.7)], 1.0: [(3, 0.7)]}
    for beta, replicas in by_beta.items():
        theory, correlation = attracted(*np.array(replicas).T, beta)
        for i, (y, q1) in enumerate(replicas):
            found.append(_errors(y, beta, q1, correlation[i], _at(theory, i), *size))
    q1 = np.array([0.55, 0.7, 0.85])
    many = replicated_sphere(y=np.inf, q1=q1, **MIXTURE)
    found += [_infinitely_many(q1[i], _at(many, i), *size) for i in range(len(q1))]
    params = [(1, 0.1, 0.0), (1, 0.3, 0.0), (1, 1.0, 0.0), (3, 1.0, 0.1), (3, 1.0, 1.0)]
    params.append((7, 1.0, 1.0))
    y, beta, gamma = np.array(params).T
    theory = replicated(LOGISTIC, y=y, beta=beta, gamma=gamma, lam=LAM, **MIXTURE)
    found += [_logistic(*params[i], _at(theory, i), *size) for i in range(len(params))]
    return found


def _at(theory, index):
    return jax.tree.map(lambda values: values[index], theory)


def attracted(y: np.ndarray, q1: np.ndarray, beta: float) -> tuple[Replicated, np.ndarray]:
    r"""Returns replicas that count errors, and their attraction for an overlap q1.

    Let J be the matrix of ones, and Q the matrix of the replicas' overlaps. Directions of y
    Gaussian vectors of precision 1 + r (J - 1) have the log-density :math:`N [\frac{1}{2} \log \det
    Q - \frac{y}{2} \log(1 + (y - 1)\, r q_1)]`. The sum of this and the free entropy of the errors
    must be stationary at q1.

    Args:
      y: number of replicas.
      q1: overlap of the replicas.
      beta: inverse temperature.

    Returns:
      The theory, and the correlation of the vectors.
    """
    near = q1 + 1e-3 * np.array([[-1.0], [0.0], [1.0]])
    theory = replicated_sphere(y=y, q1=near, beta=beta, **MIXTURE)
    slope = y * (theory.free_entropy[2] - theory.free_entropy[0]) / 2e-3
    slope += (y - 1) / 2 * (1 / (1 + (y - 1) * q1) - 1 / (1 - q1))  # derivative of log det Q / 2
    rate = 2 * slope / y  # derivative of log(1 + (y - 1) r q1)
    r = rate / ((y - 1) * (1 - rate * q1))
    return _at(theory, 1), -r / (1 + (y - 2) * r)  # correlation of the inverse matrix


def _errors(y, beta, q1, correlation, theory, num_features, seeds):
    """The number of errors on the sphere, with an attraction that should give q1."""
    names = {} if np.isinf(beta) else {"train_error": theory.train_loss}
    names |= {"q0": theory.q0} if y == 1 else {"q1": q1}

    def run(key):
        data_key, key = jax.random.split(key)
        patterns = gm.sample(data_key, num_features, **MIXTURE)
        start = None
        if np.isinf(beta):
            start = simulate.minimise(patterns, losses.hinge(), lam=1e-3, tolerance=1e-4).weights
        chains = sampling.sample_errors(
            key,
            patterns,
            beta=beta,
            start=start,
            num_replicas=y,
            correlation=correlation,
            num_chains=4 if y == 1 else 2,
            num_samples=100,
            burn_in=40,
        )
        found = sampling.equilibrium(chains)
        return _values(found, y, patterns) | {"train_error": found.energy}

    curve, coupling = "temperature: error counting", {}
    if y > 1:
        at_temperature = "" if np.isinf(beta) else f", beta={beta:g}"
        curve, coupling = f"barycenter: y={y}{at_temperature}", {"q1": q1}
    return Point(
        curve=curve,
        x=beta if y == 1 else q1,
        params=MIXTURE | {"y": y, "beta": f"{beta:g}", "num_features": num_features} | coupling,
        theory=_theory(theory, y) | names,
        simulate=run,
        seeds=seeds,
    )


def _infinitely_many(q1, theory, num_features, seeds):
    """The barycenter of infinitely many replicas: it maximises the local entropy.

    The local entropy is taken at the overlap sqrt(q1). At its maximum, the mean of the weights
    around the point has the point's direction. The point is moved to that mean by steps that fall
    as 1 / t. Two runs on the same sample give its direction without noise.
    """
    overlap, num_steps = np.sqrt(q1), 80
    normalised = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def run(key):
        data_key, key = jax.random.split(key)
        patterns = gm.sample(data_key, num_features, **MIXTURE)
        start = simulate.minimise(patterns, losses.hinge(), lam=1e-3, tolerance=1e-4).weights
        away = np.asarray(jax.random.normal(key, (2, num_features)))
        center = normalised(normalised(start) + 0.5 * normalised(away))
        train_error = []
        for step in range(num_steps):
            chains = sampling.sample_errors(
                jax.random.fold_in(key, step),
                patterns,
                beta=12.0,  # then about one in a thousand weights makes an error
                reference=center,
                overlap=np.full(2, overlap),
                num_chains=4,
                num_samples=20,
                burn_in=30,
            )
            mean = np.mean(chains.mean, axis=1) / np.sqrt(num_features)
            across = mean - np.sum(mean * center, axis=1, keepdims=True) * center
            center = normalised(center + 3 / (1 + step / 4) / overlap * across)
            train_error.append(np.mean(chains.energy))
        m = np.mean(center @ np.asarray(patterns.signal)) / np.sqrt(num_features)
        error = paired_error(m, center[0] @ center[1], patterns, MIXTURE)
        late = np.mean(train_error[num_steps // 2 :])
        return {"barycenter_test_error": error, "train_error": late, "q": center[0] @ center[1]}

    return Point(
        curve="barycenter: y=inf",
        x=q1,
        params=MIXTURE | {"y": "inf", "beta": "inf", "q1": q1, "num_features": num_features},
        theory={"barycenter_test_error": theory.center_test_error},
        simulate=run,
        seeds=seeds,
    )


def _logistic(y, beta, gamma, theory, num_features, seeds):
    """The cross-entropy with a ridge, for replicas coupled to their barycenter."""
    names = {"m": theory.m, "train_loss": theory.train_loss}
    names |= {"q0": theory.q0} if y == 1 else {"q": theory.q, "q1": theory.q1}

    def run(key):
        data_key, key = jax.random.split(key)
        patterns = gm.sample(data_key, num_features, **MIXTURE)
        chains = sampling.sample_loss(
            key,
            patterns,
            LOGISTIC,
            beta=beta,
            lam=LAM,
            gamma=gamma,
            num_replicas=y,
            num_chains=4 if y == 1 else 2,
            num_samples=600,
        )
        found = sampling.equilibrium(chains)
        return _values(found, y, patterns) | {"train_loss": found.energy}

    coupled = "" if y == 1 else f", y={y}, γ={gamma:g}"
    params = {"loss": "logistic", "y": y, "beta": beta, "gamma": gamma, "lam": LAM}
    return Point(
        curve=f"temperature: cross-entropy, λ={LAM}{coupled}",
        x=beta,
        params=MIXTURE | params | {"num_features": num_features},
        theory=_theory(theory, y) | names,
        simulate=run,
        seeds=seeds,
    )


def _theory(theory, y):
    """Returns the errors of a replica, and of the measure's mean or the barycenter."""
    errors = {"test_error": theory.test_error}
    if y == 1:
        return errors | {"thermal_mean_test_error": theory.thermal_mean_test_error}
    return errors | {"barycenter_test_error": theory.center_test_error}


def _values(found, y, patterns):
    m, q, q1, q0 = (np.float64(value) for value in (found.m, found.q, found.q1, found.q0))
    error = lambda norm: paired_error(m, norm, patterns, MIXTURE)
    return {
        "m": m,
        "q": q,
        "q1": q1,
        "q0": q0,
        "r_hat": found.r_hat,
        "test_error": error(q),
        "thermal_mean_test_error": error(q0),
        "barycenter_test_error": error((q + (y - 1) * q1) / y),
    }
