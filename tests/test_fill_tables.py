"""The script that puts tables of the contest's reports into the pages."""

import pathlib
import runpy

import pytest

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "docs" / "fill_tables.py"))
PAGE = """# Page

## One

**Errors.** In %, of
all networks.

| old | 1 |
| --- | - |

**Losses.** Nothing follows yet.

More words.

## Two

**Errors.** Of others.

| old | 2 |
"""


def test_tables_replace_those_of_their_section():
    tables = SCRIPT["tables_of"]("## Errors\n\n| new |\n\n## Losses\n\n| loss |\n")
    assert tables == {"Errors": "| new |", "Losses": "| loss |"}
    text = SCRIPT["filled"](PAGE, "## One", tables)
    assert "**Errors.** In %, of\nall networks.\n\n| new |\n\n**Losses.**" in text
    assert "**Losses.** Nothing follows yet.\n\n| loss |\n\nMore words.\n" in text
    assert text.endswith(PAGE[PAGE.index("## Two") :])
    assert SCRIPT["filled"](text, "## One", tables) == text
    text = SCRIPT["filled"](PAGE, "## Two", {"Errors": "| new |"})
    assert text == PAGE.replace("| old | 2 |", "| new |")


def test_what_has_no_place_is_named():
    with pytest.raises(ValueError, match=r"begins with \*\*Losses\.\*\*"):
        SCRIPT["filled"](PAGE, "## Two", {"Losses": "| loss |"})
    with pytest.raises(ValueError, match="no section '## Three'"):
        SCRIPT["filled"](PAGE, "## Three", {})


def test_the_pages_are_filled():
    for page, heading in SCRIPT["SECTIONS"]:
        tables = SCRIPT["tables_for"]((page, heading))
        text = (SCRIPT["PAGES"] / page).read_text()
        assert SCRIPT["filled"](text, heading, tables) == text, page
