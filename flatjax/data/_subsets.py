"""Parts of a data set: subsets, classes, a validation part, and wrong labels."""

import math
import numbers
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from flatjax._checks import check_count, check_number
from flatjax.data._dataset import Split, check_labels
from flatjax.data._tokens import TokenSplit


def choose_classes(split: Split, classes: Sequence[int]) -> Split:
    """Keeps the examples of some classes, and counts these from 0.

    Args:
      split: the examples.
      classes: old labels of the classes, all different, in the order of the new ones.

    Returns:
      The examples of these classes, in their old order.

    Raises:
      ValueError: no class is given, a class is given twice, or a class has no examples.

    Examples:
      >>> from flatjax.data import choose_classes, load
      >>> digits = load("digits").train
      >>> fives_and_threes = choose_classes(digits, [5, 3])
      >>> np.bincount(digits.label)[[5, 3]].tolist()
      [131, 132]
      >>> np.bincount(fives_and_threes.label).tolist()
      [131, 132]

    See Also:
      `subset` (fewer examples), `label_noise` (wrong labels).
    """
    if np.ndim(classes) != 1 or not len(classes) or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be one or more different labels, got {classes}")
    missing = [label for label in classes if label not in set(split.label.tolist())]
    if missing:
        raise ValueError(f"classes must have examples, but {missing} have none")
    is_class = split.label[:, None] == np.asarray(classes)
    chosen = is_class.any(axis=1)
    return Split(split.image[chosen], is_class[chosen].argmax(axis=1).astype(np.int32))


S = TypeVar("S", Split, TokenSplit)


def _check_seed(seed: int) -> int:
    """Returns the seed; raises if NumPy does not accept it."""
    return check_count("seed", seed, minimum=0, maximum=math.inf)


def split_validation(split: S, size: float | int, seed: int) -> tuple[S, S]:
    """Sets a validation set aside, stratified if there are classes.

    Each class gives the same share of its examples, rounded so that the total is exact (largest
    remainders first). The examples are drawn at random. The two parts are disjoint and together
    contain all of `split`. Each keeps the order. A regression has no classes; its examples are
    drawn from the whole. Of tokens, neighbouring sequences are set aside, since they come from one
    text: from a random place on, and from the start again after the end.

    Args:
      split: the examples to divide.
      size: a float is the fraction to set aside, between 0 and 1; an int is the number of examples.
      seed: the same seed gives the same division.

    Returns:
      `(train, validation)`.

    Raises:
      TypeError: `size` is neither a float nor an int.
      ValueError: one of the two parts would be empty.

    Examples:
      >>> from flatjax.data import load, split_validation
      >>> train, validation = split_validation(load("digits").train, 0.1, seed=0)
      >>> len(train), len(validation)
      (1167, 130)

    See Also:
      `subset` (fewer examples), `load` (reads a data set).
    """
    check_number("size", size)
    count = size if isinstance(size, numbers.Integral) else round(size * len(split))
    if not 0 < count < len(split):
        raise ValueError(
            f"size must set aside at least 1 and at most {len(split) - 1} of {len(split)} "
            f"examples, got {size!r}"
        )
    rng = np.random.default_rng(_check_seed(seed))
    validation = np.zeros(len(split), bool)
    if isinstance(split, TokenSplit):
        validation[(rng.integers(len(split)) + np.arange(count)) % len(split)] = True
    elif split.is_regression:
        validation[rng.permutation(len(split))[:count]] = True
    else:
        for class_label, class_count in enumerate(stratified_counts(split.label, int(count))):
            members = np.flatnonzero(split.label == class_label)
            validation[rng.permutation(members)[:class_count]] = True
    return split[~validation], split[validation]


def subset(split: S, count: int, seed: int) -> S:
    """Draws `count` examples without replacement, in their old order.

    With one seed, subsets are nested: a larger subset contains the examples of a smaller one, as a
    learning curve needs. Classes are not balanced.

    Args:
      split: the examples to draw from.
      count: number of examples to draw.
      seed: the same seed gives the same draw.

    Returns:
      The drawn examples.

    Raises:
      TypeError: `count` is not an int.
      ValueError: `count` is not between 1 and the number of examples.

    Examples:
      >>> from flatjax.data import load, subset
      >>> subset(load("digits").train, 100, seed=0)
      Split(image=uint8(100, 8, 8, 1), label=int32(100,))

    See Also:
      `split_validation` (holds examples out), `choose_classes` (fewer classes).
    """
    count = check_count("count", count, minimum=1)
    if count > len(split):
        raise ValueError(f"count must be at most {len(split)}, got {count}")
    chosen = np.random.default_rng(_check_seed(seed)).permutation(len(split))[:count]
    return split[np.sort(chosen)]


def label_noise(split: Split, fraction: float, num_classes: int, seed: int) -> Split:
    """Gives a fraction of the examples a wrong label.

    Exactly `round(fraction * N)` labels change, each to any of the C - 1 *other* classes with equal
    probability. Some papers draw among all C classes, which changes only a part (C - 1) / C of the
    chosen labels. Their rate r corresponds to `fraction = r * (C - 1) / C`.

    Args:
      split: the examples; their images are shared with the result, not copied.
      fraction: part of the labels to corrupt, between 0 and 1.
      num_classes: number of classes C.
      seed: the same seed corrupts the same labels in the same way.

    Returns:
      The split with corrupted labels.

    Raises:
      TypeError: `num_classes` is not an int.
      ValueError: `fraction` is not between 0 and 1, `num_classes` is below 2, or a label is not
        below `num_classes`, or there are targets in place of classes.

    Examples:
      >>> from flatjax.data import label_noise, load
      >>> clean = load("digits").train
      >>> noisy = label_noise(clean, 0.2, num_classes=10, seed=0)
      >>> int((noisy.label != clean.label).sum())
      259

    See Also:
      `choose_classes` (fewer classes), `subset` (fewer examples), `flatjax.flatness.rank_solutions`
      (which measure survives the noise).
    """
    check_number("fraction", fraction, minimum=0, maximum=1)
    check_count("num_classes", num_classes, minimum=2)
    if split.is_regression:
        raise ValueError("split must have classes to give wrong ones, but it has targets")
    check_labels("split", split, num_classes)
    rng = np.random.default_rng(_check_seed(seed))
    chosen = rng.permutation(len(split))[: round(fraction * len(split))]
    label = split.label.copy()
    # A shift by 1 to C - 1, modulo C, reaches each other class once and never the class itself.
    label[chosen] += rng.integers(1, num_classes, size=len(chosen), dtype=np.int32)
    label[chosen] %= num_classes
    return Split(image=split.image, label=label)


def stratified_counts(label: np.ndarray, count: int) -> np.ndarray:
    """Divides `count` examples among the classes, in proportion to their sizes.

    Every class gets the integer part of its share. The rest goes to the largest remainders, and
    among equal ones to the lower class.

    Args:
      label: the classes, integers of shape (N,).
      count: total, at most N.

    Returns:
      int64 of shape (largest label + 1,), with sum `count`.

    Examples:
      >>> stratified_counts(np.array([0, 0, 0, 0, 1, 1, 2]), 3)
      array([2, 1, 0])
    """
    shares, remainders = np.divmod(np.bincount(label) * count, len(label))
    left = count - shares.sum()
    shares[np.argsort(-remainders, kind="stable")[:left]] += 1
    return shares
