"""A training run from its first step to its result: it resumes, saves, evaluates and reports."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import tqdm

import flatjax
from experiments.engine import datasets, evaluate, interruption, loggers, processes
from experiments.engine.config import TrainConfig
from experiments.engine.loggers import LoggerName
from experiments.engine.run_directory import RunDirectory, read_config
from experiments.engine.task import Task, make_task
from experiments.engine.trainer import Trainer, arrays_of
from flatjax.models._network import foreign_module


def train(
    trainer: Trainer,
    seed: int | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    progress: bool = True,
    evaluate_epochs: bool = True,
    checkpoint_seconds: float = 20.0,
    log: Sequence[LoggerName] = (),
) -> dict[str, Any]:
    """Trains, then evaluates the final model.

    Args:
      trainer: the compiled configuration.
      seed: of the run; that of the configuration by default.
      directory: where configuration, metrics, checkpoints and the result go; a run that was
        interrupted there is resumed and ends in the same parameters, bit for bit (on another
        mesh, to rounding).
      progress: show a progress bar.
      evaluate_epochs: measure the held-out error of the present model after every epoch.
      checkpoint_seconds: save after this long, at the end of the step, or of the epoch where
        that is one program or there are several processes. A run that is killed loses no more.
      log: loggers that get the record of each epoch, beside metrics.jsonl; a run that resumes
        gives them those before again.

    Returns:
      The result: see `evaluate.final_result`.

    Raises:
      TrainingDivergedError: the loss is not finite; what was saved before stays.
      ValueError: the directory belongs to another run, holds damaged files, or is missing and
        wanted by a logger.
      InUseError: another process trains in the directory.
      ImportError: a logger is not installed.
      interruption.Interrupted: SIGINT or SIGTERM came; the state was saved first.
    """
    config = trainer.config if seed is None else dataclasses.replace(trainer.config, seed=seed)
    if directory is None:
        return _train(_Run(trainer, config, None), progress, evaluate_epochs, None, log)
    files = RunDirectory(directory, config, trainer.task.fingerprint)
    if (result := files.read_result()) is not None:
        return result
    with files.claimed():
        # Another process may have ended the run before this one claimed the directory.
        if (result := files.read_result()) is not None:
            return result
        run = _Run(trainer, config, files)
        result = _train(run, progress, evaluate_epochs, checkpoint_seconds, log)
        files.write_result(result)
    return result


def _train(run, progress, evaluate_epochs, checkpoint_seconds, log) -> dict[str, Any]:
    """From where a run is to its end; saves after so many seconds, or never if that is None."""
    trainer, files = run.trainer, run.files
    log = log if processes.is_main() else ()
    with (
        loggers.opened(log, files and files.path, run.config) as tell,
        _bar(run, progress) as bar,
        interruption.deferred(enabled=files is not None) as stop,
    ):

        def must_save():
            is_late = time.perf_counter() - run.saved_at > checkpoint_seconds
            return is_late or stop.signum is not None

        # Several processes pause together: at the end of an epoch.
        may_pause = files is not None and jax.process_count() == 1
        pause = must_save if may_pause else lambda: False
        for record in run.history:
            tell(record)
        while run.step < trainer.total_steps:
            if run.advance(bar, pause):
                record = run.close_epoch(evaluate_epochs)
                if evaluate_epochs:
                    loss = f"{record['train_loss']:.3f}"
                    bar.set_postfix(loss=loss, error=record["test_error"])
                tell(record)
            if files is None:
                continue
            signum = processes.largest(stop.signum or 0)  # whichever process was asked to stop
            is_over = run.step == trainer.total_steps
            if is_over or signum or processes.as_main(must_save()):
                run.save()
                if signum:
                    raise interruption.Interrupted(signum, files.path)
    model = evaluate.final_model(trainer, run.state)
    result = evaluate.final_result(trainer, run.config, run.state, run.history, model)
    if files is not None:
        files.write_model(*model, **trainer.task.description(model[0], model[1]))
    return result


class _Run:
    """Where a run is.

    Attributes:
      state: the present one.
      history: the records of the epochs so far.
      losses: of the steps of this epoch so far, (steps, y).
      seconds: spent on steps.
      saved_at: when the last checkpoint was written, or the run was started.
      files: of the run, if it has any.

    Args:
      trainer: takes the steps.
      config: with the seed of this run.
      files: where it was interrupted, if it was; None for a run without files.
    """

    def __init__(self, trainer: Trainer, config: TrainConfig, files: RunDirectory | None):
        self.trainer, self.config, self.files = trainer, config, files
        self.state = trainer.start(config.seed)
        self.history: list[dict[str, Any]] = []
        self.losses = np.zeros((0, config.num_replicas), np.float32)
        self._feed = trainer.feed()
        if files is not None:
            self._resume(files)
        self.seconds = self.history[-1]["seconds"] if self.history else 0.0
        self.saved_at = time.perf_counter()

    def _resume(self, files):
        """Continues from the last checkpoint, if there is one."""
        saved = files.restore(arrays_of(self.state))
        if saved is not None:
            losses = np.asarray(saved.losses, self.losses.dtype)
            self.losses = losses.reshape(-1, self.losses.shape[1])
            self.state = dataclasses.replace(self.state, **saved.state)
            self.history = saved.history
            if self._feed is not None:
                self._feed.resume(saved.position)
        files.reset_metrics(self.history)

    @property
    def step(self) -> int:
        """How many were taken."""
        return int(self.state.step)

    def advance(self, bar: tqdm.tqdm, pause: Callable[[], bool]) -> bool:
        """Takes steps up to the end of the epoch, or to a pause; returns whether it has ended."""
        start = time.perf_counter()
        step, trainer = self.step, self.trainer
        epoch_steps = trainer.batches_per_epoch * trainer.algorithm.batch_repeats
        until = min(trainer.total_steps, (step // epoch_steps + 1) * epoch_steps)
        stop, window = until, None
        if self._feed is not None:
            repeats = trainer.algorithm.batch_repeats
            window = self._feed.window(step // repeats)
            stop = min(until, repeats * self._feed.end(step // repeats))
        self.state, losses = trainer.train_epoch(
            self.state, self.config.seed, stop - step, bar, pause, window
        )
        self.losses = np.concatenate([self.losses, losses])
        self.seconds += time.perf_counter() - start
        return self.step == until

    def close_epoch(self, with_errors: bool) -> dict[str, Any]:
        """Notes what is recorded of an epoch, and returns it."""
        record = {
            "step": self.step,
            "gradients": self.step * self.config.num_replicas,
            # Summed in one order, whether the epoch was interrupted or not.
            "train_loss": float(np.ascontiguousarray(self.losses).mean()),
            "seconds": round(self.seconds, 3),
            **evaluate.coupling_record(self.trainer, self.state),
        }
        if with_errors:
            batches = self.trainer.task.curve_batches
            record |= evaluate.held_out_errors(self.trainer, self.state, batches)
        self.history.append(record)
        self.losses = self.losses[:0]
        if self.files is not None:
            self.files.append_metrics(record)
        return record

    def save(self) -> None:
        """Writes a checkpoint."""
        position = None if self._feed is None else self._feed.position
        self.files.save(self.step, arrays_of(self.state), self.losses, self.history, position)
        self.saved_at = time.perf_counter()


def _bar(run, progress):
    return tqdm.tqdm(
        total=run.trainer.total_steps,
        initial=run.step,
        desc=f"{run.config.algorithm}, seed {run.config.seed}",
        unit="step",
        disable=not (progress and processes.is_main()),
        leave=False,
    )


def load_run(
    directory: pathlib.Path, *, trust: bool = False
) -> tuple[Trainer, flatjax.TrainState, TrainConfig]:
    """The trainer of a saved run, its newest state and its configuration.

    Args:
      directory: of the run.
      trust: import the module that the configuration names, if the model is not one of flatjax.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint.
      ValueError: a file is damaged, or a module would have to be imported that is not trusted.
    """
    config = _trusted_config(directory, trust)
    trainer = Trainer(config)
    state = trainer.init_state(config.seed)
    files = RunDirectory(directory, config, trainer.task.fingerprint, of_any_revision=True)
    saved = files.restore(arrays_of(state))
    if saved is None:
        raise FileNotFoundError(f"{directory} holds no checkpoint yet.")
    return trainer, dataclasses.replace(state, **saved.state), config


class FinalModel(NamedTuple):
    """The final model of a saved run.

    Attributes:
      config: configuration of the run.
      task: what it was trained on.
      params: parameters of the model.
      batch_stats: its batch statistics; empty without batch norm.
    """

    config: TrainConfig
    task: Task
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree


def load_final_model(directory: pathlib.Path, *, trust: bool = False) -> FinalModel:
    """The model in the directory of a run; of an incomplete run, that of its newest checkpoint.

    Arguments and errors are those of `load_run`.
    """
    config = _trusted_config(directory, trust)
    task = make_task(config)
    model = RunDirectory(directory, config, task.fingerprint).read_model(trust=trust)
    if model is None:
        trainer, state, _ = load_run(directory, trust=trust)
        task, model = trainer.task, evaluate.final_model(trainer, state)
    return FinalModel(config, task, *model)


def _trusted_config(directory, trust) -> TrainConfig:
    """The configuration of a run, if no module has to be imported that is not trusted."""
    if not (directory / "config.json").exists():
        raise FileNotFoundError(
            f"{directory} holds no run (no config.json): give a directory that "
            "`python -m experiments train` or `compare` wrote."
        )
    config = read_config(directory / "config.json")
    for what, name in (("model", config.model), ("dataset", config.dataset)):
        is_module = what == "model" or datasets.is_function(name)
        if not trust and is_module and (module := foreign_module(name)) is not None:
            raise ValueError(
                f"{directory}: the run's {what} {name} is not one of flatjax: to load it, the "
                f"module {module} would be imported and run. If you trust it, pass --trust."
            )
    return config
