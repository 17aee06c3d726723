"""What is public: `__all__` of the packages, and nothing else by a public name."""

import importlib
import inspect
import pkgutil
import re
import types

import pytest

import flatjax

PACKAGES = ("", ".committee", ".data", ".flatness", ".gaussian_mixture", ".models")
MODULES = (
    ".batch_stats",
    ".calibration",
    ".communication",
    ".flatness.priors",
    ".gaussian_mixture.losses",
    ".gaussian_mixture.sampling",
    ".gaussian_mixture.simulate",
    ".lora",
    ".nnx",
    ".schedules",
)


def is_public(name):
    return not name.startswith("_")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_show_what_they_export(name):
    package = importlib.import_module(f"flatjax{name}")
    # Packages and modules within appear once somebody has imported them.
    inner = {one.name for one in pkgutil.iter_modules(package.__path__) if is_public(one.name)}
    shown = set(filter(is_public, dir(package)))
    assert shown - inner == set(package.__all__) - inner - {"__version__"}
    assert {f"{name}.{one}" for one in inner} <= {*PACKAGES, *MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_export(name):
    module = importlib.import_module(f"flatjax{name}")
    own = {
        key
        for key, value in vars(module).items()
        if is_public(key) and getattr(value, "__module__", None) == module.__name__
    }
    assert own <= set(module.__all__)
    assert all(hasattr(module, key) for key in module.__all__)


def test_no_module_hides_behind_a_function():
    """`import flatjax.x as x` gives a module or fails, never a function of that name."""
    for module in pkgutil.walk_packages(flatjax.__path__, "flatjax."):
        if all(map(is_public, module.name.split("."))):
            parent, name = module.name.rsplit(".", 1)
            shown = getattr(importlib.import_module(parent), name, None)
            assert shown is None or isinstance(shown, types.ModuleType), module.name


@pytest.mark.parametrize("name", ["entropy_sgd", "esgd", "parle", "replicated_sgd"])
def test_help_is_short_and_whole(name):
    """Type hints are names, and no argument is described on another page only."""
    function = getattr(flatjax, name)
    assert len(str(inspect.signature(function))) < 1100
    arguments = function.__doc__.split("Args:\n")[1].split("Returns:\n")[0]
    assert re.findall(r"\w+: see `.*", arguments) == []
