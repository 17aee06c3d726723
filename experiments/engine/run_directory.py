"""The files of a run: configuration, metrics, checkpoints, result.

Every write is atomic. Several processes must see the same directory. Process 0 writes it; all
processes write checkpoints.

config.json     the configuration of the run; a directory holds one run
metrics.jsonl   one line for each epoch, for people and plots
checkpoints/    the last states, by orbax; "about" in each holds the configuration, the data's
                fingerprint (and that of a network of the user), the program's revision, version and
                commit, the history, the losses of the epoch so far and the state's digest
model/          the final model, for `flatjax.models.load`, with the configuration and these
                fingerprints
result.json     written last: it marks a complete run
run.lock        exists while a process trains there
"""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.engine import fingerprints, processes
from experiments.engine.config import TrainConfig
from experiments.engine.earlier_versions import converted
from experiments.engine.quiet import quiet
from experiments.engine.run_identity import check_identity
from experiments.report import lock, provenance, store
from flatjax import models

_IDENTITY = ("data", "network", "revision")  # of a result, in addition to its configuration


class Saved(NamedTuple):
    """A checkpoint.

    Attributes:
      state: arrays, as they were saved.
      losses: losses of the steps of the epoch so far, (steps, y).
      history: the records of the epochs before.
      position: position in the stream of training data, if there is one; see `feed.Feed`.
      gradients: gradient evaluations of all replicas so far; None if the number of replicas never
        changed.
      origin: the run that this one continues with another number of replicas; see `restart`.
      network: fingerprint of a network of the user; see `Task.network_fingerprint`.
    """

    state: Any
    losses: list[list[float]]
    history: list[dict[str, Any]]
    position: dict[str, Any] | None = None
    gradients: int | None = None
    origin: dict[str, Any] | None = None
    network: dict[str, str] | None = None


class RunDirectory:
    """The files of one run.

    Attributes:
      path: the directory.

    Args:
      path: the directory; `claimed` makes it.
      config: configuration of the run.
      data: fingerprint of the data, see `Task.fingerprint`; not compared if None.
      network: fingerprint of a network of the user, see `Task.network_fingerprint`; not compared if
        None.
      of_any_revision: whether to read results of a program that computes other numbers.

    Raises:
      ValueError: the directory holds a run of another configuration, of which something was saved;
        the message names the fields.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: TrainConfig,
        data: Mapping[str, Any] | None = None,
        *,
        network: Mapping[str, str] | None = None,
        of_any_revision: bool = False,
    ):
        self.path = pathlib.Path(path).absolute()
        self._identity = {"config": config.to_json(), "revision": provenance.TRAINING}
        self._identity |= {} if data is None else {"data": data}
        self._identity |= {} if network is None else {"network": network}
        self._of_any_revision = of_any_revision
        self._check_same_run()

    @property
    def _is_begun(self) -> bool:
        """Whether anything is saved that a run of another configuration must not replace."""
        has_files = any((self.path / name).exists() for name in ("result.json", "model"))
        return has_files or any((self.path / "checkpoints").glob("*"))

    def _check_same_run(self) -> None:
        path = self.path / "config.json"
        if path.exists():
            found = read_config(path)  # a damaged one is refused
            if self._is_begun:
                self._check_identity({"config": found.to_json()})

    def _check_identity(self, found, of: str = ""):
        """Refuses files of another run."""
        place, any_revision = f"{self.path}{of}", self._of_any_revision
        check_identity(self._identity, found, place, of_any_revision=any_revision)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes from writing; makes the directory and its configuration.

        Raises:
          lock.InUseError: another process trains there.
        """
        with contextlib.ExitStack() as stack:

            def claim():
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.held(self.path / "run.lock"))

            self._raise_together(claim)
            self._check_same_run()
            path = self.path / "config.json"
            if processes.is_main() and not (path.exists() and self._is_begun):
                store.write_json(path, self._identity["config"])
            yield

    def _raise_together(self, act: Callable[[], None]) -> None:
        """Lets process 0 act; if it fails, all processes raise."""
        problem = None
        if processes.is_main():
            try:
                act()
            except (OSError, lock.InUseError) as error:
                problem = error
        if processes.as_main(problem is not None):
            raise problem or lock.InUseError(f"{self.path} cannot be written by process 0.")

    # --- checkpoints ----------------------------------------------------------------------------

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path / "checkpoints", options=options)

    def save(
        self,
        step: int,
        state: Any,
        losses: np.ndarray,
        history: list[dict[str, Any]],
        position: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Saves the state, losses (steps, y), records and the position in a stream.

        The two newest checkpoints are kept. For `more`, see `Saved`.

        Raises:
          lock.InUseError: another process has taken over the directory.
        """
        self._raise_together(lambda: self._check_can_save(state))
        about = self._identity | {
            "step": step,
            "state": fingerprints.of_arrays(state),
            "losses": losses.tolist(),
            "history": history,
            "position": position,
            **more,
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            about=ocp.args.JsonSave(store.sealed(store.signed(about))),
        )
        with quiet(), self._manager() as manager:
            manager.save(step, args=items)

    def _check_can_save(self, state):
        """Refuses a checkpoint without enough space, as orbax would leave a part."""
        lock.check(self.path / "checkpoints")
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**17
        if (free := shutil.disk_usage(self.path).free) < needed:
            problem = f"{os.strerror(errno.ENOSPC)} ({needed} bytes are needed, {free} are free)"
            raise OSError(errno.ENOSPC, problem, str(self.path / "checkpoints"))

    def restore(self, like: Any) -> Saved | None:
        """Restores the newest checkpoint with the structure and shardings of `like`.

        Returns:
          None if there is no checkpoint.

        Raises:
          ValueError: the checkpoint cannot be read, is damaged, or belongs to another run.
        """
        if not (self.path / "checkpoints").exists():
            return None
        with quiet(), self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            path = self.path / "checkpoints" / str(step)
            try:
                return self._restore(manager, step, path, like)
            except store.OtherIdentityError:
                raise
            except Exception as error:
                raise ValueError(
                    f"checkpoint {path} cannot be restored: {error}. Delete it to continue from "
                    "the previous one, or from the start."
                ) from error

    def _restore(self, manager, step, path, like) -> Saved:
        state = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
        about = {"revision": 1} | store.unsealed(about["about"], f"{path / 'about'}")
        self._check_identity(about, of=f"/checkpoints/{step}")
        restored = manager.restore(step, args=ocp.args.Composite(state=state))["state"]
        if not about["step"] == step == int(restored["step"]):
            raise store.DamagedFileError(
                f"it is of step {int(restored['step'])}, its record of step {about['step']}"
            )
        if (found := fingerprints.of_arrays(restored)) != about["state"]:
            raise store.DamagedFileError(
                f"its values are damaged (digest {found}, {about['state']} was saved)"
            )
        names = ("losses", "history", "position", "gradients", "origin", "network")
        return Saved(restored, *map(about.get, names))

    # --- the final model ------------------------------------------------------------------------

    def write_model(self, params: Any, batch_stats: Any, **description: Any) -> None:
        """Writes the final model.

        Args:
          params: parameters of the model.
          batch_stats: batch statistics, if the model has any.
          **description: description of the network; see `flatjax.models.save`.
        """
        if processes.is_main():
            state = {"batch_stats": batch_stats}
            path = self.path / "model"
            models.save(path, params, state, about=self._identity, **description)

    def read_model(self, *, trust: bool = False) -> tuple[Any, Any] | None:
        """Returns parameters and batch statistics of the final model, or None.

        Args:
          trust: import the module that the model names, if it is not part of flatjax.

        Raises:
          ValueError: a file is damaged, belongs to another run, or a module is not trusted.
        """
        if not (self.path / "model").exists():
            return None
        predict, params, state = models.load(self.path / "model", trust=trust)
        self._check_identity(dict(predict.about), of="/model")
        return params, state.get("batch_stats", {})

    # --- metrics and result ---------------------------------------------------------------------

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl and waits until it is on the disk."""
        if processes.is_main():
            store.append_line(self.path / "metrics.jsonl", record)

    def reset_metrics(self, history: list[dict[str, Any]]) -> None:
        """Makes metrics.jsonl equal the history of the checkpoint."""
        if processes.is_main():
            store.write_lines(self.path / "metrics.jsonl", history)

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json, which marks the run as complete."""
        if processes.is_main():
            store.write_json(self.path / "result.json", self._identity | result)

    def read_result(self) -> dict[str, Any] | None:
        """Returns the result of a complete run, else None.

        Raises:
          ValueError: the file is damaged, or belongs to another run.
        """
        path = self.path / "result.json"
        result = store.read_if_there(path, must_be_sealed=True)
        if result is None:
            return None
        if not {"config", "history", "test_error"} <= result.keys():
            raise store.DamagedFileError(f"{path} is damaged: it holds no result. Delete it.")
        self._check_identity({"revision": 1} | result, of="/result.json")
        return {name: value for name, value in result.items() if name not in _IDENTITY}


def read_result(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the result in a run's directory; None if the run is not complete.

    Raises:
      ValueError: a file is damaged, or the result belongs to another configuration.
    """
    if not (directory / "result.json").exists():
        return None
    return RunDirectory(directory, read_config(directory / "config.json")).read_result()


def read_config(path: pathlib.Path) -> TrainConfig:
    """Reads the configuration in a file config.json.

    Raises:
      ValueError: the file is damaged or of another version; the message names it.
    """
    fields = store.read_json(path, must_be_sealed=True)
    try:
        if "algorithm" not in fields:
            raise ValueError("there is no algorithm in it")
        return TrainConfig.from_json(converted(fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no configuration: {error}") from error
