"""Local entropy by sampling, on problems whose volumes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from fast import slow

from flatjax.flatness import priors
from flatjax.flatness._local_entropy import local_entropy
from flatjax.flatness._log_fraction import log_fraction_direct
from flatjax.flatness._surroundings import Landscape

KEY = jax.random.key(0)
NUM_PATTERNS, NUM_INPUTS = 6, 8
BETAS = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
# Errors between 8 chains follow Student's t with 7 degrees of freedom: 99.9% of it.
LIMIT = scipy.stats.t(7).ppf(0.9995)


def perceptron(params, batch):
    margin = batch["label"] * (batch["x"] @ params)
    return {"error": jnp.sum(margin <= 0), "count": len(margin)}


@pytest.fixture(scope="module")
def orthogonal_patterns():
    """Under additive noise each pattern is right or wrong on its own."""
    x = scipy.stats.ortho_group.rvs(NUM_INPUTS, random_state=1)[:NUM_PATTERNS]
    label = np.where(np.arange(NUM_PATTERNS) % 2, 1.0, -1.0)
    return {"x": jnp.asarray(x), "label": jnp.asarray(label)}


@pytest.fixture(scope="module")
def measure_perceptron():
    return local_entropy(
        perceptron,
        distances=[1.0],
        betas=BETAS,
        threshold=0,
        num_chains=8,
        num_steps=300,
        num_warmup=100,
    )


def exact(margins, distance=1.0):
    """F(beta) and log P(E = 0) where the fields are normal and independent."""
    right = scipy.stats.norm.cdf(np.asarray(margins) / distance)
    log_volume = np.log(right + np.exp(-BETAS[:, None]) * (1 - right)).sum(axis=1)
    return log_volume, np.log(right).sum()


@pytest.mark.slow
@pytest.mark.parametrize("margin", [slow(0.0), 0.5])
def test_independent_patterns_and_the_standard_error(
    margin, orthogonal_patterns, measure_perceptron
):
    """Margin 0: every pattern is right for half of all weights, 2^-P for all of them."""
    x, label = orthogonal_patterns["x"], orthogonal_patterns["label"]
    margins = margin * jnp.arange(-1, NUM_PATTERNS - 1)
    params = (margins * label) @ x
    log_volume, log_fraction = exact(margins)
    if margin == 0:
        assert log_fraction == pytest.approx(-NUM_PATTERNS * np.log(2))

    scores, integrated_scores = [], []
    for seed in range(16):
        found = measure_perceptron(params, [orthogonal_patterns], jax.random.key(seed))
        errors = np.append(found.log_volume[0] - log_volume, found.log_fraction - log_fraction)
        scores.append(errors[1:] / np.append(found.log_volume_sem[0, 1:], found.log_fraction_sem))
        integrated_scores.append((found.integrated - log_volume)[0, 1] / found.integrated_sem[0, 1])
    assert found.num_weights == NUM_INPUTS
    assert found.reference == np.sum(np.asarray(margins) <= 0)
    # Student's t has standard deviation 1.18.
    scores = np.array(scores)
    assert np.all(np.abs(scores.mean(axis=0)) < 4 * 1.18 / np.sqrt(16))
    assert np.all((scores.std(axis=0) > 0.6) & (scores.std(axis=0) < 2.0))
    assert abs(np.mean(integrated_scores)) < 4 * 1.18 / np.sqrt(16)
    assert np.all(found.acceptance[0, 0] == 1)
    assert found.log_volume[0, 0] == found.log_volume_sem[0, 0] == 0


def test_the_measured_rates_and_what_has_converged(orthogonal_patterns, measure_perceptron):
    found = measure_perceptron(jnp.zeros(NUM_INPUTS), [orthogonal_patterns], KEY)
    assert found.num_evaluations == 8 * len(BETAS) * 400 + 1
    assert np.all((found.acceptance > 0.1) & (found.acceptance <= 1))
    assert np.all((found.exchange > 0.1) & (found.exchange <= 1))
    assert found.step_size[0, 0] == 1 > found.step_size[0, -1]
    np.testing.assert_allclose(found.mean_energy[0, 0], NUM_PATTERNS / 2, atol=0.2)
    assert found.share_below[0] == pytest.approx((1 + np.exp(-BETAS[-1])) ** -NUM_PATTERNS, abs=0.1)
    assert found.ess[0, 0] > 1500
    # Energies hardly overlap, and nobody has seen E = 0.
    hasty = local_entropy(
        perceptron, distances=[1.0], betas=[30.0], threshold=-1, num_steps=10, num_warmup=1
    )
    found = hasty(jnp.zeros(NUM_INPUTS), [orthogonal_patterns], KEY)
    assert not found.converged[0]
    assert found.log_fraction[0] == -np.inf or np.isnan(found.log_fraction[0])
    assert np.isnan(found.log_fraction_sem[0])


STIFFNESS, MINIMUM = np.tile([1.0, 4.0, 0.25], 8), np.tile([0.5, -0.25, 0.0], 8)


def parabola(params, batch):
    """sum_i h_i (w_i - c_i)^2 / 2, shared out over the batch, which adds up to 1."""
    loss = 0.5 * jnp.sum(STIFFNESS * (params - MINIMUM) ** 2)
    return {"loss": loss * batch.sum(), "count": len(batch)}


@pytest.mark.slow
def test_parabola_off_its_minimum():
    """In 24 dimensions, where steps must be small."""
    params, betas = np.tile([1.0, -0.5, 2.0], 8), np.array([0.0, 0.03, 0.1, 0.3, 1.0])
    measure = local_entropy(
        parabola,
        distances=[0.2, 1.0],
        betas=betas,
        quantity="loss",
        prior="multiplicative",
        num_steps=1000,
        num_warmup=300,
    )
    found = measure(jnp.asarray(params), [jnp.full(5, 0.2)], KEY)
    h, offset = STIFFNESS, params - MINIMUM
    variance = (np.array([[0.2], [1.0]]) * np.abs(params))[:, None] ** 2
    stiffness = betas[:, None] * h
    expected = -0.5 * np.sum(
        np.log1p(stiffness * variance) + stiffness * offset**2 / (1 + stiffness * variance), axis=-1
    )
    assert found.step_size[1, -1] < 0.6
    assert found.reference == pytest.approx(0.5 * np.sum(h * offset**2))
    np.testing.assert_array_less(
        np.abs(found.log_volume - expected), LIMIT * found.log_volume_sem + 1e-6
    )
    np.testing.assert_array_less(found.log_volume_sem, 0.1)
    # The derivative of F.
    slope = -0.5 * np.sum(
        h * variance / (1 + stiffness * variance) + h * offset**2 / (1 + stiffness * variance) ** 2,
        axis=-1,
    )
    np.testing.assert_allclose(-found.mean_energy, slope, rtol=0.1)
    assert found.log_fraction is None
    assert found.share_below is None


def test_any_one_dimensional_loss_against_quadrature_and_the_definition_of_entropy_sgd():
    """The local entropy of a double well, from F."""
    loss = lambda w: 4 * (w**2 - 1) ** 2
    w, beta, distance = 0.3, 2.0, 0.8
    gamma = 1 / (beta * distance**2)
    grid = np.linspace(-8, 8, 40001)
    exponent = -beta * loss(grid) - 0.5 * beta * gamma * (grid - w) ** 2
    expected = -np.log(np.trapezoid(np.exp(exponent), grid)) / beta

    eval_fn = lambda params, batch: {"loss": loss(params), "count": jnp.array(1)}
    measure = local_entropy(
        eval_fn, distances=[distance], betas=[0.3, 1.0, beta], quantity="loss", num_steps=500
    )
    found = measure(jnp.array(w), [0], KEY)
    volume = found.log_volume[0, -1] + 0.5 * np.log(2 * np.pi * distance**2)
    assert abs(-volume / beta - expected) < LIMIT * found.log_volume_sem[0, -1] / beta
    assert found.log_volume_sem[0, -1] < 0.1


@pytest.mark.slow
def test_infinite_and_undefined_energies_have_no_weight():
    """A half-space, in a corner of which the loss is not a number."""

    def eval_fn(params, batch):
        wall = jnp.where(params[1] > 0, jnp.inf, jnp.nan)
        return {"loss": jnp.where(params[0] > 0, 0.0, wall), "count": jnp.array(1)}

    measure = local_entropy(
        eval_fn, distances=[1.0], betas=[1.0, 2.0], quantity="loss", num_steps=200, num_warmup=50
    )
    found = measure(jnp.zeros(2), [0], KEY)
    np.testing.assert_allclose(found.log_volume[0, 1:], np.log(0.5), atol=0.1)
    assert np.all(
        np.abs(found.log_volume[0] - np.log(0.5))[1:] < LIMIT * found.log_volume_sem[0, 1:]
    )
    assert found.converged[0]


# --- direct sampling ---------------------------------------------------------------------------


def test_direct_sampling_of_independent_patterns(orthogonal_patterns):
    measure = log_fraction_direct(
        perceptron, distances=[0.5, 1.0], num_samples=5500, num_parallel=1000
    )
    margins = 0.3 * np.arange(NUM_PATTERNS)
    params = (margins * orthogonal_patterns["label"]) @ orthogonal_patterns["x"]
    found = measure(params, [orthogonal_patterns], KEY)
    assert found.energy.shape == (2, 5500)
    assert found.num_weights == NUM_INPUTS
    volumes, errors = found.log_volume(BETAS)
    np.testing.assert_array_equal(found.log_volume(BETAS[1])[0], volumes[:, 1:2])
    with pytest.raises(ValueError, match="betas must be a list of finite numbers"):
        found.log_volume([1.0, np.nan])
    overflow = found._replace(energy=np.array([[1.0, np.inf]]))
    np.testing.assert_allclose(overflow.log_volume([0.0, 1.0])[0], [[0.0, -1 - np.log(2)]])
    for d, distance in enumerate([0.5, 1.0]):
        log_volume, log_fraction = exact(margins, distance)
        assert abs(found.log_fraction[d] - log_fraction) < 4 * found.log_fraction_sem[d]
        assert np.all(np.abs(volumes[d] - log_volume) <= 4 * errors[d] + 1e-12)
        assert found.log_fraction_sem[d] == pytest.approx(
            np.sqrt((np.exp(-log_fraction) - 1) / 5500), rel=0.1
        )
    none = log_fraction_direct(perceptron, distances=[1.0], threshold=-1, num_samples=10)
    found = none(params, [orthogonal_patterns], KEY)
    assert found.log_fraction[0] == -np.inf
    assert np.isnan(found.log_fraction_sem[0])
    assert found.hits[0] == 0


def committee(params, batch):
    """Three sign units, by majority."""
    votes = jnp.sign(batch["x"] @ params["units"]).sum(axis=-1)
    return {"error": jnp.sum(batch["label"] * votes <= 0), "count": len(votes)}


@pytest.mark.slow
def test_committee_at_fixed_overlap_against_direct_sampling():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 7))
    params = {"units": jnp.asarray(rng.standard_normal((7, 3))), "unused": jnp.ones(2)}
    label = np.sign(np.sign(x @ params["units"]).sum(axis=-1))
    batches = [{"x": jnp.asarray(x), "label": jnp.asarray(label)}]
    common = {
        "distances": [0.3],
        "prior": priors.fixed_overlap(axis=0),
        "mask": {"units": True, "unused": False},
        "threshold": 0,
    }
    direct = log_fraction_direct(committee, num_samples=20_000, num_parallel=1000, **common)
    betas = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    sampled = local_entropy(committee, betas=betas, num_steps=500, **common)
    oracle, found = (measure(params, batches, KEY) for measure in (direct, sampled))
    assert found.reference == 0
    assert found.num_weights == oracle.num_weights == 21
    error = np.hypot(oracle.log_fraction_sem, found.log_fraction_sem)
    assert error[0] < 0.15
    assert -6 < oracle.log_fraction[0] < -3
    assert abs(found.log_fraction - oracle.log_fraction)[0] < LIMIT * error[0]
    volume, volume_error = oracle.log_volume(found.beta)
    error = np.hypot(volume_error, found.log_volume_sem)[0]
    assert np.all(np.abs(volume - found.log_volume)[0] <= LIMIT * error)


# --- programs ----------------------------------------------------------------------------------

FEW = {"distances": [1.0], "betas": [0.5, 1.0], "num_chains": 2, "num_steps": 12, "num_warmup": 5}


@pytest.mark.slow
def test_data_in_one_batch_in_several_and_streamed(orthogonal_patterns):
    traces = []

    def eval_fn(params, batch, shift):
        traces.append(None)
        return perceptron(params + shift, batch)

    measure = local_entropy(eval_fn, **FEW)
    part = lambda start: jax.tree.map(lambda leaf: leaf[start::2], orthogonal_patterns)
    halves = [part(0), part(1)]
    params, shift = jnp.ones(NUM_INPUTS), -jnp.ones(NUM_INPUTS)
    one = measure(params, [orthogonal_patterns], KEY, shift)
    several = measure(params, halves, KEY, shift)
    streamed = measure(params, lambda: iter(halves), KEY, shift)
    assert one.log_volume[0, -1] < 0
    for name in ("log_volume", "mean_energy", "acceptance", "exchange", "step_size"):
        np.testing.assert_allclose(getattr(several, name), getattr(one, name), rtol=1e-5)
        np.testing.assert_allclose(getattr(streamed, name), getattr(one, name), rtol=1e-5)
    before = len(traces)
    measure(2 * params, [orthogonal_patterns], jax.random.key(1), shift)
    measure(2 * params, halves, jax.random.key(1), shift)
    # The search for convolutions traces; nothing is compiled again.
    assert len(traces) - before <= 2


@pytest.mark.slow
def test_convolutions_are_evaluated_one_by_one_on_cpu(orthogonal_patterns):
    def convolution(params, batch):
        field = jax.lax.conv_general_dilated(
            batch["x"][:, :, None], params[None, :, None], (1,), "VALID", dimension_numbers=_NWC
        )
        margin = batch["label"] * field[:, 0, 0]
        return {"error": jnp.sum(margin <= 0), "count": len(margin)}

    _NWC = ("NWC", "OWI", "NWC")
    params, batches = jnp.zeros(NUM_INPUTS), [orthogonal_patterns]
    landscape = Landscape(convolution, "error", "additive", None)
    assert landscape.around(params, batches, ()).one_by_one == (jax.default_backend() == "cpu")
    found, expected = (
        local_entropy(eval_fn, **FEW)(params, batches, KEY) for eval_fn in (convolution, perceptron)
    )
    np.testing.assert_allclose(found.mean_energy, expected.mean_energy, rtol=1e-6)
    np.testing.assert_allclose(found.log_volume, expected.log_volume, rtol=1e-4, atol=1e-6)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"distances": []}, "distances"),
        ({"distances": [-1.0]}, "distances"),
        ({"betas": [0.0]}, "betas"),
        ({"betas": [1.0, 0.5]}, "betas"),
        ({"betas": [1.0, np.inf]}, "betas"),
        ({"prior": "uniform"}, "prior"),
        ({"threshold": np.nan}, "threshold"),
        ({"num_chains": 1}, "num_chains"),
        ({"num_steps": 9}, "num_steps"),
        ({"num_warmup": 0}, "num_warmup"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        local_entropy(perceptron, **{"distances": [1.0], "betas": [1.0]} | arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"distances": [np.nan]}, "distances"), ({"num_samples": 0}, "num_samples")],
)
def test_bad_arguments_of_direct_sampling_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        log_fraction_direct(perceptron, **{"distances": [1.0]} | arguments)


def test_bad_data_are_named(orthogonal_patterns):
    params = jnp.zeros(NUM_INPUTS)
    for make in (log_fraction_direct, lambda *a, **k: local_entropy(*a, betas=[1.0], **k)):
        measure = make(perceptron, distances=[1.0])
        with pytest.raises(ValueError, match="batches"):
            measure(params, [], KEY)
        with pytest.raises(ValueError, match="iterator"):
            measure(params, iter([orthogonal_patterns]), KEY)
        with pytest.raises(TypeError, match="batches"):
            measure(params, 3, KEY)
        with pytest.raises(ValueError, match="quantity"):
            make(perceptron, distances=[1.0], quantity="loss")(params, [orthogonal_patterns], KEY)
        with pytest.raises(ValueError, match="move"):
            make(perceptron, distances=[1.0], mask=False)(params, [orthogonal_patterns], KEY)
