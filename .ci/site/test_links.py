"""Every link within the built site leads to a page, and to a place in it."""

from __future__ import annotations

import re
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urldefrag

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"


def test_every_internal_link_leads_somewhere():
    pages = sorted(page for page in SITE.rglob("*.html") if not {"_modules", "_static"} & {*page.parts})
    broken = {
        f"{page.relative_to(SITE)} -> {link}"
        for page in pages
        for link in links_of(page)
        if is_broken(page, link)
    }
    assert broken == set()


def links_of(page: Path) -> set[str]:
    """The addresses of links, pictures and scripts, without those of other sites."""
    found = {
        unescape(link) for link in re.findall(r'\b(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8"))
    }
    return {link for link in found if not re.match(r"[a-z]+:|//", link)}


def is_broken(page: Path, link: str) -> bool:
    """Is there no such file, or no such place in it?"""
    address, anchor = urldefrag(link)
    target = (page.parent / unquote(address.partition("?")[0])).resolve() if address else page
    if not target.is_file():
        return True
    return bool(anchor) and target.suffix == ".html" and unquote(anchor) not in places_of(target)


@cache
def places_of(page: Path) -> set[str]:
    """The anchors of a page."""
    return {unescape(place) for place in re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))}
