"""The reference has a page for every public name, with an example, links and numbered equations."""

import ast
import pathlib
import re
import runpy

import pytest
from prose import comments, documented
from test_public_face import MODULES, PACKAGES

ROOT = pathlib.Path(__file__).parents[1]
API = ROOT / "docs" / "api"
REFERENCE = runpy.run_path(str(API.parent / "reference.py"))
PUBLIC = REFERENCE["public"]()
EQUATION = re.compile(r"(?m)^( *)\.\. math::.*\n?(?:\1 +.*\n?|\s*\n)*")
MATHEMATICAL = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "flatjax").rglob("*.py"))
    if ".. math::" in (ast.get_docstring(ast.parse(path.read_text())) or "")
]
# Names of types, a dictionary, and constructors with preset options: the page of the class or
# function that they stand for has the example and the links.
WITHOUT = {
    "flatjax.EvalFn",
    "flatjax.flatness.priors.Prior",
    "flatjax.models.CONSTRUCTORS",
    "flatjax.models.densenet121",
    "flatjax.models.pyramidnet272",
    "flatjax.models.resnet18",
    "flatjax.models.resnet50",
    "flatjax.models.resnet110",
}


def tables():
    """Names in the tables of the reference, as a list."""
    found = []
    for page in sorted(API.glob("*.md")):
        module, is_table = None, False
        for line in page.read_text().splitlines():
            if line.startswith(".. "):
                is_table = line.startswith(".. autosummary::")
                if named := re.match(r"\.\. currentmodule:: (\S+)", line):
                    module = named[1]
            elif is_table and (named := re.fullmatch(r"   (\w+)", line)):
                found.append(f"{module}.{named[1]}")
    return found


def test_every_public_name_is_in_one_table():
    assert sorted(tables()) == sorted(PUBLIC)
    assert sorted(REFERENCE["MODULES"]) == sorted(f"flatjax{one}" for one in PACKAGES + MODULES)
    index = (API / "index.md").read_text()
    for page in API.glob("*.md"):
        assert page.stem == "index" or f"({page.name})" in index


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT))
def test_pages_have_an_example(name):
    _, lines = REFERENCE["example"](name, PUBLIC)
    assert any(line.lstrip().startswith(">>> ") for line in lines)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT))
def test_pages_link_related_names(name):
    links = REFERENCE["neighbours"](name, PUBLIC)
    module = name.rsplit(".", 1)[0]
    unknown = [link for link in links if not {link, f"{module}.{link}"} & {*PUBLIC, "flatjax"}]
    assert links
    assert not unknown
    assert name.rsplit(".", 1)[1] not in links


def test_results_and_aliases_are_described():
    lines = []
    REFERENCE["complete"](None, "class", "flatjax.flatness.Trace", None, None, lines)
    assert "  Returned by `trace`." in lines
    assert any("trace(" in line for line in lines)
    for name in WITHOUT - {one for one in WITHOUT if hasattr(PUBLIC[one], "func")}:
        lines = ["Alias of another type."]
        REFERENCE["complete"](None, "data", name, PUBLIC[name], None, lines)
        assert lines != ["Alias of another type."]
    assert "flatjax._entropy_sgd" in REFERENCE["equations"]().values()


def numbered(source):
    """Equations of a file's docstring, their numbers, and the numbers that the rest names."""
    (_, text), *others = documented(source)
    equations = [match[0] for match in EQUATION.finditer(text)]
    tags = re.findall(r"\\tag\{(\d+)\}", "".join(equations))
    rest = "\n".join([*(EQUATION.sub("", other) for _, other in others), *comments(source)])
    return equations, tags, re.findall(r"(?<!\w)\((\d+)\)", rest)


@pytest.mark.parametrize("path", MATHEMATICAL)
def test_equations_of_a_file_have_numbers_that_its_code_names(path):
    equations, tags, named = numbered((ROOT / path).read_text())
    assert not [equation for equation in equations if r"\tag{" not in equation]
    assert tags == [str(number) for number in range(1, len(tags) + 1)]
    assert not set(tags) - set(named)
    # In several lines, Sphinx allows a number only where it leaves the environment to the equation.
    assert all(":nowrap:" in equation for equation in equations if r"\\" in equation)


def test_equations_are_found_with_the_numbers_that_the_code_names():
    text = "A file.\n\n.. math:: a \\tag{1}\n\n.. math::\n  b\n\nText (2).\n"
    source = f"r'''{text}'''\nx = f(3)  # eq. (1)\n"
    equations, tags, named = numbered(source)
    assert [equation.split() for equation in equations] == [
        ["..", "math::", "a", r"\tag{1}"],
        ["..", "math::", "b"],
    ]
    assert tags == named == ["1"]
