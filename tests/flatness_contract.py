"""Every measure of flatness at its smallest size, for the tests of what all must satisfy.

`MEASURES` has a function for each, `make(eval_fn, mask) -> (measure of (params, batches, key,
*state) -> numbers)`. All measures are called so, whether they draw anything or not; only slices are
not, which are of an origin and directions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only

from flatjax import flatness


def eval_fn(params, batch):
    """A parabola of the weights; other leaves must be as they were."""
    square = jnp.sum(params["w"] ** 2) + 3 * params["b"] ** 2
    unmoved = params.get("count", COUNT) == COUNT
    loss = 0.5 * jnp.sum(batch) * jnp.where(unmoved, square, jnp.nan)
    return {"loss": loss, "count": len(batch)}


COUNT = 2**25 + 1  # no float32
# Numbers that half precision holds, so that only rounding of perturbations can do harm.
PARAMS = {"w": jnp.array([[1.0, -0.5], [2.0, 0.25]]), "b": jnp.array(1.5)}
BATCHES = [jnp.array([1.0, 3.0]), jnp.array([2.0])]
KEY = jax.random.key(0)


def of_noise(eval_fn, mask):
    measure = flatness.local_energy(
        eval_fn, sigmas=[1e-3], num_samples=4, antithetic=True, mask=mask
    )
    return lambda *given: measure(*given).mean["loss"]


def of_weight_noise(eval_fn, mask):
    options = {"sigmas": [0.1, 3.0], "target_rise": [1e-3], "num_samples": 2}
    measure = flatness.weight_noise(eval_fn, quantity="loss", mask=mask, **options)
    return lambda *given: measure(*given).tolerance


def of_quantization(eval_fn, mask):
    measure = flatness.quantization(eval_fn, bits=[3], mask=True if mask is None else mask)
    return lambda *given: measure(*given).rise["loss"]


def of_pruning(eval_fn, mask):
    measure = flatness.pruning(eval_fn, sparsity=[0.4], mask=True if mask is None else mask)
    return lambda *given: measure(*given).rise["loss"]


def of_fine_tuning(eval_fn, mask):
    measure = flatness.fine_tuning(eval_fn, BATCHES, optax.sgd(1e-3), steps=[2], mask=mask)
    return lambda *given: measure(*given).rise["loss"]


def of_pac_bayes(eval_fn, mask):
    measure = flatness.pac_bayes_sigma(
        eval_fn, target_rise=1e-4, quantity="loss", num_samples=2, rtol=0.5, mask=mask
    )
    return lambda *given: measure(*given).sigmas


def of_sam(eval_fn, mask):
    measure = flatness.sam_sharpness(eval_fn, rho=1e-2, mask=mask)
    return lambda *given: measure(*given).rise["loss"]


def of_worst_case(eval_fn, mask):
    measure = flatness.worst_case_sharpness(eval_fn, rho=1e-2, steps=1, mask=mask)
    return lambda *given: measure(*given).rise["loss"]


def of_hessian(make, read):
    def measure(eval_fn, mask):
        measure = make(flatness.hessian_operator(eval_fn, mask=mask))
        return lambda *given: read(measure(*given))

    return measure


def of_local_entropy(eval_fn, mask):
    measure = flatness.local_entropy(
        eval_fn, distances=[1e-3], betas=[1.0], quantity="loss", mask=mask, **SHORT
    )
    return lambda *given: measure(*given).mean_energy


def of_learning_coefficient(eval_fn, mask):
    measure = flatness.learning_coefficient(
        eval_fn, beta=1.0, mask=mask, step_size=1e-3, num_chains=2, num_steps=10, num_warmup=10
    )

    # The solution's part: chains depend on the order of the batches.
    return lambda *given: measure(*given).loss


def of_log_fraction(eval_fn, mask):
    measure = flatness.log_fraction_direct(
        eval_fn, distances=[1e-3], quantity="loss", mask=mask, num_samples=4, num_parallel=4
    )
    return lambda *given: measure(*given).energy


def of_slices(eval_fn, mask):
    one = flatness.slice_1d(eval_fn, [0.0, 1e-3])
    two = flatness.slice_2d(eval_fn, [1e-3], [1e-3])

    def measure(params, batches, key, *state):
        direction = flatness.random_direction(params, key, normalization="none", mask=mask)
        along = one(params, direction, batches, *state).values["loss"]
        across = two(params, (direction, direction), batches, *state).values["loss"]
        return np.append(along, across)

    return measure


SHORT = {"num_chains": 2, "num_steps": 10, "num_warmup": 1}
MEASURES = {
    "local_energy": of_noise,
    "fine_tuning": of_fine_tuning,
    "pac_bayes": of_pac_bayes,
    "weight_noise": of_weight_noise,
    "quantization": of_quantization,
    "pruning": of_pruning,
    "sam": of_sam,
    "worst_case": of_worst_case,
    "eigenvalues": of_hessian(
        lambda of: flatness.top_eigenvalues(of, num_matvecs=3), lambda found: found.values
    ),
    "trace": of_hessian(lambda of: flatness.trace(of, num_samples=2), lambda found: found.mean),
    "density": of_hessian(
        lambda of: flatness.spectral_density(of, num_matvecs=3, num_samples=2),
        lambda found: found.nodes,
    ),
    "local_entropy": of_local_entropy,
    "learning_coefficient": of_learning_coefficient,
    "log_fraction": of_log_fraction,
    "slices": of_slices,
}
WITHOUT_KEY = ("sam", "quantization", "pruning", "fine_tuning")
WITH_KEY = [name for name in MEASURES if name not in WITHOUT_KEY]
IN_ONE_PASS = ("local_energy", "weight_noise")
every = pytest.mark.parametrize("name", MEASURES)
# One for each way in which a measure treats parameters: draws, gradients, products, directions.
every_if_slow = pytest.mark.parametrize(
    "name", only(["local_energy", "sam", "trace", "slices"], MEASURES)
)


@functools.cache
def plain(name):
    return MEASURES[name](eval_fn, None)


@functools.cache
def expected(name):
    return plain(name)(PARAMS, BATCHES, KEY)


def check(name, found, rtol=1e-5):
    assert np.all(np.isfinite(found))
    assert np.any(np.asarray(found) != 0)
    np.testing.assert_allclose(found, expected(name), rtol=rtol, atol=1e-9)
