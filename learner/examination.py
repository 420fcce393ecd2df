"""`learn.check()`: a learner examined at length on one batch, without a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from learner.checks import faults_before_fit


@dataclass
class Report:
    """What `learn.check()` found."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Was nothing found that a fit would end with?"""
        return not self.errors


def examine(learn: Any) -> Report:
    """Examine a learner."""
    return Report([str(fault) for fault in faults_before_fit(learn)])
