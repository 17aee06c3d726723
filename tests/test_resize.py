"""Another number of replicas: means are kept, the center goes on as if nothing had happened."""

import functools

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import only, slow
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax

Y = 4
# Weights of the old replicas in each new one, by hand.
WEIGHTS = {
    1: [[0.25, 0.25, 0.25, 0.25]],
    2: [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]],
    3: [[0.75, 0.25, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.25, 0.75]],
    6: [
        *([1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0]),
        *([0, 0, 1, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]),
    ],
    8: np.repeat(np.eye(4), 2, axis=0).tolist(),
}
CASES = ["couple_replicas_delayed", "pull_to_center_outer", "diloco", "replicated_sgd"]
CASES += ["per_replica", "esgd_stacked", "parle"]
STACK = {
    "w": np.random.default_rng(0).normal(size=(Y, 3)).astype(np.float32),
    "b": (np.arange(Y) / 3).astype(np.float32),
}
is_stacked = lambda leaf: jnp.ndim(leaf) > 0 and len(leaf) == Y
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def loss(params):
    """Of all replicas; its minima are not at zero, and the same for all."""
    return sum(jnp.sum((leaf - 0.3) ** 2) for leaf in jax.tree.leaves(params))


@functools.cache
def trained(name):
    """A transformation, and parameters and state after some steps that end between couplings."""
    tx = contract.CASES[name].make()
    return tx, *contract.train(tx, STACK, 4, loss)


def resized(name, num_replicas):
    tx, params, state = trained(name)
    return tx, *flatjax.resize_replicas(tx.init, state, params, num_replicas)


@pytest.mark.parametrize("num_replicas", WEIGHTS)
def test_new_replicas_are_means_of_neighbours(num_replicas):
    found, _ = flatjax.resize_replicas(lambda _: (), (), STACK, num_replicas)
    mean = lambda leaf: np.einsum("ab,b...->a...", WEIGHTS[num_replicas], leaf)
    close(found, jax.tree.map(mean, STACK))


@pytest.mark.parametrize(
    ("name", "num_replicas"),
    only(
        [("diloco", 3)],
        [(name, y) for name in CASES for y in (3, 8)] + [("parle", 1)],
    ),
)
def test_states_keep_their_means_and_bounds(name, num_replicas):
    _, params, state = trained(name)
    tx, new_params, new_state = resized(name, num_replicas)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        new_state, jax.eval_shape(tx.init, new_params), new_state
    )
    evaluate = functools.partial(flatjax.eval_params, replica_axis=0)
    close(evaluate(new_state, new_params), evaluate(state, params))
    for old, new in zip(*map(jax.tree.leaves, (state, new_state)), strict=True):
        if is_stacked(old):
            assert len(new) == num_replicas
            np.testing.assert_allclose(old.mean(0), new.mean(0), rtol=1e-5, atol=1e-6)
            assert (new.max(0) <= old.max(0) + 1e-6).all()
            assert (new.min(0) >= old.min(0) - 1e-6).all()
        else:
            chex.assert_trees_all_equal(old, new)
    contract.step(tx, new_params, new_state, loss)


@pytest.mark.parametrize("num_replicas", [slow(2), 3, slow(8)])
@pytest.mark.parametrize("name", ["pull_to_center_outer", slow("diloco"), slow("replicated_sgd")])
def test_the_center_goes_on_as_if_nothing_had_happened(name, num_replicas):
    """Where gradients are linear and the same for all, and the optimizer too: momentum is kept."""
    case = contract.CASES[name]
    # Not Adam, which is not linear.
    case = case._replace(before=(contract.PLAIN_SGD,) if case.before else ())
    tx = case.make()
    goes_on = jax.jit(lambda *carry: contract.step(tx, *carry, loss))
    old = contract.train(tx, STACK, 4, loss)
    new = flatjax.resize_replicas(tx.init, old[1], old[0], num_replicas)
    center = lambda carry: flatjax.replica_center(carry[0], replica_axis=0)
    moved = []
    for _ in range(7):
        old, new = goes_on(*old), goes_on(*new)
        close(center(new), center(old))
        moved.append(center(old)["w"])
    assert np.abs(moved[-1] - moved[0]).max() > 0.1


def test_second_moments_stay_positive_and_the_outer_center_stays():
    tx = flatjax.diloco(optax.adam(0.1), contract.NESTEROV, 3, replica_axis=0)
    params, state = contract.train(tx, STACK, 4, loss)
    new_params, new_state = flatjax.resize_replicas(tx.init, state, params, 3)
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(new_state[0][0].nu))
    (old,), (new,) = ([one[1]] for one in (state, new_state))
    assert isinstance(new, flatjax.OuterPullState)
    chex.assert_trees_all_equal(old, new)
    assert np.abs(new_params["w"].mean(0) - new.center["w"][0]).max() > 1e-3


def test_replicas_that_agree_still_do():
    """To the last bit, as after an exchange of DiLoCo."""
    one = np.random.default_rng(1).normal(size=100).astype(np.float32)
    for size in (1, 3, 5, 14):
        found, _ = flatjax.resize_replicas(lambda _: (), (), np.tile(one, (7, 1)), size)
        np.testing.assert_array_equal(found, np.tile(one, (size, 1)))


@pytest.mark.slow
def test_replicas_with_a_named_axis():
    tx = flatjax.diloco(contract.PLAIN_SGD, contract.NESTEROV, 3, axis_name="replica")
    step = jax.jit(jax.vmap(lambda *carry: contract.step(tx, *carry, loss), axis_name="replica"))
    carry = STACK, jax.vmap(tx.init)(STACK)
    for _ in range(4):
        carry = step(*carry)
    params, state = flatjax.resize_replicas(jax.vmap(tx.init), carry[1], carry[0], 3)
    stacked = flatjax.diloco(contract.PLAIN_SGD, contract.NESTEROV, 3, replica_axis=0)
    expected = flatjax.resize_replicas(
        stacked.init, *contract.train(stacked, STACK, 4, loss)[::-1], 3
    )
    close(params, expected[0])
    close(step(params, state)[0], contract.step(stacked, *expected, loss)[0])


def test_another_axis_other_dtypes_and_what_is_no_float():
    params = {"w": jnp.arange(8, dtype=jnp.bfloat16).reshape(2, 4), "n": jnp.array([[3, 4, 5, 6]])}
    new, _ = flatjax.resize_replicas(lambda _: (), (), params, 2, replica_axis=1)
    chex.assert_trees_all_equal(
        new, {"w": jnp.array([[0.5, 2.5], [4.5, 6.5]], jnp.bfloat16), "n": jnp.array([[3, 5]])}
    )


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_random_keys_of_new_replicas_are_new(num_replicas, axis):
    """By hand: of the nearest old replica, with the number of the new one folded in."""
    keys = jax.random.split(jax.random.key(0), (Y, 2))
    params = {"w": jnp.ones((Y, Y)), "keys": jnp.moveaxis(keys, 0, axis)}
    tx = flatjax.replicated_sgd(0.1, gamma=0.1, replica_axis=axis)
    resize = functools.partial(flatjax.resize_replicas, tx.init, replica_axis=axis)
    found, state = resize(tx.init(params), params, num_replicas)
    found_keys = jnp.moveaxis(found["keys"], axis, 0)
    for a, row in enumerate(WEIGHTS[num_replicas]):
        nearest = keys[np.argmax(row)]
        for own, old in zip(found_keys[a], nearest, strict=True):
            assert own == jax.random.fold_in(old, a)
    every = jnp.concatenate([keys, found_keys]).ravel()
    assert len(np.unique(jax.random.key_data(every), axis=0)) == len(every)
    tx.update(found, state, found)


def test_random_keys_in_a_state_are_new():
    """Stacked ones; a key that the replicas share stays."""
    noise = optax.add_noise(0.1, 0.5, jax.random.key(0))
    for tx, number in ((flatjax.per_replica(noise), 6), (noise, 1)):
        _, state = flatjax.resize_replicas(tx.init, tx.init(STACK), STACK, 6)
        keys = np.atleast_2d(jax.random.key_data(state.rng_key))
        assert len(np.unique(keys, axis=0)) == number


def test_arrays_of_numpy():
    """Without x64, their float64 is float32."""
    params = {"w": np.array([[1.0], [2.0], [6.0]])}
    with jax.enable_x64(False):
        found, _ = flatjax.resize_replicas(lambda params: (), (), params, 2)
    np.testing.assert_allclose(found["w"], [[4 / 3], [14 / 3]], rtol=1e-6)


def test_the_same_number_changes_nothing():
    tx, params, state = trained("diloco")
    assert flatjax.resize_replicas(tx.init, state, params, Y) == (params, state)


def test_on_a_mesh():
    """From four devices to two: each piece is made in its place."""
    tx, params, state = trained("diloco")
    mesh = jax.make_mesh((2,), ("replica",), devices=devices(2))
    spec = lambda leaf: P("replica") if leaf.ndim and len(leaf) == 2 else P()
    resize = functools.partial(flatjax.resize_replicas, tx.init, num_replicas=2)
    like = jax.eval_shape(resize, state, params)
    shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf)), like)
    found = jax.jit(resize, out_shardings=shardings)(state, params)
    assert found[0]["w"].addressable_shards[0].data.shape == (1, 3)
    close(found, resize(state, params))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_replicas": 0}, "num_replicas must be"),
        ({"params": {"w": jnp.ones((4, 2)), "b": jnp.ones(3)}}, "all leaves must agree"),
        ({"state": (STACK, jnp.ones(4))}, "state must come from init"),
        ({"init": lambda params: jnp.outer(params["b"], params["b"])}, "keep replicas apart"),
    ],
    ids=["number", "params", "state", "init"],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"init": lambda params: params, "params": STACK, "num_replicas": 2}
    arguments |= {"init": contract.PLAIN_SGD.init} if "state" in change else {}
    arguments |= change
    state = arguments.pop("state", None)
    if state is None:
        state = arguments["init"](STACK)
    with pytest.raises(ValueError, match=message):
        flatjax.resize_replicas(state=state, **arguments)
