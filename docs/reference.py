"""What the pages of single names show in addition to a name's own docstring.

A result, such as `LocalEnergy`, is described where it is defined. Its page links the functions that
return it, and shows the example of the first one. The page of a function shows the equations of its
file.
"""

import ast
import importlib
import inspect
import itertools
import re
import sys
import types
from typing import Any

MODULES = (
    "flatjax",
    "flatjax.batch_stats",
    "flatjax.calibration",
    "flatjax.committee",
    "flatjax.communication",
    "flatjax.data",
    "flatjax.flatness",
    "flatjax.flatness.priors",
    "flatjax.gaussian_mixture",
    "flatjax.gaussian_mixture.losses",
    "flatjax.gaussian_mixture.sampling",
    "flatjax.gaussian_mixture.simulate",
    "flatjax.lora",
    "flatjax.models",
    "flatjax.nnx",
    "flatjax.schedules",
)


def public() -> dict[str, Any]:
    """Returns everything public by its full name."""
    found = {}
    for module in MODULES:
        package = importlib.import_module(module)
        for name in package.__all__:
            if not isinstance(value := getattr(package, name), types.ModuleType):
                found[f"{module}.{name}"] = value
    return found


def text_of(value: Any) -> str:
    """Returns the docstring of a function or class, not that of another value's type."""
    is_jitted = hasattr(value, "__wrapped__")
    is_documented = is_jitted or inspect.isroutine(value) or inspect.isclass(value)
    return (inspect.getdoc(value) or "") if is_documented else ""


def section(text: str, title: str) -> list[str]:
    """Returns the lines of one section of a docstring, without their indentation."""
    found = re.search(rf"^{title}:\n((?:  .*\n|\n)*)", text + "\n", re.MULTILINE)
    return [line.removeprefix("  ") for line in found[1].rstrip().split("\n")] if found else []


def returned_by(name: str, names: dict[str, Any]) -> list[str]:
    """Returns the functions of the same module whose results are of this class."""
    module, own = name.rsplit(".", 1)
    found = []
    for other, value in names.items():
        if inspect.isfunction(value) and other.rsplit(".", 1)[0] == module:
            result = str(inspect.signature(value).return_annotation)
            if own in re.findall(r"\w+", result):
                found.append(other.rsplit(".", 1)[1])
    return found


def neighbours(name: str, names: dict[str, Any]) -> list[str]:
    """Returns the names in `See Also`, or else the functions that return a result."""
    text = "\n".join(section(text_of(names[name]), "See Also"))
    named = re.findall(r"`([\w.]+)`", re.sub(r"\([^()]*\)", "", text))  # reasons are in brackets
    if not named and inspect.isclass(names[name]):
        return returned_by(name, names)
    return named


def example(name: str, names: dict[str, Any]) -> tuple[str, list[str]]:
    """Returns whose example a page shows, and the lines of the example.

    A class without an example shows the one of its first neighbour. If there is none, both results
    are empty.
    """
    module, own = name.rsplit(".", 1)
    if lines := section(text_of(names[name]), "Examples?"):
        return own, lines
    for other in neighbours(name, names)[:1] if inspect.isclass(names[name]) else []:
        if lines := section(text_of(names.get(f"{module}.{other}")), "Examples?"):
            return other, lines
    return "", []


def attribute_text(name: str) -> list[str]:
    """Returns the docstring below an assignment, in any module of flatjax."""
    own = name.rsplit(".", 1)[1]
    for module in [value for key, value in sys.modules.items() if key.startswith("flatjax.")]:
        source = inspect.getsource(module)
        if re.search(rf"^{own}(: .*)? = ", source, re.MULTILINE):
            for node, following in itertools.pairwise(ast.parse(source).body):
                targets = getattr(node, "targets", [getattr(node, "target", None)])
                if own in [getattr(target, "id", None) for target in targets]:
                    return inspect.cleandoc(following.value.value).splitlines()
    return []


def equations() -> dict[str, str]:
    """Returns the module whose equations a function follows, for each function."""
    found = {}
    for name, value in public().items():
        own = value.__module__ if inspect.isfunction(value) else MODULES[0]
        if own not in MODULES and ".. math::" in (sys.modules[own].__doc__ or ""):
            found[name] = own
    return found


def complete(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds links and an example to the docstring of a class (a hook of autodoc)."""
    del app, obj, options
    names = public()
    if what == "data" and (text := attribute_text(name)):
        lines[:] = text  # not the docstring of its type
    if what != "class" or name not in names:
        return
    text = text_of(names[name])
    if "See Also:" not in text and (links := neighbours(name, names)):
        lines += ["", "See Also:", f"  Returned by {', '.join(f'`{link}`' for link in links)}.", ""]
    whose, shown = example(name, names)
    if whose and whose != name.rsplit(".", 1)[1]:
        lines += ["", "Example:", f"  As `{whose}` makes it:", "", *(f"  {one}" for one in shown)]
