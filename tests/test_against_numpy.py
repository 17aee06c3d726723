"""The optimizers against the NumPy loops of `reference`: in double precision, at every step.

First the options of each optimizer where it is simplest, then a table of optimizers x placements:
wherever the replicas live, their parameters must be those of the loops.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flatjax

STEPS, INNER_STEPS, REPLICAS = 60, 5, 4
OUTER_STEPS = STEPS // INNER_STEPS
TOLERANCE = 1e-10
KEY_SEED = 3

# The learning rate halves and gamma grows by 1e4; one value a gradient, or an outer step.
RATE = 0.05 * (1 - 0.5 * np.arange(STEPS) / STEPS)
GAMMA = 5e-4 * 1e4 ** (np.arange(STEPS) / STEPS)
OUTER_RATE = 0.8 * (1 - 0.5 * np.arange(OUTER_STEPS) / OUTER_STEPS)
OUTER_GAMMA = 2e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)
REPLICA_GAMMA = 1e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)

MOMENTA = {
    "plain": {"momentum": 0.0, "nesterov": False},
    "heavy_ball": {"momentum": 0.9, "nesterov": False},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}
MASKS = {
    "everywhere": None,
    "weights_only": {"bias": False, "weight": True},
    "function": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 2, params),
}

# The problem: regression by f(x) = sum_j tanh(w_j x + b_j), every replica and step with a minibatch
# of its own.
_rng = np.random.default_rng(7)
PARAMS = {"bias": _rng.normal(size=(REPLICAS, 3)), "weight": _rng.normal(size=(REPLICAS, 3, 5))}
BATCHES = {
    "input": _rng.normal(size=(STEPS, REPLICAS, 8, 5)),
    "target": _rng.normal(size=(STEPS, REPLICAS, 8)),
}


def loss(params, batch):
    hidden = jnp.tanh(batch["input"] @ params["weight"].T + params["bias"])
    return 0.5 * jnp.mean((hidden.sum(axis=-1) - batch["target"]) ** 2)


def gradient_by_hand(w, a, t):
    bias, weight = w
    x, target = BATCHES["input"][t, a], BATCHES["target"][t, a]
    hidden = np.tanh(x @ weight.T + bias)
    residual = (hidden.sum(axis=1) - target) / len(target)
    backward = residual[:, None] * (1 - hidden**2)
    return reference.point([backward.sum(axis=0), backward.T @ x])


def zero_gradient(params, batch):
    del batch
    return jax.tree.map(jnp.zeros_like, params)


gradient = jax.grad(loss)
stacked_gradient = jax.vmap(gradient)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def schedule(values):
    """The listed values as an optax schedule (a formula of an int32 count has single precision)."""
    return lambda count: jnp.asarray(values)[count]


def train(tx, gradient, params, batches):
    """The parameters after each step."""

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), batches)[1]


def train_stack(tx, params=PARAMS, gradient=stacked_gradient):
    return jax.jit(functools.partial(train, tx, gradient))(params, BATCHES)


def train_first(tx):
    """A run of the first replica, alone."""
    params = jax.tree.map(lambda leaf: leaf[0], PARAMS)
    batches = jax.tree.map(lambda leaf: leaf[:, 0], BATCHES)
    return jax.jit(functools.partial(train, tx, gradient))(params, batches)


def as_points(stacked):
    """The replicas of a stacked pytree as points."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(stacked)]
    return [reference.point([leaf[a] for leaf in leaves]) for a in range(len(leaves[0]))]


def as_arrays(path):
    """A path as a pytree of arrays with a leading step axis; of several replicas, [steps, y]."""
    if isinstance(path[0], list):
        per_replica = [as_arrays(list(one)) for one in zip(*path, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *per_replica)
    return {name: np.stack([w[i] for w in path]) for i, name in enumerate(["bias", "weight"])}


def departure(actual, path):
    """The largest difference at any step, relative to the largest entry of the leaf."""

    def relative(a, e):
        assert a.shape == e.shape
        assert a.dtype == e.dtype == np.float64
        return np.max(np.abs(np.asarray(a) - e)) / np.max(np.abs(e))

    return max(jax.tree.leaves(jax.tree.map(relative, actual, as_arrays(path))))


# ------------------------------------------------------------------------------ the options


@pytest.mark.parametrize("decoupled", [False, True], ids=["in_gradient", "decoupled"])
@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_replicated_sgd(momentum, period, decoupled):
    options = MOMENTA[momentum] | {"weight_decay": 0.01, "period": period, "decoupled": decoupled}
    tx = flatjax.replicated_sgd(schedule(RATE), schedule(GAMMA), replica_axis=0, **options)
    path = reference.replicated_sgd(as_points(PARAMS), gradient_by_hand, RATE, GAMMA, **options)
    assert departure(train_stack(tx), path) < TOLERANCE


def couple_replicas(**options):
    decay_and_sgd = optax.add_decayed_weights(0.01), optax.sgd(schedule(RATE), momentum=0.9)
    return optax.chain(flatjax.couple_replicas(schedule(GAMMA), **options), *decay_and_sgd)


def pull_to_center(**options):
    decay_and_sgd = optax.add_decayed_weights(0.01), optax.sgd(schedule(RATE), momentum=0.9)
    pull = flatjax.pull_to_center(schedule(GAMMA), schedule(RATE), **options)
    return optax.chain(*decay_and_sgd, pull)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("coupling", [couple_replicas, pull_to_center])
def test_couplings_in_a_chain(coupling, mask):
    tx = coupling(replica_axis=0, period=3, mask=MASKS[mask])
    options = {"momentum": 0.9, "weight_decay": 0.01, "period": 3}
    options |= {"decoupled": coupling is pull_to_center}
    coupled_leaves = np.array([mask == "everywhere", True])
    gamma = [gamma_t * coupled_leaves for gamma_t in GAMMA]
    path = reference.replicated_sgd(as_points(PARAMS), gradient_by_hand, RATE, gamma, **options)
    assert departure(train_stack(tx), path) < TOLERANCE


def test_replicated_sgd_with_scoping():
    """The library's own schedule, which is a formula of the count and so single precision."""
    scoping = flatjax.schedules.scoping(GAMMA[0], steps=STEPS, factor=1e4)
    tx = flatjax.replicated_sgd(schedule(RATE), scoping, momentum=0.9, replica_axis=0)
    options = {"momentum": 0.9, "nesterov": True}
    path = reference.replicated_sgd(as_points(PARAMS), gradient_by_hand, RATE, GAMMA, **options)
    assert departure(train_stack(tx), path) < 1e-5


ENTROPY_OPTIONS = {"inner_steps": INNER_STEPS, "averaging_decay": 0.75, "noise_scale": 0.02}
# What gives the anchor similar steps: (w - mu) / eta' is twenty times w - mu.
OUTER_RATE_OF = {"none": OUTER_RATE, "gamma": OUTER_RATE, "learning_rate": 0.05 * OUTER_RATE}


def entropy_sgd(momentum, outer_rate, **options):
    inner = optax.chain(
        optax.add_decayed_weights(0.01),
        optax.trace(momentum["momentum"], nesterov=momentum["nesterov"]),
    )
    return flatjax.entropy_sgd(
        optax.sgd(schedule(outer_rate), momentum=0.5, nesterov=True),
        inner,
        schedule(OUTER_GAMMA),
        inner_learning_rate=schedule(RATE),
        key=KEY_SEED,
        **ENTROPY_OPTIONS,
        **options,
    )


def entropy_sgd_path(momentum, outer_rate, leaves=(True, True), **options):
    """The loop's path for the first replica; `leaves` says which feel the anchor and the noise."""
    leaves = np.array(leaves)
    return reference.entropy_sgd(
        as_points(PARAMS)[0],
        lambda w, t: gradient_by_hand(w, 0, t),
        RATE,
        [leaves * gamma_s for gamma_s in OUTER_GAMMA],
        outer_rate,
        outer_momentum=0.5,
        outer_nesterov=True,
        weight_decay=0.01,
        noise=[leaves * z for z in normal_draws(silent_esgd)[0]],
        **ENTROPY_OPTIONS,
        **momentum,
        **options,
    )


@pytest.mark.parametrize("scaling", OUTER_RATE_OF)
@pytest.mark.parametrize("decoupled", [False, True], ids=["in_gradient", "decoupled"])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_entropy_sgd(momentum, decoupled, scaling):
    options = {"decoupled": decoupled, "outer_scaling": scaling}
    arguments = MOMENTA[momentum], OUTER_RATE_OF[scaling]
    path = entropy_sgd_path(*arguments, **options)
    assert departure(train_first(entropy_sgd(*arguments, **options)), path) < TOLERANCE


@pytest.mark.parametrize("decoupled", [False, True], ids=["in_gradient", "decoupled"])
def test_entropy_sgd_with_a_mask(decoupled):
    mask = {"bias": False, "weight": True}
    arguments = MOMENTA["nesterov"], OUTER_RATE
    tx = entropy_sgd(*arguments, mask=mask, decoupled=decoupled)
    path = entropy_sgd_path(*arguments, leaves=(False, True), decoupled=decoupled)
    assert departure(train_first(tx), path) < TOLERANCE


def test_entropy_sgd_in_opaque_mode():
    """One update a loop of five gradients: the anchors of the loop are the parameters."""
    arguments = MOMENTA["nesterov"], OUTER_RATE
    tx = entropy_sgd(*arguments, opaque_mode=True)
    params = jax.tree.map(lambda leaf: leaf[0], PARAMS)
    loops = jax.tree.map(
        lambda leaf: leaf[:, 0].reshape(OUTER_STEPS, INNER_STEPS, *leaf.shape[2:]), BATCHES
    )

    def step(carry, loop):
        params, state = carry
        grad_fn = lambda params, i: gradient(params, jax.tree.map(lambda leaf: leaf[i], loop))
        grads = grad_fn(params, 0)
        updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    anchors = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), loops)[1])()
    path = entropy_sgd_path(*arguments)[INNER_STEPS - 1 :: INNER_STEPS]
    assert departure(anchors, path) < TOLERANCE


# ----------------------------------------------------------------- what the noise of a run is


@functools.cache
def normal_draws(silent):
    """The standard normal points [replica][step] of a run with the key of these tests.

    They are read off a run from zero of `silent(replica_axis=0)`, an optimizer whose every step is
    its normal draw when all gradients are zero. So nothing is presumed of how they are drawn.
    """
    start = jax.tree.map(np.zeros_like, PARAMS)
    positions = train_stack(silent(replica_axis=0), start, zero_gradient)
    draws = jax.tree.map(lambda leaf: np.diff(leaf, axis=0, prepend=0 * leaf[:1]), positions)
    return [as_points(jax.tree.map(lambda leaf, a=a: leaf[:, a], draws)) for a in range(REPLICAS)]


# No forces; sqrt(2 eta') = 1; mu = w', and the outer step goes all the way.
SILENT = {"weight_decay": 0.0, "averaging_decay": 0.0, "noise_scale": 1.0}


def silent_esgd(**options):
    return flatjax.esgd(0.5, 0.0, key=KEY_SEED, **SILENT, **options)


def silent_parle(**options):
    return flatjax.parle(0.5, 0.0, 0.0, key=KEY_SEED, **SILENT, **options)


def test_noise_is_normal_and_independent():
    draws = normal_draws(silent_esgd)
    numbers = np.concatenate([leaf.ravel() for one in draws for z in one for leaf in z])
    assert numbers.size == REPLICAS * STEPS * 18
    assert np.unique(numbers.round(9)).size == numbers.size  # no replica, step or leaf shares any
    # Moments of 4320 standard normal numbers, to four standard errors.
    for moment, expected, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]:
        error = np.mean(numbers**moment) - expected
        assert abs(error) < 4 * np.sqrt(variance / numbers.size)


# ------------------------------------------------------ the rows: optimizers and their loops


def entropy_path(gamma, outer_rate, rate=RATE, **options):
    """Y independent runs of Entropy-SGD."""
    runs = [
        reference.entropy_sgd(
            w_a,
            lambda w, t, a=a: gradient_by_hand(w, a, t),
            rate,
            gamma,
            outer_rate,
            noise=normal_draws(silent_esgd)[a],
            **options,
        )
        for a, w_a in enumerate(as_points(PARAMS))
    ]
    return [list(w) for w in zip(*runs, strict=True)]


def parle_path(gamma, replica_gamma, rate=RATE, **options):
    """The outer learning rate is that of the loop's last gradient."""
    return reference.parle(
        as_points(PARAMS),
        gradient_by_hand,
        rate,
        gamma,
        replica_gamma,
        rate[INNER_STEPS - 1 :: INNER_STEPS],
        noise=normal_draws(silent_parle),
        **options,
    )


def replicated_path(gamma, rate=RATE, **options):
    return reference.replicated_sgd(as_points(PARAMS), gradient_by_hand, rate, gamma, **options)


class Optimizer(NamedTuple):
    """A row of the table.

    Attributes:
      make: from `axis_name` and `replica_axis` to the transformation.
      path: the loop; its argument multiplies every gamma.
    """

    make: Callable[..., optax.GradientTransformation]
    path: Callable[[float], list]


def replicated_sgd_row(**options):
    options |= {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    return Optimizer(
        functools.partial(flatjax.replicated_sgd, schedule(RATE), schedule(GAMMA), **options),
        lambda factor: replicated_path(factor * GAMMA, **options),
    )


INNER = {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}
INNER |= {"averaging_decay": 0.6, "noise_scale": 0.02}
OUTER = {"outer_momentum": 0.5, "outer_nesterov": True}


def esgd_row(**options):
    make = functools.partial(flatjax.esgd, schedule(RATE), schedule(OUTER_GAMMA), key=KEY_SEED)
    arguments = {"outer_learning_rate": schedule(OUTER_RATE), "outer_momentum": 0.5}
    return Optimizer(
        functools.partial(make, **arguments, **INNER, **options),
        lambda factor: entropy_path(factor * OUTER_GAMMA, OUTER_RATE, **OUTER, **INNER, **options),
    )


def parle_row(**options):
    gammas = schedule(OUTER_GAMMA), schedule(REPLICA_GAMMA)
    make = functools.partial(flatjax.parle, schedule(RATE), *gammas, key=KEY_SEED)

    def path(factor):
        gammas = factor * OUTER_GAMMA, factor * REPLICA_GAMMA
        return parle_path(*gammas, **OUTER, **INNER, **options)

    return Optimizer(functools.partial(make, outer_momentum=0.5, **INNER, **options), path)


ROWS = {
    "replicated_sgd": replicated_sgd_row(),
    "replicated_sgd_every_third": replicated_sgd_row(period=3),
    "decoupled": replicated_sgd_row(decoupled=True),
    "decoupled_every_third": replicated_sgd_row(decoupled=True, period=3),
    "esgd": esgd_row(),
    "parle": parle_row(),
    "parle_decoupled": parle_row(decoupled=True),
}


@functools.cache
def expected_path(row):
    return ROWS[row].path(1.0)


@pytest.mark.parametrize("row", ROWS)
def test_the_comparison_sees_a_millionth_of_gamma(row):
    """The tolerance means something: gamma off by 1e-6 would be noticed."""
    off = as_arrays(ROWS[row].path(1 + 1e-6))
    assert departure(off, expected_path(row)) > 100 * TOLERANCE


# ------------------------------------------------------------------ the columns: placements


def on_mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("replica",))


REPLICAS_OF_BATCHES = P(None, "replica")  # after the axis of the steps


def one_by_one(run):
    """Runs replicas under vmap, by their name."""
    lifted = jax.vmap(run, in_axes=(0, 1), out_axes=1, axis_name="replica")
    return jax.jit(lifted)


def pmapped(run):
    return jax.pmap(run, in_axes=(0, 1), out_axes=1, axis_name="replica")


def sharded_map(run, devices):
    lifted = jax.shard_map(
        run,
        mesh=on_mesh(devices),
        in_specs=(P("replica"), REPLICAS_OF_BATCHES),
        out_specs=REPLICAS_OF_BATCHES,
    )
    return jax.jit(lifted)


def one_a_device(run):
    def local_run(params, batches):
        params = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), params)
        batches = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 1), batches)
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 1), run(params, batches))

    return sharded_map(local_run, REPLICAS)


def two_a_device(run):
    return sharded_map(run, REPLICAS // 2)


def automatic(run):
    """Plain jit; the compiler spreads the work, following the parameters' sharding."""

    def sharded_run(params, batches):
        mesh = on_mesh(REPLICAS)
        params = jax.device_put(params, NamedSharding(mesh, P("replica")))
        batches = jax.device_put(batches, NamedSharding(mesh, REPLICAS_OF_BATCHES))
        path = jax.jit(run)(params, batches)
        for leaf in jax.tree.leaves(path):
            assert len(leaf.sharding.device_set) == REPLICAS
            assert not leaf.sharding.is_fully_replicated
        return path

    return sharded_run


class Placement(NamedTuple):
    """A column of the table.

    Attributes:
      axes: where the optimizer finds the replicas.
      gradient: of one replica or of the stack that one program holds.
      lift: from the run of one program to that of all replicas.
    """

    axes: dict[str, Any]
    gradient: Callable
    lift: Callable


STACKED, NAMED = {"replica_axis": 0}, {"axis_name": "replica"}
COLUMNS = {
    "stacked": Placement(STACKED, stacked_gradient, jax.jit),
    "vmap": Placement(NAMED, gradient, one_by_one),
    "pmap": Placement(NAMED, gradient, pmapped),
    "shard_map": Placement(NAMED, gradient, one_a_device),
    "shard_map_of_stacks": Placement(STACKED | NAMED, stacked_gradient, two_a_device),
    "jit_of_sharded": Placement(STACKED, stacked_gradient, automatic),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_placements(row, column):
    axes, gradient, lift = COLUMNS[column]
    run = lift(functools.partial(train, ROWS[row].make(**axes), gradient))
    assert departure(run(PARAMS, BATCHES), expected_path(row)) < TOLERANCE


# ------------------------------------------------------------------ the defaults of the paper

SGD_DEFAULTS = {"momentum": 0.9, "nesterov": True}
INNER_DEFAULTS = SGD_DEFAULTS | {"inner_steps": 5, "weight_decay": 5e-4}
INNER_DEFAULTS |= {"averaging_decay": 0.75, "noise_scale": 1e-4}


@pytest.mark.parametrize("name", ["replicated_sgd", "esgd", "parle"])
def test_defaults(name):
    """Learning rate and coupling alone, as numbers."""
    rate, once, outer = np.full(STEPS, 0.02), np.ones(STEPS), np.ones(OUTER_STEPS)
    if name == "replicated_sgd":
        tx = flatjax.replicated_sgd(0.02, 0.3, replica_axis=0)
        path = replicated_path(0.3 * once, rate, **SGD_DEFAULTS)
    elif name == "esgd":
        tx = flatjax.esgd(0.02, 0.3, key=KEY_SEED, replica_axis=0)
        path = entropy_path(0.3 * outer, outer, rate, **INNER_DEFAULTS)
    else:
        tx = flatjax.parle(0.02, 0.3, 0.4, key=KEY_SEED, replica_axis=0)
        path = parle_path(0.3 * outer, 0.4 * outer, rate, **INNER_DEFAULTS)
    assert departure(train_stack(tx), path) < TOLERANCE


# ------------------------------------------------------------------- averages along the way

AVERAGES = {
    "swa": ({"start": 20}, lambda path: reference.equal_average(path, 20)),
    "swa_every_third": (
        {"start": 20, "period": 3},
        lambda path: reference.equal_average(path, 20, period=3),
    ),
    "ema": ({"start": 20, "decay": 0.9}, lambda path: reference.exponential_average(path, 20, 0.9)),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_average_params(kind):
    options, average_path = AVERAGES[kind]
    tx = optax.chain(optax.sgd(schedule(RATE), momentum=0.9), flatjax.average_params(**options))

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(stacked_gradient(params, batch), state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, flatjax.averaged_params(state)

    averages = jax.jit(lambda: jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), BATCHES)[1])()
    path = replicated_path(0 * GAMMA, momentum=0.9)
    expected = [average_path([w[a] for w in path]) for a in range(REPLICAS)]
    expected = [list(w) for w in zip(*expected, strict=True)]
    averages = jax.tree.map(lambda leaf: leaf[options["start"] :], averages)
    assert departure(averages, expected) < TOLERANCE
