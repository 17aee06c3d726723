"""Entropy-SGD and Parle: special cases, noise, what restarts when, automatic gamma, bad input."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("decoupled", [False, True])
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


@pytest.mark.parametrize("outer_rate", [0.0, 0.3])
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


@pytest.mark.parametrize("inner_steps", [1, INNER])
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
        path = jax.tree.map(lambda leaf, w: jnp.concatenate([w[None], leaf]), path, start)
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


# --------------------------------------------------------------------------------------- noise


def first_steps(tx, params, lift=lambda run: run):
    """The moves of three steps without gradient: noise alone."""
    minima = np.zeros((3, 0))
    return lift(lambda params: run(tx, params, minima, zero_gradient)[0])(params)


def noisy(**options):
    options = {"weight_decay": 0.0, "noise_scale": 0.2, "key": 1} | options
    return flatjax.esgd(optax.piecewise_constant_schedule(0.5, {1: 0.25}), 0.0, **options)


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


# --------------------------------------------------------------------------------------- Parle

ONE_STEP = {"inner_steps": 1, "averaging_decay": 0.0, "noise_scale": 0.0, "momentum": None}


@pytest.mark.parametrize("decoupled", [False, True])
def test_parle_with_one_replica_is_esgd(decoupled):
    one, minima = (jax.tree.map(lambda leaf: leaf[None], PARAMS), at(STACK_MINIMA, np.s_[:, :1]))
    options = {"noise_scale": 0.1, "key": 2, "replica_axis": 0, "decoupled": decoupled}
    parle = flatjax.parle(RATE, scoping(0.1, 3), 5.0, **options)
    esgd = flatjax.esgd(RATE, scoping(0.1, 3), **options)
    assert_close(run(parle, one, minima)[0], run(esgd, one, minima)[0])


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("decoupled", [False, True])
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


@pytest.mark.parametrize("stacked", [False, True], ids=["one", "replicas"])
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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
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
        params = {"w": jnp.zeros(2, dtype), "bn": jnp.zeros(2, dtype)}
        grads = {"w": jnp.array([step, 0], dtype), "bn": jnp.full(2, 20, dtype)}
        _, state = tx.update(grads, tx.init(params), params, value=1.0)
        assert float(state.gamma_state.gamma_0) == pytest.approx(2 / step**2, rel=1e-5)


def test_seeds_have_64_bits():
    numbers = lambda key: tuple(map(int, flatjax.esgd(0.1, 0.1, key=key).init(PARAMS).key))
    assert numbers(7) == tuple(jax.random.key_data(jax.random.key(7)).tolist())
    assert numbers(2**40 + 7) == numbers(np.int64(2**40 + 7)) == (256, 7)
    assert numbers(1_795_000_000_000_000_000) != numbers(1_795_000_000_000_000_001)
    with pytest.raises(ValueError, match="key must be a seed of 64 bits"):
        flatjax.esgd(0.1, 0.1, key=2**63)


def test_integers_beyond_32_bits():
    tx = flatjax.esgd(
        2**40, 2**40, noise_scale=2**40, weight_decay=2**40, outer_learning_rate=2**40
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert np.all(np.isfinite(updates["w"]))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
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


def test_noise_of_complex_weights_has_two_parts():
    tree = {"z": jnp.zeros((2, 20_000), jnp.complex64), "n": jnp.arange(2), "x": jnp.zeros(2)}
    noise = flatjax.langevin_noise(2**40, tree, 0.5, 0.1, replica_axis=0)
    np.testing.assert_allclose([noise["z"].real.std(), noise["z"].imag.std()], 0.1, rtol=0.02)
    assert abs(jnp.mean(noise["z"].real * noise["z"].imag)) < 1e-3
    np.testing.assert_array_equal(noise["n"], [0, 0])
    with pytest.raises(TypeError, match=r"tree\['k'\] must hold numbers, got random keys"):
        flatjax.langevin_noise(0, {"k": jax.random.key(0), "x": 0.0}, 0.5, 0.1)


# ----------------------------------------------------------------------------- wrong compositions


def labelled(tx):
    return optax.partition({"train": tx, "rest": optax.identity()}, {"w": "train", "b": "rest"})


INNER_RIGHT = {
    "sgd": optax.identity(),
    "momentum": optax.trace(0.9, nesterov=True),
    "adam": optax.scale_by_adam(),
    "injected": optax.inject_hyperparams(optax.trace)(0.9),
    "masked": optax.masked(optax.trace(0.9), {"w": True, "b": False}),
    "partitioned": labelled(optax.trace(0.9)),
    "of another kind": optax.GradientTransformationExtraArgs(
        optax.init_empty_state, lambda g, state, params, *, unknown: (g, state)
    ),
}
INNER_WRONG = {
    "sgd": optax.sgd(0.1),
    "warmup": optax.adam(lambda count: 0.1 * count),
    "accumulated": optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation(),
    "injected": optax.inject_hyperparams(optax.sgd)(0.1),
    "masked": optax.masked(optax.sgd(0.1), {"w": True, "b": False}),
    "partitioned": labelled(optax.sgd(0.1)),
}
ABSTRACT = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS)


@pytest.mark.parametrize("inner", INNER_RIGHT)
def test_optimizers_without_a_learning_rate_are_taken_for_the_inner_one(inner):
    inner = INNER_RIGHT[inner]
    tx = flatjax.entropy_sgd(optax.sgd(1.0), inner, 0.1, inner_learning_rate=0.1)
    tx.init(PARAMS)
    jax.eval_shape(tx.init, ABSTRACT)


@pytest.mark.parametrize("inner", INNER_WRONG)
def test_optimizers_with_a_learning_rate_are_refused(inner):
    """They would ascend: the weights move against the output of the inner optimizer."""
    inner = INNER_WRONG[inner]
    tx = flatjax.entropy_sgd(optax.sgd(1.0), inner, 0.1, inner_learning_rate=0.1)
    for init in (tx.init, jax.jit(tx.init), functools.partial(jax.eval_shape, tx.init)):
        with pytest.raises(
            ValueError, match=r"inner must be .* without its learning rate.*params\['\w'\]"
        ):
            init(ABSTRACT if isinstance(init, functools.partial) else PARAMS)


def test_an_outer_optimizer_must_descend():
    tx = flatjax.entropy_sgd(optax.trace(0.9), optax.identity(), 0.1, inner_learning_rate=0.1)
    with pytest.raises(ValueError, match=r"outer must be .* with its learning rate"):
        tx.init(PARAMS)


# ------------------------------------------------------------------------------------ bad input

BAD = [
    ({"gamma": -0.1}, ValueError, "gamma must be"),
    ({"gamma": None}, TypeError, "gamma must be"),
    ({"learning_rate": -0.1}, ValueError, "learning_rate must be"),
    ({"inner_steps": 0}, ValueError, "inner_steps must be"),
    ({"inner_steps": 2.5}, TypeError, "inner_steps must be"),
    ({"inner_steps": jnp.array(5)}, TypeError, "inner_steps.*static_args"),
    ({"averaging_decay": 1.0}, ValueError, "averaging_decay must be"),
    ({"averaging_decay": -0.1}, ValueError, "averaging_decay must be"),
    ({"noise_scale": -1e-4}, ValueError, "noise_scale must be"),
    ({"noise_scale": float("inf")}, ValueError, "noise_scale must be"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
    ({"key": 0.5}, TypeError, "key must be"),
    ({"key": None}, TypeError, "key must be"),
    ({"decoupled": 0.1}, TypeError, "decoupled must be True or False"),
    ({"opaque_mode": 5}, TypeError, "opaque_mode must be True or False"),
    ({"key": jax.random.split(jax.random.key(0), 2)}, ValueError, "key must be one key"),
    ({"key": jax.random.split(jax.random.PRNGKey(0), 2)}, ValueError, "key must be one key"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
@pytest.mark.parametrize("name", ["esgd", "parle"])
def test_entropy_sgd_refuses(name, arguments, error, message):
    defaults = {"learning_rate": 0.1, "gamma": 0.1, "replica_axis": 0}
    if name == "parle":
        defaults |= {"replica_gamma": 0.1}
    with pytest.raises(error, match=message):
        getattr(flatjax, name)(**defaults | arguments)


def test_more_is_refused():
    with pytest.raises(ValueError, match=r"outer_scaling must be one of .* got 'loss'"):
        flatjax.esgd(0.1, 0.1, outer_scaling="loss")
    with pytest.raises(ValueError, match="axis_name or replica_axis"):
        flatjax.parle(0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match="gamma must be"):
        flatjax.parle(0.1, 0.1, -0.1, replica_axis=0)
    with pytest.raises(ValueError, match=r"\['w'\] has 2 replicas"):
        flatjax.esgd(0.1, 0.1, replica_axis=0).init(STACK | {"w": STACK["w"][:2]})
    tx = flatjax.esgd(0.1, BalancedScoping(scoping(1.0, 9)))
    with pytest.raises(ValueError, match="value"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    tx = flatjax.esgd(0.1, 0.1, opaque_mode=True)
    with pytest.raises(ValueError, match="grad_fn must be passed"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
