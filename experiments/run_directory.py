"""What a run leaves on disk: configuration, metrics, checkpoints, result. Every write is atomic.

Of several processes, which must see one directory, the first writes; checkpoints all together.

config.json     the configuration; a directory belongs to one
metrics.jsonl   one line for each epoch
checkpoints/    the last states, by orbax, each with the losses of its epoch so far
result.json     written last: a run that has one is complete
"""

import json
import os
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import processes
from experiments.config import TrainConfig


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
                write_json(path, wanted)
            return
        # Fields that are newer than the run had their defaults.
        found = TrainConfig().to_json() | read_json(path)
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
        if not processes.is_main():
            return
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def truncate_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops the lines after a step, and one half written; returns those that stay."""
        path = self.path / "metrics.jsonl"
        records = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["step"] <= step:
                records.append(record)
        if processes.is_main():
            write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        return records

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as complete."""
        if processes.is_main():
            write_json(self.path / "result.json", result)

    def read_result(self) -> dict[str, Any] | None:
        """The result of a complete run, else None."""
        return read_result(self.path)


def read_result(directory: pathlib.Path) -> dict[str, Any] | None:
    """The result in a run's directory, None if the run is not complete; makes no directory."""
    path = directory / "result.json"
    return read_json(path) if path.exists() else None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; a damaged one is a ValueError that names it."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it to start over.") from error
