"""The algorithms as optax transformations of stacked replicas.

Every run trains a stack of y replicas (y = 1 for most algorithms), so that one loop serves all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax
from experiments.engine.algorithm_settings import Diloco, Esgd, Fork, Parle, Rsgd, Swa
from experiments.engine.ascent import at_ascent
from experiments.engine.config import TrainConfig
from experiments.engine.settings import Optimizer

# Name -> number, possibly traced; None for a number that is measured or not used.
Hyper: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[[TrainConfig, Hyper, int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """How an algorithm optimizes, and when its result is complete.

    Attributes:
      make: function (config, hyper, total_steps) -> transformation. total_steps counts gradients of
        one replica. Numbers in `hyper` replace those of `config`.
      batch_repeats: number of consecutive gradients on the same batch.
      cycle: name of the setting that counts the batches of a complete result; 1 if None.
    """

    make: Make
    batch_repeats: int = 1
    cycle: str | None = None

    def gradients_per_cycle(self, config: TrainConfig) -> int:
        """Returns the number of gradients after which the result is complete."""
        batches = 1 if self.cycle is None else getattr(config.algorithm, self.cycle)
        return self.batch_repeats * batches


def learning_rate_schedule(config: TrainConfig, hyper: Hyper, total_steps: int) -> optax.Schedule:
    """Makes the learning rate as a function of the step of one replica."""
    peak, own = hyper["learning_rate"], config.optimizer
    if isinstance(config.algorithm, Swa | Fork):
        # High until the end, so that the averaged weights differ.
        return optax.linear_schedule(peak, peak / 2, first_averaged(config, total_steps))
    if own.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    elif own.schedule == "milestones":
        drops = {round(when * total_steps): own.milestone_factor for when in own.milestones}
        schedule = optax.piecewise_constant_schedule(peak, drops)
    else:
        schedule = optax.cosine_decay_schedule(peak, total_steps)
    warmup_steps = round(own.warmup * total_steps)
    if warmup_steps == 0:
        return schedule
    growth = optax.linear_schedule(own.warmup_start, 1.0, warmup_steps)
    return lambda step: growth(step) * schedule(step)


def first_averaged(config: TrainConfig[Swa | Fork], total_steps: int) -> int:
    """Returns the step from which weights are averaged, or replicas are independent."""
    own = config.algorithm
    return round((own.average_start if isinstance(own, Swa) else own.fork_at) * total_steps)


def _gamma(factor: float, initial: chex.Numeric | None, steps: int) -> Any:
    """Makes scoping over `steps` steps, measured at the start if `initial` is None."""
    if initial is None:
        return flatjax.schedules.BalancedScoping(flatjax.schedules.scoping(1.0, steps, factor))
    return flatjax.schedules.scoping(initial, steps, factor)


def decay_mask(optimizer: Optimizer) -> Callable[[chex.ArrayTree], chex.ArrayTree] | None:
    """Selects the stacked weights that decay; None for all."""
    if not optimizer.decay_matrices_only:
        return None
    return lambda params: jax.tree.map(lambda leaf: leaf.ndim - 1 >= 2, params)


def _direction(config: TrainConfig, hyper: Hyper) -> optax.GradientTransformation:
    """Makes AdamW without its learning rate."""
    own = config.optimizer
    return optax.chain(
        optax.scale_by_adam(own.momentum, own.squares_decay),
        optax.add_decayed_weights(hyper["weight_decay"], decay_mask(own)),
    )


def _sgd(config: TrainConfig, hyper: Hyper, total_steps: int):
    """Makes the base optimizer: SGD, or AdamW if the configuration asks for it."""
    if config.optimizer.base_optimizer == "adamw":
        rate = learning_rate_schedule(config, hyper, total_steps)
        return optax.chain(_direction(config, hyper), optax.scale_by_learning_rate(rate))
    return optax.chain(
        optax.add_decayed_weights(hyper["weight_decay"], decay_mask(config.optimizer)),
        optax.sgd(
            learning_rate_schedule(config, hyper, total_steps),
            momentum=config.optimizer.momentum,
            nesterov=config.optimizer.momentum > 0,
        ),
    )


def _sharpness_aware(
    make: Make, config: TrainConfig, hyper: Hyper, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer in SAM: every second gradient is taken uphill."""
    optimizer = make(config, hyper, total_steps // 2)
    return flatjax.sam(optimizer, hyper["sam_rho"], replica_axis=0)


def _swa(config: TrainConfig[Swa], hyper: Hyper, total_steps: int):
    start = first_averaged(config, total_steps)
    return optax.chain(_sgd(config, hyper, total_steps), flatjax.average_params(start=start))


def _ema(config: TrainConfig, hyper: Hyper, total_steps: int):
    return optax.chain(
        _sgd(config, hyper, total_steps), flatjax.average_params(decay=hyper["ema_decay"])
    )


def _averaged(
    make: Make, config: TrainConfig, hyper: Hyper, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Averages the weights after complete steps, if the configuration asks for it."""
    optimizer, after = make(config, hyper, total_steps), config.algorithm.final_average
    if after is None:
        return optax.with_extra_args_support(optimizer)
    cycle = ALGORITHMS[config.algorithm.name].gradients_per_cycle(config)
    start = max(round(after * total_steps / cycle), 1) * cycle - 1
    return optax.chain(optimizer, flatjax.average_params(start=start, period=cycle))


def _fork(config: TrainConfig[Fork], hyper: Hyper, total_steps: int):
    fork = first_averaged(config, total_steps)
    gamma = lambda step: jnp.where(step < fork, jnp.inf, 0.0)
    pull = flatjax.pull_to_center(gamma, 1.0, replica_axis=0)
    return optax.chain(_sgd(config, hyper, total_steps), pull)


def _rsgd(config: TrainConfig[Rsgd], hyper: Hyper, total_steps: int):
    optimizer = _coupled_sgd(config, hyper, total_steps)
    return optimizer if hyper["ascent"] is None else at_ascent(optimizer, hyper["ascent"])


def _coupled_sgd(config: TrainConfig[Rsgd], hyper: Hyper, total_steps: int):
    own = config.algorithm
    if own.distance is not None:
        target = optax.linear_schedule(hyper["distance"], 0.0, total_steps - 1)
        dtype = _rounded(own.communication_dtype)
        limit = flatjax.limit_distance(
            target, replica_axis=0, period=own.period, communication_dtype=dtype
        )
        return optax.chain(_sgd(config, hyper, total_steps), limit)
    gamma = _gamma(own.gamma_factor, hyper["gamma"], total_steps)
    options: dict[str, Any] = {
        "replica_axis": 0,
        "period": own.period,
        "communication_dtype": _rounded(own.communication_dtype),
    }
    if own.decoupled:
        # The pull keeps the peak learning rate: if it decayed, replicas would never meet.
        options["overlapped"] = own.delayed
        pull = flatjax.pull_to_center(gamma, hyper["learning_rate"], **options)
        return optax.chain(_sgd(config, hyper, total_steps), pull)
    force = flatjax.couple_replicas(gamma, delayed=own.delayed, **options)
    return optax.chain(force, _sgd(config, hyper, total_steps))


def _inner_loop(
    config: TrainConfig[Esgd | Parle], hyper: Hyper, total_steps: int
) -> dict[str, Any]:
    """Makes the arguments that esgd and parle share."""
    own = config.algorithm
    return {
        "gamma": _gamma(own.gamma_factor, hyper["gamma"], total_steps // own.inner_steps),
        "inner_steps": own.inner_steps,
        "averaging_decay": hyper["averaging_decay"],
        "noise_scale": 0.0 if hyper["noise_scale"] is None else hyper["noise_scale"],
        "decoupled": own.decoupled,
        "replica_axis": 0,
    }


def _inner_sgd(config: TrainConfig, hyper: Hyper, total_steps: int) -> dict[str, Any]:
    """Makes the arguments of the SGD inside esgd and parle."""
    return {
        "learning_rate": learning_rate_schedule(config, hyper, total_steps),
        "momentum": config.optimizer.momentum,
        "weight_decay": hyper["weight_decay"],
        "decay_mask": decay_mask(config.optimizer),
    }


def _esgd(config: TrainConfig[Esgd], hyper: Hyper, total_steps: int):
    loop = _inner_loop(config, hyper, total_steps)
    if config.optimizer.base_optimizer == "adamw":
        return _around_adamw(optax.sgd(1.0), config, hyper, total_steps, loop)
    inner = _inner_sgd(config, hyper, total_steps)
    return flatjax.esgd(**inner, **loop, reset_inner=config.algorithm.reset_inner)


def _parle(config: TrainConfig[Parle], hyper: Hyper, total_steps: int):
    own = config.algorithm
    outer_steps = total_steps // own.inner_steps
    replica_gamma = _gamma(own.gamma_factor, hyper["replica_gamma"], outer_steps)
    loop = _inner_loop(config, hyper, total_steps)
    if config.optimizer.base_optimizer == "adamw":
        rate = learning_rate_schedule(config, hyper, total_steps)
        outer = flatjax.replicated_sgd(
            # The learning rate of the loop's last gradient, as in `flatjax.parle`.
            lambda count: rate((count + 1) * own.inner_steps - 1),
            replica_gamma,
            momentum=None,
            replica_axis=0,
            decoupled=own.decoupled,
        )
        loop |= {"outer_scaling": "learning_rate"}
        return _around_adamw(outer, config, hyper, total_steps, loop)
    return flatjax.parle(
        replica_gamma=replica_gamma, **_inner_sgd(config, hyper, total_steps), **loop
    )


def _around_adamw(outer, config, hyper, total_steps, loop):
    """Makes Entropy-SGD around AdamW, which keeps its means between loops."""
    return flatjax.entropy_sgd(
        outer,
        _direction(config, hyper),
        inner_learning_rate=learning_rate_schedule(config, hyper, total_steps),
        reset_inner=False,
        **loop,
    )


def _diloco(config: TrainConfig[Diloco], hyper: Hyper, total_steps: int):
    own = config.algorithm
    momentum = own.outer_momentum
    return flatjax.diloco(
        _sgd(config, hyper, total_steps),
        optax.sgd(own.outer_learning_rate, momentum=momentum, nesterov=momentum > 0),
        own.period,
        replica_axis=0,
        delay=own.delay,
        blend=own.blend,
        communication_dtype=_rounded(own.communication_dtype),
    )


def _rounded(dtype: str) -> str | None:
    """Converts a dtype for the transformations: None for float32."""
    return None if dtype == "float32" else dtype


ALGORITHMS: dict[str, Algorithm] = {
    "sgd": Algorithm(_sgd),
    "sam": Algorithm(
        functools.partial(_averaged, functools.partial(_sharpness_aware, _sgd)), batch_repeats=2
    ),
    "swa": Algorithm(_swa),
    "ema": Algorithm(_ema),
    "esgd": Algorithm(functools.partial(_averaged, _esgd), cycle="inner_steps"),
    "rsgd": Algorithm(_rsgd, cycle="period"),
    "rsam": Algorithm(functools.partial(_sharpness_aware, _rsgd), batch_repeats=2, cycle="period"),
    "esam": Algorithm(
        functools.partial(_averaged, functools.partial(_sharpness_aware, _esgd)),
        batch_repeats=2,
        cycle="inner_steps",
    ),
    "parle": Algorithm(_parle, cycle="inner_steps"),
    "diloco": Algorithm(_diloco, cycle="period"),
    "fork": Algorithm(_fork),
}


def seed_noise(opt_state: optax.OptState, key: chex.PRNGKey) -> optax.OptState:
    """Puts the run's key into transformations that draw noise."""
    is_noisy = lambda node: isinstance(node, flatjax.EntropySGDState)
    is_sam = lambda node: isinstance(node, optax.contrib.SAMState)
    # As in checkpoints of earlier versions: a key, and its numbers inside SAM.
    given = tuple(jax.random.key_data(key)) if _contains(opt_state, is_sam) else key
    replace = lambda node: node._replace(key=given) if is_noisy(node) else node
    return jax.tree.map(replace, opt_state, is_leaf=is_noisy)


def _contains(tree, is_wanted):
    return any(map(is_wanted, jax.tree.leaves(tree, is_leaf=is_wanted)))
