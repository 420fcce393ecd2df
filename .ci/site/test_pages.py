"""Every page of the built site fits a phone and a laptop, and loads without an error, light and dark.

Build the site first: `.ci/run docs` does both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from browser import CHROMIUM, Browser
from matplotlib.image import imread

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(page for page in SITE.rglob("*.html") if not {"_modules", "_static"} & {*page.parts})
SCREENS = [(390, "dark"), (1280, "light")]
TOO_WIDE = """[...document.querySelectorAll("article *, .mobile-header *")]
    .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 3).map(each => each.outerHTML.slice(0, 200))"""
MISSING = "[...document.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)"
IN_BOTH_SCHEMES = """[...document.images]
    .filter(each => each.naturalWidth && each.src.endsWith(".png"))
    .filter(each => !each.matches(".only-light, .only-dark"))
    .map(each => each.src)"""
SHOWN = """[...document.querySelectorAll("article tbody tr")].filter(row => row.offsetParent)
    .map(row => row.cells[0].textContent.trim())"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
COPY_ALL = """window.copied = [];
document.oncopy = () => { copied.push(document.activeElement.value); };
document.querySelectorAll("button.copybtn").forEach(each => each.click());"""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")


def test_the_site_is_built():
    assert PAGES, "build it first: sphinx-build -W -b html docs docs/_build/html"


@pytest.mark.timeout(300)
@needs_browser
def test_every_page_fits_the_screen_and_has_no_error():
    with Browser() as browser:
        found = {str(page.relative_to(SITE)): list(problems(browser, page)) for page in PAGES}
    assert {name: each for name, each in found.items() if each} == {}


def problems(browser: Browser, page: Path) -> Iterator[str]:
    """What is wrong with a page, on a phone in the dark and on a laptop in the light."""
    browser.open(page.as_uri())
    for width, scheme in SCREENS:
        browser.show(width, scheme)
        needed = browser.evaluate("document.documentElement.scrollWidth")
        if needed > width:
            yield f"needs {needed} of {width} pixels: {browser.evaluate(TOO_WIDE)}"
        background = sum(map(int, re.findall(r"\d+", browser.evaluate(BACKGROUND))[:3]))
        if (background > 384) != (scheme == "light"):
            yield f"its background is not {scheme}"
    for picture in browser.evaluate(IN_BOTH_SCHEMES):
        if not is_transparent(Path(unquote(urlparse(picture).path))):
            yield f"has a background of its own, so needs another for the dark: {picture}"
    yield from (f"missing: {picture}" for picture in browser.evaluate(MISSING))
    yield from browser.problems


@needs_browser
def test_the_page_of_other_names_shows_the_rows_that_match_what_is_typed():
    with Browser() as browser:
        browser.open((SITE / "other_names.html").as_uri())
        everything = browser.evaluate(SHOWN)
        browser.evaluate(
            "box = document.querySelector('article input'); box.value = 'EarlyStopper'; box.oninput()"
        )
        assert browser.evaluate(SHOWN) == ["EarlyStopper"]
        browser.evaluate("box.value = ''; box.oninput()")
        assert browser.evaluate(SHOWN) == everything


@cache
def is_transparent(picture: Path) -> bool:
    """Does the page shine through the corners of a PNG?"""
    pixels = imread(picture)
    return pixels.ndim == 3 and pixels.shape[2] == 4 and not pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3].any()


@needs_browser
def test_only_code_is_copied_without_prompts_and_outputs():
    with Browser() as browser:
        browser.open((SITE / "index.html").as_uri())
        browser.evaluate(COPY_ALL)
        copied = browser.evaluate("copied")
    assert "learner run examples/article.yaml" in copied
    assert any(text.startswith("from functools import partial") for text in copied)
    assert not any("train_loss" in text for text in copied)
