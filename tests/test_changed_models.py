"""A model of the user whose code changes between two commands: it is noticed, and nothing else."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import pytest
from fast import slow
from test_run_directory import CONFIG as SMALL

from experiments.__main__ import main
from experiments.engine.train import load_run
from experiments.report import store
from flatjax import models
from flatjax.models._fingerprint import differs, fingerprint_of
from flatjax.models._network import make_network

ROOT = pathlib.Path(__file__).parents[1]

CODE = """
import flax.linen as nn
import jax
import jax.numpy as jnp

TABLE = jnp.arange(8) / 8


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -5.0, 5.0),))


@jax.jit
def shifted(x):
    return x + TABLE


class ChangedNet(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train):
        x = clipped(nn.Dense(8)(x.reshape(len(x), -1)))
        x = nn.relu(shifted(x))
        x = nn.Dropout(0.25, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)
"""

# What counts: edits of layers, activations, rates, constants, initial weights and gradients.
EDITS = {
    "activation": ("nn.relu(", "nn.tanh("),
    "rate": ("Dropout(0.25", "Dropout(0.5"),
    "width": ("Dense(8)", "Dense(1)"),
    "constant": ("jnp.arange(8) / 8", "jnp.arange(8) / 9"),
    "gradient": ("-5.0, 5.0", "-4.0, 4.0"),
    "initial weights": ("Dense(8)", "Dense(8, bias_init=nn.initializers.ones)"),
    "name": ("Dense(8)", 'Dense(8, name="first")'),
    "order": ("nn.relu(shifted(x))", "shifted(nn.relu(x))"),
}
IN_TRAINING_ONLY = {"rate", "gradient", "initial weights"}
HARMLESS = {
    "comment": ("class ChangedNet", "# A comment.\n\n\nclass ChangedNet"),
    "name of a function": ("shifted(", "moved("),
    "name of a variable": ("x = nn.relu(shifted(x))", "y = shifted(x)\n        x = nn.relu(y)"),
    "another network": (
        "class ChangedNet",
        "class Other(nn.Module):\n    pass\n\n\nclass ChangedNet",
    ),
}
MODEL = "changed_net:ChangedNet"
CONFIG = SMALL.changed(model=MODEL, epochs=2)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes the module, changed in one place, as the next process would import it."""
    folder = tmp_path_factory.mktemp("code")

    def write(before="", after=""):
        assert before in CODE
        (folder / "changed_net.py").write_text(CODE.replace(before, after) if before else CODE)
        sys.modules.pop("changed_net", None)
        importlib.invalidate_caches()

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        write()
        yield write
    sys.modules.pop("changed_net", None)


@pytest.fixture(scope="module")
def finished(write, tmp_path_factory):
    """A complete run of the model as it is written first."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(command(path)) == 0
    return path


@pytest.fixture
def run(finished, write, tmp_path):
    """A copy of the run, which a test may change."""
    write()
    return shutil.copytree(finished, tmp_path / "run")


def command(path):
    return ["train", "--no-progress", "--out", str(path), *CONFIG.to_arguments()]


def fingerprint(training=True):
    network = make_network(MODEL, (), 10, (2, 2, 1))
    return fingerprint_of(network, (2, 2, 1), "float32", training=training)


def test_edits_change_the_fingerprint_and_nothing_else_does(write):
    write()
    first, predictions = fingerprint(), fingerprint(training=False)
    assert first.keys() == {"digest", "jax", "flax", "flatjax"}
    for name, edit in EDITS.items():
        write(*edit)
        assert differs(first, fingerprint()), name
        assert differs(predictions, fingerprint(training=False)) == (name not in IN_TRAINING_ONLY)
    for name, edit in HARMLESS.items():
        write(*edit)
        assert fingerprint() == first, name
    write(*EDITS["activation"])
    assert not differs(first | {"jax": "0.0.1"}, fingerprint())


def test_fingerprints_are_the_same_in_every_process(write):
    write()
    code = (
        "from flatjax.models._fingerprint import fingerprint_of as f\n"
        "from flatjax.models._network import make_network\n"
        f"network = make_network({MODEL!r}, (), 10, (2, 2, 1))\n"
        "print(f(network, (2, 2, 1), 'float32', training=True)['digest'])"
    )
    flags = "--xla_force_host_platform_device_count=3"
    more = {"PYTHONHASHSEED": "7", "XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}:{sys.path[0]}"}
    found = subprocess.check_output([sys.executable, "-c", code], env=os.environ | more, text=True)
    assert found.strip() == fingerprint()["digest"]


def test_a_complete_run_says_that_nothing_was_trained(run, capsys):
    capsys.readouterr()
    before = (run / "result.json").read_bytes()
    assert main(command(run)) == 0
    said, error = capsys.readouterr()
    assert said.splitlines()[0] == f"{run} holds this run, which is complete: nothing was trained."
    assert main([*command(run), "--json"]) == 0
    said, error = capsys.readouterr()
    assert json.loads(said)["test_error"] == json.loads(before)["test_error"]
    assert error == f"{run} holds this run, which is complete: nothing was trained.\n"
    assert (run / "result.json").read_bytes() == before


@pytest.mark.parametrize("edit", ["activation", slow("rate")])
def test_a_changed_model_is_refused_like_changed_data(edit, run, write, capsys):
    capsys.readouterr()
    write(*EDITS[edit])
    for place in ("result.json", "checkpoints/4"):
        assert main(command(run)) == 1
        error = capsys.readouterr().err
        assert f"{run}/{place} holds a run of an earlier {MODEL}" in error
        assert "network.digest: wanted" in error
        assert "--out DIRECTORY" in error
        (run / "result.json").unlink(missing_ok=True)
    assert main(command(run.with_name("other"))) == 0
    write()
    assert main(command(run)) == 0


@pytest.mark.slow
def test_runs_without_a_fingerprint_are_continued(run, write, capsys):
    """As earlier versions wrote them; their networks are not compared."""
    result = store.read_json(run / "result.json")
    del result["network"]
    store.write_json(run / "result.json", result)
    path = run / "checkpoints" / "4" / "about" / "metadata"
    about = store.unsealed(json.loads(path.read_text()), "about")
    del about["network"]
    path.write_text(json.dumps(store.sealed(about)))
    write(*EDITS["rate"])
    assert main(command(run)) == 0
    (run / "result.json").unlink()
    assert main(command(run)) == 0


def test_built_in_networks_have_no_fingerprint(tmp_path):
    assert main([*command(tmp_path / "run"), "--model", "mlp"]) == 0
    assert "network" not in store.read_json(tmp_path / "run" / "result.json")


@pytest.mark.slow
def test_load_and_flatness_warn_of_a_changed_model(run, write, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load(run, trust=True)
        load_run(run, trust=True)
    write(*EDITS["activation"])
    with pytest.warns(UserWarning, match=f"{run}/model: the code of {MODEL} has changed since"):
        models.load(run, trust=True)
    with pytest.warns(UserWarning, match=f"{run}: the code of {MODEL} has changed since"):
        load_run(run, trust=True)
    out = ["--level", "quick", "--no-progress", "--out", str(run / "flatness")]
    with pytest.warns(UserWarning, match=f"the code of {MODEL} has changed since"):
        assert main(["flatness", str(run), "--trust", *out]) == 0
    shutil.rmtree(run / "model")
    with pytest.warns(UserWarning, match=f"{run}: the code of {MODEL} has changed since"):
        assert main(["flatness", str(run), "--trust", *out]) == 0
