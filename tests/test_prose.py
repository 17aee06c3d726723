"""Pages, docstrings, messages and comments are written in short sentences with plain words."""

import pathlib

import pytest
from prose import comments, documented, faults, messages, sentences

ROOT = pathlib.Path(__file__).parents[1]

# What has not been rewritten yet: take a line away with the rewriting.
TO_DO = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "docs/choosing.md",
    "docs/diloco.md",
    "docs/distributed.md",
    "docs/export.md",
    "docs/flatness.md",
    "docs/optax.md",
    "docs/quickstart.md",
    "docs/relations.md",
    "docs/your_data.md",
    "flatjax",
    "flatjax/_cpu",
    "flatjax/_sampling",
    "flatjax/flatness",
]

# Sentences that may stay as they are, by words that are in them.
ALLOWED = []

PAGES = [
    path.relative_to(ROOT).as_posix()
    for folder in (
        ROOT,
        *(ROOT / "docs" / part for part in ("", "api", "results")),
        ROOT / "experiments",
    )
    for path in sorted(folder.glob("*.md"))
]
FILES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "flatjax").rglob("*.py"))]


def is_to_do(path):
    return path in TO_DO or str(pathlib.PurePosixPath(path).parent) in TO_DO


def refused(text):
    return [fault for fault in faults(text) if not any(words in fault for words in ALLOWED)]


@pytest.mark.parametrize("page", [page for page in PAGES if not is_to_do(page)])
def test_sentences_of_pages(page):
    found = refused((ROOT / page).read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", [page for page in PAGES if "results" in page.lower()])
def test_tables_of_results_fit_the_page(page):
    wide = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
    assert max(map(len, wide), default=0) <= 100


@pytest.mark.parametrize("file", [file for file in FILES if not is_to_do(file)])
def test_sentences_of_the_code(file):
    source = (ROOT / file).read_text()
    found = []
    for name, text in documented(source):
        found += [f"{name}: {fault}" for fault in refused(text)]
        if len(first := text.splitlines()[0]) >= 80:
            found.append(f"{name}: the first line has {len(first)} characters")
    for text in (*messages(source), *comments(source)):
        found += refused(text)
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


def test_what_is_to_do_exists():
    for path in TO_DO:
        assert (ROOT / path).exists(), path
