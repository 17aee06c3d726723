"""Ways to damage a file."""

import pathlib
import random

from experiments import faults


def flip(path: pathlib.Path, draw: random.Random) -> None:
    """Flips a random bit."""
    faults.flip(path, draw.randrange(8 * path.stat().st_size))


def cut(path: pathlib.Path, draw: random.Random) -> None:
    """Cuts a file short, at a random place."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def delete(path: pathlib.Path, draw: random.Random) -> None:
    """Deletes a file."""
    del draw
    path.unlink()


DAMAGES = {"flipped bit": flip, "cut short": cut, "deleted": delete}


def tries_of(kind: str, tries: int) -> int:
    """Returns the number of tries; flips get most, because most of a file is bits."""
    return tries if kind == "flipped bit" else max(tries // 5, 1)
