"""Detect data that continues over epochs, and advance new data to the position of the old data.

A loader may hold an open iterator, or count its batches, so that the next epoch starts where the last one
ended. In another process it would start with its first batch. So all fetched batches are counted, and if data
continues, they are fetched again and discarded.
"""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import LearnerWarning
from learner.data import workers
from learner.data.generators import PASSED_OVER, walk
from learner.data.loaders import describe_loader, holds_iterators, is_open

SCALARS = (bool, int, float, str, type(None))
MOST = 100_000  # a larger array is data, and is not compared


class Passes:
    """The number of batches that each pass fetched from a loader, and whether the next pass depends on it.

    Args:
        loader: the loader or function in the data.

    Attributes:
        n_fetched: the number of batches in the current pass.
        is_whole: has the current pass come to its end?
        earlier: for the passes before: the number of batches, whether the pass was whole, and how many equal
            passes there were in a row.
        continues: does a pass start where the last one ended? None while this is unknown.
    """

    n_fetched: int
    is_whole: bool
    is_unknown: bool
    given: int | None = None

    def __init__(self, loader: Any):
        self.loader = loader
        self.n_fetched, self.is_whole = 0, False
        self.earlier: list[list[Any]] = []
        self.continues: bool | None = None
        self.is_unknown = True  # must the loader be examined after the next batch?
        self._has_started = False
        self._before: dict[str, Any] | None = None  # the loader's state before this pass
        self._seen: dict[str, Any] | None = None  # the loader's state after the first batch of a pass

    def begin(self, n_done: int, *, is_wanted: bool = False) -> None:
        """Start a pass after `n_done` batches; with `is_wanted`, compare the loader's state at its end."""
        self._before = state_of(self.loader) if is_wanted and self.continues is None else None
        self.earlier = self.so_far()
        self.n_fetched, self.is_whole, self._has_started = n_done, False, True
        self.is_unknown = self.continues is None

    def end(self) -> None:
        """End a pass at the end of the loader."""
        self.is_whole, self.given = True, self.n_fetched
        if self._before is not None and is_unchanged(self._before, state_of(self.loader)):
            self.continues = False
        self._before = None

    def so_far(self, *, with_this: bool = True) -> list[list[Any]]:
        """All passes, with the current one if it has started; equal passes in a row are one entry."""
        found = [list(each) for each in self.earlier]
        if with_this and self._has_started:
            if found and found[-1][:2] == [self.n_fetched, self.is_whole]:
                found[-1][2] += 1
            else:
                found.append([self.n_fetched, self.is_whole, 1])
        return found

    def look(self, is_wanted: bool) -> None:
        """Compare the loader's state after the first batch of this pass with that of the pass before."""
        self.is_unknown = False
        if not is_wanted:
            return
        seen = state_of(self.loader)
        if not seen:
            self.continues = False
        elif self._seen is not None:
            self.continues = depends_on_the_last(self._seen, seen)
        self._seen = seen

    def saved_state(self, *, with_this: bool) -> dict[str, Any]:
        """The state in a checkpoint: no passes if each of them starts again."""
        found = [] if self.continues is False else self.so_far(with_this=with_this)
        return {"passes": found, "continues": self.continues}

    def catch_up(self, kept: dict[str, Any], batches: Any) -> int | None:
        """Fetch the batches of all passes before a checkpoint again, and discard them.

        Args:
            kept: what `saved_state` returned.
            batches: a function that returns the batches of a pass.

        Returns:
            The number of batches that were fetched; None if this loader has already yielded more.
        """
        self.continues = kept["continues"]
        if self.continues is False:
            return 0
        rest = remaining(self.so_far(), kept["passes"])
        if rest is None:
            return None
        n_fetched = 0
        for n_batches, is_whole in rest:
            self.begin(0)
            again = self._again(batches)
            self.n_fetched = sum(1 for _ in islice(again, n_batches))
            if is_whole:
                next(again, None)
                self.end()
            n_fetched += self.n_fetched
        self.is_unknown = self.continues is None
        return n_fetched

    def _again(self, batches: Any) -> Iterator[Any]:
        if workers.is_torchs_own(self.loader) and not holds_iterators(self.loader.dataset):
            return iter(self.loader._index_sampler)  # the items depend on their indices alone
        return iter(batches())


def remaining(done: list[list[Any]], wanted: list[list[Any]]) -> list[tuple[int, bool]] | None:
    """The passes that are missing, one by one; None if the ones that are done differ."""
    have = [(n, whole) for n, whole, times in done for _ in range(times)]
    want = [(n, whole) for n, whole, times in wanted for _ in range(times)]
    return want[len(have) :] if want[: len(have)] == have else None


def state_of(loader: Any) -> dict[str, Any]:
    """What may differ between two passes of a loader: numbers, strings, sizes and open iterators, by path.

    In a map-style data set only iterators count, because its items depend on their indices alone. Classes of
    torch keep nothing from pass to pass that is not in checkpoints.
    """
    is_map_style = workers.is_torchs_own(loader)
    found: dict[str, Any] = {}
    for path, part in walk(loader):
        if is_open(part):
            found[path or "itself"] = part
        elif not is_map_style or path.startswith(("sampler", "batch_sampler")):
            found |= {f"{path}.{name}": value for name, value in values_of(part)}
    return found


def values_of(part: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object as plain values."""
    if isinstance(part, types.FunctionType):
        yield from values_around(part)
        return
    kept = getattr(part, "__dict__", {})
    if type(kept) is not dict or type(part).__module__.partition(".")[0] == "torch":
        return
    slots = [name for kind in type(part).__mro__ for name in vars(kind).get("__slots__", ())]
    for name, value in [*kept.items(), *((name, getattr(part, name, None)) for name in slots)]:
        if name in PASSED_OVER or (name == "epoch" and hasattr(type(part), "set_epoch")):
            continue  # `epoch` is set in each pass
        plain = plain_of(value)
        if plain is not None:
            yield name, plain


def plain_of(value: Any) -> Any:
    """A value that can be compared: a scalar, or the size and order of a container or array; else None."""
    if isinstance(value, SCALARS):
        return value
    if type(value) is dict:
        return len(value), *((key, each) for key, each in value.items() if isinstance(each, SCALARS))
    if type(value) in (list, deque):
        return len(value), hash(tuple(each if isinstance(each, SCALARS) else id(each) for each in value))
    if type(value) is set:
        return len(value)
    if isinstance(value, Tensor):
        small = type(value) in (Tensor, nn.Parameter) and value.is_cpu and value.numel() <= MOST
        return str(value.tolist()) if small and value.layout is torch.strided else None
    if type(value).__module__ == "numpy" and getattr(value, "size", MOST + 1) <= MOST:
        return str(value.tolist())
    return None


def values_around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The plain values and iterators that a function reads from outside."""
    variables = inspect.getclosurevars(function)
    for name, value in {**variables.nonlocals, **variables.globals}.items():
        plain = value if is_open(value) else plain_of(value)
        if plain is not None:
            yield name, plain


def is_unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Is everything the same after a pass, without an open iterator?"""
    return before == after and not any(map(is_open, after.values()))


def depends_on_the_last(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Does the second pass depend on the first? Each state was taken after a pass's first batch."""
    if first.keys() != second.keys():
        return True
    return any(
        value is second[name] if is_open(value) else value != second[name] for name, value in first.items()
    )


def cannot_be_rewound(name: str, loader: Any) -> Exception:
    """The warning for data that has passed the position of a checkpoint."""
    return LearnerWarning(
        f"the {name} data, {describe_loader(loader)}, continues from epoch to epoch, and "
        "has yielded more than when the checkpoint was saved: it cannot be rewound, so the "
        "batches will differ. Create the data again, or start the script again."
    )
