"""Type hints hold: what `py.typed` promises to those who check their own code."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # mypy starts without its cache
ROOT = pathlib.Path(__file__).parents[1]


def test_the_library_passes_mypy():
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_numbers_and_arrays_are_taken_where_either_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import jax.numpy as jnp\n"
        "from flatjax import couple_replicas, gaussian_mixture, flatness, schedules\n"
        "gaussian_mixture.hebb_reference(alpha=jnp.linspace(1, 2, 3), delta=0.5)\n"
        "couple_replicas(schedules.scoping(1e-3, 100), replica_axis=0, mask={'w': True})\n"
        "couple_replicas('0.1', replica_axis='first')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", script]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.count("error") == 2, found.stdout
    assert 'script.py:5: error: Argument "replica_axis"' in found.stdout
