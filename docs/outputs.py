"""Run the Python of a page, and write what it prints under it.

    python docs/outputs.py docs/loop.md

A fence marked `output` follows the Python that prints it. The tests run every page and compare; after a
change, this script updates the fences. The error that ends a fence marked `raises` counts as its output.
Three dots in an output match anything. The time at the end of an epoch's line and white space are ignored,
so long messages may be broken into lines. Decimal numbers may differ by a thousandth, as they do between
processors.

Python whose first line is the name of a file, as `# train.py`, is also written to that file, with its
continuations. So other examples of the page can import it.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import math
import re
import sys
import tempfile
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

WIDTH = 100
EPOCH_TIME = re.compile(r" \d+\.\ds$", re.MULTILINE)  # at the end of a line, as `0.1s`
FILE = re.compile(r"# (\w+\.py)\n")  # the first line of Python that readers save
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Fence:
    """A fenced block: the words after the backticks, its text, and its first and last line in the page."""

    words: list[str]
    text: str
    first: int
    last: int


@dataclass
class Example:
    """A piece of Python, the output that the page shows for it (or None), and what it printed."""

    code: Fence
    shown: Fence | None
    printed: str = ""

    @property
    def agrees(self) -> bool:
        """Does the page show what was printed?"""
        if self.shown is None:
            return True
        shown, printed = (EPOCH_TIME.sub("", text) for text in (self.shown.text, self.printed))
        return matches(shown, printed) or (
            are_close(numbers_in(shown), numbers_in(printed))
            and matches(NUMBER.sub("0.0", shown), NUMBER.sub("0.0", printed))
        )


def main(pages: list[str]) -> None:
    """Update the outputs of these pages where they disagree."""
    for page in (Path(page).resolve() for page in pages):
        lines = page.read_text(encoding="utf-8").split("\n")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            stale = [example for example in examples_of(page) if not example.agrees]
        for example in reversed(stale):
            assert example.shown is not None
            lines[example.shown.first + 1 : example.shown.last - 1] = wrapped(example.printed)
        page.write_text("\n".join(lines), encoding="utf-8")
        print(f"{page.name}: {len(stale)} outputs written")


def check(page: Path) -> None:
    """Run a page; raise an AssertionError where it prints something else than it shows."""
    for example in examples_of(page):
        shown = example.shown.text if example.shown else None
        assert example.agrees, (
            f"{page.name}, line {example.code.first + 1} prints\n{example.printed}\n"
            f"but the page shows\n{shown}\n"
            f"If the page is out of date, run: python docs/outputs.py {page}"
        )


def examples_of(page: Path) -> list[Example]:
    """Every piece of Python of a page, run from top to bottom; `continuation` continues in the same module.

    Raises:
        Exception: what a piece raises that is not marked `raises`, with a note that names page and line.
    """
    fences = fences_of(page.read_text(encoding="utf-8"))
    found, module = [], types.ModuleType("page")
    for fence, following in zip(fences, [*fences, None][1:], strict=True):
        if fence.words[:1] != ["python"] or ("notest" in fence.words and "raises" not in fence.words):
            continue
        if "continuation" not in fence.words:
            module = types.ModuleType("page")
        shown = following if following is not None and following.words == ["output"] else None
        with files_of(page):
            found.append(Example(fence, shown, run(fence, vars(module), page)))
    return found


@contextlib.contextmanager
def files_of(page: Path) -> Iterator[None]:
    """Write the files of a page into the working directory, and let Python import them from there."""
    files, folder = file_texts(page), str(Path.cwd())
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)


def file_texts(page: Path) -> dict[str, str]:
    """The files of a page: Python that starts with the name of its file, and the continuations after it."""
    texts: dict[str, str] = {}
    name = None
    for fence in fences_of(page.read_text(encoding="utf-8")):
        if fence.words[:1] != ["python"] or "notest" in fence.words:
            continue
        if "continuation" not in fence.words:
            found = FILE.match(fence.text)
            name = found and found[1]
        if name:
            texts[name] = f"{texts[name]}\n{fence.text}" if name in texts else fence.text
    return texts


def fences_of(text: str) -> list[Fence]:
    """The fenced blocks of a page."""
    tokens = [token for token in MarkdownIt().parse(text) if token.type == "fence" and token.map]
    return [Fence(token.info.split(), token.content, *token.map) for token in tokens if token.map]


def run(fence: Fence, names: dict[str, Any], page: Path) -> str:
    """What a piece of Python prints; of one marked `raises`, the error as its last lines."""
    code = compile("\n" * (fence.first + 1) + fence.text, str(page), "exec", dont_inherit=True)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except Exception as error:
        if "raises" not in fence.words:
            error.add_note(f"in {page}, the Python at line {fence.first + 1}")
            raise
        notes = getattr(error, "__notes__", [])
        return printed.getvalue() + "\n".join([f"{type(error).__name__}: {error}", *notes]) + "\n"
    if "raises" in fence.words:
        raise AssertionError(f"{page}, line {fence.first + 1}: marked `raises`, but raised nothing")
    return printed.getvalue()


def matches(shown: str, printed: str) -> bool:
    """Are they the same, apart from white space and three dots?"""
    return doctest.OutputChecker().check_output(shown, printed, LOOSE)


def numbers_in(text: str) -> list[float]:
    """The decimal numbers of a text."""
    return [float(number) for number in NUMBER.findall(text)]


def are_close(first: list[float], second: list[float]) -> bool:
    """Do the numbers differ by no more than they do between processors?"""
    close = partial(math.isclose, rel_tol=1e-3)
    return len(first) == len(second) and all(map(close, first, second))


def wrapped(printed: str) -> list[str]:
    """Lines of at most `WIDTH`."""
    lines = printed.rstrip("\n").split("\n")
    return [
        part
        for line in lines
        for part in (textwrap.wrap(line, WIDTH, break_long_words=False) if len(line) > WIDTH else [line])
    ]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main(sys.argv[1:])
