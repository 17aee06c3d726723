"""Optimizers beside the NumPy loops of `reference`, on one problem, in double precision.

Each optimizer is a row: the library's transformation beside the loop that it must follow.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference

import flatjax

STEPS, INNER_STEPS, REPLICAS = 60, 5, 4
OUTER_STEPS = STEPS // INNER_STEPS
TOLERANCE = 1e-10
SEED = 3

# The learning rate halves and gamma grows by 1e4; a value for each gradient, or each outer step.
RATE = 0.05 * (1 - 0.5 * np.arange(STEPS) / STEPS)
GAMMA = 5e-4 * 1e4 ** (np.arange(STEPS) / STEPS)
OUTER_RATE = 0.8 * (1 - 0.5 * np.arange(OUTER_STEPS) / OUTER_STEPS)
OUTER_GAMMA = 2e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)
REPLICA_GAMMA = 4e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)

# The problem: regression by f(x) = sum_j tanh(w_j x + b_j), every replica and step with a minibatch
# of its own.
_rng = np.random.default_rng(7)
PARAMS = {"bias": _rng.normal(size=(REPLICAS, 3)), "weight": _rng.normal(size=(REPLICAS, 3, 5))}
BATCHES = {
    "input": _rng.normal(size=(STEPS, REPLICAS, 8, 5)),
    "target": _rng.normal(size=(STEPS, REPLICAS, 8)),
}


def loss(params, batch):
    hidden = jnp.tanh(batch["input"] @ params["weight"].T + params["bias"])
    return 0.5 * jnp.mean((hidden.sum(axis=-1) - batch["target"]) ** 2)


gradient = jax.grad(loss)
stacked_gradient = jax.vmap(gradient)


def gradient_by_hand(w, a, t):
    bias, weight = w
    x, target = BATCHES["input"][t, a], BATCHES["target"][t, a]
    hidden = np.tanh(x @ weight.T + bias)
    residual = (hidden.sum(axis=1) - target) / len(target)
    backward = residual[:, None] * (1 - hidden**2)
    return reference.point([backward.sum(axis=0), backward.T @ x])


def schedule(values):
    """The listed values as an optax schedule (a formula of an int32 count has single precision)."""
    return lambda count: jnp.asarray(values)[count]


def train(tx, gradient, params, batches, read=lambda params, state: params):
    """What `read` finds after each step, by default the parameters."""

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), read(params, state)

    return jax.lax.scan(step, (params, tx.init(params)), batches)[1]


def train_stack(tx, params=PARAMS, gradient=stacked_gradient, **read):
    return jax.jit(functools.partial(train, tx, gradient, **read))(params, BATCHES)


def as_points(stacked):
    """The replicas (or steps) of a stacked pytree as points."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(stacked)]
    return [reference.point([leaf[a] for leaf in leaves]) for a in range(len(leaves[0]))]


def as_arrays(path):
    """A path of replicas as a pytree of arrays with axes (step, replica, ...)."""
    names = ["bias", "weight"]
    return {name: np.array([[w_a[i] for w_a in w] for w in path]) for i, name in enumerate(names)}


def together(paths):
    """The paths of single replicas as one path of all replicas."""
    return [list(w) for w in zip(*paths, strict=True)]


def departure(actual, path):
    """The largest difference at any step, relative to the largest entry of the leaf."""

    def relative(a, e):
        assert a.shape == e.shape
        assert a.dtype == e.dtype == np.float64
        return np.max(np.abs(np.asarray(a) - e)) / np.max(np.abs(e))

    return max(jax.tree.leaves(jax.tree.map(relative, actual, as_arrays(path))))


# --------------------------------------------------------------------- the noise of a run


@functools.cache
def normal_draws(silent):
    """The standard normal points [replica][step] of a run seeded with SEED.

    They are read off a run from zero without gradients, of an optimizer whose steps are then its
    normal draws. So nothing is presumed about how they are drawn.
    """
    zero_gradient = lambda params, batch: jax.tree.map(jnp.zeros_like, params)
    start = jax.tree.map(np.zeros_like, PARAMS)
    positions = train_stack(silent(replica_axis=0), start, zero_gradient)
    draws = jax.tree.map(lambda leaf: np.diff(leaf, axis=0, prepend=0 * leaf[:1]), positions)
    return [as_points(jax.tree.map(lambda leaf, a=a: leaf[:, a], draws)) for a in range(REPLICAS)]


# No forces; sqrt(2 eta') = 1; mu = w', and the outer step goes all the way to it.
SILENT = {"key": SEED, "weight_decay": 0.0, "averaging_decay": 0.0, "noise_scale": 1.0}
silent_esgd = functools.partial(flatjax.esgd, 0.5, 0.0, **SILENT)
silent_parle = functools.partial(flatjax.parle, 0.5, 0.0, 0.0, **SILENT)


# ----------------------------------------------------- the rows: optimizers and their loops


class Row(NamedTuple):
    """An optimizer and its loop.

    Attributes:
      make: from `axis_name` and `replica_axis` to the transformation.
      path: the loop's path; its argument multiplies every gamma.
    """

    make: Callable[..., optax.GradientTransformation]
    path: Callable[[float], list]


NESTEROV = {"momentum": 0.9, "nesterov": True}
MOMENTA = {
    "plain": {"momentum": None, "nesterov": False},
    "heavy_ball": {"momentum": 0.9, "nesterov": False},
    "nesterov": NESTEROV,
}
FORMS = {"in_gradient": {"decoupled": False}, "decoupled": {"decoupled": True}}
WEIGHTS_ONLY = {"bias": False, "weight": True}


def felt(mask):
    """Which leaves, in their order, feel the coupling: all of them, or the weights only."""
    return np.array([mask is None, True])


def replicated_sgd(*, rate=RATE, gamma=GAMMA, mask=None, **options):
    make = functools.partial(flatjax.replicated_sgd, schedule(rate), schedule(gamma), mask=mask)

    def path(factor):
        gammas = [factor * felt(mask) * gamma_t for gamma_t in gamma]
        return reference.replicated_sgd(
            as_points(PARAMS), gradient_by_hand, rate, gammas, **options
        )

    return Row(functools.partial(make, **options), path)


INNER = NESTEROV | {"weight_decay": 0.01, "averaging_decay": 0.6, "noise_scale": 0.02}
ENTROPIC = INNER | {"outer_momentum": 0.5}
QUIET = ENTROPIC | {"noise_scale": 0.0}  # compiles three times as fast


def esgd(*, outer_rate=OUTER_RATE, gamma=OUTER_GAMMA, mask=None, **options):
    """Replicas of Entropy-SGD that do not see each other."""
    make = functools.partial(flatjax.esgd, schedule(RATE), schedule(gamma), key=SEED, mask=mask)

    def path(factor):
        return together(
            reference.entropy_sgd(
                w_a,
                lambda w, t, a=a: gradient_by_hand(w, a, t),
                RATE,
                [factor * felt(mask) * gamma_s for gamma_s in gamma],
                outer_rate,
                noise=[felt(mask) * z for z in normal_draws(silent_esgd)[a]],
                outer_nesterov=options["nesterov"],
                **options,
            )
            for a, w_a in enumerate(as_points(PARAMS))
        )

    return Row(functools.partial(make, outer_learning_rate=schedule(outer_rate), **options), path)


def parle(**options):
    """The outer learning rate is that of the loop's last gradient."""
    gammas = schedule(OUTER_GAMMA), schedule(REPLICA_GAMMA)
    make = functools.partial(flatjax.parle, schedule(RATE), *gammas, key=SEED)

    def path(factor):
        return reference.parle(
            as_points(PARAMS),
            gradient_by_hand,
            RATE,
            factor * OUTER_GAMMA,
            factor * REPLICA_GAMMA,
            RATE[INNER_STEPS - 1 :: INNER_STEPS],
            noise=normal_draws(silent_parle),
            outer_nesterov=options["nesterov"],
            **options,
        )

    return Row(functools.partial(make, **options), path)


def chained(coupling, *, mask, **options):
    """The couplings in a chain of the user's own."""
    decay_and_sgd = optax.add_decayed_weights(0.01), optax.sgd(schedule(RATE), momentum=0.9)

    def make(**axes):
        if coupling == "pull_to_center":
            arguments = schedule(GAMMA), schedule(RATE)
            pull = flatjax.pull_to_center(*arguments, mask=mask, **options, **axes)
            return optax.chain(*decay_and_sgd, pull)
        force = flatjax.couple_replicas(schedule(GAMMA), mask=mask, **options, **axes)
        return optax.chain(force, *decay_and_sgd)

    options_of_loop = {"decoupled": coupling == "pull_to_center", "momentum": 0.9}
    path = replicated_sgd(mask=mask, weight_decay=0.01, **options_of_loop, **options).path
    return Row(make, path)
