"""Directions, distances and norms: in float32 at least, and of weights alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import flatness

KEY = jax.random.key(0)
COUNT = 2**25 + 1  # no float32


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
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


def test_lanczos_iterates_in_float32():
    spectrum = jnp.linspace(1.0, 2.0, 30)
    found = flatness.lanczos(10)(lambda v: spectrum * v, jnp.ones(30, jnp.bfloat16))
    np.testing.assert_allclose(found.Q_tall @ found.Q_tall.T, np.eye(10), atol=1e-5)
    with pytest.raises(TypeError, match="vector"):
        flatness.lanczos(2)(lambda v: v, jnp.arange(3))
