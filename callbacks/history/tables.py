"""Tables for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(rows: Iterable[Sequence[Any]], head: Sequence[Any] = (), *, n_text: int = 2) -> str:
    """A table in HTML; every cell is escaped. The first `n_text` columns hold text, the others numbers."""
    lines = [as_row(head, "th", n_text)] if head else []
    return "<table>\n" + "\n".join([*lines, *(as_row(row, "td", n_text) for row in rows)]) + "\n</table>"


def as_row(cells: Sequence[Any], tag: str, n_text: int) -> str:
    """A row of a table."""
    styles = ["left" if number < n_text else "right" for number in range(len(cells))]
    shown = [
        f'<{tag} style="text-align: {style}">{html.escape(str(cell))}</{tag}>'
        for cell, style in zip(cells, styles, strict=True)
    ]
    return f"<tr>{''.join(shown)}</tr>"
