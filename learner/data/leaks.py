"""Distinguish a `StopIteration` in the user's code from the end of a loader.

A loop cannot distinguish them, so an exhausted `next()` in a data set would end every epoch early. Generators
are safe: in them Python raises a RuntimeError instead (PEP 479).
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data._utils.fetch import _IterableDatasetFetcher, _MapDatasetFetcher

MAP, ITERABLE = _MapDatasetFetcher.fetch.__code__, _IterableDatasetFetcher.fetch.__code__
FROM_WORKER = ExceptionWrapper.reraise.__code__
CALLERS = (map, filter, itertools.starmap, itertools.takewhile, itertools.dropwhile, itertools.accumulate)


def checked(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches of an iterator without calling its `__iter__`, which may start again.

    Raises:
        RuntimeError: code of the data set raised `StopIteration`, which would silently end the pass.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration as end:
            error = leak(end, batches)
            if error is not None:
                raise error from end
            return
        yield batch


def leak(end: StopIteration, batches: Any) -> RuntimeError | None:
    """The error to raise if the user's code ended a pass; None if the loader is at its end.

    Args:
        end: the exception that `next(batches)` raised.
        batches: the iterator.
    """
    calls = list(traceback.walk_tb(end.__traceback__))[1:]  # without the frame that called next
    frames = [frame for frame, _ in calls]
    if not frames or not is_leak(frames, batches):
        return None
    frame, line = calls[-1]
    where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}, line {line})"
    if frame.f_code is FROM_WORKER:
        where = f"a worker process of the loader:\n{str(end.value or end).strip()}\n"
    fetching = fetching_note(frames)
    return RuntimeError(
        f"StopIteration was raised by {where}{f', {fetching}' if fetching else ''}; it would have ended "
        "the epoch there. If the iterator may be exhausted, pass a default, next(iterator, None), or "
        "create the iterator again."
    )


def is_leak(frames: list[FrameType], batches: Any) -> bool:
    """Does the traceback lead through code in which a loader never ends?"""
    if type(batches) in CALLERS and frames[0].f_code.co_name not in ("__next__", "next"):
        return True  # the function that was passed to map or filter raised it
    for frame, inner in zip(frames, [*frames[1:], None], strict=True):
        if frame.f_code is MAP or frame.f_code is FROM_WORKER:
            return True
        if frame.f_code is ITERABLE and inner is not None and frame.f_locals["self"].auto_collation:
            return True  # in collate_fn, because the fetcher catches those of the data set
    return False


def fetching_note(frames: list[FrameType]) -> str | None:
    """The indices of the items that were being fetched from a data set, if frames of torch show them."""
    for frame in reversed(frames):
        indices = frame.f_locals.get("possibly_batched_index")
        if indices is not None and module_of(frame).startswith("torch.utils.data."):
            return f"while fetching the items {indices} of the data set"
    return None


def module_of(frame: FrameType) -> str:
    """The module whose code a frame runs."""
    return str(frame.f_globals.get("__name__"))
