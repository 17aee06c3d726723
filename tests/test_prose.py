"""Pages, docstrings, messages and comments are written in short sentences with plain words."""

import pathlib

import pytest
from prose import comments, documented, faults, messages, sentences

ROOT = pathlib.Path(__file__).parents[1]


def paths(pattern):
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


FOLDERS = ("*.md", "docs/*.md", "docs/*/*.md", "experiments/*.md")
PAGES = [path for folder in FOLDERS for path in paths(folder)]
FILES = [
    path
    for folder in ("flatjax", "experiments", "notebooks")
    for path in paths(f"{folder}/**/*.py")
]
RESULTS = ["experiments/RESULTS.md", *paths("docs/results/*.md")]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_of_pages(page):
    found = list(faults((ROOT / page).read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", RESULTS)
def test_tables_of_results_fit_the_page(page):
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
    assert max(map(len, rows), default=0) <= 100


@pytest.mark.parametrize("file", FILES)
def test_sentences_of_the_code(file):
    source = (ROOT / file).read_text()
    found = []
    for name, text in documented(source):
        found += [f"{name}: {fault}" for fault in faults(text)]
        if len(first := text.splitlines()[0]) >= 80:
            found.append(f"{name}: the first line has {len(first)} characters")
    for text in (*messages(source), *comments(source)):
        found += faults(text)
    assert not found, "\n".join(found)


def test_faults_are_found():
    assert list(faults("This is dear.")) == ["'dear': This is dear."]
    long = " ".join(["word"] * 36)
    assert len(list(faults(f"Short. {long}.\n\n| {long} |\n\n```\n{long}\n```"))) == 1
    assert list(sentences("One, of [two](three). Then\nmore.\n- An item")) == [
        "One, of [two]",
        "Then more.",
        "An item",
    ]
