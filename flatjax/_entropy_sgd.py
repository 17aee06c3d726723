r"""Entropy-SGD: gradient descent on the local entropy by Langevin dynamics.

Entropy-SGD [Chaudhari et al., 2017; Pittorino et al., 2021, algorithm 1] descends

.. math:: L_{LE}(w) = -\tfrac{1}{\beta} \log \int dw' \,
          e^{-\beta L(w') - \frac{\beta \gamma}{2} \lVert w' - w \rVert^2},
          \qquad \nabla L_{LE}(w) = \gamma (w - \langle w' \rangle). \tag{1}

For L inner steps of Langevin dynamics the *anchor* w is fixed; the steps explore its surroundings
with the iterate w' and average w' in mu,

.. math:: w' \leftarrow w' - \eta' \, \mathrm{inner}\big(\nabla L(w'; \mathrm{batch})
          + \gamma_t (w' - w)\big) + \sqrt{2 \eta'} \, \epsilon z \tag{2}

.. math:: \mu \leftarrow \alpha \mu + (1 - \alpha) w' \tag{3}

.. math:: w \leftarrow w + \mathrm{outer}(w - \mu) \tag{4}

Eq. (4) is the outer step, which ends a loop. The next loop starts at w' = mu = w, and resets the
inner optimizer's state (its momentum) if `reset_inner`. The step size is eta', z is normal noise of
strength epsilon, and alpha the weight of the old mean.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from flatjax import _center, _checks, _cpu, _keys, _masks, _precision, _replicas
from flatjax._direction import check_direction
from flatjax._langevin import make_langevin_step
from flatjax._masks import Mask, of_weights
from flatjax._schedules import Gamma, ScalarOrSchedule, as_scoping, at_step, loss_of

OUTER_SCALINGS = ("none", "gamma", "learning_rate")

_INNER_DESCENDS = (
    "inner must be an optimizer without its learning rate, such as optax.trace(0.9) for SGD or "
    "optax.scale_by_adam() for Adam: the weights move by -inner_learning_rate times its output. "
    "Got one that reverses the sign of the gradient of params{path}, as optax.sgd(0.1) does."
)
_OUTER_ASCENDS = (
    "outer must be an optimizer with its learning rate, such as optax.sgd(1.0): its output is "
    "added to the anchor. Got one that moves params{path} along its gradient."
)


class EntropySGDState(NamedTuple):
    """State of `entropy_sgd`.

    Attributes:
      step: number of gradients used so far.
      inner_step: position in the inner loop, in [0, inner_steps); 0 right after an outer step.
      anchor: w, the outer point; changes at outer steps only. Evaluate and save this point.
      mean: mu, the running mean of the inner iterates; equals the anchor when a loop starts.
      inner_state: state of the inner optimizer; reset when a loop starts, if `reset_inner`.
      outer_state: state of the outer optimizer; changes at outer steps only.
      gamma: the gamma of the last step, for logging.
      gamma_state: state of the schedule of gamma; changes at outer steps only.
      key: numbers of the noise's random key (`jax.random.key_data`, as scalars), which any file
        format can store, or the key that a user put there. It never changes: each step folds in
        its count.

    See Also:
      `entropy_sgd` (its transformation), `eval_params` (reads the anchor), `set_params` (replaces
      it).
    """

    step: jax.Array
    inner_step: jax.Array
    anchor: optax.Params
    mean: optax.Params
    inner_state: optax.OptState
    outer_state: optax.OptState
    gamma: jax.Array
    gamma_state: optax.OptState
    key: tuple[jax.Array, ...] | chex.PRNGKey


def entropy_sgd(
    outer: optax.GradientTransformation,
    inner: optax.GradientTransformation,
    gamma: Gamma,
    *,
    inner_learning_rate: ScalarOrSchedule,
    inner_steps: int = 5,
    averaging_decay: chex.Numeric = 0.75,
    noise_scale: chex.Numeric = 1e-4,
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
    r"""Entropy-SGD as a wrapper of two optax optimizers, `outer` and `inner`.

    By default every `update` takes one gradient and makes one Langevin step, eqs. (2) and (3), and
    every `inner_steps`-th update also moves the anchor, eq. (4). This form composes with
    `optax.MultiSteps`, logging and any training loop, and its step count is the number of
    gradients. It replaces the parameters, so it must be the *last* of a chain. Evaluate and save
    the anchor, `eval_params(state, params)`.

    Inside `optax.inject_hyperparams`, name `gamma` (it counts outer steps, but optax would count
    updates), `inner_steps`, `replica_axis` and `mask` in its `static_args`.

    Args:
      outer: optimizer of the anchor, which gets :math:`w - \mu` as its gradient. `optax.sgd(1.0)`
        moves the anchor onto the mean.
      inner: optimizer of the inner loop *without* its learning rate, for example
        `optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9, nesterov=True))` or
        `optax.scale_by_adam()`. With `reset_inner`, its schedules begin anew in each loop.
      gamma: coupling :math:`\gamma_t` to the anchor; a number, a schedule of the count of *outer*
        steps, or `flatjax.schedules.BalancedScoping`.
      inner_learning_rate: :math:`\eta'`; a number or a schedule of the count of gradients.
      inner_steps: L, gradients per outer step.
      averaging_decay: :math:`\alpha`, the weight of the *old* mean, in [0, 1).
      noise_scale: :math:`\epsilon`; the noise of a weight and step has standard deviation
        :math:`\epsilon \sqrt{2 \eta'}` and is added after momentum.
      key: random key (or a seed of up to 64 bits) of the noise. The state stores the key's numbers.
        `optax.tree.set(state, key=...)` replaces them by another key, or by its numbers.
      outer_scaling: factor of :math:`w - \mu` before `outer`. `"none"` is 1. `"gamma"` gives the
        gradient of the local entropy, which freezes the anchor while gamma is small.
        `"learning_rate"` is :math:`1 / \eta'`, the scale of a gradient of the loss, as in Parle.
      decoupled: contract :math:`w' - w` by :math:`e^{-\eta' \gamma}` after the inner optimizer's
        step (before the noise), which is stable for every :math:`\eta' \gamma`. If False, add
        :math:`\gamma (w' - w)` to its gradient: the paper's form, which momentum amplifies.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread, if any. Each
        replica then draws its own noise.
      replica_axis: axis of the leaves along which replicas are stacked, if they are.
      mask: pytree of bools (or a function of params returning one); leaves marked False feel
        neither coupling nor noise. To freeze leaves, wrap this in `optax.partition`.
      opaque_mode: one `update` makes a whole loop. It takes the gradient at `params`, and calls
        `grad_fn(params, i)` for i = 1 ... L-1 (unrolled on CPU, a loop elsewhere). `grad_fn` is
        traced for both: i may be a tracer, which can index arrays but not Python lists.
      reset_inner: start each loop with a fresh state of `inner`, as the paper does. If False, its
        momentum and preconditioner are kept. With gamma = 0 and averaging_decay = 0, this is then
        DiLoCo with one worker.
      num_replicas: expected y, see `couple_replicas`.

    Returns:
      The transformation. `update` needs `params` (and in opaque mode `grad_fn`).

    Raises:
      ValueError: a negative, non-finite or out-of-range argument, an unknown `outer_scaling`,
        leaves that disagree on the number of replicas or with `num_replicas`, missing params or
        `grad_fn`. By `init`: an `inner` with a learning rate, or an `outer` without.

    References:
      Chaudhari et al., `Entropy-SGD: biasing gradient descent into wide valleys
      <https://arxiv.org/abs/1611.01838>`_, 2017. Pittorino et al., `Entropic gradient descent
      algorithms and wide flat minima <https://arxiv.org/abs/2006.07897>`_, 2021.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, flatjax
      >>> tx = flatjax.entropy_sgd(
      ...     outer=optax.sgd(1.0),
      ...     inner=optax.trace(0.9, nesterov=True),
      ...     gamma=0.1,
      ...     inner_learning_rate=0.05,
      ... )
      >>> loss = lambda params: jnp.sum(params**2)
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> params = jnp.array([3.0, -2.0])
      >>> state = tx.init(params)
      >>> for _ in range(200):
      ...     params, state = step(params, state)
      >>> float(loss(flatjax.eval_params(state, params))) < 1e-3
      True

    See Also:
      `esgd` (with the paper's settings), `parle` (with replicas), `eval_params` (gives the anchor),
      `schedules.scoping` (lets gamma grow).
    """
    gamma = _checks.check_schedule("gamma", gamma)
    inner_learning_rate = _checks.check_schedule("inner_learning_rate", inner_learning_rate)
    averaging_decay = _checks.check_scalar(
        "averaging_decay", averaging_decay, maximum=1.0, exclusive_maximum=True
    )
    noise_scale = _checks.check_scalar("noise_scale", noise_scale)
    _check_arguments(inner_steps, key, decoupled, opaque_mode, reset_inner)
    if outer_scaling not in OUTER_SCALINGS:
        raise ValueError(f"outer_scaling must be one of {OUTER_SCALINGS}, got {outer_scaling!r}.")
    _checks.check_optional_count("num_replicas", num_replicas)
    _checks.check_optional_count("replica_axis", replica_axis, minimum=0)
    scoping = as_scoping(gamma)
    inner = optax.with_extra_args_support(inner)
    outer = optax.with_extra_args_support(outer)
    where = {"axis_name": axis_name, "replica_axis": replica_axis}
    impl = _keys.implementation(key)
    key_of = lambda state: _keys.from_numbers("state.key", state.key, impl)
    langevin_step = make_langevin_step(
        inner, noise_scale, key_of, decoupled=decoupled, mask=mask, **where
    )
    outer_step = _make_outer_step(outer, outer_scaling)

    def init_fn(params):
        _replicas.check_num_replicas(params, num_replicas, **where)
        check_direction(inner, params, +1, _INNER_DESCENDS)
        check_direction(outer, params, -1, _OUTER_ASCENDS)
        return EntropySGDState(
            step=jnp.zeros([], jnp.int32),
            inner_step=jnp.zeros([], jnp.int32),
            # Copies: the state outlives the parameters where those are donated.
            anchor=jax.tree.map(jnp.copy, params),
            mean=jax.tree.map(jnp.copy, params),
            inner_state=inner.init(params),
            outer_state=outer.init(params),
            gamma=jnp.zeros([]),
            gamma_state=scoping.init(),
            key=_keys.numbers_of(_keys.as_key("key", key)),
        )

    def next_gamma(gamma_state, moved, anchor, extra_args):
        """Returns the state of gamma after an outer step; the first may measure gamma_0."""
        measure = lambda: _measure(moved, anchor, mask, extra_args, **where)
        return scoping.step(gamma_state, measure, extra_args)[1]

    def one_step(grads, state, params, is_last, extra_args):
        """Makes one step of w', and of w if it is the last step of a loop."""
        _replicas.check_num_replicas(params, num_replicas, **where)
        _checks.check_state("anchor", state.anchor, params)
        alpha = averaging_decay
        gamma_t = scoping.current(state.gamma_state, extra_args)
        eta = at_step(inner_learning_rate, state.step)

        moved, inner_state = langevin_step(grads, state, params, gamma_t, eta, extra_args)
        average = lambda mu, w_: (alpha * mu + (1 - alpha) * w_).astype(mu.dtype)  # eq. (3)
        mean = jax.tree.map(average, state.mean, moved)

        def end_loop(anchor, mean, outer_state, gamma_state):
            anchor, outer_state = outer_step(anchor, mean, outer_state, gamma_t, eta, extra_args)
            return anchor, outer_state, next_gamma(gamma_state, moved, state.anchor, extra_args)

        def go_on(anchor, mean, outer_state, gamma_state):
            del mean
            return anchor, outer_state, gamma_state

        # A cond, not a select: if the outer optimizer couples replicas on different devices, they
        # communicate at outer steps only.
        anchor, outer_state, gamma_state = jax.lax.cond(
            is_last, end_loop, go_on, state.anchor, mean, state.outer_state, state.gamma_state
        )
        restart = lambda new, old: jax.tree.map(lambda a, b: jnp.where(is_last, a, b), new, old)
        new_params = restart(anchor, moved)
        new_state = EntropySGDState(
            step=optax.safe_increment(state.step),
            inner_step=(state.inner_step + 1) % inner_steps,
            anchor=anchor,
            mean=restart(anchor, mean),
            inner_state=restart(inner.init(anchor), inner_state) if reset_inner else inner_state,
            outer_state=outer_state,
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
            key=state.key,
        )
        return optax.tree.sub(new_params, params), new_state

    make_update = _make_opaque_update if opaque_mode else _make_transparent_update
    return of_weights(init_fn, make_update(one_step, inner_steps))


def _make_transparent_update(one_step, inner_steps):
    """Returns an update_fn that takes one gradient and makes one step."""

    def update_fn(grads, state, params, **extra_args):
        is_last = state.inner_step == inner_steps - 1
        return one_step(grads, state, params, is_last, extra_args)

    return update_fn


def _make_opaque_update(one_step, inner_steps):
    """Returns an update_fn of a whole loop, with gradients from `grad_fn`."""

    def update_fn(grads, state, params, *, grad_fn=None, **extra_args):
        if grad_fn is None:
            raise ValueError(
                "grad_fn must be passed to update(grads, state, params, grad_fn=...) in opaque "
                "mode: a function (params, i) -> gradient on the i-th batch of the loop."
            )

        def step(carry, grads, is_last):
            iterate, state = carry
            updates, state = one_step(grads, state, iterate, is_last, extra_args)
            return optax.apply_updates(iterate, updates), state

        def next_step(i, carry):
            return step(carry, grad_fn(carry[0], jnp.asarray(i)), i == inner_steps - 1)

        # The caller passed the first gradient.
        first = step((params, state), grads, inner_steps == 1)

        def unrolled():
            # Unrolled, only the last step contains the operations that end a loop.
            return functools.reduce(lambda carry, i: next_step(i, carry), steps, first)

        def looped():
            return jax.lax.fori_loop(1, inner_steps, next_step, first)

        steps = range(1, inner_steps)
        iterate, state = _cpu.unrolled_or(unrolled, looped) if steps else first
        return optax.tree.sub(iterate, params), state

    return update_fn


def _make_outer_step(outer, outer_scaling):
    """Returns outer_step(w, mu, state, gamma_t, eta', extra_args) -> (w, state)."""

    def outer_step(anchor, mean, outer_state, gamma_t, eta, extra_args):
        scale = 1.0
        if outer_scaling == "gamma":
            scale = gamma_t  # the gradient of eq. (1)
        elif outer_scaling == "learning_rate":
            # eta is 0 at the end of some schedules; then nothing has moved.
            scale = jnp.where(eta > 0, 1 / jnp.where(eta > 0, eta, 1.0), 0.0)
        grads = jax.tree.map(lambda w, mu: (scale * (w - mu)).astype(w.dtype), anchor, mean)
        updates, outer_state = outer.update(grads, outer_state, anchor, **extra_args)  # eq. (4)
        return optax.apply_updates(anchor, updates), outer_state

    return outer_step


def _measure(moved, anchor, mask, extra_args, axis_name, replica_axis):
    """Returns loss and squared distance, from which `BalancedScoping` starts."""
    where = {"axis_name": axis_name, "replica_axis": replica_axis}
    displacement = _precision.difference(_masks.moving(moved, mask), _masks.moving(anchor, mask))
    squared = _precision.norm(displacement, squared=True)
    stacked = None if replica_axis is None else _replicas.stacked_size(moved, replica_axis)
    value = _center.mean_over_replicas(loss_of(extra_args, stacked), **where)
    return value, _center.mean_over_replicas(squared / (stacked or 1), **where)


def _check_arguments(inner_steps, key, decoupled, opaque_mode, reset_inner):
    _checks.check_count("inner_steps", inner_steps)
    _checks.check_key("key", key)
    _checks.check_flag("decoupled", decoupled)
    _checks.check_flag("opaque_mode", opaque_mode)
    _checks.check_flag("reset_inner", reset_inner)
