"""Local energy of networks with batch norm, of stacked solutions, and over streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_local_energy import BATCHES, KEY, PARAMS, quadratic

from flatjax.flatness import local_energy, paired_difference

# --- batch statistics, stacked solutions, streams ------------------------------------------------


def normalized(params, batch, stats):
    """Half the square of w x - mean, where the mean has been measured for some w."""
    loss = 0.5 * jnp.sum((params * batch - stats["mean"]) ** 2)
    return {"loss": loss, "w": params * len(batch), "count": len(batch)}


def update_stats(params, stats, batch):
    return {"mean": 0.9 * stats["mean"] + 0.1 * jnp.mean(params * batch)}


STREAM = [jnp.array([1.0, 3.0]), jnp.array([2.0, 6.0]), jnp.array([5.0, 4.0])]
STATS = {"mean": jnp.array(7.0)}


@pytest.mark.slow
def test_statistics_are_measured_for_each_perturbed_network():
    options = {"sigmas": [0.1, 0.4], "num_samples": 5, "noise": "additive"}
    fixed = local_energy(normalized, **options)
    measured = local_energy(normalized, update_stats=update_stats, stats_batches=STREAM, **options)
    params = jnp.array(2.0)
    before, after = fixed(params, STREAM, KEY, STATS), measured(params, STREAM, KEY, STATS)
    x = np.concatenate(STREAM)
    assert before.reference["loss"] == pytest.approx(np.mean((2 * x - 7) ** 2) / 2, rel=1e-5)
    # With its own mean the loss is w^2 times the variance of x, whatever was passed.
    assert after.reference["loss"] == pytest.approx(4 * x.var() / 2, rel=1e-4)
    expected = ((2 + before.draws["w"]) ** 2 - 4) * x.var() / 2
    np.testing.assert_allclose(after.draws["loss"], expected, rtol=1e-3, atol=1e-4)
    streamed = measured(params, iter(STREAM), KEY, STATS)
    np.testing.assert_allclose(streamed.draws["loss"], after.draws["loss"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="state"):
        measured(params, STREAM, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_stacked_solutions_are_measured_as_one_by_one(batch_statistics):
    options = {"sigmas": [0.1, 0.4], "num_samples": 4}
    if batch_statistics:
        options |= {"update_stats": update_stats, "stats_batches": STREAM}
    params, stats = jnp.array([1.0, 2.0, -0.5]), {"mean": jnp.array([0.0, 7.0, 1.0])}
    together = local_energy(normalized, stacked=True, **options)(params, STREAM, KEY, stats)
    alone = local_energy(normalized, **options)
    assert together.draws["loss"].shape == (3, 2, 4)
    results = [
        alone(params[m], STREAM, KEY, jax.tree.map(lambda s, m=m: s[m], stats)) for m in range(3)
    ]
    for m, found in enumerate(results):
        one = together.solution(m)
        for name in ("mean", "sem", "reference", "draws"):
            np.testing.assert_allclose(
                getattr(one, name)["loss"], getattr(found, name)["loss"], rtol=1e-4, atol=1e-5
            )
    difference, sem = paired_difference(together, results[0], "loss")
    assert difference.shape == sem.shape == (3, 2)
    np.testing.assert_allclose(difference[0], 0.0, atol=1e-5)


def test_stacked_solutions_and_the_number_of_draws():
    """Draws are added at the sigmas where any solution needs them."""
    params = {"w": jnp.stack([0.1 * PARAMS["w"], PARAMS["w"]]), "b": jnp.zeros(2)}
    measure = local_energy(
        quadratic, sigmas=[0.01, 0.3], num_samples=10, target_sem=0.1, quantity="loss", stacked=True
    )
    found = measure(params, BATCHES, KEY)
    np.testing.assert_array_equal(found.num_samples, [10, 100])
    np.testing.assert_array_equal(found.target_met, [[True, True], [True, False]])
    np.testing.assert_array_equal(found.solution(0).target_met, [True, True])


@pytest.mark.slow
def test_stacked_convolutions():
    """Vmapped or unrolled, and never mixed up."""

    def eval_fn(params, batch):
        out = jax.lax.conv_general_dilated(batch, params, (1,), "VALID")
        return {"loss": jnp.sum(out**2), "count": len(batch)}

    params = jnp.linspace(-1.0, 1.0, 36).reshape(2, 2, 3, 3)
    batch = jnp.arange(30.0).reshape(2, 3, 5) / 30
    options = {"sigmas": [0.2], "num_samples": 2, "mask": lambda w: w.ndim == 3}
    together = local_energy(eval_fn, stacked=True, **options)(params, [batch], KEY)
    alone = local_energy(eval_fn, **options)
    expected = [alone(params[m], [batch], KEY).draws["loss"] for m in range(2)]
    np.testing.assert_allclose(together.draws["loss"], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_stream_is_passed_over_once():
    passes = []

    def stream():
        passes.append(None)
        yield from BATCHES

    measure = local_energy(quadratic, sigmas=[0.1, 0.5], num_samples=10)
    expected = measure(PARAMS, BATCHES, KEY)
    found = measure(PARAMS, stream, KEY)
    assert len(passes) == 1
    again = dict(enumerate(BATCHES)).values()  # no sequence
    for other in (found, measure(PARAMS, iter(BATCHES), KEY), measure(PARAMS, again, KEY)):
        assert other.reference["loss"] == pytest.approx(expected.reference["loss"])
    np.testing.assert_allclose(found.draws["loss"], expected.draws["loss"], rtol=1e-4, atol=1e-6)

    adaptive = local_energy(
        quadratic, sigmas=[0.5], num_samples=10, target_sem=1e-3, max_samples=30, quantity="loss"
    )
    found = adaptive(PARAMS, stream, KEY)
    assert len(passes) == 1 + 3
    assert found.num_samples == 30
    with pytest.raises(ValueError, match="iterator"):
        adaptive(PARAMS, stream(), KEY)
