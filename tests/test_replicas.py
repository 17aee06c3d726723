"""Centers, distances, stacks and meshes of replicas, and transformations of each on its own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from fast import slow
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax
from flatjax._replicas import check_mesh_fit

RNG = np.random.default_rng(0)
STACK = {
    "w": RNG.normal(size=(4, 2, 3)).astype(np.float32),
    "b": RNG.normal(size=(4, 3)).astype(np.float32),
}
CENTER = {name: leaf.mean(axis=0) for name, leaf in STACK.items()}
DISTANCE = sum(((leaf - leaf.mean(axis=0)) ** 2).sum() for leaf in STACK.values()) / 4
assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------ center and distance


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_center_of_a_stack(axis, keepdims):
    stack = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, axis), STACK)
    center = flatjax.replica_center(stack, replica_axis=axis, keepdims=keepdims)
    expected = {name: leaf.mean(axis=axis, keepdims=keepdims) for name, leaf in stack.items()}
    assert_close(center, expected)
    distance = flatjax.replica_distance(stack, replica_axis=axis)
    np.testing.assert_allclose(distance, DISTANCE, rtol=1e-5)


def on_named_axis(fn, number):
    """Runs fn with two replicas on each device of a mesh axis, or one a vmapped program."""
    if number is None:
        where = {"axis_name": "replica"}
        return jax.vmap(functools.partial(fn, **where), axis_name="replica", out_axes=None)
    where = {"axis_name": "replica", "replica_axis": 0}
    mesh = flatjax.replica_mesh(4, devices(number))
    specs = {"in_specs": P("replica"), "out_specs": P()}
    return jax.jit(jax.shard_map(functools.partial(fn, **where), mesh=mesh, **specs))


@pytest.mark.parametrize("number", [None, 2, 4])
def test_center_and_distance_over_a_named_axis(number):
    assert_close(on_named_axis(flatjax.replica_center, number)(STACK), CENTER)
    distance = on_named_axis(flatjax.replica_distance, number)(STACK)
    np.testing.assert_allclose(distance, DISTANCE, rtol=1e-5)


def test_center_of_half_precision_replicas():
    """257 is not among the bfloat16 numbers, but is the center that distances are taken from."""
    stack = jnp.array([[256.0], [258.0]], jnp.bfloat16)
    center = flatjax.replica_center(stack, replica_axis=0)
    distance = flatjax.replica_distance(stack, replica_axis=0)
    assert (center.dtype, distance.dtype) == (jnp.bfloat16, jnp.float32)
    assert float(distance) == 1.0


def test_distance_of_half_precision_replicas():
    """Squares of 300 overflow float16."""
    stack = jnp.array([[-300.0] * 4, [300.0] * 4], jnp.float16)
    assert float(flatjax.replica_distance(stack, replica_axis=0)) == 4 * 300.0**2


COUNTERS = {
    "same": np.full(3, 2**25 + 1, np.int32),
    "apart": np.int32([2**25 + 1, 2**25 + 3, 2**25 + 5]),
    "rounded": np.int8([0, 0, 2]),
    "flag": np.array([True, True, False]),
    "key": jax.random.split(jax.random.key(0), 3),
}


@pytest.mark.parametrize("place", ["stack", slow("vmap"), slow("both")])
def test_center_of_what_is_no_weight(place):
    """Exact for integers; a key is the first replica's."""
    if place == "stack":
        center = flatjax.replica_center(COUNTERS, replica_axis=0)
    elif place == "vmap":
        run = lambda tree: flatjax.replica_center(tree, axis_name="replica")
        center = jax.tree.map(lambda leaf: leaf[1], jax.vmap(run, axis_name="replica")(COUNTERS))
    else:
        run = lambda tree: flatjax.replica_center(tree, axis_name="replica", replica_axis=0)
        blocks = jax.tree.map(lambda leaf: leaf[:, None], COUNTERS)
        center = jax.tree.map(lambda leaf: leaf[1], jax.vmap(run, axis_name="replica")(blocks))
    key = center.pop("key")
    assert jax.tree.map(int, center) == {
        "same": 2**25 + 1,
        "apart": 2**25 + 3,
        "rounded": 0,
        "flag": 0,
    }
    assert {name: leaf.dtype for name, leaf in center.items()} == {
        name: COUNTERS[name].dtype for name in center
    }
    assert key == COUNTERS["key"][0]


WHOLE = [jnp.int8, jnp.int16, jnp.int32, jnp.uint8, jnp.uint16, jnp.uint32, jnp.int4, jnp.uint4]


def whole_numbers(dtype, num_replicas):
    """Columns of numbers of all replicas: extremes, halves, and random numbers."""
    low, high = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    columns = [[low] * num_replicas, [high] * num_replicas]
    columns += [[low, *[high] * (num_replicas - 1)], [high, *[low] * (num_replicas - 1)]]
    columns += [[(low, high)[a % 2] for a in range(num_replicas)]]
    rng = np.random.default_rng(num_replicas)
    columns += rng.integers(low, high, (50, num_replicas), endpoint=True).tolist()
    return np.array(columns).T  # (y, number of columns), in int64


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 7, 300])
@pytest.mark.parametrize("dtype", WHOLE, ids=[jnp.dtype(dtype).name for dtype in WHOLE])
def test_center_of_integers_is_that_of_python(dtype, num_replicas):
    numbers = whole_numbers(dtype, num_replicas)
    expected = [sum(column) // num_replicas for column in numbers.T.tolist()]
    stack = jnp.asarray(numbers.astype(jnp.dtype(dtype)))

    def check(center):
        assert center.dtype == dtype
        assert np.asarray(center).astype(np.int64).tolist() == expected

    check(flatjax.replica_center(stack, replica_axis=0))
    check(flatjax.replica_center(stack, replica_axis=0, keepdims=True)[0])
    check(flatjax.replica_center(stack.T, replica_axis=1, keepdims=True)[:, 0])
    named = functools.partial(flatjax.replica_center, axis_name="replica")
    check(jax.vmap(named, axis_name="replica")(stack)[-1])
    if num_replicas % 3 == 0:
        blocks = stack.reshape(3, num_replicas // 3, -1)
        both = functools.partial(named, replica_axis=0)
        check(jax.vmap(both, axis_name="replica")(blocks)[-1])


def test_center_of_integers_of_64_bits():
    numbers = whole_numbers(jnp.int64, 3)
    with jax.enable_x64(True):
        center = flatjax.replica_center(jnp.asarray(numbers), replica_axis=0)
        assert center.dtype == jnp.int64
        assert center.tolist() == [sum(column) // 3 for column in numbers.T.tolist()]


def test_distance_of_the_weights_that_are_marked():
    params = COUNTERS | {"w": jnp.array([0.0, 2.0, 4.0]), "bn": jnp.array([0.0, 200.0, 400.0])}
    distance = lambda **mask: float(flatjax.replica_distance(params, replica_axis=0, **mask))
    assert distance() == pytest.approx((4 + 4 + 4e4 + 4e4) / 3)
    marked = {name: name == "w" for name in params}
    assert distance(mask=marked) == distance(mask=lambda params: marked) == pytest.approx(8 / 3)


def test_one_replica_is_the_center():
    stack = jax.tree.map(lambda leaf: leaf[:1], STACK)
    assert_close(flatjax.replica_center(stack, replica_axis=0), unstacked(STACK)[0])
    assert float(flatjax.replica_distance(stack, replica_axis=0)) == 0.0


@pytest.mark.parametrize("fn", [flatjax.replica_center, flatjax.replica_distance])
def test_center_and_distance_refuse(fn):
    with pytest.raises(ValueError, match=r"\['w'\] must hold at least one replica, got .*\(0, 3\)"):
        fn({"w": jnp.ones((0, 3))}, replica_axis=0)
    with pytest.raises(ValueError, match="axis_name or replica_axis"):
        fn(STACK)
    with pytest.raises(ValueError, match=r"\['w'\].* replica axis 0"):
        fn({"w": jnp.array(1.0)}, replica_axis=0)
    with pytest.raises(ValueError, match=r"\['w'\] has 3 replicas"):
        fn(STACK | {"w": STACK["w"][:3]}, replica_axis=0)
    with pytest.raises(ValueError, match="replica_axis must be >= 0"):
        fn(STACK, replica_axis=-1)
    with pytest.raises(TypeError, match="replica_axis must be an int"):
        fn(STACK, replica_axis=0.0)


# ------------------------------------------------------------------------------------- stacks


def unstacked(stack):
    return [jax.tree.map(lambda leaf, a=a: leaf[a], stack) for a in range(4)]


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_stack_replicas_is_each_initialisation(make_key):
    init_fn = lambda key: {"w": jax.random.normal(key, (2, 3)), "b": jnp.zeros(3)}
    keys = jax.random.split(make_key(0), 4)
    stack = flatjax.stack_replicas(init_fn, keys)
    assert_close(unstacked(stack), [init_fn(key) for key in keys])
    assert float(flatjax.replica_distance(stack, replica_axis=0)) > 0


@pytest.mark.parametrize("axis", [0, 1])
def test_unstack_replicas(axis):
    stack = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, axis), STACK)
    assert_close(flatjax.unstack_replicas(stack, axis), unstacked(STACK))


def test_a_common_key_gives_a_common_initialisation():
    keys = jnp.stack([jax.random.key(3)] * 3)
    stack = flatjax.stack_replicas(lambda key: jax.random.normal(key, (2,)), keys)
    assert float(flatjax.replica_distance(stack, replica_axis=0)) == 0.0


def test_stacks_refuse():
    draw = lambda key: jax.random.normal(key, (2,))
    for keys in (jax.random.key(0), jax.random.PRNGKey(0), [jax.random.key(0)]):
        with pytest.raises(ValueError, match="keys must be a stack"):
            flatjax.stack_replicas(draw, keys)
    with pytest.raises(ValueError, match=r"\['w'\] has 2 replicas"):
        flatjax.unstack_replicas(STACK | {"w": STACK["w"][:2]})


# -------------------------------------------------------------------------------- per_replica


@pytest.mark.claim("docs/optax.md", "each replica's own norm")
def test_norms_are_clipped_replica_by_replica():
    grads = jax.tree.map(lambda leaf: leaf * np.float32(10.0) ** (a_axis(leaf) - 1), STACK)
    tx = flatjax.per_replica(optax.clip_by_global_norm(1.0))
    clipped = jax.jit(lambda: tx.update(grads, tx.init(grads))[0])()
    clipped = jax.tree.map(np.asarray, clipped)
    for found, grad in zip(unstacked(clipped), unstacked(grads), strict=True):
        norm = optax.tree.norm(grad)
        assert_close(found, jax.tree.map(lambda g, norm=norm: g / max(norm, 1.0), grad))
    norms = [float(optax.tree.norm(found)) for found in unstacked(clipped)]
    np.testing.assert_allclose(norms[1:], 1.0, rtol=1e-5)
    assert norms[0] < 1.0


def a_axis(leaf):
    """The index of the replica, as an array that broadcasts."""
    return np.arange(4).reshape(4, *[1] * (leaf.ndim - 1))


def test_per_replica_is_a_run_for_each_replica():
    """With a norm, a momentum and a schedule in the state."""
    base = optax.chain(
        optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(0.1, 0.0, 5))
    )

    def run(tx, params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=5)[0][0]

    stacked = jax.jit(functools.partial(run, flatjax.per_replica(base)))(STACK)
    single = jax.jit(functools.partial(run, base))
    assert_close(unstacked(stacked), [single(params) for params in unstacked(STACK)])


def test_extra_arguments_of_per_replica():
    """Some are stacked, one for each replica; the others are shared."""

    def update_fn(updates, state, params=None, *, value, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda u: u + factor * value, updates), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)
    tx = flatjax.per_replica(base, stacked_extra_args=("value",))
    value = jnp.arange(4.0)
    updates, _ = tx.update(STACK, tx.init(STACK), value=value, factor=2.0, unheard_of="text")
    assert_close(updates, jax.tree.map(lambda leaf: leaf + 2 * a_axis(leaf), STACK))


def test_per_replica_refuses():
    with pytest.raises(ValueError, match=r"\['w'\] has 2 replicas"):
        flatjax.per_replica(optax.sgd(0.1)).init(STACK | {"w": STACK["w"][:2]})


# -------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize(
    ("replicas", "number", "shape"),
    [
        (1, 1, (1, 1)),
        (3, 1, (1, 1)),
        (3, 8, (1, 8)),
        (4, 8, (4, 2)),
        (2, 8, (2, 4)),
        (8, 8, (8, 1)),
        (16, 8, (8, 1)),
        (6, 4, (2, 2)),
        (4, 6, (2, 3)),
        (3, 6, (3, 2)),
        (5, 5, (5, 1)),
    ],
)
def test_replica_mesh_uses_all_devices_and_divides_the_replicas(replicas, number, shape):
    mesh = flatjax.replica_mesh(replicas, devices(number))
    assert dict(mesh.shape) == dict(zip(("replica", "data"), shape, strict=True))
    assert list(mesh.devices.flat) == devices(number)
    check_mesh_fit(replicas, mesh)  # does not raise
    stack = jax.device_put(jnp.zeros((replicas, 2)), NamedSharding(mesh, P("replica")))
    assert stack.addressable_shards[0].data.shape == (replicas // shape[0], 2)


def test_replica_mesh_takes_all_devices():
    assert flatjax.replica_mesh(4).size == len(jax.devices())
    assert dict(flatjax.replica_mesh(4, devices(8)).shape) == {"replica": 4, "data": 2}


def test_meshes_refuse():
    with pytest.raises(ValueError, match="num_replicas must be >= 1"):
        flatjax.replica_mesh(0)
    with pytest.raises(TypeError, match="num_replicas must be an int"):
        flatjax.replica_mesh(2.0)
    with pytest.raises(ValueError, match="devices must not be empty"):
        flatjax.replica_mesh(2, [])
    with pytest.raises(ValueError, match=r"3 replicas do not fit .* size 4"):
        check_mesh_fit(3, flatjax.replica_mesh(4, devices(8)))
    with pytest.raises(ValueError, match="mesh must have an axis 'replica'"):
        check_mesh_fit(2, jax.make_mesh((2,), ("data",), devices=devices(2)))
