"""EfficientNet: published parameter counts, the logits of PyTorch, and what is dropped."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_logits
from fast import only
from half_precision import assert_only_layers_are_half
from torch_reference import weights

from flatjax import models
from flatjax.models import _efficientnet
from flatjax.models._efficientnet import _MBConv, _Stage

IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8) % 5
TINY = models.EfficientNet(0.05, 0.25, stem="small", num_classes=5, momentum=0.8)


@pytest.fixture
def few_stages(monkeypatch):
    """The first three have all kinds of blocks, and compile in a third of the time."""
    monkeypatch.setattr(_efficientnet, "_STAGES", _efficientnet._STAGES[:3])


SCALED = {"width_multiplier": 0.4, "depth_multiplier": 0.5}  # as in `torch_reference`


def torch_name(modules):
    """The name in torchvision of a module of ours."""
    single = {"stem": "features.0.0", "stem_norm": "features.0.1"}
    single |= {"head": "features.8.0", "head_norm": "features.8.1", "logits": "classifier.1"}
    first, *rest = modules
    if not rest:
        return single[first]
    stage, block = map(int, re.fullmatch(r"stage(\d+)_block(\d+)", first).groups())
    layers = ["expand", "depthwise", "excitation", "project"][0 if stage else 1 :]
    if rest[0] in ("squeeze", "excite"):
        part = {"squeeze": "fc1", "excite": "fc2"}[rest[0]]
        layer = layers.index("excitation")
    else:
        name, norm = re.fullmatch(r"([a-z]+)(_norm)?", rest[0]).groups()
        part, layer = (1 if norm else 0), layers.index(name)
    return f"features.{stage + 1}.{block}.block.{layer}.{part}"


PUBLISHED = [5288548, 7794184, 9109994, 12233232, 19341616, 30389784, 43040704, 66347960]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "expected"), only([(0, PUBLISHED[0])], enumerate(PUBLISHED)))
def test_number_of_parameters_is_the_published_one(variant, expected):
    model = models.create(f"efficientnet_b{variant}", 1000)
    assert torch_logits.count(model, 32) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "scaled"])
@pytest.mark.claim("README.md", "give the logits of their PyTorch counterparts")
def test_logits_are_those_of_torch(name):
    # By statistics of the batch: with the running ones of `weights.py` images hardly matter.
    model, size = {
        "efficientnet_b0": (models.create("efficientnet_b0", 10, stem="small"), 32),
        "scaled": (models.create("efficientnet_b5", 10, **SCALED), 45),
    }[name]
    model = model.clone(dropout=0.0, stochastic_depth=0.0)
    expected = torch_logits.reference("efficientnet")[f"{name}.train"]
    torch_logits.assert_logits_agree(expected, model, size, torch_name, train=True)


@pytest.mark.slow
def test_running_statistics_are_used_as_in_torch():
    model = models.create("efficientnet_b5", 10, **SCALED)
    variables = weights.variables(torch_logits.init_shapes(model, 45), torch_name)
    apply = jax.jit(functools.partial(model.apply, train=False))
    logits = apply(variables, weights.images(2, 45, 45, 3))
    expected = torch_logits.reference("efficientnet")["scaled.eval"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@functools.cache
def tiny_variables():
    return jax.jit(functools.partial(TINY.init, train=False))(jax.random.key(0), IMAGES[:1])


def test_probabilities_of_dropping_grow_with_depth():
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append((context.module.rate, context.module.broadcast_dims))
        return call(*args, **kwargs)

    model = TINY.clone(stochastic_depth=0.4, dropout=0.3)
    with nn.intercept_methods(note):
        torch_logits.init_shapes(model, 16)
    images = (1, 2, 3)  # axes that share what is drawn
    # One block in each stage; of 8, 8, 8, 8, 8, 16 and 16 channels, the second to fourth and the
    # sixth with stride 2.
    assert rates[:-1] == [(pytest.approx(0.4 * block / 7), images) for block in (0, 4, 6)]
    assert rates[-1] == (0.3, ())


@pytest.mark.slow
def test_a_branch_is_left_out_for_whole_images_and_scaled_up_in_the_others():
    x = np.random.default_rng(1).normal(size=(200, 4, 4, 8)).astype(np.float32)
    norm = functools.partial(nn.BatchNorm, use_running_average=False)
    block = lambda skipped: _MBConv(_Stage(1, 3, 1, 8, 1), skipped, norm, jnp.float32)
    variables = jax.jit(functools.partial(block(0.0).init, train=False))(jax.random.key(0), x)

    @functools.partial(jax.jit, static_argnames=("skipped", "train"))
    def branch(skipped, train=True):
        rngs = {"dropout": jax.random.key(1)} if skipped and train else {}
        y, _ = block(skipped).apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)
        return y - x

    whole, dropped = branch(0.0), branch(0.25)
    kept = np.any(np.abs(dropped) > 1e-6, axis=(1, 2, 3))
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-3, atol=1e-5)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 200)
    np.testing.assert_allclose(branch(0.25, train=False), whole, rtol=1e-5, atol=1e-6)


@functools.cache
def training():
    """Loss, statistics and gradient; compiled once."""

    def loss(params, stats, key):
        variables = {"params": params, "batch_stats": stats}
        logits, updates = TINY.apply(
            variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        loss = -jnp.mean(jax.nn.log_softmax(logits)[np.arange(8), LABELS])
        return loss, updates["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.usefixtures("few_stages")
def test_gradients_are_finite_and_reach_every_kernel():
    variables = tiny_variables()
    run = lambda key: training()(variables["params"], variables["batch_stats"], jax.random.key(key))
    (loss, _), gradient = run(1)
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert path[-1].key != "kernel" or np.linalg.norm(leaf) > 1e-6, path
    assert run(1)[0][0] == loss
    assert run(2)[0][0] != loss  # something else was dropped


@pytest.mark.slow
@pytest.mark.usefixtures("few_stages")
def test_running_statistics_have_the_momentum_asked_for():
    params, stats = tiny_variables()["params"], tiny_variables()["batch_stats"]
    filled = lambda value: jax.tree.map(lambda leaf: jnp.full_like(leaf, value), stats)
    update = lambda value: training()(params, filled(value), jax.random.key(1))[0][1]
    for zero, one in zip(*map(jax.tree.leaves, (update(0.0), update(1.0))), strict=True):
        np.testing.assert_allclose(one - zero, 0.8, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("few_stages")
def test_evaluation_needs_no_random_numbers_and_half_precision_is_close():
    apply = lambda dtype: jax.jit(functools.partial(TINY.clone(dtype=dtype).apply, train=False))
    logits = apply("float32")(tiny_variables(), IMAGES)
    half = apply("bfloat16")(tiny_variables(), IMAGES)
    assert logits.shape == (8, 5)
    assert half.dtype == jnp.float32
    error = np.abs(half - logits).max() / np.abs(logits).max()
    assert 0 < error < 0.05  # rounding to eight bits, some forty times


@pytest.mark.usefixtures("few_stages")
def test_half_precision_has_float32_variables():
    assert_only_layers_are_half(TINY.clone(dtype="bfloat16"), IMAGES)


@pytest.mark.slow
@pytest.mark.usefixtures("few_stages")
def test_initial_weights_have_the_variances_of_he():
    params = tiny_variables()["params"]
    kernel = np.asarray(params["logits"]["kernel"])
    assert np.abs(kernel).max() <= 5**-0.5
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kind, leaf = path[-1].key, np.asarray(leaf)
        if kind != "kernel":
            assert np.all(leaf == (1 if kind == "scale" else 0)), path
            continue
        *spatial, inputs, outputs = leaf.shape
        fan_out = (1 if inputs == 1 else outputs) * np.prod(spatial)
        expected = 1 / (3 * 5) if path[0].key == "logits" else 2 / fan_out
        # The sample variance of n normal numbers is off by sqrt(2/n) of itself; allow 4 of these.
        assert abs(np.mean(leaf**2) / expected - 1) < 4 * np.sqrt(2 / leaf.size), path


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"width_multiplier": 0},
            ValueError,
            "width_multiplier must be finite, > 0, got 0",
        ),
        ({"depth_multiplier": "1"}, TypeError, "depth_multiplier must be a number, got '1'"),
        ({"stem": 2}, ValueError, "stem must be one of 'small', 'imagenet'; got 2"),
        ({"stochastic_depth": -0.1}, ValueError, r"stochastic_depth must be in \[0, 1\], got -0.1"),
        ({"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\], got 1.5"),
        ({"momentum": None}, TypeError, "momentum must be a number, got None"),
        ({"epsilon": 2.0}, ValueError, r"epsilon must be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        models.create("efficientnet_b0", 10, **options)
