"""Loggers in addition to metrics.jsonl: TensorBoard, Weights & Biases."""

import contextlib
import hashlib
import importlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from experiments.engine.config import TrainConfig

LoggerName = Literal["tensorboard", "wandb"]


class Logger(Protocol):
    """Receives the records of a run, one for each epoch."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Receives a record; a resumed run sends earlier epochs again."""

    def close(self) -> None:
        """Writes buffered records."""


@contextlib.contextmanager
def opened(
    names: Sequence[LoggerName], directory: pathlib.Path | None, config: TrainConfig
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that sends a record to the loggers; closes them at exit.

    Without names it does nothing, and needs no directory.

    Raises:
      ValueError: the loggers have no directory.
      ImportError: a logger is not installed.
    """
    if names and directory is None:
        raise ValueError("directory must be given with log: that is where loggers write.")
    with contextlib.ExitStack() as stack:
        opening = (contextlib.closing(open_logger(name, directory, config)) for name in names)
        loggers = [stack.enter_context(logger) for logger in opening]

        def tell(record):
            for logger in loggers:
                logger.log(record)

        yield tell


def open_logger(name: LoggerName, directory: pathlib.Path, config: TrainConfig) -> Logger:
    """Opens the logger of a run.

    Args:
      name: tensorboard, which writes to `directory`/tensorboard, or wandb, which writes there and
        to its configured server.
      directory: directory of the run.
      config: configuration of the run.

    Raises:
      ImportError: the package is not installed; the message says which extra has it.
    """
    require((name,))
    return {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}[name](directory, config)


def require(names: Sequence[LoggerName]) -> None:
    """Imports the packages of loggers, before anything is written.

    Raises:
      ImportError: a package is not installed; the message says which extra has it.
    """
    for name in names:
        try:
            importlib.import_module({"tensorboard": "tensorboardX", "wandb": "wandb"}[name])
        except ImportError as error:
            message = f"log: {name} needs pip install 'flatjax[{name}]' ({error})."
            raise ImportError(message) from error


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields names and numbers of a record; a list gives a number for each entry.

    Examples:
      >>> from experiments.engine.loggers import scalars
      >>> list(scalars({"step": 4, "train_loss": 0.5, "replica_errors": [3.0, 2.0]}))
      [('train_loss', 0.5), ('replica_errors/0', 3.0), ('replica_errors/1', 2.0)]
    """
    for name, value in record.items():
        if isinstance(value, list | tuple):
            yield from ((f"{name}/{i}", float(entry)) for i, entry in enumerate(value))
        elif isinstance(value, int | float) and name != "step":
            yield name, float(value)


class TensorBoard:
    """Writes event files for `tensorboard --logdir runs`."""

    def __init__(self, directory: pathlib.Path, config: TrainConfig):
        import tensorboardX

        folder = directory / "tensorboard"
        # A resumed run sends all records again.
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = tensorboardX.SummaryWriter(str(folder))
        lines = [f"    {name}: {value}" for name, value in config.to_json().items()]
        self._writer.add_text("config", "\n".join(lines))

    def log(self, record: Mapping[str, Any]) -> None:
        """Adds a point to the curve of each number."""
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, global_step=record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to a run of the project flatjax, under the same id after a resume."""

    def __init__(self, directory: pathlib.Path, config: TrainConfig):
        import wandb

        place = str(directory.absolute())
        self._run = wandb.init(
            project="flatjax",
            name=directory.name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=place,
            config=config.to_json(),
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs one step; steps that the server has already do not change."""
        if record["step"] >= self._run.step:
            self._run.log(dict(scalars(record)), step=record["step"])

    def close(self) -> None:
        """Sends buffered records."""
        self._run.finish()
