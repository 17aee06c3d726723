"""What a run leaves on disk: configuration, metrics, checkpoints, result. Every write is atomic.

Of several processes, which must see one directory, the first writes; checkpoints all together.

config.json     the configuration; a directory belongs to one
metrics.jsonl   one line for each epoch
checkpoints/    the last states, by orbax, each with the losses of its epoch so far
result.json     written last: a run that has one is complete
"""

import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.engine import processes
from experiments.engine.config import TrainConfig
from experiments.report import store


class RunDirectory:
    """The files of one run.

    Attributes:
      path: the directory; made if missing.

    Raises:
      ValueError: the directory holds a run of another configuration; the message names the fields.
    """

    def __init__(self, path: str | os.PathLike[str], config: TrainConfig):
        self.path = pathlib.Path(path).absolute()
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_same_run(config)

    def _check_same_run(self, config: TrainConfig) -> None:
        path = self.path / "config.json"
        wanted = config.to_json()
        if not path.exists():
            if processes.is_main():
                store.write_json(path, wanted)
            return
        # Fields that are newer than the run had their defaults.
        found = TrainConfig().to_json() | store.read_json(path)
        names = sorted(found.keys() | wanted.keys())
        changed = [
            f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} asked for"
            for name in names
            if found.get(name) != wanted.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.path} holds a run of another configuration ({'; '.join(changed)}). A run "
                "resumes with the configuration it was started with, its number of replicas "
                "included: choose another directory, or delete this one."
            )

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path / "checkpoints", options=options)

    def save(self, step: int, state: Any, losses: np.ndarray) -> None:
        """Saves a pytree of arrays, and losses (steps, y); the two newest are kept."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            losses=ocp.args.JsonSave({"losses": losses.tolist()}),
        )
        with self._manager() as manager:
            manager.save(step, args=items)

    def restore(self, like: Any) -> tuple[Any, list[list[float]]] | None:
        """The newest state, with structure, shapes, dtypes and shardings of `like`, and its losses.

        Returns:
          None if there is no checkpoint.

        Raises:
          ValueError: the checkpoint cannot be read, or does not fit.
        """
        if not (self.path / "checkpoints").exists():
            return None
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
            losses=ocp.args.JsonRestore(),
        )
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            try:
                restored = manager.restore(step, args=items)
                return restored["state"], restored["losses"]["losses"]
            except Exception as error:
                raise ValueError(
                    f"checkpoint {self.path / 'checkpoints' / str(step)} cannot be restored: "
                    f"{error}. Delete it to go on from the one before, or from the start."
                ) from error

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        if processes.is_main():
            store.append_line(self.path / "metrics.jsonl", record)

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops the lines after a step, and one half written; returns those that stay."""
        path = self.path / "metrics.jsonl"
        # The main process alone changes the file, which all of them read.
        records = [line for line in store.read_lines(path, mend=False) if line["step"] <= step]
        if processes.is_main():
            store.write_lines(path, records)
        return records

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as complete."""
        if processes.is_main():
            store.write_json(self.path / "result.json", result)

    def read_result(self) -> dict[str, Any] | None:
        """The result of a complete run, else None."""
        return read_result(self.path)


def read_result(directory: pathlib.Path) -> dict[str, Any] | None:
    """The result in a run's directory, None if the run is not complete; makes no directory."""
    return store.read_if_there(directory / "result.json")
