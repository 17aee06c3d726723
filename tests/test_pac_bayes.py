"""PAC-Bayes sigma on cases with known answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow

from flatjax.flatness import local_energy, pac_bayes_sigma

KEY = jax.random.key(0)
CURVATURE = np.linspace(0.5, 8.0, 40, dtype=np.float32)
WEIGHTS = np.linspace(-2.0, 1.0, 40, dtype=np.float32)
BATCHES = [np.zeros(4, np.float32), np.zeros(2, np.float32)]


def parabola_around(center):
    def eval_fn(params, batch):
        loss = 0.5 * jnp.sum(CURVATURE * (params - center) ** 2)
        return {"loss": loss * len(batch), "count": len(batch)}

    return eval_fn


@pytest.mark.parametrize("target", [0.05, slow(20.0)])
def test_sigma_is_a_standard_deviation(target):
    """At a minimum, E rise = sigma^2 tr(H) / 2; a sigma^2 taken for a sigma would be far off."""
    measure = pac_bayes_sigma(
        parabola_around(WEIGHTS),
        target_rise=target,
        quantity="loss",
        num_samples=60,
        noise="additive",
        rtol=1e-3,
    )
    found = measure(WEIGHTS, BATCHES, KEY)
    expected = np.sqrt(2 * target / CURVATURE.sum())
    tolerance = 4 * 0.5 * found.sem / found.rise + 1e-3
    assert tolerance < 0.1
    assert found.sigma == pytest.approx(expected, rel=tolerance)
    assert abs(expected - expected**2) > 2 * tolerance * expected
    assert found.complexity == pytest.approx(found.sigma**-2)
    # sem: Var = sigma^4 tr(H^2) / 2 over 60 draws.
    sem = found.sigma**2 * np.sqrt(np.sum(np.square(CURVATURE)) / 2 / 60)
    assert found.sem == pytest.approx(sem, rel=0.3)


def test_multiplicative_noise_is_relative_to_the_weights():
    measure = pac_bayes_sigma(
        parabola_around(WEIGHTS), target_rise=0.05, quantity="loss", num_samples=60
    )
    found = measure(WEIGHTS, BATCHES, KEY)
    expected = np.sqrt(2 * 0.05 / np.sum(CURVATURE * WEIGHTS**2))
    assert found.sigma == pytest.approx(expected, rel=2 * found.sem / found.rise + 0.01)


def network(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["in"]) @ params["out"]
    return {"error": (logits.argmax(-1) != batch["label"]).sum(), "count": len(logits)}


@pytest.fixture(scope="module")
def solution():
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "in": jax.random.normal(keys[0], (5, 16)),
        "out": jax.random.normal(keys[1], (16, 3)),
    }
    x = jax.random.normal(keys[2], (200, 5))
    label = (jax.nn.relu(x @ params["in"]) @ params["out"]).argmax(-1)
    return params, [{"x": x[a : a + 100], "label": label[a : a + 100]} for a in (0, 100)]


@pytest.mark.parametrize("noise", ["multiplicative", slow("additive")])
def test_the_local_energy_at_sigma_is_the_target(solution, noise):
    measure = pac_bayes_sigma(network, target_rise=0.1, num_samples=20, noise=noise, rtol=0.005)
    found = measure(*solution, KEY)
    assert found.bracketed
    energy = local_energy(
        network, sigmas=[found.sigma, 1.006 * found.sigma], num_samples=20, noise=noise
    )(*solution, KEY)
    # Common draws: the same estimate.
    np.testing.assert_allclose(found.rise, energy.mean["error"][0], rtol=1e-12)
    np.testing.assert_allclose(found.sem, energy.sem["error"][0], rtol=1e-12)
    assert found.rise <= 0.1 < energy.mean["error"][1]


def test_the_path_of_the_bisection(solution):
    found = pac_bayes_sigma(network, num_samples=10, rtol=0.01)(*solution, KEY)
    assert len(found.sigmas) == len(found.rises) == 2 + 11  # log2(log(1e6) / log(1.01)) = 10.4
    np.testing.assert_array_equal(found.sigmas[:2], [1e-5, 10.0])
    borne = found.sigmas[found.rises <= 0.1]
    too_strong = found.sigmas[found.rises > 0.1]
    assert found.sigma == borne.max()
    assert 1 < too_strong.min() / found.sigma <= 1.01


@pytest.mark.parametrize("bounds", [(1e-5, 1e-3), (2.0, 10.0)], ids=["too low", "too high"])
def test_no_number_where_the_bounds_do_not_bracket(solution, bounds):
    found = pac_bayes_sigma(network, num_samples=10, bounds=bounds)(*solution, KEY)
    assert not found.bracketed
    assert np.isnan([found.sigma, found.rise, found.sem, found.complexity]).all()
    np.testing.assert_array_equal(found.sigmas, bounds)
    assert (found.rises > 0.1).all() == (bounds[0] == 2.0)


def test_a_network_that_overflows_bears_no_such_noise():
    def eval_fn(params, batch):
        return {"loss": len(batch) * jnp.exp(jnp.sum(params**2)), "count": len(batch)}

    measure = pac_bayes_sigma(
        eval_fn, target_rise=0.5, quantity="loss", num_samples=5, noise="additive"
    )
    found = measure(jnp.zeros(10), BATCHES, KEY)
    assert np.isinf(found.rises[1])
    assert 0.01 < found.sigma < 1
    assert found.rise <= 0.5


def test_masked_leaves_stay(solution):
    params, batches = solution
    found = pac_bayes_sigma(network, num_samples=5, mask={"in": True, "out": False})(*solution, KEY)
    alone = lambda moving, batch: network(moving | {"out": params["out"]}, batch)
    expected = pac_bayes_sigma(alone, num_samples=5)({"in": params["in"]}, batches, KEY)
    assert found.bracketed
    np.testing.assert_array_equal(found.rises, expected.rises)


def test_nothing_is_recompiled_between_sigmas_or_solutions(solution):
    params, batches = solution
    # One to measure, and two to check that it returns sums.
    measure = pac_bayes_sigma(chex.assert_max_traces(network, n=3), num_samples=5)
    measure(params, batches, KEY)
    measure(jax.tree.map(lambda w: w + 0.01, params), batches, jax.random.key(1))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"target_rise": 0.0}, "target_rise"),
        ({"rtol": 0.0}, "rtol"),
        ({"bounds": (0.0, 1.0)}, "bounds"),
        ({"bounds": (2.0, 1.0)}, "bounds"),
        ({"bounds": (1.0, float("inf"))}, "bounds"),
        ({"num_samples": 1}, "num_samples"),
        ({"noise": "uniform"}, "noise"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        pac_bayes_sigma(network, **arguments)


def test_unknown_quantity(solution):
    with pytest.raises(ValueError, match="quantity"):
        pac_bayes_sigma(network, quantity="loss", num_samples=2)(*solution, KEY)
