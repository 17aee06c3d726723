"""Entropy-SGD and Parle with the defaults of their papers."""

from __future__ import annotations

import chex
import optax

from flatjax import _checks, _strength
from flatjax._entropy_sgd import entropy_sgd
from flatjax._masks import Mask
from flatjax._replicated_sgd import replicated_sgd
from flatjax._schedules import Gamma, ScalarOrSchedule


def esgd(
    learning_rate: ScalarOrSchedule,
    gamma: Gamma | None = None,
    *,
    steps: int | None = None,
    momentum: float | None = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    decay_mask: Mask = None,
    outer_learning_rate: ScalarOrSchedule = 1.0,
    outer_momentum: float | None = None,
    inner_steps: int = 5,
    averaging_decay: float = 0.75,
    noise_scale: float = 1e-4,
    key: chex.PRNGKey | int = 0,
    outer_scaling: str = "none",
    decoupled: bool = True,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
    opaque_mode: bool = False,
    reset_inner: bool = True,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Entropy-SGD with the paper's defaults: the anchor moves to the inner mean.

    The outer gradient is not multiplied by gamma, the outer learning rate is 1 and the outer
    optimizer has no momentum unless you give one. The authors' code can also multiply the outer
    gradient by gamma; then the anchor hardly moves while gamma is small.

    Args:
      learning_rate: :math:`\eta'`, learning rate of the inner loop; a number or a schedule of the
        count of gradients.
      gamma: coupling to the anchor; a number, a schedule of the count of outer steps, or
        `flatjax.schedules.BalancedScoping`. If None, `steps` must be given.
      steps: number of gradients of the training. It gives a gamma that needs no tuning: one inner
        step contracts the distance to the anchor by 0.1% at first and by 63% at the end.
      momentum: momentum of the inner SGD, reset at each outer step (see `reset_inner`); None
        switches it off.
      nesterov: whether inner and outer momentum are Nesterov's.
      weight_decay: factor of the weight decay that the inner SGD adds to the gradient; a number.
      decay_mask: pytree of bools (or a function of params returning one): the leaves that decay;
        all if None.
      outer_learning_rate: learning rate of the anchor; a number or a schedule of the count of
        outer steps.
      outer_momentum: momentum of the anchor; None switches it off.
      inner_steps: L, gradients per outer step.
      averaging_decay: :math:`\alpha`, the weight of the old mean.
      noise_scale: :math:`\epsilon`; the noise of a weight and step has standard deviation
        :math:`\epsilon \sqrt{2 \eta'}`; 0 draws no noise.
      key: random key (or a seed of up to 64 bits) of the noise.
      outer_scaling: factor of the outer gradient :math:`w - \mu`: `"none"`, `"gamma"` or
        `"learning_rate"` (:math:`1 / \eta'`).
      decoupled: pull to the anchor after the inner SGD's step, which is stable for every gamma. If
        False, add the pull to the gradient: the paper's form, which momentum amplifies.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread, if any. Each
        replica then draws its own noise.
      replica_axis: axis of the leaves along which replicas are stacked, if they are.
      mask: pytree of bools (or a function of params returning one); leaves marked False feel
        neither the pull nor the noise.
      opaque_mode: one `update` makes a whole loop of `inner_steps` gradients and computes them with
        the extra argument `grad_fn`, see `entropy_sgd`.
      reset_inner: start each loop with a momentum of 0, as the paper does.
      num_replicas: expected number of replicas; other parameters are refused. None does not check.

    Returns:
      The transformation. It must be the last of a chain.

    Raises:
      ValueError: as `entropy_sgd`, or a schedule of the weight decay together with `reset_inner`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.esgd(0.05, steps=200)
      >>> loss = lambda params: jnp.sum(params["w"] ** 2)
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> params = {"w": jnp.array([2.0, -3.0])}
      >>> state = tx.init(params)
      >>> for _ in range(200):
      ...     params, state = step(params, state)
      >>> float(loss(flatjax.eval_params(state, params))) < 1e-3
      True

    See Also:
      `entropy_sgd` (takes any two optimizers), `parle` (with replicas), `eval_params` (gives the
      anchor).
    """
    outer_learning_rate = _checks.check_schedule("outer_learning_rate", outer_learning_rate)
    gamma = _anchor_gamma(gamma, steps, learning_rate, inner_steps, decoupled, momentum, nesterov)
    if reset_inner:
        _refuse_schedule("weight_decay", weight_decay)
    weight_decay = _checks.check_schedule("weight_decay", weight_decay)
    return entropy_sgd(
        optax.sgd(
            outer_learning_rate,
            momentum=outer_momentum,
            nesterov=nesterov and outer_momentum is not None,
        ),
        _inner_sgd(momentum, nesterov, weight_decay, decay_mask),
        gamma,
        inner_learning_rate=learning_rate,
        inner_steps=inner_steps,
        averaging_decay=averaging_decay,
        noise_scale=noise_scale,
        key=key,
        outer_scaling=outer_scaling,
        decoupled=decoupled,
        axis_name=axis_name,
        replica_axis=replica_axis,
        mask=mask,
        opaque_mode=opaque_mode,
        reset_inner=reset_inner,
        num_replicas=num_replicas,
    )


def parle(
    learning_rate: ScalarOrSchedule,
    gamma: Gamma | None = None,
    replica_gamma: ScalarOrSchedule | None = None,
    *,
    steps: int | None = None,
    momentum: float | None = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    decay_mask: Mask = None,
    outer_momentum: float | None = None,
    inner_steps: int = 5,
    averaging_decay: float = 0.75,
    noise_scale: float = 1e-4,
    key: chex.PRNGKey | int = 0,
    decoupled: bool = True,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    mask: Mask = None,
    opaque_mode: bool = False,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Parle: replicas of Entropy-SGD, whose anchors are attracted to their center.

    The inner loop is the one of `esgd`. The outer step of replica a is SGD with the gradient

    .. math:: \tfrac{1}{\eta'} (w_a - \mu_a) + \gamma_r (w_a - \bar w)

    and the learning rate :math:`\eta'` of the loop's last inner step [Chaudhari et al., 2017b,
    arXiv:1707.00424, eq. 8]. The two couplings act at two scales. gamma holds the inner iterates to
    their anchor, at every gradient. replica_gamma holds the anchors together, every L gradients;
    only this coupling communicates.

    With one replica Parle is `esgd`. With L = 1, averaging_decay = 0, no noise and no inner
    momentum, it is `replicated_sgd` with `replica_gamma`.

    Args:
      learning_rate: :math:`\eta'`; a number or a schedule of the count of gradients.
      gamma: coupling of the inner iterate to its anchor; a number, a schedule of the count of outer
        steps, or `flatjax.schedules.BalancedScoping`.
      replica_gamma: :math:`\gamma_r`, coupling of the anchors to their center; a number or a
        schedule of the count of outer steps.
      steps: number of gradients of the training. It replaces both gammas, see `esgd` and
        `replicated_sgd`.
      momentum: momentum of the inner SGD, reset at each outer step; None switches it off.
      nesterov: whether inner and outer momentum are Nesterov's.
      weight_decay: factor of the weight decay that the inner SGD adds to the gradient; a number.
      decay_mask: pytree of bools (or a function of params returning one): the leaves that decay;
        all if None.
      outer_momentum: momentum of the anchors; None switches it off.
      inner_steps: L, gradients per outer step.
      averaging_decay: :math:`\alpha`, the weight of the old mean.
      noise_scale: :math:`\epsilon`; the noise of a weight and step has standard deviation
        :math:`\epsilon \sqrt{2 \eta'}`; 0 draws no noise.
      key: random key (or a seed of up to 64 bits) of the noise.
      decoupled: apply both pulls after the optimizer's step, which is stable for every gamma. If
        False, add both pulls to the gradients, where momentum amplifies them.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked. You must give at least one
        of `axis_name` and `replica_axis`.
      mask: pytree of bools (or a function of params returning one); leaves marked False feel
        neither the two pulls nor the noise.
      opaque_mode: one `update` makes a whole loop of `inner_steps` gradients and computes them with
        the extra argument `grad_fn`, see `entropy_sgd`.
      num_replicas: expected y; other parameters are refused. None does not check.

    Returns:
      The transformation. It must be the last of a chain. The final model is the center of the
      anchors,
      `replica_center(eval_params(state, params), ...)`.

    Raises:
      ValueError: as `entropy_sgd` and `couple_replicas`, or a schedule of the weight decay.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.parle(0.05, gamma=0.1, replica_gamma=1.0, weight_decay=0.0, replica_axis=0)
      >>> params, minima = jnp.array([[5.0], [-2.0]]), jnp.array([[0.0], [2.0]])
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(params - minima, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> state = tx.init(params)
      >>> for _ in range(500):
      ...     params, state = step(params, state)
      >>> anchors = flatjax.eval_params(state, params)
      >>> flatjax.replica_center(anchors, replica_axis=0).round(2)
      Array([1.], dtype=float32)

    See Also:
      `esgd` (without replicas), `replicated_sgd` (without anchors), `eval_params` (gives the center
      of the anchors).
    """
    learning_rate = _checks.check_schedule("learning_rate", learning_rate)
    _refuse_schedule("weight_decay", weight_decay)
    weight_decay = _checks.check_scalar("weight_decay", weight_decay)
    _checks.check_count("inner_steps", inner_steps)
    outer_learning_rate = learning_rate
    if callable(learning_rate):
        # The learning rate of the last gradient in the loop that the outer step ends.
        outer_learning_rate = lambda count: learning_rate(count * inner_steps + inner_steps - 1)
    if replica_gamma is None and steps is not None:
        loops = max(steps // inner_steps, 1)
        replica_gamma = _strength.meeting(
            outer_learning_rate,
            loops,
            momentum=None if decoupled else _strength.or_0(outer_momentum),
            nesterov=nesterov,
        )
    elif replica_gamma is None or steps is not None:
        raise ValueError("either steps, or both gamma and replica_gamma must be given.")
    gamma = _anchor_gamma(gamma, steps, learning_rate, inner_steps, decoupled, momentum, nesterov)
    outer = replicated_sgd(
        outer_learning_rate,
        replica_gamma,
        momentum=outer_momentum,
        nesterov=nesterov,
        axis_name=axis_name,
        replica_axis=replica_axis,
        mask=mask,
        decoupled=decoupled,
        num_replicas=num_replicas,
    )
    return entropy_sgd(
        outer,
        _inner_sgd(momentum, nesterov, weight_decay, decay_mask),
        gamma,
        inner_learning_rate=learning_rate,
        inner_steps=inner_steps,
        averaging_decay=averaging_decay,
        noise_scale=noise_scale,
        key=key,
        outer_scaling="learning_rate",
        decoupled=decoupled,
        axis_name=axis_name,
        replica_axis=replica_axis,
        mask=mask,
        opaque_mode=opaque_mode,
        num_replicas=num_replicas,
    )


def _anchor_gamma(gamma, steps, learning_rate, inner_steps, decoupled, momentum, nesterov):
    """Returns the given coupling to the anchor, checked, or one for `steps`."""
    _checks.check_flag("decoupled", decoupled)
    _checks.check_count("inner_steps", inner_steps)
    _strength.check_given("gamma", gamma, steps)
    if steps is not None:
        most = None if decoupled else 0.5 * _strength.stability_limit(momentum, nesterov)
        return _strength.anchoring(learning_rate, steps, inner_steps, most)
    if not decoupled:
        _strength.check_stability(gamma, learning_rate, 1, momentum, nesterov, inner_steps)
    return gamma


def _refuse_schedule(name, value):
    if callable(value):
        raise ValueError(
            f"{name} must be a number, got a schedule: each loop starts the inner optimizer anew, "
            "and its schedules, too. Pass the schedule to optax.inject_hyperparams, which counts "
            "all updates."
        )


def _inner_sgd(momentum, nesterov, weight_decay, decay_mask):
    """SGD without its learning rate: weight decay, then momentum."""
    decay = optax.add_decayed_weights(weight_decay, decay_mask)
    return decay if momentum is None else optax.chain(decay, optax.trace(momentum, nesterov))
