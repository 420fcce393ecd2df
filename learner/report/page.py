"""HTML that is one file: escaped text, tables, and a style for screens, dark screens and paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from callbacks.history.history import show

MAX_UNBROKEN = 18  # characters of a row's name that stay on one line
MAX_IMAGE = 8_000_000  # bytes; a larger one makes the page slow to open

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2128; --dim: #59636e; --line: #d8dee4;
  --card: #f6f8fa; --accent: #0a58ca; --good: #1a7f37; --bad: #b42318; --series-1: #0a58ca;
  --series-2: #c2410c; --series-3: #1a7f37; --series-4: #8250df; --series-5: #0e7490; --series-6: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e8ee; --dim: #9aa5b1;
  --line: #333b44; --card: #1d232a; --accent: #79b8ff; --good: #56d364; --bad: #ff8a80; --series-1: #79b8ff;
  --series-2: #ffa657; --series-3: #56d364; --series-4: #d2a8ff; --series-5: #5ad1e0; --series-6: #e3b341; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 22px 0 8px; }
p { margin: 8px 0; max-width: 75ch; }
.dim { color: var(--dim); } .good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 190px), 1fr));
  margin: 22px 0 8px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card.main { border-color: var(--accent); border-width: 2px; } .card.main b { font-size: 2.1rem; }
.card span { color: var(--dim); font-size: .875rem; display: block; }
.panels { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.images { display: flex; flex-wrap: wrap; gap: 20px 28px; }
.pair { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.pair > * { min-width: 0; }
figure { margin: 0; break-inside: avoid; max-width: 100%; }
figure svg { width: 100%; max-width: 620px; height: auto; display: block; }
figure img { max-width: 100%; height: auto; display: block; background: #ffffff; border-radius: 6px; }
figcaption { font-size: .9rem; margin-bottom: 4px; } figcaption b { display: block; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  overflow-wrap: break-word; }
th, td { text-align: left; vertical-align: top; padding: 5px 18px 5px 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; } thead th { color: var(--dim); font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; }
th.short { white-space: nowrap; }
td.best { font-weight: 700; color: var(--good); }
table.matrix td { text-align: center; padding: 6px 9px; border: 1px solid var(--line); }
table.matrix th { padding: 6px 9px; border: 0; } table.matrix thead th { text-align: center; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  margin: 8px 0; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
ul { padding-left: 20px; margin: 8px 0; } summary { cursor: pointer; color: var(--accent); margin: 10px 0; }
ul.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; list-style: none; padding: 0; }
ul.legend svg { margin-right: 8px; }
footer { color: var(--dim); font-size: .85rem; margin: 48px 0 32px; }
@media (max-width: 480px) { main, header { padding-left: 16px; padding-right: 16px; }
  th, td { padding-right: 12px; } h1 { font-size: 1.45rem; } .cards { gap: 8px;
  grid-template-columns: 1fr 1fr; } .card.main { grid-column: 1 / -1; } .card { padding: 10px 12px; } }
@media print { @page { margin: 14mm; } body { font-size: 11pt; } header { padding-top: 0; }
  main, header { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  .panels { grid-template-columns: 1fr 1fr; }
  pre { white-space: pre-wrap; } .scroll { overflow: visible; } details:not([open]) { display: none; } }
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole page; `lead` and `sections` are HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{lead}\n</header>\n<main>\n"
        + "\n".join(each for each in sections if each)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A section with its heading; empty if all its parts are."""
    filled = "\n".join(each for each in parts if each)
    return f"<section>\n<h2>{escape(title)}</h2>\n{filled}\n</section>" if filled else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def card(value: str, *about: str, is_main: bool = False) -> str:
    """A value in large letters, with its name."""
    kind, spans = (
        "card main" if is_main else "card",
        " ".join(f"<span>{escape(each)}</span>" for each in about),
    )
    return f'<div class="{kind}"><b>{escape(value)}</b> {spans}</div>'


def code(text: str) -> str:
    """Lines of code or commands."""
    return f"<pre><code>{escape(text.rstrip())}</code></pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str) -> str:
    """A table whose first column names the rows; on a narrow screen it scrolls separately from the page.

    A cell is a `Cell`, or anything else as text. Screen readers read the caption.
    """
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in rows]
    if not cells:
        return ""
    numeric = [any(row[k].is_number for row in cells) for k in range(len(head))]
    names = "".join(column_name(name, is_number=numeric[n]) for n, name in enumerate(head))
    top = f"<thead><tr>{names}</tr></thead>" if any(head) else ""
    body = "\n".join(f"<tr>{row_name(row[0].text)}{''.join(map(str, row[1:]))}</tr>" for row in cells)
    label = escape(caption)
    return f'<div class="scroll"><table aria-label="{label}">{top}<tbody>\n{body}\n</tbody></table></div>'


def column_name(text: str, *, is_number: bool) -> str:
    """The name of a column."""
    kinds = " ".join(["number"] * is_number + ["short"] * (len(text) <= MAX_UNBROKEN))
    return f'<th scope="col" class="{kinds}">{escape(text)}</th>'


def row_name(text: str) -> str:
    """The first cell of a row; a long name may break after a dot or an underscore."""
    if len(text) <= MAX_UNBROKEN:
        return f'<th scope="row" class="short">{escape(text)}</th>'
    return f'<th scope="row">{escape(text).replace("_", "_<wbr>").replace(".", ".<wbr>")}</th>'


class Cell:
    """A cell of a table: text, whether it is a number, and whether it is the best of its kind."""

    def __init__(self, value: Any, *, is_best: bool = False):
        self.is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        self.text, self.is_best = shown(value), is_best

    def __str__(self) -> str:
        kinds = " ".join(["number"] * self.is_number + ["best"] * self.is_best)
        mark = ' <span aria-label="best">&#9733;</span>' if self.is_best else ""
        style = f' class="{kinds}"' if kinds else ""
        return f"<td{style}>{escape(self.text)}{mark}</td>"


def shown(value: Any) -> str:
    """A value as text: numbers with four digits after the point, or four digits in all if they are small."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return show(value)


def image(path: Path) -> str:
    """An image from a file, kept in the page itself; a note if it is too large or cannot be read."""
    name = path.stem.replace("_", " ").replace("-", " ")
    try:
        content = path.read_bytes()
    except OSError as error:
        return paragraph(f"{path.name} cannot be read: {error.strerror}.", "dim")
    if len(content) > MAX_IMAGE:
        return paragraph(f"{path.name} is left out: it has {len(content) / 1e6:.0f} MB.", "dim")
    kind = {"jpg": "jpeg", "svg": "svg+xml"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
    data = base64.b64encode(content).decode("ascii")
    return (
        f"<figure><figcaption><b>{escape(name)}</b></figcaption>"
        f'<img src="data:image/{kind};base64,{data}" alt="{escape(name)}, an image of this run"></figure>'
    )
