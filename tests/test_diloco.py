"""DiLoCo and all that `pull_to_center` with an outer optimizer stands for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_rows as numpy_loops
import optax
import pytest
import reference
from fast import only, slow
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy_rows import PARAMS, REPLICAS, STEPS, as_points, departure
from test_against_numpy_placements import COLUMNS, double_precision, mesh_of
from test_cost_model import sent_in

import flatjax

RATE, PERIOD = 0.05, 6
TOLERANCE = 1e-10
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)
STREAMS = ({"bias": True, "weight": False}, {"bias": False, "weight": True})
__all__ = ["double_precision"]  # a fixture of all tests here


def loop(**options):
    return reference.diloco(
        as_points(PARAMS), numpy_loops.gradient_by_hand, [RATE] * STEPS, period=PERIOD, **options
    )


def diloco(outer=NESTEROV, inner=None, **options):
    inner = optax.adamw(RATE, weight_decay=0.01) if inner is None else inner
    return flatjax.diloco(inner, outer, PERIOD, **options)


DECAY = {"decay": 0.01}
PARTS = {"fragments": [(True, False), (False, True)]}
ROWS = {
    "diloco": ({}, DECAY),
    "blend": ({"blend": 0.3}, DECAY | {"blend": 0.3}),
    "delay": ({"delay": 2}, DECAY | {"delay": 2}),
    "streaming": (
        {"fragments": STREAMS, "delay": 4, "blend": 0.5},
        DECAY | PARTS | {"delay": 4, "blend": 0.5},
    ),
}
each_row = pytest.mark.parametrize("row", ROWS)


@functools.cache
def path_of(row):
    return loop(**ROWS[row][1])


def run_in(column, tx):
    axes, gradient, lift = COLUMNS[column]
    return lift(functools.partial(numpy_loops.train, tx(**axes), gradient))(
        PARAMS, numpy_loops.BATCHES
    )


@pytest.mark.parametrize("column", only(["vmap", "shard_map"], COLUMNS))
@pytest.mark.parametrize("row", ["streaming", slow("diloco")])
def test_placements(row, column):
    found = run_in(column, functools.partial(diloco, **ROWS[row][0]))
    assert departure(found, path_of(row)) < TOLERANCE


@each_row
def test_options(row):
    found = run_in("stacked", functools.partial(diloco, **ROWS[row][0]))
    assert departure(found, path_of(row)) < TOLERANCE


def sgd_loop(**options):
    return loop(adam=False, **options)


def pulled(outer, gamma=jnp.inf, **options):
    pull = functools.partial(flatjax.pull_to_center, gamma, 1 / PERIOD, outer=outer, **options)
    return lambda **axes: optax.chain(optax.sgd(RATE), pull(period=PERIOD, **axes))


def test_the_mean_is_sgd_with_learning_rate_1():
    """Local SGD, and with a finite gamma the pull without an outer optimizer."""
    for gamma in (jnp.inf, 0.7):
        found = run_in("stacked", pulled(optax.sgd(1.0), gamma))
        same = run_in("stacked", pulled(None, gamma))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, same)
    local_sgd = sgd_loop(outer_learning_rate=1.0, outer_momentum=None)
    assert departure(run_in("stacked", pulled(None)), local_sgd) < TOLERANCE


@pytest.mark.claim("docs/relations.md", "EASGD")
def test_elastic_averaging():
    alpha, beta = 0.2, 0.6
    pull = lambda **axes: flatjax.pull_to_center(
        -np.log(1 - alpha), 1.0, outer=optax.sgd(beta), **axes
    )
    found = run_in("vmap", lambda **axes: optax.chain(optax.sgd(RATE), pull(**axes)))
    points = as_points(PARAMS)
    path = reference.elastic_averaging(
        points, numpy_loops.gradient_by_hand, RATE, alpha, beta, STEPS
    )
    assert departure(found, path) < TOLERANCE


def averaged(coupled):
    """SGD that averages the replicas after the steps for which `coupled(t)` holds."""
    w, path = as_points(PARAMS), []
    for t in range(STEPS):
        w = [w_a - RATE * numpy_loops.gradient_by_hand(w_a, a, t) for a, w_a in enumerate(w)]
        if coupled(t):
            w = [reference.barycentre(w)] * len(w)
        path.append(w)
    return path


FORK = 20  # the step before which replicas are one
until_the_fork = flatjax.pull_to_center(
    lambda count: jnp.where(count < FORK, jnp.inf, 0.0), 1.0, replica_axis=0
)


def test_post_local_sgd():
    local = flatjax.pull_to_center(jnp.inf, 1.0, period=PERIOD, replica_axis=0)
    found = numpy_loops.train_stack(optax.chain(optax.sgd(RATE), until_the_fork, local))
    coupled = lambda t: t < FORK or (t + 1) % PERIOD == 0
    assert departure(found, averaged(coupled)) < TOLERANCE


def test_swap():
    found = numpy_loops.train_stack(optax.chain(optax.sgd(RATE), until_the_fork))
    path = averaged(lambda t: t < FORK)
    assert departure(found, path) < TOLERANCE
    last = jax.tree.map(lambda leaf: leaf[-1], found)
    center = flatjax.replica_center(last, replica_axis=0)
    for leaf, expected in zip(center.values(), reference.barycentre(path[-1]), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-9)


@pytest.mark.claim("docs/relations.md", "Lookahead")
def test_lookahead_is_one_worker():
    """Its slow weights go half of the way to the fast ones, every K steps."""
    start = {name: leaf[:1] for name, leaf in PARAMS.items()}
    batches = {name: leaf[:, :1] for name, leaf in numpy_loops.BATCHES.items()}
    gradient = numpy_loops.stacked_gradient
    tx = pulled(optax.sgd(0.5))(replica_axis=0)
    found = numpy_loops.train(tx, gradient, start, batches)
    lookahead = optax.lookahead(optax.sgd(RATE), sync_period=PERIOD, slow_step_size=0.5)

    def step(carry, batch):
        params, state = carry
        updates, state = lookahead.update(gradient(params.fast, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params.fast

    params = optax.LookaheadParams.init_synced(start)
    _, expected = jax.lax.scan(step, (params, lookahead.init(params)), batches)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


@pytest.mark.parametrize("inner", ["adam", slow("sgd")])
def test_entropy_sgd_that_keeps_its_inner_state_is_one_worker(inner):
    scale = {"sgd": optax.trace(0.9), "adam": optax.scale_by_adam()}[inner]
    start = {name: leaf[0] for name, leaf in PARAMS.items()}
    batches = {name: leaf[:, 0] for name, leaf in numpy_loops.BATCHES.items()}
    tx = flatjax.entropy_sgd(
        NESTEROV,
        scale,
        0.0,
        inner_learning_rate=RATE,
        inner_steps=PERIOD,
        averaging_decay=0.0,
        noise_scale=0.0,
        reset_inner=False,
    )
    found = numpy_loops.train(tx, numpy_loops.gradient, start, batches)
    one = {name: leaf[None] for name, leaf in start.items()}
    stacks = {name: leaf[:, None] for name, leaf in batches.items()}
    worker = diloco(inner=optax.chain(scale, optax.scale(-RATE)), replica_axis=0)
    expected = numpy_loops.train(worker, numpy_loops.stacked_gradient, one, stacks)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    jax.tree.map(lambda a, b: close(a, b[:, 0]), found, expected)


def test_workers_that_start_apart_agree_on_a_center():
    """Where each program sees its own weights only: once they have communicated."""
    tx = diloco(axis_name="replica")
    zeros = jax.tree.map(np.zeros_like, PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = jax.vmap(tx.update, axis_name="replica")(zeros, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, jax.jit(jax.vmap(tx.init))(PARAMS)
    for _ in range(PERIOD):
        params, state = step(params, state)
    pull = state[1]
    assert bool(pull.is_shared.all())
    means = jax.tree.map(lambda leaf: np.broadcast_to(np.mean(leaf, 0), leaf.shape), PARAMS)
    # AdamW has only decayed the weights, each by the same factor.
    factor = (1 - RATE * 0.01) ** PERIOD
    drift = jax.tree.map(lambda m: m + 0.7 * 1.9 * (factor - 1) * m, means)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    jax.tree.map(close, pull.center, drift)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), params, drift)


def test_int8_messages_are_of_the_displacement():
    """A weight of a million that moves by little is shared as well as one that starts at 0."""
    far = jax.tree.map(lambda leaf: np.full(leaf.shape, 1e6), PARAMS)
    moves = jax.tree.map(lambda leaf: -1e-2 * np.asarray(leaf), PARAMS)
    tx = flatjax.pull_to_center(
        jnp.inf, 1.0, outer=optax.sgd(1.0), communication_dtype="int8", replica_axis=0
    )
    updates = jax.jit(lambda: tx.update(moves, tx.init(far), far)[0])()
    for name, leaf in jax.tree.map(np.asarray, updates).items():
        step = np.abs(moves[name]).max(axis=tuple(range(1, leaf.ndim)), keepdims=True) / 127
        error = np.abs(leaf - moves[name].mean(0))
        assert np.all(error <= step.max() / 2 + 1e-9)


@pytest.mark.claim("docs/diloco.md", "in at least float32")
def test_memory_is_a_copy_for_the_center_and_one_for_the_momentum():
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(PARAMS))
    bytes_of = lambda **options: sum(
        leaf.nbytes
        for leaf in jax.tree.leaves(diloco(inner=optax.sgd(RATE), **options).init(PARAMS))
        if leaf.ndim
    )
    assert bytes_of(axis_name="replica") == 2 * size
    assert bytes_of(axis_name="replica", delay=1) == 3 * size
    assert bytes_of(replica_axis=0) == 2 * size / REPLICAS


@pytest.mark.claim("docs/diloco.md", "inside a conditional")
def test_replicas_communicate_in_the_conditional_only():
    mesh = mesh_of(REPLICAS)
    spec = P("replica")
    tx = diloco(axis_name="replica", delay=2)

    step = lambda params: tx.update(params, tx.init(params), params)[0]
    run = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec))
    program = run.trace(PARAMS).jaxpr
    outside, inside = _psums(program.jaxpr, False)
    assert outside == 0
    assert inside == 2 * len(jax.tree.leaves(PARAMS))  # once for centers that differ


@pytest.mark.parametrize(("dtype", "scale_bytes"), [("float32", 0), ("bfloat16", 0), ("int8", 4)])
def test_bytes_sent(dtype, scale_bytes):
    """At a coupled step: (y - 1) b for each weight, or a ring all-reduce in float32."""
    options = {} if dtype == "float32" else {"communication_dtype": dtype}
    tx = flatjax.pull_to_center(jnp.inf, 1.0, outer=NESTEROV, replica_axis=0, **options)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), PARAMS)
    spread = NamedSharding(mesh_of(REPLICAS), P("replica"))
    shared = NamedSharding(spread.mesh, P())
    step = lambda params, state: tx.update(jax.tree.map(jnp.tanh, params), state, params)
    with jax.set_mesh(spread.mesh), jax.enable_x64(False):
        state = jax.eval_shape(tx.init, params)
        shardings = jax.tree.map(
            lambda leaf: spread if leaf.shape[:1] == (REPLICAS,) else shared, (params, state)
        )
        step = jax.jit(step, in_shardings=shardings, out_shardings=shardings)
        program = step.lower(params, state).compile().as_text()
    leaves = jax.tree.leaves(params)
    size, y = sum(leaf.size for leaf in leaves) // REPLICAS, REPLICAS
    each_sends = size * jnp.dtype(dtype).itemsize + scale_bytes * len(leaves)
    expected = 2 * (y - 1) / y * 4 * size if dtype == "float32" else (y - 1) * each_sends
    assert sent_in(program, REPLICAS) == expected


def _psums(jaxpr, is_inside):
    """The number of collectives outside and inside of conditionals."""
    counts = np.zeros(2, int)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        counts[int(is_inside)] += name.startswith("psum") or name.startswith("all_gather")
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    counts += _psums(inner, is_inside or name == "cond")
    return counts


def test_weights_replaced_after_init():
    for axes in ({"replica_axis": 0}, {"axis_name": "replica"}):
        tx = diloco(delay=1, **axes)
        new = jax.tree.map(lambda w: 3 - w, PARAMS)
        state, expected = flatjax.set_params(tx.init(PARAMS), new), tx.init(new)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
        jax.tree.map(close, state[1], expected[1])
    with pytest.raises(ValueError, match="must match the center in the state"):
        flatjax.set_params(tx.init(PARAMS), {"bias": PARAMS["bias"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 6}, "delay must be < period = 6, got 6"),
        ({"blend": 1.0}, r"blend must be in \[0, 1\), got 1.0"),
        ({"fragments": []}, "fragments must hold between 1 and period = 6 masks, got 0"),
        ({"fragments": [None], "mask": STREAMS[0]}, "mask must be None where fragments is given"),
        ({"fragments": [STREAMS[0]]}, r"got params\['weight'\] in 0 of them"),
        ({"fragments": [None, STREAMS[0]]}, r"got params\['bias'\] in 2 of them"),
        ({"outer": optax.scale(1.0)}, "outer must be an optimizer with its learning rate"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        diloco(replica_axis=0, **options).init(PARAMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 1, "period": 2}, r"delay \(1\) needs outer"),
        ({"overlapped": True, "outer": NESTEROV}, "overlapped must be False where outer is given"),
        ({"offset": 3, "period": 3}, "offset must be < period = 3, got 3"),
    ],
)
def test_pull_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        flatjax.pull_to_center(jnp.inf, 0.1, replica_axis=0, **options)


@pytest.mark.slow
@pytest.mark.parametrize("decoupled", [slow(False), True])
def test_offset_shifts_the_coupled_steps(decoupled):
    def coupled_steps(offset):
        where = {"period": 4, "offset": offset, "replica_axis": 0}
        pull = flatjax.pull_to_center(1.0, 1.0, **where)
        tx = pull if decoupled else flatjax.couple_replicas(1.0, **where)
        state, params, found = tx.init(PARAMS), PARAMS, []
        for t in range(9):
            updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
            found += [t] if float(jnp.abs(updates["bias"]).max()) > 0 else []
        return found

    assert coupled_steps(0) == [3, 7]
    assert coupled_steps(1) == [0, 4, 8]
    assert coupled_steps(3) == [2, 6]
