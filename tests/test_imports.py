"""Which packages import which: arrows that would tie them to each other are refused."""

import ast
import pathlib

import pytest

import flatjax

ROOT = pathlib.Path(flatjax.__file__).parent
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
ALLOWED = {
    "flatness": {"_sampling"},
    "gaussian_mixture": {"_sampling"},
    "committee": {"_sampling"},
}


def packages_imported(path):
    """The packages of flatjax that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from (part[1] for part in parts if part[0] == "flatjax" and part[1] in PACKAGES)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_no_other_but_what_it_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        others = set(packages_imported(path)) - {package}
        assert others <= ALLOWED.get(package, set()), path
