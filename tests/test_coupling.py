"""Both couplings: special cases, stability, bad input."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow

import flatjax

INF = float("inf")
RNG = np.random.default_rng(0)
STACK = {
    "w": RNG.normal(size=(4, 2, 3)).astype(np.float32),
    "b": RNG.normal(size=(4, 3)).astype(np.float32),
}
MINIMA = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), STACK)
center = functools.partial(flatjax.replica_center, replica_axis=0, keepdims=True)
distance = functools.partial(flatjax.replica_distance, replica_axis=0)
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
assert_equal = chex.assert_trees_all_equal


def gradient(params):
    """Of a loss whose minimum is another one for each replica."""
    return jax.tree.map(lambda w, m: jnp.tanh(w - m), params, MINIMA)


def run(tx, params=STACK, steps=9, gradient=gradient, **extra_args):
    """The parameters after each step."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradient(params), state, params, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps)[1])()


def zero_gradient(params):
    return jax.tree.map(jnp.zeros_like, params)


# ------------------------------------------------------------------------------ special cases

FORMS = {
    "couple_replicas": flatjax.couple_replicas,
    "pull_to_center": functools.partial(flatjax.pull_to_center, learning_rate=0.1),
    "replicated_sgd": functools.partial(flatjax.replicated_sgd, 0.1),
}
BASES = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
}


def coupled(base, gamma, decoupled, **options):
    options = {"replica_axis": 0} | options
    if decoupled:
        return optax.chain(base, flatjax.pull_to_center(gamma, 0.1, **options))
    return optax.chain(flatjax.couple_replicas(gamma, **options), base)


both = pytest.mark.parametrize("decoupled", [False, True], ids=["in_gradient", "decoupled"])


@both
@pytest.mark.parametrize("period", [1, slow(3)])
@pytest.mark.parametrize("base", ["momentum", slow("sgd"), slow("adamw")])
@pytest.mark.claim("docs/relations.md", "the base optimizer, for every replica")
def test_without_gamma_it_is_the_base_optimizer(base, period, decoupled):
    tx = coupled(BASES[base], 0.0, decoupled, period=period)
    with jax.disable_jit():  # compiled, the two are fused differently, and round differently
        assert_equal(run(tx), run(BASES[base]))


@both
def test_one_replica_is_not_coupled(decoupled):
    one = jax.tree.map(lambda leaf: leaf[:1], STACK)
    tx = coupled(optax.identity(), 3.0, decoupled)
    updates, _ = tx.update(one, tx.init(one), one)
    assert_equal(updates, one)


@both
@pytest.mark.parametrize("gamma", [0.3, slow(5.0)])
def test_the_center_does_not_feel_the_coupling(gamma, decoupled):
    path = run(coupled(BASES["sgd"], gamma, decoupled), gradient=zero_gradient)
    for name, leaf in STACK.items():
        expected = np.broadcast_to(leaf.mean(axis=0), (9, *leaf.shape[1:]))
        np.testing.assert_allclose(path[name].mean(axis=1), expected, atol=1e-6)
    distances = jax.vmap(distance)(path)
    assert np.all(np.diff(distances) < 0)


def replicate(params):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf.mean(0), leaf.shape), params)


def test_infinite_gamma_is_data_parallel_sgd():
    """On the mean of the replicas' gradients, from a common start."""
    tx = optax.chain(optax.sgd(0.1), flatjax.pull_to_center(INF, 0.1, replica_axis=0))
    mean_gradient = lambda params: replicate(gradient(params))
    expected = run(optax.sgd(0.1), replicate(STACK), gradient=mean_gradient)
    assert_close(run(tx, replicate(STACK)), expected)


def test_infinite_gamma_and_a_period_is_local_sgd():
    pull = flatjax.pull_to_center(INF, 0.1, replica_axis=0, period=3)
    path = run(optax.chain(optax.sgd(0.1), pull))
    params = STACK
    for t in range(9):
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient(params))
        if t % 3 == 2:
            params = replicate(params)
        assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], path), params)


@pytest.mark.parametrize("learning_rate", [0.0, lambda count: 0.1 * (1 - count / 4)])
def test_infinite_gamma_at_a_learning_rate_of_zero(learning_rate):
    """As at the end of a schedule: the replicas are averaged all the same."""
    pull = flatjax.pull_to_center(INF, learning_rate, replica_axis=0)
    path = run(pull, steps=5, gradient=zero_gradient)
    assert_close(jax.tree.map(lambda leaf: leaf[-1], path), replicate(STACK))


@both
def test_gamma_grows_with_the_count(decoupled):
    """The first update sees count 0."""
    gamma = lambda count: jnp.where(count == 1, 2.0, 0.0)
    distances = jax.vmap(distance)(
        run(coupled(BASES["sgd"], gamma, decoupled), steps=3, gradient=zero_gradient)
    )
    shrunk = np.exp(-0.2) if decoupled else 1 - 0.2
    np.testing.assert_allclose(distances / distance(STACK), [1, shrunk**2, shrunk**2], rtol=1e-5)


@both
def test_masked_leaves_are_left_alone(decoupled):
    tx = coupled(BASES["sgd"], 2.0, decoupled, mask={"w": True, "b": False})
    found, free = run(tx), run(BASES["sgd"])
    everywhere = run(coupled(BASES["sgd"], 2.0, decoupled))
    assert_close(found, {"w": everywhere["w"], "b": free["b"]})
    assert np.max(np.abs(free["w"] - found["w"])) > 0.01


def test_a_mask_may_stand_for_a_subtree():
    nested = {"first": STACK, "second": STACK}
    tx = flatjax.couple_replicas(1.0, replica_axis=0, mask={"first": True, "second": False})
    found, _ = tx.update(nested, tx.init(nested), nested)
    force = jax.tree.map(lambda w, c: w + (w - c), STACK, center(STACK))
    assert_close(found, {"first": force, "second": STACK})


# ---------------------------------------------------------------------------------- stability

MOMENTUM = 0.9
LIMITS = {
    "plain": (None, False, 2.0),
    "heavy_ball": (MOMENTUM, False, 2 * (1 + MOMENTUM)),
    "nesterov": (MOMENTUM, True, 2 * (1 + MOMENTUM) / (1 + 2 * MOMENTUM)),
}


def final_distance(rate, momentum, nesterov, decoupled):
    """Relative to its start, after 150 steps at learning_rate * gamma = rate, without loss."""
    options = {"momentum": momentum, "nesterov": nesterov, "decoupled": decoupled}
    if decoupled:
        tx = flatjax.replicated_sgd(0.1, rate / 0.1, replica_axis=0, **options)
    else:  # which would refuse what diverges
        force = flatjax.couple_replicas(rate / 0.1, replica_axis=0)
        tx = optax.chain(force, optax.sgd(0.1, momentum=momentum, nesterov=nesterov))
    path = run(tx, steps=150, gradient=zero_gradient)
    return float(distance(jax.tree.map(lambda leaf: leaf[-1], path)) / distance(STACK))


@pytest.mark.parametrize(("momentum", "nesterov", "limit"), LIMITS.values(), ids=LIMITS)
@pytest.mark.claim("docs/choosing.md", "below 2 without momentum")
def test_stability_limits_of_the_force(momentum, nesterov, limit):
    assert final_distance(0.98 * limit, momentum, nesterov, decoupled=False) < 1e-3
    assert final_distance(1.02 * limit, momentum, nesterov, decoupled=False) > 1e4


@pytest.mark.parametrize("rate", [1.0, 4.0, 1e3, INF])
@pytest.mark.parametrize(("momentum", "nesterov", "limit"), LIMITS.values(), ids=LIMITS)
@pytest.mark.claim("README.md", "stable for every gamma")
@pytest.mark.claim("docs/choosing.md", "any, infinity included")
def test_the_pull_is_always_stable(momentum, nesterov, limit, rate):
    del limit
    assert final_distance(rate, momentum, nesterov, decoupled=True) < 1e-10


# ------------------------------------------------------------------------------------ arguments


def test_the_number_of_replicas_is_checked_where_it_is_given():
    """Inside `optax.flatten` every weight is a replica, whose center is 0.5 in place of 0, 1."""
    params = {"w": jnp.array([[0.0, 1.0], [0.0, 1.0]])}
    rsgd = functools.partial(flatjax.replicated_sgd, 0.1, 1.0, replica_axis=0)
    for make in (rsgd, functools.partial(flatjax.esgd, 0.1, 0.1, replica_axis=0)):
        make(num_replicas=2).init(params)
        with pytest.raises(ValueError, match=r"num_replicas = 2 .* found 4.*per_replica"):
            optax.flatten(make(num_replicas=2)).init(params)
    tx = flatjax.couple_replicas(1.0, axis_name="replica", num_replicas=3)
    run = jax.vmap(lambda w: tx.update(w, tx.init(w), w), axis_name="replica")
    with pytest.raises(ValueError, match=r"num_replicas = 3 replicas, found 2"):
        run(params)
    # The form that the page on optax gives.
    flat = flatjax.per_replica(optax.flatten(optax.sgd(0.1)))
    tx = optax.chain(flatjax.couple_replicas(1.0, replica_axis=0, num_replicas=2), flat)
    updates, _ = tx.update(params, tx.init(params), params)
    assert_close(updates, {"w": -0.1 * params["w"]})


@pytest.mark.parametrize("number", [2**40, np.int64(2**40)])
def test_integers_beyond_32_bits(number):
    params = jnp.array([[0.0], [2.0]])
    tx = flatjax.couple_replicas(number, replica_axis=0)
    updates, _ = tx.update(0 * params, tx.init(params), params)
    assert_close(updates, 2.0**40 * jnp.array([[-1.0], [1.0]]))
    tx = flatjax.pull_to_center(1, number, replica_axis=0)
    assert_close(tx.update(0 * params, tx.init(params), params)[0], 1 - params)
    tx = flatjax.replicated_sgd(number, 0, momentum=None, weight_decay=number, replica_axis=0)
    updates, _ = tx.update(0 * params, tx.init(params), params)
    assert_close(updates, -(2.0**80) * params)


# ---------------------------------------------------------------------- diagnostics, bad input


def test_diagnostics():
    tx = optax.chain(flatjax.couple_replicas(0.5, replica_axis=0), optax.adam(0.1))
    _, state = tx.update(STACK, tx.init(STACK), STACK)
    found = flatjax.coupling_diagnostics(STACK, state, 0.1, replica_axis=0)
    energy = 0.25 * distance(STACK)
    expected = {"gamma": 0.5, "lr_gamma": 0.05, "replica_distance": distance(STACK)}
    norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(STACK)) / len(STACK["w"])
    expected["relative_distance"] = jnp.sqrt(distance(STACK) / norm)
    assert_close(found, expected | {"coupling_energy": energy})
    with pytest.raises(
        ValueError, match="state must hold one CoupleReplicasState or PullToCenterState"
    ):
        flatjax.coupling_diagnostics(STACK, optax.sgd(0.1).init(STACK), 0.1, replica_axis=0)


BAD = [
    ({"gamma": -0.1}, ValueError, "gamma must be"),
    ({"gamma": float("nan")}, ValueError, "gamma must be"),
    ({"gamma": "much"}, TypeError, "gamma must be"),
    ({"gamma": np.ones(3)}, ValueError, "gamma must be a scalar"),
    ({"period": 0}, ValueError, "period must be"),
    ({"period": 1.5}, TypeError, "period must be"),
    ({"period": jnp.array(2)}, TypeError, "period must be a Python int.*static_args"),
    ({"num_replicas": 0}, ValueError, "num_replicas must be"),
    ({"replica_axis": None}, ValueError, "axis_name or replica_axis"),
    ({"replica_axis": -1}, ValueError, "replica_axis must be"),
]
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
@each_form
def test_couplings_refuse(form, arguments, error, message):
    with pytest.raises(error, match=message):
        FORMS[form](**{"gamma": 1.0, "replica_axis": 0} | arguments)


@each_form
def test_couplings_refuse_leaves_that_disagree(form):
    tx = FORMS[form](gamma=1.0, replica_axis=0)
    with pytest.raises(ValueError, match=r"\['w'\] has 2 replicas"):
        tx.init(STACK | {"w": STACK["w"][:2]})
    with pytest.raises(ValueError, match=r"\['w'\] must carry a replica axis"):
        tx.init({"w": jnp.array(1.0)})


def test_more_is_refused():
    with pytest.raises(ValueError, match="gamma must be finite in JAX's default float type"):
        flatjax.couple_replicas(1e300, replica_axis=0)
    with pytest.raises(TypeError, match="delayed must be True or False, got 1e"):
        flatjax.couple_replicas(1.0, replica_axis=0, delayed=1e300)
    with pytest.raises(TypeError, match="overlapped must be True or False"):
        flatjax.pull_to_center(1.0, 0.1, replica_axis=0, overlapped=0.5)
    with pytest.raises(ValueError, match="gamma must be finite"):
        flatjax.couple_replicas(INF, replica_axis=0)
    with pytest.raises(ValueError, match="learning_rate must be"):
        flatjax.pull_to_center(1.0, -0.1, replica_axis=0)
    with pytest.raises(ValueError, match="weight_decay must be"):
        flatjax.replicated_sgd(0.1, 1.0, weight_decay=-0.1, replica_axis=0)
