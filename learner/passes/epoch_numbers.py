"""Pass the epoch number to samplers and data sets, which shuffle by it in `set_epoch`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learner.data.generators import takers
from learner.passes import positions


def set_epoch(root: Any, number: int, told: dict[int, Any], *, is_late: bool = True) -> None:
    """Call `set_epoch(number)` of a loader and of whatever it holds that has one: samplers, data sets.

    Args:
        root: the loader.
        number: of the epoch.
        told: the objects called in this epoch, by id: they are not called again, and new ones are added.
        is_late: the epoch has started, so an object with a number got it from the user, and keeps it.
    """
    if takes_no_number(root):
        return
    for part in [part for part in takers(root) if id(part) not in told]:
        told[id(part)] = part
        if not (is_late and getattr(part, "epoch", 0)):
            part.set_epoch(number)


def takes_no_number(loader: Any) -> bool:
    """Is it a list of batches, without a `set_epoch` of its own?"""
    return positions.is_sequence(loader) and not hasattr(loader, "set_epoch")


def out_of_reach(loader: Any) -> list[Any]:
    """Data sets whose `set_epoch` does not reach the copies in persistent workers."""
    if not getattr(loader, "num_workers", 0) or not getattr(loader, "persistent_workers", False):
        return []
    return [part for part in takers(getattr(loader, "dataset", None)) if not shares_memory(part)]


def shares_memory(part: Any) -> bool:
    """Does it hold shared memory that worker processes see, like the epoch of Hugging Face's data sets?"""
    values = list(getattr(part, "__dict__", {}).values())
    return any(
        value.is_shared() if isinstance(value, Tensor) else type(value).__module__.startswith("multiproc")
        for value in values
    )
