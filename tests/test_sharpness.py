"""Sharpness on cases with known answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from fast import slow

from flatjax import evaluate
from flatjax.flatness import sam_sharpness, worst_case_sharpness

KEY = jax.random.key(0)
CURVATURE = np.array([1.0, 4.0, 9.0])
# The mean over examples is a parabola around their mean, [1, -1, 2]; one example is padding.
BATCHES = [
    {"x": jnp.array([[0.0, -1, 3], [2, -1, 1]]), "weight": jnp.ones(2)},
    {"x": jnp.array([[1.0, -1, 2], [9, 9, 9]]), "weight": jnp.array([1.0, 0.0])},
]
CENTER = np.array([1.0, -1.0, 2.0])
BESIDE = np.array([1.3, -0.9, 2.1])


def parabola(params, batch):
    losses = 0.5 * jnp.sum(CURVATURE * (params["w"] - batch["x"]) ** 2, axis=1) + params["b"]
    return {"loss": batch["weight"] @ losses, "count": batch["weight"].sum()}


def at(w, b=0.0):
    return {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}


def rise_of_parabola(w, delta):
    return CURVATURE * (w - CENTER) @ delta + 0.5 * CURVATURE @ delta**2


WEIGHTS_ONLY = {"w": True, "b": False}


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_of_a_parabola(adaptive):
    w, rho = np.array([2.0, 0.5, -1.0]), 0.3
    measure = sam_sharpness(parabola, rho=rho, adaptive=adaptive, mask=WEIGHTS_ONLY)
    found = measure(at(w), BATCHES)
    scale = np.abs(w) if adaptive else np.ones(3)
    gradient = CURVATURE * (w - CENTER)
    norm = np.linalg.norm(scale * gradient)
    delta = rho * scale**2 * gradient / norm
    assert found.rise["loss"] == pytest.approx(rise_of_parabola(w, delta), rel=1e-5)
    assert found.gradient_norm == pytest.approx(norm, rel=1e-6)
    # The spread of the examples: variances (2/3, 0, 2/3) with curvatures 1 and 9.
    at_w = 0.5 * CURVATURE @ (w - CENTER) ** 2 + 0.5 * (2 / 3 + 9 * 2 / 3)
    assert found.reference["loss"] == pytest.approx(at_w, rel=1e-6)


def test_all_leaves_share_one_radius_without_a_mask():
    # The gradient is (0, 0, 0) for w and 1 for b: b moves by the whole radius.
    found = sam_sharpness(parabola, rho=0.3)(at(CENTER), BATCHES)
    assert found.rise["loss"] == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_gives_zero(adaptive):
    measure = sam_sharpness(parabola, rho=0.3, adaptive=adaptive, mask=WEIGHTS_ONLY)
    found = measure(at(CENTER), BATCHES)
    assert found.rise["loss"] == found.gradient_norm == 0.0


@pytest.mark.parametrize(
    ("w", "adaptive"),
    [(CENTER, True), slow(CENTER, False), (BESIDE, False), slow(BESIDE, True)],
    ids=["minimum-True", "minimum-False", "beside it-False", "beside it-True"],
)
def test_the_worst_case_of_a_parabola(w, adaptive):
    rho = 0.5
    measure = worst_case_sharpness(
        parabola, rho=rho, steps=60, adaptive=adaptive, num_restarts=2, mask=WEIGHTS_ONLY
    )
    found = measure(at(w), BATCHES, KEY)
    # The maximum on the sphere |u| = rho, from its secular equation.
    scale = np.abs(w) if adaptive else np.ones(3)
    curvature, slope = CURVATURE * scale**2, CURVATURE * (w - CENTER) * scale
    if slope.any():
        norm_at = lambda multiplier: np.linalg.norm(slope / (multiplier - curvature)) - rho
        multiplier = scipy.optimize.brentq(norm_at, curvature.max() + 1e-9, 1e3)
        best = rise_of_parabola(w, scale * slope / (multiplier - curvature))
    else:
        best = 0.5 * curvature.max() * rho**2
    assert found.rise["loss"] == pytest.approx(best, rel=1e-3)
    # A restart may end in the other, lower local maximum of a sphere, but not above.
    assert (found.restart_rises <= best * (1 + 1e-5)).all()

    delta = np.asarray(found.perturbation["w"])
    assert np.linalg.norm(delta / scale) <= rho * (1 + 1e-5)
    assert found.perturbation["b"] == 0
    assert found.rise["loss"] == pytest.approx(rise_of_parabola(w, delta), rel=1e-4)


def test_one_long_step_of_the_worst_case_is_that_of_sam():
    params = at([2.0, 0.5, -1.0])
    sam = sam_sharpness(parabola, rho=0.3, adaptive=True)(params, BATCHES)
    measure = worst_case_sharpness(parabola, rho=0.3, adaptive=True, steps=1, step_size=1.0)
    found = measure(params, BATCHES, KEY)
    assert found.rise["loss"] == pytest.approx(sam.rise["loss"], rel=1e-6)
    assert found.reference == sam.reference


def cubic(params, batch):
    """From 0, ascent finds the low maximum at 0.13 and not the rise of 1.9 at -1."""
    return {"loss": len(batch) * (0.1 * params - 2 * params**3), "count": len(batch)}


@pytest.mark.slow
def test_restarts_find_other_hills():
    one, many = (
        worst_case_sharpness(cubic, rho=1.0, steps=40, step_size=0.05, num_restarts=restarts)
        for restarts in (1, 8)
    )
    stuck, found = (measure(jnp.zeros([]), [jnp.ones(1)], KEY) for measure in (one, many))
    low = 0.1 * np.sqrt(0.1 / 6) * 2 / 3  # at w = sqrt(0.1 / 6)
    assert stuck.rise["loss"] == pytest.approx(low, rel=0.1)
    assert found.rise["loss"] == pytest.approx(1.9, rel=1e-4)
    assert found.restart_rises[0] == stuck.rise["loss"]
    assert found.restart_rises.max() == found.rise["loss"]


def test_never_below_zero_where_everything_descends():
    measure = worst_case_sharpness(
        lambda w, batch: {"loss": -len(batch) * jnp.sum(w**2), "count": len(batch)}, rho=0.1
    )
    found = measure(jnp.zeros(4), [jnp.ones(1)], KEY)
    assert found.rise["loss"] == 0
    np.testing.assert_array_equal(found.perturbation, 0)


def test_a_nan_on_the_way_is_not_passed_over():
    def eval_fn(w, batch):
        return {"loss": len(batch) * jnp.sum(jnp.where(w < 0.05, w, jnp.nan)), "count": len(batch)}

    measure = worst_case_sharpness(eval_fn, rho=0.1, num_restarts=2)
    found = measure(jnp.zeros([]), [jnp.ones(1)], KEY)
    assert np.isnan(found.rise["loss"])


def relu_network(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["in"] + params["bias"])
    logits = hidden @ params["out"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    error = jnp.sum(logits.argmax(-1) != batch["label"])
    return {"loss": losses.sum(), "error": error, "count": len(losses)}


@pytest.fixture(scope="module")
def network():
    keys = jax.random.split(jax.random.key(1), 5)
    params = {
        "in": jax.random.normal(keys[0], (5, 16)),
        "bias": jax.random.normal(keys[1], (16,)),
        "out": jax.random.normal(keys[2], (16, 3)),
    }
    x = jax.random.normal(keys[3], (200, 5))
    label = jax.random.randint(keys[4], (200,), 0, 3)
    return params, [{"x": x[a : a + 100], "label": label[a : a + 100]} for a in (0, 100)]


def rescaled(params):
    """The same function, by the homogeneity of ReLU: every hidden unit has its own factor."""
    factor = 2.0 ** (jnp.arange(16) % 5 - 2)
    return {
        "in": factor * params["in"],
        "bias": factor * params["bias"],
        "out": params["out"] / factor[:, None],
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sam", "worst case"])
@pytest.mark.claim("docs/flatness.md", "ignores_the_rescaling_of_relu_networks")
def test_adaptive_sharpness_alone_ignores_the_rescaling_of_relu_networks(network, kind):
    params, batches = network
    for adaptive in (True, False):
        if kind == "sam":
            measure, keys = sam_sharpness(relu_network, rho=0.5, adaptive=adaptive), ()
        else:
            measure, keys = (
                worst_case_sharpness(
                    relu_network, rho=0.5, adaptive=adaptive, steps=5, num_restarts=2
                ),
                (KEY,),
            )
        one, other = (measure(p, batches, *keys) for p in (params, rescaled(params)))
        assert one.reference["loss"] == pytest.approx(other.reference["loss"], rel=1e-6)
        ratio = other.rise["loss"] / one.rise["loss"]
        if adaptive:
            assert one.rise["loss"] > 0.05
            assert ratio == pytest.approx(1, rel=1e-4)
            assert one.rise["error"] == other.rise["error"]
        else:
            assert abs(ratio - 1) > 0.1


@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_data_set(network):
    params, batches = network
    whole = [jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)]
    measure = sam_sharpness(relu_network, rho=0.1)
    cut, joined = measure(params, batches), measure(params, whole)
    np.testing.assert_allclose(cut.rise["loss"], joined.rise["loss"], rtol=1e-4)
    grads = jax.jit(jax.grad(lambda p: relu_network(p, whole[0])["loss"] / 200))(params)
    np.testing.assert_allclose(cut.gradient_norm, optax.tree.norm(grads), rtol=1e-5)
    moved = optax.tree.add_scale(params, 0.1 / optax.tree.norm(grads), grads)
    there = evaluate(jax.jit(relu_network), moved, batches)["loss"] - cut.reference["loss"]
    np.testing.assert_allclose(cut.rise["loss"], there, rtol=1e-4)


def test_state_is_passed_on_and_nothing_is_recompiled_for_other_solutions():
    @chex.assert_max_traces(n=4)  # for the gradient and the evaluation of each measure
    def eval_fn(params, batch, state):
        return {"loss": state * len(batch) * jnp.sum(params**2), "count": len(batch)}

    measure = sam_sharpness(eval_fn, rho=0.1)
    worst = worst_case_sharpness(eval_fn, rho=0.1, steps=4, num_restarts=2)
    batches = [jnp.zeros(2)] * 3
    first = measure(jnp.ones(3), batches, None, jnp.array(2.0))
    worst(jnp.ones(3), batches, KEY, jnp.array(2.0))
    second = measure(2 * jnp.ones(3), batches, None, jnp.array(3.0))
    worst(jnp.zeros(3), batches, jax.random.key(1), jnp.array(3.0))
    assert (first.reference["loss"], second.reference["loss"]) == (6.0, 36.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rho": 0.0}, "rho"),
        ({"rho": float("inf")}, "rho"),
        ({"rho": 1.0, "steps": 0}, "steps"),
        ({"rho": 1.0, "step_size": -0.1}, "step_size"),
        ({"rho": 1.0, "num_restarts": 0}, "num_restarts"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        worst_case_sharpness(parabola, **arguments)


def test_bad_data_and_quantities_are_named(network):
    with pytest.raises(ValueError, match="batches"):
        sam_sharpness(parabola, rho=0.1)(at(CENTER), [])
    with pytest.raises(ValueError, match="nll"):
        sam_sharpness(parabola, rho=0.1, quantity="nll")(at(CENTER), BATCHES)
    with pytest.raises(ValueError, match="differentiable"):
        sam_sharpness(relu_network, rho=0.1, quantity="error")(*network)
