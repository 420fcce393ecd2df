"""The values in the parts of a loader that training changes, such as the weights of a sampler.

A callback makes a data set harder, or a `collate_fn` counts its batches. Such a value is state, and a file
holds it. A value that nothing has changed is a setting, and keeps the value from the script.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from callbacks.model.plain_attributes import LONGEST, is_value, mark_of
from learner.data.batching import TensorLoader
from learner.data.generators import PASSED_OVER, kind_of, walk
from learner.data.loaders import is_function, is_sequence
from learner.data.seeded import Seeded
from learner.passes.own_positions import has_own_position, keeps_passes

LARGEST = 10_000  # elements of a tensor; larger ones are data
LARGEST_OF_SAMPLER = 1_000_000  # elements of a tensor of weights
LONGEST_OF_SAMPLER = 100_000  # entries of a list of indices, which takes more time
OF_SAMPLERS = ("sampler", "batch_sampler")
COUNTS = (int, float, tuple)  # what data counts or sets while it is read, as the size of the next images

Values = dict[str, Any]


class MovedValues:
    """The values of each loader when it was first seen, and which of them have changed since.

    Attributes:
        at_start: the values when a loader was first seen, by name of the loader.
        before: the values before the callbacks of this epoch.
        at_pass: the values of the loader of the current pass at its start.
        known: the names of the values in a file from which the run has resumed.
        own: the names of values other than numbers that the data itself changes while it is read.
    """

    def __init__(self) -> None:
        self.at_start: dict[str, Values] = {}
        self.before: dict[str, Values] = {}
        self.at_pass: Values = {}
        self.known: dict[str, set[str]] = {}
        self.own: dict[str, set[str]] = {}

    def begin(self, part: str, loader: Any) -> None:
        """Note the values of a loader at the start of a fit."""
        self.at_start[part] = values_in(loader)
        self.own[part] = set()

    def begin_pass(self, loader: Any, values: Values) -> None:
        """Restore the values of a file at the start of a pass, and note all values."""
        put_values(loader, values)
        self.at_pass = values_in(loader)

    def end_pass(self, part: str, now: Values) -> None:
        """Note which values have changed since the start of the pass, except numbers.

        The data notes in them that a file is open, say, or what it has read: a new process does so again.
        Samplers yield all indices of a pass again, and may keep anything.
        """
        both = {key: (self.at_pass[key], now[key]) for key in self.at_pass.keys() & now.keys()}
        notes = {key for key, pair in both.items() if any(type(each) not in COUNTS for each in pair)}
        changed = {key for key in notes if not is_equal(*both[key])}
        self.own.setdefault(part, set()).update(key for key in changed if not key.startswith(OF_SAMPLERS))

    def saved(self, part: str, moments: dict[str, Values]) -> dict[str, Values]:
        """The values at some moments, without those that are the same as at the start at all of them."""
        start, names = self.at_start.get(part, {}), set(self.known.get(part, ()))
        for values in moments.values():
            names |= {key for key, each in values.items() if key in start and not is_equal(start[key], each)}
        names -= self.own.get(part, set())
        return {
            moment: {key: value for key, value in values.items() if key in names}
            for moment, values in moments.items()
        }

    def put(self, part: str, loader: Any, values: Values) -> None:
        """Restore values of a file."""
        self.known.setdefault(part, set()).update(values)
        put_values(loader, values)


def values_in(loader: Any) -> Values:
    """Copies of the values in the parts of a loader, by path: its samplers, data set, `collate_fn`."""
    return {key: copied(owner[name]) for key, owner, name in places(loader)}


def put_values(loader: Any, values: Values) -> None:
    """Set the values that `values_in` returned, where a part still has such a value, for as many items."""
    found = {key: (owner, name) for key, owner, name in places(loader)} if values else {}
    for key, value in values.items():
        owner, name = found.get(key, ({}, ""))
        now: Any = owner.get(name)
        if isinstance(now, Tensor) and isinstance(value, Tensor):
            if is_alike(now, value):
                now.copy_(value)  # others may hold it, such as worker processes
        elif key in found and not (is_equal(now, value) or (is_long(now) and len(now) != len(value))):
            owner[name] = copied(value)


def places(loader: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each value in the parts of a loader: its path, the attributes of the part, its name.

    Private attributes are left out: a part may keep an open file or a cache in them.
    """
    if isinstance(loader, TensorLoader) or is_sequence(loader) or is_function(loader):
        return
    if loader is None or keeps_passes(loader):
        return
    has_copies = getattr(loader, "persistent_workers", False)  # its data set is not read itself
    apart: tuple[str, ...] = ()
    for path, part in walk(loader):
        kept = getattr(part, "__dict__", None)
        if path.startswith(apart) and apart:
            continue
        if is_apart(part):
            apart = (*apart, f"{path}.")
        elif type(kept) is dict and (path.startswith(OF_SAMPLERS) or not has_copies):
            yield from places_in(path, part, kept)


def places_in(path: str, part: Any, kept: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each value among the attributes of a part."""
    takes_epoch, is_sampler = hasattr(type(part), "set_epoch"), isinstance(part, Sampler)
    for name, value in kept.items() if not saves_itself(part) else ():
        if name.startswith("_") or name in PASSED_OVER or (takes_epoch and name == "epoch"):
            continue
        if is_kept(value, is_sampler):
            yield f"{path}.{name}", kept, name


def is_apart(part: Any) -> bool:
    """Is this a learner, a callback, a model or a random generator, whose values are saved elsewhere?"""
    if isinstance(part, Seeded):
        return False
    if isinstance(part, nn.Module):
        return any(True for _ in part.parameters())
    own = any(kind.__module__.startswith(("learner.", "callbacks.")) for kind in type(part).__mro__)
    return own or kind_of(part) not in (None, "epoch")


def saves_itself(part: Any) -> bool:
    """Does the state of its loader hold what it keeps? Or is it `Seeded`, which keeps nothing of its own?"""
    return isinstance(part, Seeded) or (has_own_position(part) and not isinstance(part, nn.Module))


def is_kept(value: Any, is_sampler: bool) -> bool:
    """Is it a number, a flag, a text, or a small array or container of them?"""
    if isinstance(value, Tensor):
        is_plain = type(value) is Tensor and value.layout is torch.strided and not value.requires_grad
        return is_plain and value.numel() <= (LARGEST_OF_SAMPLER if is_sampler else LARGEST)
    if is_sampler and type(value) is list and len(value) <= LONGEST_OF_SAMPLER:
        return set(map(type, value)) <= {int, float} or is_value(value)
    return type(value) is str or is_value(value)


def copied(value: Any) -> Any:
    """A copy of a value."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if is_long(value) else copy.deepcopy(value)


def is_equal(first: Any, second: Any) -> bool:
    """Are two values equal, and of the same type?"""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return is_alike(first, second) and torch.equal(first, second.to(first.device))
    return first == second if is_long(first) else mark_of(first) == mark_of(second)


def is_long(value: Any) -> bool:
    """Is it the list of a sampler with an entry for each item?"""
    return type(value) is list and len(value) > LONGEST


def is_alike(first: Tensor, second: Tensor) -> bool:
    """Have two tensors the same shape and type?"""
    return first.shape == second.shape and first.dtype == second.dtype
