"""`limit_distance` against a loop over replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import slow

import flatjax

STACK = {
    "w": np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32),
    "near": np.random.default_rng(1).normal(1.0, 0.01, size=(3, 5)).astype(np.float32),
    "zero": np.zeros((3, 2), np.float32),
}


def by_loops(w, target):
    """One leaf, replica after replica."""
    w = np.asarray(w, float)
    center = sum(w) / len(w)
    distance = sum(np.sum((w_a - center) ** 2) for w_a in w)
    norm = sum(np.sum(w_a**2) for w_a in w)
    if norm == 0 or np.sqrt(distance / norm) <= target:
        return w
    factor = target / np.sqrt(distance / norm)
    return np.stack([center + factor * (w_a - center) for w_a in w])


@pytest.mark.parametrize("axes", [{"replica_axis": 0}, slow({"axis_name": "replica"})], ids=str)
def test_limit_distance_against_loops(axes):
    tx = flatjax.limit_distance(lambda count: 0.5 - 0.1 * count, **axes)

    def two_steps(params):
        state = tx.init(params)
        for _ in range(2):
            zeros = jax.tree.map(jnp.zeros_like, params)
            updates, state = tx.update(zeros, state, params)
            params = optax.apply_updates(params, updates)
        return params

    run = two_steps if "replica_axis" in axes else jax.vmap(two_steps, axis_name="replica")
    for name, leaf in jax.jit(run)(STACK).items():
        expected = by_loops(by_loops(STACK[name], 0.5), 0.4)
        np.testing.assert_allclose(leaf, expected, atol=1e-6)


def test_limit_distance_brings_replicas_to_the_target_and_together():
    distance = lambda params: float(flatjax._diagnostics.relative_distance(params, replica_axis=0))

    def after(target, steps):
        tx, params = flatjax.limit_distance(target, replica_axis=0), STACK["w"]
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(jnp.zeros_like(params), state, params)
            params = optax.apply_updates(params, updates)
        return distance(params)

    assert distance(STACK["w"]) == pytest.approx(np.sqrt(2 / 3), abs=0.05)
    assert after(0.3, 30) == pytest.approx(0.3, abs=1e-3)
    assert after(0.0, 1) == pytest.approx(0.0, abs=1e-6)
