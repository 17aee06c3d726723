"""Tests that hold a claim of a page are marked with the page and words of the claim.

Search for `claim("docs/choosing.md"` to find the tests of a page.
"""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def claims_in(source):
    """The arguments of all marks `claim` in the source of a test module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "claim":
            assert ast.unparse(node.func) == "pytest.mark.claim"
            yield tuple(ast.literal_eval(argument) for argument in node.args)


MODULES = {
    path.stem: path
    for path in sorted((ROOT / "tests").glob("test_*.py"))
    if "mark.claim(" in path.read_text()
}
plain = lambda text: " ".join(text.split())


@functools.cache
def claims_of(module):
    """The claims of a test module; only the tests below read them, not every process."""
    return list(claims_in(MODULES[module].read_text()))


@pytest.mark.parametrize("module", MODULES)
def test_claims_are_on_their_pages(module):
    for page, words in claims_of(module):
        assert (ROOT / page).is_file(), f"{module} claims to hold {page}, which does not exist"
        assert plain(words) in plain((ROOT / page).read_text()), (
            f"{module} claims to hold {words!r}, which {page} does not say: quote what it says now"
        )


def test_claims_are_found():
    source = '@pytest.mark.claim("README.md", "words")\ndef test(): pass'
    assert list(claims_in(source)) == [("README.md", "words")]
    pages = {page for module in MODULES for page, _ in claims_of(module)}
    assert {"README.md", "docs/choosing.md", "docs/optax.md", "docs/faq.md"} <= pages
