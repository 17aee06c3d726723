"""Entropy-SGD and Parle: optimizers of the wrong kind, and arguments that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_entropy_sgd import PARAMS, STACK

import flatjax
from flatjax.schedules import BalancedScoping, scoping

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
    ({"gamma": "0.1"}, TypeError, "gamma must be"),
    ({"gamma": None}, ValueError, "steps"),
    ({"learning_rate": -0.1}, ValueError, "learning_rate must be"),
    ({"inner_steps": 0}, ValueError, "inner_steps must be"),
    ({"inner_steps": 2.5}, TypeError, "inner_steps must be"),
    ({"inner_steps": jnp.array(5)}, TypeError, "inner_steps.*static_args"),
    ({"replica_axis": -1}, ValueError, "replica_axis must be >= 0"),
    ({"replica_axis": "x"}, TypeError, "replica_axis must be an int, got 'x'"),
    ({"averaging_decay": 1.0}, ValueError, "averaging_decay must be"),
    ({"averaging_decay": -0.1}, ValueError, "averaging_decay must be"),
    ({"noise_scale": -1e-4}, ValueError, "noise_scale must be"),
    ({"noise_scale": float("inf")}, ValueError, "noise_scale must be"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
    ({"weight_decay": lambda count: 0.1}, ValueError, "weight_decay must be a number, got a sched"),
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


@pytest.mark.parametrize("is_injected", [True, False])
def test_a_schedule_of_the_weight_decay_counts_all_steps(is_injected):
    """It begins at step 10; a loop has five steps."""
    decay = lambda count: jnp.where(count < 10, 0.0, 1.0)
    make = functools.partial(flatjax.esgd, momentum=None, noise_scale=0.0, averaging_decay=0.0)
    if is_injected:
        static = ("inner_steps", "key", "steps")
        tx = optax.inject_hyperparams(make, static_args=static)(
            learning_rate=0.1, gamma=0.0, weight_decay=decay
        )
    else:
        tx = make(0.1, 0.0, weight_decay=decay, reset_inner=False)
    params = jnp.array([1.0])
    state = tx.init(params)
    for _ in range(15):
        updates, state = tx.update(jnp.zeros(1), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.9**5, rtol=1e-5)
