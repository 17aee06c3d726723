"""What optax asks of a contributed transformation, asked of every transformation of flatjax."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax


class Case(NamedTuple):
    """A transformation in the chain it needs.

    Attributes:
      factory: makes the transformation.
      arguments: of the factory.
      static: the arguments that `optax.inject_hyperparams` must not touch.
      scheduled: the arguments annotated as a number or a schedule.
      before: what precedes it in a chain.
      after: what follows.
      is_last: whether it replaces the parameters, so that nothing may follow.
    """

    factory: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]
    static: tuple[str, ...] = ()
    scheduled: tuple[str, ...] = ()
    before: tuple[optax.GradientTransformation, ...] = ()
    after: tuple[optax.GradientTransformation, ...] = ()
    is_last: bool = False

    def make(self, wrap=lambda tx: tx, **arguments):
        tx = wrap(self.factory(**self.arguments | arguments))
        return optax.chain(*self.before, tx, *self.after)

    def inject(self, **arguments):
        factory = optax.inject_hyperparams(self.factory, static_args=self.static)
        return optax.chain(*self.before, factory(**self.arguments | arguments), *self.after)


STACKED = {"replica_axis": 0}
SGD = {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.0}
COUPLING = {"gamma": 0.1, **STACKED}
ESGD = {**SGD, "gamma": 0.1, "noise_scale": 1e-4, "key": 1}
PARLE = {**ESGD, "replica_gamma": 0.5, **STACKED}
ENTROPY = {
    "outer": optax.sgd(1.0, momentum=0.2),
    "inner": optax.scale_by_adam(),
    "gamma": 0.1,
    "inner_learning_rate": 0.02,
}
CLIPPED_SGD = optax.chain(optax.clip_by_global_norm(50.0), optax.sgd(0.02, momentum=0.8))

COUPLING_CASE = Case(
    flatjax.couple_replicas,
    COUPLING,
    ("replica_axis", "period"),
    ("gamma",),
    after=(optax.sgd(0.02, momentum=0.8),),
)
PULL_CASE = Case(
    flatjax.pull_to_center,
    COUPLING | {"learning_rate": 0.02},
    ("replica_axis", "period"),
    ("gamma", "learning_rate"),
    before=(optax.adam(0.05),),
)
RSGD_CASE = Case(
    flatjax.replicated_sgd,
    SGD | COUPLING,
    ("replica_axis", "period"),
    ("learning_rate", "gamma"),
)
ENTROPY_CASE = Case(
    flatjax.entropy_sgd,
    ENTROPY,
    ("inner_steps", "replica_axis"),
    ("gamma", "inner_learning_rate"),
    is_last=True,
)
ESGD_CASE = ENTROPY_CASE._replace(
    factory=flatjax.esgd,
    arguments=ESGD,
    scheduled=("learning_rate", "gamma", "outer_learning_rate"),
)
PARLE_CASE = ESGD_CASE._replace(
    factory=flatjax.parle,
    arguments=PARLE,
    scheduled=("learning_rate", "gamma", "replica_gamma"),
)


def variant(case, **arguments):
    return case._replace(arguments=case.arguments | arguments)


CASES = {
    "couple_replicas": COUPLING_CASE,
    "couple_replicas_every_third": variant(COUPLING_CASE, period=3),
    "pull_to_center": PULL_CASE,
    "pull_to_center_every_third": variant(PULL_CASE, period=3),
    "replicated_sgd": RSGD_CASE,
    "replicated_sgd_decoupled": variant(RSGD_CASE, decoupled=True),
    "per_replica": Case(flatjax.per_replica, {"tx": CLIPPED_SGD}),
    "entropy_sgd": ENTROPY_CASE,
    "esgd": ESGD_CASE,
    "esgd_stacked": variant(ESGD_CASE, **STACKED),
    "esgd_decoupled": variant(ESGD_CASE, decoupled=True),
    "esgd_opaque": variant(ESGD_CASE, opaque_mode=True),
    "parle": PARLE_CASE,
    "parle_decoupled": variant(PARLE_CASE, decoupled=True),
    "parle_opaque": variant(PARLE_CASE, opaque_mode=True),
    "average_params": Case(
        flatjax.average_params, {"decay": 0.9}, before=(optax.sgd(0.02, momentum=0.8),)
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# Two replicas, for which the leading axis stands (transformations of one network see one axis more).
PARAMS = {"w": jnp.array([[[1.0, -2.0, 0.5]], [[0.3, 1.0, -1.0]]]), "b": jnp.array([[0.2], [2.0]])}


def loss(params):
    """A parabola with its minimum at 0; a function of any tree."""
    return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params))


def step(tx, params, state, loss=loss, **extra_args):
    """One step of any of them: `grad_fn` is for the opaque ones, a stranger to the others."""
    grad_fn = lambda params, i: jax.grad(loss)(params)
    updates, state = tx.update(
        grad_fn(params, 0), state, params, grad_fn=grad_fn, value=loss(params), **extra_args
    )
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def train(tx, params, steps, loss=loss):
    carry = params, tx.init(params)
    return jax.lax.scan(lambda carry, _: (step(tx, *carry, loss), None), carry, length=steps)[0]


def signature(tree):
    """Structure, shapes, dtypes and weak types."""
    return jax.tree.map(
        lambda x: (x.shape, str(x.dtype), x.weak_type), jax.eval_shape(lambda: tree)
    )


def final_params(params, state):
    is_anchored = lambda node: isinstance(node, flatjax.EntropySGDState)
    if any(is_anchored(node) for node in jax.tree.leaves(state, is_leaf=is_anchored)):
        return flatjax.entropy_sgd_eval_params(state, params)
    return params


# ------------------------------------------------------------------------------- it optimises


def rosenbrock(params):
    x, y = params[..., 0], params[..., 1]
    return jnp.sum((1 - x) ** 2 + 2 * (y - x**2) ** 2)


MATRIX = np.array([[3.0, -2.0], [0.5, 4.0]], np.float32)
MIXED = {"scalar": np.float32(2.0), "vector": np.arange(3.0, dtype=np.float32), "matrix": MATRIX}


def distance_to(target):
    return lambda params: sum(
        jax.tree.leaves(jax.tree.map(lambda w, t: jnp.sum((w - t) ** 2), params, target))
    )


# Start of the two replicas, loss, minimum of each replica.
TARGETS = {
    "parabola": (np.array([[-3.0, 4.0, 1.0], [2.0, 0.0, -1.0]]), loss, np.zeros(3)),
    "rosenbrock": (np.array([[0.0, 0.0], [0.5, 0.2]]), rosenbrock, np.ones(2)),
    "matrix": (np.array([0 * MATRIX, 1 + MATRIX]), distance_to(MATRIX), MATRIX),
    "mixed": (jax.tree.map(lambda t: np.stack([0 * t, -t]), MIXED), distance_to(MIXED), MIXED),
}


@pytest.mark.parametrize("target", TARGETS)
@each_case
def test_converges(case, target):
    start, loss, minimum = TARGETS[target]
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    found = final_params(*train(case.make(), start, 500, loss))
    for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(minimum), strict=True):
        np.testing.assert_allclose(leaf, np.stack([expected] * 2), atol=0.02)


# ------------------------------------------------------------------ its program and its state


@each_case
def test_unknown_arguments_and_no_second_compilation(case):
    tx = case.make()
    jitted = jax.jit(functools.partial(step, tx))
    params, state = PARAMS, tx.init(PARAMS)
    for i in range(3):
        params, state = jitted(params, state, unheard_of=jnp.array(i))
    assert jitted._cache_size() == 1


DTYPES = {"bfloat16": (jnp.bfloat16,) * 2, "float16": (jnp.float16,) * 2}
DTYPES |= {"float32": (jnp.float32,) * 2, "float64": (jnp.float64,) * 2}
DTYPES |= {"mixed": (jnp.bfloat16, jnp.float32)}


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
@each_case
def test_dtypes_and_types_of_the_state_are_stable(case, dtypes, x64):
    """Also that `init` and `update` run on abstract values, and leak none."""
    if not x64 and jnp.float64 in dtypes:
        pytest.skip("there is no float64 without x64")
    with jax.enable_x64(x64), jax.checking_leaks(), jax.numpy_rank_promotion("raise"):
        dtype = dict(zip(PARAMS, dtypes, strict=True))
        params = {
            name: jax.ShapeDtypeStruct(leaf.shape, dtype[name]) for name, leaf in PARAMS.items()
        }
        tx = case.make()
        state = jax.eval_shape(tx.init, params)
        new_params, new_state = jax.eval_shape(functools.partial(step, tx), params, state)
        _, updates = jax.eval_shape(
            lambda p, s: (None, tx.update(p, s, p, grad_fn=lambda p, i: p)[0]), params, state
        )
        for tree in (new_params, updates):
            assert {name: leaf.dtype for name, leaf in tree.items()} == dtype
        described = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype, x.weak_type))
        assert described(state) == described(new_state)


@each_case
def test_runs_in_half_precision(case):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    found = final_params(*train(case.make(), params, 60))
    assert float(loss(found)) < 0.1 * float(loss(params))


@each_case
def test_scan_and_donation_agree_with_a_loop(case):
    tx = case.make()
    params, state = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS)
    jitted = jax.jit(functools.partial(step, tx), donate_argnums=(0, 1))
    for _ in range(6):
        donated = params
        params, state = jitted(params, state)
        assert donated["w"].is_deleted()
    scanned = train(tx, PARAMS, 6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), params, scanned[0])
    # What the caller holds is not donated with the state: it starts again.
    jitted(jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS))


@each_case
def test_sharding_is_stable(case):
    """Sharded as they start: the parameters and all that is like them in the state."""
    mesh = flatjax.replica_mesh(2, jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))
    params = jax.device_put(PARAMS, sharding)
    tx = case.make()
    state = jax.jit(tx.init)(params)
    new_params, new_state = jax.jit(functools.partial(step, tx))(params, state)
    same = lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim)
    assert all(jax.tree.leaves(jax.tree.map(same, (params, state), (new_params, new_state))))


@each_case
def test_no_nan_where_the_gradient_is_zero(case):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.debug_nans(True):
        params, _ = train(case.make(), zeros, 6)
    assert float(loss(params)) < 1e-4


@each_case
@pytest.mark.parametrize("params", [{}, {"w": None, "b": {}}], ids=["empty", "none"])
def test_trees_without_leaves(case, params):
    tx = case.make()
    updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda params, i: params)
    assert updates == params
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


@each_case
def test_none_among_the_leaves(case):
    tx = case.make()
    params, _ = step(tx, PARAMS | {"frozen": None}, tx.init(PARAMS | {"frozen": None}))
    expected, _ = step(tx, PARAMS, tx.init(PARAMS))
    assert params.pop("frozen") is None
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@each_case
def test_params_are_asked_for(case):
    if case.factory is flatjax.per_replica:
        pytest.skip("asks for what the wrapped transformation asks for")
    tx = case.factory(**case.arguments)
    with pytest.raises(ValueError, match="params"):
        tx.update(PARAMS, tx.init(PARAMS), grad_fn=lambda params, i: params)


STATES = [flatjax.CoupleReplicasState, flatjax.EntropySGDState, flatjax.AverageParamsState]


@pytest.mark.parametrize("state", [*STATES, flatjax.schedules.BalancedScopingState])
def test_fields_of_states_are_documented(state):
    documented = re.findall(r"^ +(\w+): ", state.__doc__, re.MULTILINE)
    assert documented == list(state._fields)


# -------------------------------------------------------------------------------- wrapped


@each_case
def test_map_params(case):
    """What is like the parameters is found in the state."""
    tx = case.make()
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda _: "param", state, transform_non_params=lambda _: "")
    shapes = [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    for leaf, mark in zip(jax.tree.leaves(state), jax.tree.leaves(marked), strict=True):
        assert mark == ("param" if leaf.shape in shapes else "")


@each_case
def test_inject_hyperparams(case):
    plain, injected = train(case.make(), PARAMS, 7)[0], train(case.inject(), PARAMS, 7)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6), plain, injected[0])
    hyperparams = optax.tree.get(injected[1], "hyperparams")
    assert set(case.scheduled) <= set(hyperparams)


@each_case
def test_multi_steps(case):
    """Two half steps on the same gradient are one step."""
    tx = case.make()
    expected, state = train(tx, PARAMS, 6)
    accumulated, steps_state = train(optax.MultiSteps(tx, 2), PARAMS, 12)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6), accumulated, expected)
    found = final_params(accumulated, steps_state)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-6),
        found,
        final_params(expected, state),
    )


WRAPPERS = {
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False}),
    "partition": lambda tx: optax.partition(
        {"train": tx, "freeze": optax.set_to_zero()}, {"w": "train", "b": "freeze"}
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@each_case
def test_some_leaves_frozen(case, wrapper):
    """The others move as if they were alone, apart from the noise, which is drawn leaf by leaf."""
    options = {"noise_scale": 0.0} if case.is_last else {}
    tx = optax.chain(WRAPPERS[wrapper](case.make(**options)))
    if wrapper == "masked":  # which passes on the gradients of the others
        tx = optax.chain(tx, optax.masked(optax.set_to_zero(), {"w": False, "b": True}))
    found = final_params(*train(tx, PARAMS, 7))
    expected = final_params(*train(case.make(**options), {"w": PARAMS["w"]}, 7))
    np.testing.assert_allclose(found["w"], expected["w"], rtol=2e-6)
    np.testing.assert_array_equal(found["b"], PARAMS["b"])


@each_case
def test_apply_if_finite(case):
    """A gradient that is not finite changes nothing."""
    tx = optax.apply_if_finite(case.make(), max_consecutive_errors=3)
    params, state = train(tx, PARAMS, 2)
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    updates, after = tx.update(bad, state, params, grad_fn=lambda params, i: params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, *map(final_params, [params] * 2, [state, after]))


SCHEDULED = [
    pytest.param(case, argument, id=f"{name}-{argument}")
    for name, case in CASES.items()
    for argument in case.scheduled
]


@pytest.mark.parametrize(("case", "argument"), SCHEDULED)
def test_schedules(case, argument):
    """A constant schedule is the number, and another one is not."""
    value = case.arguments.get(argument, 1.0)
    expected = train(case.make(), PARAMS, 12)[0]
    constant = train(case.make(**{argument: lambda count: value + 0.0 * count}), PARAMS, 12)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6), constant, expected)
    growing = train(case.make(**{argument: lambda count: value * (1 + count)}), PARAMS, 12)[0]
    assert float(jnp.max(jnp.abs(growing["w"] - expected["w"]))) > 1e-4


AXIS_NAMED = {name: case for name, case in CASES.items() if "replica_axis" in case.arguments}


@pytest.mark.parametrize("case", AXIS_NAMED.values(), ids=AXIS_NAMED)
def test_axis_name(case):
    """One replica a program, under a name, as the stack in one program."""
    named = case.make(axis_name="replica", replica_axis=None)
    run = jax.vmap(lambda params: train(named, params, 7)[0], axis_name="replica")
    expected = train(case.make(), PARAMS, 7)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), run(PARAMS), expected)
