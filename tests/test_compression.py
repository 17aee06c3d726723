"""Quantization and pruning against loops in NumPy, and where the answer is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import flatness

KEY = jax.random.key(0)
BATCHES = [jnp.ones(2), jnp.ones(1)]
SHAPES = {"kernel": (3, 8, 4), "matrix": (50, 6), "bias": (6,)}


def network():
    """A kernel with an outlier, a matrix, and a bias that stays."""
    keys = jax.random.split(KEY, 3)
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }
    return params | {"kernel": params["kernel"].at[0, 1, 2].set(9.0)}


def weights_out(params, batch):
    """Sums of which the means are the weights themselves."""
    return {name: len(batch) * w for name, w in params.items()} | {"count": len(batch)}


def changed(found, index=0):
    """The new weights of a change."""
    return {name: found.reference[name] + rise[index] for name, rise in found.rise.items()}


def rounded(w, limit, bits):
    """One weight, by looking for the nearest of all values."""
    n = 2 ** (bits - 1) - 1
    values = limit / n * np.arange(-n, n + 1)
    return values[np.argmin(np.abs(values - w))]


@pytest.mark.parametrize("scale", ["tensor", "channel"])
def test_weights_are_rounded_to_the_nearest_of_the_values(scale):
    params, bits = network(), (4, 2)
    found = flatness.quantization(weights_out, bits=bits, scale=scale)(params, BATCHES)
    for index, b in enumerate(bits):
        new = changed(found, index)
        errors, norms = 0.0, 0.0
        for name in ("kernel", "matrix"):
            w = np.asarray(params[name], float)
            expected = np.empty_like(w)
            for place in np.ndindex(w.shape):
                alike = w[..., place[-1]] if scale == "channel" else w
                expected[place] = rounded(w[place], np.abs(alike).max(), b)
            np.testing.assert_allclose(new[name], expected, atol=1e-5)
            errors, norms = errors + np.sum((expected - w) ** 2), norms + np.sum(w**2)
        np.testing.assert_allclose(found.distance[index], np.sqrt(errors / norms), rtol=1e-4)
        assert not found.rise["bias"].any()


@pytest.mark.parametrize("scale", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_clipped_range_has_the_least_squared_error(scale, bits):
    params = network()
    measure = flatness.quantization(weights_out, bits=[bits], scale=scale, clipped=True)
    new = changed(measure(params, BATCHES))
    n = 2 ** (bits - 1) - 1
    for name in ("kernel", "matrix"):
        w = np.asarray(params[name], float)
        parts = [(w, new[name])]
        if scale == "channel":
            parts = [(w[..., i], new[name][..., i]) for i in range(w.shape[-1])]
        for old, found in parts:
            limits = np.abs(old).max() * np.linspace(1e-3, 1, 2000)
            step = limits / n
            levels = np.clip(np.round(old.ravel()[:, None] / step), -n, n)
            least = np.sum((step * levels - old.ravel()[:, None]) ** 2, axis=0).min()
            assert np.sum((found - old) ** 2) < 1.05 * least  # of a few weights, and an outlier


@pytest.mark.slow
def test_clipping_hardly_errs_more_than_the_best_range_of_many_weights():
    """What the docstring claims of the steps of the search."""
    w = np.asarray(jax.random.normal(KEY, (1, 3000)), float)
    sums = lambda params, batch: {"square": jnp.sum(params**2), "count": 1}
    for bits in (2, 3, 4):
        found = flatness.quantization(sums, bits=[bits], clipped=True)(jnp.asarray(w), BATCHES)
        n = 2 ** (bits - 1) - 1
        step = np.abs(w).max() * np.linspace(0.2, 1, 2000) / n
        levels = np.clip(np.round(w.T / step), -n, n)
        least = np.sum((step * levels - w.T) ** 2, axis=0).min()
        assert found.distance[0] ** 2 * np.sum(w**2) < 1.001 * least


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_the_smallest_weights_are_removed(scope):
    params, sparsity = network(), (0.5, 0.9)
    found = flatness.pruning(weights_out, sparsity=sparsity, scope=scope)(params, BATCHES)
    both = {name: np.asarray(params[name], float) for name in ("kernel", "matrix")}
    for index, s in enumerate(sparsity):
        new = changed(found, index)
        removed = {name: new[name] == 0 for name in both}
        groups = [list(both)] if scope == "global" else [[name] for name in both]
        for names in groups:
            gone = np.concatenate([removed[name].ravel() for name in names])
            size = np.abs(np.concatenate([both[name].ravel() for name in names]))
            assert gone.sum() == round(s * gone.size)
            assert size[gone].max() < size[~gone].min()
        for name, w in both.items():
            np.testing.assert_allclose(new[name][~removed[name]], w[~removed[name]], rtol=1e-6)
        assert not found.rise["bias"].any()


def test_equal_weights_are_removed_in_their_order():
    """Of ties no more than asked, the first ones."""
    sums = lambda params, batch: {"first": params[0, 0], "last": params[1, 1], "count": 1}
    found = flatness.pruning(sums, sparsity=[0.5])(jnp.ones((2, 2)), [0])
    assert found.rise["first"] == [-1.0]
    assert found.rise["last"] == [0.0]


def test_weights_that_are_zero_stay_so():
    sums = lambda params, batch: {"sum": jnp.sum(jnp.abs(params["w"])), "count": 1}
    params = {"w": jnp.zeros((2, 3)).at[0, 0].set(1.0)}
    for clipped in (False, True):
        for scale in ("tensor", "channel"):
            measure = flatness.quantization(sums, bits=[2], scale=scale, clipped=clipped)
            found = measure(params, BATCHES)
            np.testing.assert_allclose(found.rise["sum"], 0, atol=1e-6)


def test_quantization_follows_the_rescalings_of_relu_networks():
    """Each layer has its range, so that a factor between two layers changes nothing."""
    x = jax.random.normal(KEY, (20, 8))

    def sums(params, batch):
        return {"sum": jnp.sum(jax.nn.relu(x @ params["a"]) @ params["b"] * batch), "count": 1}

    a, b = (jax.random.normal(key, (8, 8)) for key in jax.random.split(KEY))
    for measure in (
        flatness.quantization(sums, bits=[3]),
        flatness.quantization(sums, bits=[3], clipped=True),
        flatness.pruning(sums, scope="tensor"),
    ):
        one = measure({"a": a, "b": b}, [jnp.ones(1)])
        other = measure({"a": 4 * a, "b": b / 4}, [jnp.ones(1)])
        np.testing.assert_allclose(one.rise["sum"], other.rise["sum"], rtol=1e-4)


@pytest.mark.parametrize("make", [flatness.quantization, flatness.pruning])
def test_state_is_passed_on_and_nothing_is_recompiled(make):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def sums(params, batch, shift):
        return {"loss": jnp.sum(params["w"] ** 2) + shift, "count": len(batch)}

    measure = make(sums)
    for scale in (1.0, 2.0):
        params = {"w": scale * jnp.arange(6.0).reshape(2, 3)}
        found = measure(params, [jnp.ones(1)], None, jnp.float32(scale))
        assert found.reference["loss"] == 55 * scale**2 + scale


@pytest.mark.parametrize("make", [flatness.quantization, flatness.pruning])
def test_a_network_without_matrices_needs_a_mask(make):
    sums = lambda params, batch: {"loss": jnp.sum(params**2), "count": 1}
    with pytest.raises(ValueError, match=r"must hold weights that move.*mask=True"):
        make(sums)(jnp.ones(3), BATCHES)
    assert make(sums, mask=True)(jnp.arange(3.0), BATCHES).rise["loss"].ndim == 1
