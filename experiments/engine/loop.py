"""The loop of a run: it takes steps, records epochs, saves and resumes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from experiments.engine import evaluate, programs
from experiments.engine.algorithms import Hyper
from experiments.engine.config import TrainConfig
from experiments.engine.datasets import Examples
from experiments.engine.feed import Feed, FileFeed
from experiments.engine.plan import Plan, hyper_of
from experiments.engine.programs import Programs
from experiments.engine.run_directory import RunDirectory, Saved
from experiments.engine.steps import Draw, State, arrays_of
from experiments.engine.task import Task
from flatjax.data._batches import as_tree


class TrainingDivergedError(RuntimeError):
    """A loss became infinite or NaN; the message names the step and the replica."""


def take_steps(
    compiled: Programs,
    hyper: Hyper,
    state: State,
    train: Examples,
    draw: Draw,
    num_steps: int,
    progress: Callable[[int], Any] = lambda count: None,
    pause: Callable[[], bool] = lambda: False,
) -> tuple[State, np.ndarray]:
    """Takes steps of one epoch, or fewer if a pause is requested.

    Args:
      compiled: the programs of the plan.
      hyper: the hyperparameters, on the device.
      state: the state before the steps; it is donated.
      train: the training examples, on the device.
      draw: the random choices of the epoch.
      num_steps: number of steps up to the end of the epoch.
      progress: called with the number of steps since the last call.
      pause: called after every step, if each step is a separate program.

    Returns:
      The state and the losses, (steps, y).
    """
    local = compiled.plan.placement.local
    if programs.loops_on_device(compiled.plan):
        state, losses = compiled.steps(hyper, state, train, draw, num_steps)
        progress(num_steps)
        return state, np.asarray(local(losses)).T[:num_steps]
    rows = []
    for _ in range(num_steps):
        state, loss = compiled.step(hyper, state, train, draw)
        rows.append(loss)
        progress(1)
        # At most two steps are in flight, so that a pause does not wait for a queue.
        jax.block_until_ready(rows[-2:-1])
        if pause():
            break
    return state, np.stack(jax.device_get(local(rows)))


def device_train(plan: Plan, task: Task) -> Examples:
    """Returns the training examples on the run's devices."""
    if plan.placement.mesh is None:
        return task.device_train
    return plan.placement.put(as_tree(task.train))


def _feed(compiled, task, seed) -> Feed | FileFeed | None:
    """Makes a reader of the training examples for one run; None if in memory."""
    if task.is_in_memory:
        return None
    plan = compiled.plan
    y, place = plan.num_replicas, plan.placement
    where = (plan.window_rows, place.put_rows, place.own_replicas(y))
    if task.stream is not None:
        return Feed(task.stream, y, *where)
    draw = lambda epoch: np.asarray(compiled.order(seed, epoch))
    return FileFeed(task.train, draw, plan.batches_per_epoch, *where)


class Run:
    """A run between its first and last step.

    Attributes:
      plan: static part of the run.
      state: the current state.
      history: the records of the epochs so far.
      losses: losses of the steps of this epoch so far, (steps, y).
      seconds: time spent on steps.
      saved_at: time of the last checkpoint, or of the start.
      origin: the run that this one continues with another number of replicas, see `restart`.
      files: files of the run, or None.

    Args:
      plan: the plan of the configuration.
      config: source of hyperparameters and seed.
      task: the data.
      files: files from which an interrupted run resumes; None for a run without files.
    """

    def __init__(
        self, plan: Plan, config: TrainConfig, task: Task, files: RunDirectory | None = None
    ):
        self.plan, self.config, self.task, self.files = plan, config, task, files
        self._programs = programs.programs_of(plan)
        self._hyper = plan.placement.put(hyper_of(config))
        self._feed = _feed(self._programs, task, config.seed)
        self._train = device_train(plan, task) if self._feed is None else None
        self.state = self._programs.init(self._hyper, config.seed)
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.losses = np.zeros((0, plan.num_replicas), np.float32)
        self.origin: dict[str, Any] | None = None
        self._more_gradients = 0  # compared with a constant number of replicas
        if files is not None:
            saved = files.restore(arrays_of(self.state))
            if saved is not None:
                self.go_on(saved)
            files.reset_metrics(self.history)
        self.saved_at = time.perf_counter()

    def go_on(self, saved: Saved) -> None:
        """Continues from a checkpoint."""
        losses = np.asarray(saved.losses, self.losses.dtype)
        self.losses = losses.reshape(-1, self.losses.shape[1])
        self.state = State(**saved.state)
        self.history, self.origin = saved.history, saved.origin
        if saved.gradients is not None:
            self._more_gradients = saved.gradients - self.step * self.plan.num_replicas
        if self._feed is not None:
            self._feed.resume(saved.position)
        self.seconds = self.history[-1]["seconds"] if self.history else 0.0

    @property
    def step(self) -> int:
        """The number of steps taken so far."""
        return int(self.state.step)

    @property
    def gradients(self) -> int:
        """The number of gradient evaluations of all replicas so far."""
        return self.step * self.plan.num_replicas + self._more_gradients

    @property
    def _row(self) -> int:
        return self.row_of(self.step)

    def row_of(self, step: int) -> int:
        """Returns the row of batches for the step after `step`, counted from the start."""
        return step // self.plan.algorithm.batch_repeats

    def take_steps(self, num_steps: int, **options: Any) -> np.ndarray:
        """Takes steps of this epoch; returns their losses, (steps, y).

        If there is a window, the steps must not go beyond the next one.
        """
        draw = self._programs.draw(self.config.seed, self.step // self.plan.steps_per_epoch)
        train = self._train if self._feed is None else self._feed.window(self._row)
        self.state, losses = take_steps(
            *(self._programs, self._hyper, self.state, train, draw, num_steps), **options
        )
        return losses

    def advance(self, bar: tqdm.tqdm, pause: Callable[[], bool]) -> bool:
        """Takes steps to the end of the epoch or a pause; returns whether it ended.

        Training pauses at the end of each window of a stream.

        Raises:
          TrainingDivergedError: a loss is not finite.
        """
        start = time.perf_counter()
        first = self.step
        epoch = first // self.plan.steps_per_epoch
        until = min(self.plan.total_steps, (epoch + 1) * self.plan.steps_per_epoch)
        stop = until
        if self._feed is not None:
            stop = min(until, self.plan.algorithm.batch_repeats * self._feed.end(self._row))
        losses = self.take_steps(stop - first, progress=bar.update, pause=pause)
        self._check_finite(losses, first, epoch)
        self.losses = np.concatenate([self.losses, losses])
        self.seconds += time.perf_counter() - start
        return self.step == until

    def _check_finite(self, losses, first, epoch):
        bad = np.argwhere(~np.isfinite(losses))
        if len(bad):
            step, replica = bad[0]
            raise TrainingDivergedError(
                f"the loss of replica {replica} became {losses[step, replica]} at step "
                f"{first + step} of {self.plan.total_steps} (epoch {epoch}). Lower learning_rate"
                f" (now {self.config.optimizer.learning_rate}) or the coupling."
            )

    def close_epoch(self, with_errors: bool) -> dict[str, Any]:
        """Makes, keeps and returns the record of an epoch."""
        record = {
            "step": self.step,
            "gradients": self.gradients,
            # The order of the sum is the same for interrupted epochs.
            "train_loss": float(np.ascontiguousarray(self.losses).mean()),
            "seconds": round(self.seconds, 3),
            **evaluate.coupling_record(self.plan, hyper_of(self.config), self.state),
        }
        if with_errors:
            batches = self.task.curve_batches
            record |= evaluate.held_out_errors(self.plan, self.task, self.state, batches)
        self.history.append(record)
        self.losses = self.losses[:0]
        if self.files is not None:
            self.files.append_metrics(record)
        return record

    def finish(self) -> dict[str, Any]:
        """Writes the final model and returns the result; see `evaluate.final_result`."""
        model = evaluate.final_model(self.plan, self.task, self.state)
        about = (self.plan, self.task, self.config, self.state, self.history)
        result = evaluate.final_result(*about, model)
        if self.origin is not None:
            result |= {"gradient_evaluations": self.gradients, "origin": self.origin}
        if self.files is not None:
            self.files.write_model(*model, **self.task.description())
        return result

    def save(self) -> None:
        """Writes a checkpoint."""
        assert self.files is not None
        position = None if self._feed is None else self._feed.position
        saved = self.step, arrays_of(self.state), self.losses, self.history, position
        self.files.save(*saved, gradients=self.gradients, origin=self.origin)
        self.saved_at = time.perf_counter()
