"""The noise of Entropy-SGD: its strength, its keys, and that replicas draw their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow
from test_entropy_sgd import PARAMS, STACK, assert_close, at, run, zero_gradient

import flatjax

# --------------------------------------------------------------------------------------- noise


def first_steps(tx, params, lift=lambda run: run):
    """The moves of three steps without gradient: noise alone."""
    minima = np.zeros((3, 0))
    return lift(lambda params: run(tx, params, minima, zero_gradient)[0])(params)


def noisy(**options):
    options = {"weight_decay": 0.0, "noise_scale": 0.2, "key": 1} | options
    return flatjax.esgd(optax.piecewise_constant_schedule(0.5, {1: 0.25}), 0.0, **options)


@pytest.mark.slow
def test_standard_deviation_of_the_noise():
    """Eps sqrt(2 eta'), at each learning rate; new at each step, leaf and weight."""
    zeros = {"w": jnp.zeros((300, 400)), "b": jnp.zeros(120_000)}
    path = first_steps(noisy(), zeros)
    steps = jax.tree.map(lambda leaf: np.diff(leaf, axis=0, prepend=0).reshape(3, -1), path)
    eta = np.array([0.5, 0.125, 0.125])
    draws = np.concatenate([steps["w"], steps["b"]])
    sigma = np.tile(0.2 * np.sqrt(2 * eta), 2)
    number = draws.shape[1]
    np.testing.assert_allclose(draws.std(axis=1), sigma, rtol=4 / np.sqrt(2 * number))
    np.testing.assert_allclose(draws.mean(axis=1) / sigma, 0, atol=4 / np.sqrt(number))
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(6), atol=5 / np.sqrt(number))


def test_noise_does_not_pass_through_momentum():
    """With the noise of one step only, later steps would follow it."""
    tx = flatjax.esgd(lambda count: jnp.where(count == 0, 0.5, 0.0), 0.0, weight_decay=0.0, key=1)
    path = first_steps(tx, PARAMS)
    assert_close(at(path, 2), at(path, 0))
    assert np.any(at(path, 0)["w"] != PARAMS["w"])


@pytest.mark.slow
def test_replicas_draw_their_own_noise_wherever_they_are():
    common = jax.tree.map(jnp.zeros_like, STACK)
    stacked = first_steps(noisy(replica_axis=0), common)
    w = stacked["w"].reshape(3, 4, -1)
    for a in range(4):
        for b in range(a):
            assert np.all(np.abs(w[:, a] - w[:, b]).max(axis=-1) > 1e-3)
    named = functools.partial(jax.vmap, axis_name="replica", out_axes=1)
    assert_close(first_steps(noisy(axis_name="replica"), common, named), stacked)
    # A second replica axis position draws the same.
    turned = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), common)
    turned = first_steps(noisy(replica_axis=1), turned)
    assert_close(jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 1), turned), stacked)


def test_seeds_and_keys():
    zeros = zero_gradient(PARAMS, None)
    update = jax.jit(noisy().update)
    draw = lambda key: update(zeros, noisy(key=key).init(PARAMS), PARAMS)[0]
    expected = draw(3)
    for same in (np.int64(3), jnp.array(3), jax.random.key(3), jax.random.PRNGKey(3)):
        assert_close(draw(same), expected)
    assert np.abs(draw(4)["w"] - expected["w"]).min() > 0
    state = optax.tree.set(noisy(key=4).init(PARAMS), key=jax.random.key(3))
    assert_close(update(zeros, state, PARAMS)[0], expected)


def test_seeds_have_64_bits():
    numbers = lambda key: tuple(map(int, flatjax.esgd(0.1, 0.1, key=key).init(PARAMS).key))
    assert numbers(7) == tuple(jax.random.key_data(jax.random.key(7)).tolist())
    assert numbers(2**40 + 7) == numbers(np.int64(2**40 + 7)) == (256, 7)
    assert numbers(1_795_000_000_000_000_000) != numbers(1_795_000_000_000_000_001)
    with pytest.raises(ValueError, match="key must be a seed of 64 bits"):
        flatjax.esgd(0.1, 0.1, key=2**63)


@pytest.mark.parametrize("impl", [slow("threefry2x32"), "rbg", slow("unsafe_rbg")])
def test_keys_of_any_generator_survive_as_numbers(impl):
    make = lambda seed: flatjax.esgd(0.1, 0.1, noise_scale=0.1, key=jax.random.key(seed, impl=impl))
    tx, zeros = make(3), zero_gradient(PARAMS, None)
    state = tx.init(PARAMS)
    assert all(leaf.dtype.kind in "fiu" for leaf in jax.tree.leaves(state))
    expected, _ = tx.update(zeros, state, PARAMS)
    # The numbers alone, in an optimizer of another key of that generator.
    read = jax.tree.unflatten(
        jax.tree.structure(state), [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    )
    assert_close(make(4).update(zeros, read, PARAMS)[0], expected)
    # States of earlier versions hold the key itself.
    earlier = state._replace(key=jax.random.key(3, impl=impl))
    assert_close(make(4).update(zeros, earlier, PARAMS)[0], expected)
    if impl != "threefry2x32":
        with pytest.raises(ValueError, match=r"state.key must hold the numbers .* generator"):
            flatjax.esgd(0.1, 0.1).update(zeros, state, PARAMS)


@pytest.mark.slow
def test_noise_of_complex_weights_has_two_parts():
    tree = {"z": jnp.zeros((2, 20_000), jnp.complex64), "n": jnp.arange(2), "x": jnp.zeros(2)}
    noise = flatjax.langevin_noise(2**40, tree, 0.5, 0.1, replica_axis=0)
    np.testing.assert_allclose([noise["z"].real.std(), noise["z"].imag.std()], 0.1, rtol=0.02)
    assert abs(jnp.mean(noise["z"].real * noise["z"].imag)) < 1e-3
    np.testing.assert_array_equal(noise["n"], [0, 0])
    with pytest.raises(TypeError, match=r"tree\['k'\] must hold numbers, got random keys"):
        flatjax.langevin_noise(0, {"k": jax.random.key(0), "x": 0.0}, 0.5, 0.1)
