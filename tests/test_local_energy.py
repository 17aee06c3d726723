"""Local energy on cases with known answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow

from flatjax.flatness import local_energy, paired_difference

KEY = jax.random.key(0)


def quadratic(params, batch):
    """sum_i h_i w_i^2 / 2, whatever the batch; h is [1, 4, 9]."""
    loss = 0.5 * jnp.sum(jnp.array([1.0, 4.0, 9.0]) * params["w"] ** 2) + params["b"]
    return {"loss": loss * len(batch), "count": len(batch)}


PARAMS = {"w": np.float32([1.0, -2.0, 0.5]), "b": np.float32(3.0)}
BATCHES = [np.zeros(4, np.float32), np.zeros(2, np.float32)]


@pytest.mark.parametrize("noise", ["multiplicative", slow("additive")])
def test_quadratic(noise):
    sigmas = np.array([0.1, 0.5])
    measure = local_energy(quadratic, sigmas=sigmas, num_samples=400, noise=noise)
    found = measure(PARAMS, BATCHES, KEY)
    assert found.reference["loss"] == pytest.approx(0.5 * (1 + 16 + 2.25) + 3)

    scale = np.append(PARAMS["w"], PARAMS["b"]) if noise == "multiplicative" else np.ones(4)
    slope = np.append(np.array([1.0, 4.0, 9.0]) * PARAMS["w"], 1.0) * scale
    curvature = np.array([1.0, 4.0, 9.0, 0.0]) * scale**2
    mean = 0.5 * sigmas**2 * curvature.sum()
    variance = sigmas**2 * (slope**2).sum() + 0.5 * sigmas**4 * (curvature**2).sum()
    np.testing.assert_allclose(found.sem["loss"], np.sqrt(variance / 400), rtol=0.2)
    assert np.all(np.abs(found.mean["loss"] - mean) < 4 * found.sem["loss"])


@pytest.mark.slow
def test_standard_error_is_that_of_repeated_measurements():
    measure = local_energy(quadratic, sigmas=[0.3], num_samples=20)
    found = [measure(PARAMS, BATCHES[:1], jax.random.key(seed)) for seed in range(100)]
    means = [energy.mean["loss"][0] for energy in found]
    sems = [energy.sem["loss"][0] for energy in found]
    assert np.std(means, ddof=1) == pytest.approx(np.sqrt(np.mean(np.square(sems))), rel=0.2)


def test_masked_leaves_stay():
    measure = local_energy(
        quadratic, sigmas=[0.3], num_samples=5, mask=lambda params: {"w": False, "b": True}
    )
    # Linear in b, and by common draws proportional to it.
    once = measure(PARAMS, BATCHES, KEY).mean["loss"]
    twice = measure(PARAMS | {"b": jnp.array(6.0)}, BATCHES, KEY).mean["loss"]
    assert once[0] != 0
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def relu_network(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["in"] + params["bias"])
    logits = hidden @ params["out"]
    error = (logits.argmax(-1) != batch["label"]).sum()
    return {"error": error, "count": len(batch["label"])}


@pytest.fixture
def network():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = {"in": draw(5, 16), "bias": draw(16), "out": draw(16, 3)}
    x = draw(300, 5)
    label = (jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]).argmax(-1)
    return params, [{"x": x[a : a + 100], "label": label[a : a + 100]} for a in (0, 100, 200)]


def rescaled(params, factor):
    """The same function, by the homogeneity of ReLU."""
    return {
        "in": factor * params["in"],
        "bias": factor * params["bias"],
        "out": params["out"] / factor,
    }


@pytest.mark.claim(
    "docs/mathematics.md",
    "test_multiplicative_noise_ignores_the_rescaling_of_relu_networks",
)
def test_multiplicative_noise_ignores_the_rescaling_of_relu_networks(network):
    params, batches = network
    measure = local_energy(relu_network, sigmas=[0.2, 0.5], num_samples=10)
    one, other = (measure(p, batches, KEY) for p in (params, rescaled(params, 8.0)))
    assert one.reference["error"] == other.reference["error"] == 0
    assert one.mean["error"][1] > one.mean["error"][0] > 0
    np.testing.assert_array_equal(one.mean["error"], other.mean["error"])


@pytest.mark.claim("docs/flatness.md", "test_additive_noise_does_not")
def test_additive_noise_does_not(network):
    params, batches = network
    measure = local_energy(relu_network, sigmas=[0.2], num_samples=10, noise="additive")
    one, other = (measure(p, batches, KEY) for p in (params, rescaled(params, 8.0)))
    assert other.mean["error"][0] > one.mean["error"][0] + 0.05


def test_against_a_loop_in_numpy(network):
    """Draws of any kind must have the moments of independent normal noise on every weight."""
    params, batches = network
    measure = local_energy(relu_network, sigmas=[0.3], num_samples=400)
    found = measure(params, batches, KEY)
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
    x, label = (np.concatenate([b[name] for b in batches]) for name in ("x", "label"))
    rises = []
    for _ in range(400):
        noisy = {n: w * (1 + 0.3 * rng.standard_normal(w.shape)) for n, w in arrays.items()}
        hidden = np.maximum(x @ noisy["in"] + noisy["bias"], 0)
        rises.append(np.mean((hidden @ noisy["out"]).argmax(-1) != label))
    error = np.hypot(found.sem["error"][0], np.std(rises) / 20)
    assert abs(found.mean["error"][0] - np.mean(rises)) < 4 * error


def test_the_cut_into_batches_does_not_matter(network):
    params, batches = network
    whole = [jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)]
    measure = local_energy(relu_network, sigmas=[0.3], num_samples=5)
    np.testing.assert_allclose(
        measure(params, batches, KEY).mean["error"], measure(params, whole, KEY).mean["error"]
    )


def test_state_is_passed_on_and_not_perturbed():
    def eval_fn(params, batch, state):
        return {"loss": state["shift"] * len(batch) + 0.0 * params, "count": len(batch)}

    measure = local_energy(eval_fn, sigmas=[0.3], num_samples=3)
    found = measure(jnp.array(2.0), BATCHES, KEY, {"shift": jnp.array(5.0)})
    assert found.reference["loss"] == 5.0
    np.testing.assert_array_equal(found.mean["loss"], 0.0)


def test_nothing_is_recompiled_for_other_sigmas_draws_or_solutions():
    @chex.assert_max_traces(n=3)  # two to check that it returns sums
    def eval_fn(params, batch):
        return {"loss": jnp.sum(params**2) * len(batch), "count": len(batch)}

    measure = local_energy(eval_fn, sigmas=[0.1, 0.2, 0.3], num_samples=4)
    measure(jnp.ones(3), [jnp.zeros(2)] * 3, KEY)
    measure(jnp.zeros(3), [jnp.zeros(2)] * 3, jax.random.key(1))


# --- draws -------------------------------------------------------------------------------------


def test_draws_are_those_that_are_summarized():
    found = local_energy(quadratic, sigmas=[0.1, 0.5], num_samples=7)(PARAMS, BATCHES, KEY)
    draws = found.draws["loss"]
    assert draws.shape == (2, 7)
    np.testing.assert_array_equal(found.num_samples, 7)
    assert found.target_met is None
    np.testing.assert_allclose(found.mean["loss"], draws.mean(axis=1))
    np.testing.assert_allclose(found.sem["loss"], draws.std(axis=1, ddof=1) / np.sqrt(7))
    # One z for all sigmas: a z + b z^2 at both.
    once = local_energy(quadratic, sigmas=[0.1], num_samples=7)(PARAMS, BATCHES, KEY)
    np.testing.assert_allclose(once.draws["loss"], draws[:1], rtol=1e-4)


def test_differences_are_paired_by_the_draws():
    measure = local_energy(quadratic, sigmas=[0.1, 0.3], num_samples=50, noise="additive")
    first, second = (
        measure({"w": PARAMS["w"] + shift, "b": PARAMS["b"]}, BATCHES, KEY) for shift in (0, 0.01)
    )
    mean, sem = paired_difference(second, first, "loss")
    difference = second.draws["loss"] - first.draws["loss"]
    np.testing.assert_allclose(mean, difference.mean(axis=1))
    np.testing.assert_allclose(mean, second.mean["loss"] - first.mean["loss"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sem, difference.std(axis=1, ddof=1) / np.sqrt(50))
    assert np.all(sem < 0.05 * first.sem["loss"])
    # The rise differs by sigma h 0.01 z, the mean of which is 0.
    assert np.all(np.abs(mean) < 4 * sem)
    assert np.all(sem > 0)


def test_results_of_other_draws_are_not_compared():
    measure = local_energy(quadratic, sigmas=[0.1], num_samples=4)
    first = measure(PARAMS, BATCHES, KEY)
    for other, named in (
        (measure(PARAMS, BATCHES, jax.random.key(1)), "draws"),
        (first._replace(sigma=np.array([0.2])), "sigmas"),
        (first._replace(antithetic=True), "draws"),
    ):
        with pytest.raises(ValueError, match=named):
            paired_difference(first, other, "loss")
    with pytest.raises(ValueError, match="error"):
        paired_difference(first, first)


def test_antithetic_pairs():
    plain = local_energy(quadratic, sigmas=[0.1, 0.5], num_samples=10)
    pairs = local_energy(quadratic, sigmas=[0.1, 0.5], num_samples=20, antithetic=True)
    draws, paired = plain(PARAMS, BATCHES, KEY), pairs(PARAMS, BATCHES, KEY)
    even, odd = paired.draws["loss"][:, ::2], paired.draws["loss"][:, 1::2]
    np.testing.assert_allclose(even, draws.draws["loss"], rtol=1e-4, atol=1e-6)
    means = 0.5 * (even + odd)
    np.testing.assert_allclose(paired.sem["loss"], means.std(axis=1, ddof=1) / np.sqrt(10))
    # Half of sum h w^2 sigma^2 z^2 is left: exactly proportional to sigma^2.
    np.testing.assert_allclose(means[1], 25 * means[0], rtol=1e-3)
    difference, sem = paired_difference(paired, paired._replace(), "loss")
    np.testing.assert_array_equal(difference, 0)
    np.testing.assert_array_equal(sem, 0)


@pytest.mark.slow
def test_draws_are_added_until_the_error_is_small():
    # For the shapes of the sums, for batches of two shapes, and two to check that it returns sums;
    # none for each of five blocks.
    eval_fn = chex.assert_max_traces(quadratic, n=5)
    options = {"sigmas": [0.01, 0.1, 0.5], "quantity": "loss"}
    plain = local_energy(quadratic, sigmas=options["sigmas"], num_samples=95)(PARAMS, BATCHES, KEY)
    target = 1.05 * plain.draws["loss"][1, :40].std(ddof=1) / np.sqrt(40)
    adaptive = local_energy(eval_fn, num_samples=20, target_sem=target, max_samples=95, **options)
    found = adaptive(PARAMS, BATCHES, KEY)
    np.testing.assert_array_equal(found.num_samples[[0, 2]], [20, 95])
    assert 20 < found.num_samples[1] < 95
    np.testing.assert_array_equal(found.target_met, [True, True, False])
    np.testing.assert_array_equal(found.sem["loss"] <= target, found.target_met)
    for g, count in enumerate(found.num_samples):
        expected = plain.draws["loss"][g, :count]
        np.testing.assert_allclose(found.draws["loss"][g, :count], expected, rtol=1e-5)
        assert np.all(np.isnan(found.draws["loss"][g, count:]))
        assert found.mean["loss"][g] == pytest.approx(expected.mean(), rel=1e-4)
    mean, _ = paired_difference(found, plain, "loss")
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)
    with pytest.raises(ValueError, match="quantity"):
        local_energy(quadratic, num_samples=20, target_sem=1.0)(PARAMS, BATCHES, KEY)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sigmas": []}, "sigmas"),
        ({"sigmas": [0.1, -0.1]}, "sigmas"),
        ({"sigmas": [0.1, float("nan")]}, "sigmas"),
        ({"num_samples": 1}, "num_samples"),
        ({"noise": "uniform"}, "noise"),
        ({"num_samples": 5, "antithetic": True}, "num_samples"),
        ({"num_samples": 2, "antithetic": True}, "num_samples"),
        ({"num_samples": 9, "target_sem": 0.1}, "num_samples"),
        ({"target_sem": 0.0}, "target_sem"),
        ({"target_sem": 0.1, "max_samples": 99}, "max_samples"),
        ({"max_samples": 1000}, "max_samples"),
        ({"update_stats": quadratic}, "stats_batches"),
        ({"update_stats": quadratic, "stats_batches": []}, "stats_batches"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        local_energy(quadratic, **arguments)


def test_no_batches():
    with pytest.raises(ValueError, match="batches"):
        local_energy(quadratic)(PARAMS, [], KEY)
    with pytest.raises(ValueError, match="batches"):
        local_energy(quadratic)(PARAMS, lambda: iter(()), KEY)
    with pytest.raises(TypeError, match="batches"):
        local_energy(quadratic)(PARAMS, 3, KEY)


def test_sums_must_be_scalars_with_a_count():
    with pytest.raises(ValueError, match="count"):
        local_energy(lambda params, batch: {"loss": params["b"]})(PARAMS, BATCHES, KEY)
    per_example = lambda params, batch: {"loss": params["b"] * batch, "count": len(batch)}
    with pytest.raises(ValueError, match="scalars"):
        local_energy(per_example)(PARAMS, BATCHES, KEY)


def test_stacked_leaves_must_agree():
    with pytest.raises(ValueError, match="replica"):
        local_energy(quadratic, stacked=True)(PARAMS, BATCHES, KEY)
