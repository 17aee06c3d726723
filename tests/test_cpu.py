"""Without any one of the tricks for CPUs the values are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only

import flatjax
from flatjax import _cpu

LAYOUT = ("NHWC", "HWIO", "NHWC")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 4, 6, 6, 2)).astype(np.float32)
PARAMS = {
    "conv": RNG.normal(size=(2, 3, 3, 2, 3)).astype(np.float32),
    "depthwise": RNG.normal(size=(2, 3, 3, 1, 3)).astype(np.float32),
}


def loss(params, images):
    maps = _cpu.conv_general_dilated(
        images, params["conv"], (1, 1), "SAME", dimension_numbers=LAYOUT
    )
    return jnp.mean(jnp.sin(_cpu._depthwise.depthwise_conv.__wrapped__(maps, params["depthwise"])))


def train():
    """Two replicas of Entropy-SGD, two loops of two steps."""
    tx = flatjax.esgd(0.1, 0.5, inner_steps=2, opaque_mode=True, noise_scale=0.1, replica_axis=0)
    grad_fn = lambda params, i=0: flatjax.map_replicas(jax.grad(loss))(params, IMAGES)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        params, state = step(params, state)
    return params


@pytest.fixture(scope="module")
def with_all():
    return train()


TRICKS = {
    "after": (_cpu, "after", lambda done, args: args),
    "once": (_cpu, "once", lambda values, count: values),
    "unrolled_or": (_cpu, "unrolled_or", lambda unrolled, otherwise: otherwise()),
    "normal": (_cpu._normal, "_can_be_written_out", lambda *_: False),
    "convolution": (_cpu._convolution, "_is_ours", lambda *_: False),
    "depthwise": (_cpu._depthwise, "_one_by_one", lambda *args: _cpu._depthwise._grouped(*args)),
}


@pytest.mark.slow
@pytest.mark.parametrize("trick", only(["unrolled_or"], TRICKS))
def test_a_trick_removed_leaves_the_values(monkeypatch, with_all, trick):
    monkeypatch.setattr(*TRICKS[trick])
    without = train()
    for name, expected in with_all.items():
        np.testing.assert_allclose(without[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_programs_that_run_once_have_the_same_values(monkeypatch):
    """The options of an initialisation do not show in its bits."""

    def init(key):
        keys = jax.random.split(key, 3)
        weights = jax.random.truncated_normal(keys[0], -2, 2, (5, 7)) * 0.1
        return weights, jax.random.normal(keys[1], (40,)), jax.random.uniform(keys[2], (3, 3))

    monkeypatch.setenv("XLA_FLAGS", "")
    quick = _cpu.compiled_once()
    assert quick["xla_backend_optimization_level"] == 1
    options = [quick, {"xla_backend_optimization_level": 3} | dict.fromkeys([*quick][1:], True)]
    key = jax.random.key(0)
    found, expected = (jax.jit(init, compiler_options=own)(key) for own in options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert _cpu.compiled_once() == {}


def test_an_option_that_xla_does_not_have_is_left_out(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    level = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(_cpu._compilation, "_OPTIONS", level | {"xla_cpu_was_removed": False})
    assert _cpu.compiled_once() == level
