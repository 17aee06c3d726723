"""What the README promises: its example runs, its pictures exist, its options are options."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import __main__ as command_line
from flatjax import models

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "experiments" / "RESULTS.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_of_training_runs_and_learns():
    target = jnp.array([1.0, -2.0])
    loss = lambda params, batch: jnp.sum((params["w"] - target) ** 2 * batch)
    steps = 100
    namespace = {
        "init_fn": lambda key: {"w": jax.random.normal(key, (2,))},
        "loss": loss,
        "steps": steps,
        "data": [jnp.ones((3, 1))] * steps,
    }
    exec(EXAMPLES[0], namespace)
    assert namespace["params"]["w"].shape == (2,)
    assert loss(namespace["params"], 1.0) < 1e-2


def test_the_example_of_flatness_runs():
    model = models.create("mlp", 10)
    image, label = jnp.ones((8, 4, 4, 1)), jnp.arange(8)
    params = model.init(jax.random.key(0), image, train=False)["params"]
    batches = [{"image": image, "label": label}]
    namespace = {"jax": jax, "model": model, "params": params, "batches": batches}
    exec(EXAMPLES[1], namespace)
    assert namespace["found"].mean["error"].shape == (2,)
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README", "RESULTS"])
def test_pictures_and_files_exist(text):
    folder = ROOT if text is README else ROOT / "experiments"
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    assert links
    for link in links:
        assert (folder / link).exists(), link


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README", "RESULTS"])
def test_commands_are_commands(text, capsys):
    commands = re.findall(r"-m experiments ([a-z-]+)((?: --[^`\n|]*)?)", text)
    assert commands
    for command, arguments in commands:
        if command == "--help":
            continue
        with pytest.raises(SystemExit) as stop:  # --help stops before anything runs
            command_line.main([command, *arguments.split(), "--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        for flag in re.findall(r"--[a-z-]+", arguments):
            assert flag in shown, flag


def test_a_script_beside_a_clone_finds_the_library(tmp_path):
    (tmp_path / "flatjax").mkdir()
    script = tmp_path / "script.py"
    script.write_text("import flatjax\nprint(flatjax.replicated_sgd.__name__)")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert found.stdout == "replicated_sgd\n"
