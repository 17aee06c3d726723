"""What the pages promise: the reference is complete, tests they name exist, examples run."""

import pathlib
import re
import types

import pytest

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
    for name in (*PACKAGES, "calibration", "communication", "nnx", "schedules"):
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


def test_the_programs_of_the_quickstart_run_and_learn(capsys):
    namespace = {}
    for program in examples("quickstart"):
        exec(program, namespace)
    printed = capsys.readouterr().out
    errors = [float(error) for error in re.findall(r"test error (\S+)", printed)]
    assert len(errors) == 2
    assert max(errors) < 0.09
    assert namespace["found"].mean["error"].shape == (2,)
    assert "Entropy-SGD" in printed


@pytest.mark.claim("docs/diloco.md", "It prints a loss below 0.01")
def test_the_example_of_diloco_runs_and_learns(capsys):
    (program,) = examples("diloco")
    program = program.replace('jax.config.update("jax_num_cpu_devices", 8)', "")
    exec(program, {})
    assert float(capsys.readouterr().out.split()[-1]) < 0.01


@pytest.mark.claim("docs/how_flat.md", "The second one begins with a sentence")
def test_the_program_on_how_flat_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    (program,) = examples("how_flat")
    namespace = {}
    exec(program, namespace)
    printed = capsys.readouterr().out
    assert "batches of 16 is flatter than batches of 512 by" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert (tmp_path / "which_is_flatter.png").stat().st_size > 1000
    back = flatjax.flatness.Report.load(tmp_path / "batches_of_16.json")
    assert str(back) == str(namespace["reports"]["batches of 16"])
