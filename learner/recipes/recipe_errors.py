"""What is wrong with a recipe: each fault has file, line, column, the line itself and a suggestion."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

N_SHOWN = 100  # faults; more are one fault made many times
WIDTH = 96  # columns of a line that are shown; longer ones are cut around the caret


@dataclass(frozen=True)
class Place:
    """A spot in a recipe, or in an override of the command line.

    Attributes:
        file: the recipe's path as it was given, or `command line`.
        line, column: from 1.
        text: the whole line.
    """

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def shown(self) -> str:
        """The line with a caret below the column."""
        text, column = self.text, self.column - 1
        start = max(0, column - WIDTH // 2) if len(text) > WIDTH else 0
        piece = readable(text[start : start + WIDTH])  # not the whole line, which may have many faults
        before = "... " if start else ""
        after = " ..." if start + WIDTH < len(text) else ""
        return f"    {before}{piece}{after}\n    {' ' * (len(before) + column - start)}^"


@dataclass(frozen=True)
class Fault:
    """One mistake: what it is, where it stands, how to mend it."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = textwrap.fill(
            readable(self.hint),
            WIDTH,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(filter(None, [f"{self.place}: {readable(self.message)}", self.place.shown(), hint]))


class RecipeError(ValueError):
    """A recipe that cannot be used; `faults` holds all that was found, in the order of the lines."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = sorted(
            dict.fromkeys(faults),
            key=lambda fault: (fault.place.file, fault.place.line, fault.place.column),
        )
        shown = [str(fault) for fault in self.faults[:N_SHOWN]]
        if len(self.faults) > N_SHOWN:
            shown.append(f"... and {len(self.faults) - N_SHOWN} more")
        super().__init__("\n\n".join(shown))


class Mistake(ValueError):
    """A mistake on the command line that has no place in a recipe."""


def readable(text: str) -> str:
    """The text with tabs and what a terminal would obey replaced, each by one character."""
    return "".join(
        letter
        if letter.isprintable() or letter == "\n"
        else " "
        if letter == "\t"
        else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def closest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, whatever its capitals."""
    by_lower: dict[str, str] = {}
    for each in names:
        by_lower.setdefault(each.lower(), each)
    close = get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str], *, all_of: str = "There are") -> str:
    """A suggestion where one name is close, and the names that there are."""
    names = list(names)
    close = closest(name, names)
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    listing = f"{all_of}: {shown or 'none'}."
    return f"Did you mean {close}? {listing}" if close else listing
