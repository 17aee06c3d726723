"""A training run: it starts or resumes, saves, evaluates and reports."""

import itertools
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from experiments.engine import datasets, evaluate, interruption, loggers, processes, restart
from experiments.engine.config import TrainConfig
from experiments.engine.loggers import LoggerName
from experiments.engine.loop import Run
from experiments.engine.placement import Placement
from experiments.engine.plan import Plan, hyper_of, make_plan
from experiments.engine.programs import programs_of
from experiments.engine.run_directory import RunDirectory, read_config
from experiments.engine.steps import State, arrays_of
from experiments.engine.task import Task, make_task
from experiments.engine.time_limit import TimeIsUp, TimeLimit
from experiments.report import bars
from flatjax.models._fingerprint import differs, warn_of_change
from flatjax.models._network import foreign_module

_SHOWN_RUNS = 5  # in a message


def train(
    config: TrainConfig,
    task: Task | None = None,
    placement: Placement | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    progress: bool = True,
    evaluate_epochs: bool = True,
    checkpoint_seconds: float = 20.0,
    log: Sequence[LoggerName] = (),
    go_on_from: pathlib.Path | None = None,
    limit: TimeLimit | None = None,
) -> dict[str, Any]:
    """Trains, then evaluates the final model.

    Runs compile once in a process if their configurations differ only in seed and hyperparameters,
    also if the task is made again.

    Args:
      config: the configuration.
      task: network and data; by default, as the configuration says.
      placement: where the arrays of the run are stored; one device by default.
      directory: directory of configuration, metrics, checkpoints and the result. An interrupted run
        resumes there and ends in the same parameters, bit for bit (on another mesh, up to
        rounding).
      progress: show a progress bar.
      evaluate_epochs: measure the held-out error of the current model after every epoch.
      checkpoint_seconds: save after this many seconds, at the end of the step; or at the end of the
        epoch, if an epoch is one program or there are several processes. This limits the loss of
        work if the run is killed.
      log: loggers that get the record of each epoch, in addition to metrics.jsonl. A resumed run
        sends them the earlier records again.
      go_on_from: directory of a run with another number of replicas, from whose newest checkpoint
        this run starts; see `restart`.
      limit: limit of the wall time; a run that would not end in time is saved first.

    Returns:
      The result: see `evaluate.final_result`.

    Raises:
      TrainingDivergedError: the loss is not finite; earlier checkpoints are kept.
      ValueError: the configuration does not fit the data or the mesh; the directory belongs to
        another run, holds damaged files, or is missing although a logger needs it.
      InUseError: another process trains in the directory.
      ImportError: a logger is not installed.
      interruption.Interrupted: SIGINT or SIGTERM came; the state was saved first.
      TimeIsUp: the limit is reached; the state was saved first.
    """
    task = make_task(config) if task is None else task
    plan = make_plan(config, task, placement)
    limit = limit or TimeLimit()
    if directory is None:
        if go_on_from is not None:
            raise ValueError("go_on_from needs directory, where the continued run has its files.")
        pace = limit.begin(plan)
        run = Run(plan, config, task)
        return _train(run, progress, evaluate_epochs, None, log, limit, pace)
    about = {"data": task.fingerprint, "network": task.network_fingerprint}
    files = RunDirectory(directory, config, **about)
    if (result := files.read_result()) is not None:
        return result
    loggers.require(log if processes.is_main() else ())
    with files.claimed():
        # Another process may have ended the run before this one claimed the directory.
        if (result := files.read_result()) is not None:
            return result
        pace = limit.begin(plan)
        run = Run(plan, config, task, files)
        if go_on_from is not None and run.step == 0:
            restart.go_on_from(run, go_on_from)
        result = _train(run, progress, evaluate_epochs, checkpoint_seconds, log, limit, pace)
        files.write_result(result)
    return result


def _train(run, progress, evaluate_epochs, checkpoint_seconds, log, limit, pace) -> dict[str, Any]:
    """Trains from the run's current step; saves after so many seconds, or never."""
    files, total_steps = run.files, run.plan.total_steps
    log = log if processes.is_main() else ()
    with (
        loggers.opened(log, files and files.path, run.config) as tell,
        _bar(run, progress) as bar,
        interruption.deferred(enabled=files is not None) as stop,
    ):

        def must_save(step):
            is_late = time.perf_counter() - run.saved_at > checkpoint_seconds
            return pace.is_up(step / total_steps) or is_late or stop.signum is not None

        # Several processes pause together: at the end of an epoch.
        may_pause = files is not None and jax.process_count() == 1
        for record in run.history:
            tell(record)
        while run.step < total_steps:
            taken = itertools.count(run.step + 1)  # the state of a running step cannot be read
            if run.advance(bar, lambda taken=taken: may_pause and must_save(next(taken))):
                record = run.close_epoch(evaluate_epochs)
                if evaluate_epochs:
                    loss = f"{record['train_loss']:.3f}"
                    bar.set_postfix(loss=loss, error=record["test_error"])
                tell(record)
            if files is None:
                continue
            # Any of the processes may have been asked to stop.
            signum = int(processes.largest(np.array(stop.signum or 0)))
            is_over = run.step == total_steps
            if is_over or signum or processes.as_main(must_save(run.step)):
                with limit.measuring(run.plan, "save"):
                    run.save()
                if signum:
                    raise interruption.Interrupted(signum, files.path)
                if processes.as_main(pace.is_over) and not is_over:
                    raise TimeIsUp(f"saved in {files.path}.")
    if files is not None:
        limit.require(run.plan, "finish")
    with limit.measuring(run.plan, "finish"):
        return run.finish()


def _bar(run, progress):
    return bars.bar(
        progress=progress and processes.is_main(),
        total=run.plan.total_steps,
        initial=run.step,
        desc=f"{run.config.algorithm.name}, seed {run.config.seed}",
        unit="step",
        leave=False,
    )


class Loaded(NamedTuple):
    """A saved run.

    Attributes:
      config: configuration of the run.
      plan: static part of the run, on one device.
      task: data of the run.
      state: the newest saved state.
    """

    config: TrainConfig
    plan: Plan
    task: Task
    state: State


def load_run(directory: pathlib.Path, *, trust: bool = False) -> Loaded:
    """Loads a saved run.

    Args:
      directory: directory of the run.
      trust: import your own modules that the configuration names as model or data.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint.
      ValueError: a file is damaged, or a module that is not trusted would be imported.

    Warns if a network of the user has changed since.
    """
    config = trusted_config(directory, trust)
    task = make_task(config)
    plan = make_plan(config, task)
    like = arrays_of(programs_of(plan).init(hyper_of(config), config.seed))
    files = RunDirectory(directory, config, task.fingerprint, of_any_revision=True)
    saved = files.restore(like)
    if saved is None:
        raise FileNotFoundError(f"{directory} holds no checkpoint yet.")
    now = task.network_fingerprint
    if saved.network and now and differs(saved.network, now):
        warn_of_change(config.network.model, directory)
    return Loaded(config, plan, task, State(**saved.state))


class FinalModel(NamedTuple):
    """The final model of a saved run.

    Attributes:
      config: configuration of the run.
      task: data of the run.
      params: parameters of the model.
      batch_stats: batch statistics of the model; empty without batch norm.
    """

    config: TrainConfig
    task: Task
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree


def load_final_model(directory: pathlib.Path, *, trust: bool = False) -> FinalModel:
    """Loads the final model of a run, or the model of its newest checkpoint.

    Arguments and errors are those of `load_run`.
    """
    config = trusted_config(directory, trust)
    task = make_task(config)
    model = RunDirectory(directory, config, task.fingerprint).read_model(trust=trust)
    if model is None:
        run = load_run(directory, trust=trust)
        task, model = run.task, evaluate.final_model(run.plan, run.task, run.state)
    return FinalModel(config, task, *model)


def trusted_config(directory: pathlib.Path, trust: bool) -> TrainConfig:
    """Reads a run's configuration; raises if it names a module without trust.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: the configuration is damaged, or names a module that is not trusted.
    """
    if not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory} holds no run (no config.json): {_hint(directory)}")
    config = read_config(directory / "config.json")
    for what, name in (("model", config.network.model), ("dataset", config.data.dataset)):
        is_module = what == "model" or datasets.is_function(name)
        if not trust and is_module and (module := foreign_module(name)) is not None:
            raise ValueError(
                f"{directory}: the run's {what} {name} is not one of flatjax: to load it, the "
                f"module {module} would be imported and run. If you trust it, pass --trust."
            )
    return config


def _hint(directory: pathlib.Path) -> str:
    """Names the runs below a directory, such as the directory of a comparison."""
    levels = ("*", "*/*", "*/*/*")
    found = [path.parent for level in levels for path in directory.glob(f"{level}/config.json")]
    if not found:
        return "give the directory of a run, which `python -m experiments train` wrote."
    shown = " ".join(map(str, sorted(found)[:_SHOWN_RUNS]))
    more = len(found) - _SHOWN_RUNS
    return f"did you mean {shown}{f' (and {more} more)' if more > 0 else ''}?"
