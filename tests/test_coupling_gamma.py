"""Both couplings: the automatic gamma."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import slow
from jax.sharding import PartitionSpec as P

import flatjax

RNG = np.random.default_rng(0)
STACK = {
    "w": RNG.normal(size=(4, 2, 3)).astype(np.float32),
    "b": RNG.normal(size=(4, 3)).astype(np.float32),
}
FORMS = {
    "couple_replicas": flatjax.couple_replicas,
    "pull_to_center": functools.partial(flatjax.pull_to_center, learning_rate=0.1),
}
distance = functools.partial(flatjax.replica_distance, replica_axis=0)
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
balanced = flatjax.schedules.BalancedScoping(flatjax.schedules.scoping(1.0, 10))


@pytest.mark.parametrize("form", ["couple_replicas", slow("pull_to_center")])
@pytest.mark.parametrize("place", ["stack", "vmap", "shard_map"])
@pytest.mark.claim("docs/choosing.md", "coupling energy and loss are equal")
def test_automatic_gamma_is_the_balanced_one(form, place):
    """Measured at the first update, from each replica's own loss."""
    losses = jnp.arange(1.0, 5.0)
    growth = flatjax.schedules.scoping(1.0, 9, factor=3.0)
    gamma_0 = flatjax.schedules.balanced_gamma(losses.mean(), distance(STACK))
    make = functools.partial(FORMS[form], replica_axis=0)

    def updates_of(tx, params, losses):
        """Those of three steps; the loss of the second, a hundredfold, must not matter."""
        state, path = tx.init(params), []
        for scale in (1.0, 100.0, 1.0):
            updates, state = tx.update(params, state, params, value=scale * losses)
            path.append(updates)
        return path

    expected = updates_of(make(gamma=lambda count: gamma_0 * growth(count)), STACK, losses)
    gamma = flatjax.schedules.BalancedScoping(growth)
    if place == "stack":
        run = functools.partial(updates_of, make(gamma=gamma))
    elif place == "vmap":
        tx = make(gamma=gamma, axis_name="replica", replica_axis=None)
        run = jax.vmap(functools.partial(updates_of, tx), axis_name="replica")
    else:
        tx = make(gamma=gamma, axis_name="replica")
        placed = {"mesh": flatjax.replica_mesh(4, devices(4)), "in_specs": P("replica")}
        run = jax.shard_map(functools.partial(updates_of, tx), out_specs=P("replica"), **placed)
    assert_close(jax.jit(run)(STACK, losses), expected)


def test_automatic_gamma_refuses():
    tx = flatjax.couple_replicas(balanced, replica_axis=0)
    with pytest.raises(ValueError, match=r"distance .* common initialisation"):
        tx.init(jax.tree.map(jnp.ones_like, STACK))
    with pytest.raises(ValueError, match="value"):
        tx.update(STACK, tx.init(STACK), STACK)


PARTS = [{"a": True, "b": False}, {"a": False, "b": True}]


@pytest.mark.parametrize(
    "tx",
    [
        flatjax.limit_distance(0.5, replica_axis=0),
        optax.chain(*[flatjax.limit_distance(0.5, replica_axis=0, mask=part) for part in PARTS]),
        flatjax.diloco(optax.sgd(0.1), optax.sgd(0.7), 4, replica_axis=0, fragments=PARTS),
    ],
    ids=["limit", "limits", "fragments"],
)
def test_diagnostics_without_one_gamma_are_distances(tx):
    params = {"a": jnp.array([[1.0], [-1.0], [3.0]]), "b": jnp.zeros((3, 2))}
    find = jax.jit(functools.partial(flatjax.coupling_diagnostics, replica_axis=0))
    found = find(params, tx.init(params), 0.1)
    # The center is 1 and 0. Squared distances are 0, 4, 4, squared norms 1, 1, 9.
    expected = {"replica_distance": 8 / 3, "relative_distance": (8 / 11) ** 0.5}
    assert jax.tree.map(float, found) == pytest.approx(expected)


def test_diagnostics_of_a_limit_next_to_a_coupling_have_its_gamma():
    tx = optax.chain(
        flatjax.couple_replicas(0.5, replica_axis=0), flatjax.limit_distance(0.5, replica_axis=0)
    )
    params = jnp.array([[0.0], [2.0]])
    _, state = tx.update(params, tx.init(params), params)
    found = flatjax.coupling_diagnostics(params, state, 0.1, replica_axis=0)
    assert float(found["gamma"]) == 0.5


@pytest.mark.parametrize("form", ["couple_replicas", "pull_to_center"])
def test_automatic_gamma_balances_the_coupled_leaves(form):
    """Others may be as far apart as they like: gamma_0 = 3 / (1 / 2)."""
    params = {"w": jnp.array([[0.0], [2.0]]), "bn": jnp.array([[0.0], [200.0]])}
    mask = {"w": True, "bn": False}
    tx = FORMS[form](gamma=balanced, replica_axis=0, mask=mask)
    _, state = tx.update(params, tx.init(params), params, value=3.0)
    assert float(state.gamma) == 6.0
    found = flatjax.coupling_diagnostics(params, state, 1, replica_axis=0, mask=mask)
    expected = {
        "gamma": 6.0,
        "lr_gamma": 6.0,
        "replica_distance": 1.0,
        "relative_distance": pytest.approx(0.5**0.5),
        "coupling_energy": 3.0,
    }
    assert jax.tree.map(float, found) == expected
    together = {"w": jnp.ones((2, 1)), "bn": params["bn"]}
    with pytest.raises(ValueError, match="common initialisation"):
        tx.init(together)
