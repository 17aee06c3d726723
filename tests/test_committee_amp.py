"""Message passing: against loops in NumPy, replicas, counting, and where it must not break."""

import functools
import itertools

import gardner
import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from fast import slow

from flatjax.committee import error
from flatjax.committee._amp import amp, majority_in_chunks
from flatjax.committee._channel import majority


def instance(seed, num_patterns, num_inputs, num_units, correlated=False):
    """Patterns with labels by a teacher, and the teacher."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_patterns, num_inputs))
    if correlated:
        x = x + 2 * rng.standard_normal((num_patterns, 1)) * rng.standard_normal(num_inputs)
    teacher = rng.standard_normal((num_units, num_inputs))
    teacher /= np.sqrt(np.mean(teacher**2, axis=1, keepdims=True))
    return x, np.sign(np.sign(x @ teacher.T).sum(axis=1)), teacher


@functools.cache
def log_fraction(seed, num_patterns, num, num_units, correlated, overlap, num_samples=200_000):
    """Log of the share of error-free weights at an overlap, by drawing them; its standard error."""
    x, y, reference = instance(seed, num_patterns, num, num_units, correlated)
    rng, hits = np.random.default_rng(5), 0
    for _ in range(num_samples // 20_000):
        z = rng.standard_normal((20_000, num_units, num))
        z -= np.sum(z * reference, axis=-1, keepdims=True) * reference / num
        z *= np.sqrt(num * (1 - overlap**2) / np.sum(z**2, axis=-1, keepdims=True))
        votes = np.sign((overlap * reference + z) @ x.T).sum(axis=1)
        hits += np.sum(np.all(votes * y > 0, axis=1))
    return np.log(hits / num_samples), np.sqrt((1 - hits / num_samples) / hits)


def brute_channel(mean, variance):
    """Log Z, g, Gamma of one pattern, by the sum over votes and its derivatives."""
    s = mean / np.sqrt(variance)
    q, density = scipy.special.ndtr(s), np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi * variance)
    z, dz, ddz = 0.0, np.zeros(len(s)), np.zeros(len(s))
    for votes in itertools.product([0, 1], repeat=len(s)):
        if 2 * sum(votes) < len(s):
            continue
        factors = [q[k] if vote else 1 - q[k] for k, vote in enumerate(votes)]
        z += np.prod(factors)
        for k, vote in enumerate(votes):
            others = np.prod(factors[:k] + factors[k + 1 :]) * (1 if vote else -1)
            dz[k] += others * density[k]
            ddz[k] -= others * density[k] * mean[k] / variance[k]
    return np.log(z), dz / z, (dz / z) ** 2 - ddz / z


def multipliers(a, b, reference, overlap):
    """Lambda and gamma of one unit by a root finder."""
    num = len(a)

    def gamma_of(lam):
        v = 1 / (lam + a)
        return (overlap * num - np.sum(reference * b * v)) / np.sum(reference**2 * v)

    def excess(log_excess):
        lam = np.exp(log_excess) - a.min()
        v = 1 / (lam + a)
        return np.sum(v + (v * (b + gamma_of(lam) * reference)) ** 2) - num

    lam = np.exp(scipy.optimize.brentq(excess, -30, 30, xtol=1e-15, rtol=1e-15)) - a.min()
    return lam, gamma_of(lam)


def amp_in_loops(x, y, reference, overlap, damping, iterations):
    """The equations index by index; mean, variance and phi."""
    num_patterns, num = x.shape
    units = range(len(reference))
    u = y[:, None] * x / np.sqrt(num)
    m, v = overlap * reference, np.full(reference.shape, 1 - overlap**2)
    g, gam = np.zeros((num_patterns, len(units))), np.zeros((num_patterns, len(units)))

    def channel(g):
        out = []
        for mu in range(num_patterns):
            var = np.array([np.sum(u[mu] ** 2 * v[k]) for k in units])
            field = np.array([np.sum(u[mu] * m[k]) for k in units])
            cavity = field - var * g[mu]
            out.append((*brute_channel(cavity, var), cavity, var, field))
        return [np.array(part) for part in zip(*out, strict=True)]

    def sums(k):
        a = np.array([np.sum(u[:, i] ** 2 * gam[:, k]) for i in range(num)])
        return a, np.array([np.sum(u[:, i] * g[:, k]) for i in range(num)]) + m[k] * a

    for _ in range(iterations):
        _, new_g, new_gam, *_ = channel(g)
        g = damping * g + (1 - damping) * new_g
        gam = damping * gam + (1 - damping) * new_gam
        new_m, new_v = np.empty_like(m), np.empty_like(v)
        for k in units:
            a, b = sums(k)
            lam, gamma = multipliers(a, b, reference[k], overlap)
            new_v[k] = 1 / (lam + a)
            new_m[k] = new_v[k] * (b + gamma * reference[k])
        m, v = damping * m + (1 - damping) * new_m, damping * v + (1 - damping) * new_v

    log_z, _, _, cavity, var, field = channel(g)
    entropy = np.sum(log_z) + np.sum((cavity - field) ** 2 / (2 * var))
    for k in units:
        a, b = sums(k)
        lam, gamma = multipliers(a, b, reference[k], overlap)
        entropy += np.sum(
            np.log(2 * np.pi / (lam + a)) / 2
            + (b + gamma * reference[k]) ** 2 / (2 * (lam + a))
            + a * (v[k] + m[k] ** 2) / 2
            - b * m[k]
        )
        entropy += lam * num / 2 - gamma * overlap * num
    free = (np.log(2 * np.pi) + 1 + np.log(1 - overlap**2)) / 2
    return m, v, entropy / m.size - free


def test_against_loops():
    x, y, teacher = instance(0, 12, 20, 3)
    expected = amp_in_loops(x, y, teacher, 0.7, 0.8, 60)
    found = amp(x, y, reference=teacher, overlap=0.7, max_iterations=60, tolerance=1e-300)
    assert found.iterations == 60
    for ours, theirs in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [slow(0.5), slow(1.0)])
def test_against_replicas_around_a_teacher(alpha):
    overlaps = [0.5, 0.95]
    instances = [instance(seed, int(400 * alpha), 400, 1) for seed in range(12)]
    found = [amp(x, y, reference=teacher, overlap=overlaps) for x, y, teacher in instances]
    assert all(result.converged.all() for result in found)
    for phi, overlap in zip(np.transpose([result.phi for result in found]), overlaps, strict=True):
        assert_mean(phi, gardner.around_teacher(alpha, overlap))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [slow(0.5), 1.0])
def test_against_the_volume_of_gardner(alpha):
    draw = lambda seed: np.random.default_rng(100 + seed).choice([-1, 1], int(400 * alpha))
    found = [amp(instance(seed, int(400 * alpha), 400, 1)[0], draw(seed)) for seed in range(12)]
    assert all(result.converged for result in found)
    assert_mean(np.array([result.phi for result in found]), gardner.volume(alpha))


def assert_mean(phi, expected):
    """Within three standard errors of a mean over samples, which are not to be large themselves."""
    standard_error = phi.std(ddof=1) / np.sqrt(len(phi))
    assert standard_error < 0.025 * abs(expected) + 0.002
    assert abs(phi.mean() - expected) < 3 * standard_error


def test_gardner_reference_values():
    """Of an independent implementation."""
    assert gardner.volume(0.25) == pytest.approx(-0.1802624, abs=1e-7)
    assert gardner.volume(1.0) == pytest.approx(-0.8558206, abs=1e-7)
    assert gardner.around_teacher(2.0, 0.95) == pytest.approx(-0.2506554, abs=1e-7)


# Units, inputs, patterns, overlap; how far from 200,000 draws AMP may be, relatively: it is not
# exact at such sizes.
SMALL = [(1, 20, 10, 0.7, 0.08), (1, 20, 10, 0.9, 0.08)]
SMALL += [slow(3, 30, 20, 0.9, 0.05)]


@pytest.mark.slow
@pytest.mark.parametrize(("num_units", "num", "num_patterns", "overlap", "tolerance"), SMALL)
def test_against_counting(num_units, num, num_patterns, overlap, tolerance):
    x, y, teacher = instance(0, num_patterns, num, num_units)
    expected, standard_error = log_fraction(0, num_patterns, num, num_units, False, overlap)
    found = amp(x, y, reference=teacher, overlap=overlap).phi * teacher.size
    assert found == pytest.approx(expected, abs=3 * standard_error + tolerance * abs(expected))


@pytest.mark.slow
def test_points_are_those_solved_alone():
    x, y, teacher = instance(0, 12, 20, 3)
    references = np.stack([teacher, teacher + 0.1])
    found = amp(x, 1.0 * y, reference=5 * references, overlap=np.array([[0.7], [0.9], [-0.2]]))
    assert found.phi.shape == (3, 2)
    assert found.mean.shape == found.variance.shape == (3, 2, 3, 20)
    alone = amp(x, y, reference=references[1], overlap=0.9)
    for many, one in zip(found, alone, strict=True):
        np.testing.assert_allclose(many[1, 1], one, rtol=1e-9, atol=1e-12)
    # What was asked for: norms and overlaps on average, and errors as defined.
    square = np.mean(found.variance + found.mean**2, axis=-1)
    np.testing.assert_allclose(square[found.converged], 1, rtol=1e-5)
    np.testing.assert_allclose(np.mean(alone.mean * references[1], axis=1), 0.9 * norms(references))
    assert found.train_error[2, 1] == pytest.approx(float(error(found.mean[2, 1], x, y)))


def norms(references):
    return np.sqrt(np.mean(references[1] ** 2, axis=-1))


@pytest.mark.slow
def test_chunks_of_patterns():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        fields = rng.standard_normal((1, 2500)), rng.uniform(0.1, 1.0, (1, 2500))
        found, expected = jax.jit(majority_in_chunks)(*fields), jax.jit(majority)(*fields)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13)


@pytest.mark.slow
def test_one_pattern_halves_the_sphere():
    """At every overlap with a reference that is orthogonal to it."""
    x, teacher = np.tile([[1.0, -1.0]], (1, 250)), np.ones((1, 500))
    found = amp(x, [1], reference=teacher, overlap=[0.0, 0.9])
    np.testing.assert_allclose(found.phi * 500, np.log(0.5), atol=2e-3)


def degenerate(num):
    """Constant pixels, and patterns that come twice."""
    x, y, teacher = instance(0, num // 2, 20, 3)
    x = np.where(np.arange(20) < 10, x, 0.0)
    y = np.sign(np.sign(x @ teacher.T).sum(axis=1))
    return np.tile(x, (2, 1)), np.tile(y, 2), teacher


def test_degenerate_data():
    x, y, teacher = degenerate(12)
    found = amp(x, y, reference=teacher, overlap=0.9)
    assert found.converged
    assert all(np.all(np.isfinite(values)) for values in found)


def test_too_few_iterations_are_told():
    x, y, teacher = instance(0, 12, 20, 3)
    found = amp(x, y, reference=teacher, overlap=0.7, max_iterations=7)
    assert found.iterations == 7
    assert found.residual > 1e-6
    assert not found.converged


GOOD = {"x": np.eye(3), "y": [1, -1, 1], "reference": np.ones((1, 3)), "overlap": 0.5}
BAD = [
    ({"x": np.ones(3)}, "x must have shape"),
    ({"x": np.ones((3, 2)), "reference": np.ones((1, 2))}, "x must have at least 3 inputs, got 2"),
    (
        {"x": np.ones((3, 1)), "reference": None, "overlap": None},
        "x must have at least 2 inputs, got 1: a unit has only two weights on the sphere",
    ),
    ({"x": np.full((3, 3), np.nan)}, "x must be finite"),
    ({"x": np.diag([1.0, 0.0, 1.0])}, "x must hold no pattern that is 0"),
    ({"y": [1, -1]}, "y must have shape"),
    ({"y": [0, 1, 1]}, "y must hold labels"),
    ({"reference": None}, "reference and overlap must be given together"),
    ({"overlap": None}, "reference and overlap must be given together"),
    ({"reference": np.ones((1, 4))}, "reference must have shape"),
    ({"reference": np.ones((2, 3))}, "number of units of reference must be odd"),
    ({"reference": np.zeros((1, 3))}, "reference must hold units that are finite"),
    ({"num_units": 3}, "num_units is 3"),
    ({"reference": None, "overlap": None, "num_units": 2}, "num_units must be odd"),
    ({"overlap": 1.0}, "overlap must be strictly between"),
    ({"overlap": np.nan}, "overlap must be strictly between"),
    ({"overlap": [0.5, 0.6, 0.7], "reference": np.ones((2, 1, 3))}, "overlap must broadcast"),
    ({"damping": 1.0}, "damping must be"),
    ({"max_iterations": 0}, "max_iterations must be"),
    ({"tolerance": 0.0}, "tolerance must be"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_errors_name_the_argument(change, message):
    arguments = GOOD | change
    with pytest.raises(ValueError, match=message):
        amp(arguments.pop("x"), arguments.pop("y"), **arguments)
