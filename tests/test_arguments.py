"""Numbers, counts and seeds as arguments: what would be taken for another number is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only

import flatjax
from flatjax import committee, data, flatness, gaussian_mixture
from flatjax.gaussian_mixture import simulate

EVAL = lambda params, batch: {"loss": jnp.sum(params**2), "count": len(batch)}
X, Y = np.sign(np.random.default_rng(0).standard_normal((4, 15))), np.ones(4)
SCHEDULE = lambda count: 0.1

NUMBERS = {
    "averaging_decay": lambda value: flatjax.esgd(0.1, 0.1, averaging_decay=value),
    "noise_scale": lambda value: flatjax.esgd(0.1, 0.1, noise_scale=value),
    "decay": lambda value: flatjax.average_params(decay=value),
    "init_value": lambda value: flatjax.schedules.scoping(value, 10),
    "rho": lambda value: flatness.sam_sharpness(EVAL, rho=value),
    "step_size": lambda value: flatness.worst_case_sharpness(EVAL, rho=1.0, step_size=value),
    "target_sem": lambda value: flatness.local_energy(EVAL, target_sem=value),
    "threshold": lambda value: flatness.log_fraction_direct(EVAL, distances=[1.0], threshold=value),
    "target_rise": lambda value: flatness.pac_bayes_sigma(EVAL, target_rise=value),
    "width": lambda value: flatness.spectral_density(flatness.hessian_operator(EVAL), width=value),
    "confidence": lambda value: flatness.rank_solutions([1, 2, 3], [1, 2, 3], confidence=value),
    "damping": lambda value: committee.amp(X, Y, damping=value),
    "tolerance": lambda value: committee.binary_bp(X, Y, 0, tolerance=value),
    "beta": lambda value: simulate.add_thermal_noise(0.1, value, 0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_schedules_are_refused_where_numbers_are_meant(name):
    with pytest.raises(TypeError, match=f"{name} must be a real number, got <function"):
        NUMBERS[name](SCHEDULE)


def test_schedules_are_taken_where_optax_takes_them():
    flatjax.replicated_sgd(SCHEDULE, SCHEDULE, weight_decay=SCHEDULE, replica_axis=0)
    flatjax.pull_to_center(SCHEDULE, SCHEDULE, replica_axis=0)
    flatjax.parle(SCHEDULE, SCHEDULE, SCHEDULE, replica_axis=0)
    flatjax.sam(optax.sgd(0.1), SCHEDULE)


TRACED = {
    "blend": lambda value: flatjax.diloco(
        optax.sgd(0.1), optax.sgd(1.0), 2, replica_axis=0, blend=value
    ),
    "initial": lambda value: flatjax.schedules.meeting(0.1, 10, initial=value),
}


@pytest.mark.parametrize("name", TRACED)
def test_traced_values_are_refused_where_numbers_are_needed(name):
    def use(value):
        TRACED[name](value)
        return value

    with pytest.raises(TypeError, match=f"{name} must be a number that is not traced, .*static_ar"):
        jax.eval_shape(use, 0.5)


COUNTS = {
    "period": lambda count: flatjax.couple_replicas(1.0, replica_axis=0, period=count),
    "inner_steps": lambda count: flatjax.esgd(0.1, 0.1, inner_steps=count),
    "start": lambda count: flatjax.average_params(start=count),
    "steps": lambda count: flatjax.schedules.scoping(1.0, count),
    "num_samples": lambda count: flatness.local_energy(EVAL, num_samples=count),
    "max_iterations": lambda count: committee.amp(X, Y, max_iterations=count),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_no_counter_reaches_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be <= 2147483647, got 1099511627776"):
        COUNTS[name](2**40)


def around_first_unit(sample):
    given = {"reference": np.ones((1, 15)), "overlap": 0.5}
    return lambda key: sample(key, X, Y, **given)


TREE = np.zeros(2, np.float32)
SEEDED = {
    "esgd": lambda key: flatjax.esgd(0.1, 0.1, key=key).init(TREE).key,
    "langevin_noise": lambda key: flatjax.langevin_noise(key, TREE, 0.1, 0.1),
    "random_direction": lambda key: flatness.random_direction(jnp.ones((2, 2)), key),
    "binary_bp": lambda key: committee.binary_bp(X, Y, key, max_iterations=1).magnetization,
    "binary_entropy": lambda key: (
        committee.binary_entropy(X, Y, key, max_iterations=1).magnetization
    ),
    "belief_propagation": lambda key: (
        committee.belief_propagation(X, Y, key, max_iterations=1).weights
    ),
    "direct_log_fraction": lambda key: (
        around_first_unit(committee.direct_log_fraction)(key).log_fraction
    ),
    "sample": lambda key: gaussian_mixture.sample(key, 4, alpha=1.0, delta=1.0).x,
}


@pytest.mark.parametrize("name", only(["langevin_noise", "random_direction", "sample"], SEEDED))
def test_seeds_are_keys(name):
    """Of 64 bits: none is another's."""
    draw = lambda key: jax.tree.map(np.asarray, SEEDED[name](key))
    same = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, draw(a), draw(b)))
    assert same(3, jax.random.key(3))
    assert not same(2**40 + 3, 3)
    with pytest.raises(TypeError, match="key must be a random key or an integer seed, got True"):
        SEEDED[name](True)
    for seed in (2**63, np.array(2**63, np.uint64)):
        with pytest.raises(ValueError, match="key must be a seed of 64 bits"):
            SEEDED[name](seed)


def test_seeds_of_data_may_be_larger_than_counts():
    split = data.Split(np.zeros((9, 2, 2, 1), np.uint8), np.arange(9, dtype=np.int32))
    assert not np.array_equal(data.subset(split, 5, 2**40).label, data.subset(split, 5, 0).label)
