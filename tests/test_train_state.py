"""The training state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax

PARAMS = {"w": jnp.array([1.0, -2.0])}


def apply_fn(params, x):
    return params["w"] @ x


def create(tx=None, **options):
    tx = optax.sgd(0.1) if tx is None else tx
    return flatjax.TrainState.create(apply_fn=apply_fn, params=PARAMS, tx=tx, **options)


def test_one_update():
    state = create().apply_gradients(grads={"w": jnp.array([1.0, 2.0])})
    np.testing.assert_allclose(state.params["w"], [0.9, -2.2], rtol=1e-6)
    assert int(state.step) == 1
    assert state.step.dtype == jnp.int32
    assert float(state.apply_fn(state.params, jnp.ones(2))) == pytest.approx(-1.3)


@pytest.mark.claim("docs/optax.md", "reach the optimizer")
def test_extra_arguments_reach_the_optimizer():
    """Flax's TrainState does not forward them."""
    gamma = flatjax.schedules.BalancedScoping(flatjax.schedules.scoping(1.0, 5))
    params = {"w": jnp.array([[0.0], [2.0]])}
    state = flatjax.TrainState.create(
        apply_fn=apply_fn, params=params, tx=flatjax.couple_replicas(gamma, replica_axis=0)
    )
    state = state.apply_gradients(grads=params, value=jnp.array(3.0))
    assert float(state.opt_state.gamma) == 6.0
    with pytest.raises(ValueError, match="value"):
        state.apply_gradients(grads=params)


def test_a_transformation_without_extra_arguments_gets_none():
    plain = optax.GradientTransformation(lambda params: (), lambda g, s, params=None: (g, s))
    state = create(plain).apply_gradients(grads=PARAMS, value=1.0)
    chex.assert_trees_all_equal(state.params, jax.tree.map(lambda leaf: 2 * leaf, PARAMS))


def test_batch_statistics_are_kept_or_replaced():
    assert create().batch_stats == {}
    state = create(batch_stats={"mean": jnp.zeros(2)})
    chex.assert_trees_all_equal(
        state.apply_gradients(grads=PARAMS).batch_stats, {"mean": np.zeros(2)}
    )
    state = state.apply_gradients(grads=PARAMS, batch_stats={"mean": jnp.ones(2)})
    chex.assert_trees_all_equal(state.batch_stats, {"mean": np.ones(2)})


def test_it_is_a_pytree_of_its_arrays():
    state = create(optax.adam(0.1), batch_stats={"mean": jnp.zeros(2)})
    leaves, treedef = jax.tree.flatten(state)
    assert len(leaves) == 1 + 1 + 3 + 1  # step, params, Adam's count, mu and nu, statistics
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(treedef, leaves)
    assert again.tx is state.tx
    assert again.apply_fn is state.apply_fn


def step(state):
    loss = lambda params: jnp.sum(params["w"] ** 2)
    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads, value=value)


def test_scan_and_donation_agree_with_a_loop():
    tx = flatjax.esgd(0.1, 0.1, key=1)
    scanned, _ = jax.jit(
        lambda state: jax.lax.scan(lambda state, _: (step(state), None), state, length=7)
    )(create(tx))
    jitted = jax.jit(step, donate_argnums=0)
    state = jax.tree.map(jnp.copy, create(tx))
    for _ in range(7):
        state = jitted(state)
    assert jitted._cache_size() == 1
    assert int(state.step) == int(scanned.step) == 7
    np.testing.assert_allclose(state.params["w"], scanned.params["w"], rtol=1e-5)


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        create().step = 3
