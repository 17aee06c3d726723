"""The timed training steps in JAX: callables that each make one unit of work."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from flatjax import models

LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, GAMMA = 0.05, 5e-4, 0.9, 0.1
AVERAGING_DECAY, NOISE_SCALE = 0.75, 1e-4  # for Entropy-SGD


class JaxSteps:
    """One network, one batch for each replica, and each algorithm's steps on them.

    Attributes:
      model: the linen module.
      images: (y, B, H, W, C) float32.
      labels: (y, B) int32.
      replicas: parameters of y networks, stacked.
      batch_stats: statistics of one network; batches are normalised by their own.

    Args:
      model_name: a name of `flatjax.models`.
      images: float32 images of each replica.
      labels: labels of each replica.
      steps_per_call: number of steps in one program, and in one call.
      **options: options of the network.
    """

    def __init__(
        self,
        model_name: str,
        images: np.ndarray,
        labels: np.ndarray,
        steps_per_call: int = 1,
        **options: Any,
    ):
        self.model = models.create(model_name, 10, **options)
        self._steps_per_call = steps_per_call
        self.images, self.labels = jnp.asarray(images), jnp.asarray(labels, jnp.int32)
        init = jax.jit(lambda key: self.model.init(key, self.images[0], train=False))
        keys = jax.random.split(jax.random.key(0), len(images))
        self.replicas = flatjax.stack_replicas(lambda key: init(key)["params"], keys)
        self.batch_stats = init(keys[0]).get("batch_stats", {})

    def loss(self, params, images, labels):
        """Computes the mean cross-entropy of one network."""
        variables = {"params": params, "batch_stats": self.batch_stats}
        logits, _ = self.model.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def plain(self) -> "Repeated":
        """Makes one step of SGD with Nesterov momentum."""
        tx = optax.chain(
            optax.add_decayed_weights(WEIGHT_DECAY),
            optax.sgd(LEARNING_RATE, momentum=MOMENTUM, nesterov=True),
        )
        return self._one_network(tx)

    def esgd(self) -> "Repeated":
        """Makes one gradient step of transparent Entropy-SGD, with noise."""
        return self._one_network(
            flatjax.esgd(
                LEARNING_RATE,
                GAMMA,
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                decoupled=False,
            )
        )

    def esgd_loop(self, inner_steps: int) -> "Repeated":
        """Makes one update of opaque Entropy-SGD: a whole inner loop."""
        tx = flatjax.esgd(
            LEARNING_RATE,
            GAMMA,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            inner_steps=inner_steps,
            opaque_mode=True,
            decoupled=False,
        )
        return self._one_network(tx, opaque=True)

    def sam(self) -> "Repeated":
        """Makes one gradient step of optax's SAM; two of them are an update."""
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
        return self._one_network(
            optax.contrib.sam(optax.sgd(LEARNING_RATE, momentum=MOMENTUM), adversary)
        )

    def _one_network(self, tx, *, opaque=False):
        tx = optax.with_extra_args_support(tx)
        images, labels = self.images[0], self.labels[0]

        def step(params, state):
            grad_fn = lambda params, i: jax.grad(self.loss)(params, images, labels)
            extra = {"grad_fn": grad_fn} if opaque else {}
            updates, state = tx.update(grad_fn(params, 0), state, params, **extra)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(lambda leaf: leaf[0], self.replicas)
        return Repeated(step, params, tx.init(params), self._steps_per_call)

    def rsgd(self, placement: str = "auto", *, decoupled: bool = False) -> "Repeated":
        """Makes one step of Replicated-SGD: a gradient of each replica."""
        tx = flatjax.replicated_sgd(
            LEARNING_RATE,
            GAMMA,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            replica_axis=0,
            decoupled=decoupled,
        )
        return self._replicas(tx, placement)

    def parle(self) -> "Repeated":
        """Makes one gradient step of each replica in transparent Parle, with noise."""
        return self._replicas(
            flatjax.parle(
                LEARNING_RATE,
                GAMMA,
                GAMMA,
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                replica_axis=0,
                decoupled=False,
            )
        )

    def _replicas(self, tx, placement="auto"):
        gradients = flatjax.map_replicas(jax.grad(self.loss), placement=placement)

        def step(params, state):
            grads = gradients(params, self.images, self.labels)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return Repeated(step, self.replicas, tx.init(self.replicas), self._steps_per_call)


class Repeated:
    """A step that continues from the previous result, and waits for its own result.

    Attributes:
      compile_seconds: time of tracing and compiling, summed over all cores.
    """

    def __init__(self, step, params, state, steps_per_call=1):
        self._carry = jax.tree.map(jnp.copy, (params, state))
        start = time.process_time()

        def several(params, state):
            again = lambda _, carry: step(*carry)
            return jax.lax.fori_loop(0, steps_per_call, again, (params, state))

        call = step if steps_per_call == 1 else several
        self._step = jax.jit(call, donate_argnums=(0, 1)).lower(*self._carry).compile()
        self.compile_seconds = time.process_time() - start

    def __call__(self) -> None:
        """Makes one step, or the steps of one program."""
        self._carry = jax.block_until_ready(self._step(*self._carry))
