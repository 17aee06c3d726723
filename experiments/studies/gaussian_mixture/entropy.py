"""Points of the local entropy around minima, the Hebb rule and samples."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.gaussian_mixture.control import limited, paired_error
from experiments.studies.simulations import Point
from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import _references, local_entropy, losses, sampling, simulate

BALANCED = {"alpha": 1.0, "delta": 1.0, "rho": 0.5}
UNBALANCED = BALANCED | {"rho": 0.2}
LOGISTIC = losses.logistic()


def points(num_features: int, seeds: int) -> list[Point]:
    """Makes all points of this file, at N features, or at fewer with more samples."""
    size = limited(num_features, seeds, most=300)
    found = []
    for overlap in (0.5, 0.7, 0.9):
        found.append(_surroundings("Hebb (Bayes)", overlap, 1.0, BALANCED, *size))
        found.append(_surroundings("cross-entropy, λ=1", overlap, 1.0, BALANCED, *size, lam=1.0))
        found.append(_surroundings("cross-entropy, λ=0.1", overlap, 1.0, BALANCED, *size, lam=0.1))
    for name, overlap in (("noisy Hebb, c=0.7", 0.7), ("noisy Hebb, c=0.7", 0.9)):
        found.append(_surroundings(name, overlap, 1.0, BALANCED, *size, noise=0.7))
    for overlap in (0.7, 0.9):
        name = "cross-entropy, λ=0.1, one sample"
        found.append(_surroundings(name, overlap, 1.0, BALANCED, *size, lam=0.1, beta=1.0))
    found.append(_surroundings("Hebb (Bayes)", 0.7, 3.0, BALANCED, *size))
    found.append(_surroundings("cross-entropy, λ=0.1", 0.7, 3.0, BALANCED, *size, lam=0.1))
    found.append(
        _surroundings("cross-entropy, λ=0.1, rho=0.2", 0.7, 1.0, UNBALANCED, *size, lam=0.1)
    )
    for overlap in (0.5, 0.7, 0.9):
        name = "cross-entropy, λ=0.01"
        found.append(_surroundings(name, overlap, 1.0, BALANCED, *size, lam=0.01))
    # No errors at all, where this is not too rare.
    for overlap in (0.5, 0.6, 0.7):
        found.append(_surroundings("Hebb (Bayes)", overlap, np.inf, BALANCED, *size))
    for overlap in (0.5, 0.7):
        found.append(_surroundings("cross-entropy, λ=1", overlap, np.inf, BALANCED, *size, lam=1.0))
    for lam in (0.1, 0.01):
        for overlap in (0.7, 0.9):
            name = f"cross-entropy, λ={lam:g}"
            found.append(_surroundings(name, overlap, np.inf, BALANCED, *size, lam=lam))
    for noise in (0.9, 0.7, 0.5):
        for overlap in (0.4, 0.5):
            name = f"noisy Hebb, c={noise:g}"
            few = size[0], seeds
            found.append(_surroundings(name, overlap, np.inf, BALANCED, *few, noise=noise))
    return found


def _surroundings(
    name, overlap, counting_beta, mixture, num_features, seeds, lam=None, beta=None, noise=None
):
    """Points around a minimum or sample of the cross-entropy, or the Hebb rule.

    The minimum or the sample at `beta` has a ridge `lam`; the Hebb rule has none. The rule is also
    measured on the same samples, because differences are more accurate than values.
    """
    fit_bias, finite = mixture["rho"] != 0.5, np.isfinite(counting_beta)
    theory = _theory_of(mixture, lam, beta, noise)
    rule = _references.hebb_reference(**mixture, fit_bias=fit_bias)
    of = lambda reference: local_entropy(reference, overlap=overlap, beta=counting_beta)
    around, around_rule = of(theory), of(rule)

    def run(key):
        data_key, reference_key, key = jax.random.split(key, 3)
        patterns = gm.sample(data_key, num_features, **mixture)
        hebb = np.sqrt(num_features) * jnp.mean(patterns.label[:, None] * patterns.x, axis=0)
        weights, bias = _reference_of(reference_key, patterns, hebb, fit_bias, lam, beta, noise)
        norm = lambda vector: np.sqrt(np.mean(np.square(vector)))
        rule_bias = float(rule.bias) / np.sqrt(float(rule.q))
        found = sampling.sample_local_entropy(
            key,
            patterns,
            jnp.stack([weights, hebb]),
            overlap=overlap,
            bias=np.array([bias / norm(weights), rule_bias]),
            beta=counting_beta,
            **_sizes_of(counting_beta),
        )
        if fit_bias:
            error = gm.generalization_error(
                found.m[0], 1.0, bias / norm(weights), delta=mixture["delta"], rho=mixture["rho"]
            )
        else:
            error = paired_error(found.m[0], 1.0, patterns, mixture)
        return {
            "phi": found.phi[0],
            "phi above Hebb": found.phi[0] - found.phi[1],
            "train_error": found.train_error[0],
            "test_error": error,
            "r_hat": found.r_hat.max(),
        }

    names = ("phi", "train_error", "test_error") if finite else ("phi", "test_error")
    expected = {name: getattr(around, name) for name in names}
    is_rule = lam is None and noise is None
    if not is_rule and finite:  # without errors, the rule has no volume in some samples
        expected["phi above Hebb"] = around.phi - around_rule.phi
    params = {"overlap": overlap, "beta": counting_beta if finite else "inf", "reference": name}
    return Point(
        curve=f"local entropy, beta={counting_beta:g}: {name}",
        x=(1 - overlap) / 2,
        params=mixture | params | {"num_features": num_features},
        theory=expected,
        simulate=run,
        seeds=seeds,
    )


def _theory_of(mixture, lam, beta, noise):
    """Returns the theory's reference."""
    if lam is None:
        return _references.noisy_hebb_reference(overlap=noise or 1.0, **mixture)
    if beta is None:
        return _references.erm_reference(LOGISTIC, lam=lam, **mixture)
    return _references.gibbs_reference(LOGISTIC, lam=lam, beta=beta, **mixture)


def _reference_of(key, patterns, hebb, fit_bias, lam, beta, noise):
    """Returns weights and bias of the reference of a sample, given its Hebb rule."""
    if lam is None:
        noisy = jax.random.normal(key, hebb.shape)
        noisy -= (noisy @ hebb) / (hebb @ hebb) * hebb
        unit = lambda vector: vector / jnp.linalg.norm(vector)
        c = noise or 1.0
        return c * unit(hebb) + np.sqrt(1 - c**2) * unit(noisy), 0.0
    if beta is None:
        found = simulate.minimise(patterns, LOGISTIC, lam=lam, fit_bias=fit_bias, tolerance=1e-5)
        return jnp.asarray(found.weights, jnp.float32), found.bias
    chains = sampling.sample_loss(
        key, patterns, LOGISTIC, beta=beta, lam=lam, num_chains=1, num_samples=4
    )
    return chains.weights[0, 0], 0.0


def _sizes_of(counting_beta):
    """Returns the sizes of the sampling: it takes longer at low temperatures."""
    if counting_beta <= 1:
        return {"num_samples": 60, "burn_in": 30}
    if np.isfinite(counting_beta):
        return {"num_samples": 200, "burn_in": 100}
    # A chain may keep an error or two: many chains make this rare.
    return {"num_nodes": 8, "num_chains": 8, "num_samples": 100, "burn_in": 100}
