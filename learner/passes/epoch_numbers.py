"""Pass the epoch number to samplers and data sets with a `set_epoch`, which shuffle by it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from learner.data.generators import takers
from learner.data.loaders import is_sequence
from learner.passes.own_positions import keeps_passes


def set_epoch(root: Any, number: int, done: dict[int, Any], *, is_late: bool = True) -> None:
    """Call `set_epoch(number)` on a loader and on the samplers and data sets in it that have this method.

    Args:
        root: the loader.
        number: of the epoch.
        done: the objects on which it was called in this epoch, by id: they are left out, and new ones are
            added.
        is_late: has the epoch started? Then an object that has a number got it from the user, and keeps it.
    """
    if needs_no_number(root):
        return
    for part in [part for part in takers(root) if id(part) not in done]:
        done[id(part)] = part
        if not (is_late and getattr(part, "epoch", 0)):
            part.set_epoch(number)


def needs_no_number(loader: Any) -> bool:
    """Is this a list of batches without its own `set_epoch`?"""
    return is_sequence(loader) and not hasattr(loader, "set_epoch")


def out_of_reach(loader: Any) -> list[Any]:
    """The data sets whose `set_epoch` has no effect on their copies in persistent workers.

    Loaders whose state holds the number of the epoch, such as those of litdata, count it in the workers too.
    """
    if not getattr(loader, "num_workers", 0) or not getattr(loader, "persistent_workers", False):
        return []
    if keeps_passes(loader):
        return []
    return [part for part in takers(getattr(loader, "dataset", None)) if not shares_memory(part)]


def shares_memory(part: Any) -> bool:
    """Does it hold memory that it shares with worker processes, like the data sets of Hugging Face?"""
    values = list(getattr(part, "__dict__", {}).values())
    return any(
        value.is_shared() if isinstance(value, Tensor) else type(value).__module__.startswith("multiproc")
        for value in values
    )
