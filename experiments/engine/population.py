"""Many runs of one plan at once: one program for all their hyperparameters and seeds."""

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
from experiments.engine import evaluate, programs, steps
from experiments.engine.config import TrainConfig
from experiments.engine.loop import take_steps
from experiments.engine.plan import Plan, hyper_of, make_plan
from experiments.engine.task import Task

# (run, fraction of the training that is done, function that copies the arrays of the run's state).
Watch = Callable[[int, float, Callable[[], dict[str, Any]]], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The final model of one run.

    Attributes:
      task: its data.
      params: parameters of the final model.
      batch_stats: its batch statistics.
      train_loss: mean loss of the last epoch's batches; NaN if the run diverged.
    """

    task: Task
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    train_loss: float


class Population:
    """Runs of one algorithm that differ in hyperparameters, in their seeds and in their data.

    The hyperparameters (see `plan`) are arguments of the compiled program, so that a search of a
    hundred candidates compiles once. Networks without convolutions are trained side by side
    (`jax.vmap`); those with convolutions one after another, which is faster on a CPU.

    Attributes:
      plan: the static part of all runs.

    Args:
      config: the settings that all runs share.
      tasks: data of the runs, alike in shape; see `make_tasks`.
    """

    def __init__(self, config: TrainConfig, tasks: Sequence[Task]):
        if any(task.stream is not None for task in tasks):
            name = config.data.dataset
            raise ValueError(f"dataset must be in memory here, but {name} is a stream.")
        self.config = config
        self.tasks = list(tasks)
        self.plan = make_plan(config, self.tasks[0])

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
          settings: the hyperparameters in which each run differs from the configuration.
          seeds: of the initial weights, the order of the data and noise; one for each run.
          tasks: the position of the task of each run.
          progress: show a progress bar.
          watch: called after every epoch of every run.

        Returns:
          The final models, in order.

        Raises:
          ValueError: a setting shapes the program, or is no value of its field.
        """
        configs = [self.config.changed(**own) for own in settings]
        for config, own in zip(configs, settings, strict=True):
            if make_plan(config, self.tasks[0]) != self.plan:
                raise ValueError(f"settings must hold hyperparameters only, got {dict(own)}.")
        hypers = [hyper_of(config) for config in configs]
        runs = list(zip(hypers, seeds, [self.tasks[task] for task in tasks], strict=True))
        if programs.loops_on_device(self.plan):
            return _train_together(self.plan, runs, progress, watch)
        bar = tqdm.tqdm(runs, desc=self.config.algorithm.name, disable=not progress, leave=False)
        return [
            _train_alone(self.plan, *run, functools.partial(watch, number) if watch else None)
            for number, run in enumerate(bar)
        ]


def _train_together(plan, runs, progress, watch) -> list[Trained]:
    """All runs in one program for each epoch."""
    compiled = _vmapped(plan)
    take = lambda tree, run: jax.tree.map(lambda leaf: leaf[run], tree)
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    all_hyper, all_seeds, tasks = zip(*runs, strict=True)
    hyper = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *all_hyper)
    seeds = jnp.asarray(all_seeds)
    train = stack([task.device_train for task in tasks])
    state = compiled.init(hyper, seeds)
    lengths = plan.epoch_lengths()
    bar = tqdm.tqdm(lengths, desc=plan.config.algorithm.name, disable=not progress, leave=False)
    for epoch, num_steps in enumerate(bar):
        state, losses = compiled.epoch(hyper, state, train, seeds, epoch, num_steps)
        for run in range(len(runs)) if watch else ():
            read = functools.partial(take, steps.arrays_of(state), run)
            watch(run, (epoch + 1) / len(lengths), read)
    means = np.asarray(losses).sum((1, 2)) / (plan.num_replicas * num_steps)
    members = compiled.members(state)
    return [
        _final(task, take(members, run), take(state.batch_stats, run), means[run])
        for run, task in enumerate(tasks)
    ]


class _Vmapped:
    """The functions of `steps` for many runs of a plan, side by side."""

    def __init__(self, plan: Plan):
        def epoch(hyper, state, train, seed, number, num_steps):
            draw = steps.draw_epoch(plan, seed, number)
            return steps.train_steps(plan, hyper, state, train, draw, num_steps)

        self.init = jax.jit(jax.vmap(functools.partial(steps.init_state, plan)))
        together = jax.vmap(epoch, in_axes=(0, 0, 0, 0, None, None))
        self.epoch = jax.jit(together, donate_argnums=1)
        self.members = jax.jit(jax.vmap(_members))


_vmapped = functools.lru_cache(maxsize=8)(_Vmapped)


def _train_alone(plan, hyper, seed, task, watch) -> Trained:
    """One run, by the programs of ordinary runs."""
    compiled = programs.programs_of(plan)
    hyper = plan.placement.put(hyper)
    state = compiled.init(hyper, seed)
    lengths = plan.epoch_lengths()
    for epoch, num_steps in enumerate(lengths):
        draw = compiled.draw(seed, epoch)
        state, losses = take_steps(compiled, hyper, state, task.device_train, draw, num_steps)
        if watch:
            read = functools.partial(jax.tree.map, jnp.copy, steps.arrays_of(state))
            watch((epoch + 1) / len(lengths), read)
    return _final(task, _members(state), state.batch_stats, losses.mean())


def _members(state):
    """Stacked parameters of the networks whose center is the final model."""
    return flatjax.eval_params(state.opt_state, state.params)


def _final(task, members, batch_stats, loss) -> Trained:
    center = flatjax.replica_center(members, replica_axis=0)
    stats = evaluate.statistics(task, center, batch_stats)
    return Trained(task, center, stats, float(loss))
