"""SAM: optax's own where that works, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal

import flatjax

PARAMS = {"w": np.float32([1.0, -2.0, 3.0]), "b": np.float32(0.5)}
RHO = 0.1


def loss(params):
    return jnp.sum(jnp.cos(params["w"]) * params["b"]) + params["b"] ** 4


def train(tx, params=PARAMS, steps=8, grad=None, **extra_args):
    grad = jax.grad(loss) if grad is None else grad

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad(params), state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_is_that_of_optax():
    """The same updates as optax's own, bit for bit."""
    inner = optax.sgd(0.1, momentum=0.9)
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    expected, _ = train(optax.contrib.sam(inner, adversary, sync_period=2))
    assert_trees_all_equal(train(flatjax.sam(inner, RHO))[0], expected)


def test_against_numpy():
    w = np.array([1.0, -2.0, 3.0])
    grad = lambda w: w**3 - np.sin(w)
    path = w.copy()
    for _ in range(5):
        g = grad(path)
        path = path - 0.05 * grad(path + RHO * g / np.linalg.norm(g))
    found, _ = train(
        flatjax.sam(optax.sgd(0.05), RHO),
        jnp.asarray(w),
        steps=10,
        grad=lambda w: w**3 - jnp.sin(w),
    )
    np.testing.assert_allclose(found, path, rtol=1e-5)


def test_the_optimizer_gets_the_extra_arguments():
    growth = flatjax.schedules.scoping(1.0, 10)
    balanced = flatjax.schedules.BalancedScoping(growth)
    params = jnp.array([[0.0], [2.0]])
    tx = flatjax.sam(
        optax.chain(optax.sgd(0.1), flatjax.couple_replicas(balanced, replica_axis=0)),
        RHO,
        replica_axis=0,
    )
    _, state = train(tx, params, steps=2, grad=jnp.zeros_like, value=3.0, unknown=None)
    assert float(optax.tree.get(state, "gamma_0")) == pytest.approx(6.0)


@pytest.mark.slow
@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_optimizers_with_keys(make_key):
    options = {"noise_scale": 0.1, "weight_decay": 0.0, "inner_steps": 2}
    esgd = lambda seed: flatjax.esgd(0.05, 0.1, key=make_key(seed), **options)
    run = lambda seed: train(flatjax.sam(esgd(seed), RHO), steps=4)
    (one, state), (again, _), (other, _) = map(run, (0, 0, 1))
    assert_trees_all_equal(one, again)
    assert not np.allclose(one["w"], other["w"])
    assert_trees_all_close(flatjax.eval_params(state, one), one, atol=1e-6)  # a loop has ended


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("size", [2.0**-14, 300.0])
def test_the_ascent_has_its_length_in_any_precision(dtype, size):
    """The square of the gradient is 0 or infinite in half precision."""
    tx, params = flatjax.sam(optax.sgd(0.1), 0.5), jnp.zeros(2, dtype)
    grads = (size * (jnp.array([3j, 4.0]) if dtype == "complex64" else jnp.array([3, 4.0]))).astype(
        dtype
    )
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(np.abs(updates.astype(complex)), [0.3, 0.4], rtol=5e-3)


def test_zero_gradients_move_nothing():
    found, _ = train(
        flatjax.sam(optax.sgd(0.1), RHO), grad=lambda w: jax.tree.map(jnp.zeros_like, w)
    )
    assert_trees_all_equal(found, PARAMS)


@pytest.mark.parametrize("axis", [0, 1])
def test_replicas_ascend_on_their_own(axis):
    sam = lambda **where: flatjax.sam(optax.sgd(0.05), RHO, **where)
    grad = lambda w: w**3
    replicas = [np.float32([1.0, -2.0, 3.0]), np.float32([0.1, 0.2, -0.1])]
    expected = [train(sam(), w, grad=grad)[0] for w in replicas]
    found, _ = train(sam(replica_axis=axis), np.stack(replicas, axis=axis), grad=grad)
    np.testing.assert_allclose(found, np.stack(expected, axis=axis), rtol=1e-6)


def test_states_that_hold_infinite_numbers_and_flags():
    """Optax's own multiplies states by 0 and 1: infinite ones become NaN, and flags integers."""
    plateau = optax.contrib.reduce_on_plateau(patience=2)  # its best value is infinite at first
    guarded = optax.apply_if_finite(optax.chain(optax.sgd(0.1, momentum=0.9), plateau), 3)
    tx = flatjax.sam(guarded, RHO)
    start = tx.init(PARAMS)
    _, state = train(tx, value=2.0)
    assert float(optax.tree.get(state, "best_value")) == 2.0
    chex.assert_trees_all_equal_dtypes(start, state)
    averaging = flatjax.diloco(optax.sgd(0.1), optax.sgd(1.0), 2, replica_axis=0)  # gamma = inf
    stack = jax.tree.map(lambda w: np.stack([w, 2 * w]), PARAMS)
    _, state = train(flatjax.sam(averaging, RHO, replica_axis=0), stack, grad=lambda params: params)
    assert float(optax.tree.get(state, "gamma")) == np.inf


def test_an_average_inside_is_that_of_the_weights():
    grad = lambda w: w**3 - jnp.sin(w)
    w = jnp.array([1.0, -2.0, 3.0])
    path = [train(flatjax.sam(optax.sgd(0.05), RHO), w, 2 * t, grad)[0] for t in (1, 2, 3)]
    tx = flatjax.sam(optax.chain(optax.sgd(0.05), flatjax.average_params()), RHO)
    found, state = train(tx, w, 6, grad)
    assert_trees_all_close(flatjax.eval_params(state, found), sum(path) / 3, rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, {"n": jnp.arange(2)}])
def test_stacks_without_weights(tree):
    tx = flatjax.sam(optax.identity(), RHO, replica_axis=0)
    assert_trees_all_equal(tx.update(tree, tx.init(tree), tree)[0], tree)


def test_refuses():
    for rho in (-0.1, np.inf):
        with pytest.raises(ValueError, match="rho must be finite, >= 0"):
            flatjax.sam(optax.sgd(0.1), rho)
    tx = flatjax.sam(optax.sgd(0.1), RHO)
    with pytest.raises(ValueError, match="params must be passed"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="replica_axis must be >= 0, got -1"):
        flatjax.sam(optax.sgd(0.1), RHO, replica_axis=-1)
    tx = flatjax.sam(optax.sgd(0.1), RHO, replica_axis=0)
    with pytest.raises(ValueError, match=r"params\['b'\] must carry a replica axis 0"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
