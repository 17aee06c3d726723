"""Networks in NNX, flax's present interface: the network to evaluate.

Replicas are one module whose arrays carry a replica axis, as `flatjax.stack_replicas` makes it. Any
transformation of flatjax goes into `nnx.Optimizer`. `import flatjax` does not import this module,
so that the core does not need flax.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
from flax import nnx

from flatjax import batch_stats
from flatjax._center import replica_center
from flatjax._eval_params import eval_params

__all__ = ["eval_model"]

_Module = TypeVar("_Module", bound=nnx.Module)


def eval_model(
    model: _Module,
    optimizer: nnx.Optimizer,
    batches: Iterable[Any] | None = None,
    *,
    forward: Callable[[_Module, Any], Any] | None = None,
    replica_axis: int | None = None,
) -> _Module:
    """Makes the network to evaluate and save: the center, anchor or average.

    Its weights are those of `flatjax.eval_params`. Its batch-norm statistics are measured for these
    weights on `batches`, see `flatjax.batch_stats.reestimate`: training has not visited them. Other
    variables are the mean over replicas, those of random keys the first replica's. The model under
    training stays as it is, so that this can be called during training.

    Args:
      model: the network under training, or the stack of its replicas.
      optimizer: its `nnx.Optimizer`.
      batches: training batches for one network, of the size that training used; a few dozen are
        enough. Needed only for a network with batch norm.
      forward: `forward(network, batch)` runs the network, which is in training mode, on one batch;
        what it returns is not used. It is jitted, so that random numbers of its own must be made
        inside, as by `nnx.Rngs(0)`. By default `network(batch)`.
      replica_axis: axis along which replicas are stacked; None for one network.

    Returns:
      A new module like one replica.

    Raises:
      ValueError: the network has batch statistics, but no `batches` are given.

    Examples:
      >>> import jax, jax.numpy as jnp, flatjax.nnx
      >>> from flax import nnx
      >>> make = lambda key: nnx.Linear(2, 1, rngs=nnx.Rngs(key))
      >>> replicas = flatjax.stack_replicas(make, jax.random.split(jax.random.key(0), 3))
      >>> tx = flatjax.replicated_sgd(0.1, steps=100, replica_axis=0)
      >>> optimizer = nnx.Optimizer(replicas, tx, wrt=nnx.Param)
      >>> flatjax.nnx.eval_model(replicas, optimizer, replica_axis=0)(jnp.ones((5, 2))).shape
      (5, 1)

    See Also:
      `flatjax.eval_params` (for other libraries), `flatjax.batch_stats.reestimate` (measures the
      statistics).
    """
    graph, params, *others = nnx.split(model, optimizer.wrt, nnx.BatchStat, ...)
    params = eval_params(optimizer.opt_state, params, replica_axis=replica_axis)
    if replica_axis is not None:
        others = replica_center(others, replica_axis=replica_axis)
    stats, rest = others
    if jax.tree.leaves(stats):
        if batches is None:
            raise ValueError(
                "batches must be given for a network with batch norm: its statistics are measured "
                "for the weights to evaluate."
            )
        run = forward or (lambda network, batch: network(batch))

        @jax.jit
        def update(params, stats, rest, batch):
            network = nnx.merge(graph, params, stats, rest)
            network.train()
            run(network, batch)
            return nnx.state(network, nnx.BatchStat)

        update_stats = lambda params, stats, batch: update(params, stats, rest, batch)
        stats = batch_stats.reestimate(update_stats, params, stats, batches)
    network = nnx.merge(graph, params, stats, rest, copy=True)  # shares nothing with the model
    network.eval()
    return network
