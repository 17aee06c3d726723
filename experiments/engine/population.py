"""Many runs of one plan in one program, for all their hyperparameters and seeds."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

import flatjax
from experiments.engine import evaluate, programs, steps
from experiments.engine.config import TrainConfig
from experiments.engine.loop import take_steps
from experiments.engine.plan import Plan, hyper_of, make_plan
from experiments.engine.population_files import Nested, PopulationFile, leaves_of, with_leaves
from experiments.engine.task import Task
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import bars
from experiments.report.meeting import Meeting
from flatjax._cpu import compiled_once


class Watch:
    """Observes runs while they train. Observations are saved with the population."""

    def __call__(self, run: int, done: float, read: Callable[[], dict[str, Any]]) -> None:
        """Observes a run after each of its epochs.

        Args:
          run: number of the run.
          done: fraction of the training that is complete.
          read: function that copies the arrays of the run's state.
        """

    def arrays(self) -> Nested:
        """Returns the observations, as nested dictionaries of arrays."""
        return {}

    def restore(self, arrays: Nested) -> None:
        """Restores the observations that `arrays` returned."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The final model of one run.

    Attributes:
      task: data of the run.
      params: parameters of the final model.
      batch_stats: batch statistics of the final model.
      train_loss: mean loss of the last epoch's batches; NaN if the run diverged.
      meeting: of its replicas, see `evaluate.meeting`; None of a single network, of one that
        diverged, and of one whose checkpoint is older than meetings.
    """

    task: Task
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    train_loss: float
    meeting: Meeting | None = None

    def arrays(self) -> Nested:
        """The model in a checkpoint."""
        found = {"params": self.params, "batch_stats": self.batch_stats}
        found["loss"] = np.asarray(self.train_loss)
        return found | ({"meeting": dict(self.meeting)} if self.meeting else {})

    @classmethod
    def of_arrays(cls, task: Task, arrays: Nested) -> "Trained":
        """The inverse of `arrays`."""
        meeting = {name: float(value) for name, value in arrays.get("meeting", {}).items()}
        stats, loss = arrays.get("batch_stats", {}), float(arrays["loss"])
        return cls(task, arrays["params"], stats, loss, meeting or None)


def meeting_record(model: Trained) -> dict[str, Any]:
    """What the record of a run says of its replicas: nothing where nothing is known."""
    return {} if model.meeting is None else {"meeting": model.meeting}


class Population:
    """Runs of one algorithm that differ in hyperparameters, in seeds and in data.

    The hyperparameters (see `plan`) are arguments of the compiled program, so a search of a hundred
    candidates compiles once. Accelerators train all runs in parallel (`jax.vmap`), and CPUs train
    them one after another, which is faster there (see `programs.train_together`).

    Attributes:
      plan: the static part of all runs.

    Args:
      config: the settings that all runs share.
      tasks: data of the runs, with equal shapes; see `make_tasks`.
    """

    def __init__(self, config: TrainConfig, tasks: Sequence[Task]):
        if not all(task.is_in_memory for task in tasks):
            name = config.data.dataset
            raise ValueError(f"dataset must be in memory here, but {name} is a stream or a file.")
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
        limit: TimeLimit | None = None,
        file: PopulationFile | None = None,
    ) -> list[Trained]:
        """Trains one network (or y replicas) for each element of `settings`.

        Args:
          settings: the hyperparameters in which each run differs from the configuration.
          seeds: random seeds of initial weights, order of the data and noise; one for each run.
          tasks: for each run, the position of its task.
          progress: show a progress bar.
          watch: observer, which is called after every epoch of every run.
          limit: limit of the wall time.
          file: where a population is saved if it would not end in time, and from where it
            continues.

        Returns:
          The final models, in order.

        Raises:
          TimeIsUp: the limit is reached; the population was saved first.
          ValueError: a setting shapes the program, or is not valid for its field.
        """
        configs = [self.config.changed(**own) for own in settings]
        for config, own in zip(configs, settings, strict=True):
            if make_plan(config, self.tasks[0]) != self.plan:
                raise ValueError(f"settings must hold hyperparameters only, got {dict(own)}.")
        hypers = [hyper_of(config) for config in configs]
        runs = list(zip(hypers, seeds, [self.tasks[task] for task in tasks], strict=True))
        is_together = programs.train_together()
        train = _train_together if is_together else _train_in_turn
        return train(self.plan, runs, progress, watch, _Saved(self.plan, len(runs), limit, file))


class _Saved:
    """The limit and the file of a population, which say when it stops and continues."""

    def __init__(self, plan, num_runs, limit, file):
        self._limit, self._file = limit or TimeLimit(), file
        self._kind = (plan, num_runs)
        self._pace = self._limit.begin(self._kind)

    def restore(self) -> tuple[dict[str, int], Nested] | None:
        return None if self._file is None else self._file.restore()

    def check(self, done: float, position: dict[str, int], arrays: Callable[[], Nested]) -> None:
        """Saves, and raises TimeIsUp if the next part might not fit."""
        if not self._limit.is_set:
            return
        is_up = self._pace.is_up(done) and done < 1
        if self._file is not None and (is_up or done == 1):
            with self._limit.measuring(self._kind, "save"):
                self._file.save(position, arrays())
        if is_up:
            raise TimeIsUp(f"{done:.0%} of the population are trained.")


def _train_together(plan, runs, progress, watch, saved) -> list[Trained]:
    """Trains all runs in one program for each epoch."""
    compiled = _vmapped(plan)
    take = lambda tree, run: jax.tree.map(lambda leaf: leaf[run], tree)
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    all_hyper, all_seeds, tasks = zip(*runs, strict=True)
    hyper = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *all_hyper)
    seeds = jnp.asarray(all_seeds)
    train = stack([task.device_train for task in tasks])
    state = compiled.init(hyper, seeds)
    lengths, first, means = plan.epoch_lengths(), 0, None
    if (found := saved.restore()) is not None:
        first, arrays = found[0]["epoch"], found[1]
        state, means = with_leaves(state, arrays["state"]), arrays["means"]
        if watch:
            watch.restore(arrays.get("watch", {}))
    name = plan.config.algorithm.name
    options = {"total": len(lengths), "initial": first, "desc": name}
    for epoch in bars.bar(range(first, len(lengths)), progress=progress, **options, leave=False):
        state, losses = compiled.epoch(hyper, state, train, seeds, epoch, lengths[epoch])
        for run in range(len(runs)) if watch else ():
            read = functools.partial(take, steps.arrays_of(state), run)
            watch(run, (epoch + 1) / len(lengths), read)
        means = np.asarray(losses).sum((1, 2)) / (plan.num_replicas * lengths[epoch])
        arrays = lambda state=state, means=means: {
            "state": leaves_of(state),
            "means": means,
            "watch": watch.arrays() if watch else {},
        }
        saved.check((epoch + 1) / len(lengths), {"epoch": epoch + 1}, arrays)
    members = compiled.members(state)
    return [
        _final(task, take(members, run), take(state.batch_stats, run), means[run])
        for run, task in enumerate(tasks)
    ]


class _Vmapped:
    """The functions of `steps` for many runs of a plan, in parallel."""

    def __init__(self, plan: Plan):
        def epoch(hyper, state, train, seed, number, num_steps):
            draw = steps.draw_epoch(plan, seed, number)
            return steps.train_steps(plan, hyper, state, train, draw, num_steps)

        init = jax.vmap(functools.partial(steps.init_state, plan))
        self.init = jax.jit(init, compiler_options=compiled_once())
        together = jax.vmap(epoch, in_axes=(0, 0, 0, 0, None, None))
        self.epoch = jax.jit(together, donate_argnums=1)
        self.members = jax.jit(jax.vmap(_members))


_vmapped = functools.lru_cache(maxsize=8)(_Vmapped)


def _train_in_turn(plan, runs, progress, watch, saved) -> list[Trained]:
    """Trains one run after another, by the programs of ordinary runs."""
    position, arrays = saved.restore() or ({"run": 0, "epoch": 0}, {})
    done: list[Trained] = [
        Trained.of_arrays(runs[run][-1], model)
        for run, model in sorted((int(run), m) for run, m in arrays.get("done", {}).items())
    ]
    if watch and "watch" in arrays:
        watch.restore(arrays["watch"])
    name = plan.config.algorithm.name
    bar = bars.bar(runs[len(done) :], progress=progress, desc=name, leave=False)
    for number, run in enumerate(bar, start=len(done)):
        start = (position["epoch"], arrays) if number == position["run"] else (0, {})
        done.append(_train_alone(plan, *run, start, _Turn(number, len(runs), done, watch, saved)))
    return done


@dataclasses.dataclass(frozen=True)
class _Turn:
    """One of several runs that are trained in turn, after the complete ones."""

    number: int
    num_runs: int
    done: list[Trained]
    watch: Watch | None
    saved: _Saved

    def look(self, done, epoch, state, loss, trained):
        """Acts after each epoch; `trained` makes the final model."""
        if self.watch:
            read = functools.partial(jax.tree.map, jnp.copy, steps.arrays_of(state))
            self.watch(self.number, done, read)
        whole = (self.number + done) / self.num_runs

        def arrays():
            models = [*self.done, trained()] if whole == 1 else self.done
            return {
                "state": leaves_of(state),
                "loss": np.asarray(loss),
                "watch": self.watch.arrays() if self.watch else {},
                "done": {str(number): model.arrays() for number, model in enumerate(models)},
            }

        self.saved.check(whole, {"run": self.number, "epoch": epoch}, arrays)


def _train_alone(plan, hyper, seed, task, start, turn) -> Trained:
    """Trains one run by the programs of ordinary runs, from an epoch and its arrays."""
    compiled = programs.programs_of(plan)
    hyper = plan.placement.put(hyper)
    state = compiled.init(hyper, seed)
    first, arrays = start
    loss = arrays.get("loss")
    if first:
        state = with_leaves(state, arrays["state"])
    lengths = plan.epoch_lengths()
    final = lambda: _final(task, _members(state), state.batch_stats, loss)
    for epoch in range(first, len(lengths)):
        draw = compiled.draw(seed, epoch)
        state, losses = take_steps(compiled, hyper, state, task.device_train, draw, lengths[epoch])
        loss = losses.mean()
        turn.look((epoch + 1) / len(lengths), epoch + 1, state, loss, final)
    return final()


def _members(state):
    """Returns stacked parameters of the networks whose center is the final model."""
    return flatjax.eval_params(state.opt_state, state.params)


def _final(task, members, batch_stats, loss) -> Trained:
    center = flatjax.replica_center(members, replica_axis=0)
    stats = evaluate.statistics(task, center, batch_stats)
    meeting = evaluate.meeting(task, members, batch_stats, stats)
    return Trained(task, center, stats, float(loss), meeting)
