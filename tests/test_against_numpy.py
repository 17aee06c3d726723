"""The optimizers against the NumPy loops of `reference`: in double precision, at every step.

Each optimizer is a row: the library's transformation beside the loop that it must follow. All
options are run on stacked replicas, and the main rows in every placement: wherever the replicas
live, their parameters must be those of the loop.
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
SEED = 3

# The learning rate halves and gamma grows by 1e4; a value for each gradient, or each outer step.
RATE = 0.05 * (1 - 0.5 * np.arange(STEPS) / STEPS)
GAMMA = 5e-4 * 1e4 ** (np.arange(STEPS) / STEPS)
OUTER_RATE = 0.8 * (1 - 0.5 * np.arange(OUTER_STEPS) / OUTER_STEPS)
OUTER_GAMMA = 2e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)
REPLICA_GAMMA = 4e-3 * 1e4 ** (np.arange(OUTER_STEPS) / OUTER_STEPS)

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


gradient = jax.grad(loss)
stacked_gradient = jax.vmap(gradient)


def gradient_by_hand(w, a, t):
    bias, weight = w
    x, target = BATCHES["input"][t, a], BATCHES["target"][t, a]
    hidden = np.tanh(x @ weight.T + bias)
    residual = (hidden.sum(axis=1) - target) / len(target)
    backward = residual[:, None] * (1 - hidden**2)
    return reference.point([backward.sum(axis=0), backward.T @ x])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def schedule(values):
    """The listed values as an optax schedule (a formula of an int32 count has single precision)."""
    return lambda count: jnp.asarray(values)[count]


def train(tx, gradient, params, batches, read=lambda params, state: params):
    """What `read` finds after each step, by default the parameters."""

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), read(params, state)

    return jax.lax.scan(step, (params, tx.init(params)), batches)[1]


def train_stack(tx, params=PARAMS, gradient=stacked_gradient, **read):
    return jax.jit(functools.partial(train, tx, gradient, **read))(params, BATCHES)


def as_points(stacked):
    """The replicas (or steps) of a stacked pytree as points."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(stacked)]
    return [reference.point([leaf[a] for leaf in leaves]) for a in range(len(leaves[0]))]


def as_arrays(path):
    """A path of replicas as a pytree of arrays with axes (step, replica, ...)."""
    names = ["bias", "weight"]
    return {name: np.array([[w_a[i] for w_a in w] for w in path]) for i, name in enumerate(names)}


def together(paths):
    """The paths of single replicas as one path of all replicas."""
    return [list(w) for w in zip(*paths, strict=True)]


def departure(actual, path):
    """The largest difference at any step, relative to the largest entry of the leaf."""

    def relative(a, e):
        assert a.shape == e.shape
        assert a.dtype == e.dtype == np.float64
        return np.max(np.abs(np.asarray(a) - e)) / np.max(np.abs(e))

    return max(jax.tree.leaves(jax.tree.map(relative, actual, as_arrays(path))))


# --------------------------------------------------------------------- the noise of a run


@functools.cache
def normal_draws(silent):
    """The standard normal points [replica][step] of a run seeded with SEED.

    They are read off a run from zero without gradients, of an optimizer whose steps are then its
    normal draws. So nothing is presumed about how they are drawn.
    """
    zero_gradient = lambda params, batch: jax.tree.map(jnp.zeros_like, params)
    start = jax.tree.map(np.zeros_like, PARAMS)
    positions = train_stack(silent(replica_axis=0), start, zero_gradient)
    draws = jax.tree.map(lambda leaf: np.diff(leaf, axis=0, prepend=0 * leaf[:1]), positions)
    return [as_points(jax.tree.map(lambda leaf, a=a: leaf[:, a], draws)) for a in range(REPLICAS)]


# No forces; sqrt(2 eta') = 1; mu = w', and the outer step goes all the way to it.
SILENT = {"key": SEED, "weight_decay": 0.0, "averaging_decay": 0.0, "noise_scale": 1.0}
silent_esgd = functools.partial(flatjax.esgd, 0.5, 0.0, **SILENT)
silent_parle = functools.partial(flatjax.parle, 0.5, 0.0, 0.0, **SILENT)


def test_noise_is_normal_and_independent():
    draws = normal_draws(silent_esgd)
    numbers = np.concatenate([leaf.ravel() for one in draws for z in one for leaf in z])
    assert numbers.size == REPLICAS * STEPS * 18
    assert np.unique(numbers.round(9)).size == numbers.size  # no replica, step or leaf shares any
    # Moments of 4320 standard normal numbers, to four standard errors.
    for moment, expected, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]:
        error = np.mean(numbers**moment) - expected
        assert abs(error) < 4 * np.sqrt(variance / numbers.size)


# ----------------------------------------------------- the rows: optimizers and their loops


class Row(NamedTuple):
    """An optimizer and its loop.

    Attributes:
      make: from `axis_name` and `replica_axis` to the transformation.
      path: the loop's path; its argument multiplies every gamma.
    """

    make: Callable[..., optax.GradientTransformation]
    path: Callable[[float], list]


NESTEROV = {"momentum": 0.9, "nesterov": True}
MOMENTA = {
    "plain": {"momentum": None, "nesterov": False},
    "heavy_ball": {"momentum": 0.9, "nesterov": False},
    "nesterov": NESTEROV,
}
FORMS = {"in_gradient": {"decoupled": False}, "decoupled": {"decoupled": True}}
WEIGHTS_ONLY = {"bias": False, "weight": True}


def felt(mask):
    """Which leaves, in their order, feel the coupling: all of them, or the weights only."""
    return np.array([mask is None, True])


def replicated_sgd(*, rate=RATE, gamma=GAMMA, mask=None, **options):
    make = functools.partial(flatjax.replicated_sgd, schedule(rate), schedule(gamma), mask=mask)

    def path(factor):
        gammas = [factor * felt(mask) * gamma_t for gamma_t in gamma]
        return reference.replicated_sgd(
            as_points(PARAMS), gradient_by_hand, rate, gammas, **options
        )

    return Row(functools.partial(make, **options), path)


INNER = NESTEROV | {"weight_decay": 0.01, "averaging_decay": 0.6, "noise_scale": 0.02}
ENTROPIC = INNER | {"outer_momentum": 0.5}
QUIET = ENTROPIC | {"noise_scale": 0.0}  # compiles three times as fast


def esgd(*, outer_rate=OUTER_RATE, gamma=OUTER_GAMMA, mask=None, **options):
    """Replicas of Entropy-SGD that do not see each other."""
    make = functools.partial(flatjax.esgd, schedule(RATE), schedule(gamma), key=SEED, mask=mask)

    def path(factor):
        return together(
            reference.entropy_sgd(
                w_a,
                lambda w, t, a=a: gradient_by_hand(w, a, t),
                RATE,
                [factor * felt(mask) * gamma_s for gamma_s in gamma],
                outer_rate,
                noise=[felt(mask) * z for z in normal_draws(silent_esgd)[a]],
                outer_nesterov=options["nesterov"],
                **options,
            )
            for a, w_a in enumerate(as_points(PARAMS))
        )

    return Row(functools.partial(make, outer_learning_rate=schedule(outer_rate), **options), path)


def parle(**options):
    """The outer learning rate is that of the loop's last gradient."""
    gammas = schedule(OUTER_GAMMA), schedule(REPLICA_GAMMA)
    make = functools.partial(flatjax.parle, schedule(RATE), *gammas, key=SEED)

    def path(factor):
        return reference.parle(
            as_points(PARAMS),
            gradient_by_hand,
            RATE,
            factor * OUTER_GAMMA,
            factor * REPLICA_GAMMA,
            RATE[INNER_STEPS - 1 :: INNER_STEPS],
            noise=normal_draws(silent_parle),
            outer_nesterov=options["nesterov"],
            **options,
        )

    return Row(functools.partial(make, **options), path)


def chained(coupling, *, mask, **options):
    """The couplings in a chain of the user's own."""
    decay_and_sgd = optax.add_decayed_weights(0.01), optax.sgd(schedule(RATE), momentum=0.9)

    def make(**axes):
        if coupling == "pull_to_center":
            arguments = schedule(GAMMA), schedule(RATE)
            pull = flatjax.pull_to_center(*arguments, mask=mask, **options, **axes)
            return optax.chain(*decay_and_sgd, pull)
        force = flatjax.couple_replicas(schedule(GAMMA), mask=mask, **options, **axes)
        return optax.chain(force, *decay_and_sgd)

    options_of_loop = {"decoupled": coupling == "pull_to_center", "momentum": 0.9}
    path = replicated_sgd(mask=mask, weight_decay=0.01, **options_of_loop, **options).path
    return Row(make, path)


OPTIONS = {
    f"replicated_sgd-{momentum}-every_{period}-{form}": replicated_sgd(
        weight_decay=0.01, period=period, **MOMENTA[momentum], **FORMS[form]
    )
    for momentum in MOMENTA
    for period in (1, 3)
    for form in FORMS
}
OPTIONS |= {
    f"{coupling}-{where}": chained(coupling, period=3, mask=mask)
    for coupling in ("couple_replicas", "pull_to_center")
    for where, mask in {
        "everywhere": None,
        "weights_only": WEIGHTS_ONLY,
        "matrices": lambda params: jax.tree.map(lambda leaf: leaf.ndim > 2, params),
    }.items()
}
OPTIONS |= {
    f"esgd-{momentum}-{form}": esgd(**(QUIET | MOMENTA[momentum] | FORMS[form]))
    for momentum in MOMENTA
    for form in FORMS
}
OPTIONS |= {
    f"esgd-weights_only-{form}": esgd(mask=WEIGHTS_ONLY, **ENTROPIC, **FORMS[form])
    for form in FORMS
}
OPTIONS |= {
    "esgd-scaled_by_gamma": esgd(outer_scaling="gamma", **QUIET),
    # (w - mu) / eta' is twenty times w - mu: the outer rate makes up for it.
    "esgd-scaled_by_rate": esgd(
        outer_scaling="learning_rate", outer_rate=0.05 * OUTER_RATE, **QUIET
    ),
    "parle-decoupled": parle(decoupled=True, **QUIET),
}


@pytest.mark.parametrize("row", OPTIONS)
def test_options(row):
    make, path = OPTIONS[row]
    assert departure(train_stack(make(replica_axis=0)), path(1.0)) < TOLERANCE


def test_opaque_mode():
    """One update a loop of five gradients: the parameters are then the anchors."""
    make, path = esgd(**ENTROPIC)
    tx = make(replica_axis=0, opaque_mode=True)
    loops = jax.tree.map(lambda x: x.reshape(OUTER_STEPS, INNER_STEPS, *x.shape[1:]), BATCHES)

    def step(carry, loop):
        params, state = carry
        grad_fn = lambda params, i: stacked_gradient(params, jax.tree.map(lambda x: x[i], loop))
        updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    anchors = jax.jit(lambda: jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), loops)[1])()
    assert departure(anchors, path(1.0)[INNER_STEPS - 1 :: INNER_STEPS]) < TOLERANCE


def test_scoping():
    """The library's own growth of gamma; a formula of the count, so in single precision."""
    path = replicated_sgd(**NESTEROV).path(1.0)
    scoping = flatjax.schedules.scoping(GAMMA[0], steps=STEPS, factor=1e4)
    tx = flatjax.replicated_sgd(schedule(RATE), scoping, replica_axis=0, **NESTEROV)
    assert departure(train_stack(tx), path) < 1e-6


# ------------------------------------------------------------------ the defaults of the paper

INNER_DEFAULTS = NESTEROV | {"inner_steps": 5, "weight_decay": 5e-4}
INNER_DEFAULTS |= {"averaging_decay": 0.75, "noise_scale": 1e-4}


def test_defaults_of_replicated_sgd():
    """Numbers for the learning rate and the coupling, and nothing else."""
    tx = flatjax.replicated_sgd(0.02, 0.3, replica_axis=0)
    row = replicated_sgd(rate=np.full(STEPS, 0.02), gamma=np.full(STEPS, 0.3), **NESTEROV)
    assert departure(train_stack(tx), row.path(1.0)) < TOLERANCE


def test_defaults_of_esgd():
    tx = flatjax.esgd(schedule(RATE), 0.3, key=SEED, replica_axis=0)
    outer = {"outer_rate": np.ones(OUTER_STEPS), "gamma": np.full(OUTER_STEPS, 0.3)}
    assert departure(train_stack(tx), esgd(**outer, **INNER_DEFAULTS).path(1.0)) < TOLERANCE


def test_defaults_of_parle():
    gammas = schedule(OUTER_GAMMA), schedule(REPLICA_GAMMA)
    tx = flatjax.parle(schedule(RATE), *gammas, key=SEED, replica_axis=0)
    assert departure(train_stack(tx), parle(**INNER_DEFAULTS).path(1.0)) < TOLERANCE


# ------------------------------------------------------------------ averages along the way

AVERAGES = {
    "swa": ({"start": 20}, reference.equal_average),
    "swa_every_third": ({"start": 20, "period": 3}, reference.equal_average),
    "ema": ({"start": 20, "decay": 0.9}, reference.exponential_average),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_average_params(kind):
    options, average = AVERAGES[kind]
    sgd = optax.sgd(schedule(RATE), momentum=0.9)
    tx = optax.chain(sgd, flatjax.average_params(**options))
    averages = train_stack(tx, read=lambda params, state: flatjax.eval_params(state, params))
    path = replicated_sgd(momentum=0.9).path(0.0)
    expected = together(average([w[a] for w in path], **options) for a in range(REPLICAS))
    since_start = jax.tree.map(lambda leaf: leaf[options["start"] :], averages)
    assert departure(since_start, expected) < TOLERANCE


# ------------------------------------------------------------------ the columns: placements


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("replica",))


# The axis of the replicas is the first of the parameters, the second (after the steps) of the rest.
PARAMS_SPEC, PATH_SPEC = P("replica"), P(None, "replica")
MAPPED = {"in_axes": (0, 1), "out_axes": 1, "axis_name": "replica"}


def vmapped(run):
    return jax.jit(jax.vmap(run, **MAPPED))


def pmapped(run):
    return jax.pmap(run, **MAPPED)


def two_a_device(run, devices=REPLICAS // 2):
    specs = {"in_specs": (PARAMS_SPEC, PATH_SPEC), "out_specs": PATH_SPEC}
    return jax.jit(jax.shard_map(run, mesh=mesh_of(devices), **specs))


def one_a_device(run):
    def local_run(params, batches):
        params = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), params)
        batches = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 1), batches)
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 1), run(params, batches))

    return two_a_device(local_run, devices=REPLICAS)


def automatic(run):
    """Plain jit on sharded arguments: the compiler spreads the work."""

    def sharded_run(*arguments):
        shardings = (NamedSharding(mesh_of(REPLICAS), spec) for spec in (PARAMS_SPEC, PATH_SPEC))
        path = jax.jit(run)(*map(jax.device_put, arguments, shardings))
        assert all(len(leaf.addressable_shards) == REPLICAS for leaf in jax.tree.leaves(path))
        assert not any(leaf.is_fully_replicated for leaf in jax.tree.leaves(path))
        return path

    return sharded_run


class Placement(NamedTuple):
    """A column of the table.

    Attributes:
      axes: where the optimizer finds the replicas.
      gradient: of what one program holds, a replica or a stack of them.
      lift: from the run of one program to that of all replicas.
    """

    axes: dict[str, Any]
    gradient: Callable
    lift: Callable


STACKED, NAMED = {"replica_axis": 0}, {"axis_name": "replica"}
COLUMNS = {
    "stacked": Placement(STACKED, stacked_gradient, jax.jit),
    "vmap": Placement(NAMED, gradient, vmapped),
    "pmap": Placement(NAMED, gradient, pmapped),
    "shard_map": Placement(NAMED, gradient, one_a_device),
    "shard_map_of_stacks": Placement(STACKED | NAMED, stacked_gradient, two_a_device),
    "jit_of_sharded": Placement(STACKED, stacked_gradient, automatic),
}
ROWS = {
    "replicated_sgd": replicated_sgd(weight_decay=0.01, **NESTEROV),
    "every_third": replicated_sgd(weight_decay=0.01, period=3, **NESTEROV),
    "decoupled_every_third": replicated_sgd(
        weight_decay=0.01, period=3, decoupled=True, **NESTEROV
    ),
    "esgd": esgd(**ENTROPIC),
    "parle": parle(**ENTROPIC),
}


@functools.cache
def path_of(row):
    return ROWS[row].path(1.0)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_placements(row, column):
    axes, gradient, lift = COLUMNS[column]
    run = lift(functools.partial(train, ROWS[row].make(**axes), gradient))
    assert departure(run(PARAMS, BATCHES), path_of(row)) < TOLERANCE


@pytest.mark.parametrize("row", ROWS)
def test_tolerance_is_tight(row):
    """A gamma off by a millionth would be noticed."""
    assert departure(as_arrays(ROWS[row].path(1 + 1e-6)), path_of(row)) > 100 * TOLERANCE
