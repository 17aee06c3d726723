"""The text of the study: Python's standard library, as bytes."""

import functools
import pathlib
import sysconfig

import numpy as np

from flatjax import data

_FOREIGN = ("site-packages", "dist-packages")
CONTEXT = 128
HELD_OUT = 1024


def standard_library() -> data.TokenDataset:
    """Loads all .py files of this Python's standard library; a tenth is held out.

    The choice of held-out files depends only on their paths. The sequences have one fixed shuffled
    order, so that the first few come from many files.
    """
    return _shuffled(_files())


def a_little_of_it() -> data.TokenDataset:
    """Loads a few modules, for a small run."""
    return _shuffled([file for file in _files() if file.count("/") == 0][:40])


def _files() -> list[str]:
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    names = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    return sorted(name.as_posix() for name in names if not set(_FOREIGN) & set(name.parts))


@functools.lru_cache(maxsize=1)
def _loaded(files: tuple[str, ...]) -> data.TokenDataset:
    root = sysconfig.get_paths()["stdlib"]
    return data.from_text(root, files=files, context=CONTEXT, name="standard library")


def _shuffled(files: list[str]) -> data.TokenDataset:
    whole = _loaded(tuple(files))
    order = lambda split: np.random.default_rng(0).permutation(len(split))
    train, test = (split[order(split)] for split in (whole.train, whole.test))
    return data.TokenDataset(whole.name, train, test[:HELD_OUT], whole.num_classes)
