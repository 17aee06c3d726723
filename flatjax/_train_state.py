"""A small training state: parameters, batch statistics, optimizer state and step."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a training loop, a pytree. It passes extra arguments to optax.

    Its leaves are arrays of numbers, which every file format can store. `flax.serialization`
    accepts it, too, if flax was imported before the state was made.

    Attributes:
      step: number of updates so far.
      params: the parameters, of one network or of stacked replicas.
      opt_state: state of `tx`.
      batch_stats: inputs that are not trained (running statistics of batch norm); an empty dict if
        there are none. They are never part of an optimizer state.
      apply_fn: the network, as a function. Static.
      tx: the optimizer. Static.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> state = flatjax.TrainState.create(
      ...     apply_fn=lambda params, x: params * x,
      ...     params=jnp.array(1.0),
      ...     tx=flatjax.esgd(0.1, gamma=0.1),
      ... )
      >>> state = state.apply_gradients(grads=jnp.array(1.0), value=jnp.array(0.5))
      >>> int(state.step)
      1

    See Also:
      `eval_params` (the network to evaluate), `nnx.eval_model` (the network of an NNX optimizer).
    """

    step: jax.Array
    params: chex.ArrayTree
    opt_state: optax.OptState
    batch_stats: chex.ArrayTree
    apply_fn: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    tx: optax.GradientTransformationExtraArgs = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        _register_with_flax(type(self))

    @classmethod
    def create(
        cls,
        *,
        apply_fn: Callable[..., Any],
        params: chex.ArrayTree,
        tx: optax.GradientTransformation,
        batch_stats: chex.ArrayTree | None = None,
    ) -> Self:
        """Makes the state before the first step."""
        tx = optax.with_extra_args_support(tx)
        return cls(
            step=jnp.zeros([], jnp.int32),
            params=params,
            opt_state=tx.init(params),
            batch_stats={} if batch_stats is None else batch_stats,
            apply_fn=apply_fn,
            tx=tx,
        )

    def apply_gradients(
        self,
        *,
        grads: chex.ArrayTree,
        batch_stats: chex.ArrayTree | None = None,
        **extra_args: Any,
    ) -> Self:
        """Makes one update.

        Args:
          grads: the gradient, a pytree like `params`.
          batch_stats: the new statistics; None keeps the current ones.
          **extra_args: forwarded to `tx.update`, for example `value=loss`.

        Returns:
          The state after the update.
        """
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **extra_args)
        return dataclasses.replace(
            self,
            step=optax.safe_increment(self.step),
            params=optax.apply_updates(self.params, updates),
            opt_state=opt_state,
            batch_stats=self.batch_stats if batch_stats is None else batch_stats,
        )


_KNOWN_TO_FLAX: set[type] = set()


def _register_with_flax(kind: type[TrainState]) -> None:
    """Registers the class with `flax.serialization`, if flax is imported.

    The core itself does not import flax, which needs to know every class.
    """
    serialization = sys.modules.get("flax.serialization")
    if serialization is None or kind in _KNOWN_TO_FLAX:
        return
    _KNOWN_TO_FLAX.add(kind)
    fields = dataclasses.fields(kind)
    names = [field.name for field in fields if not field.metadata.get("static")]

    def to_dict(state):
        return {name: serialization.to_state_dict(getattr(state, name)) for name in names}

    def from_dict(state, saved):
        if set(saved) != set(names):
            raise ValueError(
                f"a saved {kind.__name__} must have fields {names}, got {list(saved)}."
            )
        restore = lambda name: serialization.from_state_dict(
            getattr(state, name), saved[name], name=name
        )
        return dataclasses.replace(state, **{name: restore(name) for name in names})

    serialization.register_serialization_state(kind, to_dict, from_dict)
