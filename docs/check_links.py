"""Checks the links and pictures of built pages, and that no server is needed.

`python docs/check_links.py build/docs`
"""

import html.parser
import pathlib
import sys
import urllib.parse

PAGES_WITH_MATH = (
    "mathematics.html",
    "api/flatjax.html",
    "api/generated/flatjax.gaussian_mixture.erm.html",
)
# Elements whose address a browser loads by itself; a link is loaded if a reader follows it.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(html.parser.HTMLParser):
    """Collects what a page links to, and its anchors.

    Attributes:
      links: targets of links, pictures, scripts and style sheets.
      anchors: ids of elements.
      loaded: addresses that a browser loads together with the page.
      equations: how many elements of class "math" there are.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.equations = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at one element."""
        values = dict(attrs)
        if address := values.get(LOADED.get(tag, "")):
            self.loaded.append(address)
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


def foreign_files(root: pathlib.Path) -> list[str]:
    """Files that pages load from other servers, as `page: address`."""
    return [
        f"{path.relative_to(root)}: loads {address}"
        for path in sorted(root.rglob("*.html"))
        for address in Page(path).loaded
        if urllib.parse.urlsplit(address).netloc
    ]


def main() -> None:
    """Prints what is wrong, and fails if anything is."""
    root = pathlib.Path(sys.argv[1])
    problems = broken_links(root) + foreign_files(root)
    for name in PAGES_WITH_MATH:
        if not Page(root / name).equations:
            problems.append(f"{name}: no equations")
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
