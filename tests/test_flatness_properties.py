"""Any arguments and any trees: measures are right, or an error names what is wrong."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only, slow
from hypothesis import strategies as st
from properties import NO_COUNTS, NUMBERS_NO_MORE, holds, trees_of

from flatjax import flatness

NO_POSITIVES = [*NUMBERS_NO_MORE, 0.0]
NO_GRIDS = [np.nan, -1.0, [], [0.1, np.inf], [0.0, 0.1], [[0.1]], "0.1", ["a"], 1j, None, [None]]
NO_NAMES = ["", "gaussian", None, 3]
KEY = jax.random.key(0)


def eval_fn(params, batch, *state):
    """A parabola with its minimum where all weights are 0."""
    del state
    total = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params))
    return {"loss": 0.5 * len(batch) * total, "error": len(batch) * total, "count": len(batch)}


BATCHES = [jnp.ones(2), jnp.ones(1)]
HESSIAN = flatness.hessian_operator(eval_fn)

# constructor -> what it needs; argument -> what it may not be.
NEEDED = {
    flatness.local_energy: {},
    flatness.sam_sharpness: {"rho": 0.1},
    flatness.worst_case_sharpness: {"rho": 0.1},
    flatness.pac_bayes_sigma: {},
    flatness.weight_noise: {},
    flatness.quantization: {},
    flatness.pruning: {},
    flatness.fine_tuning: {"second_batches": BATCHES, "tx": optax.sgd(0.1)},
    flatness.local_entropy: {"distances": [0.1], "betas": [0.1]},
    flatness.log_fraction_direct: {"distances": [0.1]},
    flatness.top_eigenvalues: {},
    flatness.trace: {},
    flatness.spectral_density: {},
    flatness.slice_1d: {"x": [0.0]},
}
REFUSED = [
    (flatness.local_energy, "sigmas", NO_GRIDS),
    (flatness.local_energy, "num_samples", [*NO_COUNTS, 1]),
    (flatness.local_energy, "noise", NO_NAMES),
    (flatness.local_energy, "target_sem", [value for value in NO_POSITIVES if value is not None]),
    (flatness.sam_sharpness, "rho", NO_POSITIVES),
    (flatness.worst_case_sharpness, "rho", NO_POSITIVES),
    (flatness.worst_case_sharpness, "steps", NO_COUNTS),
    (flatness.worst_case_sharpness, "step_size", NO_POSITIVES),
    (flatness.worst_case_sharpness, "num_restarts", NO_COUNTS),
    (flatness.pac_bayes_sigma, "target_rise", NO_POSITIVES),
    (flatness.pac_bayes_sigma, "rtol", NO_POSITIVES),
    (flatness.pac_bayes_sigma, "num_samples", [*NO_COUNTS, 1]),
    (flatness.pac_bayes_sigma, "noise", NO_NAMES),
    (
        flatness.pac_bayes_sigma,
        "bounds",
        [(1.0, 0.1), (0.0, 1.0), (1.0,), (1.0, np.nan), ("a", "b"), 3.0, None],
    ),
    (flatness.weight_noise, "sigmas", [*NO_GRIDS, [0.2, 0.1], [0.1, 0.1]]),
    (flatness.weight_noise, "target_rise", NO_GRIDS),
    (flatness.weight_noise, "num_samples", [*NO_COUNTS, 1]),
    (flatness.weight_noise, "noise", NO_NAMES),
    (flatness.quantization, "bits", [*NO_GRIDS, 1, 17, [2.5]]),
    (flatness.quantization, "scale", NO_NAMES),
    (flatness.quantization, "clipped", ["yes", 1, None]),
    (flatness.pruning, "sparsity", [*NO_GRIDS, 1.0]),
    (flatness.pruning, "scope", NO_NAMES),
    (flatness.fine_tuning, "steps", [*NO_GRIDS, [0, 1], [2, 1], [1, 1], [1.5]]),
    (flatness.fine_tuning, "second_batches", [jnp.ones(2), iter(BATCHES), 3]),
    (flatness.fine_tuning, "tx", [0.1, None]),
    (flatness.local_entropy, "distances", NO_GRIDS),
    (
        flatness.local_entropy,
        "betas",
        [[0.2, 0.1], [0.1, 0.1], *(grid for grid in NO_GRIDS if grid != [0.0, 0.1])],
    ),
    (flatness.local_entropy, "prior", NO_NAMES),
    (flatness.local_entropy, "threshold", [np.nan, "0", 1j, True, [0.0]]),
    (flatness.local_entropy, "num_chains", [*NO_COUNTS, 1]),
    (flatness.local_entropy, "num_steps", [*NO_COUNTS, 9]),
    (flatness.local_entropy, "num_warmup", NO_COUNTS),
    (flatness.log_fraction_direct, "distances", NO_GRIDS),
    (flatness.log_fraction_direct, "threshold", [np.nan, "0", None, 1j, True, [0.0]]),
    (flatness.log_fraction_direct, "num_samples", NO_COUNTS),
    (flatness.log_fraction_direct, "num_parallel", NO_COUNTS),
    (flatness.top_eigenvalues, "num", NO_COUNTS),
    (flatness.top_eigenvalues, "num_matvecs", NO_COUNTS),
    (flatness.top_eigenvalues, "which", NO_NAMES),
    (flatness.trace, "num_samples", [*NO_COUNTS, 1]),
    (flatness.spectral_density, "num_matvecs", NO_COUNTS),
    (flatness.spectral_density, "num_samples", [*NO_COUNTS, 1]),
    (flatness.spectral_density, "num_points", [*NO_COUNTS, 1]),
    (flatness.spectral_density, "width", NO_POSITIVES),
    (flatness.slice_1d, "x", [np.nan, 0.0, [], [[0.0]], "0", ["a"], 1j, None, [0.0, np.inf]]),
]


@pytest.mark.parametrize(
    ("make", "name", "values"),
    REFUSED,
    ids=[f"{make.__name__}-{name}" for make, name, _ in REFUSED],
)
def test_arguments_are_refused_by_name(make, name, values):
    of = HESSIAN if "operator_fn" in make.__annotations__ else eval_fn
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            make(of, **(NEEDED[make] | {name: value}))


# --- any tree -------------------------------------------------------------------------------------

SHAPES = [(), (3,), (2, 2), (0,), (1, 2, 3)]


def trees(dtypes=("float32", "bfloat16", "float16")):
    """Strategy of pytrees with a weight at least, with None, empty leaves and empty nodes."""

    def leaf(shape, dtype, seed):
        values = np.random.default_rng(seed).integers(1, 5, size=shape) / 4
        return jnp.asarray(values, dtype)

    leaves = st.builds(leaf, st.sampled_from(SHAPES), st.sampled_from(dtypes), st.integers(0, 3))
    return trees_of(leaves).filter(size)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def square(tree):
    return sum(float(np.sum(np.asarray(leaf, float) ** 2)) for leaf in jax.tree.leaves(tree))


def check_local_energy(params):
    found = flatness.local_energy(eval_fn, sigmas=[0.1, 0.5], num_samples=200, antithetic=True)(
        params, BATCHES, KEY
    )
    assert abs(found.reference["loss"] - square(params) / 2) <= 1e-5 * square(params)
    expected = np.array([0.1, 0.5]) ** 2 * square(params) / 2
    # Rounding of half-precision weights is not less than 2^-8 of them.
    assert np.all(np.abs(found.mean["loss"] / expected - 1) < 0.5)


def check_sam(params):
    found = flatness.sam_sharpness(eval_fn, rho=0.5)(params, BATCHES)
    radius = np.sqrt(square(params))
    np.testing.assert_allclose(found.gradient_norm, radius, rtol=1e-2)
    expected = ((radius + 0.5) ** 2 - radius**2) / 2
    np.testing.assert_allclose(found.rise["loss"], expected, rtol=3e-2)


def check_worst_case(params):
    found = flatness.worst_case_sharpness(eval_fn, rho=0.5, steps=2, step_size=1.0)(
        params, BATCHES, KEY
    )
    radius = np.sqrt(square(params))
    np.testing.assert_allclose(found.rise["loss"], ((radius + 0.5) ** 2 - radius**2) / 2, rtol=3e-2)


def check_pac_bayes(params):
    measure = flatness.pac_bayes_sigma(eval_fn, quantity="loss", num_samples=50, rtol=0.1)
    found = measure(params, BATCHES, KEY)
    assert 0.5 < found.sigma / np.sqrt(0.2 / square(params)) < 2


def check_weight_noise(params):
    measure = flatness.weight_noise(
        eval_fn, sigmas=[0.1, 1.0], target_rise=[0.25 * square(params)], num_samples=50
    )
    found = measure(params, BATCHES, KEY)
    assert 0.25 < found.tolerance[0] < 1


def check_quantization(params):
    found = flatness.quantization(eval_fn, bits=[8, 3], mask=True)(params, BATCHES)
    # Weights from 0.25 to 1: the errors are at most 1 / 254, and 1 / 6.
    assert np.all(found.distance <= np.array([1 / 254, 1 / 6]) / 0.25 + 1e-6)
    assert abs(found.rise["loss"][0]) < 0.05 * square(params)


def check_pruning(params):
    found = flatness.pruning(eval_fn, sparsity=[0.5], mask=True)(params, BATCHES)
    leaves = [np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(params)]
    squares = np.sort(np.concatenate(leaves) ** 2)
    removed = squares[: round(0.5 * len(squares))].sum()
    np.testing.assert_allclose(found.rise["loss"], -removed / 2, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.distance, np.sqrt(removed / squares.sum()), rtol=1e-3)


def check_fine_tuning(params):
    measure = flatness.fine_tuning(eval_fn, BATCHES, optax.sgd(0.25), steps=[1, 2])
    found = measure(params, BATCHES)
    left = np.array([0.75, 0.75**2])  # the second task is the first one
    np.testing.assert_allclose(found.rise["loss"], (left**2 - 1) * square(params) / 2, rtol=2e-2)
    np.testing.assert_allclose(found.distance, 1 - left, rtol=2e-2)


def check_eigenvalues(params):
    found = flatness.top_eigenvalues(HESSIAN, num_matvecs=3)(params, BATCHES, KEY)
    np.testing.assert_allclose(found.values, 1, rtol=1e-2)
    chex.assert_trees_all_equal_shapes(jax.tree.map(lambda leaf: leaf[0], found.vectors), params)


def check_trace(params):
    found = flatness.trace(HESSIAN, num_samples=2)(params, BATCHES, KEY)
    np.testing.assert_allclose(found.mean, size(params), rtol=1e-2)


def check_density(params):
    found = flatness.spectral_density(HESSIAN, num_matvecs=3, num_samples=2)(params, BATCHES, KEY)
    np.testing.assert_allclose((found.weights * found.nodes).sum(axis=-1), 1, rtol=1e-2)
    assert found.dimension == size(params)


def check_slice(params):
    found = flatness.slice_1d(eval_fn, [-1.0, 0.0, 1.0])(params, params, BATCHES)
    expected = square(params) / 2 * np.array([0, 1, 4])
    np.testing.assert_allclose(found.values["loss"], expected, rtol=1e-2, atol=1e-6)


def check_log_fraction(params):
    measure = flatness.log_fraction_direct(
        eval_fn, distances=[0.1], threshold=100 * square(params) + 100, num_samples=10
    )
    assert measure(params, BATCHES, KEY).log_fraction == [0.0]


EVERY = [
    check_local_energy,
    check_sam,
    check_worst_case,
    check_pac_bayes,
    check_weight_noise,
    check_quantization,
    check_pruning,
    check_fine_tuning,
    check_eigenvalues,
    check_trace,
    check_density,
    check_slice,
    check_log_fraction,
]


FAST = (check_trace, check_slice)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check if check in FAST else slow(check) for check in EVERY])
def test_any_tree_is_measured(check):
    holds(check, 4, params=trees())


MEASURES = {
    "local_energy": lambda p: flatness.local_energy(eval_fn, num_samples=2)(p, BATCHES, KEY).mean,
    "sam": lambda p: flatness.sam_sharpness(eval_fn, rho=0.1)(p, BATCHES).rise,
    "worst_case": lambda p: (
        flatness.worst_case_sharpness(eval_fn, rho=0.1, steps=1)(p, BATCHES, KEY).rise
    ),
    "pac_bayes": lambda p: flatness.pac_bayes_sigma(eval_fn, num_samples=2)(p, BATCHES, KEY).sigma,
    "weight_noise": lambda p: (
        flatness.weight_noise(eval_fn, num_samples=2)(p, BATCHES, KEY).tolerance
    ),
    "quantization": lambda p: flatness.quantization(eval_fn, mask=True)(p, BATCHES).rise,
    "pruning": lambda p: flatness.pruning(eval_fn, mask=True)(p, BATCHES).rise,
    "slice": lambda p: flatness.slice_1d(eval_fn, [0.0])(p, p, BATCHES).values,
}


@pytest.mark.parametrize("name", only(["local_energy", "slice"], MEASURES))
def test_nan_is_not_hidden(name):
    params = {"a": jnp.ones(3), "b": jnp.full((2,), jnp.nan)}
    assert all(np.isnan(value).all() for value in jax.tree.leaves(MEASURES[name](params)))


PARAMS = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
OVER_DATA = {
    "sam": lambda data: flatness.sam_sharpness(eval_fn, rho=0.1)(PARAMS, data),
    "worst_case": lambda data: flatness.worst_case_sharpness(eval_fn, rho=0.1, steps=1)(
        PARAMS, data, KEY
    ),
    "pac_bayes": lambda data: flatness.pac_bayes_sigma(eval_fn, num_samples=2)(PARAMS, data, KEY),
    "quantization": lambda data: flatness.quantization(eval_fn, mask=True)(PARAMS, data).rise,
    "pruning": lambda data: flatness.pruning(eval_fn, mask=True)(PARAMS, data).rise,
    "trace": lambda data: flatness.trace(HESSIAN, num_samples=2)(PARAMS, data, KEY),
    "slice": lambda data: flatness.slice_1d(eval_fn, [0.0, 1.0])(PARAMS, PARAMS, data),
}


@pytest.mark.parametrize("name", only(["trace", "slice"], OVER_DATA))
def test_data_are_streamed_if_they_can_be_passed_over_again(name):
    measure = OVER_DATA[name]
    chex.assert_trees_all_close(measure(lambda: iter(BATCHES)), measure(BATCHES), rtol=1e-5)
    with pytest.raises(ValueError, match="iterator"):
        measure(iter(BATCHES))


@pytest.mark.parametrize("measure", [flatness.top_eigenvalues, flatness.spectral_density])
def test_eigenvalues_of_nan_are_refused(measure):
    def nan_fn(params, batch):
        return {"loss": jnp.nan * jnp.sum(params**2), "count": len(batch)}

    with pytest.raises(ValueError, match="finite"):
        measure(flatness.hessian_operator(nan_fn))(jnp.ones(3), BATCHES, KEY)
