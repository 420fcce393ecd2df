"""Tables that grow by a row at recorded steps, kept without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from callbacks.core.contract import LearnerProtocol
from callbacks.core.every import parse_interval


class Rows:
    """What was measured at recorded steps: the steps, and a tensor of one shape for each.

    Rows stay where they were made until `read` brings all of them to main memory in one transfer.

    Args:
        owner: who records, for the message.
        every: `"10 steps"`: record step 10, 20, ..., counted over all fits.

    Attributes:
        steps: the recorded steps.

    Raises:
        ValueError: `every` is no whole number of steps.
    """

    def __init__(self, owner: str, every: str):
        self.n = steps_in(owner, every)
        self.steps: list[int] = []
        self._read: list[Tensor] = []
        self._pending: list[Tensor] = []

    def is_coming(self, learn: LearnerProtocol) -> bool:
        """Is the step that the batch under way will make one to be recorded?"""
        return learn.training and (learn.global_step + 1) % self.n == 0

    def is_due(self, learn: LearnerProtocol) -> bool:
        """Is the step that was just made one to be recorded? To be asked in `after_step`."""
        return learn.global_step % self.n == 0

    def add(self, learn: LearnerProtocol, row: Tensor) -> None:
        """Record a row for the step that was just made; waits for nothing."""
        self.steps.append(learn.global_step)
        self._pending.append(row.detach())

    def read(self) -> Tensor:
        """All rows, shape (steps, ...), in main memory; waits for the device where some are still there."""
        if self._pending:
            self._read.append(torch.stack(self._pending).cpu())
            self._pending.clear()
        if len(self._read) > 1:
            self._read = [torch.cat(self._read)]
        return self._read[0] if self._read else torch.empty(0)

    def state(self) -> dict[str, Any]:
        """All of it as plain data; waits for the device."""
        return {"steps": list(self.steps), "rows": self.read()}

    def put(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.steps = list(state["steps"])
        self._read = [state["rows"].clone()] if self.steps else []
        self._pending.clear()

    def clear(self) -> None:
        """Forget all."""
        self.put({"steps": []})

    def check(self, owner: str) -> None:
        """Refuse to draw nothing.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self.steps:
            steps = f"{self.n} step{'' if self.n == 1 else 's'}"
            raise ValueError(f"{owner} has recorded nothing yet: fit for {steps} or more.")


def recorded_of(self: Any) -> dict[str, Any]:
    """All that a plug-in has recorded in its `_rows`: `steps`, and a row for each; waits for the device."""
    return self._rows.state()


def put_recorded(self: Any, recorded: dict[str, Any]) -> None:
    """Put back what `recorded_of` gave."""
    self._rows.put(recorded)


def steps_in(owner: str, every: Any) -> int:
    """`"10 steps"` to 10.

    Raises:
        ValueError: another unit, or none.
    """
    try:
        number, unit = parse_interval(every)
    except ValueError:
        number, unit = 0.0, ""
    if unit != "step":
        raise ValueError(f"{owner}(every={every!r}): write a whole number of steps, as '10 steps'.")
    return int(number)


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors of one shape as one, where the first is: a model may be spread over devices."""
    first, *others = tensors
    return torch.stack([first, *(each.to(first.device, non_blocking=True) for each in others)])
