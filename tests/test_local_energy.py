"""Local energy on cases with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax.flatness import local_energy

KEY = jax.random.key(0)


def quadratic(params, batch):
    """sum_i h_i w_i^2 / 2, whatever the batch; h is [1, 4, 9]."""
    loss = 0.5 * jnp.sum(jnp.array([1.0, 4.0, 9.0]) * params["w"] ** 2) + params["b"]
    return {"loss": loss * len(batch), "count": len(batch)}


PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
BATCHES = [jnp.zeros(4), jnp.zeros(2)]


@pytest.mark.parametrize("noise", ["multiplicative", "additive"])
def test_quadratic(noise):
    sigmas = np.array([0.1, 0.5])
    measure = local_energy(quadratic, sigmas=sigmas, num_samples=4000, noise=noise)
    found = measure(PARAMS, BATCHES, KEY)
    assert found.reference["loss"] == pytest.approx(0.5 * (1 + 16 + 2.25) + 3)

    scale = np.append(PARAMS["w"], PARAMS["b"]) if noise == "multiplicative" else np.ones(4)
    slope = np.append(np.array([1.0, 4.0, 9.0]) * PARAMS["w"], 1.0) * scale
    curvature = np.array([1.0, 4.0, 9.0, 0.0]) * scale**2
    mean = 0.5 * sigmas**2 * curvature.sum()
    variance = sigmas**2 * (slope**2).sum() + 0.5 * sigmas**4 * (curvature**2).sum()
    np.testing.assert_allclose(found.sem["loss"], np.sqrt(variance / 4000), rtol=0.1)
    assert np.all(np.abs(found.mean["loss"] - mean) < 4 * found.sem["loss"])


def test_standard_error_is_that_of_repeated_measurements():
    measure = local_energy(quadratic, sigmas=[0.3], num_samples=20)
    found = [measure(PARAMS, BATCHES, jax.random.key(seed)) for seed in range(200)]
    means = [energy.mean["loss"][0] for energy in found]
    sems = [energy.sem["loss"][0] for energy in found]
    assert np.std(means, ddof=1) == pytest.approx(np.sqrt(np.mean(np.square(sems))), rel=0.2)


def test_masked_leaves_stay():
    measure = local_energy(quadratic, sigmas=[0.3], num_samples=5, mask={"w": False, "b": False})
    np.testing.assert_array_equal(measure(PARAMS, BATCHES, KEY).mean["loss"], 0.0)
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
    keys = jax.random.split(jax.random.key(1), 5)
    params = {
        "in": jax.random.normal(keys[0], (5, 16)),
        "bias": jax.random.normal(keys[1], (16,)),
        "out": jax.random.normal(keys[2], (16, 3)),
    }
    x = jax.random.normal(keys[3], (300, 5))
    label = (jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]).argmax(-1)
    return params, [{"x": x[a : a + 100], "label": label[a : a + 100]} for a in (0, 100, 200)]


def rescaled(params, factor):
    """The same function, by the homogeneity of ReLU."""
    return {
        "in": factor * params["in"],
        "bias": factor * params["bias"],
        "out": params["out"] / factor,
    }


def test_multiplicative_noise_ignores_the_rescaling_of_relu_networks(network):
    params, batches = network
    measure = local_energy(relu_network, sigmas=[0.2, 0.5], num_samples=10)
    one, other = (measure(p, batches, KEY) for p in (params, rescaled(params, 8.0)))
    assert one.reference["error"] == other.reference["error"] == 0
    assert one.mean["error"][1] > one.mean["error"][0] > 0
    np.testing.assert_array_equal(one.mean["error"], other.mean["error"])


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
    traces = []

    def eval_fn(params, batch):
        traces.append(None)
        return {"loss": jnp.sum(params**2) * len(batch), "count": len(batch)}

    measure = local_energy(eval_fn, sigmas=[0.1, 0.2, 0.3], num_samples=4)
    measure(jnp.ones(3), [jnp.zeros(2)] * 3, KEY)
    after_first = len(traces)
    measure(jnp.zeros(3), [jnp.zeros(2)] * 3, jax.random.key(1))
    # One more for the shapes of the sums; none for the compiled pass.
    assert after_first <= 2
    assert len(traces) - after_first <= 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sigmas": []}, "sigmas"),
        ({"sigmas": [0.1, -0.1]}, "sigmas"),
        ({"sigmas": [0.1, float("nan")]}, "sigmas"),
        ({"num_samples": 1}, "num_samples"),
        ({"noise": "uniform"}, "noise"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        local_energy(quadratic, **arguments)


def test_no_batches():
    with pytest.raises(ValueError, match="batches"):
        local_energy(quadratic)(PARAMS, [], KEY)
