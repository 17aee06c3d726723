"""Many runs of one algorithm at once: one program for all their settings and seeds."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import flatjax
from experiments.engine import evaluate
from experiments.engine.config import TrainConfig
from experiments.engine.task import Task, make_task
from experiments.engine.trainer import Trainer, arrays_of, run_keys

# (run, fraction of the training that is done, function that copies the arrays of the run's state).
Watch = Callable[[int, float, Callable[[], dict[str, Any]]], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The final model of one run.

    Attributes:
      task: what it was trained on.
      params: parameters of the final model.
      batch_stats: its batch statistics.
      train_loss: mean loss of the last epoch's batches; NaN if the run diverged.
    """

    task: Task
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    train_loss: float


def make_tasks(config: TrainConfig, data_seeds: Sequence[int]) -> list[Task]:
    """One task for each data seed: its own subset, label noise and validation set, one network.

    All share the normalisation of the first, and the compiled programs that depend on it.
    """
    tasks = [make_task(dataclasses.replace(config, data_seed=seed)) for seed in data_seeds]
    first = tasks[0]
    for task in tasks:
        shared = {"network": first.network, "normalization": first.normalization}
        shared |= {
            name: getattr(first, name) for name in ("eval_fn", "local_energy", "update_stats")
        }
        task.__dict__.update(shared)
    return tasks


class Population:
    """Runs of one algorithm that differ in some settings, in their seeds and in their data.

    The settings that differ are arguments of the compiled program, so that a search of a hundred
    candidates compiles once. Networks without convolutions are trained side by side (`jax.vmap`);
    those with convolutions one after another, which is faster on a CPU.

    Args:
      config: what all runs share.
      tasks: data of the runs, alike in shape; see `make_tasks`.
      names: the fields of the configuration that differ, all of them numbers that do not shape the
        program (learning rate, weight decay, couplings).
    """

    def __init__(self, config: TrainConfig, tasks: Sequence[Task], names: Sequence[str]):
        self.config = config
        self.tasks = list(tasks)
        self.names = tuple(names)
        self.trainer = Trainer(config, self.tasks[0])

    def train(
        self,
        settings: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        tasks: Sequence[int],
        *,
        progress: bool = True,
        watch: Watch | None = None,
    ) -> list[Trained]:
        """Trains one network (or y replicas) for each element of `settings`.

        Args:
          settings: the values of `names`, one mapping for each run.
          seeds: of the initial weights, the order of the data and noise; one for each run.
          tasks: which of the tasks each run is trained on, by position.
          progress: show a progress bar of epochs.
          watch: called after every epoch of every run.

        Returns:
          The final models, in order.
        """
        values = {
            name: jnp.asarray([run[name] for run in settings], jnp.float32) for name in self.names
        }
        seeds = jnp.asarray(seeds)
        if self.trainer.loops_on_device:
            stacked, losses = self._train_together(values, seeds, tasks, progress, watch)
        else:
            stacked, losses = self._train_in_turn(values, seeds, tasks, progress, watch)
        return [
            Trained(self.tasks[task], *model, float(loss))
            for task, model, loss in zip(tasks, stacked, losses, strict=True)
        ]

    # --- one run, with traced settings ------------------------------------------------------------

    def _trainer_of(self, values) -> Trainer:
        """The trainer of one run, whose settings are known only when the program runs."""
        config = copy.copy(self.config)
        for name, value in values.items():
            object.__setattr__(config, name, value)  # frozen, and checked: tracers pass neither
        trainer = copy.copy(self.trainer)
        trainer.config = config
        trainer.tx = trainer.algorithm.make(config, trainer.total_steps)
        return trainer

    def _init(self, values, seed):
        return arrays_of(self._trainer_of(values).init_state(seed))

    def _step(self, values, arrays, train, order, key):
        trainer = self._trainer_of(values)
        state = flatjax.TrainState(
            apply_fn=trainer.task.network.logits,
            tx=trainer.tx,
            **arrays,
        )
        state, losses = trainer.train_step(state, train, order, key)
        return arrays_of(state), losses.mean()

    def _members(self, values, arrays):
        """Stacked parameters of the networks whose center is the final model."""
        return flatjax.eval_params(arrays["opt_state"], arrays["params"])

    def _steps_of_epochs(self):
        """The number of steps of every epoch; the last may be short."""
        per_epoch = self.trainer.batches_per_epoch * self.trainer.algorithm.batch_repeats
        full, rest = divmod(self.trainer.total_steps, per_epoch)
        return [per_epoch] * full + [rest] * (rest > 0)

    # --- all runs ---------------------------------------------------------------------------------

    @functools.cached_property
    def _programs(self):
        def epoch(values, arrays, train, seed, number, num_steps):
            order = self.trainer.epoch_order(seed, number)
            key = run_keys(seed).augmentation

            def body(_, carry):
                arrays, total = carry
                arrays, loss = self._step(values, arrays, train, order, key)
                return arrays, total + loss

            arrays, total = jax.lax.fori_loop(0, num_steps, body, (arrays, 0.0))
            return arrays, total / num_steps

        together = jax.vmap(epoch, in_axes=(0, 0, 0, 0, None, None))
        return {
            "epoch": jax.jit(together, donate_argnums=1),
            "init": jax.jit(jax.vmap(self._init)),
            "members": jax.jit(jax.vmap(self._members)),
            "step": jax.jit(self._step, donate_argnums=1),
            "init_one": jax.jit(self._init),
            "members_one": jax.jit(self._members),
        }

    def _train_together(self, values, seeds, tasks, progress, watch):
        take = lambda tree, run: jax.tree.map(lambda leaf: leaf[run], tree)
        splits = [self.tasks[task].device_train for task in tasks]
        train = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
        arrays = self._programs["init"](values, seeds)
        epochs = self._steps_of_epochs()
        bar = tqdm.tqdm(epochs, desc=self.config.algorithm, disable=not progress, leave=False)
        for number, num_steps in enumerate(bar):
            arrays, losses = self._programs["epoch"](
                values, arrays, train, seeds, number, num_steps
            )
            for run in range(len(tasks)) if watch else ():
                read = functools.partial(take, arrays, run)
                watch(run, (number + 1) / len(epochs), read)
        members = self._programs["members"](values, arrays)
        models = [
            self._final(take(members, run), take(arrays["batch_stats"], run), task)
            for run, task in enumerate(tasks)
        ]
        return models, np.asarray(losses)

    def _train_in_turn(self, values, seeds, tasks, progress, watch):
        models, last_losses = [], []
        bar = tqdm.tqdm(tasks, desc=self.config.algorithm, disable=not progress, leave=False)
        for run, task in enumerate(bar):
            own = {name: value[run] for name, value in values.items()}
            arrays = self._programs["init_one"](own, seeds[run])
            train, key = self.tasks[task].device_train, run_keys(seeds[run]).augmentation
            epochs = self._steps_of_epochs()
            for number, num_steps in enumerate(epochs):
                order = self.trainer.epoch_order(seeds[run], number)
                losses = []
                for _ in range(num_steps):
                    arrays, loss = self._programs["step"](own, arrays, train, order, key)
                    losses.append(loss)
                if watch:
                    read = functools.partial(jax.tree.map, jnp.copy, arrays)
                    watch(run, (number + 1) / len(epochs), read)
            members = self._programs["members_one"](own, arrays)
            models.append(self._final(members, arrays["batch_stats"], task))
            last_losses.append(np.mean(jax.device_get(losses)))
        return models, last_losses

    def _final(self, members, batch_stats, task):
        trainer = copy.copy(self.trainer)
        trainer.task = self.tasks[task]
        center = flatjax.replica_center(members, replica_axis=0)
        return center, evaluate.statistics(trainer, center, batch_stats)
