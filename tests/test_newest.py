"""The newest jax and flax, on a newer Python than this one, where such a one is at hand."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# What meets jax, optax and flax most closely.
MODULES = ["compiler", "coupling", "contract", "communication", "placement", "mesh", "experiments"]


def runs(path):
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


def newer_python():
    """FLATJAX_NEWER_PYTHON, or the newest on the path that runs; None if there is none."""
    names = [f"python3.{minor}" for minor in range(14, sys.version_info.minor, -1)]
    paths = [os.environ.get("FLATJAX_NEWER_PYTHON"), *map(shutil.which, names)]
    return next((path for path in paths if path and runs(path)), None)


@pytest.mark.slow
def test_the_newest_jax_passes(tmp_path):
    python = newer_python()
    if python is None:
        pytest.skip(f"no Python newer than 3.{sys.version_info.minor} is installed")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    new = tmp_path / "venv" / "bin" / "python"
    subprocess.run([new, "-m", "pip", "install", "-q", f"{ROOT}[test]"], check=True)
    files = [f"tests/test_{name}.py" for name in MODULES]
    done = subprocess.run(
        [new, "-m", "pytest", "-q", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
