"""Local entropy of committees by sampling: against counting, replicas, and other samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flatjax.committee._model import fields, to_sphere
from flatjax.committee._sampling import direct_log_fraction, sample_log_fraction
from flatjax.flatness._local_entropy import local_entropy
from flatjax.flatness.priors import fixed_overlap

# Errors between 8 chains follow Student's t with 7 degrees of freedom: 99.9% of it.
LIMIT = scipy.stats.t(7).ppf(0.9995)
OVERLAPS = np.array([0.5, 0.9])
# Solved by quadrature of the replica equations at infinite size: (alpha, p) -> Phi.
REPLICA = {(0.5, 0.5): -0.21698753, (0.5, 0.95): -0.06116236}


def teacher_data(seed, num_units, num_inputs, num_patterns, correlated=False):
    """Patterns, the labels that a reference gives them, and the reference."""
    x_key, w_key, mix_key = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(x_key, (num_patterns, num_inputs))
    if correlated:
        x = x @ jax.random.normal(mix_key, (num_inputs, num_inputs)) / np.sqrt(num_inputs) + 0.3
        x = x.at[:, ::7].set(0.0)  # pixels that are constant
    reference = jax.random.normal(w_key, (num_units, num_inputs))
    y = jnp.where(jnp.where(fields(reference, x) < 0, -1, 1).sum(-1) < 0, -1, 1)
    return x, y, reference


@pytest.fixture(scope="module")
def committee():
    return teacher_data(0, num_units=3, num_inputs=30, num_patterns=20, correlated=True)


@pytest.fixture(scope="module")
def sampled(committee):
    return sample_log_fraction(
        jax.random.key(1), *committee, overlap=OVERLAPS, num_steps=60, num_warmup=40
    )


def z_score(a, b):
    error = np.hypot(a.log_fraction_sem, b.log_fraction_sem)
    return np.abs(a.log_fraction - b.log_fraction) / error


@pytest.mark.slow
def test_direct_sampling_of_one_pattern_is_exact():
    x, _, reference = teacher_data(1, num_units=1, num_inputs=10, num_patterns=1)
    overlap = np.array([[-0.5, 0.0], [0.5, 0.9]])
    found = direct_log_fraction(
        jax.random.key(0), x, [-1], reference, overlap=overlap, num_samples=20_000
    )
    along = float((x @ reference[0])[0] / jnp.linalg.norm(reference))
    across = np.sqrt(float(x[0] @ x[0]) - along**2)
    cosine = -overlap * along / (np.sqrt(1 - overlap**2) * across)
    # The component of a unit vector of 9 dimensions: (1 + t)/2 has a beta distribution.
    exact = np.where(np.abs(cosine) < 1, scipy.special.betainc(4, 4, (1 + cosine) / 2), np.nan)
    assert found.log_fraction.shape == found.hits.shape == overlap.shape
    known = ~np.isnan(exact)
    assert known.sum() >= 3
    z = (found.log_fraction - np.log(exact)) / found.log_fraction_sem
    assert (np.abs(z[known]) < 4).all()
    np.testing.assert_allclose(found.phi, found.log_fraction / 10)


@pytest.mark.slow
def test_direct_sampling_is_uniform():
    """The mean number of errors, drawn by NumPy."""
    overlap, (x, y, reference) = 0.95, teacher_data(5, 9, num_inputs=60, num_patterns=30)
    found = direct_log_fraction(
        jax.random.key(0), x, y, reference, overlap=overlap, num_samples=20_000,
    )  # fmt: skip
    axes = np.asarray(reference) / np.linalg.norm(reference, axis=1, keepdims=True)
    noise = np.random.default_rng(0).normal(size=(20_000, 9, 60)).astype(np.float32)
    noise -= np.sum(noise * axes, axis=-1, keepdims=True) * axes
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    votes = np.sign((overlap * axes + np.sqrt(1 - overlap**2) * noise) @ np.asarray(x).T).sum(1)
    energy = np.sum(votes * np.asarray(y) < 0, axis=1)
    error = energy.std() * np.sqrt(2 / 20_000)
    assert error < 0.02
    assert abs(found.energy - energy.mean()) < 4 * error


@pytest.mark.slow
def test_both_ways_agree_on_a_small_perceptron():
    data = teacher_data(2, num_units=1, num_inputs=12, num_patterns=8)
    found = sample_log_fraction(
        jax.random.key(1), *data, overlap=OVERLAPS, num_steps=60, num_warmup=40
    )
    direct = direct_log_fraction(jax.random.key(3), *data, overlap=OVERLAPS, num_samples=20_000)
    assert (direct.hits >= 10).all()
    assert found.converged.all()
    assert (z_score(direct, found) < LIMIT).all()


@pytest.mark.slow
def test_both_ways_agree_where_both_work(committee, sampled):
    """On correlated patterns with constant pixels."""
    direct = direct_log_fraction(
        jax.random.key(3), *committee, overlap=OVERLAPS, num_samples=100_000
    )
    enough = direct.hits >= 10
    assert enough.any()
    assert sampled.converged.all()
    assert (z_score(direct, sampled)[enough] < LIMIT).all()


@pytest.mark.slow
def test_seeds_agree_beyond_direct_sampling():
    """Some 26 nats deep."""
    data = teacher_data(3, num_units=1, num_inputs=60, num_patterns=60)
    sample = lambda k: sample_log_fraction(
        jax.random.key(k), *data, overlap=0.5, num_steps=60, num_warmup=40
    )
    found = [sample(1), sample(2)]
    direct = direct_log_fraction(jax.random.key(4), *data, overlap=0.5, num_samples=2000)
    assert direct.hits == 0
    assert np.isnan(direct.phi)
    assert z_score(*found) < LIMIT
    for one in found:
        assert one.r_hat < 1.1
        assert one.log_fraction < -25
        assert one.log_fraction_sem < 0.4
        np.testing.assert_allclose(one.integrated, one.log_fraction, atol=0.4)


@pytest.mark.slow
def test_agrees_with_small_random_steps(committee, sampled):
    """An independent sampler, by Crank-Nicolson steps."""
    x, y, reference = committee

    def eval_fn(weights, batch):
        votes = jnp.sign(batch["x"] @ weights.T).sum(-1)
        return {"error": jnp.sum(votes * batch["y"] < 0), "count": len(batch["y"])}

    measure = local_entropy(
        eval_fn,
        distances=1 - OVERLAPS[:1],
        betas=[0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0],
        threshold=0.0,
        prior=fixed_overlap(axis=-1),
        num_steps=3000,
    )
    found = measure(to_sphere(reference), [{"x": x, "y": y}], jax.random.key(5))
    error = np.hypot(found.log_fraction_sem, sampled.log_fraction_sem[:1])
    assert (error < 0.2).all()
    difference = np.abs(found.log_fraction - sampled.log_fraction[:1])
    assert (difference < LIMIT * error).all()


@pytest.mark.slow
def test_perceptron_with_a_teacher_against_replicas():
    phis = []
    for seed in range(6):
        data = teacher_data(seed, num_units=1, num_inputs=60, num_patterns=30)
        found = sample_log_fraction(
            jax.random.key(seed), *data, overlap=[0.5, 0.95], num_steps=30, num_warmup=20
        )  # short chains: samples of the data differ by more
        phis.append(found.phi)
    mean, sem = np.mean(phis, axis=0), np.std(phis, axis=0, ddof=1) / np.sqrt(6)
    assert (sem < 0.02).all()
    theory = np.array([REPLICA[0.5, 0.5], REPLICA[0.5, 0.95]])
    assert (np.abs(mean - theory) < 6.9 * sem).all()  # as above, 5 degrees of freedom


@pytest.mark.slow
def test_contradictory_labels_have_no_phi():
    x, y, reference = teacher_data(0, num_units=1, num_inputs=60, num_patterns=30)
    x, y = x.at[1].set(x[0]), y.at[1].set(-y[0])
    found = sample_log_fraction(
        jax.random.key(0), x, y, reference, overlap=[0.5, 0.95], num_steps=30, num_warmup=20
    )
    direct = direct_log_fraction(jax.random.key(0), x, y, reference, overlap=0.95, num_samples=500)
    for one in (found, direct):
        assert np.isnan(one.phi).all()
        assert np.isnan(one.phi_sem).all()
    assert (found.share == 0).all()
    assert not found.converged.any()
    assert direct.hits == 0
    assert direct.energy >= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.ones(4)}, "x must have shape"),
        ({"x": np.full((3, 4), np.nan)}, "x must be finite"),
        ({"x": np.ones((3, 1)), "reference": np.ones((1, 1))}, "x must have at least 2 inputs"),
        ({"y": [1, -1]}, "y must have shape"),
        ({"y": [1, 0, 1]}, "y must hold labels"),
        ({"reference": np.ones((2, 4))}, "reference must have shape"),
        ({"reference": np.ones((1, 5))}, "reference must have shape"),
        ({"reference": np.zeros((1, 4))}, "reference must hold"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"overlap": []}, "overlap must be"),
    ],
)
@pytest.mark.parametrize("measure", [direct_log_fraction, sample_log_fraction])
def test_bad_input_is_named(measure, changed, message):
    given = {"x": np.ones((3, 4)), "y": [1, -1, 1], "reference": np.ones((1, 4)), "overlap": 0.5}
    with pytest.raises(ValueError, match=message):
        measure(jax.random.key(0), **(given | changed))


def test_chains_need_room():
    """At two inputs there are two weights at an overlap, and no way from one to the other."""
    x, y, reference = np.array([[1.0, 0.5]]), [1], np.array([[1.0, 1.0]])
    found = direct_log_fraction(jax.random.key(0), x, y, reference, overlap=0.0, num_samples=500)
    assert abs(found.log_fraction - np.log(0.5)) < 4 * found.log_fraction_sem
    with pytest.raises(ValueError, match="x must have at least 3 inputs, got 2"):
        sample_log_fraction(jax.random.key(0), x, y, reference, overlap=0.0)


@pytest.mark.parametrize(
    "bad", [{"largest_beta": 0.0}, {"num_betas": 1}, {"num_chains": 1}, {"duration": -1.0}]
)
def test_bad_sizes_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        sample_log_fraction(
            jax.random.key(0), np.ones((3, 4)), [1, -1, 1], np.ones((1, 4)), overlap=0.5, **bad
        )
