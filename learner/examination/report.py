"""What `learn.check()` found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from callbacks.core.contract import LearnerWarning
from callbacks.history.tables import html_table
from learner.data.tensors import counted

WIDTH = 80


@dataclass
class Report:
    """What `learn.check()` found.

    Attributes:
        errors: what would end a fit, or make it useless.
        warnings: what is allowed and probably not meant.
        facts: what was measured, by a short name: `model`, `batch`, `loss`, `gradient`, ...
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Are there no errors? Warnings are allowed."""
        return not self.errors

    def add(self, problems: Iterable[Exception]) -> bool:
        """Add problems, each once; False if one of them is a new error."""
        n_errors = len(self.errors)
        for problem in problems:
            found = self.warnings if isinstance(problem, Warning) else self.errors
            if str(problem) not in found:
                found.append(str(problem))
        return len(self.errors) == n_errors

    def warn(self, message: str) -> None:
        """Add a warning."""
        self.add([LearnerWarning(message)])

    def __str__(self) -> str:
        width = max(map(len, self.facts), default=0) + 2
        lines = [wrapped(f"{name:<{width}}{fact}", width) for name, fact in self.facts.items()]
        for title, found in (("error", self.errors), ("warning", self.warnings)):
            lines += [wrapped(f"{title}: {message}", 4) for message in found]
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """The last line."""
        n_errors, n_warnings = len(self.errors), len(self.warnings)
        counts = [counted(n_errors, "error", "errors"), counted(n_warnings, "warning", "warnings")]
        return f"{'ok' if self.ok else 'not ok'}: {', '.join(counts)}"

    def __repr__(self) -> str:  # short, as a notebook shows it below the printed report
        return f"<Report {self.verdict()}>"

    def _repr_html_(self) -> str:
        rows = [*self.facts.items()]
        rows += [("error", each) for each in self.errors] + [("warning", each) for each in self.warnings]
        return f"{html_table(rows)}<p>{self.verdict()}</p>"


def wrapped(text: str, indent: int) -> str:
    """A paragraph of at most 80 columns; all lines but the first are indented."""
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False))
