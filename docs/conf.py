"""Configuration of the documentation: `python -m sphinx -W docs build/docs`."""

import importlib
import pathlib
import re
import shutil
import sys
from typing import Any

from sphinx.application import Sphinx

import flatjax

DOCS = pathlib.Path(__file__).parent
NOTEBOOKS = DOCS.parent / "notebooks"
sys.path.insert(0, str(DOCS))

import hosting  # noqa: E402  (needs the path above)
import reference  # noqa: E402

project = "flatjax"
author = "the flatjax developers"
copyright = f"2026, {author}"  # the name that Sphinx asks for
version = release = flatjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs are those stored in the notebooks
nb_merge_streams = True

# `name` in a docstring is code, and a link where it names something documented.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature and the text have them

# One page for each public name, made from the tables of docs/api.
templates_path = ["_templates"]
autosummary_context = {"equations": reference.equations()}
# File systems that ignore case would mix up the pages of `Report` and `report`.
autosummary_filename_map = {
    name: f"{name}-class" for name in reference.public() if name.rsplit(".", 1)[1][0].isupper()
}
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Formulas are shown without a network: the site holds its own copy of MathJax, one file.
MATHJAX = importlib.import_module("sphinx-mathjax-offline").__path__[0]
mathjax_path = "tex-svg.js"
html_static_path = [f"{MATHJAX}/static/mathjax/{mathjax_path}"]

html_theme = "furo"
html_title = "flatjax"
html_copy_source = False


def copy_notebooks(app: Sphinx) -> None:
    """Puts the executed notebooks where Sphinx looks for pages."""
    del app
    pages = DOCS / "notebooks"
    pages.mkdir(exist_ok=True)
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy2(notebook, pages / notebook.name)


def change_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Adds links to the repository, and removes links to files outside the site."""
    del app
    content[0] = hosting.with_links(docname, content[0], hosting.address())
    content[0] = re.sub(r"\[(`[^`]+`)\]\([./]*/experiments/[^)]+\)", r"\1", content[0])
    up = "../" * docname.count("/")
    content[0] = content[0].replace(f"](../{up}notebooks/", f"]({up}notebooks/")  # as copied above


# The gallery's pictures must not shrink in their columns, nor numbers of results break.
STYLES = {
    "gallery": "td img { min-width: min(17rem, 45vw); }",
    "results/": "td { white-space: nowrap; } table.docutils { font-size: 0.8rem; }",
}


def style_tables(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Adds the style of the tables to the pages that need one."""
    del app, templatename, doctree
    for start, style in STYLES.items():
        if pagename.startswith(start):
            context["metatags"] = context.get("metatags", "") + f"<style>{style}</style>"


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool:
    """Leaves out the fields of named tuples, which their docstrings describe."""
    del app, what, name, options
    return skip or type(obj).__name__ == "_tuplegetter"


def setup(app: Sphinx) -> None:
    """Connects the functions above."""
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", change_links)
    app.connect("html-page-context", style_tables)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", reference.complete, priority=100)  # before napoleon
