"""Optimizers and wrappers of optax that people chain, with replicas that are coupled."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from fast import only
from optax import contrib

import flatjax

# Two replicas of a matrix and of a vector.
PARAMS = {
    "w": jnp.array([[[1.0, -2.0], [0.5, 1.5]], [[0.3, 1.0], [-1.0, 0.2]]]),
    "b": jnp.array([[0.2, -1.0], [2.0, 0.7]]),
}
RATE = 0.05


def couple(gamma):
    return flatjax.couple_replicas(gamma, replica_axis=0)


def pull(gamma):
    return flatjax.pull_to_center(gamma, RATE, replica_axis=0)


def rsgd(gamma):
    return flatjax.replicated_sgd(RATE, gamma, replica_axis=0, momentum=0.5)


def schedule_free(gamma):
    base = optax.chain(couple(gamma), optax.sgd(RATE))
    return contrib.schedule_free(base, RATE, b1=0.9)


def sam(gamma):
    ascent = flatjax.per_replica(optax.chain(contrib.normalize(), optax.sgd(0.01)))
    return contrib.sam(rsgd(gamma), ascent, sync_period=2)


FEATURES = {
    "adamw": lambda gamma: optax.chain(optax.adamw(RATE), pull(gamma)),
    "muon": lambda gamma: optax.chain(flatjax.per_replica(contrib.muon(RATE)), pull(gamma)),
    "ema of gradients": lambda gamma: optax.chain(couple(gamma), optax.ema(0.5), optax.sgd(RATE)),
    "schedule_free": schedule_free,
    "sam": sam,
    "average_params behind": lambda gamma: optax.chain(
        rsgd(gamma), flatjax.average_params(decay=0.9)
    ),
}


def parabola(params):
    return 0.5 * sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnums=(0, 2))
def train(tx, params, steps):
    def step(carry, _):
        params, state = carry
        fast = params.fast if isinstance(params, optax.LookaheadParams) else params
        updates, state = tx.update(jax.grad(parabola)(fast), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0]


def distance(params):
    return float(flatjax.replica_distance(params, replica_axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("feature", only(["adamw", "sam"], FEATURES))
@pytest.mark.claim("docs/optax.md", "coupled replicas meet and learn")
def test_replicas_meet_and_learn(feature):
    coupled, alone = FEATURES[feature](2.0), FEATURES[feature](0.0)
    assert distance(train(coupled, PARAMS, 10)[0]) < 0.5 * distance(train(alone, PARAMS, 10)[0])
    params, _ = train(coupled, PARAMS, 400)
    assert float(parabola(params)) < 0.02 * float(parabola(PARAMS))


def test_lookahead_takes_replicas_for_its_fast_weights():
    tx = optax.lookahead(rsgd(2.0), sync_period=5, slow_step_size=0.5)
    params, _ = train(tx, optax.LookaheadParams.init_synced(PARAMS), 400)
    assert float(parabola(params.slow)) < 1e-3
    # Between two synchronisations, the fast weights are those of the optimizer alone.
    fast, _ = train(tx, optax.LookaheadParams.init_synced(PARAMS), 4)
    chex.assert_trees_all_equal(fast.slow, PARAMS)


def test_schedule_free_is_evaluated_at_its_average():
    tx = schedule_free(2.0)
    params, state = train(tx, PARAMS, 400)
    evaluated = contrib.schedule_free_eval_params(state, params)
    assert float(parabola(evaluated)) < 0.02 * float(parabola(PARAMS))
    assert distance(evaluated) < 1e-3


ESGD = {"replica_axis": 0, "inner_steps": 3}
RIGHT = {
    "esgd": flatjax.esgd(RATE, 0.1, **ESGD),
    "in MultiSteps": optax.MultiSteps(flatjax.esgd(RATE, 0.1, **ESGD), 2).gradient_transformation(),
    "clipped": optax.chain(optax.clip(0.5), flatjax.esgd(RATE, 0.1, **ESGD)),
    "averaged": optax.chain(flatjax.esgd(RATE, 0.1, **ESGD), flatjax.average_params()),
    "parle": flatjax.parle(RATE, 0.1, 1.0, replica_axis=0),
    "noisy": flatjax.parle(RATE, steps=1000, noise_scale=0.1, replica_axis=0),
    "limit": optax.chain(optax.sgd(RATE), flatjax.limit_distance(0.1, replica_axis=0)),
    "average from 5": optax.chain(optax.sgd(RATE), flatjax.average_params(start=5, decay=0.9)),
    "rsgd": rsgd(1.0),
    "adamw": FEATURES["adamw"](1.0),
    "partitioned": optax.partition(
        {"a": flatjax.esgd(RATE, 0.1, **ESGD), "b": optax.sgd(RATE)}, {"w": "a", "b": "b"}
    ),
}
WRONG = {
    "scaled": (optax.chain(RIGHT["esgd"], optax.scale(0.5)), "on the anchor"),
    "clipped behind": (optax.chain(RIGHT["esgd"], optax.clip(1e-3)), "on the anchor"),
    "scaled in MultiSteps": (
        optax.MultiSteps(optax.chain(RIGHT["esgd"], optax.scale(0.5)), 2).gradient_transformation(),
        "on the anchor",
    ),
    "force behind": (optax.chain(optax.sgd(RATE), couple(1.0)), "replicas apart"),
    "pull before": (optax.chain(pull(1.0), optax.sgd(RATE)), "replicas apart"),
    "limit before": (
        optax.chain(flatjax.limit_distance(0.1, replica_axis=0), optax.sgd(RATE)),
        "replicas apart",
    ),
    "average before": (optax.chain(flatjax.average_params(), optax.sgd(RATE)), "begin the average"),
}


@pytest.mark.parametrize("name", only(["esgd", "clipped"], RIGHT))
def test_chains_that_are_right(name):
    flatjax.check_chain(RIGHT[name], PARAMS, replica_axis=0)


@pytest.mark.parametrize("name", WRONG)
def test_chains_that_are_refused(name):
    tx, message = WRONG[name]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    with pytest.raises(ValueError, match=message):
        flatjax.check_chain(tx, half, replica_axis=0)
