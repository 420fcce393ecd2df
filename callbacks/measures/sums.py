"""The counts of metrics in a pass, and how those of several processes are merged."""

from __future__ import annotations

from typing import Any

from callbacks.core.missing_names import suggest_arguments


class Sums:
    """A metric that counts: attributes that start with their class's values and are added over processes.

    Attributes:
        added: the names of these attributes.
    """

    added: tuple[str, ...] = ()

    @suggest_arguments
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        for name in self.added:
            setattr(self, name, getattr(type(self), name))

    def merge(self, other: Any) -> None:
        """Add what another one has counted, in another process."""
        for name in self.added:
            setattr(self, name, getattr(self, name) + getattr(other, name))
