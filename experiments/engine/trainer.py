"""The steps of a run: one program for all algorithms, compiled once for any seed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import flatjax
from experiments.engine.algorithms import ALGORITHMS, seed_noise
from experiments.engine.config import TrainConfig
from experiments.engine.feed import Feed, rows_in_window, window_order
from experiments.engine.placement import OneDevice, OnMesh, check_fit
from experiments.engine.task import Task, make_task
from flatjax import data, models


class TrainingDivergedError(RuntimeError):
    """A loss became infinite or NaN; the message names the step and the replica."""


class Trainer:
    """Compiles a configuration once and takes its steps from any seed.

    Attributes:
      config: the configuration; its seed is the default of `train.train`.
      task: data, network, loss and evaluation.
      batches_per_epoch: batches in a pass of one replica over the training set.
      total_steps: gradients that each replica takes.
      gradient_evaluations: gradients of all replicas together: the budget that was used.
      placement: where the arrays of a run lie.

    Args:
      config: the configuration.
      task: what is trained on; that of the configuration by default.
      mesh: a mesh with the axes "replica" and "data" (see `placement`); one device if None.

    Raises:
      ValueError: the configuration does not fit the data or the mesh.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        if mesh is not None:
            check_fit(mesh, config)
        self.placement = OneDevice() if mesh is None else OnMesh(mesh)
        self.config = config
        self.task = make_task(config) if task is None else task
        self.algorithm = ALGORITHMS[config.algorithm]
        num_train = self.task.num_train
        if config.batch_size > num_train:
            raise ValueError(
                f"batch_size must be at most the {num_train} training examples, "
                f"got {config.batch_size}."
            )
        self.batches_per_epoch = num_train // config.batch_size
        budget = config.epochs * self.batches_per_epoch / config.num_replicas
        unit = self.algorithm.round_steps_to(config)
        self.total_steps = int(budget + 1e-9) // unit * unit
        if self.total_steps == 0:
            raise ValueError(
                f"epochs must pay for at least {unit} gradients of each of {config.num_replicas} "
                f"replicas, got {config.epochs} ({budget:.2f} gradients)."
            )
        self.gradient_evaluations = self.total_steps * config.num_replicas
        self.tx = self.algorithm.make(config, self.total_steps)

    # --- the pure functions ---------------------------------------------------------------------

    def init_state(self, seed: int) -> flatjax.TrainState:
        """The state before the first step: replicas from independent weights, unless asked."""
        own = run_keys(seed)
        keys = jax.random.split(own.weights, self.config.num_replicas)
        if self.config.common_init:
            keys = jnp.broadcast_to(keys[0], keys.shape)
        variables = flatjax.stack_replicas(self.task.init, keys)
        state = flatjax.TrainState.create(
            apply_fn=self.task.network.logits,
            params=variables["params"],
            tx=self.tx,
            batch_stats=variables.get("batch_stats", {}),
        )
        # Copies: some optimizers keep the parameters themselves, and a buffer is donated only once.
        opt_state = jax.tree.map(jnp.copy, seed_noise(state.opt_state, own.noise))
        return dataclasses.replace(state, opt_state=opt_state)

    def train_step(
        self,
        state: flatjax.TrainState,
        train: data.DeviceSplit,
        order: jax.Array,
        key: chex.PRNGKey,
    ) -> tuple[flatjax.TrainState, jax.Array]:
        """One gradient of every replica, and the update.

        Args:
          state: stacked parameters and the rest.
          train: the training examples.
          order: this epoch's, (batches, y, B); the row is found from `state.step`.
          key: of the augmentation.

        Returns:
          The new state and the losses of the replicas, (y,).
        """
        batch_number = state.step // self.algorithm.batch_repeats
        indices = order[batch_number % self.batches_per_epoch]
        batch = self.task.batch(train, indices, jax.random.fold_in(key, batch_number))
        batch = self.placement.constrain(batch)
        gradient = flatjax.map_replicas(self.task.value_and_grad, mesh=self.placement.mesh)
        (losses, batch_stats), grads = gradient(state.params, state.batch_stats, batch)
        state = state.apply_gradients(grads=grads, batch_stats=batch_stats, value=losses.mean())
        return state, losses

    # --- where it runs --------------------------------------------------------------------------

    def start(self, seed: int) -> flatjax.TrainState:
        """The state before the first step, where the run lives."""
        return self.placement.start(self.init_state, seed)

    @functools.cached_property
    def _train(self) -> data.DeviceSplit:
        """The training examples, where the run lives."""
        return self.task.device_train if self.placement.mesh is None else self._put(self.task.train)

    def _put(self, split: data.Split) -> data.DeviceSplit:
        """Examples, where the run lives."""
        if self.placement.mesh is None:
            return data.to_device(split)
        return self.placement.replicate(data.DeviceSplit(split.image, split.label))

    @functools.cached_property
    def _window_rows(self) -> int:
        """How many rows of batches of a stream are on the device at once; see `feed`."""
        config, rows = self.config, self.batches_per_epoch
        example = self.task.train.image[0]
        return rows_in_window(example, config.num_replicas, config.batch_size, rows)

    def feed(self) -> Feed | None:
        """Reads the stream of the task for one run; None if training examples are in memory."""
        if self.task.stream is None:
            return None
        return Feed(self.task.stream, self.config.num_replicas, self._window_rows, self._put)

    @functools.cached_property
    def _draw_epoch(self):
        """(seed, epoch) -> what is drawn for an epoch: order of the data, key of augmentation."""
        return self.placement.jit_draw(
            lambda seed, epoch: (self.epoch_order(seed, epoch), run_keys(seed).augmentation)
        )

    @functools.cached_property
    def _jitted_step(self):
        return self.placement.jit_training(self.train_step, self.init_state)

    @functools.cached_property
    def _jitted_steps(self):
        """Up to an epoch of steps in one program; the number of them is not compiled in."""

        def steps(state, train, order, key, num_steps):
            max_steps = order.shape[0] * self.algorithm.batch_repeats

            def body(i, carry):
                state, losses = carry
                state, loss = self.train_step(state, train, order, key)
                return state, losses.at[:, i].set(loss)

            losses = jnp.zeros((order.shape[1], max_steps))
            return jax.lax.fori_loop(0, num_steps, body, (state, losses))

        return self.placement.jit_training(steps, self.init_state)

    @functools.cached_property
    def loops_on_device(self) -> bool:
        """Whether many steps make one program, or each step its own."""
        # XLA's own convolutions are about ten times slower on a CPU inside a loop than outside.
        if jax.default_backend() != "cpu":
            return True
        state = jax.eval_shape(lambda: self.init_state(0))
        order = jax.eval_shape(lambda: self.epoch_order(0, 0))
        key = jax.eval_shape(lambda: jax.random.key(0))
        return not models.contains_convolution(
            self.train_step, state, self.task.device_train, order, key
        )

    def epoch_order(self, seed: int, epoch: int) -> jax.Array:
        """The order of the data in an epoch, (batches, y, B); depends on seed and epoch alone.

        Both may be traced. Of a stream it is the order in its windows.
        """
        if self.task.stream is not None:
            sizes = self.batches_per_epoch, self.config.num_replicas, self.config.batch_size
            return window_order(*sizes, self._window_rows)
        return data.epoch_order(
            jax.random.fold_in(run_keys(seed).order, epoch),
            len(self.task.train),
            self.config.batch_size,
            self.config.num_replicas,
        )

    def train_epoch(
        self,
        state: flatjax.TrainState,
        seed: int,
        num_steps: int,
        progress: Any = None,
        pause: Callable[[], bool] = lambda: False,
        train: data.DeviceSplit | None = None,
    ) -> tuple[flatjax.TrainState, np.ndarray]:
        """Steps of one epoch, from where `state` is, fewer if a pause is asked for in between.

        The training examples are all of them, or `train`, the window of a stream.

        Returns:
          The state and the losses, (steps, y).
        """
        first = int(state.step)
        epoch = first // self.algorithm.batch_repeats // self.batches_per_epoch
        train = self._train if train is None else train
        arguments = (train, *self._draw_epoch(seed, epoch))
        if self.loops_on_device:
            state, losses = self._jitted_steps(state, *arguments, num_steps)
            losses = np.asarray(self.placement.local(losses)).T[:num_steps]
            if progress is not None:
                progress.update(num_steps)
        else:
            rows = []
            for _ in range(num_steps):
                state, loss = self._jitted_step(state, *arguments)
                rows.append(loss)
                if progress is not None:
                    progress.update()
                if pause():
                    break
            losses = np.stack(jax.device_get(self.placement.local(rows)))
        bad = np.argwhere(~np.isfinite(losses))
        if len(bad):
            step, replica = bad[0]
            raise TrainingDivergedError(
                f"the loss of replica {replica} became {losses[step, replica]} at step "
                f"{first + step} of {self.total_steps} (epoch {epoch}). Lower learning_rate"
                f" (now {self.config.learning_rate}) or the coupling."
            )
        return state, losses


class _RunKeys(NamedTuple):
    """Independent random keys, one for each use of chance in a run."""

    weights: chex.PRNGKey
    order: chex.PRNGKey
    augmentation: chex.PRNGKey
    noise: chex.PRNGKey


def run_keys(seed: int) -> _RunKeys:
    """The keys of a run; the seed may be traced."""
    return _RunKeys(*jax.random.split(jax.random.key(seed), 4))


def arrays_of(state: flatjax.TrainState) -> dict[str, Any]:
    """All of a state that changes during training; what checkpoints hold."""
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "batch_stats": state.batch_stats,
    }
