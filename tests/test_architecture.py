"""The house has no circles, and its arrows run one way; `python tests/architecture.py` shows it."""

import subprocess
import sys

import architecture
import pytest
from fast import slow

CORE = "flatjax"
# They build on the core and on what is below them, and know nothing of each other.
THEORIES = {"flatjax.committee", "flatjax.flatness", "flatjax.gaussian_mixture"}
PLAIN = {"flatjax.data", "flatjax.models"}
LIBRARY = {room for room in map(architecture.room_of, architecture.modules()) if CORE in room}
# Room -> the rooms that it must not import.
FORBIDDEN = {
    CORE: LIBRARY - {CORE, "flatjax._cpu"},
    "flatjax._cpu": LIBRARY - {"flatjax._cpu"},
    "flatjax._sampling": THEORIES | PLAIN,
    **{room: THEORIES - {room} for room in THEORIES},
    **{room: THEORIES | PLAIN - {room} for room in PLAIN},
    "experiments.report": {"experiments.engine", "experiments.studies"},
    "experiments.engine": {"experiments.studies"},
    "experiments.studies": {"experiments.configs", "experiments.commands"},
}


@pytest.fixture(scope="module")
def arrows():
    return architecture.arrows_of(architecture.imports())


def test_there_is_no_circle_of_modules(arrows):
    assert architecture.circles(arrows) == []


def test_there_is_no_circle_of_rooms(arrows):
    assert architecture.circles(architecture.between_rooms(arrows)) == []


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_forbidden_arrows(room):
    own = [one for one in architecture.imports() if architecture.room_of(one.source) == room]
    assert [one for one in own if architecture.room_of(one.target) in FORBIDDEN[room]] == []


def test_the_library_knows_no_experiments():
    found = [one for one in architecture.imports() if CORE in one.source]
    assert [one for one in found if "experiments" in one.target] == []


def test_configurations_import_descriptions_only():
    allowed = {"experiments.engine.config", "experiments.studies.spaces"}
    for one in architecture.imports():
        if architecture.room_of(one.source) == "experiments.configs":
            is_data = architecture.room_of(one.target) == "experiments.configs"
            is_description = one.target.endswith(".description")
            assert is_data or is_description or one.target in allowed, one


def test_descriptions_run_nothing(arrows):
    """They reach other descriptions, what descriptions share, and the settings of a run."""
    names = ("config", "settings", "algorithm_settings", "checks")
    shared = {f"experiments.engine.{name}" for name in names}
    shared |= {"experiments.studies.spaces", "experiments.studies.study"}
    for module in arrows:
        if module.endswith(".description"):
            for target in architecture.reachable(arrows, module):
                assert target.endswith(".description") or target in shared, (module, target)


def test_circles_and_floors_are_found():
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert architecture.circles(arrows) == [["b", "c"]]
    assert architecture.floors(arrows) == {"a": 3, "b": 2, "c": 2, "d": 1}


def test_the_plan_has_every_room():
    shown = architecture.plan()
    assert all(f"  {architecture.room_of(module)}, " in shown for module in architecture.modules())
    assert "experiments.studies.first_contest.run, " in architecture.plan("experiments.studies")


# What is slow to import, or not installed everywhere, is imported where it is used.
IMPORTS = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys({blocked}, None)
import experiments
for room in ("report", "engine", "studies", "configs"):
    package = importlib.import_module("experiments." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
COST_MODEL = """
import sys
sys.modules |= dict.fromkeys({blocked}, None)
from experiments.__main__ import main
sys.exit(main(["cost-model", "--out", {out!r}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "blocked"),
    [
        (IMPORTS, ["matplotlib", "sklearn", "tensorflow_datasets", "tyro"]),
        slow(COST_MODEL, ["sklearn", "tensorflow_datasets"]),
    ],
    ids=["all but commands", "cost-model"],
)
def test_experiments_do_without(script, blocked, tmp_path):
    script = script.format(blocked=blocked, out=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=architecture.ROOT)
