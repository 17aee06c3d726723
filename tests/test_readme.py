"""What the README promises: its example runs, its pictures exist, its options are options."""

import pathlib
import re
import subprocess
import sys

import pytest
from fast import slow

import flatjax
from experiments import __main__ as command_line

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "experiments" / "RESULTS.md"
SHEET = ROOT / "docs" / "cheat_sheet.md"
PAGES = [ROOT / "README.md", SHEET, RESULTS, *sorted((ROOT / "docs" / "results").glob("*.md"))]


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_example(steps=300):
    """The example of training, of another length."""
    program = "".join(EXAMPLES[:2])
    assert program.count("steps = 300") == 1
    namespace = {}
    exec(program.replace("steps = 300", f"steps = {steps}"), namespace)
    return namespace


@pytest.mark.slow
def test_the_example_of_training_ends_in_one_good_network():
    """Its center is at most 1 point worse than the mean of its replicas.

    `test_meeting` trains this network for all lengths, rates and seeds, several in one program.
    """
    namespace = run_example()
    exec(EXAMPLES[2].split("batches =")[0], namespace)
    held_out = [(namespace["x"][1297:], namespace["y"][1297:])]
    found = flatjax.check_collapsed(namespace["eval_fn"], namespace["replicas"], held_out)
    assert found.has_met
    assert found.center < 0.09


@pytest.mark.slow
def test_the_example_of_flatness_runs(capsys):
    namespace = run_example(steps=20)
    exec(EXAMPLES[2], namespace)
    shown = capsys.readouterr().out
    assert "local energy" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_and_files_exist(page):
    links = re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", page.read_text())
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


OTHER_PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page != SHEET and "-m experiments " in page.read_text()
]


@pytest.mark.parametrize("page", [*PAGES, *map(slow, OTHER_PAGES)], ids=lambda page: page.stem)
def test_commands_are_commands(page, capsys):
    text = page.read_text().replace("\\\n", " ")
    commands = re.findall(r"-m experiments ([a-z-]+)((?: --[^`\n|#]*)?)", text)
    assert commands or page.stem in ("RESULTS", "speed")  # which name benchmarks or no commands
    for command, arguments in commands:
        if command == "--help" or "--resume" in arguments:  # which reads a run
            continue
        with pytest.raises(SystemExit) as stop:  # --help stops before anything runs
            command_line.main([command, *arguments.split(), "--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        for flag in re.findall(r"--[a-z-]+", arguments):
            assert flag in shown, flag


@pytest.mark.slow
def test_a_script_beside_a_clone_finds_the_library(tmp_path):
    (tmp_path / "flatjax").mkdir()
    script = tmp_path / "script.py"
    script.write_text("import flatjax\nprint(flatjax.replicated_sgd.__name__)")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert found.stdout == "replicated_sgd\n"
