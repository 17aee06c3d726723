"""Looks at the built pages in a browser, on a wide screen and on a telephone's.

Pages must fit the screen, show all pictures and formulas without a network, and raise no error;
screenshots are kept for the eye. Needs the extra `browser` and a Chromium.

`python docs/check_rendering.py build/docs --screenshots build/screenshots`
"""

import argparse
import pathlib
import re
import sys

from playwright.sync_api import BrowserContext, sync_playwright

WIDTHS = (1280, 390)  # CSS pixels

# What is wrong with the page, as a list of words.
FAULTS = """() => {
  const name = (element) => element.src || element.textContent.trim().slice(0, 60);
  const faults = [];
  for (const image of document.images)
    if (!image.complete || image.naturalWidth === 0) faults.push(`no picture: ${name(image)}`);
  for (const formula of document.querySelectorAll('.math'))
    if (!formula.querySelector('mjx-container')) faults.push(`not set: ${name(formula)}`);
  // MathJax shows macros that it does not know in red.
  for (const part of document.querySelectorAll('[data-mml-node=merror], mjx-container [fill=red]'))
    faults.push(`formula with an error: ${name(part.closest('.math'))}`);
  const excess = document.documentElement.scrollWidth - window.innerWidth;
  if (excess > 0) {
    const right = (element) => element.getBoundingClientRect().right;
    const wide = [...document.querySelectorAll('article *')]
      .filter((element) => right(element) > window.innerWidth + 1)
      .slice(0, 3).map((element) => `${element.tagName} ${name(element)}`);
    faults.push(`${excess} pixels too wide: ${wide.join('; ')}`);
  }
  return faults;
}"""


def stay_here(context: BrowserContext) -> None:
    """Refuses requests to servers: the pages must be complete without a network."""
    context.route(re.compile("^https?:"), lambda route: route.abort())


def faults_of(
    context: BrowserContext, root: pathlib.Path, path: pathlib.Path, screenshot: pathlib.Path
) -> list[str]:
    """What is wrong with one page; a picture of the whole of it is written."""
    page = context.new_page()
    found = []
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("requestfailed", lambda request: found.append(f"not loaded: {request.url}"))
    page.goto(path.as_uri())
    if page.locator(".math").count():
        page.wait_for_function("() => window.MathJax?.startup?.promise")
        page.evaluate("async () => { await MathJax.startup.promise; }")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()  # some are loaded when they are looked at
    page.wait_for_load_state("networkidle")
    found += page.evaluate(FAULTS)
    page.screenshot(path=screenshot, full_page=True)
    page.close()
    return [f"{path.relative_to(root)}: {fault}" for fault in found]


def main() -> None:
    """Prints what is wrong, and fails if anything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=pathlib.Path, help="folder of the built pages")
    parser.add_argument("--screenshots", type=pathlib.Path, required=True, help="written there")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    arguments = parser.parse_args()
    root = arguments.pages.resolve()
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium)
        for width in WIDTHS:
            context = browser.new_context(viewport={"width": width, "height": 900})
            stay_here(context)
            folder = arguments.screenshots / str(width)
            for path in sorted(root.rglob("*.html")):
                if "_static" in path.parts:
                    continue
                screenshot = folder / path.relative_to(root).with_suffix(".png")
                screenshot.parent.mkdir(parents=True, exist_ok=True)
                found = faults_of(context, root, path, screenshot)
                faults += [f"{fault} (at {width} pixels)" for fault in found]
        browser.close()
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
