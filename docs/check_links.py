"""Checks built pages: every link inside them resolves, every picture exists, equations are emitted.

`python docs/check_links.py build/docs`
"""

import html.parser
import pathlib
import sys
import urllib.parse

PAGES_WITH_MATH = ("mathematics.html", "api/flatjax.html", "api/gaussian_mixture.html")


class Page(html.parser.HTMLParser):
    """Collects what a page links to, and its anchors.

    Attributes:
      links: targets of links, pictures, scripts and style sheets.
      anchors: ids of elements.
      equations: how many elements of class "math" there are.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.equations = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at one element."""
        del tag
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.equations += "math" in (values.get("class") or "").split()


def broken_links(root: pathlib.Path) -> list[str]:
    """Links inside the folder that lead nowhere, as `page: link`."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            anchor = urllib.parse.unquote(parts.fragment)
            is_there = target.exists()
            if is_there and anchor and target in pages:
                is_there = anchor in pages[target].anchors
            if not is_there:
                broken.append(f"{path.relative_to(root.resolve())}: {link}")
    return broken


def main() -> None:
    """Prints what is wrong, and fails if anything is."""
    root = pathlib.Path(sys.argv[1])
    problems = broken_links(root)
    for name in PAGES_WITH_MATH:
        if not Page(root / name).equations:
            problems.append(f"{name}: no equations")
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
