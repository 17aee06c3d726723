"""Puts the tables of reports into the pages of results.

`python docs/fill_tables.py` after a report, for example `python -m experiments contest
--report-only`. On a page, a table follows the paragraph that begins with its title in bold.
"""

import pathlib
import re
import sys
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parents[1]
PAGES, REPORTS = ROOT / "docs" / "results", ROOT / "experiments" / "results"
# Page and heading of a section (the whole page if empty) -> the report that has its tables, and
# the titles of those that it takes: all if there are none.
SECTIONS: Mapping[tuple[str, str], tuple[str, *tuple[str, ...]]] = {
    ("second_contest.md", ""): ("contest/page.md",),
    ("contest_stages.md", "## Fixed weight decay"): ("contest/paper-page.md",),
    ("contest_stages.md", "## Variants"): ("contest/variants-page.md",),
    ("contest_stages.md", "## Four workers"): ("contest/workers-4-page.md",),
    ("contest_stages.md", "## Sixteen workers"): ("contest/workers-16-page.md",),
    ("matched_flatness.md", ""): ("matched-flatness/matched_flatness.md",),
    ("committees.md", "## For which data do flat committees test better?"): (
        "committee-flatness/committee_flatness.md",
        "At matched training error",
        "Given the training error",
    ),
}


def tables_of(report: str) -> dict[str, str]:
    r"""Returns title -> table of a report.

    Examples:
      >>> tables_of("## One\n\n| a |\n\n## Two\n\n| b |\n")
      {'One': '| a |', 'Two': '| b |'}
    """
    parts = re.split(r"^## (.*)\n", report, flags=re.MULTILINE)[1:]
    return {title: table.strip() for title, table in zip(parts[::2], parts[1::2], strict=True)}


def tables_for(section: tuple[str, str]) -> dict[str, str]:
    """Reads the tables of a section."""
    report, *titles = SECTIONS[section]
    tables = tables_of((REPORTS / report).read_text(encoding="utf-8"))
    return {title: tables[title] for title in titles or tables}


def filled(text: str, heading: str, tables: Mapping[str, str]) -> str:
    r"""Returns the text of a page with the tables of a report in one of its sections.

    Raises:
      ValueError: the page has no such heading, or no place for a table; the message names it.

    Examples:
      >>> print(filled("**Sums.** In %.\n\n| old |\n\nEnd", "", {"Sums": "| new |"}))
      **Sums.** In %.
      <BLANKLINE>
      | new |
      <BLANKLINE>
      End
    """
    start = text.find(f"{heading}\n") if heading else 0
    if start < 0:
        raise ValueError(f"The page has no section {heading!r}.")
    end = text.find("\n## ", start + len(heading)) if heading else len(text)
    end = len(text) if end < 0 else end
    section = f"{text[start:end]}\n"
    for title, table in tables.items():
        paragraph = rf"^\*\*{re.escape(title)}\.\*\*.*\n(?:.+\n)*\n"
        place = re.compile(rf"({paragraph})((?:\|.*\n)*)", re.MULTILINE)
        if not place.search(section):
            raise ValueError(f"Section {heading!r} has no paragraph that begins with **{title}.**")
        section = place.sub(
            lambda found, new=table: f"{found[1]}{new}\n" + ("" if found[2] else "\n"), section
        )
    return text[:start] + section.rstrip("\n") + "\n" + text[end:]


def main() -> int:
    """Fills all pages."""
    for page, heading in SECTIONS:
        path = PAGES / page
        text = filled(path.read_text(encoding="utf-8"), heading, tables_for((page, heading)))
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
