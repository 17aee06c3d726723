"""A new user's first hour, from a wheel to predictions, in one environment of its own."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import PIL.Image
import pytest

pytestmark = pytest.mark.slow  # a wheel is built, and programs start without what tests compiled

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = ["train", "--dataset", "folder,test=0.5:ships", "--epochs", "4", "--batch-size", "10"]
TRAIN += ["--validation", "0", "--local-energy-samples", "2", "--local-energy-examples", "20"]
TRAIN += ["--no-progress"]

# The program of the page, with fewer steps.
SHORTER = {"10), 300": "10), 60"}

COMPARE = """
import jax.numpy as jnp
from flatjax import data, flatness, models

train = data.from_folder("ships", test=0.5).train
batches = [(jnp.asarray(train.image[i::10]), jnp.asarray(train.label[i::10])) for i in range(10)]


def report(run):
    predict, params, state = models.load(run)
    eval_fn = flatness.classification(predict)
    return flatness.report(eval_fn, params, batches, 0, state, level="quick")


reports = {run: report(run) for run in ("runs/sgd", "runs/rsgd")}
print(reports["runs/rsgd"])
print(flatness.compare(reports))
"""

PREDICT = """
import jax
import numpy as np
import PIL.Image
from flatjax import models

predict, params, state = models.load("runs/rsgd")
image = np.asarray(PIL.Image.open("ship.png"))
logits = jax.jit(predict)(params, state, image[None])
print("predicted", predict.class_names[int(logits.argmax())])
"""


def ship(draw, is_red):
    """A noisy image, red or blue."""
    colour = [200, 0, 0] if is_red else [0, 0, 200]
    return PIL.Image.fromarray((draw.integers(50, size=(8, 6, 3)) + colour).astype(np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, the experiments of the clone, and an environment with the wheel."""
    place = tmp_path_factory.mktemp("hour")
    draw = np.random.default_rng(0)
    for name in ("blue", "red"):
        (place / "ships" / name).mkdir(parents=True)
        for number in range(40):
            ship(draw, name == "red").save(place / "ships" / name / f"{number}.png")
    ship(draw, True).save(place / "ship.png")
    (place / "experiments").symlink_to(ROOT / "experiments")
    pip = [sys.executable, "-m", "pip"]
    wheel = [*pip, "wheel", "-q", "--no-deps", "-w", place, copy(place)]
    done = subprocess.run(wheel, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("needs a package index, for the newest setuptools")
    assert done.returncode == 0, done.stderr
    (built,) = place.glob("flatjax-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    (packages,) = (place / "venv").glob("lib/python3*/site-packages")
    install = [*pip, "install", "-q", "--no-deps", "--target", packages, built]
    subprocess.run(install, check=True, capture_output=True)
    # Everything else is that of this environment; the wheel's flatjax comes before it.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place


def copy(place):
    """The sources of the package, away from the clone, into which setuptools would write."""
    source = place / "source"
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flatjax", source / "flatjax", ignore=ignore)
    return source


def run(place, *arguments):
    """Runs the environment's Python; returns what it printed."""
    command = [place / "venv" / "bin" / "python", *arguments]
    options = {"cwd": place, "capture_output": True, "text": True}
    done = subprocess.run(command, env=environment(place), **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def environment(place):
    """Variables of the new process: nothing that leads back to the clone.

    XLA's flags stay, so that programs compile quickly.
    """
    keep = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return keep | {"FLATJAX_CACHE_DIR": str(place / "cache")}


def shortened(program):
    """A program with fewer steps."""
    for old, new in SHORTER.items():
        assert program.count(old) == 1
        program = program.replace(old, new)
    return program


def test_the_first_hour(place):
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL
    )
    program = shortened("\n".join(blocks))
    shown = run(place, "-c", program + "\nprint(flatjax.__file__)")
    assert shown.count("test error") == 2
    assert str(place) in shown

    for algorithm in ("sgd", "rsgd"):
        out = ["--algorithm", algorithm, "--out", f"runs/{algorithm}"]
        out += ["--replicas", "2"] if algorithm == "rsgd" else []
        shown = run(place, "-m", "experiments", *TRAIN, *out)
        assert f"The model is in runs/{algorithm}/model." in shown
    shown = run(place, "-c", COMPARE + PREDICT)
    assert "runs/rsgd is flatter than runs/sgd by" in " ".join(shown.split())
    assert shown.endswith("predicted red\n")
