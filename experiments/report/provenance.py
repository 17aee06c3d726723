"""The program that made a record: its version, and the revision of its numbers.

The revision is raised by one when a change of the program changes numbers. Checkpoints, cached
values and records of an earlier revision are then refused where the program would continue them or
mix them with its own. Records without a revision have revision 1.
"""

import functools
import pathlib
import subprocess
from typing import Any

import jax

from flatjax import _version

TRAINING = 1  # runs of `train`, `compare`, `tune` and `reproduce`; contest, ladder, flatness study
COMMITTEE = 1  # the study of committees
SIMULATIONS = 1  # points of the Gaussian mixture and of binary weights, except these:
# Start of a point's name -> its revision. Revision 2: each sample has its own thermal noise.
LATER_SIMULATIONS = {"coupled Langevin dynamics": 2}

EXPLANATION = (
    "The revision counts the changes of the program that change numbers: "
    "experiments/report/provenance.py"
)
_ROOT = pathlib.Path(__file__).parents[2]


def of_simulation(point: str) -> int:
    """Returns the revision of the simulations of a point.

    Examples:
      >>> of_simulation("Hebb: {}"), of_simulation("coupled Langevin dynamics, y=3: {}")
      (1, 2)
    """
    later = [number for start, number in LATER_SIMULATIONS.items() if point.startswith(start)]
    return max([SIMULATIONS, *later])


def made_by() -> dict[str, Any]:
    """Returns the versions of flatjax and jax, and the commit; None if unknown.

    Examples:
      >>> sorted(made_by())
      ['commit', 'flatjax', 'jax']
    """
    return {"flatjax": _version.__version__, "jax": jax.__version__, "commit": _commit()}


@functools.cache
def _commit() -> str | None:
    """Returns the commit of the repository, with "-dirty" if tracked files changed."""
    git = lambda *command: subprocess.run(
        ["git", "-C", str(_ROOT), *command], capture_output=True, text=True, check=False
    )
    try:
        # A copy of this file may be in the repository of another project.
        if git("ls-files", "--error-unmatch", __file__).returncode != 0:
            return None
        return git("describe", "--always", "--dirty", "--exclude", "*").stdout.strip() or None
    except OSError:  # git is missing
        return None
