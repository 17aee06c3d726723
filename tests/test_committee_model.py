"""The committee as a module, and what keeps it on the sphere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow

import flatjax
from flatjax.committee import Committee, error, fields, stay_on_sphere, to_sphere

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)


def vote(weights, x, activation):
    """One pattern, one unit at a time."""
    votes = []
    for pattern in np.asarray(x, float):
        total = 0.0
        for w in np.asarray(weights, float):
            total += activation(w @ pattern / np.linalg.norm(w))
        votes.append(total / np.sqrt(len(weights)))
    return np.array(votes)


@pytest.mark.parametrize("num_units", [slow(1), 5])
def test_votes_are_those_of_a_loop(num_units):
    model = Committee(num_units)
    apply = jax.jit(model.apply)
    variables = jax.jit(model.init)(KEY, X)
    weights = 3 * np.asarray(variables["params"]["weights"])  # of whatever norm
    variables = {"params": {"weights": weights}}
    signs = np.asarray(apply(variables, X))
    np.testing.assert_allclose(signs, vote(weights, X, np.sign), atol=1e-6)
    smooth = apply(variables, X, beta=2.0)
    np.testing.assert_allclose(smooth, vote(weights, X, lambda h: np.tanh(2 * h)), atol=1e-5)
    np.testing.assert_allclose(apply(variables, X, beta=1e6), signs, atol=1e-6)
    label = np.sign(signs)
    label[:10] *= -1
    assert error(weights, X, label) == 0.25
    assert error(np.stack([weights, -weights]), X, label).tolist() == [0.25, 0.75]


@pytest.mark.slow
def test_weights_start_on_the_sphere_and_fields_are_of_order_one():
    weights = Committee(9).init(KEY, X)["params"]["weights"]
    np.testing.assert_allclose(jnp.sum(weights**2, axis=1), 12, rtol=1e-5)
    assert fields(weights, X).shape == (40, 9)
    assert 0.8 < jnp.std(fields(weights, X)) < 1.2
    assert fields(jnp.stack([weights] * 3), X).shape == (3, 40, 9)


@pytest.mark.slow
def test_a_unit_without_weights_is_no_nan():
    assert to_sphere(jnp.zeros((2, 3))).tolist() == [[0.0] * 3] * 2
    gradient = jax.grad(lambda w: to_sphere(w).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tx",
    [
        optax.adam(0.3),
        flatjax.replicated_sgd(0.5, 0.2, replica_axis=0),
        flatjax.esgd(0.5, 0.2, key=KEY, replica_axis=0),
    ],
    ids=["adam", "replicated_sgd", "esgd"],
)
def test_steps_end_on_the_sphere_where_they_would_have_led(tx):
    params = {"weights": to_sphere(jax.random.normal(KEY, (2, 3, 8))), "none": None}
    free, kept = tx, optax.chain(tx, stay_on_sphere())
    free_state, kept_state = free.init(params), kept.init(params)
    for i in range(7):
        grads = jax.tree.map(lambda w, i=i: jnp.sin(w + i), params)
        moved, free_state = free.update(grads, free_state, params)
        updates, kept_state = kept.update(grads, kept_state, params)
        expected = jax.tree.map(to_sphere, optax.apply_updates(params, moved))
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["weights"], expected["weights"], atol=1e-5)
        np.testing.assert_allclose(jnp.sum(params["weights"] ** 2, axis=-1), 8, rtol=1e-5)


def test_updates_keep_their_dtype():
    params = to_sphere(jnp.ones((1, 4)))
    updates, _ = stay_on_sphere().update(jnp.ones((1, 4), jnp.bfloat16), optax.EmptyState(), params)
    assert updates.dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_are_measured_in_single_precision(dtype):
    """The square of 300 is infinite in float16."""
    weights = jnp.full((1, 4), 300.0, dtype)
    assert to_sphere(weights).dtype == dtype
    np.testing.assert_array_equal(to_sphere(weights).astype(jnp.float32), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.arange(40) % 2}, r"y must hold labels -1 and 1, got \[0 1\]"),
        ({"y": np.ones((40, 1))}, r"y must have shape \(40,\), .* got \(40, 1\)"),
        ({"x": X[0]}, r"x must have shape \(P, N\)"),
        ({"x": np.full_like(X, np.nan)}, "x must be finite"),
    ],
)
def test_patterns_and_labels_that_have_no_error(change, message):
    arguments = {"x": X, "y": np.ones(40)} | change
    with pytest.raises(ValueError, match=message):
        error(np.ones((3, 12)), **arguments)
    if "finite" not in message and "hold" not in message:
        with pytest.raises(ValueError, match=message):
            jax.jit(error)(np.ones((3, 12)), **arguments)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="num_units must be odd, got 4"):
        Committee(4)
    with pytest.raises(ValueError, match="num_units"):
        Committee(0)
    with pytest.raises(ValueError, match=r"x must have shape \(B, N\)"):
        Committee(3).init(KEY, jnp.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="params must be given"):
        stay_on_sphere().update(jnp.ones(3), optax.EmptyState())
