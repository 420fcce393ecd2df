"""Problems of a recipe: each has file, line, column, the line itself and a suggestion."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from shutil import get_terminal_size

N_SHOWN = 100  # problems; more than that are repetitions of one problem
INDENT = 4 * " "
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as PyYAML defines it


@dataclass(frozen=True)
class Place:
    """A spot in a recipe, or in an override of the command line."""

    file: str  #: the recipe's path as the user wrote it, or `command line`
    #: line, column: from 1
    line: int
    column: int
    text: str  #: the whole line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def shown(self) -> str:
        """The line with a caret below the column; a longer one is shortened around the caret."""
        text, column, room = self.text, self.column - 1, width() - len(INDENT)
        if len(text) > room:
            room -= len("...  ...")
        start = max(0, column - room // 2) if len(text) > room else 0
        piece = readable(text[start : start + room])  # the whole line may be long
        before = "... " if start else ""
        after = " ..." if start + room < len(text) else ""
        return f"{INDENT}{before}{piece}{after}\n{INDENT}{' ' * (len(before) + column - start)}^"


def place_at(text: str, position: int, file: str) -> Place:
    """The place of a character of a text, given its index."""
    before = LINE_BREAK.split(text[:position])
    return Place(file, len(before), len(before[-1]) + 1, LINE_BREAK.split(text)[len(before) - 1])


@dataclass(frozen=True)
class Problem:
    """One problem: its place, a message, and how to fix it."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        lines = f"{self.place}: {readable(self.message)}".split("\n")
        text = [line if line.startswith(INDENT) else wrapped(line) for line in lines]  # some are code
        return "\n".join(filter(None, [*text, self.place.shown(), wrapped(INDENT + readable(self.hint))]))


class RecipeError(ValueError):
    """A recipe that cannot be used; `problems` has all problems in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = sorted(
            dict.fromkeys(problems),
            key=lambda problem: (problem.place.file, problem.place.line, problem.place.column),
        )
        shown = [str(problem) for problem in self.problems[:N_SHOWN]]
        if len(self.problems) > N_SHOWN:
            shown.append(f"... and {len(self.problems) - N_SHOWN} more")
        super().__init__("\n\n".join(shown))

    @classmethod
    def at(cls, place: Place, message: str, hint: str) -> RecipeError:
        """The error for one problem."""
        return cls([Problem(place, message, hint)])


class Mistake(ValueError):
    """Wrong input that has no place in a recipe."""


@contextmanager
def mistaken(*kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of these kinds as mistakes of the user, with the same message."""
    try:
        yield
    except kinds as error:
        raise Mistake(str(error)) from error


def width() -> int:
    """Columns of the terminal, between 60 and 120; 80 without one."""
    return min(120, max(60, get_terminal_size((80, 24)).columns))


def wrapped(text: str) -> str:
    """A text in lines of the terminal's width, of which all but the first are indented."""
    return "\n".join(
        textwrap.wrap(text, width(), subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    )


def readable(text: str) -> str:
    """The text with tabs and control characters replaced, each by one character."""
    characters = text.replace("\t", " ")
    return "".join(
        each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in characters
    )


def closest(name: str, names: Iterable[str]) -> str | None:
    """The most similar name, ignoring case; None if none is similar."""
    by_lower: dict[str, str] = {}
    for each in names:
        by_lower.setdefault(each.lower(), each)
    close = get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str], *, all_of: str = "Available") -> str:
    """A suggestion if a name is similar, and the list of names."""
    names = list(names)
    close = closest(name, names)
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    listing = f"{all_of}: {shown or 'none'}."
    return f"Did you mean {close}? {listing}" if close else listing
