"""What the pages promise: the reference is complete, tests they name exist, examples run."""

import pathlib
import re
import types

import jax
import jax.numpy as jnp

import flatjax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {page.stem: page.read_text() for page in (ROOT / "docs").glob("*.md")}
PACKAGES = ("batch_stats", "committee", "data", "flatness", "gaussian_mixture", "models")


def test_the_reference_is_complete():
    page = (ROOT / "docs" / "api" / "flatjax.md").read_text()
    documented = re.findall(r"^\.\. auto(?:function|class|data):: (\w+)$", page, re.MULTILINE)
    is_module = lambda name: isinstance(getattr(flatjax, name), types.ModuleType)
    assert sorted(documented) == sorted(name for name in flatjax.__all__ if not is_module(name))
    index = (ROOT / "docs" / "api" / "index.md").read_text()
    for name in (*PACKAGES, "calibration", "communication", "schedules"):
        assert f"({name}.md)" in index
        page = (ROOT / "docs" / "api" / f"{name}.md").read_text()
        assert f".. automodule:: flatjax.{name}\n   :members:" in page


def test_named_tests_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    found = 0
    for text in PAGES.values():
        for file, name in re.findall(r"(tests/test_\w+\.py)::(test_\w+)", text):
            assert f"def {name}(" in (ROOT / file).read_text(), name
        for name in re.findall(r"[`:](test_\w+)`", text):
            assert f"def {name}(" in tests, name
            found += 1
    assert found > 20


def examples(page):
    """Blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_examples_of_the_quickstart_run_and_learn():
    target = jnp.array([1.0, -2.0])
    loss = lambda params, batch: jnp.mean(jnp.sum((params["w"] - target * batch) ** 2, axis=-1))
    init_fn = lambda key: {"w": jax.random.normal(key, (2,))}
    steps = 150
    namespace = {"init_fn": init_fn, "loss": loss, "steps": steps}
    replicated, entropic, measured = examples("quickstart")
    namespace["data"] = [jnp.ones((3, 4, 1))] * steps
    exec(replicated, namespace)
    assert loss(namespace["params"], jnp.ones((1, 1))) < 1e-2
    namespace |= {"params": init_fn(jax.random.key(1)), "data": [jnp.ones((4, 1))] * steps}
    exec(entropic, namespace)
    assert loss(namespace["params"], jnp.ones((1, 1))) < 1e-2
    namespace["eval_fn"] = lambda params, batch: {"error": loss(params, batch), "count": 1}
    namespace["batches"] = [jnp.ones((4, 1))]
    exec(measured, namespace)
    assert namespace["found"].mean["error"].shape == (2,)


def test_the_example_of_diloco_runs_and_learns(capsys):
    (program,) = examples("diloco")
    program = program.replace('jax.config.update("jax_num_cpu_devices", 8)', "")
    exec(program, {})
    assert float(capsys.readouterr().out.split()[-1]) < 0.01
