"""Which program made a record: its version for people, and the revision of its numbers for checks.

A revision is raised by one when a change of the program changes numbers: then checkpoints, cached
values and records of the revision before are refused, where they would be continued by, or mixed
with, those of the present program. Records without a revision are of revision 1.
"""

import functools
import pathlib
import subprocess
from typing import Any

import jax

from flatjax import _version

TRAINING = 1  # runs of `train`, `compare`, `tune` and `reproduce`; contest, ladder, flatness study
COMMITTEE = 1  # the study of committees
SIMULATIONS = 1  # points of the Gaussian mixture and of binary weights

EXPLANATION = (
    "The revision counts the changes of the program that change numbers: "
    "experiments/report/provenance.py"
)
_ROOT = pathlib.Path(__file__).parents[2]


def made_by() -> dict[str, Any]:
    """The versions of flatjax and jax, and the commit; None where it is not known.

    Examples:
      >>> sorted(made_by())
      ['commit', 'flatjax', 'jax']
    """
    return {"flatjax": _version.__version__, "jax": jax.__version__, "commit": _commit()}


@functools.cache
def _commit() -> str | None:
    """The commit of this file's repository; it ends in "-dirty" if tracked files were changed."""
    git = lambda *command: subprocess.run(
        ["git", "-C", str(_ROOT), *command], capture_output=True, text=True, check=False
    )
    try:
        # A copy of this file may lie in the repository of another project.
        if git("ls-files", "--error-unmatch", __file__).returncode != 0:
            return None
        return git("describe", "--always", "--dirty", "--exclude", "*").stdout.strip() or None
    except OSError:  # there is no git
        return None
