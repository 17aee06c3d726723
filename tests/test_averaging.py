"""Averages along the trajectory: SWA and EMA."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only, slow

import flatjax

STEPS = 12
PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([4.0])}
SGD = optax.sgd(0.1, momentum=0.5)
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def run(tx, params=PARAMS, steps=STEPS):
    """The parameters and the state after each step."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps)[1])()


def averages(**options):
    path, states = run(optax.chain(SGD, flatjax.average_params(**options)))
    return flatjax.eval_params(states, path)


def test_training_is_not_changed():
    path, _ = run(optax.chain(SGD, flatjax.average_params(start=2, period=3)))
    assert_close(path, run(SGD)[0])


@pytest.mark.parametrize(
    ("start", "period"), [(5, 3), slow(0, 1), slow(3, 1), slow(0, 4), slow(11, 1)]
)
def test_equal_average(start, period):
    """Of the points at start, start + K, ...; before them, the present point."""
    found, path = jax.tree.map(np.asarray, (averages(start=start, period=period), run(SGD)[0]))
    for t in range(STEPS):
        chosen = path if t < start else jax.tree.map(lambda leaf: leaf[start::period], path)
        first, last = (t, t + 1) if t < start else (0, (t - start) // period + 1)
        expected = jax.tree.map(lambda leaf, i=first, j=last: leaf[i:j].mean(axis=0), chosen)
        assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], found), expected)


@pytest.mark.parametrize(
    ("decay", "start", "period"),
    only(
        [(0.7, 0, 1), (0.7, 2, 3), (0.0, 4, 1)],
        [(d, *when) for d in (0.0, 0.7, 1.0) for when in [(0, 1), (4, 1), (2, 3)]],
    ),
)
def test_exponential_average(start, period, decay):
    """Starts at the first averaged point, which no zero pulls on."""
    found, path = averages(start=start, period=period, decay=decay), run(SGD)[0]
    for name, leaf in path.items():
        mean = leaf[0]
        for t in range(STEPS):
            if t <= start:
                mean = leaf[t]
            elif (t - start) % period == 0:
                mean = decay * mean + (1 - decay) * leaf[t]
            np.testing.assert_allclose(found[name][t], mean, rtol=1e-5, atol=1e-6)


def test_half_precision_is_averaged_in_single():
    """Of a thousand zeros and then as many ones; a mean of bfloat16 would soon stop moving."""
    tx = flatjax.average_params()

    def step(state, t):
        params = jnp.where(t < 1000, jnp.zeros(1), jnp.ones(1)).astype(jnp.bfloat16)
        return tx.update(jnp.zeros_like(params), state, params)[1], None

    start = tx.init(jnp.zeros(1, jnp.bfloat16))
    state, _ = jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(2000)))()
    np.testing.assert_allclose(flatjax.eval_params(state, jnp.zeros(1)), 0.5, rtol=1e-3)


def test_before_any_update_the_average_is_the_start():
    assert_close(flatjax.eval_params(flatjax.average_params().init(PARAMS), PARAMS), PARAMS)


@pytest.mark.claim("docs/optax.md", "test_average_around_entropy_sgd_averages_its_iterates")
def test_average_around_entropy_sgd_averages_its_iterates():
    """Whatever precedes it in the chain."""
    tx = optax.chain(flatjax.esgd(0.1, 0.1, key=1), flatjax.average_params())
    path, states = run(tx)
    expected = jax.tree.map(lambda leaf: leaf.mean(axis=0), path)
    found = flatjax.eval_params(states, path)
    assert_close(jax.tree.map(lambda leaf: leaf[-1], found), expected)


def test_averages_refuse():
    for arguments, error, name in [
        ({"start": -1}, ValueError, "start"),
        ({"start": 0.5}, TypeError, "start"),
        ({"period": 0}, ValueError, "period"),
        ({"decay": 1.1}, ValueError, "decay"),
        ({"decay": -0.1}, ValueError, "decay"),
    ]:
        with pytest.raises(error, match=f"{name} must be"):
            flatjax.average_params(**arguments)
