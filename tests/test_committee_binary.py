"""Committees of weights +-1: solutions, and their number against replicas and enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from fast import only, slow
from scipy.special import log_ndtr

from flatjax.committee._binary import (
    binary_bp,
    binary_focusing_bp,
    binary_reinforced_bp,
    pseudo_reinforcement,
)
from flatjax.committee._binary_amp import from_center
from flatjax.committee._binary_entropy import binary_entropy

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(200)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def random_data(seed, num_inputs, num_patterns, gaussian=False):
    x_key, y_key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(x_key, (num_patterns, num_inputs))
    y = jnp.sign(jax.random.normal(y_key, (num_patterns,)))
    return (x if gaussian else jnp.sign(x)), y


def num_errors(found, x, y):
    fields = np.asarray(x) @ np.asarray(found.weights).T
    return np.sum(np.where(fields < 0, -1, 1).sum(axis=1) * np.asarray(y) <= 0)


def replica_entropy(alpha):
    """Of the perceptron, replica symmetric: q = E tanh^2, q_hat from the patterns."""

    def hazard_squared(q):
        t = np.sqrt(q / (1 - q)) * NODES
        hazard = np.exp(-(t**2) / 2 - np.log(2 * np.pi) / 2 - log_ndtr(-t))
        return WEIGHTS @ hazard**2 / (1 - q)

    q = 0.0  # iterated from here: beyond an unstable fixed point lies q = 1, always one
    for _ in range(200):
        q = WEIGHTS @ np.tanh(np.sqrt(alpha * hazard_squared(q)) * NODES) ** 2
    q_hat = alpha * hazard_squared(q)
    entropic = WEIGHTS @ np.logaddexp(np.sqrt(q_hat) * NODES, -np.sqrt(q_hat) * NODES)
    energetic = WEIGHTS @ log_ndtr(-np.sqrt(q / (1 - q)) * NODES)
    return -q_hat * (1 - q) / 2 + entropic + alpha * energetic


def test_replica_entropy_vanishes_at_the_published_capacity():
    """0.833 [Krauth and Mezard, 1989]."""
    assert scipy.optimize.brentq(replica_entropy, 0.8, 0.87) == pytest.approx(0.833, abs=5e-4)


@pytest.mark.parametrize(("alpha", "gaussian"), [slow(0.25, False), slow(0.5, True)])
def test_entropy_of_perceptrons_against_replicas(alpha, gaussian):
    entropies = []
    for seed in range(10):
        x, y = random_data(seed, 800, round(alpha * 800), gaussian)
        found = binary_entropy(x, y, jax.random.key(seed))
        assert found.converged
        entropies.append(found.entropy)
    mean, sem = np.mean(entropies), np.std(entropies, ddof=1) / np.sqrt(10)
    assert sem < 0.006
    # 99.9% of Student's t with 9 degrees of freedom.
    assert abs(mean - replica_entropy(alpha)) < 4.8 * sem


@pytest.mark.parametrize(("num_units", "num_inputs"), [slow(1, 15), slow(3, 5)])
def test_entropy_of_small_committees_against_enumeration(num_units, num_inputs):
    """Of averages over samples: fields are not Gaussian at such sizes."""
    every = np.array(list(itertools.product([-1, 1], repeat=num_inputs)))
    counted, estimated = [], []
    for seed in range(12):
        x, y = random_data(seed, num_inputs, 4, gaussian=True)
        votes = np.where(every @ np.asarray(x).T < 0, -1, 1)  # (2^N, P)
        pairs = [np.array(c) for c in itertools.product(range(len(every)), repeat=num_units)]
        total = votes[np.array(pairs)].sum(axis=1) if num_units > 1 else votes
        right = np.all(total * np.asarray(y) > 0, axis=1).sum()
        found = binary_entropy(x, y, jax.random.key(seed), num_units=num_units)
        counted.append(np.log(right) / (num_units * num_inputs))
        estimated.append(found.entropy)
    assert np.mean(estimated) == pytest.approx(np.mean(counted), abs=0.02)
    assert np.corrcoef(estimated, counted)[0, 1] > 0.7


def count(x, y, num_units):
    """How many committees make no error; a field of 0 counts as positive."""
    every = np.array(list(itertools.product([-1, 1], repeat=x.shape[1])))
    votes, number = np.unique(np.where(every @ x.T < 0, -1, 1), axis=0, return_counts=True)
    total = 0
    for units in itertools.product(range(len(votes)), repeat=num_units):
        if np.all(votes[list(units)].sum(axis=0) * y > 0):
            total += np.prod(number[list(units)])
    return total


@pytest.mark.slow
def test_random_committees_converge_only_where_there_are_any():
    """Of 15 weights, which are not counted."""
    outcomes = []
    for seed in range(12):
        x, y = random_data(seed, 5, 10, gaussian=True)
        found = binary_entropy(x, y, jax.random.key(seed), num_units=3)
        outcomes.append((bool(found.converged), count(np.asarray(x), np.asarray(y), 3) > 0))
    assert (True, False) not in outcomes
    assert {(True, True), (False, False)} <= set(outcomes)


@pytest.mark.parametrize(
    ("num_inputs", "num_patterns", "num_units", "gaussian"),
    only(
        [(4, 5, 3, True)],
        [
            (*sizes, gaussian)
            for sizes in [(1, 3, 1), (2, 3, 1), (6, 4, 1), (9, 40, 1), (12, 5, 1), (4, 5, 3)]
            for gaussian in (False, True)
        ],
    ),
)
def test_small_committees_are_counted(num_inputs, num_patterns, num_units, gaussian):
    """Ties, contradictions and what no weights satisfy; by enumeration, of many instances."""
    data = [random_data(seed, num_inputs, num_patterns, gaussian) for seed in range(12)]
    x, y = (jnp.stack(parts) for parts in zip(*data, strict=True))
    keys = jax.random.split(jax.random.key(0), 12)
    solve = jax.vmap(functools.partial(binary_entropy, num_units=num_units))
    found = jax.tree.map(np.asarray, solve(x, y, keys))
    number = np.array([count(np.asarray(a), np.asarray(b), num_units) for a, b in data])
    np.testing.assert_array_equal(found.converged, number > 0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.entropy * num_inputs * num_units, np.log(number))
    assert np.isfinite(found.magnetization[found.converged]).all()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [slow(-1), 1])
def test_ties_are_counted_as_positive(sign):
    """Of an even number of weights; all labels are alike."""
    errors = []
    for seed in range(12):
        x, _ = random_data(seed, 14, 4)
        y = sign * np.ones(4)
        found = binary_entropy(x, y, jax.random.key(seed))
        assert found.converged
        errors.append(14 * found.entropy - np.log(count(np.asarray(x), y, 1)))
    # Without regard to ties it would be -0.9 and 1.4.
    assert abs(np.mean(errors)) < 0.3


@pytest.mark.parametrize(
    ("num_inputs", "num_patterns", "gaussian"),
    [slow(13, 60, False), slow(16, 60, True)],
)
def test_an_impossible_entropy_has_not_converged(num_inputs, num_patterns, gaussian):
    """Far beyond capacity there are no weights: whatever the messages say, they do not say so."""
    data = [random_data(seed, num_inputs, num_patterns, gaussian) for seed in range(10)]
    x, y = (jnp.stack(parts) for parts in zip(*data, strict=True))
    found = jax.vmap(binary_entropy)(x, y, jax.random.split(jax.random.key(0), 10))
    assert not found.converged.any()


@pytest.mark.slow
@pytest.mark.parametrize("num_units", [slow(1), 3])
def test_contradictory_patterns_have_not_converged(num_units):
    x, y = random_data(0, 101, 3)
    x, y = jnp.concatenate([x, x[:1]]), jnp.append(y, -y[0])
    found = binary_entropy(x, y, jax.random.key(0), num_units=num_units, max_iterations=5000)
    assert not found.converged


@pytest.mark.slow
def test_without_information_all_weights_count():
    x, y = random_data(0, 501, 1)
    found = binary_entropy(x, y, jax.random.key(0))
    assert found.entropy == pytest.approx(np.log(2) * (1 - 1 / 501), abs=1e-4)


@pytest.mark.parametrize(
    ("num_units", "num_inputs", "alpha", "gaussian"),
    [slow(1, 501, 0.6, False), slow(3, 167, 0.5, True)],
)
def test_reinforced_and_focusing_bp_solve_what_plain_bp_does_not(
    num_units, num_inputs, alpha, gaussian
):
    num_patterns = round(alpha * num_units * num_inputs)
    x, y = random_data(0, num_inputs, num_patterns, gaussian)
    key = jax.random.key(1)
    plain = binary_bp(x, y, key, num_units=num_units)
    assert not plain.solved
    gamma, num_replicas = pseudo_reinforcement(1000)
    found = [
        binary_reinforced_bp(x, y, key, num_units=num_units),
        binary_focusing_bp(x, y, key, num_units=num_units),
        binary_focusing_bp(x, y, key, num_units=num_units, gamma=gamma, num_replicas=num_replicas),
    ]
    for one in found:
        assert one.solved
        assert one.iterations < 1000
        assert one.weights.shape == (num_units, num_inputs)
        assert set(np.unique(one.weights)) == {-1.0, 1.0}
    for one in (plain, *found):
        assert num_errors(one, x, y) == one.num_errors
        assert one.train_error == pytest.approx(one.num_errors / num_patterns)


@pytest.mark.slow
def test_focusing_without_coupling_or_other_replicas_is_plain_bp():
    x, y = random_data(0, 201, 80)
    key = jax.random.key(1)
    plain = binary_bp(x, y, key, max_iterations=1000, tolerance=0.0)
    for kwargs in ({"gamma": 0.0}, {"num_replicas": 1}):
        found = binary_focusing_bp(x, y, key, **kwargs)
        np.testing.assert_array_equal(found.magnetization, plain.magnetization)
    reinforced = binary_reinforced_bp(x, y, key, reinforcement=0.0)
    np.testing.assert_array_equal(reinforced.magnetization, plain.magnetization)


def test_message_of_the_center():
    """Against a sum over the values of the centre and of the other replicas."""
    gamma, b = 0.7, np.array([-2.0, -0.1, 0.0, 0.6, 5.0])
    log_odds = np.zeros_like(b)
    for sign in (-1, 1):
        centers = np.array([-1.0, 1.0])
        # y = 4: three others, each summed over its own values, for each value of the centre.
        others = np.logaddexp(gamma * centers[:, None] + b, -gamma * centers[:, None] - b)
        weight = np.logaddexp.reduce(3 * others + gamma * sign * centers[:, None], axis=0)
        log_odds += sign * weight / 2
    np.testing.assert_allclose(from_center(b, gamma, 3.0), log_odds, atol=1e-5)
    np.testing.assert_allclose(from_center(b, np.inf, 3.0), 3 * b, rtol=1e-6)
    huge = from_center(jnp.array([-1e4, 1e4]), 1.5, 6.0)
    np.testing.assert_allclose(huge, [-1.5, 1.5], rtol=1e-6)


def two_instances():
    x, y = (
        jnp.stack(parts) for parts in zip(*[random_data(s, 101, 40) for s in (0, 1)], strict=True)
    )
    return x, y, jax.random.split(jax.random.key(2), 2)


@pytest.mark.slow
def test_vmap_over_instances():
    x, y, keys = two_instances()
    # Few iterations: rounding, which differs, grows later.
    solver = functools.partial(binary_reinforced_bp, max_iterations=10)
    together, alone = jax.vmap(solver)(x, y, keys), solver(x[1], y[1], keys[1])
    np.testing.assert_allclose(together.magnetization[1], alone.magnetization, atol=1e-4)


@pytest.mark.slow
def test_vmap_over_instances_of_the_entropy():
    x, y, keys = two_instances()
    together, alone = jax.vmap(binary_entropy)(x, y, keys), binary_entropy(x[1], y[1], keys[1])
    np.testing.assert_allclose(together.entropy[1], alone.entropy, atol=1e-6)


@pytest.mark.slow
def test_impossible_labels_are_not_solved():
    x, y = random_data(0, 101, 20)
    x, y = x.at[1].set(x[0]), y.at[1].set(-y[0])
    for solver in (binary_bp, binary_reinforced_bp, binary_focusing_bp):
        found = solver(x, y, jax.random.key(0), max_iterations=200)
        assert not found.solved
        assert found.num_errors >= 1
        assert np.isfinite(found.magnetization).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.ones(4)}, "x must have shape"),
        ({"y": np.ones(2)}, "y must have shape"),
        ({"y": np.zeros(3)}, "y must hold labels"),
        ({"x": np.full((3, 4), np.nan)}, "x must be finite"),
        ({"num_units": 2}, "num_units must be odd"),
        ({"max_iterations": 0}, "max_iterations must be"),
        ({"damping": 1.0}, "damping must be"),
    ],
)
@pytest.mark.parametrize(
    "solver", [binary_bp, binary_reinforced_bp, binary_focusing_bp, binary_entropy]
)
def test_bad_input_is_named(solver, changed, message):
    given = {"x": np.ones((3, 4)), "y": np.ones(3), "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=message):
        solver(**(given | changed))


def test_patterns_without_a_class_are_named():
    for bad in (0.0, np.nan):
        x = np.ones((3, 4))
        x[1] = bad
        with pytest.raises(ValueError, match="x must"):
            binary_entropy(x, np.ones(3), jax.random.key(0))


def test_solved_is_what_whole_numbers_say():
    """Half of the patterns have ties: fields that are 0, and not just a rounding error."""
    x, y = random_data(0, 10, 12)
    for seed in range(20):
        found = binary_bp(x, y, jax.random.key(seed), max_iterations=1)
        assert num_errors(found, x, y) == found.num_errors


def test_bad_schedules_are_named():
    x, y, key = np.ones((3, 4)), np.ones(3), jax.random.key(0)
    with pytest.raises(ValueError, match="gamma must be"):
        binary_focusing_bp(x, y, key, gamma=lambda t: -t)
    with pytest.raises(ValueError, match="num_replicas must be"):
        binary_focusing_bp(x, y, key, num_replicas=0.5)
    with pytest.raises(ValueError, match="reinforcement must be"):
        binary_reinforced_bp(x, y, key, reinforcement=1.5)
    with pytest.raises(ValueError, match="tolerance must be"):
        binary_entropy(x, y, key, tolerance=-1.0)
    with pytest.raises(TypeError, match="num_iterations must be"):
        pseudo_reinforcement(2.5)


@pytest.mark.slow
def test_experiment_is_resumed_tabulated_and_drawn(tmp_path, monkeypatch):
    from experiments.studies.committee import binary as experiment

    monkeypatch.setattr(experiment, "GRIDS", {(1, 51): (0.3,)})
    monkeypatch.setattr(experiment, "ITERATIONS", 100)
    with pytest.raises(ValueError, match="out"):
        experiment.run_binary(tmp_path / "nothing", simulate=False)
    text = experiment.run_binary(tmp_path, seeds=2)
    lines = (tmp_path / "binary.jsonl").read_text()
    assert lines.count("\n") == 2
    assert experiment.run_binary(tmp_path, seeds=2) == text
    assert (tmp_path / "binary.jsonl").read_text() == lines
    assert (tmp_path / "binary.png").stat().st_size > 0
    assert text.count("| perceptron, N = 51 ") == len(experiment.SOLVERS)
    assert (tmp_path / "binary.md").read_text() == text + "\n"
