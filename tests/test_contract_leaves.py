"""Leaves and masks of any kind, and of any precision, for every transformation of flatjax."""

import functools
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import (
    BASIC,
    CASES,
    COVERING,
    PARAMS,
    alone,
    arguments_of,
    assert_close,
    each_case,
    each_case_if_slow,
)
from fast import only

import flatjax


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


OTHERS = {"count": np.full(2, 2**25 + 1, np.int32), "flag": np.array([True, False])}
OTHERS |= {"key": jax.random.split(jax.random.key(0))}


@pytest.mark.parametrize(
    "name",
    only(
        [name for name in COVERING if name != "per_replica"],
        [name for name in CASES if name != "per_replica"],
    ),
)
@pytest.mark.claim("docs/optax.md", "are never moved")
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


@each_case_if_slow
@pytest.mark.claim("docs/optax.md", "move as pairs of real ones")
def test_complex_weights_are_pairs_of_real_ones(name):
    tx = alone(name, **({"noise_scale": 0.0} if "noise_scale" in arguments_of(name) else {}))
    parts = {"real": PARAMS, "imaginary": jax.tree.map(lambda w: 3 - w, PARAMS)}
    join = lambda parts: jax.tree.map(jax.lax.complex, parts["real"], parts["imaginary"])
    expected = [join(tree) for tree in three_steps(tx, parts)]
    assert_close(list(three_steps(tx, join(parts))), expected)


SINGLE = [name for name, case in CASES.items() if "replica_axis" not in case.arguments]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", only(["esgd", "sam"], [name for name in SINGLE if name != "per_replica"])
)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argument"),
    only(
        [("pull_to_center", "mask"), ("esgd", "decay_mask")],
        # Variants hand their masks to the same functions.
        [(name, a) for name in BASIC for a in ("mask", "decay_mask") if a in arguments_of(name)],
    ),
)
def test_masks_that_are_callable_pytrees(name, argument):
    arguments = {argument: CallableNetwork(True, False)}
    if argument == "decay_mask":
        arguments["weight_decay"] = 0.5
    params = CallableNetwork(PARAMS["w"], PARAMS["b"])
    found = three_steps(alone(name, **arguments), params)
    as_function = arguments | {argument: lambda params: CallableNetwork(True, False)}
    assert_close(found, three_steps(alone(name, **as_function), params))


DTYPES = {"single": ("float32", "bfloat16"), "all": ("bfloat16", "float16", "float32", "float64")}


@pytest.mark.parametrize(
    ("name", "precision"),
    only(
        [(name, "single") for name in COVERING] + [("replicated_sgd", "all"), ("diloco", "all")],
        [(name, "single") for name in CASES] + [(name, "all") for name in BASIC],
    ),
)
@pytest.mark.claim("docs/optax.md", "the types of the state do not change")
def test_types_are_stable(name, precision):
    """Of updates and state. On abstract values, and without leaks or implicit broadcasts."""
    dtypes = {f"w_{dtype}": dtype for dtype in DTYPES[precision]}
    params = {
        name: jax.ShapeDtypeStruct(PARAMS["w"].shape, dtype) for name, dtype in dtypes.items()
    }
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


@pytest.mark.parametrize("params", [{}, {"w": None, "b": {}}], ids=["empty", "none"])
@each_case
def test_trees_without_leaves(name, params):
    tx = CASES[name].make()
    state = tx.init(params)
    update = lambda state: tx.update(params, state, params, grad_fn=lambda params, i: params)
    updates, new_state = jax.eval_shape(update, state)
    assert updates == params
    assert jax.tree.structure(state) == jax.tree.structure(new_state)
