"""Replicated-SGD, ready to use: SGD and the coupling of its replicas."""

from __future__ import annotations

from typing import Any

import optax

from flatjax import _checks, _strength
from flatjax._couple_replicas import couple_replicas
from flatjax._masks import Mask, of_weights
from flatjax._pull_to_center import pull_to_center
from flatjax._schedules import Gamma, ScalarOrSchedule


def replicated_sgd(
    learning_rate: ScalarOrSchedule,
    gamma: Gamma | None = None,
    *,
    steps: int | None = None,
    momentum: float | None = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    decay_mask: Mask = None,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    mask: Mask = None,
    decoupled: bool = True,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replicated-SGD: SGD with momentum and weight decay, and the coupling.

    The shortest call is `replicated_sgd(learning_rate, steps=...)`. It takes gamma from
    `flatjax.schedules.meeting`: the replicas are nearly free for about half of the steps, and have
    met at the end. Then evaluate their center.

    Args:
      learning_rate: learning rate of SGD; a number or a schedule of the step count.
      gamma: coupling; a number, a schedule of the step count, or
        `flatjax.schedules.BalancedScoping`. If None, `steps` must be given.
      steps: number of updates of the training. It gives a gamma that needs no tuning.
      momentum: momentum of SGD; None switches it off.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: factor of the weight decay: `weight_decay * params` is added to the gradient.
      decay_mask: pytree of bools (or a function of params returning one): the leaves that decay;
        all if None.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked. At least one of the two
        must be given. Give both if each device of a mesh axis holds a stack.
      period: number of steps between couplings.
      mask: pytree of bools (or a function of params returning one); leaves marked False are not
        coupled.
      decoupled: if True, couple by `pull_to_center` after SGD, which is stable for every gamma. If
        False, couple by `couple_replicas` in the gradient, before weight decay and momentum. This
        is the paper's form, in which a momentum b amplifies gamma by 1 / (1 - b).
      num_replicas: expected number of replicas; other parameters are refused. None does not check.

    Returns:
      The transformation. The final model is `flatjax.replica_center` of the parameters.

    Raises:
      ValueError: as `couple_replicas`, or if neither or both of gamma and steps are given, or if a
        force in the gradient diverges (learning_rate * gamma above
        `flatjax.schedules.stability_limit`).

    Warns:
      UserWarning: a schedule moves learning_rate * gamma above that limit at some step.

    Examples:
      Two replicas with different losses, which are parabolas with minima at 0 and 2:

      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.replicated_sgd(0.05, steps=200, replica_axis=0)
      >>> params, minima = jnp.array([[5.0], [-2.0]]), jnp.array([[0.0], [2.0]])
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(params - minima, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> state = tx.init(params)
      >>> for _ in range(200):
      ...     params, state = step(params, state)
      >>> flatjax.replica_center(params, replica_axis=0).round(2)
      Array([1.], dtype=float32)

    See Also:
      `pull_to_center` (the coupling after any optimizer), `couple_replicas` (the coupling in the
      gradient), `check_collapsed` (checks the end).
    """
    learning_rate = _checks.check_schedule("learning_rate", learning_rate)
    weight_decay = _checks.check_schedule("weight_decay", weight_decay)
    _checks.check_flag("decoupled", decoupled)
    where: dict[str, Any] = {"axis_name": axis_name, "replica_axis": replica_axis}
    where |= {"period": period, "mask": mask, "num_replicas": num_replicas}
    _strength.check_given("gamma", gamma, steps)
    if steps is not None:
        gamma = _strength.meeting(
            learning_rate,
            steps,
            momentum=None if decoupled else _strength.or_0(momentum),
            nesterov=nesterov,
            period=period,
        )
    elif not decoupled:
        _strength.check_stability(gamma, learning_rate, period, momentum, nesterov)
    decay = optax.add_decayed_weights(weight_decay, decay_mask)
    sgd = optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov and momentum is not None)
    if decoupled:
        tx = optax.chain(decay, sgd, pull_to_center(gamma, learning_rate, **where))
    else:
        tx = optax.chain(couple_replicas(gamma, **where), decay, sgd)
    return of_weights(tx.init, tx.update)
