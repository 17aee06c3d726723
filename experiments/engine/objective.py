"""The loss of a network and its evaluation, as pure functions without data.

An `Objective` is static: compiled programs depend on it. Tasks that differ only in their data share
one objective, and so do tasks that are made again.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

import flatjax
from experiments.engine.datasets import Examples
from experiments.engine.problems import Problem
from flatjax import _additivity, flatness
from flatjax.models._fingerprint import fingerprint_of
from flatjax.models._network import Network


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A network, its loss on a batch, and the programs that evaluate it.

    Attributes:
      network: the linen module, with a common interface.
      problem: inputs, loss and evaluation of the network; see `problems`.
      label_smoothing: weight of the uniform distribution in the training targets.
      micro_batches: number of parts of a batch whose gradients are computed one after another.
      sigmas: noise strengths of the local energy.
      local_energy_samples: number of draws of the noise for each strength.
    """

    network: Network
    problem: Problem
    label_smoothing: float
    micro_batches: int
    sigmas: tuple[float, ...]
    local_energy_samples: int

    @functools.cached_property
    def network_fingerprint(self) -> dict[str, str]:
        """Identifies what the network computes, in training and in evaluation."""
        problem = self.problem
        shape, dtype = problem.input_shape, problem.input_dtype
        return fingerprint_of(self.network, shape, dtype, training=True)

    # --- training -------------------------------------------------------------------------------

    def batch(self, examples: Examples, key: chex.PRNGKey) -> dict[str, jax.Array]:
        """Makes the training batch of each replica, augmented and normalized.

        Args:
          examples: examples of each replica, (y, B, ...).
          key: random key of the augmentation, and of the randomness inside the network.

        Returns:
          Images (y, B, H, W, C) and labels (y, B), or the arrays of another problem. In addition, a
          key for each replica and micro-batch, (y, parts), for the network's randomness.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            key, jnp.arange(len(jax.tree.leaves(examples)[0]))
        )
        network_keys = jax.vmap(lambda key: jax.random.split(key, self.micro_batches))(keys)
        return self.problem.batch(examples, keys) | {"key": network_keys}

    def loss(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Computes the mean loss of one network on a batch, and new batch statistics.

        Without a `"key"` (1,) in the batch, the network always draws the same random numbers.
        """
        variables = {"params": params, "batch_stats": batch_stats}
        key = batch["key"][0] if "key" in batch else jax.random.key(0)
        inputs = self.problem.inputs(batch)
        logits, batch_stats = self.network.train_logits(variables, inputs, key)
        return self.problem.loss(logits, batch, self.label_smoothing), batch_stats

    def value_and_grad(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[tuple[jax.Array, chex.ArrayTree], chex.ArrayTree]:
        """Computes loss, new statistics and gradient of one network, over parts in turn."""
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        parts = self.micro_batches
        if parts == 1:
            return gradient(params, batch_stats, batch)
        batches = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)

        def add(carry, part):
            stats, total = carry
            (value, stats), grads = gradient(params, stats, part)
            return (stats, jax.tree.map(jnp.add, total, grads)), value

        # In half precision, every addition of a part would round the sum.
        wide = lambda w: jnp.zeros_like(w, jnp.promote_types(w.dtype, jnp.float32))
        zeros = jax.tree.map(wide, params)
        # XLA's own convolutions are about ten times slower on a CPU inside a loop than outside.
        unroll = parts if jax.default_backend() == "cpu" else 1
        (stats, total), values = jax.lax.scan(add, (batch_stats, zeros), batches, unroll=unroll)
        mean = lambda g, w: (g / parts).astype(w.dtype)
        return (values.mean(), stats), jax.tree.map(mean, total, params)

    # --- evaluation -----------------------------------------------------------------------------

    def logits(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> jax.Array:
        """Computes logits of one network in evaluation mode, (B, ..., classes)."""
        variables = {"params": params, "batch_stats": batch_stats}
        return self.network.logits(variables, self.problem.inputs(batch))

    @functools.cached_property
    def eval_fn(self) -> flatjax.EvalFn:
        """A function (params, batch, batch_stats) -> sums of loss and error."""

        def eval_fn(params, batch, batch_stats):
            return self.problem.sums(self.logits(params, batch_stats, batch), batch)

        return jax.jit(_additivity.sums(eval_fn))

    @functools.cached_property
    def ensemble_eval_fn(self) -> flatjax.EvalFn:
        """A function (members, batch, member_stats) -> sums of the ensemble."""

        def eval_fn(members, batch, member_stats):
            outputs = [
                self.logits(params, stats, batch)
                for params, stats in zip(members, member_stats, strict=True)
            ]
            return self.problem.sums(self.problem.mean_outputs(outputs), batch)

        return jax.jit(_additivity.sums(eval_fn))

    @functools.cached_property
    def local_energy(self) -> Callable[..., flatness.LocalEnergy]:
        """(params, batches, key, batch_stats) -> local energy; see `flatjax.flatness`."""
        return flatness.local_energy(
            self.eval_fn, sigmas=self.sigmas, num_samples=self.local_energy_samples
        )

    @functools.cached_property
    def update_stats(self) -> flatjax.batch_stats.UpdateStatsFn:
        """(params, batch_stats, batch) -> batch_stats; see `flatjax.batch_stats`."""
        return jax.jit(lambda params, stats, batch: self.loss(params, stats, batch)[1])


def make_objective(network: Network, problem: Problem, *measures: Any) -> Objective:
    """Makes an objective; equal fields give the same one, with its programs."""
    try:
        return _made(network, problem, *measures)
    except TypeError:  # a field of the user's network cannot be hashed
        return Objective(network, problem, *measures)


_made = functools.lru_cache(maxsize=32)(Objective)
