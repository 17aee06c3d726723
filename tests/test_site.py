"""The site can be hosted, needs no network, and names only extras and files that exist."""

import configparser
import json
import pathlib
import re
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHECK = runpy.run_path(str(DOCS / "check_links.py"))
HOSTING = runpy.run_path(str(DOCS / "hosting.py"))
ADDRESS = "https://github.com/someone/flatjax"


def extras():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return set(settings["options.extras_require"])


def test_extras_that_are_named_exist():
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob(".ci/*")]
    for folder in ("flatjax", "experiments", "docs", "notebooks"):
        files += [path for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}")]
    found = {}
    for file in files:
        for names in re.findall(r"(?:flatjax|\.)\[([a-z,]+)\]'", file.read_text(encoding="utf-8")):
            found |= {name: file for name in names.split(",")}
    assert {"data", "report", "docs", "test", "tensorflow"} <= set(found)
    unknown = {name: file for name, file in found.items() if name not in extras()}
    assert not unknown


def test_the_host_builds_the_site_from_what_is_here():
    settings = (ROOT / ".readthedocs.yaml").read_text()
    (configuration,) = re.findall(r"configuration: (\S+)", settings)
    (extra,) = re.findall(r"extra_requirements:\n +- (\w+)\n", settings)
    (python,) = re.findall(r'python: "3\.(\d+)"', settings)
    assert (ROOT / configuration).is_file()
    assert extra in extras()
    assert int(python) >= 11
    assert "fail_on_warning: true" in settings
    configured = (ROOT / configuration).read_text()
    assert 'nb_execution_mode = "off"' in configured


def test_pages_link_the_repository_once_its_address_is_known():
    add = HOSTING["with_links"]
    notebook = (ROOT / "notebooks" / "quickstart.ipynb").read_text()
    for name, text in (("index", "# A\n\nB"), ("notebooks/quickstart", notebook)):
        assert add(name, text, "") == text
    assert add("faq", "# A\n\nB", ADDRESS) == "# A\n\nB"
    assert add("index", "# A\n\nB", ADDRESS).splitlines()[2].startswith(f"[Source]({ADDRESS})")
    cells = json.loads(add("notebooks/quickstart", notebook, ADDRESS))["cells"]
    path = "someone/flatjax/blob/main/notebooks/quickstart.ipynb"
    assert f"https://colab.research.google.com/github/{path}" in cells[1]["source"]
    assert [cells[0], *cells[2:]] == json.loads(notebook)["cells"]
    assert HOSTING["address"]() in ("", HOSTING["address"]().rstrip("/"))


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<script src="a.js"></script><div class="math">x</div>', None),
        ('<a href="https://example.org/a.js">link</a><div class="math">x</div>', None),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "loads //example.org/a.css"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png"),
        ('<a href="none.html">link</a>', "none.html"),
        ('<img src="none.png">', "none.png"),
    ],
)
def test_built_pages_need_no_other_server(page, fault, tmp_path, monkeypatch):
    for name in CHECK["PAGES_WITH_MATH"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('<div class="math">x</div>')
    (tmp_path / "a.js").touch()
    (tmp_path / "index.html").write_text(page)
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        CHECK["main"]()
    assert (stop.value.code == 0) if fault is None else fault in stop.value.code


PAGES = [
    *DOCS.glob("*.md"),
    *(p for part in ("guides", "results", "api") for p in (DOCS / part).glob("*.md")),
]


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_work_in_the_repository_too(page):
    """A reader on a code host follows them, where notebooks are not copied below docs."""
    for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
