"""What optax asks of a contributed transformation, asked of every transformation of flatjax.

Kinds of leaves are in `test_contract_leaves`, the states in `test_contract_states`.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import (
    BASIC,
    CASES,
    COVERING,
    PARAMS,
    STEPS,
    assert_close,
    each_case_if_slow,
    expected,
    parabola,
    slow_variants,
    solution,
    step,
    train,
)
from fast import only

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


@each_case_if_slow
def test_converges(name):
    start, minima = ({key: target[i] for key, target in TARGETS.items()} for i in (0, 2))
    found = solution(*train(CASES[name].make(), start, 500, all_targets))
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), minima)
    near = functools.partial(np.testing.assert_allclose, atol=0.02)
    jax.tree.map(lambda w, end: near(w.astype(jnp.float32), end), found, both)


# ------------------------------------------------------------------ its program and its state


@each_case_if_slow
@pytest.mark.claim("README.md", "Every transformation accepts")
@pytest.mark.claim("docs/optax.md", "one compilation")
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


@each_case_if_slow
def test_no_nan_where_the_gradient_is_zero(name):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.debug_nans(True):
        params, _ = train(CASES[name].make(), zeros)
    assert float(parabola(params)) < 1e-4


@pytest.mark.parametrize("name", [name for name in CASES if name != "per_replica"])
def test_params_are_asked_for(name):
    case = CASES[name]
    tx = case.factory(**case.arguments)
    update = lambda: tx.update(PARAMS, tx.init(PARAMS), grad_fn=lambda params, i: params)
    with pytest.raises(ValueError, match="params"):
        jax.eval_shape(update)


# -------------------------------------------------------------------------------- it composes


@each_case_if_slow
@pytest.mark.claim("docs/optax.md", "optax.inject_hyperparams")
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
@pytest.mark.claim("docs/optax.md", "two halves of a step are one step")
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
    ("name", "wrapper"),
    slow_variants(partition) + only([("sam", masked)], [(name, masked) for name in BASIC]),
)
@pytest.mark.claim("docs/optax.md", "frozen leaves stay")
def test_frozen_leaves(name, wrapper):
    """The others move as if they were alone."""
    trained = {"w": True, "frozen": False, "b": True, "nothing": None}
    params = PARAMS | {"frozen": jnp.ones((2, 3))}
    found = solution(*train(wrapper(CASES[name].make(), trained), params))
    np.testing.assert_array_equal(found.pop("frozen"), params["frozen"])
    assert_close(found, solution(*expected(name)))


@each_case_if_slow
@pytest.mark.claim("docs/optax.md", "a gradient that is not finite changes nothing")
def test_apply_if_finite(name):
    """A gradient that is not finite changes nothing."""
    tx = optax.apply_if_finite(CASES[name].make(), max_consecutive_errors=3)
    jitted = jax.jit(functools.partial(step, tx))
    carry = PARAMS, tx.init(PARAMS)
    for i in range(STEPS + 1):
        carry = jitted(*carry, factor=jnp.nan if i == 7 else 1.0)
    assert_close(carry[0], expected(name)[0])


@pytest.mark.parametrize(
    ("name", "argument"),
    only(
        [(name, CASES[name].scheduled[-1]) for name in COVERING if CASES[name].scheduled],
        [(name, a) for name in BASIC for a in CASES[name].scheduled],
    ),
)
@pytest.mark.claim("docs/optax.md", "a constant schedule is the number")
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


@pytest.mark.slow
@pytest.mark.parametrize("name", only(["pull_to_center", "diloco", "parle"], STACKED_CASES))
@pytest.mark.claim("docs/optax.md", "gives what `replica_axis` gives")
def test_axis_name(name):
    """One replica a program, under a name, is as good as the stack."""
    tx = CASES[name].make(axis_name="replica", replica_axis=None)
    run = jax.vmap(lambda params: train(tx, params)[0], axis_name="replica")
    assert_close(run(PARAMS), expected(name)[0])
