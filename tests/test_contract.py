"""What optax asks of a contributed transformation, asked of every transformation of flatjax."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import equinox
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax


class Case(NamedTuple):
    """The factory of a transformation and its arguments, and the chain it needs.

    `scheduled` are the arguments annotated as a number or a schedule.
    """

    factory: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]
    scheduled: tuple[str, ...] = ()
    before: tuple[optax.GradientTransformation, ...] = ()
    after: tuple[optax.GradientTransformation, ...] = ()

    def make(self, factory=None, **arguments):
        """The chain."""
        tx = (factory or self.factory)(**self.arguments | arguments)
        return optax.chain(*self.before, tx, *self.after)

    def but(self, **arguments):
        """The case with other arguments."""
        return self._replace(arguments=self.arguments | arguments)


PLAIN_SGD = optax.sgd(0.02, momentum=0.8)
CLIPPED_SGD = optax.chain(optax.clip_by_global_norm(50.0), PLAIN_SGD)
STACKED = {"replica_axis": 0}
COUPLING = {"gamma": 0.1, **STACKED}
RSGD = {"learning_rate": 0.02, "momentum": 0.8, **COUPLING}
ESGD = {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.0, "gamma": 0.1}
ESGD |= {"key": jax.random.key(1)}
PARLE = ESGD | {"replica_gamma": 0.5, "outer_momentum": 0.2, **STACKED}
ENTROPY = {"outer": optax.sgd(1.0, momentum=0.2), "inner": optax.scale_by_adam(), "gamma": 0.1}
# No noise, which Adam, on a zero gradient, would blow up to full steps.
ENTROPY |= {"inner_learning_rate": 0.02, "noise_scale": 0.0}
OPAQUE = {"opaque_mode": True, "inner_steps": 2, "noise_scale": 0.0}

couple_replicas = Case(flatjax.couple_replicas, COUPLING, ("gamma",), after=(PLAIN_SGD,))
pull_to_center = Case(
    flatjax.pull_to_center,
    COUPLING | {"learning_rate": 0.5},
    ("gamma", "learning_rate"),
    before=(optax.adam(0.05),),
)
NESTEROV = optax.sgd(0.7, momentum=0.5, nesterov=True)
diloco = Case(
    flatjax.diloco, {"inner": PLAIN_SGD, "outer": NESTEROV, "period": 3, "blend": 0.3, **STACKED}
)
replicated_sgd = Case(flatjax.replicated_sgd, RSGD, ("learning_rate", "gamma"))
esgd = Case(flatjax.esgd, ESGD, ("learning_rate", "gamma", "outer_learning_rate"))
parle = Case(flatjax.parle, PARLE, ("learning_rate", "gamma", "replica_gamma"))
CASES = {
    "couple_replicas": couple_replicas,
    "couple_replicas_every_third": couple_replicas.but(period=3),
    "couple_replicas_delayed": couple_replicas.but(delayed=True, period=2),
    "pull_to_center": pull_to_center,
    "pull_to_center_int8_overlapped": pull_to_center.but(
        communication_dtype="int8", overlapped=True
    ),
    "pull_to_center_outer": pull_to_center.but(outer=NESTEROV, period=3, delay=1),
    "diloco": diloco,
    "replicated_sgd": replicated_sgd,
    "replicated_sgd_decoupled": replicated_sgd.but(decoupled=True),
    "per_replica": Case(flatjax.per_replica, {"tx": CLIPPED_SGD}),
    "entropy_sgd": Case(flatjax.entropy_sgd, ENTROPY, ("gamma", "inner_learning_rate")),
    "esgd": esgd,
    "esgd_stacked": esgd.but(**STACKED),
    "esgd_opaque": esgd.but(**OPAQUE),
    "parle": parle,
    "parle_decoupled": parle.but(decoupled=True, noise_scale=0.0),
    "parle_opaque": parle.but(**OPAQUE),
    "sam": Case(flatjax.sam, {"optimizer": PLAIN_SGD, "rho": 0.01}, ("rho",)),
    "average_params": Case(flatjax.average_params, {"decay": 0.9}, before=(PLAIN_SGD,)),
}
VARIANTS = ("every_third", "delayed", "outer", "overlapped", "stacked", "opaque")
BASIC = [name for name in CASES if not name.endswith(VARIANTS)]
each_case = pytest.mark.parametrize("name", CASES)


def slow_variants(*more):
    """Parameters of a test of all cases; variants of others run where there is time."""
    marks = {name: () if name in BASIC else pytest.mark.slow for name in CASES}
    return [pytest.param(name, *more, marks=marks[name]) for name in CASES]


each_case_if_slow = pytest.mark.parametrize("name", slow_variants())

# Two replicas along the first axis, or one network with an axis more. One leaf is always None.
PARAMS = {
    "w": jnp.array([[[1.0, -2.0, 0.5]], [[0.3, 1.0, -1.0]]]),
    "b": jnp.array([[0.2], [2.0]]),
    "nothing": None,
}
STEPS = 12
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)


def parabola(params):
    """With its minimum at 0; a function of any tree."""
    return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params))


def step(tx, params, state, loss=parabola, factor=1.0, **extra_args):
    """One step of any of them: `grad_fn` is for the opaque ones, a stranger to the others."""

    def grad_fn(params, i):
        del i
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), jax.grad(loss)(params))

    updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn, **extra_args)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def train(tx, params, steps=STEPS, loss=parabola):
    """As a scan, so that the types of the state must be those of its start."""
    carry = params, tx.init(params)
    return jax.lax.scan(lambda carry, _: (step(tx, *carry, loss), None), carry, length=steps)[0]


@functools.cache
def expected(name):
    """Parameters and state after a plain run."""
    return train(CASES[name].make(), PARAMS)


def solution(params, state):
    """What is evaluated: the anchor, where there is one."""
    is_anchored = lambda node: isinstance(node, flatjax.EntropySGDState)
    if any(is_anchored(node) for node in jax.tree.leaves(state, is_leaf=is_anchored)):
        return flatjax.eval_params(state, params)
    return params


# ------------------------------------------------------------------------------- it optimises


def rosenbrock(params):
    x, y = params[..., 0], params[..., 1]
    return jnp.sum((1 - x) ** 2 + 2 * (y - x**2) ** 2)


def distance_to(target):
    squared = lambda w, t: jnp.sum((w - t) ** 2)
    return lambda params: sum(jax.tree.leaves(jax.tree.map(squared, params, target)))


MATRIX = np.array([[1.5, -1.0], [0.2, 2.0]], np.float32)
MIXED = {"scalar": np.float32(2.0), "vector": np.arange(3, dtype=np.float32), "matrix": MATRIX}
# Where the two replicas start, the loss and its minimum. The parabola is in half precision.
TARGETS = {
    "parabola": (jnp.array([[-3.0, 4.0], [2.0, 0.0]], jnp.bfloat16), parabola, np.zeros(2)),
    "rosenbrock": (jnp.array([[0.0, 0.0], [0.5, 0.2]]), rosenbrock, np.ones(2)),
    "matrix": (jnp.array([0 * MATRIX, 1 + MATRIX]), distance_to(MATRIX), MATRIX),
    "mixed": (jax.tree.map(lambda t: jnp.array([0 * t, -t]), MIXED), distance_to(MIXED), MIXED),
}


def all_targets(params):
    """One program, which compiles faster than one for each."""
    return sum(loss(params[name]) for name, (_, loss, _) in TARGETS.items())


@each_case
def test_converges(name):
    start, minima = ({key: target[i] for key, target in TARGETS.items()} for i in (0, 2))
    found = solution(*train(CASES[name].make(), start, 500, all_targets))
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), minima)
    near = functools.partial(np.testing.assert_allclose, atol=0.02)
    jax.tree.map(lambda w, end: near(w.astype(jnp.float32), end), found, both)


# ------------------------------------------------------------------------- any kind of leaves


def arguments_of(name):
    return inspect.signature(CASES[name].factory).parameters


def alone(name, **arguments):
    """The transformation without its chain, and no Adam, which takes a complex number for one."""
    case = CASES[name]
    if "inner" in case.arguments:
        arguments = {"inner": optax.trace(0.8)} | arguments
    return case.factory(**case.arguments | arguments)


def three_steps(tx, params):
    """Of the gradient of a parabola, in one program."""

    @jax.jit
    def run(params):
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params, state, params, grad_fn=lambda params, i: params)
            params = jax.tree.map(lambda w, u: w - 0.1 * u, params, updates)
        return params, flatjax.eval_params(state, params)

    return run(params)


OTHERS = {"count": jnp.full(2, 2**25 + 1), "flag": jnp.array([True, False])}
OTHERS |= {"key": jax.random.split(jax.random.key(0))}


@pytest.mark.parametrize("name", [name for name in CASES if name != "per_replica"])
def test_leaves_that_are_no_weights(name):
    """Their updates pass, weights move as if they were alone, the leaves are evaluated as they are.

    Not where another optimizer gets them, as in `per_replica`.
    """
    tx, params = alone(name), PARAMS | OTHERS
    grad_fn = lambda params, i: params
    (updates, state), (expected_updates, _) = (
        jax.jit(lambda p: tx.update(p, tx.init(p), p, grad_fn=grad_fn))(tree)
        for tree in (params, PARAMS)
    )
    passed = {key: updates.pop(key) for key in OTHERS}
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), passed, OTHERS)))
    assert_close(updates, expected_updates)
    evaluated = flatjax.eval_params(state, params)
    assert all((evaluated[key] == OTHERS[key]).all() for key in OTHERS)
    if "replica_axis" in CASES[name].arguments:
        center = flatjax.eval_params(state, params, replica_axis=0)
        assert int(center["count"]) == 2**25 + 1


@each_case
def test_complex_weights_are_pairs_of_real_ones(name):
    tx = alone(name, **({"noise_scale": 0.0} if "noise_scale" in arguments_of(name) else {}))
    parts = {"real": PARAMS, "imaginary": jax.tree.map(lambda w: 3 - w, PARAMS)}
    join = lambda parts: jax.tree.map(jax.lax.complex, parts["real"], parts["imaginary"])
    expected = [join(tree) for tree in three_steps(tx, parts)]
    assert_close(list(three_steps(tx, join(parts))), expected)


SINGLE = [name for name, case in CASES.items() if "replica_axis" not in case.arguments]


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "per_replica"])
def test_python_numbers_as_parameters(name):
    tx = alone(name)
    params = {"w": 1.5, "b": (2.0, -1.0)}
    update = lambda p: tx.update(p, tx.init(p), p, grad_fn=lambda params, i: params)
    assert_close(update(params)[0], update(jax.tree.map(jnp.array, params))[0])


class CallableNetwork(equinox.Module):
    """A pytree that is a function; so is a mask of its structure."""

    w: Any
    b: Any

    def __call__(self, x):
        """Never called by an optimizer."""
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, a) for name in CASES for a in ("mask", "decay_mask") if a in arguments_of(name)],
)
def test_masks_that_are_callable_pytrees(name, argument):
    arguments = {argument: CallableNetwork(True, False)}
    if argument == "decay_mask":
        arguments["weight_decay"] = 0.5
    params = CallableNetwork(PARAMS["w"], PARAMS["b"])
    found = three_steps(alone(name, **arguments), params)
    as_function = arguments | {argument: lambda params: CallableNetwork(True, False)}
    assert_close(found, three_steps(alone(name, **as_function), params))


# ------------------------------------------------------------------ its program and its state


@each_case_if_slow
def test_one_compilation_with_unknown_arguments_and_donation(name):
    tx = CASES[name].make()
    jitted = jax.jit(functools.partial(step, tx), donate_argnums=(0, 1))
    for _ in range(2):  # a second run: what the caller holds was not donated with the state
        params = jax.tree.map(jnp.copy, PARAMS)
        state = tx.init(params)
        for i in range(STEPS):
            donated = params["w"]
            params, state = jitted(params, state, unheard_of=jnp.array(i))
            assert donated.is_deleted()
    assert jitted._cache_size() == 1
    assert_close(solution(params, state), solution(*expected(name)))


DTYPES = {"half": ("bfloat16", "float16"), "single": ("float32", "bfloat16")}
DTYPES |= {"double": ("float64", "float32")}


@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
@each_case
def test_types_are_stable(name, dtypes):
    """Of updates and state. On abstract values, and without leaks or implicit broadcasts."""
    dtypes = dict(zip(("w", "b"), dtypes, strict=True))
    params = {k: jax.ShapeDtypeStruct(PARAMS[k].shape, dtype) for k, dtype in dtypes.items()}
    # Schedules, whose values are strongly typed.
    tx = CASES[name].make(**{a: lambda count: jnp.float32(0.1) for a in CASES[name].scheduled})
    with jax.enable_x64("float64" in dtypes.values()), jax.checking_leaks():
        state = jax.eval_shape(tx.init, params)
        with jax.numpy_rank_promotion("raise"):
            update = lambda w, state: tx.update(w, state, w, grad_fn=lambda w, i: w)
            updates, new_state = jax.eval_shape(update, params, state)
    assert {k: update.dtype.name for k, update in updates.items()} == dtypes
    types = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype, x.weak_type))
    assert types(state) == types(new_state)


@each_case
def test_shardings_are_stable(name):
    """All in the state that is like the parameters is sharded like them, and stays so."""
    mesh = jax.make_mesh((2,), ("replica",), (AxisType.Explicit,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, P("replica"))
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, sharding)
        tx = CASES[name].make()
        state = tx.init(params)
        after = jax.jit(functools.partial(step, tx))(params, state)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    alike = [leaf for leaf in jax.tree.leaves((params, state, after)) if leaf.shape in shapes]
    assert len(alike) >= 2 * len(shapes)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in alike)


@each_case_if_slow
def test_no_nan_where_the_gradient_is_zero(name):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.debug_nans(True):
        params, _ = train(CASES[name].make(), zeros)
    assert float(parabola(params)) < 1e-4


@pytest.mark.parametrize("params", [{}, {"w": None, "b": {}}], ids=["empty", "none"])
@each_case
def test_trees_without_leaves(name, params):
    tx = CASES[name].make()
    state = tx.init(params)
    update = lambda state: tx.update(params, state, params, grad_fn=lambda params, i: params)
    updates, new_state = jax.eval_shape(update, state)
    assert updates == params
    assert jax.tree.structure(state) == jax.tree.structure(new_state)


@pytest.mark.parametrize("name", [name for name in CASES if name != "per_replica"])
def test_params_are_asked_for(name):
    case = CASES[name]
    tx = case.factory(**case.arguments)
    with pytest.raises(ValueError, match="params"):
        tx.update(PARAMS, tx.init(PARAMS), grad_fn=lambda params, i: params)


STATES = (
    flatjax.AverageParamsState,
    flatjax.CoupleReplicasState,
    flatjax.EntropySGDState,
    flatjax.OuterPullState,
    flatjax.PullToCenterState,
    flatjax.schedules.BalancedScopingState,
)


@pytest.mark.parametrize("state", STATES)
def test_fields_of_states_are_documented(state):
    assert re.findall(r"^ +(\w+): ", state.__doc__, re.MULTILINE) == list(state._fields)


def by_flax(state, like, path):
    path.write_bytes(flax.serialization.to_bytes(state))
    return flax.serialization.from_bytes(like, path.read_bytes())


def by_numpy(state, like, path):
    with path.open("wb") as file:
        np.savez(file, *jax.tree.leaves(state))
    with np.load(path) as saved:
        return jax.tree.unflatten(jax.tree.structure(like), saved.values())


def by_equinox(state, like, path):
    equinox.tree_serialise_leaves(path, state)
    return equinox.tree_deserialise_leaves(path, like)


def by_orbax(state, like, path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, like)


@pytest.mark.parametrize("save", [by_flax, by_numpy, by_equinox, by_orbax])
@pytest.mark.parametrize("name", BASIC)
def test_states_survive_serialisation(name, save, tmp_path):
    """As a `flatjax.TrainState`, restored into the start of another run."""
    arguments = {"key": 1} if "key" in CASES[name].arguments else {}
    start = flatjax.TrainState.create(
        apply_fn=parabola, params=PARAMS, tx=CASES[name].make(**arguments)
    )
    state = start.apply_gradients(grads=PARAMS)
    restored = save(state, jax.tree.map(jnp.zeros_like, start), tmp_path / "state")
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    types = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    assert types(restored) == types(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@each_case
def test_parameters_replaced_after_init(name):
    """`set_params` makes the state of an optimizer that has started from the new ones."""
    tx = CASES[name].make()
    new = jax.tree.map(lambda w: 3 - w, PARAMS)
    assert_close(flatjax.set_params(tx.init(PARAMS), new), tx.init(new))


# -------------------------------------------------------------------------------- it composes


@each_case
def test_map_params(name):
    """Finds in the state what is like the parameters, or like the center of the replicas."""
    tx = CASES[name].make()
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda _: True, state, transform_non_params=lambda _: False)
    shapes = [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    shapes += [(1, *shape[1:]) for shape in shapes]
    assert jax.tree.leaves(marked) == [leaf.shape in shapes for leaf in jax.tree.leaves(state)]


@each_case_if_slow
def test_inject_hyperparams(name):
    case = CASES[name]
    shaping = {
        "replica_axis",
        "period",
        "inner_steps",
        "start",
        "delayed",
        "overlapped",
        "communication_dtype",
        "blend",
        "delay",
        "offset",
    }
    static = shaping.intersection(inspect.signature(case.factory).parameters)
    factory = optax.inject_hyperparams(case.factory, static_args=static)
    params, state = train(case.make(factory), PARAMS)
    assert_close(params, expected(name)[0])
    assert set(case.scheduled) <= set(optax.tree.get(state, "hyperparams"))


@each_case_if_slow
def test_multi_steps(name):
    """Two halves of a step, on the same gradient, are one step."""
    found = train(optax.MultiSteps(CASES[name].make(), 2), PARAMS, 2 * STEPS)
    assert_close(found[0], expected(name)[0])
    assert_close(solution(*found), solution(*expected(name)))


def masked(tx, trained):
    frozen = jax.tree.map(lambda is_trained: not is_trained, trained)
    return optax.chain(optax.masked(tx, trained), optax.masked(optax.set_to_zero(), frozen))


def partition(tx, trained):
    labels = jax.tree.map(lambda is_trained: "train" if is_trained else "freeze", trained)
    return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)


@pytest.mark.parametrize(
    ("name", "wrapper"), slow_variants(partition) + [(name, masked) for name in BASIC]
)
def test_frozen_leaves(name, wrapper):
    """The others move as if they were alone."""
    trained = {"w": True, "frozen": False, "b": True, "nothing": None}
    params = PARAMS | {"frozen": jnp.ones((2, 3))}
    found = solution(*train(wrapper(CASES[name].make(), trained), params))
    np.testing.assert_array_equal(found.pop("frozen"), params["frozen"])
    assert_close(found, solution(*expected(name)))


@each_case_if_slow
def test_apply_if_finite(name):
    """A gradient that is not finite changes nothing."""
    tx = optax.apply_if_finite(CASES[name].make(), max_consecutive_errors=3)
    jitted = jax.jit(functools.partial(step, tx))
    carry = PARAMS, tx.init(PARAMS)
    for i in range(STEPS + 1):
        carry = jitted(*carry, factor=jnp.nan if i == 7 else 1.0)
    assert_close(carry[0], expected(name)[0])


@pytest.mark.parametrize(
    ("name", "argument"), [(name, a) for name in BASIC for a in CASES[name].scheduled]
)
def test_schedules(name, argument):
    """A constant schedule is the number; another one is not."""

    @jax.jit
    def run(slope):
        value = CASES[name].arguments.get(argument, 1.0)
        schedule = lambda count: value * (1 + slope * count)
        return train.__wrapped__(CASES[name].make(**{argument: schedule}), PARAMS)[0]

    assert_close(run(0.0), expected(name)[0])
    assert float(jnp.max(jnp.abs(run(5.0)["w"] - expected(name)[0]["w"]))) > 1e-4


STACKED_CASES = [name for name, case in CASES.items() if "replica_axis" in case.arguments]


@pytest.mark.parametrize("name", STACKED_CASES)
def test_axis_name(name):
    """One replica a program, under a name, is as good as the stack."""
    tx = CASES[name].make(axis_name="replica", replica_axis=None)
    run = jax.vmap(lambda params: train(tx, params)[0], axis_name="replica")
    assert_close(run(PARAMS), expected(name)[0])
