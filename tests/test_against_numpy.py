"""The optimizers against the NumPy loops of `reference`: in double precision, at every step.

All options are run on stacked replicas; placements are in `test_against_numpy_placements`.
"""

import jax
import numpy as np
import optax
import pytest
import reference
from fast import only, slow
from numpy_rows import (
    BATCHES,
    ENTROPIC,
    FORMS,
    GAMMA,
    INNER_STEPS,
    MOMENTA,
    NESTEROV,
    OUTER_GAMMA,
    OUTER_RATE,
    OUTER_STEPS,
    PARAMS,
    QUIET,
    RATE,
    REPLICA_GAMMA,
    REPLICAS,
    SEED,
    STEPS,
    TOLERANCE,
    WEIGHTS_ONLY,
    chained,
    departure,
    esgd,
    normal_draws,
    parle,
    replicated_sgd,
    schedule,
    silent_esgd,
    stacked_gradient,
    together,
    train_stack,
)

import flatjax


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_noise_is_normal_and_independent():
    draws = normal_draws(silent_esgd)
    numbers = np.concatenate([leaf.ravel() for one in draws for z in one for leaf in z])
    assert numbers.size == REPLICAS * STEPS * 18
    assert np.unique(numbers.round(9)).size == numbers.size  # no replica, step or leaf shares any
    # Moments of 4320 standard normal numbers, to four standard errors.
    for moment, expected, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]:
        error = np.mean(numbers**moment) - expected
        assert abs(error) < 4 * np.sqrt(variance / numbers.size)


OPTIONS = {
    f"replicated_sgd-{momentum}-every_{period}-{form}": replicated_sgd(
        weight_decay=0.01, period=period, **MOMENTA[momentum], **FORMS[form]
    )
    for momentum in MOMENTA
    for period in (1, 3)
    for form in FORMS
}
OPTIONS |= {
    f"{coupling}-{where}": chained(coupling, period=3, mask=mask)
    for coupling in ("couple_replicas", "pull_to_center")
    for where, mask in {
        "everywhere": None,
        "weights_only": WEIGHTS_ONLY,
        "matrices": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 2, params),
    }.items()
}
OPTIONS |= {
    f"esgd-{momentum}-{form}": esgd(**(QUIET | MOMENTA[momentum] | FORMS[form]))
    for momentum in MOMENTA
    for form in FORMS
}
OPTIONS |= {
    f"esgd-weights_only-{form}": esgd(mask=WEIGHTS_ONLY, **ENTROPIC, **FORMS[form])
    for form in FORMS
}
OPTIONS |= {
    "esgd-scaled_by_gamma": esgd(outer_scaling="gamma", **QUIET),
    # (w - mu) / eta' is twenty times w - mu: the outer rate makes up for it.
    "esgd-scaled_by_rate": esgd(
        outer_scaling="learning_rate", outer_rate=0.05 * OUTER_RATE, **QUIET
    ),
    "parle-decoupled": parle(decoupled=True, **QUIET),
}


# Each option in the row where it is least like the default, and both forms of the coupling.
FAST = ["replicated_sgd-nesterov-every_3-in_gradient", "replicated_sgd-plain-every_1-decoupled"]
FAST += ["couple_replicas-weights_only", "pull_to_center-matrices", "esgd-weights_only-decoupled"]
FAST += ["esgd-plain-in_gradient", "esgd-scaled_by_gamma", "esgd-scaled_by_rate"]


@pytest.mark.parametrize("row", only(FAST, OPTIONS))
@pytest.mark.claim("README.md", "to plain NumPy loops, in float64 to 1e-10")
def test_options(row):
    make, path = OPTIONS[row]
    assert departure(train_stack(make(replica_axis=0)), path(1.0)) < TOLERANCE


def test_opaque_mode():
    """One update a loop of five gradients: the parameters are then the anchors."""
    make, path = esgd(**ENTROPIC)
    tx = make(replica_axis=0, opaque_mode=True)
    loops = jax.tree.map(lambda x: x.reshape(OUTER_STEPS, INNER_STEPS, *x.shape[1:]), BATCHES)

    def step(carry, loop):
        params, state = carry
        grad_fn = lambda params, i: stacked_gradient(params, jax.tree.map(lambda x: x[i], loop))
        updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    anchors = jax.jit(lambda: jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), loops)[1])()
    assert departure(anchors, path(1.0)[INNER_STEPS - 1 :: INNER_STEPS]) < TOLERANCE


def test_scoping():
    """The library's own growth of gamma; a formula of the count, so in single precision."""
    path = replicated_sgd(**NESTEROV).path(1.0)
    scoping = flatjax.schedules.scoping(GAMMA[0], steps=STEPS, factor=1e4)
    tx = flatjax.replicated_sgd(schedule(RATE), scoping, replica_axis=0, **NESTEROV)
    assert departure(train_stack(tx), path) < 1e-6


# ------------------------------------------------------------------ the defaults of the paper

INNER_DEFAULTS = NESTEROV | {"inner_steps": 5, "weight_decay": 5e-4}
INNER_DEFAULTS |= {"averaging_decay": 0.75, "noise_scale": 1e-4}


def test_defaults_of_replicated_sgd():
    """Numbers for the learning rate and the coupling, and nothing else."""
    tx = flatjax.replicated_sgd(0.02, 0.3, replica_axis=0)
    row = replicated_sgd(rate=np.full(STEPS, 0.02), gamma=np.full(STEPS, 0.3), **NESTEROV)
    assert departure(train_stack(tx), row.path(1.0)) < TOLERANCE


def test_defaults_of_esgd():
    tx = flatjax.esgd(schedule(RATE), 0.3, key=SEED, replica_axis=0)
    outer = {"outer_rate": np.ones(OUTER_STEPS), "gamma": np.full(OUTER_STEPS, 0.3)}
    assert departure(train_stack(tx), esgd(**outer, **INNER_DEFAULTS).path(1.0)) < TOLERANCE


@pytest.mark.slow
def test_defaults_of_parle():
    gammas = schedule(OUTER_GAMMA), schedule(REPLICA_GAMMA)
    tx = flatjax.parle(schedule(RATE), *gammas, key=SEED, replica_axis=0)
    assert departure(train_stack(tx), parle(**INNER_DEFAULTS).path(1.0)) < TOLERANCE


# ------------------------------------------------------------------ averages along the way

AVERAGES = {
    "swa": ({"start": 20}, reference.equal_average),
    "swa_every_third": ({"start": 20, "period": 3}, reference.equal_average),
    "ema": ({"start": 20, "decay": 0.9}, reference.exponential_average),
}


@pytest.mark.parametrize("kind", ["swa_every_third", "ema", slow("swa")])
def test_average_params(kind):
    options, average = AVERAGES[kind]
    sgd = optax.sgd(schedule(RATE), momentum=0.9)
    tx = optax.chain(sgd, flatjax.average_params(**options))
    averages = train_stack(tx, read=lambda params, state: flatjax.eval_params(state, params))
    path = replicated_sgd(momentum=0.9).path(0.0)
    expected = together(average([w[a] for w in path], **options) for a in range(REPLICAS))
    since_start = jax.tree.map(lambda leaf: leaf[options["start"] :], averages)
    assert departure(since_start, expected) < TOLERANCE
