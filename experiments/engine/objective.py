"""The loss of a network and its evaluation, as pure functions without data.

An `Objective` is static: compiled programs depend on it, and tasks that differ only in their data
share one.
"""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

import flatjax
from flatjax import data, flatness
from flatjax.models._network import Network


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A network, its loss on a batch, and the programs that evaluate it.

    Attributes:
      network: the linen module, behind one interface.
      image_shape: (H, W, C).
      normalization: of the images, measured on the training images.
      augment: random change of a batch of uint8 images, (key, images) -> images; or None.
      label_smoothing: weight of the uniform distribution in the training targets.
      micro_batches: parts of a batch whose gradients are computed one after another.
      sigmas: noise strengths of the local energy.
      local_energy_samples: draws of the noise for each strength.
    """

    network: Network
    image_shape: tuple[int, ...]
    normalization: data.Normalization
    augment: Callable[[chex.PRNGKey, jax.Array], jax.Array] | None
    label_smoothing: float
    micro_batches: int
    sigmas: tuple[float, ...]
    local_energy_samples: int

    # --- training -------------------------------------------------------------------------------

    def batch(self, examples: data.DeviceSplit, key: chex.PRNGKey) -> dict[str, jax.Array]:
        """The training batch of each replica, augmented and normalized.

        Args:
          examples: of each replica, (y, B, ...).
          key: of the augmentation, and of the randomness inside the network.

        Returns:
          Images (y, B, H, W, C), labels (y, B), and a key for each replica and micro-batch,
          (y, parts), for the randomness inside the network.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(examples.label)))
        network_keys = jax.vmap(lambda key: jax.random.split(key, self.micro_batches))(keys)
        images = examples.image
        if self.augment is not None:
            images = jax.vmap(self.augment)(keys, images)
        images = self.normalization.normalize(images)
        return {"image": images, "label": examples.label, "key": network_keys}

    def loss(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[jax.Array, chex.ArrayTree]:
        """Mean cross-entropy of one network on a batch, and its new batch statistics.

        Without a `"key"` (1,) in the batch, the network draws the same random numbers every time.
        """
        variables = {"params": params, "batch_stats": batch_stats}
        key = batch["key"][0] if "key" in batch else jax.random.key(0)
        logits, batch_stats = self.network.train_logits(variables, batch["image"], key)
        targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
        targets = optax.smooth_labels(targets, self.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), batch_stats

    def value_and_grad(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, batch: chex.ArrayTree
    ) -> tuple[tuple[jax.Array, chex.ArrayTree], chex.ArrayTree]:
        """Loss, new statistics and gradient of one network, over the parts of a batch in turn."""
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        parts = self.micro_batches
        if parts == 1:
            return gradient(params, batch_stats, batch)
        batches = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)

        def add(carry, part):
            stats, total = carry
            (value, stats), grads = gradient(params, stats, part)
            return (stats, jax.tree.map(jnp.add, total, grads)), value

        # In half precision, the sum would be rounded with every part.
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
        """Logits of one network in evaluation mode, (B, classes)."""
        variables = {"params": params, "batch_stats": batch_stats}
        return self.network.logits(variables, batch["image"])

    @functools.cached_property
    def eval_fn(self) -> flatjax.EvalFn:
        """(params, batch, batch_stats) -> sums of loss and error; see `flatjax.evaluation`."""
        return jax.jit(
            lambda params, batch, batch_stats: _sums(self.logits(params, batch_stats, batch), batch)
        )

    @functools.cached_property
    def ensemble_eval_fn(self) -> flatjax.EvalFn:
        """(members, batch, member_stats) -> sums for the mean of the members' probabilities."""

        def eval_fn(members, batch, member_stats):
            log_probabilities = [
                jax.nn.log_softmax(self.logits(params, stats, batch))
                for params, stats in zip(members, member_stats, strict=True)
            ]
            # A constant shift, log y, changes no argmax, but the loss is that of the mean.
            total = jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0)
            return _sums(total - jnp.log(len(members)), batch)

        return jax.jit(eval_fn)

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


def _sums(logits, batch) -> dict[str, jax.Array]:
    weight, label = batch["weight"], batch["label"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return {
        "loss": jnp.sum(weight * losses),
        "error": jnp.sum(weight * (logits.argmax(-1) != label)),
        "count": jnp.sum(weight),
    }
