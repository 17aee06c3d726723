"""The coupling of Replicated-SGD as a force: `couple_replicas`, the paper's form."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from flatjax import _checks
from flatjax._coupling import Coupling
from flatjax._masks import Mask, map_masked, of_weights
from flatjax._schedules import Gamma, as_scoping


class CoupleReplicasState(NamedTuple):
    """State of `couple_replicas`. The center is computed, not stored.

    Attributes:
      count: number of updates so far.
      gamma: the gamma of the last update, for logging.
      gamma_state: state of the schedule of gamma.
      pending: with `delayed`, the displacement from the center measured at the last coupling; it
        acts at the next coupling. It has the shapes of the parameters. Otherwise an empty tuple.

    See Also:
      `couple_replicas` (its transformation), `coupling_diagnostics` (numbers to log).
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    gamma: jax.Array
    gamma_state: optax.OptState
    pending: optax.Params


def couple_replicas(
    gamma: Gamma,
    *,
    axis_name: str | None = None,
    replica_axis: int | None = None,
    period: int = 1,
    offset: int | None = None,
    mask: Mask = None,
    communication_dtype: DTypeLike | None = None,
    delayed: bool = False,
    num_replicas: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the force towards the center to the gradients (Replicated-SGD).

    .. math:: g_a \leftarrow g_a + \gamma_t (w_a - \bar w)

    Here g are the gradients, w the weights of replica a, and :math:`\bar w` the center. Chain this
    *before* weight decay and momentum. With a period K, the force :math:`K \gamma_t` acts on every
    K-th step (count = K-1, 2K-1, ...) and no force acts in between. Replicas on different devices
    communicate on those steps only.

    Inside `optax.inject_hyperparams`, name `replica_axis`, `period`, `mask`, `delayed`,
    `communication_dtype`, a `BalancedScoping` and an `offset`, if you give one, in its
    `static_args`. The same holds for all transformations of flatjax.

    Args:
      gamma: coupling; a number, a schedule of the step count (see `flatjax.schedules.scoping`) or
        `flatjax.schedules.BalancedScoping`. Its unit is 1 / (learning rate); see
        `flatjax.schedules.stability_limit` for the largest stable learning_rate * gamma.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      replica_axis: axis of the leaves along which replicas are stacked. At least one of the two
        must be given. Give both if each device of a mesh axis holds a stack.
      period: K, the number of steps between couplings.
      offset: shifts the couplings within the period: a step is coupled if count = K - 1 + offset
        (modulo K). In [0, K); 0 if None.
      mask: pytree of bools (or a function of params returning one); leaves marked False, such as
        frozen ones or the biases, are not coupled.
      communication_dtype: dtype to which replicas round their messages: a floating-point dtype, or
        int8 with a scale for each leaf; see `flatjax.communication`. Under jit with sharded stacks,
        set the mesh (`jax.set_mesh`); otherwise float32 is sent. None sends float32.
      delayed: apply the force computed at the previous coupling, K steps ago (zero at the first),
        so that a step never waits for communication. It is stable only while learning_rate * K
        gamma < 1 (plain SGD), and stores one more copy of the parameters.
      num_replicas: expected y. `init` and `update` then refuse parameters with another number of
        replicas, such as those inside `optax.flatten`. None does not check.

    Returns:
      The transformation. `update` needs `params`.

    Raises:
      ValueError: negative or non-finite gamma, period < 1, offset out of range, neither `axis_name`
        nor `replica_axis`, leaves that disagree on the number of replicas or with `num_replicas`,
        or missing params.

    Examples:
      Stacked replicas:

      >>> import jax.numpy as jnp, optax, flatjax
      >>> tx = optax.chain(
      ...     flatjax.couple_replicas(gamma=0.1, replica_axis=0),
      ...     optax.add_decayed_weights(5e-4),
      ...     optax.sgd(0.1, momentum=0.9, nesterov=True),
      ... )
      >>> params = jnp.array([[0.0], [2.0]])
      >>> coupling = flatjax.couple_replicas(gamma=0.1, replica_axis=0)
      >>> coupling.update(jnp.zeros((2, 1)), coupling.init(params), params)[0]
      Array([[-0.1],
             [ 0.1]], dtype=float32)

      One replica per program, under a named axis:

      >>> import jax
      >>> coupling = flatjax.couple_replicas(gamma=0.1, axis_name="replica")
      >>> def step(grads, params):
      ...     return coupling.update(grads, coupling.init(params), params)[0]
      >>> jax.vmap(step, axis_name="replica")(jnp.zeros((2, 1)), params)
      Array([[-0.1],
             [ 0.1]], dtype=float32)

    See Also:
      `pull_to_center` (stable for every gamma), `replicated_sgd` (the complete optimizer),
      `schedules.scoping` (lets gamma grow).
    """
    gamma = _checks.check_schedule("gamma", gamma)
    _checks.check_flag("delayed", delayed)
    coupling = Coupling(
        axis_name, replica_axis, period, offset, mask, communication_dtype, num_replicas
    )
    displacement = coupling.displacement
    scoping = as_scoping(gamma)

    def init_fn(params):
        coupling.check_start(scoping, params)
        return CoupleReplicasState(
            count=jnp.zeros([], jnp.int32),
            gamma=jnp.zeros([]),
            gamma_state=scoping.init(),
            pending=jax.tree.map(jnp.zeros_like, params) if delayed else (),
        )

    def update_fn(updates, state, params, **extra_args):
        coupling.check_params(params)
        if delayed:
            _checks.check_state("pending", state.pending, params)
        measure = functools.partial(coupling.measure, params, extra_args)
        gamma_t, gamma_state = scoping.step(state.gamma_state, measure, extra_args)

        def add_force(g, d):
            return (g + period * gamma_t * d).astype(g.dtype)

        def couple(updates, pending):
            if not delayed:
                at_once = lambda g, w: add_force(g, displacement(w))
                return map_masked(at_once, mask, params, updates, params), pending
            updates = map_masked(add_force, mask, params, updates, pending)
            measured = lambda d, w: displacement(w).astype(d.dtype)
            return updates, map_masked(measured, mask, params, pending, params)

        updates, pending = coupling.when_coupled(state.count, couple, updates, state.pending)
        return updates, CoupleReplicasState(
            count=optax.safe_increment(state.count),
            gamma=gamma_t.astype(state.gamma.dtype),
            gamma_state=gamma_state,
            pending=pending,
        )

    return of_weights(init_fn, update_fn)
