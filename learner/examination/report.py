"""What `learn.check()` found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from callbacks.core.contract import LearnerWarning
from learner.data.tensors import counted

WIDTH = 80


@dataclass
class Report:
    """What `learn.check()` found.

    Attributes:
        errors: what a fit would end with, or train on in vain.
        warnings: what is allowed and probably not meant.
        facts: what was seen, by a short name: `model`, `batch`, `loss`, `gradient`, ...
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Was nothing found that is wrong? Warnings are allowed."""
        return not self.errors

    def take(self, faults: Iterable[Exception]) -> bool:
        """Add faults, each once; True where none of them is an error."""
        n_errors = len(self.errors)
        for fault in faults:
            place = self.warnings if isinstance(fault, Warning) else self.errors
            if str(fault) not in place:
                place.append(str(fault))
        return len(self.errors) == n_errors

    def warn(self, words: str) -> None:
        """Add a warning."""
        self.take([LearnerWarning(words)])

    def __str__(self) -> str:
        width = max(map(len, self.facts), default=0) + 2
        lines = [wrapped(f"{name:<{width}}{said}", width) for name, said in self.facts.items()]
        for title, found in (("error", self.errors), ("warning", self.warnings)):
            lines += [wrapped(f"{title}: {said}", 4) for said in found]
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """The last line."""
        n_errors, n_warnings = len(self.errors), len(self.warnings)
        counts = [counted(n_errors, "error", "errors"), counted(n_warnings, "warning", "warnings")]
        return f"{'ok' if self.ok else 'not ok'}: {', '.join(counts)}"

    def __repr__(self) -> str:  # short, as a notebook shows it below what was printed
        return f"<Report {self.verdict()}>"


def wrapped(text: str, indent: int) -> str:
    """A paragraph of at most 80 columns, its later lines indented."""
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False))
