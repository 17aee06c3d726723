"""The algorithms as optax transformations of stacked replicas, behind one interface.

Every run trains a stack of y replicas (y = 1 for most algorithms), so that one loop serves all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import optax

import flatjax
from experiments.engine.config import TrainConfig

# Name -> number, possibly traced; None stands for a number that is measured or not used.
Hyper: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[[TrainConfig, Hyper, int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """How an algorithm optimizes, and where its result is.

    Attributes:
      make: (config, hyper, total_steps) -> transformation; total_steps counts gradients of one
        replica. Numbers that are in `hyper` are not read in `config`.
      batch_repeats: consecutive gradients that are taken on the same batch.
      round_steps_to: (config) -> the number of gradients after which the result is complete.
    """

    make: Make
    batch_repeats: int = 1
    round_steps_to: Callable[[TrainConfig], int] = lambda config: 1


def learning_rate_schedule(config: TrainConfig, hyper: Hyper, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step of one replica."""
    peak = hyper["learning_rate"]
    if config.algorithm == "swa":
        # High until the end, so that the averaged weights differ.
        return optax.linear_schedule(peak, peak / 2, round(config.average_start * total_steps))
    if config.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    elif config.schedule == "milestones":
        drops = {round(when * total_steps): config.milestone_factor for when in config.milestones}
        schedule = optax.piecewise_constant_schedule(peak, drops)
    else:
        schedule = optax.cosine_decay_schedule(peak, total_steps)
    warmup_steps = round(config.warmup * total_steps)
    if warmup_steps == 0:
        return schedule
    growth = optax.linear_schedule(config.warmup_start, 1.0, warmup_steps)
    return lambda step: growth(step) * schedule(step)


def _gamma(config: TrainConfig, initial: chex.Numeric | None, steps: int) -> Any:
    """Scoping over `steps` steps of the transformation; measured at the start where not given."""
    if initial is None:
        return flatjax.schedules.BalancedScoping(
            flatjax.schedules.scoping(1.0, steps, config.gamma_factor)
        )
    return flatjax.schedules.scoping(initial, steps, config.gamma_factor)


def decay_mask(config: TrainConfig) -> Callable[[chex.ArrayTree], chex.ArrayTree] | None:
    """Which of the stacked weights decay; None for all."""
    if not config.decay_matrices_only:
        return None
    return lambda params: jax.tree.map(lambda leaf: leaf.ndim - 1 >= 2, params)


def _sgd(config: TrainConfig, hyper: Hyper, total_steps: int):
    return optax.chain(
        optax.add_decayed_weights(hyper["weight_decay"], decay_mask(config)),
        optax.sgd(
            learning_rate_schedule(config, hyper, total_steps),
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        ),
    )


def _sharpness_aware(
    make: Make, config: TrainConfig, hyper: Hyper, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """SAM around an optimizer: every second gradient is one where the loss is high near by."""
    optimizer = make(config, hyper, total_steps // 2)
    return flatjax.sam(optimizer, hyper["sam_rho"], replica_axis=0)


def _swa(config: TrainConfig, hyper: Hyper, total_steps: int):
    start = round(config.average_start * total_steps)
    return optax.chain(_sgd(config, hyper, total_steps), flatjax.average_params(start=start))


def _ema(config: TrainConfig, hyper: Hyper, total_steps: int):
    return optax.chain(
        _sgd(config, hyper, total_steps), flatjax.average_params(decay=hyper["ema_decay"])
    )


def _rsgd(config: TrainConfig, hyper: Hyper, total_steps: int):
    gamma = _gamma(config, hyper["gamma"], total_steps)
    is_rounded = config.communication_dtype != "float32"
    options = {
        "replica_axis": 0,
        "period": config.period,
        "communication_dtype": config.communication_dtype if is_rounded else None,
    }
    if config.decoupled:
        # The pull keeps the peak learning rate: cooled down with it, replicas would never meet.
        options["overlapped"] = config.delayed
        pull = flatjax.pull_to_center(gamma, hyper["learning_rate"], **options)
        return optax.chain(_sgd(config, hyper, total_steps), pull)
    force = flatjax.couple_replicas(gamma, delayed=config.delayed, **options)
    return optax.chain(force, _sgd(config, hyper, total_steps))


def _inner_loop(config: TrainConfig, hyper: Hyper, total_steps: int) -> dict[str, Any]:
    """What esgd and parle share."""
    outer_steps = total_steps // config.inner_steps
    return {
        "learning_rate": learning_rate_schedule(config, hyper, total_steps),
        "gamma": _gamma(config, hyper["gamma"], outer_steps),
        "momentum": config.momentum,
        "weight_decay": hyper["weight_decay"],
        "decay_mask": decay_mask(config),
        "inner_steps": config.inner_steps,
        "averaging_decay": hyper["averaging_decay"],
        "noise_scale": 0.0 if hyper["noise_scale"] is None else hyper["noise_scale"],
        "decoupled": config.decoupled,
        "replica_axis": 0,
    }


def _esgd(config: TrainConfig, hyper: Hyper, total_steps: int):
    return flatjax.esgd(**_inner_loop(config, hyper, total_steps))


def _parle(config: TrainConfig, hyper: Hyper, total_steps: int):
    outer_steps = total_steps // config.inner_steps
    replica_gamma = _gamma(config, hyper["replica_gamma"], outer_steps)
    return flatjax.parle(replica_gamma=replica_gamma, **_inner_loop(config, hyper, total_steps))


_loop = lambda config: config.inner_steps

ALGORITHMS: dict[str, Algorithm] = {
    "sgd": Algorithm(_sgd),
    "sam": Algorithm(
        functools.partial(_sharpness_aware, _sgd),
        batch_repeats=2,
        round_steps_to=lambda config: 2,
    ),
    "swa": Algorithm(_swa),
    "ema": Algorithm(_ema),
    "esgd": Algorithm(_esgd, round_steps_to=_loop),
    "rsgd": Algorithm(_rsgd, round_steps_to=lambda config: config.period),
    "rsam": Algorithm(
        functools.partial(_sharpness_aware, _rsgd),
        batch_repeats=2,
        round_steps_to=lambda config: 2 * config.period,
    ),
    "esam": Algorithm(
        functools.partial(_sharpness_aware, _esgd),
        batch_repeats=2,
        round_steps_to=lambda config: 2 * config.inner_steps,
    ),
    "parle": Algorithm(_parle, round_steps_to=_loop),
}


def seed_noise(opt_state: optax.OptState, key: chex.PRNGKey) -> optax.OptState:
    """Gives the run's key to the transformations that draw noise, if any."""
    is_noisy = lambda node: isinstance(node, flatjax.EntropySGDState)
    is_sam = lambda node: isinstance(node, optax.contrib.SAMState)
    # A key, as checkpoints of earlier versions hold it; its numbers inside SAM, which takes no key.
    given = tuple(jax.random.key_data(key)) if _contains(opt_state, is_sam) else key
    replace = lambda node: node._replace(key=given) if is_noisy(node) else node
    return jax.tree.map(replace, opt_state, is_leaf=is_noisy)


def _contains(tree, is_wanted):
    return any(map(is_wanted, jax.tree.leaves(tree, is_leaf=is_wanted)))
