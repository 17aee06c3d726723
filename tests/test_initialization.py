"""Initial weights drawn in groups: the bits of the plain initialisation, in fewer programs."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import only, slow

from flatjax import models
from flatjax.models import _initialization
from flatjax.models._network import Network

IMAGES = jnp.zeros((1, 8, 8, 3))


class DataDependent(nn.Module):
    """A bias that depends on the inputs, through a function with a derivative of its own."""

    @nn.compact
    def __call__(self, x):
        """Returns three numbers an image."""
        h = nn.relu(nn.Dense(3, kernel_init=_initialization.he_normal("fan_in"))(x.mean((1, 2))))
        return h + self.param("bias", lambda key: jax.random.normal(key, (3,)) + h.mean(0))


class Layer(nn.Module):
    """A dense layer as the body of a scan."""

    @nn.compact
    def __call__(self, x, _):
        """Returns the carry of the next layer."""
        return nn.Dense(4, kernel_init=_initialization.he_normal("fan_in"))(x), None


class Scanned(nn.Module):
    """Three layers in a loop, which stack their parameters."""

    @nn.compact
    def __call__(self, x):
        """Returns four numbers an image."""
        h = nn.Dense(4, kernel_init=_initialization.he_normal("fan_out"))(x.mean((1, 2)))
        layers = nn.scan(Layer, {"params": 0}, split_rngs={"params": True}, length=3)
        return layers()(h, None)[0]


class SideBySide(nn.Module):
    """Three layers next to each other, with a batch of keys."""

    @nn.compact
    def __call__(self, x):
        """Returns four numbers an image and layer."""
        options = {"in_axes": None, "out_axes": 0, "axis_size": 3, "split_rngs": {"params": True}}
        layers = nn.vmap(Layer, variable_axes={"params": 0}, **options)
        return layers()(x.mean((1, 2)), None)[0]


MODULES = {
    "pyramidnet": models.PyramidNet(depth=11, alpha=30, width=8),
    "efficientnet": models.EfficientNet(0.05, 0.25, stem="small"),
    "densenet": models.DenseNet(stage_sizes=(1, 2), growth=4),
    "vit": models.VisionTransformer(patch_size=4, width=8, depth=2, heads=2),
    "a data-dependent bias": DataDependent(),
    "a loop of layers": Scanned(),
    "layers side by side": SideBySide(),
}


def assert_equal_inits(found, expected, keys):
    """Compares the variables of three replicas, made as in the experiments."""
    programs = [
        jax.jit(jax.vmap(functools.partial(init, images=IMAGES))) for init in (found, expected)
    ]
    for key in keys:
        chex.assert_trees_all_equal(*(program(jax.random.split(key, 3)) for program in programs))


@pytest.mark.parametrize("name", only(["a data-dependent bias", "layers side by side"], MODULES))
def test_groups_have_the_bits_of_the_plain_initialisation(name):
    network = Network(MODULES[name])
    keys = [jax.random.key(seed) for seed in range(2)]
    assert_equal_inits(network.init, network.plain_init, keys)


@pytest.mark.slow
@pytest.mark.parametrize("make_key", ["PRNGKey", slow("rbg")])
def test_other_keys_are_taken(make_key):
    network = Network(MODULES["densenet"])
    key = jax.random.PRNGKey(3) if make_key == "PRNGKey" else jax.random.key(3, impl=make_key)
    assert_equal_inits(network.init, network.plain_init, [key])


@pytest.mark.parametrize("fan", ["fan_in", "fan_out"])
def test_he_normal_is_that_of_flax(fan):
    """Also in one program, where XLA merges the two factors of the numbers."""
    shapes = [(3, 3, 5, 7), (4, 9), (2, 2, 1, 6)]
    plain = nn.initializers.variance_scaling(2.0, fan, "normal")
    draw = lambda init: jax.jit(lambda key: [init(key, shape) for shape in shapes])
    found, expected = (
        draw(init)(jax.random.key(1)) for init in (_initialization.he_normal(fan), plain)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_generator_is_compiled_a_few_times():
    network = Network(models.PyramidNet(depth=20, alpha=30, width=8))
    count = lambda init: (
        jax.jit(lambda key: init(key, IMAGES)).lower(jax.random.key(0)).as_text().count("erf_inv")
    )
    shapes = jax.eval_shape(lambda key: network.init(key, IMAGES), jax.random.key(0))["params"]
    kernels = [leaf for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4]
    sizes = {max((kernel.size - 1).bit_length(), 10) for kernel in kernels}
    assert count(network.init) == len(sizes) < len(kernels) / 3


def test_a_network_is_traced_once(monkeypatch):
    traces = []
    original = models.PyramidNet._shake
    record = lambda self, index: traces.append(index) or original(self, index)
    monkeypatch.setattr(models.PyramidNet, "_shake", record)
    network = Network(MODULES["pyramidnet"].clone(alpha=29))
    for _ in range(2):
        jax.eval_shape(
            jax.vmap(lambda key: network.init(key, IMAGES)), jax.random.split(jax.random.key(0))
        )
    assert traces == [0, 1, 2]
