"""Every measure in half precision: norms, perturbations and sums are those of float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow
from flatness_contract import BATCHES, COUNT, KEY, MEASURES, PARAMS, check, every_if_slow, plain

from flatjax import flatness


@every_if_slow
def test_half_precision_is_measured_as_float32(name):
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), PARAMS)
        check(name, plain(name)(half, BATCHES, KEY))


# --- directions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float16, slow(jnp.bfloat16), slow(jnp.float32)])
def test_directions_and_distances_are_of_float32(dtype):
    """In float16 the square of a distance of 300 is infinite."""
    points = [jnp.array(p, dtype) for p in ([0.0, 0.0, 0.0], [300.0, 0.0, 0.0], [0.0, 400.0, 0.0])]
    found = flatness.line(*points[:2])
    np.testing.assert_array_equal(found.coordinates, [0, 300])
    found = flatness.plane(*points)
    np.testing.assert_allclose(found.coordinates, [[0, 0], [300, 0], [0, 400]])
    kernel = 300 * jnp.ones((2, 2), dtype)
    direction = flatness.random_direction(kernel, KEY)
    assert direction.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(direction, axis=0), 300 * np.sqrt(2), rtol=1e-6)


def test_lines_pass_by_what_is_no_weight():
    others = {"count": jnp.int32(COUNT), "flag": True, "key": KEY}
    start, end = {"w": jnp.zeros(2)} | others, {"w": jnp.array([3.0, 4.0])} | others
    found = flatness.line(start, end)
    assert found.coordinates[1] == 5
    assert found.direction["count"] == 0
    with pytest.raises(TypeError, match=r"end\['w'\] must be real"):
        flatness.line(start, end | {"w": jnp.array([1j, 0])})


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_priors_measure_norms_in_float32(dtype):
    weights, noise = jnp.full(4, 300.0, dtype), jnp.array([1.0, -1.0, 1.0, -1.0])
    moved = flatness.priors.relative_sphere(weights, noise, 0.01)
    np.testing.assert_allclose(moved, 300 + 3 * noise, rtol=1e-6)
    chex.assert_trees_all_close(
        flatness.priors.fixed_overlap(0)(weights, noise, 0.5),
        flatness.priors.fixed_overlap(0)(weights.astype(jnp.float32), noise, 0.5),
    )


def test_lanczos_leaves_an_invariant_subspace_whatever_the_start():
    """All of them are, of a multiple of the identity; the start is a draw of any key."""
    for seed in range(3):
        start = jax.random.normal(jax.random.key(seed), (3,))
        found = flatness.lanczos(3)(lambda v: 2 * v, start)
        np.testing.assert_allclose(found.J_small, 2 * np.eye(3), rtol=1e-5)


def test_lanczos_iterates_in_float32():
    spectrum = jnp.linspace(1.0, 2.0, 30)
    found = flatness.lanczos(10)(lambda v: spectrum * v, jnp.ones(30, jnp.bfloat16))
    np.testing.assert_allclose(found.Q_tall @ found.Q_tall.T, np.eye(10), atol=1e-5)
    with pytest.raises(TypeError, match="vector"):
        flatness.lanczos(2)(lambda v: v, jnp.arange(3))


# --- sums -----------------------------------------------------------------------------------------


SUMMED = [name for name in MEASURES if name != "local_entropy"]


@pytest.mark.parametrize(
    ("dtype", "name"),
    only(
        [("float16", "slices"), ("bfloat16", "trace")],
        # Sums that are exact in bfloat16 were taken in float32, where float16 does not overflow.
        [("float16", name) for name in ("slices", "local_energy", "worst_case", "density")]
        + [("bfloat16", name) for name in SUMMED],
    ),
)
def test_sums_of_half_precision_over_many_batches(dtype, name):
    """They overflow in float16 at 65504, and stop to grow in bfloat16 at 256 summands."""

    def in_half(params, batch):
        square = 300 * (jnp.sum(params["w"] ** 2) + 3 * params["b"] ** 2)
        return {"loss": square.astype(dtype), "count": jnp.ones([], dtype)}

    few, many = (MEASURES[name](in_half, None)(PARAMS, BATCHES[:1] * num, KEY) for num in (1, 300))
    assert np.all(np.isfinite(many))
    size = 300 if name == "log_fraction" else 1  # energies are totals, not means
    np.testing.assert_allclose(many, size * np.asarray(few), rtol=1e-5)


def test_counts_beyond_32_bits():
    def in_integers(params, batch):
        return {"error": jnp.int32(135_000_000), "count": jnp.int32(1_350_000_000)}

    found = flatness.local_energy(in_integers, num_samples=2)(PARAMS, [0] * 4, KEY)
    assert found.reference["error"] == 0.1
