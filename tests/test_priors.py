"""Where configurations around a solution are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_local_entropy import KEY, perceptron

from flatjax.flatness import priors
from flatjax.flatness._log_fraction import log_fraction_direct
from flatjax.flatness._surroundings import PRIORS

# --- priors ------------------------------------------------------------------------------------


def test_uniform_on_a_sphere_against_the_beta_distribution():
    """One pattern: the share of the sphere on its right side is that of a cap."""
    pattern = jnp.array([[0.6, 0.0, 0.8, 0.0, 0.0]])
    batches = [{"x": pattern, "label": jnp.ones(1)}]
    params = 2.0 * pattern[0] + jnp.array([0.0, 3.0, 0.0, 0.0, 0.0])
    distances = np.array([2.2, 3.0, 10.0])
    # u_1 of a unit vector in n dimensions: (1 + u_1) / 2 ~ Beta((n - 1) / 2, (n - 1) / 2).
    share = scipy.stats.beta(2, 2).cdf((1 + 2.0 / distances) / 2)
    norm = np.linalg.norm(params)
    for prior, unit in (("sphere", 1.0), ("relative_sphere", norm)):
        measure = log_fraction_direct(
            perceptron, distances=distances / unit, prior=prior, num_samples=4000, num_parallel=1000
        )
        found = measure(params, batches, KEY)
        assert np.all(np.abs(found.log_fraction - np.log(share)) < 4 * found.log_fraction_sem)


def test_geometry_of_the_priors():
    rng = np.random.default_rng(0)
    draw = lambda: {"a": rng.standard_normal((5, 3)), "b": rng.standard_normal(4)}
    params, noise = draw(), draw()
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    w, z = flat(params), flat(noise)
    moved = {name: flat(prior(params, noise, 0.3)) for name, prior in PRIORS.items()}
    np.testing.assert_allclose(moved["additive"], w + 0.3 * z, rtol=1e-5)
    np.testing.assert_allclose(moved["multiplicative"], w + 0.3 * z * w, rtol=1e-5)
    assert np.linalg.norm(moved["sphere"] - w) == pytest.approx(0.3)
    assert np.linalg.norm(moved["relative_sphere"] - w) == pytest.approx(0.3 * np.linalg.norm(w))

    for axis, sums in ((0, lambda x: x.sum(axis=0)), (None, lambda x: x.sum())):
        new = priors.fixed_overlap(axis)(params["a"], noise["a"], 0.3)
        squared = sums(params["a"] ** 2)
        np.testing.assert_allclose(sums(new * params["a"]), 0.7 * squared, rtol=1e-4)
        np.testing.assert_allclose(sums(new**2), squared, rtol=1e-4)
        np.testing.assert_allclose(sums((new - params["a"]) ** 2), 0.6 * squared, rtol=1e-4)
    whole = priors.fixed_overlap((0, 1))(params["a"], noise["a"], 0.3)
    np.testing.assert_allclose(whole, new, rtol=1e-5)


def test_masked_leaves_stay_and_keep_their_dtype():
    params = {"w": jnp.ones((2, 3)), "b": jnp.array(2.0, jnp.bfloat16)}
    eval_fn = lambda params, batch: {"loss": params["b"].astype(float), "count": jnp.array(1)}
    measure = log_fraction_direct(
        eval_fn,
        distances=[1.0],
        threshold=2,
        quantity="loss",
        mask=lambda params: {"w": True, "b": False},
        num_samples=5,
        num_parallel=2,
        prior=lambda params, noise, d: jax.tree.map(lambda w, z: w + d * z, params, noise),
    )
    found = measure(params, [0], KEY)
    assert found.num_weights == 6
    np.testing.assert_array_equal(found.energy, np.full((1, 5), 2.0))
    assert found.hits[0] == 5
    assert found.log_fraction[0] == found.log_fraction_sem[0] == 0
