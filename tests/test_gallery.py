"""The gallery has a card for each notebook, figure and guide."""

import pathlib
import re
import runpy

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "make_gallery.py"))
SOURCES = SCRIPT["sources"]()
PAGE = ROOT / "docs" / "gallery.md"
# Thumbnail -> the page to which it links.
LINKS = dict(re.findall(r"\[!\[[^]]+\]\((gallery/[^)]+)\)\]\(([^)#]+)[^)]*\)", PAGE.read_text()))


def test_the_gallery_is_on_the_site():
    assert "\ngallery\n" in (ROOT / "docs" / "index.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text()):
        assert (PAGE.parent / link).is_file(), link


def test_every_guide_is_listed():
    for path in (ROOT / "docs" / "guides").glob("*.md"):
        assert f"(guides/{path.name})" in PAGE.read_text()


def test_every_thumbnail_has_a_source():
    assert set((ROOT / "docs" / "gallery").iterdir()) == set(SOURCES)
    assert {PAGE.parent / name for name in LINKS} == set(SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_thumbnails_are_small_pictures_of_their_sources(path):
    source = SOURCES[path]
    link = PAGE.parent / LINKS[path.relative_to(PAGE.parent).as_posix()]
    if source.suffix == ".ipynb":
        assert link.resolve() == source
    else:  # its page shows it
        shown = {ROOT / "docs" / "results.md": ROOT / "experiments" / "RESULTS.md"}.get(link, link)
        assert f"figures/{source.name})" in shown.read_text()
    assert path.stat().st_size < 25_000
    with Image.open(path) as stored:
        shown = np.asarray(stored.convert("RGB"), float)
    again = np.asarray(SCRIPT["thumbnail"](source).convert("RGB"), float)
    assert shown.shape == again.shape, "run `python docs/make_gallery.py`"
    # Another version of Pillow may round otherwise.
    assert np.abs(shown - again).mean() < 2, "run `python docs/make_gallery.py`"
