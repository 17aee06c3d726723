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
    """Returns the task, or one with digits if the data are missing, with a message.

    Args:
      task: the requested task.
      others: data set -> task, including digits.

    Returns:
      The task that is possible.
    """
    try:
        _load(task.dataset, tuple(task.classes))
    except FileNotFoundError as error:
        print(f"{error}\nContinuing with digits instead.", file=sys.stderr)
        return others["digits"]
    return task


def make_patterns(task: TwoClasses, seed: int) -> tuple[Patterns, Patterns, Patterns]:
    """Returns patterns for training, for validation and (all others) for testing.

    Each pixel is centered and scaled by its statistics over all training images of both classes,
    which uses no labels. Constant pixels become 0.

    Args:
      task: the classes and numbers.
      seed: random seed of the choice of training and validation patterns.

    Returns:
      train, validation and test.

    Raises:
      ValueError: there are not enough patterns.
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
