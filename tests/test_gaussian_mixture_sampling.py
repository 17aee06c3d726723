"""Monte Carlo at finite size against exact integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_mixture_patterns import design_of, patterns_of

from flatjax.gaussian_mixture import Sample, losses, sampling

KEY = jax.random.key(0)


# Monte Carlo of the number of errors.


def circle_around(reference, overlap, num=100_000):
    """All w with |w|^2 = 3 at a given overlap with a reference in three dimensions."""
    angle = 2 * np.pi * np.arange(num)[:, None] / num
    axis = reference / np.linalg.norm(reference)
    basis = np.linalg.svd(axis[None])[2][1:]
    around = np.cos(angle) * basis[0] + np.sin(angle) * basis[1]
    return np.sqrt(3) * (overlap * axis + np.sqrt(1 - overlap**2) * around)


@pytest.mark.slow
def test_local_entropy_in_three_dimensions():
    """There it is an integral over a circle, with errors that jump at a dozen angles."""
    patterns = patterns_of(6, 3)
    references = np.array([[1.0, -0.5, 2.0], [0.3, 1.0, 0.2]])
    overlap, bias, beta = np.array([0.3, 0.6]), np.array([0.0, 0.4]), 2.0
    found = sampling.sample_local_entropy(
        KEY,
        patterns,
        references,
        overlap=overlap,
        bias=bias,
        beta=beta,
        num_nodes=4,
        num_samples=4000,
        burn_in=10,
    )
    for i in range(2):
        w = circle_around(references[i], overlap[i])
        fields = w @ design_of(patterns).T + bias[i] * np.asarray(patterns.label)
        errors = np.sum(fields < 0, axis=1)
        boltzmann = np.exp(-beta * errors)
        weights = boltzmann / boltzmann.sum()
        # Standard errors are about 0.002.
        assert abs(found.phi[i] - np.log(boltzmann.mean()) / 3) < 0.015
        assert abs(found.train_error[i] - weights @ errors / 6) < 0.01
        assert abs(found.m[i] - weights @ (w @ np.asarray(patterns.signal)) / 3) < 0.03
    assert np.all(found.r_hat < 1.01)


@pytest.mark.slow
def test_local_entropy_without_errors():
    """As often as uniform weights at that overlap make none."""
    patterns, overlap = patterns_of(6, 8, seed=1), 0.3
    reference = np.asarray(patterns.signal, float) + np.arange(8) / 5
    found = sampling.sample_local_entropy(
        KEY, patterns, reference, overlap=overlap, beta=np.inf, num_nodes=8, num_samples=2000
    )
    axis = reference / np.linalg.norm(reference)
    around = np.random.default_rng(0).normal(size=(1_000_000, 8))
    around -= (around @ axis)[:, None] * axis
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    w = np.sqrt(8) * (overlap * axis + np.sqrt(1 - overlap**2) * around)
    fits = np.all(w @ design_of(patterns).T > 0, axis=1)
    assert fits.sum() > 1000
    assert abs(found.phi - np.log(fits.mean()) / 8) < 0.01
    assert found.train_error == 0
    assert abs(found.m - np.mean(w[fits] @ np.asarray(patterns.signal)) / 8) < 0.02
    assert found.r_hat < 1.01


@pytest.mark.slow
def test_two_replicas_in_two_dimensions():
    """Their directions are two angles; infinite beta allows only those without errors."""
    patterns = patterns_of(4, 2, seed=1)
    correlation, beta = 0.6, np.array([0.8, np.inf])
    chains = sampling.sample_errors(
        KEY,
        patterns,
        beta=beta,
        num_replicas=2,
        correlation=correlation,
        start=patterns.signal,
        num_samples=4000,
        burn_in=10,
    )
    found = sampling.equilibrium(chains)
    angle = 2 * np.pi * (np.arange(2000) + 0.5) / 2000
    w = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    errors = np.sum(w @ design_of(patterns).T < 0, axis=1)
    assert 0 < np.mean(errors == 0) < 0.5
    # Angles of Gaussian vectors: lengths integrated out.
    c = correlation * (w @ w.T) / 2
    prior = 1 / (1 - c**2) + c * (np.pi / 2 + np.arcsin(c)) / (1 - c**2) ** 1.5
    for i, boltzmann in enumerate((np.exp(-beta[0] * errors), 1.0 * (errors == 0))):
        joint = prior * boltzmann[:, None] * boltzmann
        joint /= joint.sum()
        alone = joint.sum(0)
        mean = alone @ w
        assert abs(found.energy[i] - alone @ errors / 4) < 0.01
        assert abs(found.m[i] - mean @ np.asarray(patterns.signal) / 2) < 0.02
        assert abs(found.q0[i] - mean @ mean / 2) < 0.02
        assert abs(found.q1[i] - np.sum(joint * (w @ w.T)) / 2) < 0.02
    np.testing.assert_allclose(found.q, 1, rtol=1e-5)
    assert chains.energy[1].max() == 0


# Monte Carlo of a loss.


@pytest.mark.slow
def test_two_replicas_of_one_weight_each():
    patterns = Sample(jnp.array([[1.0], [-0.5], [2.0]]), jnp.array([1.0, 1.0, -1.0]), jnp.ones(1))
    beta, lam, gamma = 1.5, 0.2, 0.6
    chains = sampling.sample_loss(
        KEY,
        patterns,
        losses.logistic(),
        beta=beta,
        lam=lam,
        gamma=gamma,
        num_replicas=2,
        num_chains=4,
        num_samples=4000,
        burn_in=200,
        num_steps=5,
    )
    found = sampling.equilibrium(chains)
    w = np.linspace(-10, 10, 1001)
    loss = np.logaddexp(0, -w[:, None] * design_of(patterns)[:, 0]).sum(1)
    first, second = w[:, None], w[None, :]
    apart = (first - second) ** 2 / 2
    energy = loss[:, None] + loss + lam / 2 * (first**2 + second**2) + gamma / 2 * apart
    joint = np.exp(-beta * energy)
    joint /= joint.sum()
    alone = joint.sum(0)
    assert abs(found.m - alone @ w) < 0.03
    assert abs(found.q - alone @ w**2) < 0.05
    assert abs(found.q1 - np.sum(joint * first * second)) < 0.05
    assert abs(found.q0 - (alone @ w) ** 2) < 0.03
    assert abs(found.energy - alone @ loss / 3) < 0.02
    assert found.r_hat < 1.01
    assert np.all(np.abs(chains.acceptance - 0.8) < 0.15)


# What is made of chains.


def chains_of(means, signal, energy):
    num_chains = len(means)
    return sampling.Chains(
        weights=jnp.zeros((num_chains, 1, means.shape[1])),
        mean=jnp.asarray(means),
        overlaps=jnp.ones((num_chains, 1, 1)),
        signal=jnp.asarray(signal),
        energy=jnp.asarray(energy),
        acceptance=jnp.ones(num_chains),
    )


def test_q0_is_not_biased_by_the_noise_of_the_means():
    rng = np.random.default_rng(0)
    num_features = 100_000
    means = 0.5 + rng.standard_normal((3, num_features))
    trace = rng.standard_normal((3, 10))
    found = sampling.equilibrium(chains_of(means, trace, trace))
    assert abs(found.q0 - 0.25) < 0.02
    assert found.q1 == found.q0


def test_r_hat_tells_chains_that_differ_or_drift():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 200))
    means = np.ones((2, 3))
    r_hat = lambda signal, energy: sampling.equilibrium(chains_of(means, signal, energy)).r_hat
    assert r_hat(noise, noise) < 1.02
    assert r_hat(noise + np.array([[0.0], [2.0]]), noise) > 1.3
    assert r_hat(noise, noise + np.linspace(0, 4, 200)) > 1.3
    assert r_hat(noise, np.zeros((2, 200))) < 1.02
    frozen = np.array([[0.1], [0.3]]) * np.ones(200)
    assert r_hat(frozen, np.zeros((2, 200))) == np.inf
    assert r_hat(np.full((2, 200), 0.1), frozen) == np.inf
    assert r_hat(np.full((2, 200), 0.1), np.full((2, 200), 0.3)) == 1
    assert np.isnan(r_hat(np.full((2, 200), np.nan), noise))


def test_one_chain_is_not_enough():
    with pytest.raises(ValueError, match="chains must be two or more"):
        sampling.equilibrium(chains_of(np.ones((1, 3)), np.ones((1, 8)), np.ones((1, 8))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta must be positive"),
        ({"correlation": 1.0}, "correlation must be in"),
        ({"overlap": 1.0, "reference": jnp.ones(5)}, "overlap must be strictly"),
        ({"overlap": 0.5}, "overlap must be 0 without a reference"),
        ({"num_replicas": 2, "reference": jnp.ones(5)}, "num_replicas must be 1"),
        ({"num_replicas": 2, "bias": 0.1}, "num_replicas must be 1"),
        ({"num_replicas": 0}, "num_replicas must be >= 1"),
        ({"num_chains": 0}, "num_chains must be >= 1"),
        ({"num_samples": 2}, "num_samples must be >= 4"),
        ({"burn_in": -1}, "burn_in must be >= 0"),
        ({"duration": 0.0}, "duration must be"),
        ({"start": jnp.ones(5), "reference": jnp.ones(5)}, "start must not be given with"),
        ({"beta": np.inf}, "start must be given"),
        ({"beta": np.inf, "start": jnp.ones(5)}, "start must make no errors"),
    ],
)
def test_arguments_of_sample_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sampling.sample_errors(KEY, patterns_of(20, 5), **{"beta": 1.0} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"lam": 0.0}, "lam must be positive"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
    ],
)
def test_arguments_of_sample_loss(options, message):
    options = {"beta": 1.0, "lam": 1.0} | options
    with pytest.raises(ValueError, match=message):
        sampling.sample_loss(KEY, patterns_of(5, 5), losses.square(), **options)


def test_arguments_of_sample_local_entropy():
    run = lambda **options: sampling.sample_local_entropy(
        KEY, patterns_of(5, 5), jnp.ones(5), **{"overlap": 0.5, "beta": 1.0} | options
    )
    with pytest.raises(ValueError, match="num_nodes must be >= 3"):
        run(num_nodes=2)
    with pytest.raises(ValueError, match="beta must be"):
        run(beta=0.0)


@pytest.mark.slow
def test_where_no_weights_are_without_errors_none_are_shown():
    patterns = patterns_of(40, 3)  # far from separable
    found = sampling.sample_local_entropy(
        KEY, patterns, jnp.ones(3), overlap=0.5, beta=np.inf, num_samples=20
    )
    assert np.isnan([found.phi, found.m, found.train_error]).all()
