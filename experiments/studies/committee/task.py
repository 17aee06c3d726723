"""Two classes of a data set as patterns and labels of -1 and 1."""

import functools
import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.studies.committee.description import TwoClasses
from flatjax import data


class Patterns(NamedTuple):
    """Patterns and their labels.

    Attributes:
      x: shape (P, N), float32.
      y: -1 or 1, shape (P,), float32.
    """

    x: np.ndarray
    y: np.ndarray


@functools.lru_cache(maxsize=4)
def _load(dataset, classes):
    loaded = data.load(dataset)
    return tuple(data.choose_classes(split, classes) for split in (loaded.train, loaded.test))


def available(task: TwoClasses, others: Mapping[str, TwoClasses]) -> TwoClasses:
    """The task, or, where its data are missing, that of the digits, after saying so.

    Args:
      task: what is wanted.
      others: data set -> task, that of the digits among them.

    Returns:
      The task that can be done.
    """
    try:
        _load(task.dataset, tuple(task.classes))
    except FileNotFoundError as error:
        print(f"{error}\nGoing on with digits instead.", file=sys.stderr)
        return others["digits"]
    return task


def make_patterns(task: TwoClasses, seed: int) -> tuple[Patterns, Patterns, Patterns]:
    """Patterns to learn, to choose settings by, and to test on: all that are left of both splits.

    Pixels are centered and scaled by what they are in all images of the training split, of both
    classes, which uses no labels; pixels that never change are 0.

    Args:
      task: the classes and numbers.
      seed: draws which patterns are learned and which are for validation.

    Returns:
      train, validation and test.

    Raises:
      ValueError: there are not as many patterns.
    """
    pool, test = _load(task.dataset, tuple(task.classes))
    needed = task.num_train + task.num_validation
    if needed > len(pool):
        raise ValueError(
            f"num_train + num_validation must be at most {len(pool)}, the images of classes "
            f"{task.classes} in the training split of {task.dataset}, got {needed}."
        )
    flat = lambda split: split.image.reshape(len(split), -1).astype(np.float32)
    mean, deviation = flat(pool).mean(axis=0), flat(pool).std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)

    def patterns(*splits):
        x = np.concatenate([(flat(split) - mean) / scale for split in splits])
        y = np.concatenate([2.0 * split.label - 1 for split in splits])
        return Patterns(x, y.astype(np.float32))

    order = np.random.default_rng(seed).permutation(len(pool))
    train, validation, rest = np.split(order, [task.num_train, needed])
    learned = pool[train]
    if task.label_noise > 0:
        learned = data.label_noise(learned, task.label_noise, 2, seed)
    left = (pool[rest], test) if len(rest) else (test,)
    return patterns(learned), patterns(pool[validation]), patterns(*left)
