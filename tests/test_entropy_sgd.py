"""Entropy-SGD and Parle: special cases, what restarts when, automatic gamma."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow

import flatjax
from flatjax.schedules import BalancedScoping, scoping

RNG = np.random.default_rng(0)
STEPS, INNER = 15, 5
PARAMS = {
    "w": RNG.normal(size=(3, 2)).astype(np.float32),
    "b": RNG.normal(size=3).astype(np.float32),
}
# The minimum of each step's loss, for one network and for four replicas.
MINIMA = {k: RNG.normal(size=(STEPS, *leaf.shape)).astype(np.float32) for k, leaf in PARAMS.items()}
STACK = {k: RNG.normal(size=(4, *leaf.shape)).astype(np.float32) for k, leaf in PARAMS.items()}
STACK_MINIMA = {
    k: RNG.normal(size=(STEPS, *leaf.shape)).astype(np.float32) for k, leaf in STACK.items()
}
RATE = optax.linear_schedule(0.1, 0.02, STEPS)
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=2e-6)


def gradient(params, minimum):
    return jax.tree.map(lambda w, m: jnp.tanh(w - m), params, minimum)


def zero_gradient(params, minimum):
    del minimum
    return jax.tree.map(jnp.zeros_like, params)


def run(tx, params=PARAMS, minima=MINIMA, gradient=gradient, **extra_args):
    """The parameters and the optimizer state after each step."""

    def step(carry, minimum):
        params, state = carry
        updates, state = tx.update(gradient(params, minimum), state, params, **extra_args)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), minima)[1])()


def at(tree, step):
    return jax.tree.map(lambda leaf: leaf[step], tree)


# ------------------------------------------------------------------------------ special cases

QUIET = {"noise_scale": 0.0, "key": 1}
PLAIN = QUIET | {"momentum": None, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("gamma", "decoupled"), [(0.7, False), (0.7, True), slow(0.0, False), slow(0.0, True)]
)
@pytest.mark.claim("docs/mathematics.md", "test_one_inner_step_is_sgd")
def test_one_inner_step_is_sgd(gamma, decoupled):
    """The iterate starts on the anchor, so that nothing pulls on it but, decoupled, afterwards."""
    if decoupled and gamma:
        gamma_rate = lambda count: RATE(count) * jnp.exp(-RATE(count) * gamma)
    else:
        gamma_rate = RATE
    tx = flatjax.esgd(RATE, gamma, inner_steps=1, averaging_decay=0.0, decoupled=decoupled, **PLAIN)
    assert_close(run(tx)[0], run(optax.sgd(gamma_rate))[0])


def test_without_gamma_and_averaging_it_is_sgd_that_restarts():
    tx = flatjax.esgd(0.1, 0.0, averaging_decay=0.0, weight_decay=0.01, **QUIET)
    found = run(tx)[0]
    sgd = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9, nesterov=True))
    params, state = PARAMS, sgd.init(PARAMS)
    for t in range(STEPS):
        updates, state = sgd.update(gradient(params, at(MINIMA, t)), state, params)
        params = optax.apply_updates(params, updates)
        assert_close(at(found, t), params)
        if t % INNER == INNER - 1:
            state = sgd.init(params)


@pytest.mark.parametrize("outer_rate", [slow(0.0), 0.3])
def test_outer_optimizer_moves_the_anchor_towards_the_mean(outer_rate):
    moved = run(flatjax.esgd(0.1, 0.5, outer_learning_rate=outer_rate, **QUIET))
    full = run(flatjax.esgd(0.1, 0.5, **QUIET))
    anchors, means = (at(path[1].anchor, INNER - 1) for path in (moved, full))
    assert_close(anchors, jax.tree.map(lambda w, mu: w + outer_rate * (mu - w), PARAMS, means))


@pytest.mark.parametrize(("scaling", "factor"), [("gamma", 0.5), ("learning_rate", 1 / 0.1)])
def test_outer_scaling(scaling, factor):
    arguments = {"learning_rate": 0.1, "gamma": 0.5, **QUIET}
    scaled = flatjax.esgd(outer_scaling=scaling, **arguments)
    assert_close(run(scaled)[0], run(flatjax.esgd(outer_learning_rate=factor, **arguments))[0])


def test_outer_scaling_at_a_learning_rate_of_zero():
    with jax.debug_nans(True):
        path, _ = run(flatjax.parle(0.0, 0.5, 0.5, replica_axis=0), STACK, STACK_MINIMA)
    assert_close(at(path, -1), STACK)


@pytest.mark.slow
@pytest.mark.parametrize("inner_steps", [slow(1), INNER])
def test_opaque_mode_is_transparent_mode_on_the_same_batches(inner_steps):
    make = functools.partial(
        flatjax.esgd, RATE, scoping(0.1, 3), inner_steps=inner_steps, noise_scale=0.1, key=1
    )
    path, states = run(make())
    tx = make(opaque_mode=True)

    @jax.jit
    def loop(params, state, minima):
        grad_fn = lambda params, i: gradient(params, at(minima, i))
        updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for start in range(0, STEPS, inner_steps):
        minima = jax.tree.map(lambda leaf, s=start: leaf[s : s + inner_steps], MINIMA)
        params, state = loop(params, state, minima)
        last = start + inner_steps - 1
        assert_close(params, at(path, last))
        assert_close(state._replace(key=0), at(states, last)._replace(key=0))


@pytest.mark.claim("docs/choosing.md", "test_a_strong_decoupled_pull_is_stable")
def test_a_strong_decoupled_pull_is_stable():
    path, states = run(flatjax.esgd(0.1, 1e4, decoupled=True, **QUIET))
    assert_close(path, states.anchor)
    assert_close(at(path, -1), PARAMS)


# ------------------------------------------------------------------------ what changes, and when


def test_states_change_when_they_should():
    tx = flatjax.esgd(0.1, scoping(0.1, 3), outer_momentum=0.5, key=1)
    path, states = run(tx)
    is_outer = np.arange(STEPS) % INNER == INNER - 1
    np.testing.assert_array_equal(states.step, np.arange(1, STEPS + 1))
    np.testing.assert_array_equal(states.inner_step, np.arange(1, STEPS + 1) % INNER)
    gamma = 0.1 * 1e4 ** (np.arange(STEPS) // INNER / 3)
    np.testing.assert_allclose(states.gamma, gamma, rtol=1e-5)

    def moved(path, start):
        path = jax.tree.map(
            lambda leaf, w: np.concatenate([np.asarray(w)[None], leaf]), path, start
        )
        differs = lambda leaf: np.any(leaf[1:] != leaf[:-1], axis=tuple(range(1, leaf.ndim)))
        return [differs(leaf) for leaf in jax.tree.leaves(path)]

    start = tx.init(PARAMS)
    for name in ("anchor", "outer_state", "gamma_state"):
        for leaf in moved(getattr(states, name), getattr(start, name)):
            np.testing.assert_array_equal(leaf, is_outer)
    assert np.all(moved(states.mean, start.mean))
    for name in PARAMS:  # everything meets at outer steps, and nowhere else
        meets = lambda tree, name=name: [
            np.allclose(w, anchor, atol=1e-6)
            for w, anchor in zip(tree[name], states.anchor[name], strict=True)
        ]
        np.testing.assert_array_equal(meets(path), is_outer)
        np.testing.assert_array_equal(meets(states.mean), is_outer)
    (momentum,) = jax.tree.leaves(optax.tree.get(states.inner_state, "trace")["w"])
    np.testing.assert_array_equal(np.any(momentum, axis=(1, 2)), ~is_outer)


# --------------------------------------------------------------------------------------- Parle

ONE_STEP = {"inner_steps": 1, "averaging_decay": 0.0, "noise_scale": 0.0, "momentum": None}


# Short trainings, in which no force grows large.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:learning_rate . gamma is")
@pytest.mark.parametrize("decoupled", [False, slow(True)])
@pytest.mark.claim("docs/relations.md", "one replica is `esgd`")
def test_parle_with_one_replica_is_esgd(decoupled):
    one, minima = (jax.tree.map(lambda leaf: leaf[None], PARAMS), at(STACK_MINIMA, np.s_[:, :1]))
    options = {"noise_scale": 0.1, "key": 2, "replica_axis": 0, "decoupled": decoupled}
    parle = flatjax.parle(RATE, scoping(0.1, 3), 5.0, **options)
    esgd = flatjax.esgd(RATE, scoping(0.1, 3), **options)
    assert_close(run(parle, one, minima)[0], run(esgd, one, minima)[0])


@pytest.mark.filterwarnings("ignore:learning_rate . gamma is")
@pytest.mark.parametrize(
    ("momentum", "decoupled"), [(None, False), (0.9, True), slow(None, True), slow(0.9, False)]
)
@pytest.mark.claim("docs/relations.md", "one inner step `replicated_sgd`")
def test_parle_with_one_inner_step_is_replicated_sgd(decoupled, momentum):
    """Its outer momentum being theirs."""
    gamma = 0.0 if decoupled else 0.4  # decoupled, the anchor pulls after the step
    replica_gamma = scoping(0.01, STEPS)
    where = {"replica_axis": 0, "decoupled": decoupled, "weight_decay": 0.01}
    tx = flatjax.parle(RATE, gamma, replica_gamma, outer_momentum=momentum, **ONE_STEP, **where)
    expected = flatjax.replicated_sgd(RATE, replica_gamma, momentum=momentum, **where)
    arguments = STACK, STACK_MINIMA
    assert_close(run(tx, *arguments)[0], run(expected, *arguments)[0])


# ------------------------------------------------------------------------------ automatic gamma


@pytest.mark.parametrize("stacked", [slow(False), True], ids=["one", "replicas"])
def test_automatic_gamma_is_the_balanced_one(stacked):
    """Zero in the first loop; then loss / (||w' - w||^2 / 2), w' the loop's last iterate."""
    params, minima = (STACK, STACK_MINIMA) if stacked else (PARAMS, MINIMA)
    where = {"replica_axis": 0} if stacked else {}
    loss = jnp.array([1.0, 3.0, 2.0, 4.0]) if stacked else jnp.array(2.5)
    growth = scoping(1.0, 9, factor=8.0)
    # Alone, the first loop's last iterate is where an anchor that follows it would be.
    free = run(flatjax.esgd(0.1, 0.0, averaging_decay=0.0, **QUIET), params, minima)[0]
    squared = jax.tree.map(lambda w_, w: np.sum((w_ - w) ** 2), at(free, INNER - 1), params)
    distance = sum(jax.tree.leaves(squared)) / (4 if stacked else 1)
    gamma_0 = flatjax.schedules.balanced_gamma(2.5, distance)
    eager = lambda count: jnp.where(count == 0, 0.0, gamma_0 * growth(count))
    expected = run(flatjax.esgd(0.1, eager, **QUIET, **where), params, minima)
    tx = flatjax.esgd(0.1, BalancedScoping(growth), **QUIET, **where)
    found = run(tx, params, minima, value=loss)
    assert_close(found[0], expected[0])
    np.testing.assert_allclose(found[1].gamma, expected[1].gamma, rtol=1e-5)
    assert not np.any(found[1].gamma[:INNER])


@pytest.mark.parametrize("dtype", ["float16", slow("bfloat16"), slow("float32")])
def test_automatic_gamma_is_measured_in_single_precision(dtype):
    """On marked leaves: the square of 2**-13 is 0 in half precision, that of 300 is infinite."""
    for step in (2.0**-13, 300.0):
        gamma = BalancedScoping(lambda count: 1.0)
        tx = flatjax.entropy_sgd(
            optax.sgd(1.0),
            optax.identity(),
            gamma,
            inner_learning_rate=1.0,
            inner_steps=1,
            noise_scale=0.0,
            mask={"w": True, "bn": False},
        )
        params = {"w": np.zeros(2, dtype), "bn": np.zeros(2, dtype)}
        grads = {"w": np.array([step, 0], dtype), "bn": np.full(2, 20, dtype)}
        _, state = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params, value=1.0)
        assert float(state.gamma_state.gamma_0) == pytest.approx(2 / step**2, rel=1e-5)


def test_integers_beyond_32_bits():
    tx = flatjax.esgd(
        2**40, 2**40, noise_scale=2**40, weight_decay=2**40, outer_learning_rate=2**40
    )
    updates = jax.jit(lambda: tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0])()
    assert np.all(np.isfinite(updates["w"]))
