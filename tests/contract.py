"""The transformations of flatjax and how they are run, for the tests of what all must satisfy."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

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
# Each transformation, alone or as a part: `entropy_sgd` is in `esgd`.
COVERING = ["pull_to_center", "replicated_sgd", "esgd", "sam", "average_params"]
each_case = pytest.mark.parametrize("name", CASES)


def slow_variants(*more):
    """Parameters of a test of all cases; those that do not cover more are slow."""
    marks = {name: () if name in COVERING else pytest.mark.slow for name in CASES}
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


def arguments_of(name):
    return inspect.signature(CASES[name].factory).parameters


def alone(name, **arguments):
    """The transformation without its chain, and no Adam, which takes a complex number for one."""
    case = CASES[name]
    if "inner" in case.arguments:
        arguments = {"inner": optax.trace(0.8)} | arguments
    return case.factory(**case.arguments | arguments)
