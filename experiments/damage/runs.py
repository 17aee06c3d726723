"""Damaged run directories."""

import functools
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from experiments.damage.attempts import CONFIG, Row, outcome, without_times
from experiments.damage.damages import DAMAGES, tries_of
from experiments.engine.task import make_task
from experiments.engine.train import train
from flatjax import models

LABELS = (
    "config.json",
    "result.json",
    "metrics.jsonl",
    "last checkpoint, about",
    "last checkpoint, state",
    "last checkpoint, metadata",
    "checkpoint before the last",
)


MODEL = ("model/model.json", "model/arrays.npz")


class Run:
    """A complete run, whose copies are damaged, and other runs that lend their files.

    Args:
      place: directory of the runs, which are made at the first attempt.
    """

    def __init__(self, place: pathlib.Path):
        self._place = place

    @functools.cached_property
    def _task(self):
        return make_task(CONFIG)

    @functools.cached_property
    def _good(self) -> tuple[pathlib.Path, dict[str, Any]]:
        """Trains a run that saves after every epoch; returns its directory and result."""
        path = self._place / "good"
        found = train(CONFIG, self._task, directory=path, progress=False, checkpoint_seconds=0)
        return path, without_times(found)

    @functools.cached_property
    def _others(self) -> list[pathlib.Path]:
        """Trains runs with another seed, learning rate, and training set."""
        changes = ({"seed": 1}, {"learning_rate": 0.05}, {"data_seed": 1})
        paths = []
        for number, change in enumerate(changes):
            paths.append(self._place / f"other-{number}")
            config = CONFIG.changed(**change)
            train(config, directory=paths[-1], progress=False, checkpoint_seconds=0)
        return paths

    def _outcome(self, run):
        look = lambda: without_times(train(CONFIG, self._task, directory=run, progress=False))
        return outcome(look, self._good[1], run)

    def _copy(self, *, with_result: bool) -> pathlib.Path:
        """Makes a fresh copy; without its result it resumes from its last checkpoint."""
        run = self._place / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self._good[0], run)
        if not with_result:
            (run / "result.json").unlink()
        return run

    def _answers(self, folder: pathlib.Path) -> list[Any]:
        """Returns a saved model's arrays, and its logits for some test images."""
        predict, params, state = models.load(folder)
        logits = predict(params, state, self._task.held_out.image[:20])
        arrays = [np.asarray(array).tobytes() for array in jax.tree.leaves((params, state, logits))]
        return [*arrays, predict.class_names, predict.image_shape, predict.about]

    def _names(self, label: str) -> list[str]:
        good = self._good[0]
        paths = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
        last = max(path.parts[1] for path in paths if path.parts[0] == "checkpoints")
        return [str(path) for path in paths if _label(path, last) == label]

    def rows(self, tries: int) -> list[Row]:
        """Makes rows for every kind of file and damage, and for swaps of files."""
        found = []
        for label in LABELS:
            for kind, damage in DAMAGES.items():
                attempts = functools.partial(self._damaged, label, damage)
                found.append(Row(label, kind, tries_of(kind, tries), attempts))
        for name in MODEL:
            for kind, damage in DAMAGES.items():
                attempts = functools.partial(self._damaged_model, name, damage)
                found.append(Row(name, kind, tries_of(kind, tries), attempts))
        found.append(Row("any of a run", "another run's", tries, self._swapped))
        found.append(Row("any of a checkpoint", "another checkpoint's", tries, self._mixed))
        return found

    def _damaged(self, label, damage, draw, tries):
        for _ in range(tries):
            run = self._copy(with_result=label == "result.json")
            path = run / draw.choice(self._names(label))
            if path.stat().st_size:
                damage(path, draw)
            else:
                path.unlink()
            yield self._outcome(run)

    def _damaged_model(self, name, damage, draw, tries):
        """Attempts at a file of the final model, which is then loaded."""
        good = self._good[0] / "model"
        wanted = self._answers(good)
        copy = self._place / "model"
        for _ in range(tries):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(good, copy)
            damage(copy / pathlib.Path(name).name, draw)
            yield outcome(lambda: self._answers(copy), wanted, copy)

    def _swapped(self, draw, tries):
        """Replaces files or folders of this run by those of another run."""
        for _ in range(tries):
            run = self._copy(with_result=draw.random() < 0.5)
            other = draw.choice(self._others)
            there = sorted(path.relative_to(run) for path in run.rglob("*"))
            chosen = draw.sample(there, draw.choice([1, 1, 2, 4]))
            for name in chosen:
                if (run / name).exists():  # it may be in a folder that was replaced already
                    _replace(other / name, run / name)
            yield self._outcome(run)

    def _mixed(self, draw, tries):
        """Replaces a file or folder of a checkpoint by that of another checkpoint."""
        for _ in range(tries):
            run = self._copy(with_result=False)
            steps = sorted((run / "checkpoints").iterdir())
            source, target = draw.sample(steps, 2)
            inside = sorted(path.relative_to(source) for path in source.rglob("*"))
            name = draw.choice([pathlib.Path("."), *inside])
            _replace(source / name, target / name)
            yield self._outcome(run)


def _label(path: pathlib.Path, last_step: str) -> str:
    """Names a file of a run for the table."""
    if path.parts[0] != "checkpoints":
        return str(path)
    if path.parts[1] != last_step:
        return "checkpoint before the last"
    part = path.parts[2]
    return f"last checkpoint, {part if part in ('about', 'state') else 'metadata'}"


def _replace(source: pathlib.Path, target: pathlib.Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy(source, target)
