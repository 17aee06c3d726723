"""Prints what imports what in the library and the experiments, as a plan of rooms and floors.

    python tests/architecture.py                        # the rooms
    python tests/architecture.py experiments.studies    # the modules of a room

A room is a package of flatjax or of experiments; the modules right in flatjax are a room too, the
core, and those right in experiments another. A room stands one floor above the highest one that it
imports. A star marks imports that are made inside functions only.
"""

import ast
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("flatjax", "experiments")
Arrows = Mapping[str, set[str]]


@dataclasses.dataclass(frozen=True)
class Import:
    """An import of one module of this repository by another.

    Attributes:
      source: the module that imports.
      target: the module that is imported; a package stands for its `__init__`.
      is_inside: whether it is made inside a function.
    """

    source: str
    target: str
    is_inside: bool


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """The modules of the repository and their files."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports() -> list[Import]:
    """All imports among the modules."""
    known = modules()
    return [
        Import(source, target, is_inside)
        for source, path in known.items()
        for node, is_inside in _statements(ast.parse(path.read_text(encoding="utf-8")))
        for target in _targets(node, known)
        if target != source
    ]


def _statements(node: ast.AST, is_inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """The import statements in a piece of code."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, is_inside
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _statements(child, is_inside or is_function)


def _targets(node, known) -> set[str]:
    """What a statement imports; `from package import name` is the module of that name, if any."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in known}
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in known else node.module for name in names} & known.keys()


@functools.cache
def room_of(module: str) -> str:
    """The room of a module."""
    first_two = module.split(".")[:2]
    return ".".join(first_two) if ROOT.joinpath(*first_two).is_dir() else first_two[0]


def arrows_of(found: list[Import]) -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    arrows: dict[str, set[str]] = {module: set() for module in modules()}
    for one in found:
        arrows[one.source].add(one.target)
    return arrows


def between_rooms(arrows: Arrows) -> dict[str, set[str]]:
    """Room -> the other rooms that its modules import."""
    rooms: dict[str, set[str]] = {room_of(module): set() for module in arrows}
    for source, targets in arrows.items():
        rooms[room_of(source)] |= {room_of(target) for target in targets} - {room_of(source)}
    return rooms


def reachable(arrows: Arrows, start: str) -> set[str]:
    """What can be reached along arrows."""
    found: set[str] = set()
    waiting = list(arrows[start])
    while waiting:
        if (node := waiting.pop()) not in found:
            found.add(node)
            waiting += arrows[node]
    return found


def circles(arrows: Arrows) -> list[list[str]]:
    """The largest groups whose members all reach each other."""
    reached = {node: reachable(arrows, node) for node in arrows}
    both = lambda a, b: b in reached[a] and a in reached[b]
    groups = {
        tuple(sorted(other for other in arrows if both(node, other)))
        for node in arrows
        if both(node, node)
    }
    return [list(group) for group in sorted(groups)]


def floors(arrows: Arrows) -> dict[str, int]:
    """Node -> its floor; the members of a circle stand on one."""
    reached = {node: reachable(arrows, node) for node in arrows}
    found: dict[str, int] = {}

    def floor(node):
        if node not in found:
            below = [other for other in reached[node] if node not in reached[other]]
            found[node] = 1 + max(map(floor, below), default=0)
        return found[node]

    return {node: floor(node) for node in arrows}


def plan(room: str | None = None) -> str:
    """The plan of all rooms, or of the modules of one."""
    found = [one for one in imports() if room in (None, room_of(one.source))]
    if room is None:
        return draw(between_rooms(arrows_of(found)), found, room_of)
    own = [one for one in found if room_of(one.target) == room]
    arrows = {module: to for module, to in arrows_of(own).items() if room_of(module) == room}
    return draw(arrows, own, str)


def draw(arrows: Arrows, found: list[Import], name: Callable[[str], str]) -> str:
    """Nodes by floor, the highest first, each with its lines and arrows; circles above.

    Args:
      arrows: of the nodes.
      found: the imports that they stand for.
      name: module -> its node.
    """
    at_once = {(name(one.source), name(one.target)) for one in found if not one.is_inside}
    lengths = dict.fromkeys(arrows, 0)
    for module, path in modules().items():
        if name(module) in lengths:
            lengths[name(module)] += len(path.read_text(encoding="utf-8").splitlines())
    at = floors(arrows)
    lines = [f"circle: {', '.join(circle)}" for circle in circles(arrows)]
    for floor in range(max(at.values()), 0, -1):
        lines.append(f"floor {floor}")
        for node in sorted(node for node in arrows if at[node] == floor):
            mark = lambda target, node=node: "" if (node, target) in at_once else "*"
            targets = ", ".join(target + mark(target) for target in sorted(arrows[node]))
            lines.append(f"  {node}, {lengths[node]} lines" + (f" -> {targets}" if targets else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    print(plan(*sys.argv[1:]))
