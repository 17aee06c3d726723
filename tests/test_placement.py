"""`map_replicas`: the placement changes the program, not the result."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import only, slow
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from placements import MESHES, PLACEMENTS, mesh, placed

import flatjax
from flatjax import models

assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
each_placement = pytest.mark.parametrize("placement", PLACEMENTS)
each_placement_if_slow = pytest.mark.parametrize(
    "placement", only(["vmap", "unroll", "auto", "4x2"], PLACEMENTS)
)


# ---------------------------------------------------------------------------------- any function


def affine(params, x, shift):
    """Of pytrees, returning one."""
    return {"y": params["w"] @ x["a"] + shift["b"], "norms": (jnp.sum(x["a"]), jnp.sum(shift["b"]))}


RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(4, 3, 2)).astype(np.float32), "unused": np.arange(4)}
X = {"a": RNG.normal(size=(4, 2)).astype(np.float32)}
SHIFT = {"b": RNG.normal(size=3).astype(np.float32)}


@pytest.mark.parametrize(
    ("placement", "jit"),
    [(name, jax.jit) for name in PLACEMENTS] + [(name, lambda fn: fn) for name in ("vmap", "4x2")],
)
def test_stacked_and_shared_arguments(placement, jit):
    fn = flatjax.map_replicas(affine, in_axes=(0, 0, None), **placed(placement))
    expected = {
        "y": np.stack([PARAMS["w"][a] @ X["a"][a] + SHIFT["b"] for a in range(4)]),
        "norms": (X["a"].sum(axis=1), np.full(4, SHIFT["b"].sum())),
    }
    assert_close(jit(fn)(PARAMS, X, SHIFT), expected)


@each_placement
def test_gradient_with_respect_to_both_kinds_of_arguments(placement):
    fn = flatjax.map_replicas(
        lambda w, x: jnp.sum(jnp.tanh(w @ x)), in_axes=(0, None), **placed(placement)
    )
    energy = lambda w, x: jnp.sum(fn(w, x) * jnp.arange(1.0, 5.0))
    by_hand = lambda w, x: jnp.einsum("a,ai->", jnp.arange(1.0, 5.0), jnp.tanh(w @ x))
    arguments = PARAMS["w"], X["a"][0]
    assert_close(
        jax.jit(jax.grad(energy, argnums=(0, 1)))(*arguments),
        jax.grad(by_hand, argnums=(0, 1))(*arguments),
    )


@each_placement_if_slow
def test_random_keys_of_each_replica(placement):
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key: jax.random.normal(key, (2,))
    found = flatjax.map_replicas(draw, **placed(placement))(keys)
    np.testing.assert_array_equal(found, jax.vmap(draw)(keys))


@pytest.mark.parametrize("placement", ["unroll", "auto", slow("vmap"), slow("auto_mesh")])
def test_python_scalars(placement):
    """As shared arguments and as results."""
    fn = lambda w, factor: {"product": factor * w, "count": 3, "none": None}
    found = flatjax.map_replicas(fn, in_axes=(0, None), **placed(placement))(X["a"], 2.0)
    assert_close(found, {"product": 2.0 * X["a"], "count": np.full(4, 3), "none": None})


def test_in_axes_for_all_arguments():
    add = flatjax.map_replicas(jnp.add, in_axes=0, placement="unroll")
    np.testing.assert_array_equal(add(jnp.arange(3), jnp.ones(3)), [1, 2, 3])


@each_placement_if_slow
def test_static_and_keyword_arguments(placement):
    """They reach the function as they are; arrays among them are stacked, as those of vmap."""

    def fn(w, x, mode, *, train, scale=None, act=jnp.cos):
        assert (mode, train) == ({"kind": "double", "power": 2}, True)
        return {"y": mode["power"] * act(w @ x) * scale["s"], "name": mode["kind"]}

    mapped = flatjax.map_replicas(fn, in_axes=(0, 0, None), **placed(placement))
    mode, scale = {"kind": "double", "power": 2}, {"s": np.arange(4.0)}
    found = mapped(PARAMS["w"], X["a"], mode, train=True, scale=scale, act=jnp.sin)
    y = 2 * np.sin(np.einsum("aij,aj->ai", PARAMS["w"], X["a"])) * np.arange(4.0)[:, None]
    assert found.pop("name") == "double"
    assert_close(found, {"y": y.astype(np.float32)})


# -------------------------------------------------------------------- convolutions, batch norm


class Network(nn.Module):
    """A convolution, batch norm and a dense layer."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.5)(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


IMAGES = RNG.normal(size=(4, 8, 6, 6, 2)).astype(np.float32) * np.arange(1, 9)[:, None, None, None]
LABELS = RNG.integers(0, 3, size=(4, 8))


@functools.cache
def initial():
    """The variables of four replicas."""
    init = jax.jit(jax.vmap(lambda key: Network().init(key, IMAGES[0])))
    return init(jax.random.split(jax.random.key(0), 4))


def train_step(variables, images, labels):
    """Loss, gradient and new statistics of one replica."""

    def loss(params):
        variables_ = variables | {"params": params}
        logits, new = Network().apply(variables_, images, mutable=["batch_stats"])
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return cross_entropy.mean(), new["batch_stats"]

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@functools.cache
def one_by_one():
    """What each replica gives alone."""
    step = jax.jit(train_step)
    results = [
        step(jax.tree.map(lambda leaf, a=a: leaf[a], initial()), IMAGES[a], LABELS[a])
        for a in range(4)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


@pytest.mark.parametrize("placement", ["unroll", slow("vmap")])
def test_a_network_with_batch_norm(placement):
    step = jax.jit(flatjax.map_replicas(train_step, placement=placement))
    assert_close(step(initial(), IMAGES, LABELS), one_by_one())


@pytest.mark.parametrize("name", only(["4x2"], MESHES))
@pytest.mark.claim("docs/choosing.md", "All placements give the same parameters")
def test_batches_sharded_over_data(name):
    """Batch norm sees the whole batch of its replica, and each device holds its part alone."""
    place = lambda *axes: NamedSharding(mesh(name), P(*axes))
    variables = jax.device_put(initial(), place("replica"))
    batch = jax.device_put((IMAGES, LABELS), place("replica", "data"))
    step = (
        jax.jit(flatjax.map_replicas(train_step, mesh=mesh(name)))
        .lower(variables, *batch)
        .compile()
    )
    assert "all-gather" not in step.as_text()
    found = step(variables, *batch)
    assert_close(found, one_by_one())
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(place("replica"), leaf.ndim)


def test_batches_sharded_over_data_alone():
    """Without a mesh, plain jit shards the one program of all replicas."""
    variables = jax.device_put(initial(), NamedSharding(mesh("2x4"), P()))
    batch = jax.device_put((IMAGES, LABELS), NamedSharding(mesh("2x4"), P(None, "data")))
    step = jax.jit(flatjax.map_replicas(train_step))
    assert_close(step(variables, *batch), one_by_one())


# --------------------------------------------------------------------------- how it is placed


def convolutions(fn, *args, platform="cpu"):
    """The group counts of the convolutions in a program."""
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    return [int(count) for count in re.findall(r"feature_group_count = (\d+)", lowered.as_text())]


@pytest.mark.claim("docs/choosing.md", "convolutions on CPU")
def test_auto_unrolls_convolutions_on_cpu():
    """Four plain convolutions, where vmap makes a grouped one."""
    forward = lambda variables, images: Network().apply(variables, images, mutable=True)[0]
    found = lambda platform="cpu", **options: convolutions(
        flatjax.map_replicas(forward, **options), initial(), IMAGES, platform=platform
    )
    assert found(placement="vmap") == [4]
    assert found(placement="unroll") == [1] * 4
    assert found() == [1] * 4
    assert found("cuda") == found("tpu") == [4]
    assert found(mesh=mesh("2x1")) == [1] * 2  # two replicas on each device


def test_auto_vmaps_dense_layers():
    products = lambda **options: str(
        jax.make_jaxpr(flatjax.map_replicas(jnp.dot, **options))(PARAMS["w"], X["a"])
    ).count("dot_general")
    assert products(placement="unroll") == 4
    assert products() == products(placement="vmap") == 1


def convolve(x):
    return jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")


def with_custom_vjp():
    fn = jax.custom_vjp(convolve)
    fn.defvjp(lambda x: (convolve(x), None), lambda _, g: (g,))
    return fn


HIDDEN = {
    "plain": convolve,
    "jit": jax.jit(convolve),
    "gradient": jax.grad(lambda x: jnp.sum(convolve(x) ** 2)),
    "scan": lambda x: jax.lax.scan(lambda x, _: (convolve(x), None), x, length=2)[0],
    "while": lambda x: jax.lax.fori_loop(0, x.astype(int).max(), lambda _, x: convolve(x), x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, lambda x: x, convolve, x),
    "remat": jax.checkpoint(convolve),
    "custom_vjp": with_custom_vjp(),
    "jit_in_scan": lambda x: jax.lax.map(jax.jit(convolve), x[None]),
}


@pytest.mark.parametrize("fn", HIDDEN.values(), ids=HIDDEN)
def test_convolutions_are_found_at_any_depth(fn):
    assert models.contains_convolution(fn, jax.ShapeDtypeStruct((1, 1, 4, 4), jnp.float32))


@pytest.mark.parametrize("fn", [jnp.sin, lambda x: x @ x, jax.jit(jnp.cumsum)])
def test_no_convolution_where_there_is_none(fn):
    assert not models.contains_convolution(fn, jnp.ones((3, 3)))


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({"placement": "pmap"}, (), "placement must be one of .* 'pmap'"),
        ({"placement": "mesh"}, (), "mesh must be given"),
        ({}, (np.ones(4), np.ones(3)), r"\[1\] has 3 replicas .* others? .* 4"),
        ({"in_axes": (0,)}, None, "in_axes has 1 entries for 2"),
        ({"in_axes": (0, 1)}, None, "in_axes must hold 0 and None"),
        ({"in_axes": None}, None, "at least one 0"),
        ({}, ({}, {}), "must hold arrays"),
        ({}, (np.ones(4), 1.0), r"\[1\] must carry a replica axis"),
    ],
)
def test_map_replicas_refuses(options, args, message):
    with pytest.raises(ValueError, match=message):
        flatjax.map_replicas(jnp.add, **options)(*(args or (np.ones(4), np.ones(4))))


def test_map_replicas_refuses_meshes():
    of_another_name = jax.make_mesh((2,), ("x",), devices=devices(2))
    with pytest.raises(ValueError, match="axis 'replica'"):
        flatjax.map_replicas(jnp.add, mesh=of_another_name)(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match=r"3 replicas do not fit .* size 4"):
        flatjax.map_replicas(jnp.add, mesh=mesh("4x2"))(np.ones(3), np.ones(3))
